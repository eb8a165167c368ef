"""How fast a generator is.

Times one TF1 WaveGAN as its frozen graph and as the native network, forward and forward + backward in z, beside a
large matrix product. The variants run in turn, so that other load on the machine slows all of them alike.

Examples:

    # the published size, random weights
    python -m benchmarks.generator

    # the bundled generator
    python -m benchmarks.generator --generator checkpoint/
"""

import argparse
import tempfile
from collections.abc import Callable
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
        help="repetitions at B = 1, of which medians are printed; fewer at larger B",
    )
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import tensorflow as tf

from benchmarks.timing import PRODUCT_SIZE, frozen_graph, interleaved_medians, matrix_product, multiply_adds
from models import tf1
from models.generator import load_generator
from models.wavegan import Architecture, initial_weights
from utils.errors import UserError


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


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.generator
        if folder is None:
            folder = Path(temporary)
            architecture = Architecture(dim=args.dim)
            tf1.write_tf1(folder, initial_weights(architecture, args.seed), architecture)
        benchmark(Path(folder), args.batch_sizes, args.rounds)


if __name__ == "__main__":
    options.run(main)
