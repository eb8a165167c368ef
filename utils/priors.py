"""The distributions that latents are drawn from, and what follows from each: bounds, variance, floors."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Prior:
    """What every entry of z is drawn from, independently; mean 0.

    Attributes:
        name: "uniform" in [-1, 1], or "normal" (standard).
        low, high: bounds of an entry, infinite where there are none.
        variance: of an entry: the mean squared error of always answering z = 0. Another draw's is twice that.
    """

    name: str
    low: float
    high: float
    variance: float

    @property
    def bounded(self) -> bool:
        """Whether latents lie in a box."""
        return bool(np.isfinite(self.high))

    def draw(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
        """Latents from NumPy's generator, float64 of a shape."""
        return rng.uniform(self.low, self.high, shape) if self.bounded else rng.standard_normal(shape)

    def stateless(self, shape: list[int], seed: tf.Tensor) -> tf.Tensor:
        """Latents as a function of `seed`, int32 `[2]`, alone: float32 of a shape."""
        if self.bounded:
            return tf.random.stateless_uniform(shape, seed, self.low, self.high)
        return tf.random.stateless_normal(shape, seed)


PRIORS = {
    "uniform": Prior("uniform", -1.0, 1.0, 1 / 3),
    "normal": Prior("normal", -np.inf, np.inf, 1.0),
}
