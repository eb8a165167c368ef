"""The numbers of the tables: pure NumPy functions in float64, never NaN or infinite; `METRICS` is all of them by name.

A function takes what is known of one clip, or of a whole row of a table; `measure` gives its number for the row, with
a 95 % interval.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import librosa
import numpy as np
from scipy.special import rel_entr
from skimage.metrics import structural_similarity

from utils.evaluation.comparison import CONFIDENCE, FEWEST, share_interval
from utils.numpy_spectrograms import log_magnitude, stft, stft_real
from utils.spectrograms import LOG_FLOOR

SNR_CAP_DB = 120.0  # about the resolution of float32 audio
SSIM_SIGMA, SSIM_TAPS = 1.5, 11
RESOLUTIONS = (256, 512, 1024)  # frame lengths of stft_distance in samples; the hop is a quarter
F0_LOWEST, F0_HIGHEST = 65.0, 400.0  # Hz
FEWEST_VOICED = 5  # frames that must be voiced for a clip to have a pitch: 80 ms at 16 kHz
OCTAVE = 12.0  # semitones
GROSS = 0.2  # relative error of F0 from which a frame is wrong

# ---- of one clip ----------------------------------------------------------------


def waveform_mse(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Mean squared difference of the samples `[T, C]` (the paper's raw audio MSE, of one clip)."""
    return float(np.mean(np.square(_difference(original, reconstruction))))


def snr_db(original: np.ndarray, reconstruction: np.ndarray) -> float | None:
    """Signal-to-noise ratio of `[T, C]` audio in dB: power of the original over power of the difference.

    Returns:
        At most `SNR_CAP_DB`; None for a silent original, which has no such ratio.
    """
    signal = np.sum(np.square(np.asarray(original, np.float64)))
    noise = np.sum(np.square(_difference(original, reconstruction)))
    if signal == 0:
        return None
    if noise == 0:
        return SNR_CAP_DB
    return float(min(10 * (np.log10(signal) - np.log10(noise)), SNR_CAP_DB))


