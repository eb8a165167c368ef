"""A latent for every training clip, so that a generator can begin as a decoder (`train_wavegan.py`, preset guided),
and the class code that latents hold.

The map is fixed, not learnt: what a clip sounds like (log-mel principal components after removing when and how loud),
when and how loud it is, and, where clips are labelled, which class, are each brought to a standard normal, mixed by
a random rotation and squashed, so that the latents of a dataset look like draws from the prior U(-1, 1).
"""

import librosa
import numpy as np
from scipy.special import ndtr, ndtri, softmax
from sklearn.decomposition import PCA

NUM_MELS = 64
HOP = 512
DYNAMIC_RANGE = np.log(10**6)
REDRAWS = 20


def class_code(z: np.ndarray, num_classes: int) -> np.ndarray:
    """The class that a latent stands for: the block of `L // num_classes` coordinates with the largest sum.

    Args:
        z: float `[B, L]`.
        num_classes: blocks; the coordinates left over take no part.

    Returns:
        int32 `[B]` in `[0, num_classes)`. Under the prior every class is equally likely.
    """
    return _blocks(z, num_classes).sum(axis=2).argmax(axis=1).astype(np.int32)


def class_directions(latent_dim: int, num_classes: int) -> np.ndarray:
    """The directions of z along which its class code changes: orthonormal rows, float64 `[num_classes, latent_dim]`.

    None, `[0, latent_dim]`, for unlabelled sound (`num_classes` 0).
    """
    width = latent_dim // max(num_classes, 1)
    blocks = np.eye(num_classes).repeat(width, axis=1) / np.sqrt(width)
    return np.pad(blocks, [(0, 0), (0, latent_dim - num_classes * width)])


def decided_latents(z: np.ndarray, num_classes: int, temperature: float) -> np.ndarray:
    """The same latents with their class code moved towards one class; everything else of them stays.

    A code is a vector of block sums, each divided by the root of its block's width: under the prior U(-1, 1) its
    entries have variance 1/3. The new code is the softmax of the old one, brought to a mean of 0 and to such a scale
    that its largest entry can be a quarter above what is usual under the prior.

    Args:
        z: float32 `[B, L]`.
        num_classes: K blocks, as in `class_code`.
        temperature: of the softmax, positive; towards 0 every code becomes its class's.

    Returns:
        float32 `[B, L]`, each row of the same `class_code`.
    """
    blocks = _blocks(z, num_classes)
    width = blocks.shape[2]
    code = blocks.sum(axis=2) / np.sqrt(width)
    usual = ndtri((num_classes - 0.375) / (num_classes + 0.25)) / np.sqrt(3)  # largest of K normals (Blom, 1958)
    high = 1.25 * usual
    low = -high / (num_classes - 1)
    decided = low + (high - low) * softmax(code / temperature, axis=1)
    moved = blocks + ((decided - code) / np.sqrt(width))[:, :, None]
    return np.column_stack([moved.reshape(len(z), -1), z[:, num_classes * width :]]).astype(np.float32)


def paired_latents(
    audio: np.ndarray, labels: np.ndarray, latent_dim: int, num_classes: int, sample_rate: int, seed: int
) -> np.ndarray:
    """Latents of a dataset's clips.

    Args:
        audio: int16 `[N, T, C]`; channels are averaged.
        labels: int `[N]` in `[0, num_classes)`; ignored where `num_classes` is 0.
        latent_dim: size of a latent, more than `num_classes + 2`.
        num_classes: 0 for unlabelled sound.
        sample_rate: in Hz.
        seed: of the rotation and the class codes.

    Returns:
        float32 `[N, latent_dim]` in (-1, 1). Where labelled, `class_code` of most rows is the clip's label.

    Raises:
        ValueError: fewer clips than `latent_dim`.
    """
    if len(audio) <= latent_dim:
        raise ValueError(f"needs more clips than latent_dim={latent_dim}. Received: {len(audio)}")
    rng = np.random.default_rng(seed)
    timbre, onset, level = _describe(audio, sample_rate)
    if num_classes:
        class_means = np.stack([timbre[labels == k].mean(axis=0) for k in range(num_classes)])
        timbre = timbre - class_means[labels]
    components = PCA(latent_dim - num_classes - 2, whiten=True, random_state=seed).fit_transform(timbre)
    rest = _to_normal(np.column_stack([components, onset, level]))
    basis = _basis(latent_dim, num_classes, rng)
    code = _class_codes(labels, num_classes, rng) if num_classes else np.empty((len(audio), 0))
    z = _squash(np.column_stack([code, rest]) @ basis)
    for _ in range(REDRAWS if num_classes else 0):  # squashing moves some latents to another class
        wrong = class_code(z, num_classes) != labels
        code[wrong] = _class_codes(labels[wrong], num_classes, rng)
        z[wrong] = _squash(np.column_stack([code, rest])[wrong] @ basis)
    return z


def _blocks(z: np.ndarray, num_classes: int) -> np.ndarray:
    """The coordinates that hold the class code, `[B, num_classes, L // num_classes]`."""
    width = z.shape[1] // num_classes
    return z[:, : num_classes * width].reshape(len(z), num_classes, width)


def _describe(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time- and level-centred log-mel `[N, features]`, centre of energy in frames `[N]`, log peak energy `[N]`."""
    filters = librosa.filters.mel(sr=sample_rate, n_fft=2 * HOP, n_mels=NUM_MELS)
    window = np.hanning(2 * HOP + 1)[:-1]
    rows, centres, levels = [], [], []
    for clip in audio:
        samples = np.pad(clip.mean(axis=1) / 32768, HOP // 2)
        frames = np.lib.stride_tricks.sliding_window_view(samples, 2 * HOP)[::HOP]
        energy = filters @ (np.abs(np.fft.rfft(frames * window)) ** 2).T
        peak = max(energy.sum(axis=0).max(), 1e-12)
        log_mel = np.log(energy / peak + np.exp(-DYNAMIC_RANGE)) + DYNAMIC_RANGE
        loudness = energy.sum(axis=0) / peak
        centre = (loudness * np.arange(len(loudness))).sum() / loudness.sum()
        rows.append(np.roll(log_mel, len(loudness) // 2 - round(centre), axis=1).ravel())
        centres.append(centre)
        levels.append(np.log(peak))
    return np.array(rows, np.float32), np.array(centres), np.array(levels)


def _squash(normal: np.ndarray) -> np.ndarray:
    """Standard normal to U(-1, 1), float32 of the same shape."""
    return np.clip(2 * ndtr(normal) - 1, -0.9999, 0.9999).astype(np.float32)


def _to_normal(columns: np.ndarray) -> np.ndarray:
    """Each column's ranks as standard normal quantiles."""
    ranks = columns.argsort(axis=0).argsort(axis=0)
    return ndtri((ranks + 0.5) / len(columns))


def _class_codes(labels: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Standard normal rows whose largest entry, swapped into place, is the label's: `[N, num_classes]`."""
    code = rng.standard_normal((len(labels), num_classes))
    rows, largest = np.arange(len(labels)), code.argmax(axis=1)
    code[rows, labels], code[rows, largest] = code[rows, largest], code[rows, labels]
    return code


def _basis(latent_dim: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Orthonormal rows: first the indicator of each class's block, then a random basis of the rest."""
    start = rng.standard_normal((latent_dim, latent_dim))
    start[:num_classes] = class_directions(latent_dim, num_classes)
    q, r = np.linalg.qr(start.T)
    return (q * np.sign(np.diag(r))).T
