"""Detect synthetic audio from its predicted latents: Table 3 and Figure 4 of the paper.

Real clips and the generator's own samples are told apart by logistic regression and by an SVM, in 10-fold stratified
cross-validation, from spectrograms and from the latents that the encoder predicts. Beside the paper's two features
stand what a sceptic asks for: latents clipped into the prior's box; one number alone (level of the clip's end, level
of the clip, norm of z, largest |z|, the encoder's reconstruction error); what the same encoder answers with random
weights, before any training; and three conditions of the clips, each with one giveaway less:

    as_is     real clips as read, synthetic ones in float32
    pcm16     both rounded to 16 bit
    matched   before that, each real clip takes a further synthetic clip's samples where it is digitally silent, and
              that clip's level elsewhere

Examples:
    # Table 3 and Figure 4 on the bundled generator and encoder
    python deepfake_detection.py --data ../shared/data/speech_commands_digits

    # By the paper's protocol
    python deepfake_detection.py --data datasets/sc09 --preset paper --output results/paper

    # Trained on this generator's clips, tested on somebody else's: wavs of another generator
    python deepfake_detection.py --data datasets/sc09 --fakes other_gan/ --output results/other_gan

    # A first look in a minute
    python deepfake_detection.py --data ../shared/data/speech_commands_digits --n 20 --repeats 2 --output results/quick

Writes into --output: table3.md, table3.csv and table3.json (the paper's numbers beside ours), figure4.png and
figure4.svg (t-SNE of the first repeat's clips), and table3.jsonl, a line for each number of each repeat. Those with
the same protocol are not computed again: an interrupted run goes on, and a higher --repeats adds to what is there.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from models.encoder import Encoder, find_encoder, load_encoder
from models.generator import Generator, load_generator
from utils import options
from utils.audio.datasets import SPLITS, Dataset, load_dataset
from utils.audio.files import ALIGNMENTS
from utils.evaluation import detection
from utils.evaluation.detection import (
    CLASSIFIERS,
    CONDITIONS,
    FOLDS,
    LATENTS,
    REAL,
    SPECTROGRAMS,
    SYNTHETIC,
    UNTRAINED_LATENTS,
)
from utils.inversion import invert as recovery
from utils.options import LARGEST_SEED, UserError
from utils.report.figures import embedding_figure, save_figure, tsne
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl, atomic_path, file_sha256, read_jsonl, write_json
from utils.runs.folders import output_folder
from utils.spectrograms import KINDS

PRESETS = {
    "aligned": {},
    "paper": {"alignment": "paper", "front_end": "stft_real", "condition": "as_is"},
}
PROTOCOL = "detection 2"  # counts up whenever the same options begin to give other numbers


def parse_options() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    group = parser.add_argument_group("clips")
    add = group.add_argument
    add(
        "--data",
        type=Path,
        default=Path("datasets/sc09"),
        metavar="DIR",
        help="real clips: SC09 in either published layout, or any folder of audio",
    )
    add("--split", choices=SPLITS, default="report", help="which of them; encoder and generator saw train")
    add(
        "--n",
        type=options.positive_int,
        default=100,
        metavar="N",
        help=f"clips of each class and repeat, at least {FOLDS}",
    )
    add("--alignment", choices=ALIGNMENTS, default="aligned", help="level and time base of the real clips")
    add(
        "--fakes",
        type=Path,
        metavar="DIR",
        help=f"clips of a foreign generator, at least {FOLDS}, at most N a repeat are taken: for testing only "
        "(default: none)",
    )
    add("--cache", type=Path, default=Path("cache"), metavar="DIR", help="where decoded clips are kept")

    group = parser.add_argument_group("model")
    options.add_shared(group, "preset", "generator", "encoder", "precision", "batch_size")

    group = parser.add_argument_group("detection")
    add = group.add_argument
    add("--front_end", choices=KINDS, default="log_magnitude", help="the spectrograms; the paper's are stft_real")
    add(
        "--repeats",
        type=options.positive_int,
        default=10,
        metavar="K",
        help="times all is done, with other clips and folds: seeds SEED to SEED + K - 1",
    )
    add(
        "--condition", choices=CONDITIONS, default="matched", help="condition of the clips in Figure 4; Table 3 has all"
    )
    options.add_shared(group, "seed")

    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, default=Path("results"), metavar="DIR", help="folder of the table and the figure"
    )
    options.add_shared(group, "dry_run", "quiet")

    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    if args.n < FOLDS:
        raise UserError(f"--n: must be at least {FOLDS}, one clip for each fold. Received: {args.n}")
    if args.seed + args.repeats - 1 > LARGEST_SEED:
        raise UserError(f"--seed: must be at most {LARGEST_SEED - args.repeats + 1} for {args.repeats} repeats")
    return args


@dataclass
class Subjects:
    """What is compared, by what. encoder: an `Encoder`, or any Keras model. fakes: None without `--fakes`."""

    generator: Generator
    encoder: keras.Model
    real: Dataset
    fakes: Dataset | None


def warn(message: str) -> None:
    print("warning:", message, file=sys.stderr)


def load_subjects(args: argparse.Namespace) -> Subjects:
    # float32 whatever --precision says: the noise of bfloat16 would give synthetic clips away.
    generator = load_generator(args.generator)
    encoder = load_encoder(args.encoder)
    if isinstance(encoder, Encoder):
        for option, ours in (("alignment", args.alignment), ("generator", generator.fingerprint)):
            if (theirs := encoder.options[option]) not in ("", ours):
                warn(f"--encoder {args.encoder}: was trained with another {option}, {theirs}")
        encoder = encoder.with_precision(args.precision)
    elif args.precision != "float32":
        warn(f"--encoder {args.encoder}: not of train.py: it computes as saved, not in {args.precision}")
    shape = generator.num_samples, generator.num_channels, generator.sample_rate
    real = load_dataset(args.data, *shape, args.split, args.alignment, args.cache, quiet=args.quiet)
    if len(real) < args.n:
        raise UserError(f"--n {args.n}: --data {args.data} has only {len(real)} clips in its {args.split} split")
    fakes = None
    if args.fakes:
        fakes = load_dataset(args.fakes, *shape, "all", "aligned", args.cache, quiet=args.quiet)
        if len(fakes) < FOLDS:
            raise UserError(f"--fakes {args.fakes}: must hold at least {FOLDS} clips. Found: {len(fakes)}")
    return Subjects(generator, encoder, real, fakes)


def protocol(args: argparse.Namespace, subjects: Subjects) -> dict[str, Any]:
    """All that a number depends on besides the seed."""

    def sha256(dataset: Dataset | None) -> str | None:
        return None if dataset is None else hashlib.sha256(np.ascontiguousarray(dataset.audio)).hexdigest()

    return {
        "protocol": PROTOCOL,
        "folds": FOLDS,
        **{name: getattr(args, name) for name in ("n", "split", "alignment", "front_end", "precision")},
        "generator_sha256": subjects.generator.fingerprint,
        "encoder_sha256": file_sha256(find_encoder(args.encoder)),
        "data_sha256": sha256(subjects.real),
        "fakes_sha256": sha256(subjects.fakes),
    }


class Extractor:
    """Draws the clips of a seed and computes their features."""

    def __init__(self, args: argparse.Namespace, subjects: Subjects):
        self.args, self.subjects = args, subjects
        self._generate = tf.function(subjects.generator)
        self._encode = tf.function(lambda audio: subjects.encoder(audio, training=False))
        untrained = untrained_copy(subjects.encoder)
        self._encode_untrained = tf.function(lambda audio: untrained(audio, training=False))

    def draw(self, seed: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Real, synthetic and perhaps foreign clips `[B, T, C]`, each with the donors that `matched` takes."""
        n, subjects = self.args.n, self.subjects
        synthetic, donors, more_donors = np.split(self._batches(self._generate, self._latents(seed, 3 * n)), 3)
        rng = np.random.default_rng(seed)
        drawn = [(_choose(subjects.real, n, rng), donors), (synthetic, None)]
        if subjects.fakes is not None:
            foreign = _choose(subjects.fakes, min(n, len(subjects.fakes)), rng)
            drawn.append((foreign, more_donors[: len(foreign)]))
        return drawn

    def _latents(self, seed: int, n: int) -> np.ndarray:
        return self.subjects.generator.sample_prior(seed, n)

    def features(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """`utils.evaluation.detection.features` of clips `[B, T, C]`, and an untrained encoder's answers."""
        args, generator = self.args, self.subjects.generator
        z = self._batches(lambda x: recovery.from_encoder(generator, self._encode, x, clip_to_prior=False)[:, 0], clips)
        reconstruction = self._batches(self._generate, z)
        for option, values in (("encoder", z), ("generator", reconstruction)):
            if not np.isfinite(values).all():
                raise UserError(f"--{option} {getattr(args, option)}: gives NaN or infinite values for these clips")
        clip_to_prior = generator.prior == "uniform"
        found = detection.features(clips, z, reconstruction, front_end=args.front_end, clip_to_prior=clip_to_prior)
        return found | {UNTRAINED_LATENTS: self._batches(self._encode_untrained, clips)}

    def _batches(self, function, inputs: np.ndarray) -> np.ndarray:
        size = self.args.batch_size
        return np.concatenate([np.asarray(function(inputs[i : i + size])) for i in range(0, len(inputs), size)])


def untrained_copy(encoder: keras.Model) -> keras.Model:
    """The same network with random weights, the same ones in every run."""
    keras.utils.set_random_seed(0)
    return type(encoder).from_config(encoder.get_config())


def _choose(dataset: Dataset, n: int, rng: np.random.Generator) -> np.ndarray:
    return dataset.to_float(np.sort(rng.choice(len(dataset), n, replace=False)))


def measure_all(args: argparse.Namespace, extractor: Extractor, settings: dict[str, Any], file: Path) -> Iterator[dict]:
    """The records of every repeat, condition, feature and classifier; new ones are added to `file`.

    A record's `seconds` count from the one before, so that they add up to the wall time, drawing included.
    """
    known = {_key(r): r for r in read_jsonl(file) if r.get("settings") == settings}
    names = list(dict.fromkeys(key[2] for key in known))
    environment = describe_environment()
    classes = "real, synthetic" + (", foreign" if extractor.subjects.fakes else "")
    with tqdm(total=args.repeats * len(CONDITIONS), unit="table", desc=classes, disable=args.quiet) as bar:
        for seed in range(args.seed, args.seed + args.repeats):
            drawn, started = None, time.monotonic()
            for condition in CONDITIONS:
                expected = [(seed, condition, name, classifier) for name in names for classifier in CLASSIFIERS]
                if not expected or any(key not in known for key in expected):
                    drawn = drawn or extractor.draw(seed)
                    groups = [extractor.features(detection.prepare(condition, *group)) for group in drawn]
                    names = list(groups[0])
                    for name in names:
                        for classifier in CLASSIFIERS:
                            key = seed, condition, name, classifier
                            if key not in known:
                                record = measure_one(key, [group[name] for group in groups])
                                record["seconds"] = round(time.monotonic() - started, 3)
                                known[key] = record | {"settings": settings, **environment}
                                append_jsonl(file, known[key])
                                started = time.monotonic()
                bar.update()
                for name in names:
                    for classifier in CLASSIFIERS:
                        yield known[seed, condition, name, classifier]


def _key(record: dict[str, Any]) -> tuple:
    return tuple(record[name] for name in ("seed", "condition", "feature", "classifier"))


def measure_one(key: tuple, groups: list[np.ndarray]) -> dict[str, Any]:
    """Cross-validation of one feature, `[B, D]` for real, synthetic and perhaps foreign clips, by one classifier."""
    seed, condition, feature, classifier = key
    x = np.concatenate(groups[:2])
    labels = np.repeat([REAL, SYNTHETIC], [len(group) for group in groups[:2]])
    foreign = groups[2] if len(groups) > 2 else None
    own, theirs = detection.cross_validate(x, labels, classifier, seed=seed, foreign=foreign)
    record = {"seed": seed, "condition": condition, "feature": feature, "classifier": classifier}
    for name, held_out in (("own", own), ("foreign", theirs)):
        if held_out is not None:
            record[name] = {"decisions": len(held_out.labels), **detection.measure(held_out)}
    return record


def by_test_set(records: list[dict[str, Any]], fakes: Path | None) -> list[dict[str, Any]]:
    """Records as `detection.summarise` takes them, first those of the own test clips, then the foreign."""
    tests = {"own": "own"} | ({"foreign": str(fakes)} if fakes else {})
    return [record | {"tested_on": label} | record[test] for test, label in tests.items() for record in records]


def draw_figure(args: argparse.Namespace, extractor: Extractor) -> None:
    """Figure 4, of the first repeat's clips."""
    groups = [extractor.features(detection.prepare(args.condition, *group)) for group in extractor.draw(args.seed)]
    classes = np.repeat(np.arange(len(groups)), [len(group[LATENTS]) for group in groups])
    titles = {f"{SPECTROGRAMS} ({args.front_end})": SPECTROGRAMS, LATENTS: LATENTS}
    panels = {
        title: tsne(np.concatenate([group[name] for group in groups]), args.seed) for title, name in titles.items()
    }
    names = "real", "synthetic", "foreign"
    note = f"Clips: {CONDITIONS[args.condition]}; seed {args.seed}"
    save_figure(embedding_figure(panels, classes, names[: len(groups)], note), args.output / "figure4")


def notes(args: argparse.Namespace, subjects: Subjects, environment: dict[str, Any], seconds: float) -> str:
    """The lines below the table: what was measured, how, on what."""
    last = args.seed + args.repeats - 1
    commit = f"{environment['commit'] or 'none'}"[:12] + (", changed" if environment["dirty"] else "")
    encoder = subjects.encoder
    bounded = isinstance(encoder, Encoder) and encoder.options["bounded"]
    lines = [
        f"{args.n} real clips ({args.data.name}, {args.split} split of {len(subjects.real)}, {args.alignment}) and "
        f"{args.n} synthetic ones, drawn anew for each of {args.repeats} seeds ({args.seed} to {last}); {FOLDS}-fold "
        "stratified cross-validation, scaling inside the fold; AUC and EER are means over folds and seeds. "
        "Chance is 50 %.",
        f"Spectrograms: {args.front_end}. Reconstruction error: mean absolute difference of these. Tail: the last "
        f"1/{detection.TAIL_SHARE} of a clip. Levels in dB.",
        f"Generator {args.generator} ({subjects.generator.fingerprint[:12]}), encoder {args.encoder} "
        f"({args.precision}{', ends in tanh: clipping changes nothing' if bounded else ''}). "
        "The paper's numbers are of the official WaveGAN, its own encoder and one draw of SC09.",
        f"Preset {args.preset}; {PROTOCOL}; commit {commit}; {environment['hardware']['cpu']}, "
        f"{environment['hardware']['cores']} cores; {seconds:.0f} s.",
    ]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    args = parse_options()
    if args.dry_run:
        for name, value in vars(args).items():
            print(f"{name:12} {value}")
        print(f"Would write table3.md, .csv, .json and .jsonl, figure4.png and .svg into {args.output}")
        return
    subjects = load_subjects(args)
    args.output = output_folder(args.output, Path("results"), "detection")
    settings, file = protocol(args, subjects), args.output / "table3.jsonl"
    extractor = Extractor(args, subjects)
    records = list(measure_all(args, extractor, settings, file))
    summary = detection.summarise(by_test_set(records, args.fakes))
    draw_figure(args, extractor)

    environment, seconds = describe_environment(), sum(record["seconds"] for record in records)
    table = detection.to_markdown(summary)
    write_text(args.output / "table3.md", "# Table 3\n\n" + table + "\n" + notes(args, subjects, environment, seconds))
    write_text(args.output / "table3.csv", detection.to_csv(summary))
    seeds = list(range(args.seed, args.seed + args.repeats))
    whole = {"cells": summary, "seeds": seeds, "seconds": seconds, "settings": settings, "options": vars(args)}
    write_json(args.output / "table3.json", whole | environment)
    if not args.quiet:
        print(table)
    print(f"Written: {args.output / 'table3.md'}, {args.output / 'figure4.png'}")


if __name__ == "__main__":
    options.run(main)
