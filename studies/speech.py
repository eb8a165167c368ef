"""Real clips and what is made of them: objectives and latent spaces compared by log-mel distance and classifiers.

On the report half the judges answer, too, which take part in no loss. On the selection half they do not: there the
default objective is chosen, by the classifier of the loss and by log-mel distance alone.

Examples:

    # how the default objective is chosen, on clips that no published figure is of
    python -m studies.speech ../shared/data/speech_commands_digits --split selection \\
        --objectives "mr_stft=1 log_mel=1 log_mel=1,features=1 log_mel=1,features=3"

    # the default of each space, on the other half
    python -m studies.speech ../shared/data/speech_commands_digits --projected
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from studies.command_line import add_networks
from utils import options


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09")
    parser.add_argument("--split", choices=("selection", "report"), default="report", help="half of the clips")
    parser.add_argument("--n", type=options.positive_int, default=64, metavar="N", help="clips, in random order")
    parser.add_argument(
        "--objectives",
        default=options.REAL_OBJECTIVE,
        metavar="TEXT",
        help="objectives to compare, with blanks in between",
    )
    parser.add_argument("--projected", action="store_true", help="also over the dense layer's output, 100 iterations")
    parser.add_argument(
        "--moved", action="store_true", help="also of clips moved by up to a sixth and up to 18 dB quieter"
    )
    parser.add_argument("--max_iter", type=options.positive_int, default=40, metavar="N", help="iterations over z")
    add_networks(parser)
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from models.networks import Networks
from models.recovery import make_aligner, make_inverter, make_recovery
from utils import losses
from utils.audio.datasets import load_dataset
from utils.domains import REAL
from utils.evaluation.clips import Clips, real_clips
from utils.evaluation.comparison import WORSE, compare, share_interval
from utils.inversion.align import Placements, move_back, place
from utils.metrics import stft_distance
from utils.report.figures import Estimate, interval_figure
from utils.report.origin import origin
from utils.runs.batches import in_batches
from utils.runs.files import append_jsonl
from utils.spectrograms import log_mel

TITLE = "Real clips by objective and space"
ABOUT = "real clips by objective and space: accuracy by the judges, log-mel and STFT distance, seconds"
KEY = ("split", "method", "space", "objective")  # of two lines with the same, the later one counts


def main() -> int:
    args = parse_arguments()
    networks = read_networks(args, with_judges=args.split == "report")
    dataset = load_dataset(args.input, *networks.generator.clip_shape, args.split, cache_dir=args.cache)
    clips, _ = real_clips(dataset, args.n, args.seed)
    objectives = [losses.parse_objective(text) for text in args.objectives.split()]
    runs = [("encoder", "z", objectives[0])] + [("hybrid", "z", objective) for objective in objectives]
    if args.projected:
        runs += [("hybrid", "projected", objectives[-1])]

    shared = {"benchmark": "speech", "split": args.split, "n": len(clips), "seed": args.seed}
    shared |= {"batch_size": args.batch_size, "generator": args.generator}
    made: dict[str, dict[str, np.ndarray]] = {}  # values of the clips, by what made them

    def record(method: str, audio: np.ndarray, **facts: Any) -> None:
        values = clip_values(networks, clips, audio)
        against = {other: compare_all(values, theirs) for other, theirs in made.items()}
        made[facts.get("objective", method) if facts.get("space") != "projected" else "projected"] = values
        searched = {"precision": args.precision, "solver": "batched"} if "objective" in facts else {}
        line = shared | {"method": method} | facts | summary(values) | {"against": against}
        line |= origin(networks, **searched) | ({"encoder_sha256": None} if method == "clips" else {})
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()), flush=True)
        print("    " + "  ".join(f"{k} {v:.4g}" for k, v in summary(values).items() if isinstance(v, float)))
        append_jsonl(args.results / "speech.jsonl", line)

    record("clips", clips.audio)
    for method, space, objective in runs:
        max_iter = 100 if space == "projected" else args.max_iter
        recovery = make_recovery(
            networks,
            make_inverter(networks, objective, space=space),
            max_iter=1,
            hybrid_max_iter=max_iter,
            restarts=1,
            seed=args.seed,
        )
        short = replace(recovery, max_iter={"hybrid": 1})
        short(method, clips.audio[: args.batch_size], clips.identities[: args.batch_size], REAL)  # traces the graphs
        found, seconds = recovery.in_batches(method, clips.audio, clips.identities, REAL, batch_size=args.batch_size)
        facts = {"space": space, "seconds_a_clip": float(seconds.mean())}
        if method == "hybrid":
            facts |= {"objective": str(objective), "max_iter": max_iter, "evaluations": float(found.evaluations.mean())}
        if space == "projected":
            facts["prior_distance"] = float(recovery.inverter.prior_distance(found.z).mean())
        record(method, found.audio, **facts)
    if args.moved:
        for method, audio in encode_moved(networks, clips, args.seed).items():
            record(method, audio)
    if args.split == "selection":
        chosen = choose({text: made[text] for text in map(str, objectives)})
        line = shared | {"method": "chosen", "objective": chosen} | origin(networks, precision=args.precision)
        append_jsonl(args.results / "speech.jsonl", line | {"solver": "batched"})
        print(f"chosen: {chosen}; the default is {options.REAL_OBJECTIVE}")
    return options.EXIT_OK


def choose(candidates: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """The objective to take, from the values of the same clips by each: of those by which the classifier of the loss is
    not worse than by the best of them, by McNemar's exact test, the one with the smallest log-mel distance."""
    accuracy = "accuracy/classifier"
    best = max(candidates, key=lambda text: candidates[text][accuracy].mean())

    def is_worse(text: str) -> bool:
        said = compare(candidates[text][accuracy], candidates[best][accuracy], higher_is_better=True)
        return said["verdict"] == WORSE

    return min((t for t in candidates if not is_worse(t)), key=lambda text: candidates[text]["log_mel"].mean())


