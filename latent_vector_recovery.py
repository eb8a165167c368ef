"""Invert audio: find the latent vectors with which a generator reproduces the clips of a file or a folder.

Examples:
  # The demo clips on the bundled generator; the page to listen to is named at the end.
  python latent_vector_recovery.py datasets/demo

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
import time
from functools import partial
from pathlib import Path
from typing import Any

from utils import choices, options
from utils.errors import UserError
from utils.inversion.names import ENCODER, GRADIENT, HYBRID, METHODS, SEARCH
from utils.report.manifest import require_pyarrow
from utils.runs.files import open_path

PRESETS = {"aligned": {}, "paper": options.PAPER_RECOVERY | {"method": HYBRID}}
# What a run may be continued with another value of; of networks the weights count, not the path.
CHANGEABLE = ("generator", "encoder", "classifier", "trust", "limit", "preset", "output", "dry_run", "quiet")
CHANGEABLE += ("engine", "address", "actors", "store", "manifest")


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "an audio file, or a folder of them")
    model = parser.add_argument_group("model")
    options.add_shared(model, "generator", "encoder", "classifier", "trust", "precision")
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
    options.add_shared(run, "output", "batch_size", "seed", "dry_run", "quiet")
    add_many(parser.add_argument_group("many clips"))
    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    check_many(args)
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


def find_files(args: argparse.Namespace) -> tuple[Path, list[Path], list[tuple[str, str]]]:
    """The folder that clips are named from, the clips in sorted order, and (name, reason) of what cannot be read."""
    from utils.audio.decoding import SUFFIXES  # here, so that --help need not wait for NumPy
    from utils.audio.files import find_audio

    root = args.input
    files, problems = find_audio(root)
    if not files and not problems:
        raise UserError(f"{root}: no audio in this folder (looked for {' '.join(sorted(SUFFIXES))})")
    output = args.output or Path("results")
    if root.is_dir() and output.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--output {output}: lies inside INPUT, whose clips it would join; choose another folder")
    base = root if root.is_dir() else root.parent
    return base, files[: args.limit], [(path.relative_to(base).as_posix(), reason) for path, reason in problems]


def plan(args: argparse.Namespace) -> str:
    """What `--dry_run` says would be done."""
    base, files, problems = find_files(args)
    done = 0
    if args.output:
        methods = wanted_methods(args)
        folders = [args.output / "clips" / file.relative_to(base) for file in files]
        done = sum(all((folder / f"{method}.npz").exists() for method in methods) for folder in folders)
    return (
        f"Would invert {len(files)} files ({done} of them are done) and {args.own_samples} own samples; "
        f"{len(problems)} cannot be read."
    )


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split

from models.networks import Networks
from models.recovery import choose_objective, make_aligner, make_inverter, make_recovery, make_search
from utils.inversion import ray_engine
from utils.inversion.folder import FAILURES, FILE, OWN_SAMPLE, RecoveryFolder, files_below, own_samples
from utils.inversion.methods import Recovery
from utils.losses import parse_objective
from utils.report.recovery import print_medians, write_reports
from utils.runs.files import write_json
from utils.runs.folders import OPTIONS, keep_options, output_folder, tee_log
from utils.runs.interrupts import on_interrupt, resume_command
from utils.runs.progress import progress_bar


def main() -> int:
    args = parse_arguments()
    base, paths, problems = find_files(args)
    files, methods = files_below(base, paths), wanted_methods(args)
    networks, recoveries = made = make_recoveries(args, methods)
    output = output_folder(args.output, Path("results"), f"recovery-{args.input.resolve().stem}")
    hashes = {f"{name}_sha256": networks.sha256(name) for name in ("generator", "encoder", "classifier")}
    minimised = {kind: str(recovery.inverter.objective) for kind, recovery in recoveries.items()}
    minimised = {"objective": minimised[FILE], "own_objective": minimised.get(OWN_SAMPLE, "")}
    settings = vars(args) | {"input": args.input.resolve()} | minimised | hashes
    keep_options(output, settings, changeable=CHANGEABLE, positional=["input"])
    if args.store:
        write_json(open_path(args.store) / OPTIONS, settings)
    own = own_samples(args.own_samples)
    with tee_log(output / "log.txt"), on_interrupt(finish_step=False) as interrupt:
        started_at = time.monotonic()
        kept = {name: value for name, value in settings.items() if name not in CHANGEABLE}
        folder = make_folder(args, methods, output, kept, made, own + files)
        folder.begin(read=args.engine == "local")
        if not args.quiet:
            print(*networks.generator.notes, *describe(settings, networks, methods, len(files), output), sep="\n")
        try:
            for name, reason in problems:
                folder.fail(name, reason)
            if args.engine == "ray":
                make_worker = partial(make_folder, args, methods, output, kept)
                with progress_bar("clips", len(own + files), quiet=args.quiet) as bar:
                    groups = folder.groups(own) + folder.groups(files)
                    ray = {"address": args.address, "actors": args.actors}
                    ray_engine.recover(folder, groups, make_worker, bar, interrupt, **ray)
            else:
                for title, sources in (("own samples", own), ("files", files)):
                    with progress_bar(title, len(sources), quiet=args.quiet or not sources) as bar:
                        folder.recover(sources, bar, interrupt)
        except KeyboardInterrupt:
            write_reports(settings, folder)
            raise KeyboardInterrupt(resume_command(output, args.output)) from None
        write_reports(settings, folder)
        print_medians(folder.results())
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


def make_folder(args, methods, output: Path, kept: dict[str, Any], made=None, sources=()) -> RecoveryFolder:
    """The run's results; `made` is what `make_recoveries` gave. An actor makes its own, without a list of all clips."""
    networks, recoveries = made or make_recoveries(args, methods)
    return RecoveryFolder(
        output,
        recoveries,
        methods,
        sources,
        generator=networks.generator,
        options=kept,
        window=args.window,
        alignment=args.alignment,
        batch_size=args.batch_size,
        store=args.store and open_path(args.store),
        align=make_aligner(networks, args.batch_size) if args.align else None,
    )


def describe(
    settings: dict[str, Any], networks: Networks, methods: tuple[str, ...], n: int, output: Path
) -> tuple[str, str]:
    generator = networks.generator
    return (
        f"{generator.name}: latent size {generator.latent_dim}, {generator.num_samples} samples at "
        f"{generator.sample_rate} Hz, {generator.num_channels} channel(s), {generator.prior} prior",
        f"{', '.join(methods)}: minimises {settings['objective']}; {n} files into {output}",
    )


if __name__ == "__main__":
    options.run(main)
