"""Generators small enough for tests, as factories: `tests.tiny:generator`."""

import numpy as np
import tensorflow as tf


class Tiny:
    """A two-layer network of smooth partials: 1024 samples at 8 kHz from 6 latents."""

    latent_dim, num_samples, num_channels, sample_rate, prior = 6, 1024, 1, 8000, "uniform"

    def __init__(self, num_channels: int = 1, prior: str = "uniform", seed: int = 0):
        self.num_channels, self.prior = num_channels, prior
        rng = np.random.default_rng(seed)
        time = np.arange(self.num_samples) / self.sample_rate
        partials = [np.sin(2 * np.pi * (80 + 130 * i) * time + i) for i in range(24)]
        self.mix = tf.constant(rng.normal(0, 0.5, (self.latent_dim, 24)), tf.float32)
        self.partials = tf.constant(np.array(partials) * 0.12, tf.float32)

    def __call__(self, z):
        channel = tf.tanh(tf.sinh(z @ self.mix) @ self.partials)
        return tf.stack([channel * 0.8**i for i in range(self.num_channels)], axis=-1)


def generator() -> Tiny:
    return Tiny()


def stereo_normal() -> Tiny:
    return Tiny(num_channels=2, prior="normal")


def other_seed() -> Tiny:
    return Tiny(seed=1)