def read_networks(args: argparse.Namespace, with_judges: bool = True) -> Networks:
    """The networks that the options of `add_networks` name, judges where they are to answer."""
    judges = args.judge if with_judges else None
    named = {"encoder": args.encoder, "classifier": args.classifier, "judges": judges}
    return Networks(args.generator, precision=args.precision, **named)


def encode_moved(networks: Networks, clips: Clips, seed: int) -> dict[str, np.ndarray]:
    """The encoder's reconstructions of clips that are cut otherwise, as they are and by --align, moved back."""
    rng = np.random.default_rng(seed)
    reach = clips.audio.shape[1] // 6
    offset, gain_db = rng.integers(-reach, reach, len(clips)), rng.uniform(-18, 0, len(clips))
    moved, zero = place(clips.audio, offset, gain_db), np.zeros(len(clips), np.int64)
    as_they_are = Placements(zero, zero.astype(float), np.zeros_like(moved))
    answers = {}
    for method, placement in (("", as_they_are), (", --align", make_aligner(networks)(moved))):
        z = in_batches(lambda audio: networks.encode(audio, REAL), placement.place(moved), 32)
        made = move_back(in_batches(networks.generator, z, 32), placement.offset, placement.gain_db)
        answers[f"encoder, of moved and quieter clips{method}"] = move_back(made, offset, gain_db)
    return answers


def clip_values(networks: Networks, clips: Clips, audio: np.ndarray) -> dict[str, np.ndarray]:
    """Of each clip, whether each classifier judges what was made of it correct, and distances from it; float64 `[N]` by
    name, of audio float32 `[N, T, C]`."""
    values = judged_correct("accuracy", networks, audio, clips.labels, 32)
    values["log_mel"] = log_mel_distance(clips.audio, audio, networks.generator.sample_rate)
    return values | {"stft_distance": np.array(list(map(stft_distance, clips.audio, audio)))}


def judged_correct(
    measure: str, networks: Networks, audio: np.ndarray, labels: np.ndarray, batch_size: int
) -> dict[str, np.ndarray]:
    """Whether each classifier answers the labels `[N]` of audio float32 `[N, T, C]`: 0 or 1 by `measure`/classifier."""
    return {
        f"{measure}/{name}": (predictions.probabilities.argmax(axis=1) == labels).astype(np.float64)
        for name, predictions in networks.classify(audio, batch_size).items()
    }


def summary(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The means of the clips' values."""
    return {name: float(np.mean(of_clips)) for name, of_clips in values.items()}


def compare_all(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """By name, what `compare` says of the values of the same clips."""
    return {name: compare(ours[name], theirs[name], higher_is_better="/" in name) for name in ours if name in theirs}


def log_mel_distance(clips: np.ndarray, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean absolute difference of the log-mel spectrograms, of each pair of `[N, T, C]` float32 audio; `[N]`."""
    a, b = (in_batches(lambda rows: log_mel(tf.constant(rows), sample_rate), x, 32) for x in (clips, audio))
    return np.abs(a - b).mean(axis=(1, 2, 3))


def figure(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy by each classifier and the distances from the clips, a row an objective and method."""
    panels: dict[str, dict[str, dict[str, Estimate]]] = {}
    for line in (line for line in lines if line["method"] != "chosen"):
        row = "the clips themselves" if line["method"] == "clips" else line["method"]
        row += ", projected" if line.get("space") == "projected" else ""
        row += f", {line['objective']}" if "objective" in line else ""
        row += f" ({line['split']})"
        for judge in ("classifier", *judges_of([line])):
            share = share_estimate(line[f"accuracy/{judge}"], line["n"])
            panels.setdefault("correct, %", {}).setdefault(judge, {})[row] = share
        for title, key in (("log-mel distance", "log_mel"), ("STFT distance", "stft_distance")):
            panels.setdefault(title, {}).setdefault("distance", {})[row] = Estimate(line[key])
    return interval_figure(panels)


def share_estimate(share: float, n: int) -> Estimate:
    """A share of n clips in percent."""
    return Estimate(100 * share, *(100 * bound for bound in share_interval(round(share * n), n)))


def judges_of(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The judges that answered, in the order of the lines."""
    found = dict.fromkeys(
        key.removeprefix("accuracy/") for line in lines for key in line if key.startswith("accuracy/")
    )
    return [name for name in found if name != "classifier"]


if __name__ == "__main__":
    options.run(main)
