"""A WaveGAN without its dense layer, as a generator of that layer's activations h: `--space projected`.

As with StyleGAN's W+ space (Abdal et al., 2019) and intermediate layer optimisation (Daras et al., 2021), h is searched
in place of z. The dense layer maps z to a subspace of latent_dim dimensions, so a free h reproduces real clips more
closely; but most values of h belong to no latent of the prior. `off_prior` measures how far h is from those that do.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from models.generator import Generator
from utils.errors import UserError
from utils.inversion.problem import in_float32
from utils.priors import PRIORS


class ProjectedGenerator:
    """The generator contract, with h, float32 `[B, units]`, in place of z.

    Args:
        generator: whose z the dense layer takes.

    Attributes:
        latent_dim: units of the dense layer (8,192 for the bundled generator).
        float32: the same by the generator in float32; itself where that is one.
        scale: root mean square, over units, of the standard deviation of h when z is drawn from the prior.

    Raises:
        UserError: for a generator that is not a native WaveGAN.
    """

    def __init__(self, generator: Generator):
        if generator.network is None:
            raise UserError(
                f"--space projected: {generator.name} is no WaveGAN whose weights can be read, and only of such "
                "is the dense layer known; use --space z"
            )
        self._generator, self._network = generator, generator.network
        self.num_samples, self.num_channels, self.sample_rate = generator.clip_shape
        self.prior, self.fingerprint, self.name = generator.prior, generator.fingerprint, generator.name
        kernel = np.asarray(self._network.weights["G/z_project/dense/kernel"], np.float64)  # [latent_dim, units]
        self.latent_dim = kernel.shape[1]
        self.scale = float(np.sqrt(PRIORS[self.prior].variance * np.square(kernel).sum(axis=0).mean()))
        self._inverse = tf.constant(np.linalg.pinv(kernel), tf.float32)
        float32 = in_float32(generator)
        self.float32 = self if float32 is generator else ProjectedGenerator(float32)

    def __call__(self, h: tf.Tensor) -> tf.Tensor:
        """h float32 `[B, units]` to audio float32 `[B, T, C]`."""
        return self._network.from_projected(tf.convert_to_tensor(h, tf.float32))

    def project(self, z: np.ndarray) -> tf.Tensor:
        """z float32 `[B, latent_dim of the generator]` to h."""
        return self._network.project(tf.convert_to_tensor(z, tf.float32))

    def project_answers(self, encode: Callable[[np.ndarray, str], tf.Tensor]) -> Callable[[np.ndarray, str], tf.Tensor]:
        """An encoder, audio float32 `[B, T, C]` and its domain to z, as one to h; z in the box of a bounded prior."""
        prior = PRIORS[self.prior]
        return lambda audio, domain: self.project(tf.clip_by_value(encode(audio, domain), prior.low, prior.high))

    def sample_prior(self, seed: int, n: int, start: int = 0) -> np.ndarray:
        """h of the generator's own samples, float32 `[n, units]`."""
        return self.project(self._generator.sample_prior(seed, n, start)).numpy()

    def off_prior(self, h: tf.Tensor) -> tf.Tensor:
        """How far h is from the activations of the prior's latents, per unit and over `scale`, float32 `[B, units]`.

        That is h minus the activations of its least-squares z, which is clipped to the bounds of a bounded prior: 0 for
        a sample, otherwise at least the distance to the nearest activations of a latent within the bounds.
        """
        prior, mean = PRIORS[self.prior], self.project(np.zeros([1, self._generator.latent_dim], np.float32))
        z = tf.clip_by_value(tf.matmul(h - mean, self._inverse), prior.low, prior.high)
        return (h - self.project(z)) / self.scale
