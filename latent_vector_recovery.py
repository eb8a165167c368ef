"""Invert audio: find the latent vectors with which a generator reproduces the clips of files or folders.

Examples:
  # The demo clips on the bundled generator; the page to listen to is named at the end.
  python latent_vector_recovery.py

  # Your own
  python latent_vector_recovery.py a.wav b.wav more_clips

  # 32 real clips, the best of 8 starts each.
  python latent_vector_recovery.py ../shared/data/speech_commands_digits/seven --limit 32 --restarts 8

  # All methods by the paper's protocol (hours; needs a trained encoder, and the classifier).
  python latent_vector_recovery.py datasets/sc09/valid --limit 501 --method all --preset paper

  # Files that are cut and levelled in their own way; nearer to them than any latent comes.
  python latent_vector_recovery.py my_clips --align
  python latent_vector_recovery.py my_clips --space projected --hybrid_max_iter 100

  # A long recording, window after window; and a run that was stopped, continued.
  python latent_vector_recovery.py speech.flac --window all --output results/speech
  python latent_vector_recovery.py speech.flac --window all --output results/speech

  # Many clips on the actors of a Ray cluster (docs/scale.md), latents and WAVs into a bucket, a table of all results.
  python latent_vector_recovery.py clips --engine ray --address auto --store s3://bucket/run --manifest

Terms of --objective: stft_real, waveform (both as in the paper), mr_stft (multi-resolution log-magnitude STFT),
spectral (log magnitudes), log_mel, feature (the activations of the middle block of --classifier, the paper's),
features (of all its blocks), latent_prior (with --space projected: how far from what the prior gives).

Writes into the output folder: index.html (originals and reconstructions to listen to), summary.csv,
results.jsonl, failures.jsonl, options.json, log.txt, and per clip its original, reconstructions (WAV) and
latents (npz); of a long file, whose windows fade into each other, also each window's reconstruction;
manifest.parquet with --manifest. Numbers are of the audio as written, without the zero-padding of the last window.

Exit codes: 0 all well, 2 wrong usage, 3 some files failed, 130 interrupted.
"""

import argparse
import importlib.util
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from utils import choices, options
from utils.bundled import bundled
from utils.errors import UserError
from utils.inversion.names import ENCODER, GRADIENT, HYBRID, METHODS, SEARCH
from utils.report.manifest import require_pyarrow
from utils.runs.files import open_path

AUTO = "auto"  # of --judge: the bundled ones, where they are of the generator's clips
PRESETS = {"aligned": {}, "paper": options.PAPER_RECOVERY | {"method": HYBRID}}
RESULTS = Path("results")
PUBLISHED_SHAPE = 16384, 1, 16000  # samples, channels and Hz by which --dry_run reads files, for want of a generator
# What a run may be continued with another value of; of networks the weights count, not the path.
CHANGEABLE = ("generator", "encoder", "classifier", "trust", "limit", "preset", "output", "dry_run", "quiet")
CHANGEABLE += ("judge", "engine", "address", "actors", "store", "manifest")


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    clips = "audio files, or folders of them (default: the demo clips that come with the project)"
    parser.add_argument("input", type=Path, nargs="*", metavar="INPUT", help=clips)
    model = parser.add_argument_group("model")
    options.add_shared(model, "generator", "encoder", "classifier", "trust", "precision")
    judges = "the digit classifiers whose answers for clips and reconstructions are reported, or `none` (default: the "
    judges += "bundled ones, where they are of the generator's clips)"
    model.add_argument("--judge", type=options.network_list, default=AUTO, metavar="PATH[,PATH...]", help=judges)
    clips = parser.add_argument_group("clips")
    options.add_shared(clips, "limit", "window")
    clips.add_argument(
        "--alignment", choices=choices.ALIGNMENTS, default="aligned", help="level and time base of the clips"
    )
    clips.add_argument(
        "--align",
        action="store_true",
        help="first find offset and gain with which the encoder's reconstruction of a file is nearest to it, as files "
        "are rarely cut like the generator's training data; results are moved back",
    )
    clips.add_argument(
        "--own_samples",
        type=options.non_negative_int,
        default=8,
        metavar="N",
        help="also invert N of the generator's own samples, which it can reproduce exactly, "
        "to tell a poor search from a target out of reach; 0 for none",
    )
    search = parser.add_argument_group("recovery")
    options.add_shared(search, "preset", "method", "space", "solver", "max_iter", "restarts")
    options.add_shared(search, "objective", "clip_to_prior")
    search.add_argument(
        "--hybrid_max_iter",
        type=options.positive_int,
        default=200,
        metavar="N",
        help="most iterations of L-BFGS from the encoder's answer (hybrid and search), at least 1",
    )
    run = parser.add_argument_group("run")
    options.add_shared(run, "output", "seed", "dry_run", "quiet")
    batch = (
        "clips in work at a time, at least 1; more take more memory. In float32 on a CPU no result depends on N; on a "
    )
    batch += "GPU or in mixed_bfloat16 more are faster, and rounding changes results (of speech z by up to 0.3)"
    run.add_argument("--batch_size", type=options.positive_int, default=16, metavar="N", help=batch)
    add_many(parser.add_argument_group("many clips"))
    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    check_many(args)
    args.input = args.input or [bundled("datasets/demo")]
    args.method = args.method or (SEARCH if args.space == "z" else HYBRID)
    if args.method == SEARCH and args.space != "z":
        raise UserError(f"--method search: finds latents of the prior; with --space {args.space} take hybrid")
    if args.align and args.window == "all":
        raise UserError("--align: places one window a file; it cannot stand with --window all")
    if args.align and args.encoder is None:
        raise UserError(
            "--align: compares clips with an encoder's reconstructions; it cannot stand with --encoder none"
        )
    if args.dry_run:
        options.end_dry_run(args, plan(args))
    return args


