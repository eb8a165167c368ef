"""Tables 1 and 2 and Figures 2 and 3 of the paper: how well clips are inverted, by flags or whole.

A row is chosen by the paper's flags. `--inverse_mapping` is the encoder, `--gradient` is L-BFGS from the prior, both
are the hybrid, neither is the clips themselves; `--synth` takes the generator's own samples (Table 1) in place of real
clips (Table 2).

Examples:
  # One row: the hybrid on real clips
  python calculate_metrics.py --data ../shared/data/speech_commands_digits --inverse_mapping --gradient

  # Table 1, all rows and floors, the paper's protocol (hours); a first look in minutes
  python calculate_metrics.py --table 1 --preset paper
  python calculate_metrics.py --table 1 --n 40 --precision mixed_bfloat16 --max_iter 50

  # Both tables, then the page that shows them beside the paper's (`make results` does this for both presets)
  python calculate_metrics.py --data ../shared/data/speech_commands_digits --all
  python calculate_metrics.py --data ../shared/data/speech_commands_digits --report RESULTS.md

  # Clips and reconstructions to listen to; somebody else's method in Table 2
  python calculate_metrics.py --data ../shared/data/speech_commands_digits --gradient --keep
  python calculate_metrics.py --originals results/kept/real-aligned/originals --reconstructions theirs/ --table 2

Writes into --output: metrics.jsonl (each row printed, as one line), tableN.json, tableN.md and tableN.csv (the paper's
numbers beside ours, both presets), figureN.png and figureN.svg, and recovered/, the latents found so far: an
interrupted row goes on where it was, and a row that was computed before is only scored.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import tensorflow as tf

from models.checkpoints import require_same_clips
from models.classifier import Classifier, classifier_features, find_classifier, load_classifier, middle_block_features
from models.encoder import Encoder, find_encoder, load_encoder
from models.generator import Generator, load_generator
from utils import losses, metrics, options
from utils.audio.datasets import DIGITS, SPLITS, UNLABELLED, load_dataset
from utils.audio.files import ALIGNMENTS
from utils.evaluation import rows as evaluation
from utils.evaluation.rows import (
    CLIPS,
    ENCODER,
    GRADIENT,
    HYBRID,
    OTHER,
    REAL,
    RECOVERY_METHODS,
    SAMPLE,
    SYNTHETIC,
    Clips,
    Heard,
    Reconstruction,
)
from utils.inversion import invert as recovery
from utils.options import UserError
from utils.report import results_md as results_page
from utils.report import tables
from utils.report.figures import reconstruction_figure, save_figure
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl, file_sha256
from utils.runs.folders import output_folder

PRESETS = {
    "aligned": {},
    "paper": {
        "alignment": "paper",
        "objective": "stft_real=1,waveform=1,feature=0.002",  # the weight of the published metric script
        "solver": "scipy",
        "clip_to_prior": False,
        "max_iter": 50_000,
    },
}
KINDS = {1: SYNTHETIC, 2: REAL}
FLAGS = ("synth", "inverse_mapping", "gradient")
METHODS = {(False, False): CLIPS, (True, False): ENCODER, (False, True): GRADIENT, (True, True): HYBRID}
NONE = "none"


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(f"{__doc__.strip()}\n\nMetrics, each with a 95 % interval:\n{metrics.describe()}")
    switch = argparse.BooleanOptionalAction
    group = parser.add_argument_group("one row, by the paper's flags")
    group.add_argument("--synth", action=switch, default=False, help="the generator's samples, not real clips")
    group.add_argument("--inverse_mapping", action=switch, default=False, help="start from the encoder's answer")
    group.add_argument("--gradient", action=switch, default=False, help="search by L-BFGS")

    group = parser.add_argument_group("or more, or something else")
    what = group.add_mutually_exclusive_group()
    what.add_argument("--table", type=int, choices=KINDS, help="every row of Table 1 (synthetic) or 2 (real)")
    what.add_argument("--all", action="store_true", help="both tables")
    what.add_argument("--figure", type=int, choices=(2, 3), help="Figure 2 (synthetic) or 3 (real)")
    what.add_argument("--report", type=Path, metavar="FILE", help="write RESULTS.md from what --output holds")
    group.add_argument(
        "--reconstructions",
        type=Path,
        metavar="DIR",
        help="score this folder's clips, another method's, in place of ours; with --table they become "
        "a row of it, named after the folder",
    )
    group.add_argument("--originals", type=Path, metavar="DIR", help="what they are reconstructions of, by file name")

    group = parser.add_argument_group("clips")
    group.add_argument(
        "--data",
        type=Path,
        default=Path("datasets/sc09"),
        metavar="DIR",
        help="real clips: SC09 in either published layout, or any folder of audio",
    )
    group.add_argument("--split", choices=SPLITS, default="report", help="which of them")
    group.add_argument("--n", type=options.positive_int, default=501, metavar="N", help="clips of a row, at least 2")
    group.add_argument("--alignment", choices=ALIGNMENTS, default="aligned", help="level and time base of real clips")
    group.add_argument("--cache", type=Path, default=Path("cache"), metavar="DIR", help="where decoded clips are kept")

    group = parser.add_argument_group("model")
    options.add_shared(group, "generator", "encoder", "precision")
    group.add_argument(
        "--classifier",
        default="classifier_checkpoint/",
        metavar="PATH",
        help="the paper's classifier, for the term feature and for scores; or none",
    )
    group.add_argument(
        "--judge",
        default="classifier_checkpoint/judge.keras",
        metavar="PATH",
        help="an independent classifier, that took part in no loss; or none",
    )

    group = parser.add_argument_group("recovery")
    options.add_shared(
        group,
        "preset",
        "solver",
        "max_iter",
        "restarts",
        "objective",
        "clip_to_prior",
        max_iter=400,
        objective=losses.DEFAULT,
    )
    group.add_argument(
        "--hybrid_max_iter",
        type=options.positive_int,
        default=200,
        metavar="N",
        help="most iterations from the encoder's answer, at least 1",
    )

    group = parser.add_argument_group("scores")
    group.add_argument(
        "--splits",
        type=options.positive_int,
        default=2,
        metavar="N",
        help="groups of the inception score; the paper's 2",
    )
    group.add_argument("--resamples", type=options.positive_int, default=200, metavar="N", help="of the bootstrap")

    group = parser.add_argument_group("run")
    group.add_argument("--output", type=Path, default=Path("results"), metavar="DIR", help="folder of all results")
    group.add_argument(
        "--keep", action=switch, default=False, help="also write clips and reconstructions as WAV, into --output/kept"
    )
    options.add_shared(group, "batch_size", "seed", "dry_run", "quiet", batch_size=32)

    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    args.objective = str(losses.parse_objective(args.objective))
    whole = next((f"--{name}" for name in ("table", "all", "figure", "report") if getattr(args, name)), None)
    foreign = args.reconstructions or args.originals
    if foreign and not (args.reconstructions and args.originals):
        raise UserError("--reconstructions: needs --originals, and the other way round")
    if foreign and whole not in (None, "--table"):
        raise UserError(f"--reconstructions: makes one row; it cannot stand with {whole}")
    row_flags = [f"--{name}" for name in FLAGS if name in parser.explicit]
    if row_flags and (whole or foreign):
        raise UserError(f"{row_flags[0]}: chooses one row; it cannot stand with {whole or '--reconstructions'}")
    if args.n < 2:
        raise UserError(f"--n: must be at least 2. Received: {args.n}")
    if args.splits > args.n:
        raise UserError(f"--splits: must be at most --n, {args.n}. Received: {args.splits}")
    return args


@dataclass
class Workbench:
    """The networks of a run, each loaded when it is first needed."""

    args: argparse.Namespace
    encoder: Callable[[np.ndarray], Any] | None = None
    encoder_sha256: str | None = None

    @cached_property
    def generator(self) -> Generator:
        return load_generator(self.args.generator)

    @cached_property
    def classifiers(self) -> dict[str, Classifier]:
        found = {}
        for name in ("classifier", "judge"):
            path = getattr(self.args, name)
            if path != NONE:
                found[name] = load_classifier(path)
                require_same_clips(f"--{name} {path}", found[name], self.generator, f"or give --{name} {NONE}")
        return found

    @cached_property
    def listeners(self) -> dict[str, evaluation.Listener]:
        return {name: listener(model) for name, model in self.classifiers.items()}

    @cached_property
    def recover(self) -> evaluation.Recovery:
        args, search, polish = self.args, self.generator, None
        if args.precision != "float32" and search.network is not None:
            search, polish = load_generator(args.generator, args.precision), self.generator
        objective = losses.parse_objective(args.objective)
        features, classifier = None, None
        if objective.needs_features and "classifier" in self.classifiers:
            features, classifier = middle_block_features(self.classifiers["classifier"]), sha256(args.classifier)
        settings = {name: getattr(args, name) for name in ("objective", "solver", "clip_to_prior", "precision")}
        return evaluation.Recovery(
            generator=self.generator,
            inverter=recovery.Inverter(
                search,
                objective,
                solver=args.solver,
                clip_to_prior=args.clip_to_prior,
                polish=polish,
                features=features,
            ),
            encoder=self.encoder,
            encoder_sha256=self.encoder_sha256,
            max_iter={GRADIENT: args.max_iter, HYBRID: args.hybrid_max_iter},
            restarts=args.restarts,
            clip_to_prior=args.clip_to_prior,
            batch_size=args.batch_size,
            seed=args.seed,
            settings=settings | {"generator": self.generator.fingerprint, "classifier": classifier},
            store=args.output / "recovered",
            quiet=args.quiet,
        )

    def need_encoder(self) -> None:
        """Loads the encoder, once; `recover` takes it if it is there by then."""
        if self.encoder is not None:
            return
        path = self.args.encoder
        model = load_encoder(path)
        if isinstance(model, Encoder):
            require_same_clips(f"--encoder {path}", model, self.generator)
            if model.options["generator"] not in ("", self.generator.fingerprint):
                print(f"note: --encoder {path}: was trained on another generator")
        self.encoder = tf.function(lambda audio: model(audio, training=False), autograph=False, reduce_retracing=True)
        self.encoder_sha256 = file_sha256(find_encoder(path))


def listener(model: Classifier) -> evaluation.Listener:
    @tf.function(input_signature=[tf.TensorSpec([None, model.num_samples, model.num_channels])], autograph=False)
    def listen(audio):
        features = classifier_features(model, audio)
        return features["probabilities"], features["pooled"]

    return listen


def sha256(classifier: str) -> str:
    return file_sha256(find_classifier(classifier))


def main() -> None:
    args = parse_arguments()
    if args.dry_run:
        return show_plan(args)
    if args.report:
        results_page.write_report(args.report, args.output, str(args.data))
        print(args.report)
        return None
    output_folder(args.output, Path("results"), "tables")
    bench = Workbench(args)
    if args.reconstructions:
        rows = [foreign_row(bench)]
        if args.table:
            write_table(args, args.table, rows)
    elif args.figure:
        draw(bench, args.figure)
    elif args.table or args.all:
        for number in KINDS if args.all else [args.table]:
            methods = tables.ROWS[number]
            write_table(args, number, list(table_rows(bench, number, methods)))
    else:
        method = METHODS[args.inverse_mapping, args.gradient]
        list(table_rows(bench, 1 if args.synth else 2, [method]))
    return None


def show_plan(args: argparse.Namespace) -> None:
    for name, value in vars(args).items():
        print(f"{name:16} {value}")
    if args.report:
        print(f"Would write {args.report} from {args.output}")
    elif args.figure:
        print(f"Would draw figure{args.figure}.png and .svg into {args.output}")
    else:
        wanted = KINDS if args.all else [args.table] if args.table else []
        rows = sum(len(tables.ROWS[number]) for number in wanted) if wanted and not args.reconstructions else 1
        print(f"Would make {rows} row(s) into {args.output}")


def load_clips(bench: Workbench, number: int, n: int) -> tuple[Clips, dict[str, Clips], np.ndarray]:
    """The clips of a table, others by method, and the latents that recovered ones should be distributed like."""
    args, generator = bench.args, bench.generator
    samples = evaluation.synthetic_clips(generator, n, args.seed, start=n, batch_size=args.batch_size)
    if KINDS[number] == SYNTHETIC:
        clips = evaluation.synthetic_clips(generator, n, args.seed, batch_size=args.batch_size)
        return clips, {SAMPLE: samples}, clips.z
    shape = generator.num_samples, generator.num_channels, generator.sample_rate
    dataset = load_dataset(args.data, *shape, args.split, args.alignment, args.cache, quiet=args.quiet)
    clips, other = evaluation.real_clips(dataset, n, args.seed)
    if other is None:
        print(f"note: the {args.split} split has no {n} clips besides: no real-against-real floor")
    others = {SAMPLE: samples} | ({OTHER: other} if other else {})
    return clips, others, generator.sample_prior(args.seed, n)


def table_rows(bench: Workbench, number: int, methods: Iterable[str]) -> Iterable[dict[str, Any]]:
    """Computes, prints and records rows of a table, one after another."""
    args = bench.args
    if {ENCODER, HYBRID} & set(methods):
        bench.need_encoder()
    bench.listeners  # a missing classifier is an error at once, not after the first search  # noqa: B018
    clips, others, z_reference = load_clips(bench, number, args.n)
    heard_clips = hear(bench, clips.audio)
    for method in methods:
        if method == OTHER and OTHER not in others:
            continue
        if method in RECOVERY_METHODS:
            found = bench.recover(method, clips)
        else:
            found = evaluation.without_work(method, clips, others.get(method))
        yield make_row(bench, method, clips, found, heard_clips, z_reference)


def foreign_row(bench: Workbench) -> dict[str, Any]:
    args, generator = bench.args, bench.generator
    shape = generator.num_samples, generator.num_channels, generator.sample_rate
    clips, found = evaluation.load_pairs(args.originals, args.reconstructions, *shape)
    return make_row(bench, args.reconstructions.resolve().name, clips, found, hear(bench, clips.audio), None)


def hear(bench: Workbench, audio: np.ndarray) -> dict[str, Heard]:
    size = bench.args.batch_size
    return {name: evaluation.listen(listen, audio, size) for name, listen in bench.listeners.items()}


def make_row(
    bench: Workbench,
    method: str,
    clips: Clips,
    found: Reconstruction,
    heard_clips: dict[str, Heard],
    z_reference: np.ndarray | None,
) -> dict[str, Any]:
    """Scores, prints and records one row."""
    args, begun = bench.args, time.monotonic()
    heard = hear(bench, found.audio)
    numbers = evaluation.score(
        method,
        clips,
        found,
        {name: (heard_clips[name], heard[name]) for name in heard},
        z_reference=z_reference,
        bound=1.0 if bench.generator.prior == "uniform" else None,
        splits=args.splits,
        resamples=args.resamples,
        seed=args.seed,
    )
    row = {
        "row": method,
        "kind": clips.kind,
        "preset": args.preset,
        "metrics": {name: None if number is None else number._asdict() for name, number in numbers.items()},
        "seconds_a_clip": found.seconds,
        "evaluations_a_clip": found.evaluations,
        "seconds_to_score": time.monotonic() - begun,
        "protocol": protocol(bench, method, clips),
        "environment": describe_environment(),
    }
    append_jsonl(args.output / "metrics.jsonl", row)
    print_row(row)
    if args.keep:
        folder = args.output / "kept" / f"{clips.kind}-{args.preset}"
        for name, audio in (("originals", clips.audio), (method, found.audio)):
            if name != CLIPS:
                evaluation.keep(folder / name, clips.names, audio, bench.generator.sample_rate)
        print(f"Listen: {folder}")
    return row


def protocol(bench: Workbench, method: str, clips: Clips) -> dict[str, Any]:
    """What the row's numbers depend on."""
    args = bench.args
    facts = {"n": len(clips), **{name: getattr(args, name) for name in ("seed", "batch_size", "splits", "resamples")}}
    facts |= {"generator": args.generator, "generator_sha256": bench.generator.fingerprint}
    for name in bench.classifiers:
        facts[f"{name}_sha256"] = sha256(getattr(args, name))
    if args.reconstructions:
        return facts | {"originals": args.originals, "reconstructions": args.reconstructions}
    names = ("objective", "solver", "clip_to_prior", "max_iter", "hybrid_max_iter", "restarts", "precision")
    facts |= {name: getattr(args, name) for name in names} | {"encoder_sha256": bench.encoder_sha256}
    if clips.kind == REAL:
        facts |= {name: getattr(args, name) for name in ("data", "split", "alignment")}
    return facts


