"""What is heard of real clips: objectives and latent spaces compared, by judges that take part in no loss.

Examples:

    # how the default objective was chosen, on clips that no published figure is of
    python -m studies.speech ../shared/data/speech_commands_digits --split selection \\
        --objectives "mr_stft=1 log_mel=1 log_mel=1,features=1"

    # the default of each space, on the other half
    python -m studies.speech ../shared/data/speech_commands_digits --projected
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import tensorflow as tf

from models.networks import Networks
from models.recovery import make_aligner, make_inverter, make_recovery
from utils import losses, options
from utils.audio.datasets import load_dataset
from utils.domains import REAL
from utils.evaluation.clips import Clips, real_clips
from utils.inversion.align import move_back, place
from utils.metrics import stft_distance
from utils.report.markdown import table_lines
from utils.runs.batches import in_batches
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl
from utils.spectrograms import log_mel

TITLE = "Real clips: what is heard"
KEY = ("split", "method", "space", "objective")  # of two lines with the same, the later one counts
HEARD = """\
By objective and space, {n} clips of each half, {precision}, seed {seed}. The default objective was chosen on the
selection half; `python -m studies.speech INPUT` makes the lines. The classifier takes part in the objective's term
`features`, the judges in none.

{table}
"""


def main() -> int:
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
    args, networks = parse_networks(parser)
    dataset = load_dataset(args.input, *networks.generator.clip_shape, args.split, cache_dir=args.cache)
    clips, _ = real_clips(dataset, args.n, args.seed)
    objectives = [losses.parse_objective(text) for text in args.objectives.split()]
    runs = [("encoder", "z", objectives[0])] + [("hybrid", "z", objective) for objective in objectives]
    if args.projected:
        runs += [("hybrid", "projected", objectives[-1])]

    shared = {"benchmark": "speech", "split": args.split} | protocol(args, networks, clips)
    record(args.results, shared | {"method": "clips"} | heard(networks, clips, clips.audio))
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
        facts = {"method": method, "space": space, "seconds_a_clip": float(seconds.mean())}
        if method == "hybrid":
            facts |= {"objective": str(objective), "max_iter": max_iter, "evaluations": float(found.evaluations.mean())}
        if space == "projected":
            facts["prior_distance"] = float(recovery.inverter.prior_distance(found.z).mean())
        record(args.results, shared | facts | heard(networks, clips, found.audio))
    if args.moved:
        for method, audio in encode_moved(networks, clips, args.seed).items():
            record(args.results, shared | {"method": method} | heard(networks, clips, audio))
    return options.EXIT_OK


def parse_networks(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Networks]:
    """The command line, with the options of networks, batches and files added, and the networks that it names."""
    options.add_shared(parser, "generator", "encoder", "classifier", "judge", "precision", judge=options.JUDGES)
    options.add_shared(parser, "batch_size", "seed", batch_size=32)
    parser.add_argument("--cache", type=Path, default=Path("cache"), metavar="DIR", help="where decoded clips are kept")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the record goes")
    args = parser.parse_args()
    return args, Networks(
        args.generator, encoder=args.encoder, classifier=args.classifier, judges=args.judge, precision=args.precision
    )


def protocol(args: argparse.Namespace, networks: Networks, clips: Clips) -> dict[str, Any]:
    """What every line of a run says of how it was made."""
    facts = {"n": len(clips)} | {name: getattr(args, name) for name in ("seed", "precision", "batch_size")}
    return facts | {f"{name}_sha256": networks.sha256(name) for name in ("generator", "encoder", "classifier")}


def encode_moved(networks: Networks, clips: Clips, seed: int) -> dict[str, np.ndarray]:
    """The encoder's reconstructions of clips that are cut otherwise, as they are and by --align, moved back."""
    rng = np.random.default_rng(seed)
    reach = clips.audio.shape[1] // 6
    offset, gain_db = rng.integers(-reach, reach, len(clips)), rng.uniform(-18, 0, len(clips))
    moved, zero = place(clips.audio, offset, gain_db), np.zeros(len(clips), np.int64)
    answers = {}
    for method, placement in (("", (zero, zero)), (", --align", make_aligner(networks, 32)(moved))):
        z = in_batches(lambda audio: networks.encode(audio, REAL), place(moved, *placement), 32)
        made = move_back(in_batches(networks.generator, z, 32), *placement)
        answers[f"encoder, of moved and quieter clips{method}"] = move_back(made, offset, gain_db)
    return answers


def heard(networks: Networks, clips: Clips, audio: np.ndarray) -> dict[str, float]:
    """Accuracy by each classifier and distances from the clips, of what was made of them, float32 `[N, T, C]`."""
    facts = heard_right("accuracy", networks, audio, clips.labels, 32)
    facts["log_mel"] = float(log_mel_distance(clips.audio, audio, networks.generator.sample_rate).mean())
    facts["stft_distance"] = float(np.mean(list(map(stft_distance, clips.audio, audio))))
    return facts


def heard_right(
    measure: str, networks: Networks, audio: np.ndarray, labels: np.ndarray, batch_size: int
) -> dict[str, float]:
    """Share of audio float32 `[N, T, C]` heard as its labels `[N]`, by `measure`/classifier."""
    return {
        f"{measure}/{name}": float(np.mean(predictions.probabilities.argmax(axis=1) == labels))
        for name, predictions in networks.classify(audio, batch_size).items()
    }


def log_mel_distance(clips: np.ndarray, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean absolute difference of the log-mel spectrograms, of each pair of `[N, T, C]` float32 audio; `[N]`."""
    a, b = (in_batches(lambda rows: log_mel(tf.constant(rows), sample_rate), x, 32) for x in (clips, audio))
    return np.abs(a - b).mean(axis=(1, 2, 3))


def record(folder: Path, facts: Mapping[str, Any]) -> None:
    """Prints a line and appends it to speech.jsonl."""
    print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in facts.items() if "sha256" not in k))
    append_jsonl(folder / "speech.jsonl", {**facts, **describe_environment()})


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """For RESULTS.md: a row an objective, method and half."""
    first = lines[0]
    judges = ["classifier", *judges_of_line(first)]
    head = ["half", "made by", "objective", "iterations", *(f"right, {judge}" for judge in judges)]
    head += ["log-mel distance", "STFT distance", "s a clip"]
    rows = []
    for line in lines:
        made_by = "the clips themselves" if line["method"] == "clips" else line["method"]
        made_by += ", projected" if line.get("space") == "projected" else ""
        cells = [line["split"], made_by, f"`{line['objective']}`" if "objective" in line else "–"]
        cells += [str(line.get("max_iter", "–")), *(f"{100 * line[f'accuracy/{judge}']:.0f} %" for judge in judges)]
        cells += [f"{line['log_mel']:.2f}", f"{line['stft_distance']:.2f}"]
        cells += [f"{line['seconds_a_clip']:.1f}" if "seconds_a_clip" in line else "–"]
        rows.append(cells)
    facts = {name: first[name] for name in ("n", "precision", "seed")}
    return HEARD.format(table="\n".join(table_lines(head, rows)), **facts)


def judges_of_line(line: Mapping[str, Any]) -> list[str]:
    names = [key.removeprefix("accuracy/") for key in line if key.startswith("accuracy/")]
    return [name for name in names if name != "classifier"]


if __name__ == "__main__":
    options.run(main)
