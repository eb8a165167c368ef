"""How fast a generator is, and how much of its latent space it uses.

Times one TF1 WaveGAN as its frozen graph and as the native network, forward and forward + backward in z, beside
the matrix product's peak on the same machine. The variants take turns: a loaded machine slows all alike.

Examples:

    # the published size, random weights
    python -m benchmarks.generator

    # the bundled generator
    python -m benchmarks.generator --generator checkpoint/

    # singular values of dG/dz: which latent directions the generator ignores
    python -m benchmarks.generator --generator checkpoint/ --jacobian
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from utils import options


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    group = parser.add_argument_group("generator")
    options.add_shared(group, "generator", generator=None)
    group.add_argument(
        "--dim",
        type=options.positive_int,
        default=64,
        metavar="N",
        help="without --generator: WaveGAN's channel multiplier, random weights; the published models have 64",
    )
    group = parser.add_argument_group("measurement")
    options.add_shared(group, "seed")
    group.add_argument(
        "--batch_sizes",
        type=options.positive_int,
        nargs="+",
        default=[1, 8, 32],
        metavar="B",
        help="clips computed together",
    )
    group.add_argument(
        "--rounds",
        type=options.positive_int,
        default=20,
        metavar="N",
        help="of which medians are taken, at B = 1",
    )
    group.add_argument("--jacobian", action="store_true", help="print singular values of dG/dz instead of times")
    group.add_argument(
        "--latents", type=options.positive_int, default=9, metavar="N", help="of --jacobian: at how many z"
    )
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import tensorflow as tf

from models import tf1
from models.generator import Generator, load_generator
from models.wavegan import Architecture, initial_weights
from utils.errors import UserError
from utils.evaluation.generator_statistics import jacobian_statistics, singular_values

RANKS = (1, 25, 50, 75, 100)
PRODUCT_SIZE = 2048


def interleaved_medians(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function over rounds, in each of which all are called; one more to warm up."""
    seconds = {name: [] for name in functions}
    for i in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def multiply_adds(architecture: Architecture) -> float:
    """Useful multiply-adds of one clip's forward pass: taps that meet a zero of the upsampling are not counted."""
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
    """A product of two square matrices, of 2 * PRODUCT_SIZE^3 operations."""
    a = tf.cast(tf.random.stateless_normal([PRODUCT_SIZE, PRODUCT_SIZE], [0, 0]), dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, a)))
    return lambda: product().numpy()


def frozen_graph(folder: Path) -> Callable[[tf.Tensor], tf.Tensor]:
    """The generator of a TF1 folder as its frozen graph."""
    graph_path, prefix = tf1.find_checkpoint(folder)
    with tf1.restored(graph_path, prefix) as graph:
        return tf1.as_function(graph.freeze(), graph_path)[0]


def passes(function: Callable[[tf.Tensor], tf.Tensor], z: tf.Tensor) -> tuple[Callable, Callable]:
    """Forward, and forward + backward in z of the mean absolute sample."""
    forward = tf.function(lambda z: function(z))

    @tf.function
    def gradient(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = tf.reduce_mean(tf.abs(function(z)))
        return tape.gradient(loss, z)

    return lambda: forward(z).numpy(), lambda: gradient(z).numpy()


def benchmark(folder: Path, batch_sizes: list[int], rounds: int) -> None:
    """Prints the table for a TF1 folder."""
    native = load_generator(folder)
    if native.network is None:
        raise UserError(f"--generator {folder}: {native.notes[0]}")
    variants = {
        "frozen TF1 graph": frozen_graph(folder),
        "native float32": native,
        "native mixed_bfloat16": load_generator(folder, "mixed_bfloat16"),
    }
    giga = 2e-9 * multiply_adds(native.network.architecture)
    print(*native.notes, sep="\n")
    print(f"{giga:.2f} GFLOP a clip forward, twice that forward + backward in z\n")
    products = {"float32": matrix_product(tf.float32), "bfloat16": matrix_product(tf.bfloat16)}
    peaks = {name: 2e-9 * PRODUCT_SIZE**3 / s for name, s in interleaved_medians(products, rounds).items()}
    print(
        f"matrix product {PRODUCT_SIZE}^3: " + ", ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in peaks.items())
    )
    print("\n| variant | B | forward, ms a clip (GFLOP/s) | forward + backward, ms a clip (GFLOP/s) |")
    print("|---|---|---|---|")
    for batch in batch_sizes:
        z = tf.constant(native.sample_prior(0, batch))
        functions = {}
        for name, function in variants.items():
            functions[name, 1], functions[name, 2] = passes(function, z)
        medians = interleaved_medians(functions, max(3, rounds // (1 + batch // 8)))
        for name in variants:
            cells = [
                f"{1e3 * medians[name, cost] / batch:.1f} ({cost * giga * batch / medians[name, cost]:.0f})"
                for cost in (1, 2)
            ]
            print(f"| {name} | {batch} | {cells[0]} | {cells[1]} |", flush=True)


def print_jacobian(generator: Generator, count: int, seed: int) -> None:
    """One line a latent, and the median over latents."""
    ranks = [rank for rank in RANKS if rank <= generator.latent_dim]
    print(f"singular values of dG/dz of {generator.name}, {count} latents of the prior, seed {seed}")
    print("| z | " + " | ".join(f"s{rank}" for rank in ranks) + " | smallest / largest | participation ratio |")
    print("|---|" + "---|" * (len(ranks) + 2))
    rows = []
    for i, z in enumerate(generator.sample_prior(seed, count)):
        s = singular_values(generator, z)
        facts = jacobian_statistics(s)
        rows.append([*(s[rank - 1] for rank in ranks), facts["smallest_to_largest"], facts["participation_ratio"]])
        print(_line(str(i), rows[-1]), flush=True)
    print(_line("median", np.median(rows, axis=0)))


def _line(name: str, values: Sequence[float]) -> str:
    *singular, participation = values
    return f"| {name} | " + " | ".join(f"{value:.2g}" for value in singular) + f" | {participation:.1f} |"


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.generator
        if folder is None:
            folder = Path(temporary)
            architecture = Architecture(dim=args.dim)
            tf1.write_tf1(folder, initial_weights(architecture, args.seed), architecture)
        if args.jacobian:
            print_jacobian(load_generator(folder), args.latents, args.seed)
        else:
            benchmark(Path(folder), args.batch_sizes, args.rounds)


if __name__ == "__main__":
    options.run(main)
