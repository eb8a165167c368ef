"""The networks that a script's options name: found before any is loaded, and checked against each other once.

networks = Networks(args.generator, encoder=args.encoder, classifier=args.classifier, precision=args.precision)
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
from models.encoder import Encoder, find_encoder, load_encoder
from models.generator import Generator, load_generator
from models.projected import ProjectedGenerator
from utils.domains import DOMAINS
from utils.errors import UserError
from utils.inversion.methods import from_encoder
from utils.inversion.problem import in_float32
from utils.metrics import Predictions
from utils.options import JUDGES
from utils.runs.batches import in_batches
from utils.runs.files import file_sha256

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
        self._classifications: dict[str, Callable[[np.ndarray], Predictions]] = {}
        self._files = {name: find.get(name, find_classifier)(path) for name, path in self._paths.items()}

    @cached_property
    def fast_generator(self) -> Generator:
        """The generator in the run's precision, to search and to train with; in float32 it is its `float32`."""
        generator = load_generator(self._generator, self.precision, trust=self._trust)
        if self.precision != "float32" and generator.network is not None:
            generator.float32 = generator.with_precision("float32")
        return generator

    @property
    def generator(self) -> Generator:
        """The generator in float32; the same object as `fast_generator` where that computes in nothing less."""
        return in_float32(self.fast_generator)

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
        `utils.domains.DOMAINS` of what the clips are, to z `[B, latent_dim]`."""
        shape = [None, self.generator.num_samples, self.generator.num_channels]
        by_domain = {domain: inference(self.encoder, shape, domain) for domain in DOMAINS}
        return lambda audio, domain: by_domain[domain](audio)

    @cached_property
    def classifiers(self) -> dict[str, Classifier]:
        """The classifier, as "classifier", and the judges by their names."""
        return {name: self.classifier(name) for name in self._files if name != "encoder"}

    def classifier(self, name: str) -> Classifier:
        """The classifier, by the name "classifier", or a judge by its name.

        Raises:
            UserError: for one that is not of the generator's clips.
        """
        if name not in self._loaded:
            model = load_classifier(self._files[name])
            self._check(name, model)
            self._loaded[name] = model
        return self._loaded[name]

    def classify(
        self, audio: np.ndarray, batch_size: int, names: Sequence[str] | None = None
    ) -> dict[str, Predictions]:
        """The answers of the classifiers of these names, or of all, for clips float32 `[N, T, C]`."""
        names = list(self.classifiers) if names is None else names
        return {name: in_batches(self._classification(name), audio, batch_size) for name in names}

    def _classification(self, name: str) -> Callable[[np.ndarray], Predictions]:
        if name not in self._classifications:
            self._classifications[name] = _classification(self.classifier(name))
        return self._classifications[name]

    @cached_property
    def features(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]] | None:
        """The classifier's activations by block, in float32, of audio `[B, T, C]`; None where none was named."""
        if "classifier" not in self._files:
            return None
        model = self.classifier("classifier")
        if model.options["precision"] != "float32":
            model = model.with_precision("float32")
        return partial(block_features, model)

    @cached_property
    def fitting_features(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]] | None:
        """`features`; None, and a line on stderr, where the classifier named is not of this generator's clips."""
        self.fast_generator  # noqa: B018  (what is wrong with it is no warning of the classifier's)
        try:
            return self.features
        except UserError as error:
            print(f"warning: {error}; the default objective goes without features", file=sys.stderr)
            return None

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
    """An encoder's answers to audio of a shape `[B, T, C]`, traced once; only an `Encoder` takes the domain."""
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
