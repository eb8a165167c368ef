"""A latent for every clip of a dataset by a nearly linear map, such that together they look like draws from the prior.

Principal components of the clips' log-mel spectrograms and, where clips are labelled, what tells the classes apart are
brought to a standard normal, mixed by a random rotation and squashed to U(-1, 1). A decoder can be trained on such
latents at once, and an encoder can begin as the linear map that comes nearest to them.
"""

import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.decomposition import PCA

from utils.errors import UserError

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
    features: np.ndarray, labels: np.ndarray, num_classes: int, latent_dim: int, seed: int
) -> np.ndarray:
    """Latents of a dataset's clips.

    Args:
        features: float32 `[N, D]`, what each clip sounds like: its log-mel spectrogram, flattened.
        labels: int `[N]` in `[0, num_classes)`; ignored where `num_classes` is 0.
        num_classes: 0 for unlabelled sound.
        latent_dim: size of a latent L.
        seed: of the rotations.

    Returns:
        float32 `[N, L]` in (-1, 1). Where labelled, `class_code` of every row is the clip's label.

    Raises:
        UserError: for too few clips or too small an L.
    """
    if len(features) <= latent_dim or latent_dim < num_classes + 3:
        raise UserError(
            f"needs more clips than --latent_dim, and that to be {num_classes + 3} or more. "
            f"Received: {len(features)} clips, --latent_dim {latent_dim}; --recipe wgan_gp takes any number"
        )
    rng = np.random.default_rng(seed)
    features = features - features.mean(axis=0)
    code = np.empty((len(features), 0))
    if num_classes:
        contrasts = _contrasts(num_classes)
        components = PCA(latent_dim, random_state=seed).fit_transform(features)
        discriminants = _whitened(_class_scores(components, labels, num_classes) @ contrasts)
        features = features - discriminants @ (discriminants.T @ features / len(features))
        scores, rows = gaussianized(discriminants, rng) @ contrasts.T, np.arange(len(labels))
        best = scores.argmax(axis=1)  # where that is not the label, the two change places
        scores[rows, labels], scores[rows, best] = scores[rows, best], scores[rows, labels]
        code = scores @ contrasts
    components = PCA(latent_dim - code.shape[1], whiten=True, random_state=seed).fit_transform(features)
    normal = np.column_stack([code, gaussianized(components, rng)]) @ _basis(latent_dim, num_classes, rng)
    return np.clip(2 * ndtr(normal) - 1, -0.999999, 0.999999).astype(np.float32)


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
