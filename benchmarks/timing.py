"""What the benchmarks have in common: functions timed in turn, and how many operations they take."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from models import tf1
from models.wavegan import Architecture

PRODUCT_SIZE = 2048


def interleaved_medians(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function; in each round all are called once, and the first round is not counted."""
    seconds = {name: [] for name in functions}
    for i in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def multiply_adds(architecture: Architecture) -> float:
    """Multiply-adds of one clip's forward pass, without those with a zero that upsampling has put in."""
    total = np.prod(architecture.weight_shapes["G/z_project/dense/kernel"])
    frames = 16
    for layer in architecture.upsamplings:
        total += (
            frames
            * layer.channels_in
            * layer.channels_out
            * layer.kernel_len
            * (layer.stride if layer.upsample == "nn" else 1)
        )
        frames *= layer.stride
    return float(total)


def matrix_product(dtype: tf.DType) -> Callable[[], object]:
    """A product of two square matrices, which takes 2 * PRODUCT_SIZE^3 operations, ready to call."""
    a = tf.cast(tf.random.stateless_normal([PRODUCT_SIZE, PRODUCT_SIZE], [0, 0]), dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, a)))
    return lambda: product().numpy()


def frozen_graph(folder: Path) -> Callable[[tf.Tensor], tf.Tensor]:
    """The generator of a TF1 folder as its frozen graph."""
    graph_path, prefix = tf1.find_checkpoint(folder)
    with tf1.restored(graph_path, prefix) as graph:
        return tf1.as_function(graph.freeze(), graph_path)[0]
