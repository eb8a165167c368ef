"""Recovery with a run's networks: what is minimised, the inverter, the search for the latent, and alignment.

networks = Networks(args.generator, encoder=args.encoder, classifier=args.classifier, precision=args.precision)
objective = choose_objective(networks, args.objective, own=False)
recovery = make_recovery(networks, make_inverter(networks, objective), search=make_search(networks), **limits)
"""

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from models.networks import Networks
from models.projected import ProjectedGenerator
from utils.domains import REAL, SYNTHETIC
from utils.errors import UserError, one_line
from utils.inversion.align import Placements, align, place
from utils.inversion.methods import Inverter, Recovery
from utils.inversion.names import GRADIENT, HYBRID
from utils.inversion.placed import PlacedSearch
from utils.inversion.problem import rows_together
from utils.inversion.search import LatentSearch
from utils.losses import Objective, parse_objective
from utils.options import OWN_OBJECTIVE, REAL_OBJECTIVE
from utils.runs.cache import cache_folder


def choose_objective(networks: Networks, text: str | None, *, own: bool) -> Objective:
    """What a search minimises: what `--objective` says, or else the default.

    The default of clips that are not the generator's own goes without features where no classifier was named, and, with
    a line on stderr, where the one that was named is not of this generator's clips.

    Args:
        networks: of the run.
        text: as given; None for the default.
        own: whether the clips are the generator's own samples.

    Raises:
        UserError: as `parse_objective`.
    """
    objective = parse_objective(text or (OWN_OBJECTIVE if own else REAL_OBJECTIVE))
    if text or not objective.needs_features or networks.fitting_features:
        return objective
    return Objective({name: weight for name, weight in objective.weights.items() if name != "features"})


def make_inverter(
    networks: Networks,
    objective: Objective,
    *,
    solver: str = "batched",
    clip_to_prior: bool = True,
    space: str = "z",
) -> Inverter:
    """An `Inverter` that searches in the run's precision and ends in float32.

    Args:
        networks: of the run.
        objective: minimised.
        solver: as in `Inverter`.
        clip_to_prior: as in `Inverter`; without effect in another space than z.
        space: "z", or "projected": a search over the dense layer's output.

    Raises:
        UserError: for an objective with a term of features where no classifier was named; for "projected" with a
            generator that is no native WaveGAN.
    """
    features = networks.features if objective.needs_features else None
    generator = networks.fast_generator
    if space == "projected":
        generator, clip_to_prior = ProjectedGenerator(generator), False
    return Inverter(generator, objective, solver=solver, clip_to_prior=clip_to_prior, features=features)


def make_search(networks: Networks, *, clip_to_prior: bool = True) -> LatentSearch | None:
    """The search for the latent itself; None, with a line on stderr, where the generator has no forward-mode
    derivatives."""
    encode = partial(networks.encode, domain=SYNTHETIC) if networks.sha256("encoder") else None
    search = LatentSearch(networks.fast_generator, encode=encode, clip_to_prior=clip_to_prior, cache=cache_folder())
    consequence = "the method search minimises the objective at once, as hybrid does"
    return search if _can_search(search, networks, consequence) else None


def _can_search(search: LatentSearch, networks: Networks, consequence: str) -> bool:
    """Whether the generator has forward-mode derivatives; where not, a line on stderr says what follows."""
    try:
        search.check()
    except Exception as error:  # whatever a foreign network may raise
        print(
            f"warning: {networks.generator.name}: no forward-mode derivatives, so {consequence}: "
            f"{type(error).__name__}: {one_line(error)}",
            file=sys.stderr,
        )
        return False
    return True


