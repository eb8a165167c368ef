"""Own samples after what happens to files, and real clips: which the search finds, and how it decides on the range.

Own samples are rounded, encoded, resampled, made quieter, or shifted by up to 50 ms and amplified by up to 12 dB; the
last two are searched with offset and gain as two more unknowns (`utils.inversion.placed`). A line a clip says what
share of its energy was left when the range was decided, whether the latent was found, and whether the reconstruction
leaves no more of the clip than its true latent does: nearer than that no search by least squares can tell latents apart
in what rounding and codecs leave.

`IN_RANGE` of `utils.inversion.search` must lie between the largest share of own samples and the smallest of real
clips, which are printed at the end. For the generator of ff9d88a, six clips of each kind, seed 0: at most 0.34 (shifted
and amplified; 0.24 of 8 bit, 0.04 of MP3), and at least 1.12; of 32 real clips at least 1.09.

Example:
    python -m studies.formats ../shared/data/speech_commands_digits --n 24 --results results/tables
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import options
from utils.runs.cache import cache_folder

REAL_CLIPS = "real clips"


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09, of which the selection half is used")
    options.add_shared(parser, "generator", "encoder", "precision", "batch_size", "seed")
    parser.add_argument("--n", type=options.positive_int, default=24, metavar="N", help="clips of each kind")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder(), metavar="DIR", help="where decoded clips are kept"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where formats.jsonl goes")
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split

import numpy as np
from matplotlib.figure import Figure

from models.networks import Networks
from models.recovery import make_placed_search, make_search
from utils.audio.datasets import load_dataset
from utils.audio.transformations import TRANSFORMATIONS, round_to_bits, transform
from utils.evaluation.comparison import share_interval
from utils.inversion.align import place
from utils.inversion.exactness import is_found
from utils.inversion.placed import PlacedSearch
from utils.inversion.search import IN_RANGE
from utils.report.figures import Estimate, interval_figure
from utils.report.origin import origin
from utils.runs.batches import render
from utils.runs.files import append_jsonl

TITLE = "Own samples by format: what the search finds"
ABOUT = "own samples after rounding, codecs, gains and shifts, and real clips, a line a clip: energy left, z-MSE"
KEY = ("format", "clip")  # of two lines with the same, the later one counts
FLOAT, PLACED = "float", "shifted and amplified"
IN_PLACE = (FLOAT, "16 bit", "8 bit", "MP3", "Opus", "resampled")
MOVED = ("gain -6 dB", PLACED)  # searched with offset and gain unknown
SHIFT_SECONDS, GAIN_DB = 0.05, 12.0
COUNTS = ("in_range", "exact", "found", "as_close_as_truth")
NO_CLOSER = 1.01  # times what the true latent leaves: as near as that


def main() -> int:
    args = parse_arguments()
    networks = Networks(args.generator, precision=args.precision, encoder=args.encoder)
    generator = networks.generator
    z_true = generator.sample_prior(args.seed, args.n)
    own = np.stack(list(render(generator, z_true, args.batch_size)))
    dataset = load_dataset(args.input, *generator.clip_shape, "selection", cache_dir=args.cache)
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(dataset))[: args.n])
    searches = {False: make_search(networks), True: make_placed_search(networks)}
    made = {"generator": args.generator, "seed": args.seed} | origin(
        networks, precision=args.precision, solver="least squares"
    )
    shares: dict[str, list[float]] = {}
    for name in (*IN_PLACE, *MOVED, REAL_CLIPS):
        truth = None if name == REAL_CLIPS else z_true
        clips = dataset.to_float(chosen) if truth is None else after(name, own, generator.sample_rate, args.seed)
        for first in range(0, len(clips), args.batch_size):
            batch = slice(first, first + args.batch_size)
            facts = find(searches[name in MOVED], clips[batch], own[batch], None if truth is None else truth[batch])
            for i, fact in enumerate(facts):
                append_jsonl(args.results / "formats.jsonl", {"format": name, "clip": first + i} | fact | made)
            shares.setdefault(REAL_CLIPS if truth is None else "own samples", []).extend(f["share"] for f in facts)
            summary = [
                ("in range", "in_range"),
                ("exact", "exact"),
                ("found", "found"),
                ("closest", "as_close_as_truth"),
            ]
            counts = [f"{label} {sum(bool(fact.get(key)) for fact in facts)}" for label, key in summary]
            print(f"{name:22} {len(facts)} clips: {', '.join(counts)}", flush=True)
    lowest, highest = min(shares[REAL_CLIPS]), max(shares["own samples"])
    print(f"energy left: own samples at most {highest:.3f}, real clips at least {lowest:.3f}; IN_RANGE is {IN_RANGE}")
    return options.EXIT_OK


def after(name: str, own: np.ndarray, sample_rate: int, seed: int) -> np.ndarray:
    """Own samples `[N, T, C]` after what is called `name`."""
    if name == FLOAT:
        return own
    if name in TRANSFORMATIONS:
        return transform(name, own, sample_rate, seed)
    random = np.random.default_rng(seed)
    reach = round(SHIFT_SECONDS * sample_rate)
    offset, gain_db = random.integers(-reach, reach + 1, len(own)), random.uniform(-GAIN_DB, GAIN_DB, len(own))
    headroom = -20 * np.log10(np.maximum(np.abs(own).max(axis=(1, 2)), 1e-9))
    return round_to_bits(place(own, offset, np.minimum(gain_db, headroom)), 16)


def find(search: Any, clips: np.ndarray, own: np.ndarray, z_true: np.ndarray | None) -> list[dict[str, Any]]:
    """What a search says of each clip `[N, T, C]`; z_true `[N, latent_dim]` where clips were made of samples `own`."""
    started_at = time.monotonic()
    found = search(clips)
    seconds = (time.monotonic() - started_at) / len(clips)
    moved = isinstance(search, PlacedSearch)
    audio = np.asarray(search.generator(found.z))
    z = search.generator.split(found.z)[0] if moved else found.z
    left, by_truth = (np.mean(np.square(x - clips, dtype=np.float64), axis=(1, 2)) for x in (audio, own))
    facts = [
        {
            "share": float(found.share[i]),
            "in_range": bool(found.in_range[i]),
            "exact": bool(found.exact[i]),
            "evaluations": int(found.evaluations[i]),
            "seconds": round(seconds, 3),
        }
        for i in range(len(clips))
    ]
    if z_true is None:
        return facts
    z_mse = np.mean(np.square(z.astype(np.float64) - z_true), axis=1)
    for i, fact in enumerate(facts):
        fact |= {"z_mse": float(z_mse[i]), "found": is_found(z_mse[i])}
        if not moved:
            fact["as_close_as_truth"] = bool(fact["exact"] or left[i] <= NO_CLOSER * by_truth[i])
    return facts


# ---- in RESULTS.md --------------------------------------------------------------


def figure(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Shares in range, exact and found by format, and the median z-MSE, a row a format."""
    panels: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name in dict.fromkeys(line["format"] for line in lines):
        some = [line for line in lines if line["format"] == name]
        row = f"{name} (n = {len(some)})"
        for title, key in (("in range, %", "in_range"), ("exact, %", "exact"), ("latents found, %", "found")):
            if key in some[0]:
                k = sum(line[key] for line in some)
                bounds = share_interval(k, len(some))
                panels.setdefault(title, {}).setdefault("all", {})[row] = Estimate(
                    100 * k / len(some), *(100 * bound for bound in bounds)
                )
        if "z_mse" in some[0]:
            median = Estimate(float(np.median([line["z_mse"] for line in some])))
            panels.setdefault("z-MSE, median", {}).setdefault("all", {})[row] = median
    return interval_figure(panels, logarithmic=("z-MSE, median",))


if __name__ == "__main__":
    options.run(main)
