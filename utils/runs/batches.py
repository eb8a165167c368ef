"""Many rows, a few at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def in_batches(function: Callable[[np.ndarray], Any], rows: np.ndarray, batch_size: int) -> Any:
    """A function of rows `[N, ...]`, N of at least 1, computed `batch_size` rows at a time; the last batch is smaller.

    Args:
        function: gives an array or a tensor with a row for each row, or a tuple or a dict of them.

    Returns:
        What `function` would give for all rows at once, as NumPy arrays.
    """
    parts = [function(rows[first : first + batch_size]) for first in range(0, len(rows), batch_size)]
    return tf.nest.map_structure(lambda *arrays: np.concatenate([np.asarray(array) for array in arrays]), *parts)
