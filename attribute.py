"""Attribute audio: was this clip made by this generator?

Each clip is inverted as exactly as can be. Its score is the decimal logarithm of what is left of its energy when the
best reconstruction is taken away: 0 where silence does as well or better, about -7 where a 16-bit clip is matched to
the rounding of its samples. The verdict:

    made by this generator   a low score, and the clip matched `exact`, to the rounding of its samples; or a low score
                             of a lossy file, which cannot be: then a related generator is not excluded, and a note
                             says so
    related                  a low score, not exact: a sample that was altered since, or a sample of a related
                             generator, such as an earlier checkpoint of the same training
    abstains                 between the thresholds, where own samples on which the search did not converge and clips
                             of other origin lie side by side; and silence, which has no score
    not                      a high score

A sample under noise 10 dB below it abstains: a tenth of its energy is left whatever the latent, and real speech leaves
as little. Both thresholds are calibrated on the generator's own samples and on real clips that nothing published was
measured on; a calibration serves one generator, and the search with one encoder. That of the bundled networks, in
float32, comes with them. A verdict is about the clip as it is read: what was cut, amplified, resampled, encoded or
mixed since may no longer be within the generator's reach. `python -m studies.attribution` measures all that.

Examples:
    # Files and folders
    python attribute.py suspect.wav more_clips/

    # Thresholds of your own: 100 own samples, 100 clips of the selection half
    python attribute.py --calibrate ../shared/data/speech_commands_digits --n 100

    # Another generator, without an encoder; its thresholds in a file of its own
    python attribute.py clips/ --calibrate real_drums/ --generator examples/drums.keras --encoder none \\
        --calibration results/drums.json

Writes into --output: index.html (the clips and their reconstructions), summary.csv, results.jsonl (a line
a clip: score, verdict, and how it came about), options.json, log.txt, scores/ (a record a clip with its latent: an
interrupted run resumes) and clips/ (the sounds of the page).

Exit codes: 0 all well, 2 wrong usage, 3 some files failed, 130 interrupted.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils import options
from utils.bundled import CALIBRATION, find_calibration
from utils.errors import UserError
from utils.runs.cache import cache_folder

RESULTS, SUMMARY = "results.jsonl", "summary.csv"
SHOWN = 500  # clips on the page
# What a run may be continued with another value of; of networks and clips the contents count.
CHANGEABLE = ("input", "generator", "encoder", "trust", "calibrate", "calibration", "n", "limit", "cache", "output")
CHANGEABLE += ("batch_size", "dry_run", "quiet", "seed")
COLUMNS = ("source", "verdict", "score", "exact", "notes", "window_start", "evaluations", "seconds")  # of summary.csv


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    clips = "audio files, or folders of them; may be left out with --calibrate"
    parser.add_argument("input", type=Path, nargs="*", metavar="CLIP", help=clips)
    group = parser.add_argument_group("model")
    options.add_shared(group, "generator", "encoder", "trust", "precision")

    group = parser.add_argument_group("clips")
    which = "which part of a clip longer than the generator's output"
    group.add_argument("--window", choices=("start", "loudest"), default="start", help=which)
    options.add_shared(group, "limit")

    group = parser.add_argument_group("calibration")
    add = group.add_argument
    data = "calibrate on own samples and on the clips in this folder, of SC09 the selection half (default: do not)"
    add("--calibrate", type=Path, metavar="DATA", help=data)
    add("--n", type=options.positive_int, default=100, metavar="N", help="clips of either kind to calibrate on")
    where = f"the thresholds (default: {CALIBRATION}; where there is none to read, the bundled networks' own)"
    add("--calibration", type=Path, metavar="FILE", help=where)
    cache = "where decoded clips and near samples are kept"
    add("--cache", type=Path, default=cache_folder(), metavar="DIR", help=cache)

    options.add_shared(parser.add_argument_group("run"), "output", "batch_size", "seed", "dry_run", "quiet")
    args = parser.parse_args()
    if not args.input and not args.calibrate:
        raise UserError("CLIP: name audio files or folders, or --calibrate DATA (--help shows all options)")
    args.calibration = (args.calibration or CALIBRATION) if args.calibrate else find_calibration(args.calibration)
    if args.dry_run:
        files, failures = find_files(args.input, args.limit)
        plan = f"Would attribute {len(files)} files by {args.calibration}; {len(failures)} cannot be read."
        options.end_dry_run(args, *([f"Would write {args.calibration}."] if args.calibrate else []), plan)
    return args


def find_files(roots: list[Path], limit: int | None) -> tuple[list[Path], list[tuple[str, str]]]:
    """The clips in sorted order, each once, and (path, reason) of what cannot be read."""
    from utils.audio.files import find_audio  # here, so that --help need not wait for NumPy

    files, problems = [], []
    for root in roots:
        some, bad = find_audio(root)
        if not some and not bad:
            raise UserError(f"{root}: no audio in this folder")
        files += some
        problems += [(str(path), reason) for path, reason in bad]
    return list(dict.fromkeys(files))[:limit], problems


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np

from models.networks import Networks
from utils.audio.datasets import load_dataset
from utils.audio.files import Clip, load_clip, write_wav
from utils.audio.transformations import round_to_bits
from utils.evaluation.attribution import (
    LOSSY,
    VERDICTS,
    Attributor,
    Thresholds,
    calibration_record,
    is_lossless,
    read_thresholds,
    score_settings,
)
from utils.inversion.exactness import APPROXIMATE, EXACT
from utils.inversion.names import SEARCH
from utils.inversion.store import ResultStore
from utils.report.page import write_page
from utils.runs.batches import render
from utils.runs.environment import describe_environment
from utils.runs.files import read_json, to_json, write_csv, write_json, write_text
from utils.runs.folders import keep_options, output_folder, tee_log
from utils.runs.interrupts import resume_command
from utils.runs.progress import progress_bar


def main() -> int:
    args = parse_arguments()
    files, failures = find_files(args.input, args.limit)
    networks = Networks(
        args.generator, trust=args.trust, precision=args.precision, alignment="aligned", encoder=args.encoder
    )
    hashes = {f"{name}_sha256": networks.sha256(name) for name in ("generator", "encoder")}
    settings = score_settings(precision=args.precision, **hashes)
    thresholds = None if args.calibrate else load_thresholds(args.calibration, settings)
    encode = args.encoder and networks.encode
    generators = networks.generator, networks.fast_generator
    attributor = Attributor(*generators, encode, settings=settings, cache=args.cache)
    output = output_folder(args.output, Path("results"), "attribution")
    keep_options(output, vars(args) | hashes, changeable=CHANGEABLE, positional=["input"])
    store = ResultStore(output)
    with tee_log(output / "log.txt"):
        try:
            if args.calibrate:
                calibrate(args, networks, attributor, store)
                thresholds = load_thresholds(args.calibration, settings)
            results = []
            try:
                for result in attribute(args, files, failures, networks, attributor, store, thresholds, output):
                    results.append(result)
            finally:
                if args.input:
                    write_text(output / RESULTS, "".join(f"{to_json(result)}\n" for result in results))
                    write_csv(
                        output / SUMMARY, ({name: result[name] for name in COLUMNS} for result in results), COLUMNS
                    )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(resume_command(output, args.output)) from None
        for path, reason in failures:
            print(f"{path}: failed: {reason}")
        if args.input:
            facts = {"generator": f"{args.generator} ({hashes['generator_sha256'][:12]})"}
            facts |= {name: f"{value:.2f}" for name, value in limits(thresholds).items()}
            facts |= {"thresholds": str(args.calibration), "precision": args.precision}
            write_page(output, "Attribution", results, facts, failures=dict(failures), max_clips=SHOWN)
            print(describe(results))
            print(f"Results: {output / 'index.html'}, {output / SUMMARY}")
    return options.EXIT_SOME_FAILED if failures else options.EXIT_OK


def describe(results: list[dict[str, Any]]) -> str:
    """How often each verdict was given, in one line."""
    counts = Counter(result["verdict"] for result in results)
    text = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS)
    lossy = sum(result["notes"].endswith(LOSSY) for result in results)
    return f"{len(results)} clips: {text}" + (f"; of {lossy} of them: {LOSSY}" if lossy else "")


def limits(thresholds: Thresholds) -> dict[str, float]:
    return {"made_below": thresholds.made_below, "not_above": thresholds.not_above}


def load_thresholds(path: Path, settings: dict[str, Any]) -> Thresholds:
    if not path.exists():
        raise UserError(f"--calibration {path}: no such file; attribute.py --calibrate DATA makes it")
    return read_thresholds(read_json(path), path, settings)


def calibrate(args: argparse.Namespace, networks: Networks, attributor: Attributor, store: ResultStore) -> None:
    """Scores own samples and real clips, both of 16 bits, and writes the thresholds that follow."""
    generator = networks.generator
    clips = load_dataset(args.calibrate, *generator.clip_shape, "selection", cache_dir=args.cache, quiet=args.quiet)
    if len(clips) < args.n:
        raise UserError(f"--n {args.n}: {args.calibrate} has only {len(clips)} clips in its selection half")
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(clips))[: args.n])
    own = np.stack(list(render(generator, generator.sample_prior(args.seed, args.n), args.batch_size)))
    scores = {}
    for name, audio in {"own samples": round_to_bits(own, 16), "real clips": clips.to_float(chosen)}.items():
        with progress_bar(name, args.n, quiet=args.quiet) as bar:
            results = attributor(audio, store, batch_size=args.batch_size, bar=bar)
        scores[name] = [result["score"] for result in results if result["score"] is not None]
        if not scores[name]:
            raise UserError(f"--calibrate: all {args.n} {name} are silent or give no finite reconstruction")
    facts = {
        "settings": attributor.settings,
        "n": args.n,
        "seed": args.seed,
        "data": str(args.calibrate),
        "split": "selection",
        "environment": describe_environment(),
    }
    record = calibration_record(*scores.values(), **facts)
    write_json(args.calibration, record)
    found = record["thresholds"]
    print(f"{args.calibration}: made below {found['made_below']:.2f}, not above {found['not_above']:.2f}")


def attribute(
    args: argparse.Namespace,
    files: list[Path],
    failures: list[tuple[str, str]],
    networks: Networks,
    attributor: Attributor,
    store: ResultStore,
    thresholds: Thresholds,
    output: Path,
) -> Iterator[dict[str, Any]]:
    """Prints and gives the result of each file, in order; what cannot be read joins the failures."""
    generator, number = networks.generator, 0
    with progress_bar("clips", len(files), quiet=args.quiet or not files) as bar:
        for first in range(0, len(files), args.batch_size):
            clips: dict[Path, Clip] = {}
            for path in files[first : first + args.batch_size]:
                try:
                    clips[path] = load_clip(path, *generator.clip_shape, window=args.window)
                except UserError as error:
                    failures.append((str(path), str(error).removeprefix(f"{path}: ")))
                    bar.update()
            if not clips:
                continue
            audio = np.stack([clip.windows[0] for clip in clips.values()])
            scored = attributor(audio, store, batch_size=args.batch_size, bar=bar)
            made = render(generator, np.stack([facts.pop("z") for facts in scored]), args.batch_size)
            for (path, clip), facts, reconstruction in zip(clips.items(), scored, made, strict=True):
                verdict, leaves_open = thresholds.verdict(
                    facts["score"], exact=facts["exact"], lossless=is_lossless(clip)
                )
                score = "no score" if facts["score"] is None else f"score {facts['score']:.2f}"
                score += ", exact" if facts["exact"] else ""
                if not args.quiet:
                    bar.write(f"{path}: {verdict} ({score})" + (f"; {leaves_open}" if leaves_open else ""))
                sounds = {}
                if number < SHOWN:
                    sounds = {"original": f"clips/{number:05}.wav", "reconstruction": f"clips/{number:05}-search.wav"}
                    for name, samples in zip(sounds.values(), (clip.windows[0], reconstruction), strict=True):
                        write_wav(output / name, np.nan_to_num(samples), generator.sample_rate)
                number += 1
                yield {
                    "source": str(path),
                    "verdict": verdict,
                    **facts,
                    "notes": "; ".join([*clip.notes, *([leaves_open] if leaves_open else [])]),
                    "method": SEARCH,
                    "kind": "file",
                    "sha256": clip.provenance["sha256"],
                    "window_start": clip.provenance["window_starts"][0],
                    "windows": 1,
                    "match": EXACT if facts["exact"] else APPROXIMATE,
                    "status": "exact" if facts["exact"] else "out of range",
                    **limits(thresholds),
                    **sounds,
                }


if __name__ == "__main__":
    options.run(main)
