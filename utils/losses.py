"""The losses of training and of recovery: weighted sums of named terms, written `stft_real=1,waveform=1`.

A term is a function of a `Point` that gives one loss a clip, listed in `TERMS`. One that needs a network takes what it
gives from a field of `Point`, where the caller put it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from utils import spectrograms
from utils.objectives import format_weights, parse_weights
from utils.priors import PRIORS

RESOLUTIONS = (256, 512, 1024)  # frame lengths of mr_stft in samples; the hop is a quarter


class Point(NamedTuple):
    """What a term may look at.

    audio, target: float32 `[B, T, C]` in [-1, 1], the reconstruction and the clip; audio is None where no term asks
        for it, see `Objective.needs_audio`.
    z: float32 `[B, latent_dim]`.
    prior: `uniform` in [-1, 1] or `normal`.
    features, target_features: activations of a classifier on audio and on target by block, in the network's order, each
        float `[B, ...]`; empty where the objective asks for none.
    true_z: float32 `[B, latent_dim]`, of which target is the sample; None where that is not known.
    sample_rate: of audio and target, in Hz.
    off_prior: float32 `[B, n]`, how far z lies from what the prior can give, in its standard deviations, where z is of
        another space than the prior's; None where it is the prior's own.
    """

    audio: tf.Tensor | None
    target: tf.Tensor
    z: tf.Tensor
    prior: str
    features: Mapping[str, tf.Tensor] = {}
    target_features: Mapping[str, tf.Tensor] = {}
    true_z: tf.Tensor | None = None
    sample_rate: int = 16000
    off_prior: tf.Tensor | None = None


def stft_real(point: Point) -> tf.Tensor:
    """Mean absolute error of the real parts of the STFTs: the paper's spectrogram loss."""
    return _mean(tf.abs(spectrograms.stft_real(point.audio) - spectrograms.stft_real(point.target)))


def waveform(point: Point) -> tf.Tensor:
    """Mean absolute error of the samples (the paper)."""
    return _mean(tf.abs(point.audio - point.target))


def mr_stft(point: Point) -> tf.Tensor:
    """Multi-resolution STFT loss (Yamamoto et al., 2020).

    Mean over frame lengths 256, 512 and 1024 of spectral convergence + mean absolute error of log magnitudes;
    magnitudes have a floor of `spectrograms.LOG_FLOOR`, so that digital silence is an ordinary target.
    """
    return tf.add_n([_stft_distance(point.audio, point.target, n) for n in RESOLUTIONS]) / len(RESOLUTIONS)


def spectral(point: Point) -> tf.Tensor:
    """Mean absolute error of the log-magnitude spectrograms."""
    return _mean(tf.abs(spectrograms.log_magnitude(point.audio) - spectrograms.log_magnitude(point.target)))


def log_mel(point: Point) -> tf.Tensor:
    """Mean absolute error of the log-mel spectrograms."""
    audio, target = (spectrograms.log_mel(x, point.sample_rate) for x in (point.audio, point.target))
    return _mean(tf.abs(audio - target))