def print_row(row: dict[str, Any]) -> None:
    protocol = row["protocol"]
    title = tables.ROW_TITLES.get(row["row"], row["row"])
    print(f"\n{title}, {row['kind']} clips, preset {row['preset']}, n = {protocol['n']}, seed {protocol['seed']}")
    for name, found in row["metrics"].items():
        if found is not None:
            std = "" if found["std"] is None else f"  ± {found['std']:.3g} over {protocol['splits']} splits"
            print(f"  {name:32}{found['value']:<10.4g} [{found['low']:.4g}, {found['high']:.4g}]{std}")
    if row["seconds_a_clip"] is not None:
        print(f"  {row['seconds_a_clip']:.2f} s and {row['evaluations_a_clip']:.0f} evaluations a clip")


def write_table(args: argparse.Namespace, number: int, rows: list[dict[str, Any]]) -> None:
    tables.add_rows(args.output, number, args.preset, rows)
    print(f"\nWritten: {args.output / f'table{number}.md'}, .csv and .json")


def draw(bench: Workbench, figure: int) -> None:
    """Figure 2 or 3: the table's first clip, its next of another digit, and what each method makes of them."""
    args, number = bench.args, figure - 1
    bench.need_encoder()
    # The table's first batch: where the table was made before, nothing is searched again.
    clips, _, _ = load_clips(bench, number, min(args.n, args.batch_size))
    digits, names = clips.labels, DIGITS
    if (digits == UNLABELLED).all() and bench.classifiers:
        who, model = list(bench.classifiers.items())[-1]
        digits, names = hear(bench, clips.audio)[who].probabilities.argmax(axis=1), model.class_names
    shown = np.array([0, int(np.argmax(digits != digits[0])) or 1])
    found = {method: bench.recover(method, clips).audio[shown] for method in RECOVERY_METHODS}
    titles = ["a clip" if digits[i] == UNLABELLED else f"“{names[digits[i]]}”" for i in shown]
    note = (
        f"{clips.kind} clips, preset {args.preset}, {args.objective}, at most {args.max_iter} (gradient) and "
        f"{args.hybrid_max_iter} (hybrid) iterations, seed {args.seed}"
    )
    picture = reconstruction_figure(clips.audio[shown], found, titles, bench.generator.sample_rate, note)
    path = args.output / f"figure{figure}.png"
    save_figure(picture, path)
    print(f"Written: {path} and .svg")


if __name__ == "__main__":
    options.run(main)
