"""The networks that a script's options name: found before any is loaded, and checked against each other once.

networks = Networks(args.generator, encoder=args.encoder, classifier=args.classifier, precision=args.precision)
inverter = networks.inverter(objective, solver=args.solver, clip_to_prior=args.clip_to_prior)
"""

import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from models.classifier import (
    Classifier,
    block_features,
    classifier_features,
    find_classifier,
    load_classifier,
)
from models.encoder import DOMAINS, Encoder, find_encoder, load_encoder
from models.generator import Generator, load_generator
from models.projected import ProjectedGenerator
from utils.domains import REAL
from utils.errors import UserError, one_line
from utils.inversion.align import align
from utils.inversion.methods import Inverter, Recovery, from_encoder
from utils.inversion.search import LatentSearch
from utils.losses import Objective, parse_objective
from utils.metrics import Predictions
from utils.options import JUDGES, OWN_OBJECTIVE, REAL_OBJECTIVE
from utils.runs.batches import in_batches
from utils.runs.files import file_sha256

CACHE = Path("cache")  # where what can be computed again is kept between processes
LEVEL_SAMPLES = 32  # whose level is the generator's
CLIP_FACTS = ("num_samples", "num_channels", "sample_rate")


class Networks:
    """The networks of a run, each loaded when it is first asked for, and checked by `check_fit`.

    What `check_fit` warns of is printed on stderr, at most once for each network.

    Args:
        generator: what `--generator` names, as in `models.generator.load_generator`.
        trust: run the Python code that generator and encoder bring with them.
        precision: "float32" or "mixed_bfloat16"; the latter only changes `fast_generator`.
        alignment: the name in `utils.audio.files.ALIGNMENTS` with which the run reads its clips; None where it reads
            none.
        encoder, classifier: what names them; None for one that the run does without.
        judges: what names the judges; each is called by the name of its file or folder.

    Raises:
        UserError: where there is no such file, and for two classifiers of one name.
    """

    def __init__(
        self,
        generator: str,
        *,
        trust: bool = False,
        precision: str = "float32",
        alignment: str | None = None,
        encoder: str | None = None,
        classifier: str | None = None,
        judges: Sequence[str] | None = None,
    ):
        self.precision, self.alignment = precision, alignment
        self.judges = tuple(Path(path).stem for path in judges or ())
        self._generator, self._trust = generator, trust
        paths = {"encoder": encoder, "classifier": classifier}
        for name, path in zip(self.judges, judges or (), strict=True):
            if name in paths:
                raise UserError(f"--judge {path}: must not have the name of another network, {name}")
            paths[name] = path
        self._paths = {name: path for name, path in paths.items() if path is not None}
        if classifier and Path(classifier).resolve() in [Path(path).resolve() for path in (*JUDGES, *(judges or ()))]:
            raise UserError(f"--classifier {classifier}: is a judge, which must take part in no loss; name another one")
        find = {"encoder": find_encoder}
        self._loaded: dict[str, Classifier] = {}
        self._searches: dict[bool, LatentSearch | None] = {}
        self._files = {name: find.get(name, find_classifier)(path) for name, path in self._paths.items()}

    @cached_property
    def fast_generator(self) -> Generator:
        """The generator in the run's precision, to search and to train with."""
        return load_generator(self._generator, self.precision, trust=self._trust)

    @cached_property
    def generator(self) -> Generator:
        """The generator in float32; the same object as `fast_generator` where that computes in nothing less."""
        fast = self.fast_generator
        if self.precision == "float32" or fast.network is None:
            return fast
        return load_generator(self._generator, trust=self._trust)

    @cached_property
    def projected(self) -> ProjectedGenerator:
        """`generator` from its dense layer's output on."""
        return ProjectedGenerator(self.generator)

    @cached_property
    def encoder(self) -> keras.Model:
        """An `Encoder`, or any Keras model that answers the generator's audio with its latents."""
        model = load_encoder(self._files["encoder"], trust=self._trust)
        if isinstance(model, Encoder):
            self._check("encoder", model)
        else:
            silence = np.zeros((1, self.generator.num_samples, self.generator.num_channels), np.float32)
            from_encoder(self.generator, lambda audio: model(audio, training=False), silence)
        return model

    @cached_property
    def encode(self) -> Callable[[np.ndarray, str], tf.Tensor]:
        """The encoder in inference mode, traced once a domain: audio float32 `[B, T, C]` and the name in
        `models.encoder.DOMAINS` of what the clips are, to z `[B, latent_dim]`."""
        shape = [None, self.generator.num_samples, self.generator.num_channels]
        by_domain = {domain: inference(self.encoder, shape, domain) for domain in DOMAINS}
        return lambda audio, domain: by_domain[domain](audio)

    @cached_property
    def classifiers(self) -> dict[str, Classifier]:
        """The classifier, as "classifier", and the judges by their names."""
        return {name: self._classifier(name) for name in self._files if name != "encoder"}

    def _classifier(self, name: str) -> Classifier:
        if name not in self._loaded:
            model = load_classifier(self._files[name])
            self._check(name, model)
            self._loaded[name] = model
        return self._loaded[name]

    def classify(self, audio: np.ndarray, batch_size: int) -> dict[str, Predictions]:
        """Each classifier's answers for clips float32 `[N, T, C]`."""
        return {name: in_batches(classify, audio, batch_size) for name, classify in self._classify.items()}

    @cached_property
    def _classify(self) -> dict[str, Callable]:
        return {name: _classification(model) for name, model in self.classifiers.items()}

    def objective(self, text: str | None, *, own: bool) -> Objective:
        """What a search minimises: what `--objective` says, or else the default.

        The default of clips that are not the generator's own goes without features, and says so on stderr, where the
        classifier that was named is not of this generator's clips.

        Args:
            text: as given; None for the default.
            own: whether the clips are the generator's own samples.

        Raises:
            UserError: as `parse_objective`.
        """
        objective = parse_objective(text or (OWN_OBJECTIVE if own else REAL_OBJECTIVE))
        if text or not objective.needs_features or self._gives_features:
            return objective
        return Objective({name: weight for name, weight in objective.weights.items() if name != "features"})

    @cached_property
    def _gives_features(self) -> bool:
        """Whether a classifier was named and is of the generator's clips."""
        if "classifier" not in self._files:
            return False
        try:
            self._classifier("classifier")
        except UserError as error:
            print(f"warning: {error}; the default objective goes without features", file=sys.stderr)
            return False
        return True

    def inverter(
        self, objective: Objective, *, solver: str = "batched", clip_to_prior: bool = True, space: str = "z"
    ) -> Inverter:
        """An `Inverter` that searches in the run's precision and ends in float32.

        Args:
            objective: minimised.
            solver: as in `Inverter`.
            clip_to_prior: as in `Inverter`; without effect in another space than z.
            space: "z", or "projected": a search over the dense layer's output.

        Raises:
            UserError: for an objective with a term of features where no classifier was named; for "projected" with a
                generator that is no native WaveGAN.
        """
        features = None
        if objective.needs_features and "classifier" in self._files:
            model = self._classifier("classifier")
            exact = model if model.options["precision"] == "float32" else model.with_precision("float32")
            features = partial(block_features, exact)
        fast, exact = self.fast_generator, self.generator
        polish = None if fast is exact else exact
        if space == "projected":
            if solver == "gauss_newton":
                raise UserError("--solver gauss_newton: has no room for the Jacobian of --space projected; use batched")
            fast, polish, clip_to_prior = ProjectedGenerator(fast), polish and ProjectedGenerator(polish), False
        return Inverter(fast, objective, solver=solver, clip_to_prior=clip_to_prior, polish=polish, features=features)

    def recovery(
        self, inverter: Inverter, *, max_iter: int, hybrid_max_iter: int, restarts: int, seed: int, exact: bool = False
    ) -> Recovery:
        """The paper's methods with this run's networks; the encoder is loaded where one was named.

        With `exact`, hybrid first searches for the latent itself (`utils.inversion.search`), in the space z.
        """
        hashes = {f"{name}_sha256": self.sha256(name) for name in ("generator", "encoder")}
        hashes["classifier_sha256"] = self.sha256("classifier") if inverter.objective.needs_features else None
        encode = self.encode if "encoder" in self._files else None
        projected = isinstance(inverter.generator, ProjectedGenerator)
        if projected and encode:
            encode = inverter.generator.project_answers(encode)
        return Recovery(
            inverter,
            encoder=encode,
            max_iter={"gradient": max_iter, "hybrid": hybrid_max_iter},
            restarts=restarts,
            seed=seed,
            networks={"precision": self.precision, "space": "projected" if projected else "z", **hashes},
            search=self._latent_search(inverter.clip_to_prior) if exact and not projected else None,
        )

    def align(self, batch_size: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """`utils.inversion.align.align` by this run's encoder and generator: clips float32 `[B, T, C]` to offset and
        gain_db `[B]`."""
        generator, encode = self.fast_generator, self.encode
        samples = self.generator(self.generator.sample_prior(0, LEVEL_SAMPLES)).numpy()
        return partial(
            align,
            reconstruct=tf.function(lambda audio: generator(encode(audio, REAL)), autograph=False),
            sample_rate=generator.sample_rate,
            level=float(np.sqrt(np.mean(np.square(samples)))),
            batch_size=batch_size,
        )

    def _latent_search(self, clip_to_prior: bool) -> LatentSearch | None:
        """One for all recoveries, as it knows no objective; None, and once a line that says so, where the generator has
        no forward-mode derivatives."""
        if clip_to_prior in self._searches:
            return self._searches[clip_to_prior]
        fast, exact = self.fast_generator, self.generator
        search = LatentSearch(fast, exact=None if fast is exact else exact, clip_to_prior=clip_to_prior, cache=CACHE)
        try:
            search.check()
        except Exception as error:  # whatever a foreign network may raise
            print(
                f"warning: {exact.name}: no forward-mode derivatives, so hybrid does not search for the latent itself: "
                f"{type(error).__name__}: {one_line(error)}",
                file=sys.stderr,
            )
            search = None
        return self._searches.setdefault(clip_to_prior, search)

    def sha256(self, name: str) -> str | None:
        """Of the weights of "generator" or of another network's file, hexadecimal; None for one that is not named."""
        if name == "generator":
            return self.generator.fingerprint
        return file_sha256(self._files[name]) if name in self._files else None

    def _check(self, name: str, model: Encoder | Classifier) -> None:
        for note in check_fit(
            f"--{'judge' if name in self.judges else name} {self._paths[name]}", model, self.generator, self.alignment
        ):
            print(f"warning: {note}", file=sys.stderr)


def check_fit(flag: str, network: Encoder | Classifier, generator: Generator, alignment: str | None) -> list[str]:
    """A network must take the clips that the generator gives, and an encoder answer with its latents.

    Args:
        flag: the option that named the network, and its value.
        network: an encoder, a classifier or a judge.
        generator: that it is used with.
        alignment: with which the run reads its clips; None where it reads none.

    Returns:
        Notes of one line: what the network was trained with, where that was another generator or alignment.

    Raises:
        UserError: another length, number of channels, rate or size of z.
    """
    takes, gives = ([getattr(model, fact) for fact in CLIP_FACTS] for model in (network, generator))
    if takes != gives:
        raise UserError(
            f"{flag}: takes {takes[0]} samples of {takes[1]} channel(s) at {takes[2]} Hz, the generator gives "
            f"{gives[0]} of {gives[1]} at {gives[2]} Hz; name one that was trained for this generator's clips"
        )
    trained_with = network.options
    if trained_with.get("latent_dim", generator.latent_dim) != generator.latent_dim:
        raise UserError(
            f"{flag}: gives {trained_with['latent_dim']} latents, the generator takes {generator.latent_dim}; name "
            "one that was trained on this generator"
        )
    used_with = {"generator": generator.fingerprint, "alignment": alignment}
    return [
        f"{flag}: was trained with another {name}, {trained_with[name][:12]}"
        for name, ours in used_with.items()
        if ours and trained_with.get(name) and trained_with[name] != ours
    ]


def inference(encoder: keras.Model, shape: list[int | None], domain: str) -> Callable[[np.ndarray], tf.Tensor]:
    """An encoder's answers to audio of a shape `[B, T, C]`, traced once; only an `Encoder` asks for the domain."""
    options = {"domain": domain} if isinstance(encoder, Encoder) else {}

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
    def encode(audio):
        return encoder(audio, training=False, **options)

    return encode


def _classification(model: Classifier) -> Callable[[np.ndarray], Predictions]:
    @tf.function(input_signature=[tf.TensorSpec([None, model.num_samples, model.num_channels])], autograph=False)
    def classify(audio):
        features = classifier_features(model, audio)
        return Predictions(features["probabilities"], features["pooled"])

    return classify
