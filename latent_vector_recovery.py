"""Invert audio: find the latent vectors with which a generator reproduces the clips of a file or a folder.

Examples:
  # The demo clips on the bundled generator; the page to listen to is named at the end.
  python latent_vector_recovery.py datasets/demo

  # 32 real clips, the best of 8 starts each.
  python latent_vector_recovery.py ../shared/data/speech_commands_digits/seven --limit 32 --restarts 8

  # The paper's three methods by its protocol (hours; needs a trained encoder, and the classifier).
  python latent_vector_recovery.py datasets/sc09/valid --limit 501 --method all --preset paper

  # A long recording, window after window; and a run that was stopped, continued.
  python latent_vector_recovery.py speech.flac --window all --output results/speech
  python latent_vector_recovery.py speech.flac --window all --output results/speech

Terms of --objective: stft_real, waveform (both as in the paper), mr_stft (multi-resolution log-magnitude STFT),
feature (the activations of the middle block of --classifier), latent_prior.

Writes into the output folder: index.html (originals and reconstructions to listen to), summary.csv,
results.jsonl, failures.jsonl, options.json, log.txt, and per clip its original, reconstructions (WAV) and
latents (npz). Numbers are of the audio as written, without the zero-padding of the last window.

Exit codes: 0 all well, 2 wrong usage, 3 some files failed, 130 interrupted.
"""

import argparse
import csv
import dataclasses
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from models.checkpoints import require_same_clips
from models.classifier import find_classifier, load_classifier, middle_block_features
from models.encoder import Encoder, find_encoder, load_encoder
from models.generator import Generator, load_generator
from utils import losses, metrics, options
from utils.audio import files as audio
from utils.inversion import invert as recovery
from utils.inversion import latents
from utils.options import UserError
from utils.report import page as report
from utils.runs.files import append_jsonl, atomic_path, file_sha256, read_json, remove_torn, to_json, write_json
from utils.runs.folders import keep_options, output_folder, tee_log