def add_many(group: argparse._ArgumentGroup) -> None:
    """Declares where clips are computed and kept when there are many."""
    engine = "where clips are computed: in this process, or on actors of Ray (make setup-ray), with the same results"
    group.add_argument("--engine", choices=("local", "ray"), default="local", help=engine)
    address = "of a running Ray cluster, HOST:PORT or auto (default: one is started on this machine)"
    group.add_argument("--address", metavar="ADDRESS", help=address)
    actors = "actors of Ray at a time (default: one a GPU, or one a machine where there is none)"
    group.add_argument("--actors", type=options.positive_int, metavar="N", help=actors)
    store = "keep WAVs and latents in this folder or URL (s3://, gs://), without a page (default: in --output)"
    group.add_argument("--store", metavar="URL", help=store)
    manifest = "also write manifest.parquet: status, losses and latents of each clip and method (needs pyarrow)"
    group.add_argument("--manifest", action="store_true", help=manifest)


def check_many(args: argparse.Namespace) -> None:
    """Raises a UserError for options that do not go together, and for those whose packages are missing."""
    if args.engine == "local" and (args.address or args.actors):
        raise UserError("--address, --actors: go with --engine ray")
    if args.engine == "ray" and not importlib.util.find_spec("ray"):
        raise UserError("--engine ray: needs Ray, which is not installed: make setup-ray")
    if args.manifest:
        require_pyarrow()
    if args.store:
        open_path(args.store)


def wanted_methods(args: argparse.Namespace) -> tuple[str, ...]:
    """What --method names, of what there is in the space and without an encoder."""
    if args.method != "all":
        return (args.method,)
    absent = {SEARCH} if args.space != "z" else set()
    absent |= {ENCODER, HYBRID} if args.encoder is None else set()
    return tuple(method for method in METHODS if method not in absent)


def plan(args: argparse.Namespace) -> str:
    """What `--dry_run` says would be done; on stderr, what cannot be read."""
    from utils.audio.files import load_clip  # here, so that --help need not wait for NumPy
    from utils.inversion.sources import find_files

    files, problems = find_files(args.input, args.output or RESULTS, args.limit)
    for source in files:
        try:
            load_clip(source.path, *PUBLISHED_SHAPE, args.window)
        except (UserError, OSError) as error:
            problems.append((source.name, str(error).removeprefix(f"{source.path}: ")))
    for name, reason in problems:
        print(f"cannot be read: {name}: {reason}", file=sys.stderr)
    done = 0
    if args.output:
        methods = wanted_methods(args)
        folders = [args.output / source.folder for source in files]
        done = sum(all((folder / f"{method}.npz").exists() for method in methods) for folder in folders)
    return (
        f"Would invert {len(files)} files ({done} of them are done) and {args.own_samples} own samples; "
        f"{len(problems)} cannot be read."
    )


if __name__ == "__main__":
    if not options.parse_early(parse_arguments).quiet:
        print("Loading TensorFlow and the networks ...", flush=True)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split

from models.networks import Networks
from models.recovery import choose_objective, make_aligner, make_inverter, make_judge, make_recovery, make_search
from utils.inversion import ray_engine
from utils.inversion.clips import ClipRecovery
from utils.inversion.folder import FAILURES, RecoveryFolder
from utils.inversion.methods import Recovery
from utils.inversion.sources import FILE, OWN_SAMPLE, find_files, own_samples
from utils.losses import parse_objective
from utils.report.recovery import describe, print_summary, write_reports
from utils.runs.files import write_json
from utils.runs.folders import OPTIONS, keep_options, output_folder, tee_log
from utils.runs.interrupts import on_interrupt, resume_command
from utils.runs.progress import MovingBar