def feature(point: Point) -> tf.Tensor:
    """Mean absolute error of the activations of the classifier's middle block: the paper's, of recovery."""
    blocks = list(point.features)
    return _block_error(point, blocks[(len(blocks) - 1) // 2], tf.abs)


def features(point: Point) -> tf.Tensor:
    """Mean absolute error of the classifier's activations, mean over blocks."""
    return _mean_over_blocks(point, tf.abs)


def feature_squared(point: Point) -> tf.Tensor:
    """Mean squared error of the classifier's activations, mean over blocks: what the paper trains its encoder with."""
    return _mean_over_blocks(point, tf.square)


def latent(point: Point) -> tf.Tensor:
    """Mean squared error of z, where the true one is known (the paper)."""
    return _mean(tf.square(point.z - point.true_z))


def latent_prior(point: Point) -> tf.Tensor:
    """Penalty for an unlikely z, mean over its entries.

    The squared distance to the box of a bounded prior; z^2 / 2 (-log N without its constant) for a normal one. Where z
    is of another space: the squared distance from what the prior gives there, in its standard deviations.
    """
    if point.off_prior is not None:
        return _mean(tf.square(point.off_prior))
    prior = PRIORS[point.prior]
    if prior.bounded:
        return _mean(tf.square(point.z - tf.clip_by_value(point.z, prior.low, prior.high)))
    return _mean(tf.square(point.z)) / 2


def waveform_residual(point: Point) -> tf.Tensor:
    """Differences of the samples; the sum of their squares is the mean squared error."""
    return _residual([point.audio - point.target])


def stft_real_residual(point: Point) -> tf.Tensor:
    """Differences of the real parts of the STFTs, as `stft_real` takes them; their mean square."""
    return _residual([spectrograms.stft_real(point.audio) - spectrograms.stft_real(point.target)])


def mr_stft_residual(point: Point) -> tf.Tensor:
    """Differences of the log magnitudes of STFTs at frame lengths 256, 512 and 1024; their mean square, mean over
    lengths."""
    return _residual([_log_magnitudes(point.audio, n) - _log_magnitudes(point.target, n) for n in RESOLUTIONS])


def stft_whitened_residual(point: Point) -> tf.Tensor:
    """Differences of the STFTs at frame lengths 256 and 1024, real and imaginary parts, each over the target's
    magnitude around it (mean of 3 x 3 cells, plus a floor of 0.01 at 256): their mean square, mean over parts.

    Linear in the audio and aware of its phase, but a quiet cell counts as much as a loud one, and it is the quiet ones
    that tell latents apart that sound nearly alike.
    """
    parts = []
    for frame_length in (256, 1024):
        audio, target = (spectrograms.stft(x, frame_length, frame_length // 2) for x in (point.audio, point.target))
        floor = 1e-2 * frame_length / 256
        white = (audio - target) / tf.cast(tf.nn.avg_pool2d(tf.abs(target), 3, 1, "SAME") + floor, tf.complex64)
        parts += [tf.math.real(white), tf.math.imag(white)]
    return _residual(parts)


def log_mel_residual(point: Point) -> tf.Tensor:
    """Differences of the log-mel spectrograms; their mean square."""
    audio, target = (spectrograms.log_mel(x, point.sample_rate) for x in (point.audio, point.target))
    return _residual([audio - target])


def latent_prior_residual(point: Point) -> tf.Tensor:
    """`latent_prior` as a sum of squares."""
    if point.off_prior is not None:
        return _residual([point.off_prior])
    prior = PRIORS[point.prior]
    if prior.bounded:
        return _residual([point.z - tf.clip_by_value(point.z, prior.low, prior.high)])
    return _residual([point.z / math.sqrt(2)])


def _sum_of_squares(residual: Callable[[Point], tf.Tensor]) -> "Term":
    return lambda point: tf.reduce_sum(tf.square(residual(point)), axis=1)


Term = Callable[[Point], tf.Tensor]  # to float32 [B]
# Terms that are sums of squares: to their residuals, float32 [B, M], of which the term is the sum of squares.
RESIDUALS: dict[str, Callable[[Point], tf.Tensor]] = {
    "waveform_squared": waveform_residual,
    "stft_real_squared": stft_real_residual,
    "mr_stft_squared": mr_stft_residual,
    "log_mel_squared": log_mel_residual,
    "stft_whitened_squared": stft_whitened_residual,
    "latent_prior": latent_prior_residual,
}
OF_FEATURES: dict[str, Term] = {"feature": feature, "features": features, "feature_squared": feature_squared}
OF_LATENTS: dict[str, Term] = {"latent_prior": latent_prior, "latent": latent}
OF_AUDIO: dict[str, Term] = {
    "stft_real": stft_real,
    "waveform": waveform,
    "mr_stft": mr_stft,
    "spectral": spectral,
    "log_mel": log_mel,
}
OF_AUDIO |= {name: _sum_of_squares(RESIDUALS[name]) for name in RESIDUALS if name not in OF_LATENTS}
TERMS = OF_AUDIO | OF_FEATURES | OF_LATENTS


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms, called as `objective(point)` for float32 `[B]`.

    Attributes:
        weights: term name to weight.
    """

    weights: dict[str, float]

    def __call__(self, point: Point) -> tf.Tensor:
        return self.sum(self.terms(point))

    def terms(self, point: Point) -> dict[str, tf.Tensor]:
        """Each term's losses by itself, without its weight: name to float32 `[B]`."""
        return {name: TERMS[name](point) for name in self.weights}

    def sum(self, terms: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The weighted sum of what `terms` gave, or of means of it."""
        return tf.add_n([weight * terms[name] for name, weight in self.weights.items()])

    def residuals(self, point: Point) -> tf.Tensor:
        """float32 `[B, M]` whose sum of squares is the objective; for a `sum_of_squares` only."""
        parts = [math.sqrt(weight) * RESIDUALS[name](point) for name, weight in self.weights.items()]
        return tf.concat(parts, axis=1)

    @property
    def sum_of_squares(self) -> bool:
        """Whether every term is one."""
        return self.weights.keys() <= RESIDUALS.keys()

    @property
    def needs_features(self) -> bool:
        """Whether a classifier's activations must be in the points that it is called with."""
        return not OF_FEATURES.keys().isdisjoint(self.weights)

    @property
    def needs_audio(self) -> bool:
        """Whether the generator's audio must be in the points that it is called with."""
        return bool(self.weights.keys() - OF_LATENTS.keys())

    def __str__(self) -> str:
        return format_weights(self.weights)


def parse_objective(text: str) -> Objective:
    """Reads recovery's objective from its text, e.g. `stft_real=1,waveform=0.5`; errors as `parse_weights`."""
    return Objective(parse_weights(text))


def _mean(x: tf.Tensor) -> tf.Tensor:
    """Mean over all dimensions but the first."""
    return tf.reduce_mean(x, axis=list(range(1, x.shape.rank)))


def _residual(differences: list[tf.Tensor]) -> tf.Tensor:
    """Parts `[B, ...]` as `[B, M]` whose sum of squares is the mean over parts of each one's mean square."""
    flat = [tf.reshape(part, [-1, math.prod(part.shape[1:])]) for part in differences]
    return tf.concat([part / math.sqrt(part.shape[1] * len(flat)) for part in flat], axis=1)


def _log_magnitudes(audio: tf.Tensor, frame_length: int) -> tf.Tensor:
    spectra = spectrograms.stft(audio, frame_length, frame_length // 4)
    return tf.math.log(spectrograms.magnitude(spectra, epsilon=spectrograms.LOG_FLOOR**2))


def _stft_distance(audio: tf.Tensor, target: tf.Tensor, frame_length: int) -> tf.Tensor:
    floor = spectrograms.LOG_FLOOR
    a, b = (
        spectrograms.magnitude(spectrograms.stft(x, frame_length, frame_length // 4), epsilon=floor**2)
        for x in (audio, target)
    )
    # The floor in the magnitudes keeps the denominator above 0, the epsilon keeps the root's gradient finite.
    convergence = tf.sqrt(_mean(tf.square(a - b)) + 1e-20) / tf.sqrt(_mean(tf.square(b)))
    return convergence + _mean(tf.abs(tf.math.log(a) - tf.math.log(b)))


def _mean_over_blocks(point: Point, error: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Mean errors of each block's activations, each block as much as any other whatever its size."""
    return tf.add_n([_block_error(point, block, error) for block in point.features]) / len(point.features)


def _block_error(point: Point, block: str, error: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    activations, target = (tf.cast(x[block], tf.float32) for x in (point.features, point.target_features))
    return _mean(error(activations - target))
