"""What recovery minimises over z: a weighted sum of named terms, written `stft_real=1,waveform=1`.

A term is a function of a `Point` that gives one loss per clip, registered under its own name by `@term`. One
that needs a network takes it from a field of `Point`, where the objective's caller put it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from utils import spectrograms
from utils.options import UserError

PUBLISHED = "stft_real=1,waveform=1,feature=1"  # as in the paper's inversion script
# On real speech the published terms alone are smallest near silence; mr_stft also finds own samples more often.
DEFAULT = "stft_real=1,waveform=1,mr_stft=0.1"
DISTANCES = {"mse": tf.square, "mae": tf.abs}
RESOLUTIONS = (256, 512, 1024)  # frame lengths of mr_stft in samples; the hop is a quarter


class Point(NamedTuple):
    """What a term may look at.

    audio, target: float32 `[B, T, C]` in [-1, 1], the reconstruction and the clip.
    z: float32 `[B, latent_dim]`.
    prior: `uniform` in [-1, 1] or `normal`.
    features, target_features: activations of a classifier on audio and on target by block, each float `[B, ...]`;
        empty where the objective asks for none.
    """

    audio: tf.Tensor
    target: tf.Tensor
    z: tf.Tensor
    prior: str
    features: Mapping[str, tf.Tensor] = {}
    target_features: Mapping[str, tf.Tensor] = {}


Term = Callable[[Point], tf.Tensor]
TERMS: dict[str, Term] = {}


def term(function: Term) -> Term:
    """Registers a term, `Point` to float32 `[B]`, under the function's name."""
    TERMS[function.__name__] = function
    return function


@term
def stft_real(point: Point) -> tf.Tensor:
    """Mean absolute error of the real parts of the STFTs: the paper's spectrogram loss."""
    return _mean(tf.abs(spectrograms.stft_real(point.audio) - spectrograms.stft_real(point.target)))


@term
def waveform(point: Point) -> tf.Tensor:
    """Mean absolute error of the samples (the paper)."""
    return _mean(tf.abs(point.audio - point.target))


@term
def mr_stft(point: Point) -> tf.Tensor:
    """Multi-resolution STFT loss (Yamamoto et al., 2020).

    Mean over frame lengths 256, 512 and 1024 of spectral convergence + mean absolute error of log magnitudes;
    magnitudes have a floor of `spectrograms.LOG_FLOOR`, so that digital silence is an ordinary target.
    """
    return tf.add_n([_stft_distance(point.audio, point.target, n) for n in RESOLUTIONS]) / len(RESOLUTIONS)


@term
def feature(point: Point) -> tf.Tensor:
    """Mean absolute error of the classifier's activations, mean over blocks; the paper takes one in the middle."""
    return feature_distance(point.features, point.target_features, point.features, "mae")


@term
def latent_prior(point: Point) -> tf.Tensor:
    """Penalty for an unlikely z, mean over its entries.

    The squared distance to the box [-1, 1] for a uniform prior; z^2 / 2 (-log N without its constant) for a
    normal one.
    """
    if point.prior == "normal":
        return _mean(tf.square(point.z)) / 2
    return _mean(tf.square(tf.nn.relu(tf.abs(point.z) - 1)))


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms, called as `objective(point)` for float32 `[B]`.

    Attributes:
        weights: term name to weight, as `parse_objective` gives them.
    """

    weights: dict[str, float]

    def __call__(self, point: Point) -> tf.Tensor:
        return tf.add_n([weight * TERMS[name](point) for name, weight in self.weights.items()])

    @property
    def needs_features(self) -> bool:
        """Whether a classifier's activations must be in the points that it is called with."""
        return feature.__name__ in self.weights

    def __str__(self) -> str:
        return ",".join(f"{name}={weight:g}" for name, weight in self.weights.items())


def parse_objective(text: str) -> Objective:
    """Reads an objective from its text, e.g. `stft_real=1,waveform=0.5`.

    Raises:
        UserError: for an unknown or repeated term, or a weight that is not a finite number above 0.
    """
    weights = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in TERMS:
            raise UserError(
                f"--objective: each part must be TERM=WEIGHT with a term out of {', '.join(TERMS)}. "
                f"Received: {part.strip()!r} in {text!r}"
            )
        if name in weights:
            raise UserError(f"--objective: the term {name} must stand once only. Received: {text!r}")
        weights[name] = _weight(number if equals else "", name)
    return Objective(weights)


def _weight(number: str, name: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(
            f"--objective: the weight of {name} must be a finite number above 0, as in {name}=1. Received: {number!r}"
        )
    return weight


def _mean(x: tf.Tensor) -> tf.Tensor:
    """Mean over all dimensions but the first."""
    return tf.reduce_mean(x, axis=list(range(1, x.shape.rank)))


def _stft_distance(audio: tf.Tensor, target: tf.Tensor, frame_length: int) -> tf.Tensor:
    floor = spectrograms.LOG_FLOOR
    a, b = (
        spectrograms.magnitude(spectrograms.stft(x, frame_length, frame_length // 4), epsilon=floor**2)
        for x in (audio, target)
    )
    # The floor in the magnitudes keeps the denominator above 0, the epsilon keeps the root's gradient finite.
    convergence = tf.sqrt(_mean(tf.square(a - b)) + 1e-20) / tf.sqrt(_mean(tf.square(b)))
    return convergence + _mean(tf.abs(tf.math.log(a) - tf.math.log(b)))


def feature_distance(
    features: Mapping[str, tf.Tensor], target: Mapping[str, tf.Tensor], blocks: Iterable[str], distance: str = "mse"
) -> tf.Tensor:
    """Mean over residual blocks of the mean squared (the paper) or absolute (its supplement) difference of activations.

    Args:
        features: activations by block, each float `[B, ...]`, such as `models.classifier.classifier_features` gives.
        target: the same of the other clips.
        blocks: which of them count, each as much as any other whatever its size.
        distance: "mse" or "mae".

    Returns:
        float32 `[B]`.

    Raises:
        ValueError: for another distance.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}. Received: {distance!r}")
    per_block = []
    for block in blocks:
        difference = tf.cast(features[block], tf.float32) - tf.cast(target[block], tf.float32)
        axes = list(range(1, difference.shape.rank))
        per_block.append(tf.reduce_mean(DISTANCES[distance](difference), axis=axes))
    return tf.add_n(per_block) / len(per_block)
