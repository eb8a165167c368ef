"""Measure an encoder's statistics of batch normalisation anew, of real and of synthetic clips each; no weight changes.

For encoders that were trained before the statistics of the two domains were kept apart, or on clips that were degraded
(`train.py --augment_synthetic`) and are now met clean:

    python -m models.recalibration ../shared/data/speech_commands_digits --export encoder.keras
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import tensorflow as tf

from models.checkpoints import write_in_half_precision
from models.encoder import DOMAINS, Encoder
from models.loading import Networks
from utils import options
from utils.audio.datasets import load_dataset
from utils.evaluation.names import REAL, SYNTHETIC
from utils.options import UserError


def recalibrate(encoder: Encoder, batches: Mapping[str, Iterable[np.ndarray]]) -> Encoder:
    """A copy of an encoder whose moving statistics are means over batches of each domain.

    As in training each batch is normalised by its own statistics on its way through the network, and it is these whose
    means are taken: every batch counts alike.

    Args:
        encoder: stays as it is.
        batches: clips float32 `[B, T, C]` in [-1, 1], for each of `models.encoder.DOMAINS`.
    """
    copy = encoder.with_options(domain_statistics=True, precision="float32")
    step = tf.function(copy, reduce_retracing=True, autograph=False)
    variables = {
        domain: [variable for layer in copy.normalizations for variable in layer.moving_statistics(domain)]
        for domain in DOMAINS
    }
    for layer in copy.normalizations:
        layer.momentum = 0.0  # the moving statistics become the batch's
    for domain, means in variables.items():
        sums, count = [0.0] * len(means), 0
        for audio in batches[domain]:
            step(tf.constant(audio), training=True, domain=domain)
            sums = [total + variable.numpy().astype(np.float64) for total, variable in zip(sums, means, strict=True)]
            count += 1
        for total, variable in zip(sums, means, strict=True):
            variable.assign(total / count)
    return copy.with_options()  # with the momentum of training


def main() -> int:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "real clips, of which the training split is taken")
    options.add_shared(parser, "generator", "encoder", "trust", "batch_size", "seed", batch_size=64)
    export = "write the encoder there, its weights rounded to float16"
    parser.add_argument("--export", type=Path, required=True, metavar="FILE", help=export)
    parser.add_argument("--cache", type=Path, default=Path("cache"), metavar="DIR", help="where decoded clips are kept")
    args = parser.parse_args()
    if args.export.suffix != ".keras":
        raise UserError(f"--export: must end in .keras. Received: {args.export}")
    networks = Networks(args.generator, trust=args.trust, encoder=args.encoder)
    generator, encoder, size = networks.generator, networks.encoder, args.batch_size
    if not isinstance(encoder, Encoder):
        raise UserError(f"--encoder {args.encoder}: must be an encoder of train.py. Received: {type(encoder).__name__}")
    clips = load_dataset(args.input, *generator.clip_shape, "train", encoder.options["alignment"], args.cache)
    if len(clips) < size:
        raise UserError(f"--batch_size {size}: must be at most the {len(clips)} clips of {args.input}")
    order = np.random.default_rng(args.seed).permutation(len(clips))
    groups = [order[first : first + size] for first in range(0, len(order) - size + 1, size)]
    batches = {
        REAL: (clips.to_float(np.sort(group)) for group in groups),
        SYNTHETIC: (generator(generator.sample_prior(args.seed, size, start=i * size)) for i in range(len(groups))),
    }
    write_in_half_precision(recalibrate(encoder, batches), args.export)
    n = len(groups) * size
    print(f"statistics of {n} real clips ({clips.describe()})\nand of {n} samples, seed {args.seed}: {args.export}")
    return options.EXIT_OK


if __name__ == "__main__":
    options.run(main)
