"""Tables 1 and 2 and Figures 2 and 3 of the paper: how well clips are inverted, row by row or whole.

A row is one `--method` applied to n real clips (Table 2) or, with `--synth`, of the generator's own samples (Table
1): encoder, gradient or hybrid as in the paper; search (ours: the latent itself where the clip is in the generator's
range, else the objective); or what these are compared with: the clips themselves, silence, a random sample, another
clip, and two class-conditional baselines, which answer by the digit alone: template, with one waveform, and
class_sample, with a random sample of it. The paper's flags do as well: `--inverse_mapping` is the encoder, `--gradient`
L-BFGS from the prior, both are the hybrid, neither is the clips themselves.

Examples:
  # One row: the hybrid on real clips
  python calculate_metrics.py ../shared/data/speech_commands_digits --method hybrid

  # Tables 1 and 2 by the paper's protocol (days); both tables, a first look in minutes, then their page
  python calculate_metrics.py datasets/sc09 --all --preset paper
  python calculate_metrics.py ../shared/data/speech_commands_digits --all --n 40 --max_iter 50
  python -m studies.results_md results --output results/RESULTS.md

  # Clips and reconstructions to listen to; somebody else's method in Table 2
  python calculate_metrics.py ../shared/data/speech_commands_digits --gradient --keep
  python calculate_metrics.py --originals results/kept/real-aligned/originals --reconstructions theirs/ --table 2

Writes into --output: metrics.jsonl (a line for each row), tableN.jsonl, .md and .csv (both presets and the paper),
figureN.png and .svg, and recovered/, the latents found so far: an interrupted row resumes, and a row that was computed
before is only scored.
"""

import argparse
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from utils import choices, options
from utils.errors import UserError
from utils.evaluation import names
from utils.report import tables
from utils.runs.cache import cache_folder

# The published scripts take clips of the validation split, the first ones.
PRESETS = {"aligned": {}, "paper": options.PAPER_RECOVERY | {"split": "validation", "draw": "first"}}
ROW_FLAGS = ("method", "synth", "inverse_mapping", "gradient")


def parse_arguments() -> argparse.Namespace:
    metrics = f"Metrics, each with a 95 % interval:\n{names.describe_metrics()}"
    parser = options.make_parser(f"{(__doc__ or '').strip()}\n\n{metrics}")
    real = "real clips: SC09 in either published layout, or any folder of audio"
    options.add_input(parser, real, *options.DATA)
    add = parser.add_argument_group("one row").add_argument
    add("--method", choices=names.ROW_NAMES, help="what makes the row (default: by the flags below)")
    add("--synth", action="store_true", help="the generator's samples, not real clips")
    add("--inverse_mapping", action="store_true", help="start from the encoder's answer")
    add("--gradient", action="store_true", help="search by L-BFGS")

    group = parser.add_argument_group("or more, or something else")
    several = group.add_mutually_exclusive_group()
    several.add_argument("--table", type=int, choices=names.KINDS, help="every row of Table 1 (synthetic) or 2 (real)")
    several.add_argument("--all", action="store_true", help="both tables")
    several.add_argument("--figure", type=int, choices=(2, 3), help="Figure 2 (synthetic) or 3 (real)")
    theirs = "score this folder's clips, another method's; with --table they become a row of it, named after the folder"
    group.add_argument("--reconstructions", type=Path, metavar="DIR", help=theirs)
    group.add_argument("--originals", type=Path, metavar="DIR", help="what they are reconstructions of, by file name")

    add = parser.add_argument_group("clips").add_argument
    add("--split", choices=choices.SPLITS, default="report", help="which of the real ones")
    add("--n", type=options.positive_int, default=501, metavar="N", help="clips of a row, at least 2")
    draw = "which N: random ones by --seed, or as in the paper the first ones, here in the order of speakers' names"
    add("--draw", choices=choices.DRAWS, default="random", help=draw)
    add("--alignment", choices=choices.ALIGNMENTS, default="aligned", help="level and time base of real clips")
    add("--cache", type=Path, default=cache_folder(), metavar="DIR", help="where decoded clips are kept")

    group = parser.add_argument_group("model; --classifier none and --judge none do without them")
    options.add_shared(group, "generator", "encoder", "trust", "precision", "classifier", "judge", judge=options.JUDGES)

    group = parser.add_argument_group("recovery")
    search = ("preset", "solver", "max_iter", "restarts", "objective", "clip_to_prior")
    options.add_shared(group, *search)
    hybrid = "most iterations from the encoder's answer, at least 1"
    group.add_argument("--hybrid_max_iter", type=options.positive_int, default=200, metavar="N", help=hybrid)

    add = parser.add_argument_group("scores").add_argument
    add("--splits", type=options.positive_int, default=2, metavar="N", help="groups of the inception score (paper: 2)")
    add("--resamples", type=options.positive_int, default=200, metavar="N", help="of the bootstrap")

    group = parser.add_argument_group("run")
    group.add_argument("--output", type=Path, default=Path("results"), metavar="DIR", help="folder of all results")
    group.add_argument("--keep", action="store_true", help="also write clips and reconstructions, into --output/kept")
    options.add_shared(group, "batch_size", "seed", "dry_run", "quiet", batch_size=32)

    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    args.changed = options.changed_options(args, parser, PRESETS, tables.SEARCH_OPTIONS)
    check(args, parser.explicit)
    args.method = args.method or names.METHOD_OF_FLAGS[args.inverse_mapping, args.gradient]
    rows = sum(map(len, methods_by_table(args).values()))
    what = f"draw figure{args.figure}" if args.figure else f"make {rows} row(s)"
    options.end_dry_run(args, f"Would {what} into {args.output}")
    return args


