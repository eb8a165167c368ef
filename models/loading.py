"""The networks that a script's options name: found before any is loaded, and checked against each other once.

networks = Networks(args.generator, encoder=args.encoder, classifier=args.classifier, precision=args.precision)
inverter = networks.inverter(objective, solver=args.solver, clip_to_prior=args.clip_to_prior)
"""

import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from models.classifier import (
    Classifier,
    classifier_features,
    find_classifier,
    load_classifier,
    middle_block_features,
)
from models.encoder import DOMAINS, Encoder, find_encoder, load_encoder
from models.generator import Generator, load_generator
from utils.inversion.invert import Inverter, Recovery, from_encoder
from utils.inversion.search import LatentSearch
from utils.losses import Objective
from utils.metrics import Predictions
from utils.options import JUDGES, UserError, one_line
from utils.runs.batches import in_batches
from utils.runs.files import file_sha256

CACHE = Path("cache")  # where what can be computed again is kept between processes
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
        models = {name: load_classifier(file) for name, file in self._files.items() if name != "encoder"}
        for name, model in models.items():
            self._check(name, model)
        return models

    def classify(self, audio: np.ndarray, batch_size: int) -> dict[str, Predictions]:
        """Each classifier's answers for clips float32 `[N, T, C]`."""
        return {name: in_batches(classify, audio, batch_size) for name, classify in self._classify.items()}

    @cached_property
    def _classify(self) -> dict[str, Callable]:
        return {name: _classification(model) for name, model in self.classifiers.items()}

    def inverter(self, objective: Objective, *, solver: str = "batched", clip_to_prior: bool = True) -> Inverter:
        """An `Inverter` that searches in the run's precision and ends in float32.

        Raises:
            UserError: for an objective with the term `feature` where no classifier was named.
        """
        features = None
        if objective.needs_features and "classifier" in self.classifiers:
            model = self.classifiers["classifier"]
            exact = model if model.options["precision"] == "float32" else model.with_precision("float32")
            features = middle_block_features(exact)
        fast, exact = self.fast_generator, self.generator
        polish = None if fast is exact else exact
        return Inverter(fast, objective, solver=solver, clip_to_prior=clip_to_prior, polish=polish, features=features)

    def recovery(
        self, inverter: Inverter, *, max_iter: int, hybrid_max_iter: int, restarts: int, seed: int, exact: bool = False
    ) -> Recovery:
        """The paper's methods with this run's networks; the encoder is loaded where one was named.

        With `exact`, hybrid first searches for the latent itself (`utils.inversion.search`).
        """
        hashes = {f"{name}_sha256": self.sha256(name) for name in ("generator", "encoder")}
        hashes["classifier_sha256"] = self.sha256("classifier") if inverter.objective.needs_features else None
        return Recovery(
            inverter,
            encoder=self.encode if "encoder" in self._files else None,
            max_iter={"gradient": max_iter, "hybrid": hybrid_max_iter},
            restarts=restarts,
            seed=seed,
            networks={"precision": self.precision, **hashes},
            search=self._latent_search(inverter.clip_to_prior) if exact else None,
        )

    def _latent_search(self, clip_to_prior: bool) -> LatentSearch | None:
        """None, and a line that says so, where the generator has no forward-mode derivatives."""
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
            return None
        return search

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
