"""Latents of the prior and how they sound: starts near a clip, for searches."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from utils import spectrograms
from utils.runs.batches import in_batches
from utils.runs.cached_arrays import keep_array, read_array

POOL = 4  # frames and bands of the log-mel spectrogram that a feature is the mean of
BATCH = 64
FORMAT = 1  # to be raised with every change of what the features are
OFFSET = 10_000_000  # in the list of latents of seed 0: far from any that a clip is made of


class LatentBank:
    """The log-mel features of `size` latents of the prior, computed when first asked for.

    Costs `size` forward passes, and about 2 kB of memory a latent for a clip of 16,384 samples.

    Args:
        generator: as in `utils.inversion.methods`.
        size: of the bank.
        folder: where the features are kept between processes, in a file named by the generator's `fingerprint`; None
            for not at all.
    """

    def __init__(self, generator: Any, size: int, folder: Path | None = None):
        self._generator, self._size = generator, size
        self._file = folder and folder / f"bank-{FORMAT}-{size}-{generator.fingerprint[:16]}.npy"
        self._features: np.ndarray | None = None

    def nearest(self, targets: np.ndarray, k: int) -> np.ndarray:
        """The k latents whose features are nearest to a clip's, nearest first.

        Args:
            targets: float32 `[B, T, C]` in [-1, 1].
            k: at most the bank's size.

        Returns:
            float32 `[B, k, latent_dim]`.
        """
        if self._features is None:
            self._z = self._generator.sample_prior(0, self._size, OFFSET)
            self._features = self._file and read_array(self._file)
            if self._features is None:
                self._features = self._computed()
                if self._file:
                    keep_array(self._file, self._features)
        wanted = self._describe(targets).numpy()
        distance = np.square(self._features).sum(axis=1) - 2 * wanted @ self._features.T  # up to the clip's own norm
        return self._z[distance.argsort(axis=1)[:, :k]]

    def _computed(self) -> np.ndarray:
        signature = [tf.TensorSpec([None, self._generator.latent_dim])]
        sound = tf.function(lambda z: self._describe(self._generator(z)), input_signature=signature)
        return in_batches(sound, self._z, BATCH)

    def _describe(self, audio: tf.Tensor) -> tf.Tensor:
        """float32 `[B, features]`."""
        log_mel = spectrograms.log_mel(audio, self._generator.sample_rate)
        pooled = tf.nn.avg_pool2d(log_mel, POOL, POOL, "SAME")
        return tf.reshape(pooled, [-1, np.prod(pooled.shape[1:])])
