"""The class that a latent stands for: the block of `L // num_classes` entries with the largest sum.

Entries are taken as standard normal; those left over take no part. Under the prior every class is equally likely.
"""

import functools

import numpy as np
import tensorflow as tf
from scipy.special import ndtri

MOMENT_DRAWS = 1_000_000


def class_code(z: np.ndarray, num_classes: int) -> np.ndarray:
    """Classes int32 `[B]` in `[0, num_classes)` of latents z, float `[B, L]` in (-1, 1)."""
    width = z.shape[1] // num_classes
    normal = ndtri((np.float64(z[:, : num_classes * width]) + 1) / 2)
    return normal.reshape(len(z), num_classes, width).sum(axis=2).argmax(axis=1).astype(np.int32)


def block_sums(u: tf.Tensor, num_classes: int) -> tf.Tensor:
    """The sums that are compared, float32 `[B, num_classes]`, of latents as standard normals u `[B, L]`."""
    width = u.shape[1] // num_classes
    return tf.reduce_sum(tf.reshape(u[:, : num_classes * width], [-1, num_classes, width]), axis=2)


def class_code_of_normal(u: tf.Tensor, num_classes: int) -> tf.Tensor:
    """`class_code` of latents as standard normals u, float32 `[B, L]`; int32 `[B]`."""
    return tf.argmax(block_sums(u, num_classes), axis=1, output_type=tf.int32)


def with_class(u: tf.Tensor, labels: tf.Tensor, num_classes: int, margin: float) -> tf.Tensor:
    """u with as little changed as gives it its class: the class's block rises, the largest other falls.

    Args:
        u: float32 `[B, L]`.
        labels: int32 `[B]`, the classes that u is to have.
        margin: by which the class's sum exceeds the others where it had to be changed.
    """
    if num_classes == 1:
        return u
    width = u.shape[1] // num_classes
    sums, own = block_sums(u, num_classes), tf.one_hot(labels, num_classes)
    others = tf.where(own > 0, -np.inf, sums)
    # Each pass lowers one block; a second block may then be the largest.
    wrong = tf.reduce_max(others, axis=1) >= tf.reduce_sum(own * sums, axis=1)
    rise = tf.reduce_max(others, axis=1) - tf.reduce_sum(own * sums, axis=1) + margin
    change = (own - tf.one_hot(tf.argmax(others, axis=1), num_classes)) * (rise / (2 * width))[:, None]
    # Half the rise to each of the two leaves a third block possibly above: the class's block takes the rest.
    second = tf.math.top_k(others, 2).values[:, 1] if num_classes > 2 else tf.fill(tf.shape(rise), -np.inf)
    lacking = tf.nn.relu(second + margin - tf.reduce_sum(own * (sums + width * change), axis=1))
    change = tf.where(wrong[:, None], change + own * (lacking / width)[:, None], 0.0)
    spread = tf.repeat(change, width, axis=1)
    return u + tf.pad(spread, [[0, 0], [0, u.shape[1] - num_classes * width]])


@functools.lru_cache
def class_moments(latent_dim: int, num_classes: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[L]` and covariance `[L, L]` of a standard normal u restricted to a class.

    Only the block sums are restricted, so theirs are estimated, from a million draws, and the rest is exact.
    """
    if num_classes == 1:
        return np.zeros(latent_dim), np.eye(latent_dim)
    width = latent_dim // num_classes
    sums = np.random.default_rng(0).standard_normal((MOMENT_DRAWS, num_classes))
    rows, largest = np.arange(len(sums)), sums.argmax(axis=1)
    sums[rows, largest], sums[rows, label] = sums[rows, label], sums[rows, largest]
    blocks = np.repeat(np.eye(num_classes), width, axis=0) / np.sqrt(width)
    blocks = np.pad(blocks, [(0, latent_dim - num_classes * width), (0, 0)])
    covariance = np.eye(latent_dim) + blocks @ (np.cov(sums.T) - np.eye(num_classes)) @ blocks.T
    return blocks @ sums.mean(axis=0), covariance
