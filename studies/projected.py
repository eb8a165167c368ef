"""The space of the dense layer's output: how near it comes to real clips, and what is still speech between two of them.

Pairs of clips of one digit are inverted, in the space projected with each weight of the regulariser (latent_prior, the
distance from what the prior gives), and in z. Fidelity: log-mel distance, and accuracy by judges that take part in no
loss. Editability: of the points between two inverted clips, the share that each judge hears as their digit.

Examples:

    # figures/projected.png and its section of RESULTS.md; a line a run is appended to projected.jsonl
    python -m studies.projected ../shared/data/speech_commands_digits
"""

from collections.abc import Mapping, Sequence
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
from matplotlib.figure import Figure

from models.recovery import choose_objective, make_inverter, make_recovery
from studies.speech import heard, heard_right, judges_of_line, parse_networks, protocol
from utils import losses, options
from utils.audio.datasets import DIGITS, Dataset, load_dataset
from utils.domains import REAL
from utils.errors import UserError
from utils.evaluation.clips import Clips
from utils.report.figures import COLOURS
from utils.report.markdown import table_lines
from utils.runs.batches import in_batches
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl

TITLE = "Nearer than any latent: the space `projected`"
KEY = ("space", "weight")  # of two lines with the same, the later one counts
TEXT = """\
`--space projected` searches the output of the generator's dense layer in place of z. **What it finds is not a latent of
the prior**: how far it lies from what the prior gives, in standard deviations of the layer's output (root mean square
over its units), is the column "off the prior", and the weight of the objective's term `latent_prior` holds it near.
Editability: of the points at a quarter, a half and three quarters between two inverted clips of one digit, the share
that is still heard as that digit. {n} clips of the report half, at most {max_iter} iterations from the encoder's
answer, seed {seed}, {precision}; `python -m studies.projected INPUT` makes the lines.

{table}

![Fidelity and editability against the weight of the regulariser](figures/projected.png)
"""
BETWEEN = (0.25, 0.5, 0.75)  # of the way from one clip to the other


def main() -> int:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09, of which the report half is used")
    parser.add_argument("--pairs", type=options.positive_int, default=16, metavar="N", help="pairs of clips")
    parser.add_argument("--weights", default="0 0.1 1 10", metavar="X ...", help="of latent_prior, with blanks between")
    parser.add_argument("--max_iter", type=options.positive_int, default=100, metavar="N", help="iterations a search")
    args, networks = parse_networks(parser)
    clips = pairs(load_dataset(args.input, *networks.generator.clip_shape, "report", cache_dir=args.cache), args)
    objective = str(choose_objective(networks, None, own=False))
    weights = [options.non_negative_float(text) for text in args.weights.split()]
    runs = [("z", 0.0), *(("projected", weight) for weight in weights)]

    shared = {"benchmark": "projected", "split": "report", "max_iter": args.max_iter}
    shared |= protocol(args, networks, clips)
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
        facts |= heard(networks, clips, found.audio)
        generator = networks.projected if space == "projected" else networks.generator
        first, second = found.z[::2], found.z[1::2]
        between = np.concatenate([first + share * (second - first) for share in BETWEEN]).astype(np.float32)
        audio, digits = in_batches(generator, between, args.batch_size), np.tile(clips.labels[::2], len(BETWEEN))
        facts |= heard_right("between", networks, audio, digits, args.batch_size)
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()), flush=True)
        append_jsonl(args.results / "projected.jsonl", shared | facts | describe_environment())
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


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """For RESULTS.md: z first, then by weight; `figure` is its picture."""
    facts = {name: lines[0][name] for name in ("n", "max_iter", "seed", "precision")}
    return TEXT.format(table="\n".join(_table(_by_weight(lines))), **facts)


def figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Against the regulariser's weight: log-mel distance, accuracy of reconstructions, and of points in between."""
    lines = _by_weight(records)
    z = next((line for line in lines if line["space"] == "z"), None)
    swept = [line for line in lines if line["space"] != "z"]
    places, labels = range(len(swept)), [f"{line['weight']:g}" for line in swept]
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, 3)
    panels[0].plot(places, [line["log_mel"] for line in swept], "o-", color=COLOURS[0])
    panels[0].set_title("log-mel distance", fontsize=10)
    for panel, measure, title in (
        (panels[1], "accuracy", "reconstructions heard right"),
        (panels[2], "between", "in between heard as the digit"),
    ):
        for colour, judge in zip(COLOURS[1:], judges_of_line(swept[0]), strict=False):
            panel.plot(places, [100 * line[f"{measure}/{judge}"] for line in swept], "o-", color=colour, label=judge)
            if z:
                panel.axhline(100 * z[f"{measure}/{judge}"], color=colour, linestyle=":")
        panel.set_ylim(0, 102)
        panel.set_ylabel("%")
        panel.set_title(title, fontsize=10)
    if z:
        panels[0].axhline(z["log_mel"], color=COLOURS[0], linestyle=":", label="z")
        panels[0].legend(frameon=False)
    panels[2].legend(frameon=False, loc="lower right")
    for panel in panels:
        panel.set_xticks(places, labels)
        panel.set_xlabel("weight of latent_prior (dotted: z)")
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _by_weight(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(records, key=lambda record: (record["space"] != "z", record["weight"]))


def _table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    judges = judges_of_line(lines[0])
    head = ["space", "weight", "off the prior", "log-mel distance", "STFT distance"]
    head += [f"heard right, {judge}" for judge in judges] + [f"in between, {judge}" for judge in judges] + ["s a clip"]
    rows = []
    for line in lines:
        numbers = [line["prior_distance"], line["log_mel"], line["stft_distance"]]
        cells = ["z", "–"] if line["space"] == "z" else ["projected", f"{line['weight']:g}"]
        cells += [f"{number:.2f}" for number in numbers]
        cells += [f"{100 * line[f'{what}/{judge}']:.0f} %" for what in ("accuracy", "between") for judge in judges]
        rows.append([*cells, f"{line['seconds_a_clip']:.1f}"])
    return table_lines(head, rows)


if __name__ == "__main__":
    options.run(main)