def make_recovery(
    networks: Networks,
    inverter: Inverter,
    *,
    max_iter: int,
    hybrid_max_iter: int,
    restarts: int,
    seed: int,
    search: LatentSearch | None = None,
) -> Recovery:
    """The methods of recovery with the networks of the run; the encoder is loaded where one was named.

    Args:
        networks: of the run.
        inverter: from `make_inverter`.
        max_iter, hybrid_max_iter, restarts, seed: as in `Recovery`.
        search: from `make_search`; None in another space than z.
    """
    hashes = {f"{name}_sha256": networks.sha256(name) for name in ("generator", "encoder")}
    hashes["classifier_sha256"] = networks.sha256("classifier") if inverter.objective.needs_features else None
    encode = networks.encode if networks.sha256("encoder") else None
    projected = isinstance(inverter.generator, ProjectedGenerator)
    if projected and encode:
        encode = inverter.generator.project_answers(encode)
    return Recovery(
        inverter,
        encoder=encode,
        max_iter={GRADIENT: max_iter, HYBRID: hybrid_max_iter},
        restarts=restarts,
        seed=seed,
        networks={"precision": networks.precision, "space": "projected" if projected else "z", **hashes},
        search=search,
    )


def make_placed_search(networks: Networks) -> PlacedSearch:
    """The search for latent, offset and gain, by the generator and encoder of the run."""
    return PlacedSearch(networks.fast_generator, encode=partial(networks.encode, domain=SYNTHETIC))


def make_aligner(networks: Networks) -> Callable[[np.ndarray], Placements]:
    """Where clips begin and how loud they are, as the generator would have it: clips float32 `[B, T, C]` to
    `Placements`.

    By the search for latent, offset and gain where it finds the clip to be one of the generator's samples; of others,
    and all where the generator has no forward-mode derivatives, by `utils.inversion.align.align`, with the encoder and
    generator of the run.
    """
    generator, encode = networks.fast_generator, networks.encode
    search = make_placed_search(networks)
    searched = _can_search(search, networks, "--align goes by log-mel spectrograms alone")
    by_sound = partial(
        align,
        reconstruct=tf.function(lambda audio: generator(encode(audio, REAL)), autograph=False),
        sample_rate=generator.sample_rate,
        level=search.level,
        batch_size=rows_together(generator),
    )

    def aligned(clips: np.ndarray) -> Placements:
        if not searched:
            return Placements(*by_sound(clips), np.zeros_like(clips))
        found = search(clips)
        z, offset, gain_db = search.generator.split(found.z)
        offset, beyond = np.rint(offset).astype(int), np.zeros_like(clips)
        others, own = np.flatnonzero(~found.exact), np.flatnonzero(found.exact)
        if others.size:
            offset[others], gain_db[others] = by_sound(clips[others])
        if own.size:
            lost = 1 - place(np.ones_like(clips[own]), offset[own], np.zeros(len(own)))
            beyond[own] = lost * np.asarray(networks.generator(z[own]))
        return Placements(offset, gain_db, beyond)

    return aligned


def make_judge(
    networks: Networks, batch_size: int, *, required: bool
) -> Callable[[np.ndarray], list[dict[str, str]]] | None:
    """What the judges of the run answer for clips float32 `[N, T, C]`: per clip and judge, named `judge_NAME`, the
    class and its probability, as `seven 0.98`; None without judges.

    Args:
        networks: of the run.
        batch_size: clips computed together.
        required: raise a UserError where a judge is not of the generator's clips, rather than do without all.
    """
    try:
        classes = {name: networks.classifier(name).class_names for name in networks.judges}
    except UserError:
        if required:
            raise
        return None

    def judge(audio: np.ndarray) -> list[dict[str, str]]:
        answers: list[dict[str, str]] = [{} for _ in audio]
        for name, predictions in networks.classify(audio, batch_size, networks.judges).items():
            field = name if name.startswith("judge_") else f"judge_{name}"
            for answer, probabilities in zip(answers, np.asarray(predictions.probabilities), strict=True):
                best = int(np.argmax(probabilities))
                answer[field] = f"{classes[name][best]} {probabilities[best]:.2f}"
        return answers

    return judge if classes else None