def check(args: argparse.Namespace, explicit: Collection[str]) -> None:
    """Refuses options that do not go together."""
    several = next((f"--{name}" for name in ("table", "all", "figure") if getattr(args, name)), None)
    foreign = args.reconstructions or args.originals
    if foreign and not (args.reconstructions and args.originals):
        raise UserError("--reconstructions: needs --originals, and the other way round")
    if foreign and several not in (None, "--table"):
        raise UserError(f"--reconstructions: makes one row; it cannot stand with {several}")
    row_flags = [f"--{name}" for name in ROW_FLAGS if name in explicit]
    if row_flags and (several or foreign):
        raise UserError(f"{row_flags[0]}: chooses one row; it cannot stand with {several or '--reconstructions'}")
    if args.method and (args.inverse_mapping or args.gradient):
        raise UserError(
            f"--method {args.method}: cannot stand with --inverse_mapping or --gradient, which mean another"
        )
    if args.n < 2:
        raise UserError(f"--n: must be at least 2. Received: {args.n}")
    if args.splits > args.n:
        raise UserError(f"--splits: must be at most --n, {args.n}. Received: {args.splits}")


def methods_by_table(args: argparse.Namespace) -> dict[int, Collection[str]]:
    """What is asked for."""
    if args.figure:
        return {args.figure - 1: names.RECOVERY_METHODS}
    if args.reconstructions:
        return {args.table or 2: [args.reconstructions.resolve().name]}
    if args.table or args.all:
        return {number: methods for number, methods in names.ROWS.items() if args.all or number == args.table}
    return {1 if args.synth else 2: [args.method]}


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np

from models.networks import Networks
from models.recovery import choose_objective, make_inverter, make_recovery, make_search
from utils.audio.datasets import load_dataset
from utils.domains import SYNTHETIC
from utils.evaluation.clips import Clips, keep, load_pairs, pair_to_show, table_clips
from utils.evaluation.rows import Reconstruction, Scorer, baseline, class_baseline, protocol, recover
from utils.inversion.methods import Recovery
from utils.inversion.search import LatentSearch
from utils.inversion.store import ResultStore
from utils.priors import PRIORS
from utils.report.figures import reconstruction_figure, save_figure
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl
from utils.runs.folders import output_folder
from utils.runs.interrupts import resume_command


def main() -> int | None:
    args = parse_arguments()
    methods = methods_by_table(args)
    session = Session(args, methods)
    output_folder(args.output, Path("results"), "tables")
    try:
        if args.figure:
            return session.draw(args.figure)
        for number, wanted in methods.items():
            rows = [session.foreign_row()] if args.reconstructions else list(session.rows(number, wanted))
            if args.table or args.all:
                tables.add_rows(args.output, number, args.preset, rows)
                print(f"\nWritten: {args.output / f'table{number}.md'}, .csv and .jsonl")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(resume_command(args.output, args.output)) from None


