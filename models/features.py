"""Features that hold speech: log-mel, fundamental frequency and periodicity at 64 frames a clip, and their code.

A clip is centred in time first: where a word stands is of no interest, and as part of the code it would be what makes
the map from the prior hard. The code is the features' weighted, whitened principal components.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.decomposition import PCA

from utils.audio.datasets import Dataset, to_float
from utils.audio.pitch import HIGHEST, LOWEST, pitches
from utils.errors import UserError
from utils.runs.batches import in_batches
from utils.spectrograms import magnitude, mel_filters, stft

FRAMES, BANDS, NUM_LAGS = 64, 64, 48
LOG_F0_WEIGHT, PERIODICITY_WEIGHT = 5.5, 3.0  # beside log-mel in the principal components
PITCH_COMPONENTS = 3  # of the code; F0 within 0.4 semitones
VARIANTS = 4  # of each clip, of which the code is fitted on two
LARGEST_OFFSET, GAIN = 256, 0.1  # samples; standard deviation of the logarithm
NO_VOICE = np.log2(120.0)  # F0 of a corpus without any voice
FEWEST_VOICED, LARGEST_JUMP = 4, 0.7  # frames; octaves from the clip's median
SMOOTHING = np.array([0.1, 0.2, 0.4, 0.2, 0.1])
SILENCE = 0.02  # energy of a frame's autocorrelation, below which a frame counts as silent


@dataclasses.dataclass(frozen=True)
class FrontEnd:
    """The features of audio `[B, T, C]`, differentiable. All are of the mean of the channels.

    Attributes:
        num_samples: T.
        sample_rate: Hz.
    """

    num_samples: int
    sample_rate: int

    def __post_init__(self):
        if self.sample_rate < 4 * HIGHEST:
            raise UserError(f"recipe flow needs a --sample_rate of {4 * HIGHEST:g} Hz or more for the pitch")

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return self.num_samples // FRAMES

    @property
    def lags(self) -> np.ndarray:
        """Lags of `periodicity` in samples, int `[at most 48]`, evenly spaced in the logarithm."""
        shortest, longest = self.sample_rate / HIGHEST, self.sample_rate / LOWEST
        return np.unique(np.round(np.geomspace(shortest, longest, NUM_LAGS)).astype(int))

    def log_mel(self, audio: tf.Tensor) -> tf.Tensor:
        """Log-mel spectrogram of frames of two hops, `[B, T, C]` to `[B, 64, 64]`; about unit variance."""
        mono = tf.reduce_mean(audio, axis=2, keepdims=True)
        filters = mel_filters(BANDS, 2 * self.hop, self.sample_rate)
        energies = tf.matmul(magnitude(stft(mono, 2 * self.hop, self.hop))[..., 0], filters)
        return tf.math.log(energies + 3e-2) / 2 + 1

    def autocorrelation(self, audio: tf.Tensor) -> tf.Tensor:
        """Normalised autocorrelation of frames of 64 ms at `lags`, `[B, T, C]` to `[B, 64, lags]`, silence at 0.

        Divided by the window's own (Boersma, 1993), so that a periodic sound has about 1 at its period.
        """
        length = max(2 * self.hop, int(2 ** np.round(np.log2(0.064 * self.sample_rate))))
        window = np.hanning(length + 1)[:-1].astype(np.float32)
        fft = 2 * length
        bias = np.fft.irfft(np.abs(np.fft.rfft(window, fft)) ** 2)[self.lags] / np.sum(window**2)
        before = (length - 2 * self.hop) // 2
        mono = tf.pad(tf.reduce_mean(audio, axis=2), [[0, 0], [before, length]])
        frames = tf.signal.frame(mono, length, self.hop)[:, :FRAMES] * window
        power = tf.square(magnitude(tf.signal.rfft(frames, [fft]), 1e-14))
        r = tf.signal.irfft(tf.complex(power, tf.zeros_like(power)), [fft])
        return tf.gather(r, self.lags, axis=-1) / np.float32(bias) / (r[..., :1] + SILENCE)


def energy_centre(audio: np.ndarray) -> np.ndarray:
    """Centre of energy in samples, float64 `[N]`, of clips `[N, T, C]`; T / 2 for silence."""
    energy = np.square(audio, dtype=np.float64).sum(axis=2)
    total, time = energy.sum(axis=1), np.arange(energy.shape[1])
    return np.where(total > 0, energy @ time / np.maximum(total, 1e-12), energy.shape[1] / 2)


def moved(audio: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Clips `[N, T, C]`, each later by its whole number of samples; zeros come in."""
    result = np.zeros_like(audio)
    for row, clip, shift in zip(result, audio, shifts, strict=True):
        if shift >= 0:
            row[shift:] = clip[: len(clip) - shift]
        else:
            row[:shift] = clip[-shift:]
    return result