PRESETS = {
    "aligned": {},
    "paper": {
        "solver": "scipy",
        "max_iter": 50_000,
        "objective": losses.PUBLISHED,
        "clip_to_prior": False,
        "gain": audio.ALIGNMENTS["paper"].gain,
        "treat_as_rate": audio.ALIGNMENTS["paper"].treat_as_rate,
    },
}
# What a run may be continued with another value of; of networks the weights count, not the path.
CHANGEABLE = ("generator", "encoder", "classifier", "limit", "preset", "output", "dry_run", "quiet")
METHODS = ("encoder", "gradient", "hybrid")
RECORD = "record.json"


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    parser.add_argument("input", type=Path, metavar="INPUT", help="an audio file, or a folder of them")
    model = parser.add_argument_group("model")
    options.add_shared(model, "generator", "encoder", "classifier", "precision")
    clips = parser.add_argument_group("clips")
    options.add_shared(clips, "limit", "window")
    clips.add_argument(
        "--gain",
        type=options.positive_float,
        default=1.0,
        metavar="X",
        help="factor on the clips' samples (paper: 1.414)",
    )
    clips.add_argument(
        "--treat_as_rate",
        type=options.positive_int,
        metavar="HZ",
        help="resample clips to this rate as if the generator ran at it (paper: 16384; "
        "default: the generator's own rate)",
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
    options.add_shared(
        search,
        "preset",
        "method",
        "solver",
        "max_iter",
        "restarts",
        "objective",
        "clip_to_prior",
        max_iter=400,
        objective=losses.DEFAULT,
    )
    search.add_argument(
        "--hybrid_max_iter",
        type=options.positive_int,
        default=200,
        metavar="N",
        help="most iterations from the encoder's answer (hybrid), at least 1",
    )
    run = parser.add_argument_group("run")
    options.add_shared(run, "output", "batch_size", "seed", "dry_run", "quiet")
    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    args.objective = str(losses.parse_objective(args.objective))
    return args


@dataclasses.dataclass(frozen=True)
class Input:
    """One clip to invert: a file, or the generator's own sample number `index`.

    source: how it is called in results.
    folder: where its results go, relative to the output folder.
    """

    source: str
    folder: str
    path: Path | None = None
    index: int | None = None

    @property
    def kind(self) -> str:
        return "own sample" if self.path is None else "file"


@dataclasses.dataclass
class Run:
    """What all clips of a run share."""

    output: Path
    methods: list[str]
    settings: dict[str, Any]
    args: argparse.Namespace
    generator: Generator
    encoder: Callable[[np.ndarray], Any] | None
    inverter: recovery.Inverter
    failures: int = 0
    interrupted: bool = False

    def interrupt(self, *_) -> None:
        """Handler of Ctrl-C. An exception that lands in a destructor is lost: the mark is not."""
        self.interrupted = True
        raise KeyboardInterrupt

    def fail(self, source: str, reason: str) -> None:
        self.failures += 1
        append_jsonl(self.output / "failures.jsonl", {"source": source, "reason": reason})
        tqdm.write(f"failed: {source}: {reason}", file=sys.stderr)


def main() -> int:
    args = parse_arguments()
    inputs, problems = find_inputs(args)
    if args.dry_run:
        return show_plan(args, inputs, problems)
    methods = list(METHODS) if args.method == "all" else [args.method]
    search = generator = load_generator(args.generator, args.precision)
    if args.precision != "float32" and search.network is not None:
        generator = load_generator(args.generator)
    objective = losses.parse_objective(args.objective)
    encoder = None if methods == ["gradient"] else usable_encoder(args.encoder, generator)
    features = usable_features(args.classifier, generator) if objective.needs_features else None
    inverter = recovery.Inverter(
        search,
        objective,
        solver=args.solver,
        clip_to_prior=args.clip_to_prior,
        polish=None if search is generator else generator,
        features=features,
    )
    begun = vars(args) | {
        "input": args.input.resolve(),
        "generator_sha256": generator.fingerprint,
        "encoder_sha256": encoder and file_sha256(find_encoder(args.encoder)),
        "classifier_sha256": features and file_sha256(find_classifier(args.classifier)),
    }
    output = output_folder(args.output, Path("results"), f"recovery-{args.input.resolve().stem}")
    keep_options(output, begun, changeable=CHANGEABLE, positional=["input"])
    settings = {name: value for name, value in begun.items() if name not in CHANGEABLE}
    run = Run(output, methods, settings, args, generator, encoder, inverter)
    signal.signal(signal.SIGINT, run.interrupt)
    with tee_log(output / "log.txt"):
        for note in search.notes:
            say(args, note)
        try:
            recover(run, inputs, problems)
        except KeyboardInterrupt:
            command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
            more = "" if args.output else f" --output {shlex.quote(str(output))}"
            tqdm.write(f"Interrupted. This goes on where it was: {command}{more}", file=sys.stderr)
            return options.EXIT_INTERRUPTED
        except tf.errors.ResourceExhaustedError as error:
            raise UserError(f"--batch_size {args.batch_size}: out of memory; try a smaller one") from error
    return options.EXIT_SOME_FAILED if run.failures else options.EXIT_OK


def find_inputs(args: argparse.Namespace) -> tuple[list[Input], list[tuple[str, str]]]:
    """The clips in sorted order, and (source, reason) of what cannot be read."""
    root = args.input
    files, problems = audio.find_audio(root)
    if not files and not problems:
        raise UserError(f"{root}: no audio in this folder (looked for {' '.join(sorted(audio.SUFFIXES))})")
    output = args.output or Path("results")
    if root.is_dir() and output.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--output {output}: lies inside INPUT, whose clips it would join; choose another folder")
    base = root if root.is_dir() else root.parent
    names = [file.relative_to(base).as_posix() for file in files[: args.limit]]
    inputs = [Input(name, f"clips/{name}", path=base / name) for name in names]
    return inputs, [(path.relative_to(base).as_posix(), reason) for path, reason in problems]


def show_plan(args: argparse.Namespace, inputs: list[Input], problems: list[tuple[str, str]]) -> int:
    for name, value in vars(args).items():
        print(f"{name:16} {value}")
    done = sum((args.output / clip.folder / RECORD).exists() for clip in inputs) if args.output else 0
    print(
        f"Would invert {len(inputs)} files ({done} of them are done) and {args.own_samples} own samples; "
        f"{len(problems)} cannot be read."
    )
    return options.EXIT_OK


def usable_encoder(path: str, generator: Generator) -> Callable[[np.ndarray], Any]:
    """The encoder that `--encoder` names: audio `[B, T, C]` to z; tried out, as any Keras model may be one."""
    model = load_encoder(path)
    if isinstance(model, Encoder):
        require_same_clips(f"--encoder {path}", model, generator)

    def encoder(windows: np.ndarray) -> Any:
        return model(windows, training=False)

    recovery.from_encoder(generator, encoder, np.zeros((1, generator.num_samples, generator.num_channels), np.float32))
    return encoder


def usable_features(path: str, generator: Generator) -> recovery.Features:
    """What the term `feature` compares, by the classifier that `--classifier` names, in float32."""
    classifier = load_classifier(path).with_precision("float32")
    require_same_clips(f"--classifier {path}", classifier, generator, "an --objective without feature needs none")
    return middle_block_features(classifier)


def say(args: argparse.Namespace, *lines: str) -> None:
    if not args.quiet:
        print(*lines, sep="\n")


def recover(run: Run, inputs: list[Input], problems: list[tuple[str, str]]) -> None:
    args, generator = run.args, run.generator
    say(
        args,
        f"{generator.name}: latent size {generator.latent_dim}, {generator.num_samples} samples at "
        f"{generator.sample_rate} Hz, {generator.num_channels} channel(s), {generator.prior} prior",
        f"{', '.join(run.methods)}: minimises {args.objective}; {len(inputs)} files into {run.output}",
    )
    (run.output / "failures.jsonl").unlink(missing_ok=True)  # what failed is tried again
    for source, reason in problems:
        run.fail(source, reason)
    own = [Input(f"own sample {i}", f"own_samples/{i:03}", index=i) for i in range(args.own_samples)]
    next_report, started = 0.0, time.monotonic()
    for title, clips in (("own samples", own), ("files", inputs)):
        if not clips:
            continue
        with progress_bar(title, len(clips), args.quiet) as bar:
            for first in range(0, len(clips), args.batch_size):
                if run.interrupted:
                    raise KeyboardInterrupt
                recover_group(run, clips[first : first + args.batch_size], bar)
                if time.monotonic() >= next_report and first + args.batch_size < len(clips):
                    begun = time.monotonic()
                    write_reports(run, own + inputs)
                    next_report = time.monotonic() + max(60.0, 20 * (time.monotonic() - begun))
    results = write_reports(run, own + inputs)
    print_medians(results)
    say(args, f"{time.monotonic() - started:.0f} s")
    if run.failures:
        print(f"{run.failures} failed, see {run.output / 'failures.jsonl'}")
    print(f"Listen: {run.output / 'index.html'}")


def progress_bar(title: str, total: int, quiet: bool) -> tqdm:
    # In a file or a pipe, twice a minute is enough. smoothing=0: speed is the mean over the clips computed.
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, desc=title, unit="clip", smoothing=0, mininterval=interval, disable=quiet)


