"""The space of the dense layer's output: how near it comes to real clips, and what lies between two of them.

Pairs of clips of one digit are inverted, in the space projected with each weight of the regulariser (latent_prior, the
distance from what the prior gives), and in z. Fidelity: log-mel distance, and accuracy by judges that take part in no
loss. Editability: of the points between two inverted clips, the share that each judge takes for their digit.

Examples:

    # figures/projected.png and its section of RESULTS.md; a line a run is appended to projected.jsonl
    python -m studies.projected ../shared/data/speech_commands_digits
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from studies.command_line import add_networks
from utils import options


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09, of which the report half is used")
    parser.add_argument("--pairs", type=options.positive_int, default=16, metavar="N", help="pairs of clips")
    parser.add_argument("--weights", default="0 0.1 1 10", metavar="X ...", help="of latent_prior, with blanks between")
    parser.add_argument("--max_iter", type=options.positive_int, default=100, metavar="N", help="iterations a search")
    add_networks(parser)
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
from matplotlib.figure import Figure

from models.recovery import choose_objective, make_inverter, make_recovery
from studies.speech import clip_values, judged_correct, judges_of, read_networks, share_estimate, summary
from utils import losses
from utils.audio.datasets import DIGITS, Dataset, load_dataset
from utils.domains import REAL
from utils.errors import UserError
from utils.evaluation.clips import Clips
from utils.report.figures import Estimate, interval_figure
from utils.report.origin import origin
from utils.runs.batches import in_batches
from utils.runs.files import append_jsonl

TITLE = "The space `projected`, which holds no latents of the prior"
ABOUT = "the space `projected` by the weight of `latent_prior`: fidelity, distance from the prior, editability"
KEY = ("space", "weight")  # of two lines with the same, the later one counts
BETWEEN = (0.25, 0.5, 0.75)  # of the way from one clip to the other


def main() -> int:
    args = parse_arguments()
    networks = read_networks(args)
    clips = pairs(load_dataset(args.input, *networks.generator.clip_shape, "report", cache_dir=args.cache), args)
    objective = str(choose_objective(networks, None, own=False))
    weights = [options.non_negative_float(text) for text in args.weights.split()]
    runs = [("z", 0.0), *(("projected", weight) for weight in weights)]

    shared = {"benchmark": "projected", "split": "report", "max_iter": args.max_iter, "n": len(clips)}
    shared |= {"seed": args.seed, "batch_size": args.batch_size, "generator": args.generator}
    shared |= origin(networks, precision=args.precision, solver="batched")
    for space, weight in runs:
        minimised = losses.parse_objective(objective + (f",latent_prior={weight}" if weight else ""))
        recovery = make_recovery(
            networks,
            make_inverter(networks, minimised, space=space),
            max_iter=1,
            hybrid_max_iter=args.max_iter,
            restarts=1,
            seed=args.seed,
        )
        found, seconds = recovery.in_batches("hybrid", clips.audio, clips.identities, REAL, batch_size=args.batch_size)
        distance = recovery.inverter.prior_distance(found.z)
        facts = {"space": space, "weight": weight, "objective": str(minimised), "seconds_a_clip": float(seconds.mean())}
        facts["prior_distance"] = 0.0 if distance is None else float(distance.mean())
        facts |= summary(clip_values(networks, clips, found.audio))
        generator = networks.projected if space == "projected" else networks.generator
        first, second = found.z[::2], found.z[1::2]
        between = np.concatenate([first + share * (second - first) for share in BETWEEN]).astype(np.float32)
        audio, digits = in_batches(generator, between, args.batch_size), np.tile(clips.labels[::2], len(BETWEEN))
        facts |= summary(judged_correct("between", networks, audio, digits, args.batch_size))
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()), flush=True)
        append_jsonl(args.results / "projected.jsonl", shared | facts)
    return options.EXIT_OK


def pairs(dataset: Dataset, args) -> Clips:
    """Clips 2 i and 2 i + 1 are of one digit, digits in turn, and of two files, drawn by the seed."""
    if not dataset.class_names:
        raise UserError(f"{args.input}: no digit labels; SC09 has zero/ ... nine/ or train/Zero_*.wav")
    random = np.random.default_rng(args.seed)
    left = {digit: list(random.permutation(np.flatnonzero(dataset.labels == digit))) for digit in range(len(DIGITS))}
    order = []
    for i in range(args.pairs):
        if len(left[i % len(DIGITS)]) < 2:
            raise UserError(f"--pairs {args.pairs}: the {dataset.split} split has too few clips of a digit")
        order += [left[i % len(DIGITS)].pop(), left[i % len(DIGITS)].pop()]
    names, identities = ([part[i] for i in order] for part in (dataset.names, dataset.identities))
    return Clips(dataset.to_float(order), dataset.labels[order], names, identities, REAL)


def figure(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """By the regulariser's weight: distance off the prior, log-mel distance, accuracy of reconstructions and of points
    between two of one digit."""
    panels: dict[str, dict[str, dict[str, Estimate]]] = {}
    for line in sorted(lines, key=lambda line: (line["space"] != "z", line["weight"])):
        row = "z" if line["space"] == "z" else f"projected, weight {line['weight']:g}"
        for title, key in (("off the prior", "prior_distance"), ("log-mel distance", "log_mel")):
            panels.setdefault(title, {}).setdefault("distance", {})[row] = Estimate(line[key])
        for title, key, n in (
            ("correct, %", "accuracy", line["n"]),
            ("in between correct, %", "between", line["n"] // 2 * len(BETWEEN)),
        ):
            for judge in judges_of([line]):
                panels.setdefault(title, {}).setdefault(judge, {})[row] = share_estimate(line[f"{key}/{judge}"], n)
    return interval_figure(panels)


if __name__ == "__main__":
    options.run(main)
