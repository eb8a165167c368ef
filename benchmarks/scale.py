"""Clips a second of `latent_vector_recovery.py` by engine and number of actors, and memory over many clips.

Each engine inverts a folder of noise, in turn; the first batches, which build graphs, are not counted.

Examples:
  # local engine, one actor, two actors
  python -m benchmarks.scale --rounds 3

  # memory of the driver and of two actors over 10,000 short clips, with the tests' generator
  python -m benchmarks.scale --memory 10000

  # many short clips and a cheap search: the cost of files and messages
  python -m benchmarks.scale --generator tests.tiny:generator --trust --max_iter 3 --batch_size 4
"""

import argparse
import importlib.util
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from utils import options
from utils.errors import UserError


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_shared(parser, "generator", "trust", "max_iter", "batch_size", max_iter=10)
    options.add_shared(parser, "objective", objective=options.OWN_OBJECTIVE)
    count = dict(type=options.positive_int, metavar="N")
    parser.add_argument("--groups", **count, default=8, help="batches per actor, or of the local engine")
    parser.add_argument("--rounds", **count, default=3, help="measurements of each engine; medians are printed")
    parser.add_argument("--memory", **count, help="instead, print the memory while N short clips are inverted")
    args = parser.parse_args()
    if not importlib.util.find_spec("ray"):
        raise UserError("needs Ray, which is not installed: make setup-ray")
    return args


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import soundfile

from models.networks import Networks
from models.recovery import make_inverter, make_recovery
from utils.inversion import ray_engine
from utils.inversion.clips import ClipRecovery
from utils.inversion.folder import RecoveryFolder
from utils.inversion.sources import FILE, files_below
from utils.losses import parse_objective
from utils.runs.folders import keep_options
from utils.runs.interrupts import Interrupt
from utils.runs.progress import progress_bar


def main() -> int:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as place:
        if args.memory:
            watch_memory(Path(place), args)
        else:
            compare_engines(Path(place), args)
    return options.EXIT_OK


def compare_engines(place: Path, args: argparse.Namespace) -> None:
    """Prints clips a second, processor seconds a clip and seconds to the first batch of each engine."""
    engines = {"local": None, "ray, 1 actor": 1, "ray, 2 actors": 2}
    rates, efforts, starts = ({name: [] for name in engines} for _ in range(3))
    for number in range(args.rounds):
        for name, actors in engines.items():
            clips = write_clips(place / f"in {number} {name}", args.batch_size * args.groups * (actors or 1), 16384)
            moments = invert(place / f"out {number} {name}", clips, args, actors)
            skipped = 2 * (actors or 1)  # batches that build graphs, or wait for an actor that does
            (began, before), (ended, after) = moments[skipped - 1], moments[-1]
            wall, effort = ended - began, sum(seconds - before.get(process, 0) for process, seconds in after.items())
            n = args.batch_size * (len(moments) - skipped)
            rates[name].append(n / wall)
            efforts[name].append(effort / n)
            starts[name].append(moments[0][0])
            print(
                f"round {number}, {name}: {n / wall:.2f} clips/s, {effort / n:.3f} processor seconds a clip", flush=True
            )
    for name in engines:
        ratio = median(mine / local for mine, local in zip(efforts[name], efforts["local"], strict=True))
        rate, effort, start = (median(numbers[name]) for numbers in (rates, efforts, starts))
        print(
            f"{name:14} {rate:6.2f} clips/s; {effort:.3f} processor seconds a clip, x {ratio:.2f}; first group after "
            f"{start:.1f} s"
        )


def watch_memory(place: Path, args: argparse.Namespace) -> None:
    """Resident memory of driver and actors, in MB, at each tenth of the clips."""
    args.generator, args.trust, args.objective, args.max_iter = "tests.tiny:generator", True, "waveform=1", 1
    clips = write_clips(place / "in", args.memory, 1024)
    print("clips  driver  actors (MB)")

    def show(done: int) -> None:
        actors = actors_of(os.getpid())
        print(
            f"{done:6} {resident_mb('self'):7.0f}  {' '.join(f'{resident_mb(actor):.0f}' for actor in actors)}",
            flush=True,
        )

    invert(place / "out", clips, args, 2, show=show, show_every=max(1, args.memory // 10))


def write_clips(folder: Path, n: int, length: int) -> Path:
    """Writes clips of noise, on which no search ends early."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        soundfile.write(folder / f"{i:06}.wav", rng.uniform(-0.5, 0.5, length), 16000)
    return folder


def invert(
    place: Path, clips: Path, args: argparse.Namespace, actors: int | None, show=None, show_every=1
) -> list[tuple[float, dict[int, float]]]:
    """Inverts a folder; for the end of each batch, seconds since the start and processor seconds by process."""
    place.mkdir()
    keep_options(place, {})
    sources, _ = files_below(clips, sorted(clips.iterdir()))
    began, moments, shown = time.monotonic(), [], 0
    with progress_bar("", len(sources), quiet=True) as bar:
        update, done = bar.update, 0

        def count(n: int) -> None:
            nonlocal done, shown
            done += n
            efforts = {process: processor_seconds(process) for process in processes_of(os.getpid())}
            moments.append((time.monotonic() - began, efforts))
            if show and done - shown >= show_every:
                shown = done
                show(done)
            update(n)

        bar.update = count
        folder = make_folder(place, args, sources)
        if actors is None:
            folder.recover(sources, bar, Interrupt())
        else:
            make_worker = partial(make_folder, place, args)
            ray_engine.recover(folder, folder.groups(sources), make_worker, bar, Interrupt(), actors=actors)
    assert len(folder.results()) == len(sources) and not folder.failures
    return moments


def make_folder(place: Path, args: argparse.Namespace, sources=()) -> RecoveryFolder:
    networks = Networks(args.generator, trust=args.trust)
    inverter = make_inverter(networks, parse_objective(args.objective))
    recovery = make_recovery(networks, inverter, max_iter=args.max_iter, hybrid_max_iter=1, restarts=1, seed=0)
    how = {"window": "start", "alignment": "aligned", "batch_size": args.batch_size}
    computation = ClipRecovery(networks.generator, {FILE: recovery}, **how)
    return RecoveryFolder(place, computation, ("gradient",), sources, options={})


def processes_of(driver: int) -> dict[int, bytes]:
    """Command lines of a process and of all its descendants, by process number, from /proc."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (entry / "stat").read_text(), (entry / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        names[int(entry.name)] = command
    found = {}
    for process, command in names.items():
        ancestor = process
        while ancestor in parents and ancestor != driver:
            ancestor = parents[ancestor]
        if ancestor == driver:
            found[process] = command
    return found


def actors_of(driver: int) -> list[int]:
    """Processes of the actors that a driver's Ray started."""
    return [process for process, command in processes_of(driver).items() if command.startswith(b"ray::MapWorker")]


def processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int | str) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    options.run(main)