class Session:
    """The networks of a run, and the rows and figures made by them."""

    def __init__(self, args: argparse.Namespace, methods: Mapping[int, Collection[str]]):
        self.args = args
        needs_encoder = set(names.FROM_ENCODER) & set().union(*methods.values())
        self.networks = Networks(
            args.generator,
            trust=args.trust,
            encoder=args.encoder if needs_encoder and not args.reconstructions else None,
            precision=args.precision,
            alignment=args.alignment if 2 in methods else None,
            classifier=args.classifier,
            judges=args.judge,
        )

    def clips(self, number: int, n: int) -> tuple[Clips, dict[str, Clips], np.ndarray]:
        args, generator, datasets = self.args, self.networks.generator, {}
        if number == 2:
            datasets["draw"] = args.draw
            # Half of the validation clips is too small to give as many others for the real-against-real floor.
            splits = {"dataset": args.split} | ({"besides": "validation"} if args.split == "report" else {})
            for use, split in splits.items():
                reading = (*generator.clip_shape, split, args.alignment, args.cache)
                datasets[use] = load_dataset(args.input, *reading, quiet=args.quiet)
        return table_clips(generator, n, args.seed, batch_size=args.batch_size, **datasets)

    @cached_property
    def search(self) -> LatentSearch | None:
        return make_search(self.networks, clip_to_prior=self.args.clip_to_prior)

    @cache  # noqa: B019  (there is one session)
    def recovery(self, kind: str, space: str) -> Recovery:
        args, networks = self.args, self.networks
        objective = choose_objective(networks, args.objective, own=kind == SYNTHETIC)
        inverter = make_inverter(networks, objective, solver=args.solver, clip_to_prior=args.clip_to_prior, space=space)
        limits = {name: getattr(args, name) for name in ("max_iter", "hybrid_max_iter", "restarts", "seed")}
        return make_recovery(networks, inverter, **limits)

    def recover(self, method: str, clips: Clips) -> Reconstruction:
        args, networks, store = self.args, self.networks, ResultStore(self.args.output / "recovered")
        shared = {"batch_size": args.batch_size, "store": store, "quiet": args.quiet}
        if method == names.PROJECTED:
            recovery, generator = self.recovery(clips.kind, "projected"), networks.projected
            return replace(recover(recovery, names.HYBRID, clips, generator=generator, **shared), z=None)
        recovery = self.recovery(clips.kind, "z")
        if method == names.SEARCH:
            recovery = replace(recovery, search=self.search)
        return recover(recovery, method, clips, generator=networks.generator, **shared)

    def scorer(self, clips: Clips, z_reference: np.ndarray | None = None) -> Scorer:
        args, prior = self.args, PRIORS[self.networks.generator.prior]
        numbers = {name: getattr(args, name) for name in ("splits", "resamples", "seed")}
        classify = partial(self.networks.classify, batch_size=args.batch_size)
        facts = {"sample_rate": self.networks.generator.sample_rate, "prior": prior, "z_reference": z_reference}
        return Scorer(clips, classify, **facts, **numbers)

    def rows(self, number: int, methods: Collection[str]) -> Iterator[dict[str, Any]]:
        """Computes, prints and records rows of a table, one after another."""
        clips, others, z_reference = self.clips(number, self.args.n)
        scorer = self.scorer(clips, z_reference)
        absent = {} if names.OTHER in others else {names.OTHER: f"{len(clips)} clips besides, to compare with"}
        absent |= {} if self.networks.generator.network else {names.PROJECTED: "WaveGAN, whose dense layer it needs"}
        if not scorer.of_clips:
            absent |= dict.fromkeys(names.CLASS_BASELINES, "--classifier and no --judge to assign digits by")
        # What methods are compared with comes first.
        for method in sorted(methods, key=lambda method: method not in names.BASELINES):
            if method in absent and len(methods) > 1:
                print(f"note: no row {method}: there is no {absent[method]}")
            elif method not in names.BASELINES:
                yield self.record(scorer, method, self.recover(method, clips))
            elif method in names.CLASS_BASELINES:
                answers = class_baseline(method, self.networks.generator, others[names.SAMPLE], scorer, self.args.seed)
                yield self.record(scorer, method, answers)
            else:
                yield self.record(scorer, method, baseline(method, clips, others))

    def foreign_row(self) -> dict[str, Any]:
        args, shape = self.args, self.networks.generator.clip_shape
        clips, audio = load_pairs(args.originals, args.reconstructions, *shape, quiet=args.quiet)
        return self.record(self.scorer(clips), args.reconstructions.resolve().name, Reconstruction(audio))

    def record(self, scorer: Scorer, method: str, reconstruction: Reconstruction) -> dict[str, Any]:
        """Scores, prints and records a row."""
        args, clips = self.args, scorer.clips
        row = scorer(method, reconstruction)
        objective = choose_objective(self.networks, args.objective, own=clips.kind == SYNTHETIC)
        row |= {
            "preset": args.preset,
            "protocol": protocol(vars(args), method, clips, self.networks, objective),
            "environment": describe_environment(),
        }
        append_jsonl(args.output / "metrics.jsonl", row)
        print(f"\n{tables.row_text(row)}")
        if args.keep:
            folder = args.output / "kept" / f"{clips.kind}-{args.preset}"
            keep(folder, method, clips, reconstruction.audio, self.networks.generator.sample_rate)
            print(f"Listen: {folder}")
        return row

    def draw(self, figure: int) -> None:
        """Figure 2 or 3: the table's first clip, its next of another digit, and reconstructions of both."""
        # The table's first batch: where the table was made before, nothing is searched again.
        args, networks = self.args, self.networks
        clips, _, _ = self.clips(figure - 1, min(args.n, args.batch_size))
        class_names = {name: model.class_names for name, model in networks.classifiers.items()}
        shown, titles = pair_to_show(clips, networks.classify(clips.audio, args.batch_size), class_names)
        reconstructions = {method: self.recover(method, clips).audio[shown] for method in names.RECOVERY_METHODS}
        objective = choose_objective(networks, args.objective, own=clips.kind == SYNTHETIC)
        note = (
            f"{clips.kind} clips, preset {args.preset}, {objective}, at most {args.max_iter} (gradient) and "
            f"{args.hybrid_max_iter} (hybrid) iterations, seed {args.seed}"
        )
        path = args.output / f"figure{figure}.png"
        rate = networks.generator.sample_rate
        save_figure(reconstruction_figure(clips.audio[shown], reconstructions, titles, rate, note), path)
        print(f"Written: {path} and .svg")


if __name__ == "__main__":
    options.run(main)
