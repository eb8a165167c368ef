"""Latents as the prior U(-1, 1) has them, z, and as a standard normal, u."""

import tensorflow as tf


def squash(u: tf.Tensor) -> tf.Tensor:
    """Standard normal to U(-1, 1), same shape."""
    return tf.math.erf(u / 2**0.5)
