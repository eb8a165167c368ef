"""A latent for every clip of a dataset by a fixed map, such that together they look like draws from the prior.

What a clip sounds like (principal components of its log-mel spectrogram after removing when and how loud), when and how
loud it is and, where clips are labelled, which class it is like are brought to a standard normal, mixed by a random
rotation and squashed to U(-1, 1). A decoder can be trained on such latents at once, and an encoder towards them.
"""

import librosa
import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.decomposition import PCA

from utils.audio.datasets import to_float
from utils.options import UserError

NUM_MELS = 64
HOP = 512
DYNAMIC_RANGE = np.log(10**6)
ROUNDS = 20  # of rotations in `gaussianized`
SHRINKAGE = 0.05  # of the covariance within classes towards a multiple of the identity


def class_code(z: np.ndarray, num_classes: int) -> np.ndarray:
    """The class that a latent stands for: the block of `L // num_classes` coordinates with the largest sum, where each
    is taken as a standard normal.

    Args:
        z: float `[B, L]` in (-1, 1).
        num_classes: blocks; the coordinates left over take no part.

    Returns:
        int32 `[B]` in `[0, num_classes)`. Under the prior every class is equally likely.
    """
    width = z.shape[1] // num_classes
    normal = ndtri((np.float64(z[:, : num_classes * width]) + 1) / 2)
    sums = normal.reshape(len(z), num_classes, width).sum(axis=2)
    return sums.argmax(axis=1).astype(np.int32)


def principal_latents(
    audio: np.ndarray, labels: np.ndarray, num_classes: int, latent_dim: int, sample_rate: int, seed: int
) -> np.ndarray:
    """Latents of a dataset's clips.

    Args:
        audio: int16 `[N, T, C]`; channels are averaged.
        labels: int `[N]` in `[0, num_classes)`; ignored where `num_classes` is 0.
        num_classes: 0 for unlabelled sound.
        latent_dim: size of a latent L.
        sample_rate: in Hz.
        seed: of the rotations.

    Returns:
        float32 `[N, L]` in (-1, 1). Where labelled, `class_code` of every row is the clip's label.

    Raises:
        UserError: for too few clips or too small an L.
    """
    if len(audio) <= latent_dim or latent_dim < num_classes + 3:
        raise UserError(
            f"needs more clips than --latent_dim, and that to be {num_classes + 3} or more. "
            f"Received: {len(audio)} clips, --latent_dim {latent_dim}"
        )
    rng = np.random.default_rng(seed)
    timbre, onset, level = _describe(audio, sample_rate)
    code = np.empty((len(audio), 0))
    if num_classes:
        contrasts = _contrasts(num_classes)
        scores = _class_scores(PCA(latent_dim, random_state=seed).fit_transform(timbre), labels, num_classes)
        code = gaussianized(_whitened(scores @ contrasts), rng)
        scores, rows = code @ contrasts.T, np.arange(len(labels))
        best = scores.argmax(axis=1)  # where that is not the label, the two change places
        scores[rows, labels], scores[rows, best] = scores[rows, best], scores[rows, labels]
        code = scores @ contrasts
        timbre = timbre - np.stack([timbre[labels == k].mean(axis=0) for k in range(num_classes)])[labels]
    components = PCA(latent_dim - code.shape[1] - 2, whiten=True, random_state=seed).fit_transform(timbre)
    rest = gaussianized(np.column_stack([components, onset, level]), rng)
    normal = np.column_stack([code, rest]) @ _basis(latent_dim, num_classes, rng)
    return np.clip(2 * ndtr(normal) - 1, -0.9999, 0.9999).astype(np.float32)


def gaussianized(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows moved so that they look like draws from a standard normal: `[N, D]`, near rows staying near.

    Rotation-based iterative Gaussianization (Laparra et al., 2011): in one random orthonormal basis after another each
    coordinate's ranks become normal quantiles; here the basis is turned back every time, so that axes keep their
    meaning.
    """
    for _ in range(ROUNDS):
        rotation = _orthonormal(rng.standard_normal((x.shape[1], x.shape[1])))
        x = _to_normal(x @ rotation) @ rotation.T
    return _to_normal(x)


def _describe(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time- and level-centred log-mel `[N, features]`, centre of energy in frames `[N]`, log peak energy `[N]`."""
    filters = librosa.filters.mel(sr=sample_rate, n_fft=2 * HOP, n_mels=NUM_MELS)
    window = np.hanning(2 * HOP + 1)[:-1]
    rows, centres, levels = [], [], []
    for clip in audio:
        samples = np.pad(to_float(clip).mean(axis=1), HOP // 2)
        frames = np.lib.stride_tricks.sliding_window_view(samples, 2 * HOP)[::HOP]
        energy = filters @ (np.abs(np.fft.rfft(frames * window)) ** 2).T
        peak = max(energy.sum(axis=0).max(), 1e-12)
        log_mel = np.log(energy / peak + np.exp(-DYNAMIC_RANGE)) + DYNAMIC_RANGE
        loudness = energy.sum(axis=0) / peak + 1e-12
        centre = (loudness * np.arange(len(loudness))).sum() / loudness.sum()
        rows.append(np.roll(log_mel, len(loudness) // 2 - round(centre), axis=1).ravel())
        centres.append(centre)
        levels.append(np.log(peak))
    return np.array(rows, np.float32), np.array(centres), np.array(levels)


def _class_scores(x: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Linear discriminant scores of each class, `[N, num_classes]`, of rows `[N, D]`."""
    means = np.stack([x[labels == k].mean(axis=0) for k in range(num_classes)])
    within = np.cov((x - means[labels]).T)
    within = (1 - SHRINKAGE) * within + SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    directions = np.linalg.solve(within, means.T)
    return x @ directions - np.sum(means.T * directions, axis=0) / 2


def _whitened(x: np.ndarray) -> np.ndarray:
    """Rows `[N, D]` with mean 0 and covariance I, turned as little as that allows."""
    x = x - x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))
    return x @ (vectors / np.sqrt(values + 1e-9)) @ vectors.T


def _to_normal(columns: np.ndarray) -> np.ndarray:
    """Each column's ranks as standard normal quantiles."""
    ranks = columns.argsort(axis=0).argsort(axis=0)
    return ndtri((ranks + 0.5) / len(columns))


def _contrasts(num_classes: int) -> np.ndarray:
    """Orthonormal columns that sum to 0, `[num_classes, num_classes - 1]`."""
    start = np.eye(num_classes)
    start[:, 0] = 1
    return _orthonormal(start)[:, 1:]


def _basis(latent_dim: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Orthonormal rows: the contrasts between the blocks of `class_code`, then a random basis of the rest."""
    start = rng.standard_normal((latent_dim, latent_dim))
    if num_classes:
        blocks = np.eye(num_classes).repeat(latent_dim // num_classes, axis=1)
        code = _contrasts(num_classes).T @ blocks
        start[: len(code)] = np.pad(code, [(0, 0), (0, latent_dim - blocks.shape[1])])
    return _orthonormal(start.T).T


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    q, r = np.linalg.qr(columns)
    return q * np.sign(np.diag(r))
