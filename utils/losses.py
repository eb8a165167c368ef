"""The losses of training and of recovery: weighted sums of named terms, written `stft_real=1,waveform=1`.

A term is a function of a `Point` that gives one loss a clip, listed in `TERMS`. Where it needs a network's output, the
caller has put that into a field of the `Point`. Terms that are sums of squares have a function of the residual as well,
`TERM_residual`, listed in `RESIDUALS`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from utils import spectrograms
from utils.objectives import format_weights, parse_weights
from utils.priors import PRIORS

RESOLUTIONS = (256, 512, 1024)  # frame lengths of mr_stft in samples; the hop is a quarter


class Point(NamedTuple):
    """Reconstructions, clips, latents and what networks make of them: the input of a term.

    audio, target: float32 `[B, T, C]` in [-1, 1], the reconstruction and the clip; audio is None where no term needs
        it, see `Objective.needs_audio`.
    z: float32 `[B, latent_dim]`.
    prior: a name in `utils.priors.PRIORS`.
    features, target_features: a classifier's activations on audio and on target, by block in the network's order, each
        float `[B, ...]`; empty where no term needs them.
    true_z: float32 `[B, latent_dim]`, whose sample target is; None where it is not known.
    sample_rate: of audio and target, in Hz.
    off_prior: where z is of another space than the prior's: float32 `[B, n]`, its distance from what the prior gives
        there, in the prior's standard deviations; else None.
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
    """Multi-resolution STFT loss (Yamamoto et al., 2020): mean over frame lengths 256, 512 and 1024 of spectral
    convergence + mean absolute error of log magnitudes.

    Magnitudes have a floor of `spectrograms.LOG_FLOOR`, so that the loss is finite for a silent target.
    """
    return tf.add_n([_stft_distance(point, n) for n in RESOLUTIONS]) / len(RESOLUTIONS)


def spectral(point: Point) -> tf.Tensor:
    """Mean absolute error of the log-magnitude spectrograms."""
    return _mean(tf.abs(spectrograms.log_magnitude(point.audio) - spectrograms.log_magnitude(point.target)))


def log_mel(point: Point) -> tf.Tensor:
    """Mean absolute error of the log-mel spectrograms."""
    audio, target = (spectrograms.log_mel(x, point.sample_rate) for x in (point.audio, point.target))
    return _mean(tf.abs(audio - target))