def log_f0_contour(hertz: np.ndarray, absent: float) -> np.ndarray:
    """F0 with its gaps filled and octave errors dropped: Hz `[n]`, 0 where unvoiced, to base-2 Hz `[n]`.

    Without `FEWEST_VOICED` voiced frames it is `absent` throughout.
    """
    voiced = np.flatnonzero(hertz > 0)
    if len(voiced) < FEWEST_VOICED:
        return np.full(len(hertz), absent)
    values = np.log2(hertz[voiced])
    near = np.abs(values - np.sort(values)[len(values) // 2]) < LARGEST_JUMP
    line = np.interp(np.arange(len(hertz)), voiced[near], values[near])
    return np.convolve(np.pad(line, 2, mode="edge"), SMOOTHING, "valid")


class Clips:
    """Clips of a dataset centred in time, in `VARIANTS` variants of offset and gain, with their features.

    Args:
        dataset: the clips.
        seed: of the variants. None: one variant, exactly centred, at its own gain.
        cache_dir: where pitch is kept.
        absent: base-2 Hz of clips without voice; None: the mean of those with.
        quiet: no progress bar.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int | None,
        cache_dir: Path | None = None,
        absent: float | None = None,
        *,
        quiet: bool = False,
    ):
        self.dataset, count = dataset, len(dataset)
        self.front_end = FrontEnd(dataset.audio.shape[1], dataset.sample_rate)
        self.labels = np.maximum(dataset.labels, 0)
        self._hertz = pitches(dataset.audio, dataset.sample_rate, self.front_end.hop, cache_dir, quiet=quiet)
        self.voiced_share = float(np.mean(self._hertz > 0))
        if absent is None:
            absent = float(np.log2(self._hertz[self._hertz > 0]).mean()) if self.voiced_share else NO_VOICE
        self.absent = absent
        self._contours = np.stack([log_f0_contour(row, absent) for row in self._hertz])
        centres = np.concatenate([energy_centre(dataset.to_float(slice(i, i + 256))) for i in range(0, count, 256)])
        length = dataset.audio.shape[1]
        shifts = np.clip(np.round(length / 2 - centres), -length // 4, length // 4).astype(int)
        if seed is None:
            self._shifts, self._gains = shifts[None], np.ones((1, count), np.float32)
        else:
            random = np.random.default_rng([seed, 0xFEA7])
            self._shifts = shifts + random.integers(-LARGEST_OFFSET, LARGEST_OFFSET + 1, (VARIANTS, count))
            self._gains = np.exp(GAIN * random.standard_normal((VARIANTS, count))).astype(np.float32)
        self._autocorrelation = tf.function(self.front_end.autocorrelation, autograph=False, reduce_retracing=True)
        self._log_mel = tf.function(self.front_end.log_mel, autograph=False, reduce_retracing=True)

    @property
    def variants(self) -> int:
        """Variants of each clip."""
        return len(self._shifts)

    def audio(self, variant: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Clips in the given variants, int `[n]` each: float32 `[n, T, C]` in [-1, 1]."""
        audio = moved(to_float(self.dataset.audio[index]), self._shifts[variant, index])
        return np.clip(audio * self._gains[variant, index][:, None, None], -1.0, 1.0)

    def features(self, variant: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Features of the same: `[n, 4224]` float32, log-mel, log F0 in base-2 Hz and periodicity in [0, 1]."""
        audio = self.audio(variant, index)
        shifts, hop = self._shifts[variant, index], self.front_end.hop
        # Pitch frame k is centred at k hops, frame k of the others at k + 1.
        at = np.arange(1, FRAMES + 1) - shifts[:, None] / hop
        k = np.arange(self._hertz.shape[1])
        log_f0 = np.stack([np.interp(t, k, self._contours[i]) for t, i in zip(at, index, strict=True)])
        nearest = np.round(at).astype(int)
        inside = (nearest >= 0) & (nearest < len(k))
        hertz = np.take_along_axis(self._hertz[index], np.clip(nearest, 0, len(k) - 1), axis=1) * inside
        correlation = self._autocorrelation(tf.constant(audio)).numpy()
        lags = np.log(self.front_end.lags)
        lag = np.abs(lags - np.log(self.front_end.sample_rate / 2.0**log_f0)[..., None]).argmin(axis=-1)
        around = np.clip(lag[..., None] + np.arange(-1, 2), 0, len(lags) - 1)
        periodicity = np.take_along_axis(correlation, around, axis=2).max(axis=2)
        periodicity = np.where(hertz > 0, np.clip(periodicity, 0, 1), 0)
        log_mel = self._log_mel(tf.constant(audio)).numpy().reshape(len(index), -1)
        return np.concatenate([log_mel, log_f0, periodicity], axis=1).astype(np.float32)

    def rows(self, variants: int) -> tuple[np.ndarray, np.ndarray]:
        """(variant, index) of every clip in the first so many variants, each int `[variants * N]`."""
        return np.repeat(np.arange(variants), len(self.dataset)), np.tile(np.arange(len(self.dataset)), variants)


class PrincipalCode:
    """Features `[B, 4224]` to their code w float32 `[B, latent_dim]` and back: whitened principal components.

    The leading ones, `pitch_components` of them, are of log F0 alone, the others of log-mel and periodicity.

    Attributes:
        mean: float32 `[4224]`, of the weighted features.
        components: float32 `[latent_dim, 4224]`, orthonormal rows.
        deviation: float32 `[latent_dim]`, by which the components are divided.
        weights: float32 `[4224]`, of the features.
    """

    def __init__(self, mean: np.ndarray, components: np.ndarray, deviation: np.ndarray):
        self.mean, self.components, self.deviation = (np.float32(x) for x in (mean, components, deviation))
        weights = [1.0] * FRAMES * BANDS + [LOG_F0_WEIGHT] * FRAMES + [PERIODICITY_WEIGHT] * FRAMES
        self.weights = np.float32(weights)

    @classmethod
    def fit(cls, features: np.ndarray, latent_dim: int, seed: int) -> "PrincipalCode":
        """The code of features float32 `[N, 4224]`, N above `latent_dim`."""
        unfitted = cls(np.zeros(1), np.zeros(1), np.ones(1))
        weighted, shared = features * unfitted.weights, pitch_components(latent_dim)
        is_pitch = np.zeros(weighted.shape[1], bool)
        is_pitch[-2 * FRAMES : -FRAMES] = True
        components, deviations = np.zeros((latent_dim, weighted.shape[1]), np.float32), []
        for rows, part in ((slice(0, shared), is_pitch), (slice(shared, latent_dim), ~is_pitch)):
            count = rows.stop - rows.start
            pca = PCA(count, svd_solver="randomized", random_state=seed, iterated_power=3).fit(weighted[:, part])
            components[rows, part] = pca.components_
            deviations.append(np.sqrt(pca.explained_variance_) + 1e-3)
        return cls(weighted.mean(axis=0), components, np.concatenate(deviations))

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Features `[B, 4224]` to w `[B, latent_dim]`."""
        return (features * self.weights - self.mean) @ self.components.T / self.deviation

    def decode(self, w: tf.Tensor) -> tf.Tensor:
        """w `[B, latent_dim]` to features `[B, 4224]`."""
        return (tf.matmul(w * self.deviation, self.components) + self.mean) / self.weights

    def log_mel_difference(self, difference: tf.Tensor) -> tf.Tensor:
        """What a difference of log-mel `[B, 64, 64]` is in w, `[B, latent_dim]`."""
        flat = tf.reshape(difference, [-1, FRAMES * BANDS])
        return tf.matmul(flat, self.components[:, : FRAMES * BANDS], transpose_b=True) / self.deviation

    def explained(self, features: np.ndarray) -> dict[str, float]:
        """Shares of the variance of each kind of feature that the code holds, and the error of F0 in semitones."""
        back = np.asarray(self.decode(tf.constant(self.encode(features))))
        parts = {"log_mel": slice(0, FRAMES * BANDS), "log_f0": slice(-2 * FRAMES, -FRAMES)}
        parts["periodicity"] = slice(-FRAMES, None)
        facts = {}
        for name, part in parts.items():
            variance = np.var(features[:, part], axis=0).sum()
            error = np.square(features[:, part] - back[:, part]).mean(axis=0).sum()
            facts[f"{name}_explained"] = float(1 - error / variance) if variance > 0 else 1.0
        error = 12 * (features - back)[:, parts["log_f0"]]
        return facts | {"f0_semitones": float(np.sqrt(np.mean(np.square(error))))}


def pitch_components(latent_dim: int) -> int:
    """How many of a code's components are of log F0 alone."""
    return min(PITCH_COMPONENTS, latent_dim // 2)


def features_of(clips: Clips, variants: int) -> np.ndarray:
    """Features of every clip in so many variants, float32 `[variants * N, 4224]`."""
    variant, index = clips.rows(variants)
    return in_batches(lambda rows: clips.features(variant[rows], index[rows]), np.arange(len(index)), 128)