def recover_group(run: Run, group: list[Input], bar: tqdm) -> None:
    """Inverts what is not done of a group of clips.

    A group is always computed whole, so that an interrupted run ends with what an uninterrupted one gives.
    """
    pending = [clip for clip in group if not is_done(run, clip)]
    loaded = {}
    for clip in pending:
        try:
            loaded[clip] = load(run, clip)
        except (UserError, OSError) as error:
            run.fail(clip.source, str(error).removeprefix(f"{clip.path}: "))
    if loaded:
        clips = {
            clip: loaded[clip] if clip in loaded else load(run, clip)
            for clip in group
            if clip in loaded or clip not in pending
        }
        found = {method: invert(run, method, list(clips.values()), bar) for method in run.methods}
        for position, clip in enumerate(clips):
            if clip in loaded:
                write_clip(run, clip, clips[clip], {name: ends[position] for name, ends in found.items()})
    if not bar.disable:
        bar.initial += len(group) - len(loaded)  # what was done before does not count as speed
    bar.update(len(group))


def is_done(run: Run, clip: Input) -> bool:
    record = run.output / clip.folder / RECORD
    if not record.exists():
        return False
    if clip.path is not None:
        try:
            if read_json(record)["sha256"] == file_sha256(clip.path):
                return True
        except UserError:
            pass
        record.unlink()  # of a file that has changed since
        return False
    return True