def feature(point: Point) -> tf.Tensor:
    """Mean absolute error of the activations of the classifier's middle block: the paper's feature loss of recovery."""
    blocks = list(point.features)
    return _block_error(point, blocks[(len(blocks) - 1) // 2], tf.abs)


def features(point: Point) -> tf.Tensor:
    """Mean absolute error of the classifier's activations, mean over blocks."""
    return _mean_over_blocks(point, tf.abs)


def feature_squared(point: Point) -> tf.Tensor:
    """Mean squared error of the classifier's activations, mean over blocks: the paper's feature loss of training."""
    return _mean_over_blocks(point, tf.square)


def latent(point: Point) -> tf.Tensor:
    """Mean squared error of z against the true z (the paper)."""
    return _mean(tf.square(point.z - point.true_z))


def latent_prior(point: Point) -> tf.Tensor:
    """Penalty for an unlikely z, mean over its entries.

    The squared distance to the box of a bounded prior; z^2 / 2, which is -log N without its constant, for a normal one.
    Where z is of another space: `Point.off_prior` squared.
    """
    return _mean(tf.square(_off_prior(point)))


def waveform_squared_residual(point: Point) -> tf.Tensor:
    """Differences of the samples; the term is their mean square."""
    return _residual([point.audio - point.target])


def stft_real_squared_residual(point: Point) -> tf.Tensor:
    """Differences of the real parts of the STFTs; the term is their mean square."""
    return _residual([spectrograms.stft_real(point.audio) - spectrograms.stft_real(point.target)])


def mr_stft_squared_residual(point: Point) -> tf.Tensor:
    """Differences of the log magnitudes of STFTs at frame lengths 256, 512 and 1024, with a floor as in `mr_stft`; the
    term is their mean square, mean over lengths."""
    return _residual([tf.math.log(a) - tf.math.log(b) for a, b in (_magnitudes(point, n) for n in RESOLUTIONS)])


def stft_whitened_squared_residual(point: Point) -> tf.Tensor:
    """Differences of the STFTs at frame lengths 256 and 1024, real and imaginary parts, each divided by the target's
    magnitude around it (mean of 3 x 3 cells, plus a floor of 0.01 at frame length 256); the term is their mean square,
    mean over parts.

    It is linear in the audio and depends on its phase, but quiet cells count as much as loud ones, and quiet cells
    distinguish latents whose samples sound nearly alike.
    """
    parts = []
    for frame_length in (256, 1024):
        audio, target = (spectrograms.stft(x, frame_length, frame_length // 2) for x in (point.audio, point.target))
        floor = 1e-2 * frame_length / 256
        white = (audio - target) / tf.cast(tf.nn.avg_pool2d(tf.abs(target), 3, 1, "SAME") + floor, tf.complex64)
        parts += [tf.math.real(white), tf.math.imag(white)]
    return _residual(parts)


def log_mel_squared_residual(point: Point) -> tf.Tensor:
    """Differences of the log-mel spectrograms; the term is their mean square."""
    audio, target = (spectrograms.log_mel(x, point.sample_rate) for x in (point.audio, point.target))
    return _residual([audio - target])


def latent_prior_residual(point: Point) -> tf.Tensor:
    """The distances whose mean square is `latent_prior`."""
    return _residual([_off_prior(point)])


def _sum_of_squares(residual: Callable[[Point], tf.Tensor]) -> "Term":
    return lambda point: tf.reduce_sum(tf.square(residual(point)), axis=1)


Term = Callable[[Point], tf.Tensor]  # to float32 [B]
# Of each term that is a sum of squares: the function of its residual, float32 [B, M].
RESIDUALS: dict[str, Callable[[Point], tf.Tensor]] = {
    "waveform_squared": waveform_squared_residual,
    "stft_real_squared": stft_real_squared_residual,
    "mr_stft_squared": mr_stft_squared_residual,
    "log_mel_squared": log_mel_squared_residual,
    "stft_whitened_squared": stft_whitened_squared_residual,
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
        """Each term's losses without its weight: name to float32 `[B]`."""
        return {name: TERMS[name](point) for name in self.weights}

    def sum(self, terms: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The weighted sum of losses by term, of any shape."""
        return tf.add_n([weight * terms[name] for name, weight in self.weights.items()])

    def residuals(self, point: Point) -> tf.Tensor:
        """float32 `[B, M]` whose sum of squares is the objective, which must be a `sum_of_squares`."""
        parts = [math.sqrt(weight) * RESIDUALS[name](point) for name, weight in self.weights.items()]
        return tf.concat(parts, axis=1)

    @property
    def sum_of_squares(self) -> bool:
        """Whether every term is a sum of squares."""
        return self.weights.keys() <= RESIDUALS.keys()

    @property
    def needs_features(self) -> bool:
        """Whether a term needs a classifier's activations in the point."""
        return not OF_FEATURES.keys().isdisjoint(self.weights)

    @property
    def needs_audio(self) -> bool:
        """Whether a term needs the generator's audio in the point."""
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
    """Parts `[B, ...]` flattened and scaled to `[B, M]`: the sum of squares is the mean over parts of mean squares."""
    flat = [tf.reshape(part, [-1, math.prod(part.shape[1:])]) for part in differences]
    return tf.concat([part / math.sqrt(part.shape[1] * len(flat)) for part in flat], axis=1)


def _off_prior(point: Point) -> tf.Tensor:
    """How far z lies from what the prior gives: `[B, n]`."""
    if point.off_prior is not None:
        return point.off_prior
    prior = PRIORS[point.prior]
    if prior.bounded:
        return point.z - tf.clip_by_value(point.z, prior.low, prior.high)
    return point.z / math.sqrt(2)


def _magnitudes(point: Point, frame_length: int) -> Iterator[tf.Tensor]:
    """STFT magnitudes of audio and of target, at least `spectrograms.LOG_FLOOR`; the hop is a quarter of the frame."""
    for audio in (point.audio, point.target):
        spectra = spectrograms.stft(audio, frame_length, frame_length // 4)
        yield spectrograms.magnitude(spectra, epsilon=spectrograms.LOG_FLOOR**2)


def _stft_distance(point: Point, frame_length: int) -> tf.Tensor:
    a, b = _magnitudes(point, frame_length)
    # The floor in the magnitudes keeps the denominator above 0, the epsilon keeps the root's gradient finite.
    convergence = tf.sqrt(_mean(tf.square(a - b)) + 1e-20) / tf.sqrt(_mean(tf.square(b)))
    return convergence + _mean(tf.abs(tf.math.log(a) - tf.math.log(b)))


def _mean_over_blocks(point: Point, error: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Mean over blocks of each block's mean error, so that a large block counts no more than a small one."""
    return tf.add_n([_block_error(point, block, error) for block in point.features]) / len(point.features)


def _block_error(point: Point, block: str, error: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    activations, target = (tf.cast(x[block], tf.float32) for x in (point.features, point.target_features))
    return _mean(error(activations - target))
