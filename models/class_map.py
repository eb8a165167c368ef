"""An invertible map T between the prior and a code: one affine map a class, the class by the first entry of z.

z ~ U(-1, 1). Its first entry's range is cut into as many equal cells as there are classes; within a cell T is the
affine map that gives what z holds, the place within the cell included, the mean and the covariance of the class's
codes. So the prior becomes a mixture of nearly normal distributions, and T^-1 of a clip's code is its latent in closed
form. The code's leading components, which stand for pitch, are those of all classes alike: entries of z by themselves,
and in each class the others depend on them as they do in its clips.

Why so: a flow (conditional flow matching) on top of one affine map a class brings next to nothing, and the class by a
single entry is what a generator with one hidden layer before its second upsampling can follow: a change of the affine
map at a threshold is a difference of two ReLUs (`models.front`).
"""

import numpy as np
import tensorflow as tf

SHRINKAGE = 0.1  # of a class's covariance towards that of all codes within classes
EDGE = 0.999  # of a cell, and of the prior's box: how far `inverse` goes


class ClassMap:
    """T and its inverse.

    Args:
        codes: float32 `[N, L]`, what T(z) is to be distributed as.
        labels: int `[N]` in `[0, num_classes)`.
        num_classes: 1 where there are no labels.
        importance: float `[L]`, the weight of each component of the code where classes are made alike.
        shared: how many leading components all classes share.
        seed: of the rotation.

    Attributes:
        order: int `[num_classes]`, the class of each cell; neighbours are alike.
        slopes: float32 `[num_classes, L, L]`, by class: w = v @ slope + offset with v of unit variance.
        offsets: float32 `[num_classes, L]`.
        thresholds: float64 `[num_classes - 1]`, between the cells of z's first entry.
    """

    def __init__(
        self,
        codes: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        *,
        importance: np.ndarray,
        shared: int = 0,
        seed: int = 0,
    ):
        codes, importance = np.float64(codes), np.float64(importance)
        self.num_classes, latent_dim = num_classes, codes.shape[1]
        means = np.stack([codes[labels == k].mean(axis=0) for k in range(num_classes)])
        within = _covariance(codes - means[labels])
        covariances = []
        for k in range(num_classes):
            rows = codes[labels == k] - means[k]
            share = len(rows) / (len(rows) + SHRINKAGE * len(codes) / num_classes + 2 * latent_dim)
            covariances.append(share * _covariance(rows) + (1 - share) * within)
        pitch = codes[:, :shared]
        start = _start(_given(within, shared)[1], importance[shared:], seed)
        slopes, offsets = np.zeros((num_classes, latent_dim, latent_dim)), means.copy()
        # z's first entry, which changes fast within a cell, is not of the shared ones; these are the next.
        slopes[:, 1 : 1 + shared, :shared] = _root(_covariance(pitch - pitch.mean(axis=0)))
        own = np.delete(np.arange(latent_dim), np.arange(1, 1 + shared))
        for k, covariance in enumerate(covariances):
            by_pitch, left = _given(covariance, shared)
            slopes[k][:, shared:] = slopes[k][:, :shared] @ by_pitch
            slopes[k][own, shared:] = start @ _transport(start.T @ start, left, importance[shared:])
            offsets[k, :shared] = pitch.mean(axis=0)
            offsets[k, shared:] += (pitch.mean(axis=0) - means[k, :shared]) @ by_pitch
        self.slopes, self.offsets = np.float32(slopes), np.float32(offsets)
        self.inverse_slopes = np.float32(np.linalg.inv(slopes))
        self.order = _chain(offsets, slopes, importance)
        self.cells = np.argsort(self.order).astype(np.int32)
        self.thresholds = np.linspace(-1, 1, num_classes + 1)[1:-1]

    def labels(self, z: tf.Tensor) -> tf.Tensor:
        """Classes int32 `[B]` of latents float32 `[B, L]`."""
        cell = tf.cast(tf.floor((z[:, 0] + 1) / 2 * self.num_classes), tf.int32)
        return tf.gather(np.int32(self.order), tf.clip_by_value(cell, 0, self.num_classes - 1))

    def forward(self, z: tf.Tensor) -> tf.Tensor:
        """T: z float32 `[B, L]` in (-1, 1) to codes float32 `[B, L]`."""
        labels = self.labels(z)
        within = self.num_classes * (z[:, :1] + 1) - 1 - 2 * self._cell(labels)
        v = 3**0.5 * tf.concat([within, z[:, 1:]], axis=1)
        return tf.linalg.matvec(tf.gather(self.slopes, labels), v, transpose_a=True) + tf.gather(self.offsets, labels)

    def inverse(self, w: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The inverse of T: codes float32 `[B, L]` of classes int32 `[B]` to z, cut to the box, of these classes."""
        centred = w - tf.gather(self.offsets, labels)
        v = tf.linalg.matvec(tf.gather(self.inverse_slopes, labels), centred, transpose_a=True) / 3**0.5
        v = tf.clip_by_value(v, -EDGE, EDGE)
        first = (v[:, :1] + 1 + 2 * self._cell(labels)) / self.num_classes - 1
        return tf.concat([first, v[:, 1:]], axis=1)

    def _cell(self, labels):
        return tf.cast(tf.gather(self.cells, labels), tf.float32)[:, None]


def _covariance(rows: np.ndarray) -> np.ndarray:
    return rows.T @ rows / len(rows)


def _given(covariance: np.ndarray, shared: int) -> tuple[np.ndarray, np.ndarray]:
    """Regression of the other components on the shared leading ones, and the covariance that it leaves."""
    across = covariance[:shared, shared:]
    by_shared = np.linalg.solve(covariance[:shared, :shared] + 1e-6 * np.eye(shared), across)
    return by_shared, covariance[shared:, shared:] - across.T @ by_shared


def _root(covariance: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Symmetric square root, or another power."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 1e-6) ** power) @ vectors.T


def _start(covariance: np.ndarray, importance: np.ndarray, seed: int) -> np.ndarray:
    """A square root S of a covariance, S^T S, rotated at random, so that sums of many uniform entries are nearly
    normal; the first row, which changes fast within a cell, is the least important component alone."""
    scale = np.sqrt(importance)
    values, vectors = np.linalg.eigh(scale[:, None] * covariance * scale)
    rows = (np.sqrt(np.maximum(values, 1e-12))[:, None] * vectors.T) / scale
    count = len(rows) - 1
    rows[1:] = np.linalg.qr(np.random.default_rng([seed, 0x207]).standard_normal((count, count)))[0] @ rows[1:]
    return rows


def _transport(covariance: np.ndarray, wanted: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """The map M with M^T covariance M = wanted that changes normal rows least, in the distance by importance: optimal
    transport between normal distributions (Olkin and Pukelsheim, 1982)."""
    scale = np.sqrt(importance)
    a, b = (scale[:, None] * x * scale for x in (covariance, wanted))
    root, inverse = _root(a), _root(a, -0.5)
    return scale[:, None] * (inverse @ _root(root @ b @ root) @ inverse) / scale


def _chain(means: np.ndarray, slopes: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """The classes in an order in which neighbours are alike, int `[K]`: reversals of stretches, while any helps."""
    distances = (importance * np.square(means[:, None] - means)).sum(axis=-1)
    distances += (importance * np.square(slopes[:, None] - slopes)).sum(axis=(-1, -2))
    order, count = np.arange(len(means)), len(means)
    length = lambda order: distances[order[:-1], order[1:]].sum()  # noqa: E731
    improved = True
    while improved:
        improved = False
        for i in range(count):
            for j in range(i + 1, count):
                other = np.concatenate([order[:i], order[i : j + 1][::-1], order[j + 1 :]])
                if length(other) < length(order) - 1e-9:
                    order, improved = other, True
    return order
