"""Detect synthetic audio from its predicted latents: Table 3 and Figure 4 of the paper.

Real clips and the generator's own samples are told apart by logistic regression and by an SVM, in 10-fold stratified
cross-validation, from spectrograms and from the latents that the encoder predicts. Beside the paper's two features
stand controls: latents clipped into the prior's box; one number alone (level of the clip's end, level
of the clip, norm of z, largest |z|, the encoder's reconstruction error); what the same encoder answers with random
weights, before any training; and three conditions of the clips, each with one giveaway less:

    as_is     real clips as read, synthetic ones in float32
    pcm16     both rounded to 16 bit
    matched   before that, each real clip takes a further synthetic clip's samples where it is digitally silent, and
              that clip's level elsewhere

An encoder that has batch statistics of real and of synthetic clips encodes every clip by those of real ones: a detector
does not know what a clip is, and the choice would tell.

Examples:
    # Table 3 and Figure 4 on the bundled generator and encoder
    python deepfake_detection.py ../shared/data/speech_commands_digits

    # By the paper's protocol
    python deepfake_detection.py datasets/sc09 --preset paper

    # Trained on this generator's clips, tested on somebody else's: wavs of another generator
    python deepfake_detection.py datasets/sc09 --fakes other_gan/ --output results/other_gan

    # A first look in a minute
    python deepfake_detection.py ../shared/data/speech_commands_digits --n 20 --repeats 2 --output results/quick

Writes into --output: table3.md, .csv and .jsonl (both presets and the paper), figure4.png and .svg
(t-SNE of the first repeat's clips), and detection/, a record for each number of each repeat: an interrupted run
resumes, and a higher --repeats adds to what is there.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from utils import choices, options
from utils.errors import UserError
from utils.evaluation.names import CONDITIONS, FOLDS, LATENTS, SPECTROGRAMS
from utils.options import LARGEST_SEED
from utils.runs.cache import cache_folder

PRESETS = {
    "aligned": {},
    "paper": {
        "encoder": options.PAPER_RECOVERY["encoder"],
        "alignment": "paper",
        "front_end": "stft_real",
        "condition": "as_is",
    },
}
PROTOCOL = "detection 2"  # counts up whenever the same options begin to give other numbers


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    real = "real clips: SC09 in either published layout, or any folder of audio"
    options.add_input(parser, real, *options.DATA)
    add = parser.add_argument_group("clips").add_argument
    add("--split", choices=choices.SPLITS, default="report", help="which of them; encoder and generator saw train")
    number = f"clips of each class and repeat, at least {FOLDS}"
    add("--n", type=options.positive_int, default=100, metavar="N", help=number)
    add("--alignment", choices=choices.ALIGNMENTS, default="aligned", help="level and time base of the real clips")
    fakes = (
        f"clips of a foreign generator, at least {FOLDS}, at most N a repeat are taken: for testing only "
        "(default: none)"
    )
    add("--fakes", type=Path, metavar="DIR", help=fakes)
    add("--cache", type=Path, default=cache_folder(), metavar="DIR", help="where decoded clips are kept")

    group = parser.add_argument_group("model")
    options.add_shared(group, "preset", "generator", "encoder", "trust", "precision", "batch_size")

    group = parser.add_argument_group("detection")
    add = group.add_argument
    add(
        "--front_end",
        choices=choices.FRONT_ENDS,
        default="log_magnitude",
        help="the spectrograms; the paper's are stft_real",
    )
    repeats = "times all is done, with other clips and folds: seeds SEED to SEED + K - 1"
    add("--repeats", type=options.positive_int, default=10, metavar="K", help=repeats)
    condition = "condition of the clips in Figure 4; Table 3 has all"
    add("--condition", choices=CONDITIONS, default="matched", help=condition)
    options.add_shared(group, "seed")

    group = parser.add_argument_group("output")
    where = "folder of the table and the figure"
    group.add_argument("--output", type=Path, default=Path("results"), metavar="DIR", help=where)
    options.add_shared(group, "dry_run", "quiet")

    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    if args.n < FOLDS:
        raise UserError(f"--n: must be at least {FOLDS}, one clip for each fold. Received: {args.n}")
    if args.seed + args.repeats - 1 > LARGEST_SEED:
        raise UserError(f"--seed: must be at most {LARGEST_SEED - args.repeats + 1} for {args.repeats} repeats")
    options.end_dry_run(args, f"Would write table3.md, .csv and .jsonl, figure4.png and .svg into {args.output}")
    return args


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import keras
import numpy as np

from models.encoder import Encoder
from models.networks import Networks, inference
from utils.audio.datasets import Dataset, load_dataset
from utils.domains import REAL
from utils.evaluation.detection import detect, summarise
from utils.evaluation.detection_features import TAIL_SHARE, Extractor
from utils.inversion.store import ResultStore, array_sha256
from utils.report import tables
from utils.report.figures import embedding_figure, save_figure, tsne
from utils.runs.environment import describe_environment
from utils.runs.folders import output_folder
from utils.runs.interrupts import resume_command


def main() -> int | None:
    args = parse_arguments()
    networks = Networks(args.generator, trust=args.trust, encoder=args.encoder, alignment=args.alignment)
    real, fakes = load_real(args, networks), load_fakes(args, networks)
    extractor = make_extractor(args, networks, real, fakes)
    output_folder(args.output, Path("results"), "detection")
    settings = key(args, networks, real, fakes)
    try:
        store = ResultStore(args.output / "detection")
        seeds = range(args.seed, args.seed + args.repeats)
        results = detect(extractor, seeds, store, settings, quiet=args.quiet)
        draw_figure(args, extractor)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(resume_command(args.output, args.output)) from None
    part = {
        "cells": summarise(results),
        "protocol": settings | facts(args, networks, real),
        "seconds": sum(result["seconds"] for result in results),
        "environment": describe_environment(),
    }
    tables.add_detection(args.output, args.preset, part)
    if not args.quiet:
        print(tables.part_markdown(part))
    print(f"Written: {args.output / 'table3.md'}, {args.output / 'figure4.png'}")
    return None


def load_real(args: argparse.Namespace, networks: Networks) -> Dataset:
    shape = networks.generator.clip_shape
    real = load_dataset(args.input, *shape, args.split, args.alignment, args.cache, quiet=args.quiet)
    if len(real) < args.n:
        raise UserError(f"--n {args.n}: {args.input} has only {len(real)} clips in its {args.split} split")
    return real


def load_fakes(args: argparse.Namespace, networks: Networks) -> Dataset | None:
    if not args.fakes:
        return None
    shape = networks.generator.clip_shape
    fakes = load_dataset(args.fakes, *shape, "all", "aligned", args.cache, quiet=args.quiet)
    if len(fakes) < FOLDS:
        raise UserError(f"--fakes {args.fakes}: must hold at least {FOLDS} clips. Received: {len(fakes)}")
    return fakes


def make_extractor(args: argparse.Namespace, networks: Networks, real: Dataset, fakes: Dataset | None) -> Extractor:
    encoder = networks.encoder
    if isinstance(encoder, Encoder):
        encoder = encoder.with_options(precision=args.precision)
    elif args.precision != "float32":
        note = f"--encoder {args.encoder}: not of train.py: it computes as saved, not in {args.precision}"
        print(f"warning: {note}", file=sys.stderr)
    keras.utils.set_random_seed(0)  # of the untrained encoder: the same weights in every run
    untrained = type(encoder).from_config(encoder.get_config())
    shape = [None, *networks.generator.clip_shape[:2]]
    # A detector does not know what a clip is: to encode each by its own domain's statistics would tell.
    encode, encode_untrained = (inference(model, shape, REAL) for model in (encoder, untrained))
    numbers = {name: getattr(args, name) for name in ("n", "front_end", "batch_size")}
    return Extractor(networks.generator, encode, encode_untrained, real, fakes, **numbers)


def key(args: argparse.Namespace, networks: Networks, real: Dataset, fakes: Dataset | None) -> dict[str, Any]:
    """All that a number depends on besides the seed."""
    return {
        "protocol": PROTOCOL,
        "folds": FOLDS,
        **{name: getattr(args, name) for name in ("n", "split", "alignment", "front_end", "precision", "batch_size")},
        **{f"{name}_sha256": networks.sha256(name) for name in ("generator", "encoder")},
        "data_sha256": array_sha256(real.audio),
        "fakes_sha256": None if fakes is None else array_sha256(fakes.audio),
    }


def facts(args: argparse.Namespace, networks: Networks, real: Dataset) -> dict[str, Any]:
    """What else the lines below the table tell."""
    bounded = isinstance(networks.encoder, Encoder) and networks.encoder.options["bounded"]
    given = ("seed", "repeats", "input", "fakes", "generator", "encoder", "condition")
    own = {name: getattr(args, name) for name in given}
    return own | {"clips": len(real), "encoder_bounded": bounded, "tail_share": TAIL_SHARE, "solver": None}


def draw_figure(args: argparse.Namespace, extractor: Extractor) -> None:
    """Figure 4, of the first repeat's clips."""
    groups = extractor(args.condition, extractor.draw(args.seed))
    classes = np.repeat(np.arange(len(groups)), [len(group[LATENTS]) for group in groups])
    titles = {f"{SPECTROGRAMS} ({args.front_end})": SPECTROGRAMS, LATENTS: LATENTS}
    panels = {
        title: tsne(np.concatenate([group[name] for group in groups]), args.seed) for title, name in titles.items()
    }
    names = "real", "synthetic", "foreign"
    note = f"Clips: {CONDITIONS[args.condition]}; seed {args.seed}"
    save_figure(embedding_figure(panels, classes, names[: len(groups)], note), args.output / "figure4")


if __name__ == "__main__":
    options.run(main)
