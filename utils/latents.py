"""Latents as the prior U(-1, 1) has them, z, and as a standard normal, u."""

import tensorflow as tf


def squash(u: tf.Tensor) -> tf.Tensor:
    """Standard normal to U(-1, 1), same shape."""
    return tf.math.erf(u / 2**0.5)


def unsquash(z: tf.Tensor) -> tf.Tensor:
    """Inverse of `squash`, to +-3.9 at most."""
    return 2**0.5 * tf.math.erfinv(tf.clip_by_value(z, -0.9999, 0.9999))