def ssim(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Structural similarity of the real-part STFTs of `[T, C]` audio, mean over channels (the paper's SSIM).

    Equal to `tf.image.ssim` with `max_val` = max - min over both STFTs.

    Returns:
        At most 1; 1 for two silent clips.
    """
    _difference(original, reconstruction)
    return image_ssim(stft_real(original), stft_real(reconstruction))


def ssim_log_magnitude(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """As `ssim`, of the log-magnitude spectrograms, log(|X| + 1e-3), in which phase has no say."""
    _difference(original, reconstruction)
    return image_ssim(log_magnitude(original), log_magnitude(reconstruction))


def image_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Structural similarity of images `[H, W, C]` (Wang et al., 2004): Gaussian window of sigma 1.5 and 11 taps.

    `max_val` is max - min over both images. Images of fewer than 11 rows are mirrored at their end.
    """
    max_val = max(x.max(), y.max()) - min(x.min(), y.min())
    if max_val == 0:
        return 1.0
    x, y = (np.pad(image, [(0, max(0, SSIM_TAPS - len(x))), (0, 0), (0, 0)], mode="symmetric") for image in (x, y))
    settings = dict(gaussian_weights=True, sigma=SSIM_SIGMA, use_sample_covariance=False)
    return float(structural_similarity(x, y, data_range=max_val, channel_axis=-1, **settings))


def stft_distance(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Multi-resolution STFT distance of `[T, C]` audio (Yamamoto et al., 2020), as `utils.losses.mr_stft`.

    Mean over frame lengths 256, 512 and 1024 of spectral convergence + mean absolute error of log magnitudes;
    magnitudes have a floor of 1e-3, so that silence is an ordinary clip.
    """
    _difference(original, reconstruction)
    distances = []
    for frame_length in RESOLUTIONS:
        a, b = (
            np.sqrt(np.square(np.abs(stft(x, frame_length, frame_length // 4))) + LOG_FLOOR**2)
            for x in (original, reconstruction)
        )
        convergence = np.sqrt(np.mean(np.square(a - b)) / np.mean(np.square(a)))
        distances.append(convergence + np.mean(np.abs(np.log(a) - np.log(b))))
    return float(np.mean(distances))


def log_mel_correlation(original: np.ndarray, reconstruction: np.ndarray, digit_mean: np.ndarray) -> float:
    """Pearson correlation of two log-mel spectrograms of one shape after the digit's mean is taken out of both.

    With the mean over all originals of the digit, one fixed answer a digit has covariance 0 on average, whatever it is:
    only what distinguishes a clip from the others of its digit counts.

    Returns:
        -1 to 1; 0 where one of them does not differ from the mean, as does the only original of its digit.
    """
    a, b = (_difference(x, digit_mean).ravel() for x in (original, reconstruction))
    a, b = a - a.mean(), b - b.mean()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale > 0 else 0.0


def f0_error(original: np.ndarray, reconstruction: np.ndarray) -> float | None:
    """Median absolute difference in semitones of two `f0` tracks `[frames]`, over the frames that are voiced in both.

    Returns:
        At most 12, an octave, which is also the value for a reconstruction with fewer than `FEWEST_VOICED` such frames;
        None for an original with fewer voiced frames than that.
    """
    if np.count_nonzero(original) < FEWEST_VOICED:
        return None
    both = (original > 0) & (reconstruction > 0)
    if np.count_nonzero(both) < FEWEST_VOICED:
        return OCTAVE
    return float(min(np.median(np.abs(12 * np.log2(reconstruction[both] / original[both]))), OCTAVE))


def f0_frame_error(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Share of the frames of two `f0` tracks `[frames]` that are voiced in one alone or, in both, differ by more than
    20 % of the original's F0 (Chu and Alwan, 2009).

    Defined for every clip: where no voice is detected in either, the two agree; silence has the original's share of
    voiced frames.
    """
    voiced, voiced_too = original > 0, reconstruction > 0
    gross = voiced & voiced_too & (np.abs(reconstruction - original) > GROSS * original)
    return float(np.mean((voiced != voiced_too) | gross))


def f0(audio: np.ndarray, sample_rate: int, *, lowest: float = F0_LOWEST, highest: float = F0_HIGHEST) -> np.ndarray:
    """Fundamental frequency of `[N, T, C]` audio, channels averaged, by librosa's pyin (Mauch and Dixon, 2014).

    From `lowest` to `highest` Hz; frames of the next power of two above four longest periods, at 16 kHz 1024 samples,
    and a hop of a quarter. Takes 0.06 s a second of sound.

    Returns:
        float `[N, frames]` in Hz; 0 where nothing is voiced.
    """
    mono = np.asarray(audio, np.float64).mean(axis=2)
    frame = 1 << int(np.ceil(np.log2(4 * sample_rate / lowest)))
    tracks = np.zeros((len(mono), 1 + mono.shape[1] // (frame // 4)))
    sounding = mono.any(axis=1)
    if sounding.any():
        found, voiced, _ = librosa.pyin(
            mono[sounding],
            fmin=lowest,
            fmax=min(highest, sample_rate / 4),
            sr=sample_rate,
            frame_length=frame,
            hop_length=frame // 4,
            fill_na=None,
        )
        tracks[sounding] = np.where(voiced, found, 0.0)
    return tracks


def latent_mse(z: np.ndarray, z_true: np.ndarray) -> float:
    """Mean squared difference of latents of one shape. Always answering 0 scores the prior's variance."""
    return float(np.mean(np.square(_difference(z_true, z))))


def outside_prior(z: np.ndarray, bound: float) -> float:
    """Share of the entries of z beyond -bound and bound."""
    return float(np.mean(np.abs(np.asarray(z)) > bound))


def accuracy(probabilities: np.ndarray, label: int) -> float:
    """1 where a classifier's answer `[K]` is the label, else 0."""
    return float(np.argmax(probabilities) == label)


# ---- of a set of clips ----------------------------------------------------------


def inception_score(probabilities: np.ndarray, splits: int = 1, seed: int = 0) -> tuple[float, float]:
    """exp of the mean KL divergence of a classifier's answers from their mean (Salimans et al., 2016).

    Biased by the number of clips: compare at equal N and splits only. Not comparable with scores of the widely used
    SC09 script of SaShiMi (Goel et al., 2022): it calls `scipy.stats.entropy` without `axis=1`, and so takes
    divergences over the clips of a class, not over the classes of a clip. That hides a collapse: a generator that
    hardly ever says nine of the ten digits scores beyond 10 there, and below 2 by the definition.

    Args:
        probabilities: `[N, K]`, rows that sum to 1; a class may be missing.
        splits: groups of the shuffled clips; group i holds the clips i * N // splits to (i + 1) * N // splits.
        seed: of the shuffling.

    Returns:
        Mean and standard deviation over the splits, each score from 1 to K.

    Raises:
        ValueError: for fewer clips than splits.
    """
    p = np.asarray(probabilities, np.float64)
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits must be from 1 to the number of clips, {len(p)}. Received: {splits}")
    p = (p / p.sum(axis=1, keepdims=True))[np.random.default_rng(seed).permutation(len(p))]
    scores = []
    for i in range(splits):
        group = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        scores.append(np.exp(rel_entr(group, group.mean(axis=0)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features (Heusel et al., 2017).

    |mean difference|^2 + tr(Cx) + tr(Cy) - 2 tr((Cx Cy)^(1/2)). The last trace is the sum of the singular values of
    A B^T for centred, scaled features A and B: no square root of a product of matrices, hence sound where N < D.
    Biased upwards by small N: compare at equal N, and with the distance of two sets of the same source.

    Args:
        x: `[N, D]`.
        y: `[M, D]`.

    Raises:
        ValueError: for fewer than two rows, or unequal D.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if min(len(x), len(y)) < 2 or x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"must be [N, D] and [M, D] with N, M of at least 2. Received: {x.shape} and {y.shape}")
    a, b = _covariance_root(x), _covariance_root(y)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    mean = np.sum(np.square(x.mean(axis=0) - y.mean(axis=0)))
    return float(max(mean + np.sum(a * a) + np.sum(b * b) - 2 * cross, 0.0))


def _covariance_root(x: np.ndarray) -> np.ndarray:
    """R `[min(N, D), D]` with R^T R the covariance of `[N, D]`."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred


# ---- of a row of a table --------------------------------------------------------


class Predictions(NamedTuple):
    """A classifier's probabilities `[N, K]` and pooled features `[N, D]` of N clips."""

    probabilities: np.ndarray
    features: np.ndarray


class Row(NamedTuple):
    """What is known of a row of a table: N clips and what a method made of them; None where there is no such thing.

    original, reconstruction: float `[N, T, C]` in [-1, 1].
    probabilities, features: a classifier's answers `[N, K]` and pooled features `[N, D]` for the reconstructions.
    reference_features: its features of the clips compared with, `[N, D]`.
    labels: int `[N]`, the digits the reconstructions should be taken for.
    original_log_mel, reconstruction_log_mel: `log_mel`, `[N, frames, bands, C]`.
    digit_log_mel: of the same shape, for each clip the mean of the originals of its digit.
    original_f0, reconstruction_f0: `f0`, `[N, frames]`.
    z: `[N, latent_dim]`, of the reconstructions.
    z_true: the latents that the clips were made from.
    z_reference: the latents `z` is to be distributed like.
    bound: of the prior, |z| <= bound.
    splits: of the inception score.
    """

    original: np.ndarray | None = None
    reconstruction: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    features: np.ndarray | None = None
    reference_features: np.ndarray | None = None
    labels: np.ndarray | None = None
    original_log_mel: np.ndarray | None = None
    reconstruction_log_mel: np.ndarray | None = None
    digit_log_mel: np.ndarray | None = None
    original_f0: np.ndarray | None = None
    reconstruction_f0: np.ndarray | None = None
    z: np.ndarray | None = None
    z_true: np.ndarray | None = None
    z_reference: np.ndarray | None = None
    bound: float | None = None
    splits: int = 1


class Metric(NamedTuple):
    """One number of a table.

    function: of the fields of `Row` in `needs`; gives a number, or a number and its standard deviation.
    needs: where one of them is None there is no such number.
    higher_is_better: of the number.
    per_clip: `function` takes one clip at a time, and the row's number is the mean, without the clips for
        which it gives None; otherwise it takes the whole row.
    share: `function` gives a share of the clip, or 0 or 1.
    """

    function: Callable[..., Any]
    needs: tuple[str, ...]
    higher_is_better: bool
    per_clip: bool = True
    share: bool = False

    @property
    def by_classifier(self) -> bool:
        """Whether it is there once for each classifier."""
        return not {"probabilities", "features"}.isdisjoint(self.needs)


PAIR = ("original", "reconstruction")
LOG_MELS = ("original_log_mel", "reconstruction_log_mel", "digit_log_mel")
TRACKS = ("original_f0", "reconstruction_f0")
METRICS = {
    "inception_score": Metric(inception_score, ("probabilities", "splits"), True, per_clip=False),
    "frechet_distance": Metric(frechet_distance, ("features", "reference_features"), False, per_clip=False),
    "accuracy": Metric(accuracy, ("probabilities", "labels"), True, share=True),
    "waveform_mse": Metric(waveform_mse, PAIR, False),
    "ssim": Metric(ssim, PAIR, True),
    "ssim_log_magnitude": Metric(ssim_log_magnitude, PAIR, True),
    "stft_distance": Metric(stft_distance, PAIR, False),
    "log_mel_correlation": Metric(log_mel_correlation, LOG_MELS, True),
    "f0_error": Metric(f0_error, TRACKS, False),
    "f0_frame_error": Metric(f0_frame_error, TRACKS, False, share=True),
    "latent_mse": Metric(latent_mse, ("z", "z_true"), False),
    "latent_frechet_distance": Metric(frechet_distance, ("z", "z_reference"), False, per_clip=False),
    "outside_prior": Metric(outside_prior, ("z", "bound"), False, share=True),
}


def clip_values(name: str, row: Row) -> np.ndarray | None:
    """A metric's value of each clip, float64 `[N]`, NaN where a clip has none; None where the row lacks what the metric
    needs, or where it is one of the whole row."""
    metric = METRICS[name]
    known = [getattr(row, field) for field in metric.needs]
    if not metric.per_clip or any(value is None for value in known):
        return None
    values = [metric.function(*_take(known, clip)) for clip in range(len(known[0]))]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def measure(
    name: str, row: Row, *, values: np.ndarray | None = None, resamples: int = 200, seed: int = 0
) -> dict[str, Any] | None:
    """A metric of a row with its 95 % interval.

    The interval of a mean over clips is the bootstrap's percentile one; that of clips counted (a share of outcomes 0
    and 1) is Clopper and Pearson's. A metric of the whole set is biased by resampling, as repeated clips make the set
    look smaller than it is: its interval takes only the spread from the bootstrap and stands around the number itself.

    Args:
        name: in `METRICS`.
        row: what is known.
        values: what `clip_values` gives, where that is known already.
        resamples: bootstrap samples, drawn with replacement: originals and reconstructions together.
        seed: of the bootstrap; each metric has its own stream.

    Returns:
        `value` and `n`, of how many clips; of at least `FEWEST` clips also `low` and `high`; and `std` where the metric
        has one. None where the row lacks what the metric needs, or has fewer than two clips for it.
    """
    metric = METRICS[name]
    known = [getattr(row, field) for field in metric.needs]
    if any(value is None for value in known):
        return None
    count = len(known[0])
    if metric.per_clip:
        values = clip_values(name, row) if values is None else values
        values = values[np.isfinite(values)]
        count = len(values)
    if count < 2:
        return None
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    draws = rng.integers(count, size=(resamples, count))
    tails = 100 * np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if metric.per_clip:
        estimate: dict[str, Any] = {"value": float(values.mean()), "n": count}
        if count < FEWEST:
            return estimate
        if metric.share and np.isin(values, (0, 1)).all():
            low, high = share_interval(values.sum(), count)
        else:
            low, high = np.percentile(values[draws].mean(axis=1), tails)
        return estimate | {"low": float(low), "high": float(high)}
    value, *std = np.ravel(metric.function(*known)).tolist()
    estimate = {"value": value, "n": count, **({"std": std[0]} if std else {})}
    if count < FEWEST:
        return estimate
    resampled = np.array([np.ravel(metric.function(*_take(known, draw)))[0] for draw in draws])
    low, high = value + np.percentile(resampled, tails) - resampled.mean()
    return estimate | {"low": float(max(low, 0.0)), "high": float(high)}


def _take(known: list[Any], index: Any) -> list[Any]:
    """Some clips of what is known; what is no array is of all of them."""
    return [value[index] if isinstance(value, np.ndarray) else value for value in known]


def _difference(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    original, reconstruction = np.asarray(original, np.float64), np.asarray(reconstruction, np.float64)
    if original.shape != reconstruction.shape:
        raise ValueError(f"both must have one shape. Received: {original.shape} and {reconstruction.shape}")
    return original - reconstruction