def load(run: Run, clip: Input) -> audio.Clip:
    generator, args = run.generator, run.args
    if clip.path is not None:
        return audio.load_clip(
            clip.path,
            generator.num_samples,
            generator.num_channels,
            generator.sample_rate,
            args.window,
            audio.Alignment(args.gain, args.treat_as_rate),
        )
    provenance = {
        "source": clip.source,
        "sha256": "",
        "resampled_to": generator.sample_rate,
        "window_starts": [0],
        "valid_length": generator.num_samples,
    }
    return audio.Clip(generator(true_latent(run, clip)).numpy(), provenance)


def true_latent(run: Run, clip: Input) -> np.ndarray | None:
    """The z `[1, latent_dim]` that an own sample was made from."""
    return None if clip.index is None else run.generator.sample_prior(run.args.seed, 1, start=clip.index)


def invert(run: Run, method: str, clips: list[audio.Clip], bar: tqdm) -> list[tuple[recovery.Recovered, float]]:
    """Per clip what was found for its windows, and its share of the seconds it took."""
    args, size = run.args, run.args.batch_size
    windows = np.concatenate([clip.windows for clip in clips])
    identities = [
        f"{clip.provenance['sha256'] or clip.provenance['source']} {start}"
        for clip in clips
        for start in clip.provenance["window_starts"]
    ]
    last_shown = time.monotonic()

    def show(running: int, objective: float) -> None:
        nonlocal last_shown
        if time.monotonic() - last_shown > bar.mininterval:
            last_shown = time.monotonic()
            bar.set_postfix_str(f"{method}: {running} starts run, objective {objective:.4f}")

    parts, seconds = [], np.zeros(len(windows))
    for first in range(0, len(windows), size):
        batch = slice(first, first + size)
        begun = time.monotonic()
        part = recovery.recover(
            run.inverter,
            method,
            windows[batch],
            identities[batch],
            encoder=run.encoder,
            max_iter={"gradient": args.max_iter, "hybrid": args.hybrid_max_iter},
            restarts=args.restarts,
            clip_to_prior=args.clip_to_prior,
            seed=args.seed,
            progress=None if bar.disable else show,
        )
        parts.append(part)
        seconds[batch] = (time.monotonic() - begun) / len(part.z)
    whole = recovery.Recovered.concatenate(parts)
    ends = np.cumsum([len(clip.windows) for clip in clips])
    return [
        (whole[end - len(clip.windows) : end], float(seconds[end - len(clip.windows) : end].sum()))
        for clip, end in zip(clips, ends, strict=True)
    ]


