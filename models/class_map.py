"""An invertible map T between the prior and a code: one affine map a class, the class by the first entry of z.

z ~ U(-1, 1). Its first entry's range is cut into as many equal cells as there are classes; within a cell T is the
affine map that gives what z holds, the place within the cell included, the mean and the covariance of the class's
codes. So the prior becomes a mixture of nearly normal distributions, and T^-1 of a clip's code is its latent in closed
form.

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
        importance: float `[L]`, the weight of each component of the code in the distance of classes.
        seed: of the rotation.

    Attributes:
        order: int `[num_classes]`, the class of each cell; neighbours are alike.
        slopes: float32 `[num_classes, L, L]`, by class: w = v @ slope + offset with v of unit variance.
        offsets: float32 `[num_classes, L]`.
        thresholds: float64 `[num_classes - 1]`, between the cells of z's first entry.
    """

    def __init__(self, codes: np.ndarray, labels: np.ndarray, num_classes: int, *, importance: np.ndarray, seed: int):
        codes = np.float64(codes)
        self.num_classes, latent_dim = num_classes, codes.shape[1]
        means = np.stack([codes[labels == k].mean(axis=0) for k in range(num_classes)])
        centred = codes - means[labels]
        within = centred.T @ centred / len(codes)
        rotation = _rotation(latent_dim, int(np.argmin(importance)), seed)
        slopes = []
        for k in range(num_classes):
            rows = centred[labels == k]
            share = len(rows) / (len(rows) + SHRINKAGE * len(codes) / num_classes + 2 * latent_dim)
            slopes.append(rotation @ _root(share * rows.T @ rows / len(rows) + (1 - share) * within))
        self.slopes, self.offsets = np.float32(slopes), np.float32(means)
        self.inverse_slopes = np.float32(np.linalg.inv(slopes))
        self.order = _chain(means, np.array(slopes), importance)
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


def _root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 1e-6))) @ vectors.T


def _rotation(latent_dim: int, least: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix, so that sums of many uniform entries are nearly normal; the first entry, which
    changes fast within a cell, goes to the component `least` alone."""
    others = np.linalg.qr(np.random.default_rng([seed, 0x207]).standard_normal((latent_dim - 1, latent_dim - 1)))[0]
    rotation = np.zeros((latent_dim, latent_dim))
    rotation[0, least] = 1
    rotation[1:, np.delete(np.arange(latent_dim), least)] = others
    return rotation


def _chain(means: np.ndarray, slopes: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """The classes in an order in which neighbours are alike, int `[K]`: reversals of stretches, while any helps."""
    importance = np.float64(importance)
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
