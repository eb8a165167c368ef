"""Many rows, a few at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from utils.errors import UserError


def in_batches(function: Callable[[np.ndarray], Any], rows: np.ndarray, batch_size: int) -> Any:
    """A function of rows `[N, ...]`, N of at least 1, computed `batch_size` rows at a time; the last batch is smaller.

    Args:
        function: gives an array or a tensor with a row for each row, or a tuple or a dict of them.

    Returns:
        What `function` would give for all rows at once, as NumPy arrays.
    """
    parts = [function(rows[first : first + batch_size]) for first in range(0, len(rows), batch_size)]
    return tf.nest.map_structure(lambda *arrays: np.concatenate([np.asarray(array) for array in arrays]), *parts)


def render(generator: Any, z: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """The audio `[T, C]` of each row of z `[N, latent_dim]`, computed in batches.

    Every batch is filled up: a latent then gives the same samples to the last bit, alone or among others.

    Raises:
        UserError: for samples that are NaN or infinite.
    """
    generate = tf.function(generator)
    for start in range(0, len(z), batch_size):
        batch = z[start : start + batch_size]
        filled = np.pad(batch, [(0, batch_size - len(batch)), (0, 0)])
        audio = generate(tf.constant(filled)).numpy()[: len(batch)]
        for row in np.flatnonzero(~np.isfinite(audio).all(axis=(1, 2)))[:1]:
            raise UserError(f"{generator.name}: gives NaN or infinite samples for latent {start + row} of {len(z)}")
        yield from audio