def write_clip(run: Run, clip: Input, source: audio.Clip, found: dict[str, tuple[recovery.Recovered, float]]) -> None:
    """Writes a clip's files, and last the record that makes it done."""
    if not all(np.isfinite(end.objective).all() and np.isfinite(end.audio).all() for end, _ in found.values()):
        run.fail(clip.source, "the generator or the objective is not finite for it")
        return
    folder, rate = run.output / clip.folder, source.provenance["resampled_to"]
    folder.mkdir(parents=True, exist_ok=True)
    remove_torn(folder)
    original = audio.join_windows(source.windows, source.provenance)
    audio.write_wav(folder / "original.wav", original, rate)
    z_true, results = true_latent(run, clip), []
    for method, (end, seconds) in found.items():
        reconstruction = audio.join_windows(end.audio, source.provenance)
        audio.write_wav(folder / f"{method}.wav", reconstruction, rate)
        latents.save_latents(
            folder / f"{method}.npz",
            latents.Latents(
                z=end.z,
                z_true=z_true,
                generator=run.generator.fingerprint,
                method=method,
                seed=run.args.seed,
                source=source.provenance["source"],
                source_sha256=source.provenance["sha256"],
                options=run.settings,
                provenance=source.provenance,
                objective=end.objective,
                evaluations=end.evaluations,
                status=np.array(end.status),
                curve=latents.stack_curves(end.curve),
            ),
        )
        results.append(
            {
                "source": clip.source,
                "method": method,
                "kind": clip.kind,
                "original": f"{clip.folder}/original.wav",
                "reconstruction": f"{clip.folder}/{method}.wav",
                "latents": f"{clip.folder}/{method}.npz",
                "windows": len(end.z),
                "sample_rate": rate,
                "objective": float(end.objective.mean()),
                "waveform_mse": metrics.waveform_mse(original, reconstruction),
                "ssim": metrics.ssim(original, reconstruction),
                "snr_db": metrics.snr_db(original, reconstruction),
                "z_mse": None if z_true is None else metrics.latent_mse(end.z, z_true),
                "evaluations": int(end.evaluations.sum()),
                "seconds": round(seconds, 3),
                "status": end.status[0] if len(set(end.status)) == 1 else "mixed",
            }
        )
    record = {"sha256": source.provenance["sha256"], "provenance": source.provenance, "results": results}
    write_json(folder / RECORD, record)


def read_results(run: Run, clips: Iterable[Input]) -> Iterator[dict[str, Any]]:
    for clip in clips:
        record = run.output / clip.folder / RECORD
        if record.exists():
            yield from read_json(record)["results"]


def write_reports(run: Run, clips: list[Input]) -> list[dict[str, Any]]:
    """results.jsonl, summary.csv and index.html from the clips' records; returns the results."""
    results = list(read_results(run, clips))
    with atomic_path(run.output / "results.jsonl") as temporary:
        lines = [to_json(result) + "\n" for result in results]
        temporary.write_text("".join(lines), encoding="utf-8")
    with atomic_path(run.output / "summary.csv") as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(results[0]) if results else ["source"])
            writer.writeheader()
            writer.writerows(results)
    environment = read_json(run.output / "options.json")["environment"]
    networks = {
        name: f"{getattr(run.args, name)} ({run.settings[f'{name}_sha256'][:12]})"
        for name in ("generator", "encoder", "classifier")
        if run.settings[f"{name}_sha256"]
    }
    effort = {
        "gradient": f"at most {run.args.max_iter} iterations, {run.args.restarts} start(s)",
        "hybrid": f"at most {run.args.hybrid_max_iter} iterations",
    }
    facts = networks | {
        "objective": run.args.objective,
        "solver": run.args.solver,
        **{method: effort[method] for method in run.methods if method in effort},
        "window": run.args.window,
        "seed": str(run.args.seed),
        "commit": str(environment["commit"])[:12],
        "hardware": environment["hardware"]["cpu"],
    }
    report.write_page(run.output, f"Recovery of {run.args.input.name}", results, facts)
    return results


def print_medians(results: list[dict[str, Any]]) -> None:
    for method in dict.fromkeys(result["method"] for result in results):
        parts = []
        for kind, phrase in (
            ("own sample", "on its own samples the generator is recovered to"),
            ("file", "on your files to"),
        ):
            some = [r for r in results if r["method"] == method and r["kind"] == kind]
            if some:
                numbers = f"median SNR {middle(some, 'snr_db', '.1f')} dB, SSIM {middle(some, 'ssim', '.3f')}"
                numbers += f", MSE {middle(some, 'waveform_mse', '.2e')}"
                if kind == "own sample":
                    numbers += f", z-MSE {middle(some, 'z_mse', '.2g')}"
                parts.append(f"{phrase} {numbers} (n = {len(some)})")
        print(f"{method}: {'; '.join(parts)}")


def middle(results: list[dict[str, Any]], key: str, form: str) -> str:
    values = [result[key] for result in results if result[key] is not None]
    return format(median(values), form) if values else "-"


if __name__ == "__main__":
    options.run(main)