def main() -> int:
    args = parse_arguments()
    files, problems = find_files(args.input, args.output or RESULTS, args.limit)
    methods = wanted_methods(args)
    networks, recoveries = made = make_recoveries(args, methods)
    own = own_samples(args.own_samples)
    output = output_folder(args.output, RESULTS, f"recovery-{args.input[0].resolve().stem}")
    hashes = {f"{name}_sha256": networks.sha256(name) for name in ("generator", "encoder", "classifier")}
    hashes["judge_sha256"] = [networks.sha256(name) for name in networks.judges]
    minimised = {kind: str(recovery.inverter.objective) for kind, recovery in recoveries.items()}
    minimised = {"objective": minimised[FILE], "own_objective": minimised.get(OWN_SAMPLE, "")}
    settings = vars(args) | {"input": [root.resolve() for root in args.input]} | minimised | hashes
    keep_options(output, settings, changeable=CHANGEABLE, positional=["input"])
    if args.store:
        write_json(open_path(args.store) / OPTIONS, settings)
    with tee_log(output / "log.txt"), on_interrupt(finish_step=False) as interrupt:
        started_at = time.monotonic()
        kept = {name: value for name, value in settings.items() if name not in CHANGEABLE}
        folder = make_folder(args, methods, output, kept, made, own + files)
        folder.begin(read=args.engine == "local")
        if not args.quiet:
            print(*networks.generator.notes, *describe(settings, networks.generator, methods, len(files)), sep="\n")
        try:
            for name, reason in problems:
                folder.fail(name, reason)
            if args.engine == "ray":
                make_worker = partial(make_folder, args, methods, output, kept)
                with MovingBar("clips", len(own + files), quiet=args.quiet) as bar:
                    groups = folder.groups(own) + folder.groups(files)
                    ray = {"address": args.address, "actors": args.actors}
                    ray_engine.recover(folder, groups, make_worker, bar, interrupt, **ray)
            else:
                folder.recover_all(own, files, interrupt, quiet=args.quiet)
        except KeyboardInterrupt:
            write_reports(settings, folder)
            raise KeyboardInterrupt(resume_command(output, args.output)) from None
        write_reports(settings, folder)
        print_summary(folder.results())
        if not args.quiet:
            print(f"{time.monotonic() - started_at:.0f} s")
        if folder.failures:
            print(f"{len(folder.failures)} failed, see {output / FAILURES}")
        print(f"Results: {args.store}" if args.store else f"Listen: {output / 'index.html'}")
    return options.EXIT_SOME_FAILED if folder.failures else options.EXIT_OK


def make_recoveries(args: argparse.Namespace, methods: tuple[str, ...]) -> tuple[Networks, dict[str, Recovery]]:
    """The run's networks, and how latents are found with them, by kind of clip."""
    needs_classifier = parse_objective(args.objective or options.REAL_OBJECTIVE).needs_features
    networks = Networks(
        args.generator,
        trust=args.trust,
        precision=args.precision,
        alignment=args.alignment,
        encoder=None if methods == (GRADIENT,) and not args.align else args.encoder,
        classifier=args.classifier if needs_classifier else None,
        judges=tuple(str(bundled(name)) for name in options.JUDGES) if args.judge == AUTO else args.judge,
    )
    limits = {name: getattr(args, name) for name in ("max_iter", "hybrid_max_iter", "restarts", "seed")}
    limits["search"] = make_search(networks, clip_to_prior=args.clip_to_prior) if SEARCH in methods else None
    recoveries: dict[str, Recovery] = {}
    for kind in (FILE, OWN_SAMPLE) if args.own_samples else (FILE,):
        objective = choose_objective(networks, args.objective, own=kind == OWN_SAMPLE)
        if FILE in recoveries and recoveries[FILE].inverter.objective == objective:
            recoveries[kind] = recoveries[FILE]
            continue
        how = {"solver": args.solver, "clip_to_prior": args.clip_to_prior, "space": args.space}
        recoveries[kind] = make_recovery(networks, make_inverter(networks, objective, **how), **limits)
    return networks, recoveries


def make_computation(args: argparse.Namespace, made: tuple[Networks, dict[str, Recovery]]) -> ClipRecovery:
    networks, recoveries = made
    return ClipRecovery(
        networks.generator,
        recoveries,
        window=args.window,
        alignment=args.alignment,
        batch_size=args.batch_size,
        align=make_aligner(networks) if args.align else None,
        judge=make_judge(networks, args.batch_size, required=args.judge != AUTO),
    )


def make_folder(args, methods, output: Path, kept: dict[str, Any], made=None, sources=()) -> RecoveryFolder:
    """The run's results; `made` is what `make_recoveries` gave. An actor makes its own, without a list of all clips."""
    computation = make_computation(args, made or make_recoveries(args, methods))
    store = args.store and open_path(args.store)
    return RecoveryFolder(output, computation, methods, sources, options=kept, store=store)


if __name__ == "__main__":
    options.run(main)
