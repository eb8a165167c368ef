"""Searches beside each other on the generator's own samples: how often the latent itself is found, and how fast.

  published       the paper's loop, written anew: SciPy's L-BFGS-B, an eager gradient tape, one clip at a time
  lbfgs           batched L-BFGS from the prior, as the paper's `gradient`
  hybrid          batched L-BFGS from the encoder's answer
  adam            Adam from the prior, clipped to the box after each step
  adam_stochastic the same; a coordinate outside the box is drawn anew from the prior (Lipton & Tripathi, 2017)
  basin_cma       CMA-ES over starts, each scored after a few steps of Adam, then Adam (BasinCMA of pix2latent)
  search          `utils.inversion.search` from the encoder's answer, and from a bank of samples where that fails

The first six minimise OBJECTIVE, in float32; `search` computes as --precision says, and its audio is float32's.
Each clip and method is a JSON line, appended as it is found; what a file has already is not computed again.

Examples:
  python -m studies.recovery --n 64 --output results/published/recovery.jsonl --precision mixed_bfloat16
  python -m studies.recovery --n 8 --batch_size 1 --methods published,search --output results/tables/recovery.jsonl
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split

import cma
import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from scipy.stats import binomtest

from models.networks import Networks
from utils import metrics, options
from utils.inversion import lbfgs, scipy_lbfgs
from utils.inversion.exactness import EXACT, match
from utils.inversion.methods import TOLERANCE, from_encoder
from utils.inversion.search import LatentSearch
from utils.losses import Point, parse_objective
from utils.report.figures import COLOURS
from utils.report.markdown import table_lines
from utils.runs.cache import cache_folder
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl, read_jsonl

TITLE = "Own samples: the latent itself"
KEY = ("method", "batch_size", "clip")  # of two lines with the same, the later one counts
OBJECTIVE = "stft_real=1,waveform=1"
RATE = 0.03  # of Adam
CMA = {"generations": 10, "steps": 20}  # of BasinCMA: populations, and Adam's steps before a start is scored
PROTOCOL = ("n", "seed", "max_iter", "precision")
CURVE_POINTS = 40  # that are kept of the best values by evaluation
OFFSET = 10_000_000  # of the latents that searches start from, which no target is made of


class Problem:
    """The objective of a batch of targets, by one generator in float32."""

    def __init__(self, generator):
        self.generator, self.objective = generator, parse_objective(OBJECTIVE)
        clip = [None, generator.num_samples, generator.num_channels]
        signature = [tf.TensorSpec([None, generator.latent_dim]), tf.TensorSpec(clip)]
        self.compiled = tf.function(self.eager, input_signature=signature, autograph=False)

    def eager(self, z, targets):
        """Value `[b]` and gradient `[b, latent_dim]`."""
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = self.objective(Point(self.generator(z), targets, z, self.generator.prior))
        return value, tape.gradient(value, z)


def minimise(solver: Callable, function: Callable, targets, z, max_iter: int, bound: float) -> dict[str, Any]:
    """By one of the L-BFGS solvers: latents, evaluations a clip, and the best value after each of them."""
    result = solver(
        lambda x, index: function(tf.constant(x), tf.constant(targets[index])),
        z,
        lower=-bound,
        upper=bound,
        max_iter=max_iter,
        tol_grad=TOLERANCE,
        tol_change=TOLERANCE,
    )
    return {"z": result.x, "evaluations": result.evaluations, "curve": result.curve}


def adam(problem: Problem, targets, z, steps: int, stochastic_seed: int | None = None):
    """Latents of the lowest value seen, and that value, `[b]`."""
    variable, optimizer = tf.Variable(z), keras.optimizers.Adam(RATE)
    rng = np.random.default_rng(stochastic_seed)
    lowest, best = np.full(len(z), np.inf), z.copy()
    for _ in range(steps + 1):
        value, gradient = (x.numpy() for x in problem.compiled(variable, tf.constant(targets)))
        lower = value < lowest
        lowest[lower], best[lower] = value[lower], variable.numpy()[lower]
        optimizer.apply([tf.constant(gradient)], [variable])
        moved = variable.numpy()
        outside = np.abs(moved) > 1
        drawn = np.sign(moved) if stochastic_seed is None else rng.uniform(-1, 1, moved.shape)
        variable.assign(np.where(outside, drawn, moved).astype(np.float32))
    return best, lowest


def basin_cma(problem: Problem, target, steps: int, seed: int):
    """One clip; a population's starts are one batch."""
    n = problem.generator.latent_dim
    strategy = cma.CMAEvolutionStrategy(np.zeros(n), 0.5, {"bounds": [-1, 1], "seed": seed + 1, "verbose": -9})
    lowest, best = np.inf, np.zeros((1, n), np.float32)
    for _ in range(CMA["generations"]):
        asked = strategy.ask()
        many = np.repeat(target, len(asked), axis=0)
        ends, values = adam(problem, many, np.array(asked, np.float32), CMA["steps"])
        strategy.tell(asked, values.tolist())
        if values.min() < lowest:
            lowest, best = values.min(), ends[[values.argmin()]]
    evaluations = CMA["generations"] * strategy.popsize * (CMA["steps"] + 1) + steps + 1
    return adam(problem, target, best, steps)[0], [evaluations]


def main() -> None:
    parser = options.make_parser(__doc__)
    options.add_shared(parser, "generator", "encoder", "precision", "batch_size", "seed")
    parser.add_argument("--n", type=options.positive_int, default=16, metavar="N", help="own samples")
    parser.add_argument("--methods", default="published,lbfgs,hybrid,adam,adam_stochastic,basin_cma,search")
    parser.add_argument("--max_iter", type=options.positive_int, default=200, metavar="N", help="iterations or steps")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON lines, appended to")
    args = parser.parse_args()
    networks = Networks(args.generator, precision=args.precision, encoder=args.encoder)
    generator = networks.generator
    problem = Problem(generator)
    search = LatentSearch(networks.fast_generator, cache=cache_folder())
    z_true = generator.sample_prior(args.seed, args.n)
    targets = np.concatenate([generator(z_true[i : i + 16]).numpy() for i in range(0, args.n, 16)])
    environment = describe_environment()
    done = {(line["method"], line["batch_size"], line["clip"]) for line in read_jsonl(args.output)}

    def find(method: str, clips: np.ndarray) -> dict[str, Any]:
        batch, prior = targets[clips], generator.sample_prior(args.seed, args.n, OFFSET)[clips]
        if method == "published":
            return minimise(scipy_lbfgs.minimize, problem.eager, batch, prior, args.max_iter, np.inf)
        if method == "lbfgs":
            return minimise(lbfgs.minimize, problem.compiled, batch, prior, args.max_iter, 1.0)
        if method in ("adam", "adam_stochastic"):
            z, _ = adam(problem, batch, prior, args.max_iter, args.seed if method == "adam_stochastic" else None)
            return {"z": z, "evaluations": [args.max_iter + 1] * len(clips)}
        if method == "basin_cma":
            parts = [basin_cma(problem, batch[[i]], args.max_iter, args.seed) for i in range(len(clips))]
            z, evaluations = (np.concatenate(part) for part in zip(*parts, strict=True))
            return {"z": z, "evaluations": evaluations}
        encoded = from_encoder(generator, lambda audio: networks.encode(audio, "synthetic"), batch)
        if method == "hybrid":
            return minimise(lbfgs.minimize, problem.compiled, batch, encoded[:, 0], args.max_iter, 1.0)
        return asdict(search(batch, encoded))

    problem.compiled(tf.constant(z_true[:1]), tf.constant(targets[:1]))  # traced before anything is timed
    if "search" in args.methods:
        search(targets[:1], z_true[None, :0])  # without a start, for which its bank is read or made
        find("search", np.arange(1))
    for method in args.methods.split(","):
        for first in range(0, args.n, args.batch_size):
            clips = np.arange(first, min(first + args.batch_size, args.n))
            if all((method, args.batch_size, int(clip)) in done for clip in clips):
                continue
            started_at, cpu_at = time.monotonic(), time.process_time()
            found = find(method, clips)
            seconds, cpu = time.monotonic() - started_at, time.process_time() - cpu_at
            audio = generator(found["z"]).numpy()
            value = problem.compiled(tf.constant(found["z"]), tf.constant(targets[clips]))[0].numpy()
            for i, clip in enumerate(clips):
                line = {
                    "method": method,
                    "clip": int(clip),
                    "batch_size": args.batch_size,
                    "z_mse": float(np.mean(np.square(found["z"][i].astype(np.float64) - z_true[clip]))),
                    "snr_db": metrics.snr_db(targets[clip], audio[i]),
                    "match": match(targets[clip], audio[i]),
                    "objective": float(value[i]),
                    "evaluations": int(found["evaluations"][i]),
                    "starts": int(found["starts"][i]) if "starts" in found else 1,
                    "seconds": round(seconds / len(clips), 3),
                    "cpu_seconds": round(cpu / len(clips), 3),
                }
                if "curve" in found:
                    curve = found["curve"][i]
                    places = np.unique(np.geomspace(1, len(curve), CURVE_POINTS).astype(int))
                    line["curve"] = {int(place): float(curve[place - 1]) for place in places}
                protocol = {"minimised": OBJECTIVE} | {name: vars(args)[name] for name in PROTOCOL}
                append_jsonl(args.output, line | protocol | environment)
            print(f"{method} {clips[-1] + 1}/{args.n}: {seconds / len(clips):.1f} s a clip", flush=True)


# ---- the section of RESULTS.md ---------------------------------------------------------

FOUND = 1e-6  # z-MSE of a latent that counts as found
PUBLISHED, SEARCH = "published", "search"
SEARCHES = {
    PUBLISHED: "the published loop: SciPy's L-BFGS-B, eager, one clip at a time",
    "lbfgs": "batched L-BFGS from the prior",
    "hybrid": "batched L-BFGS from the encoder's answer",
    "adam": "Adam, clipped",
    "adam_stochastic": "Adam, stochastic clipping (Lipton & Tripathi 2017)",
    "basin_cma": "CMA-ES over starts, then Adam (BasinCMA)",
    SEARCH: "the default for own samples: coarse to fine",
}

TEXT = """\
Targets: {n} samples of the bundled generator in float32; found: z-MSE at most {found:g} (always answering z = 0 scores
0.333); brackets are Wilson's 95 % intervals. All but the last minimise `{minimised}` in float32, with at most
{max_iter} iterations or steps a start; the last computes in {precision}, its audio in float32. Batches of {batch_size}.

{table}

![Share of latents found against seconds a clip, and against the starts that were tried](figures/recovery.png)
"""

SPEED = """
**At equal loss**, by batch size, medians over {n} clips: seconds until the objective is as low as where the published
loop ends for that clip, by each evaluation's share of its search's seconds, and how many times the published loop's
rate that is. The default search minimises other objectives on its way; its seconds are to its end.

{table}
"""

Record = Mapping[str, Any]


def section(records: Sequence[Record]) -> str:
    """A table of how often each method finds the latent; another of speeds, where several batch sizes were measured."""
    by_method = _by_method(records)
    searched = next(lines for lines in by_method.values())
    first = by_method.get(SEARCH, searched)[0]
    facts = {name: first[name] for name in ("minimised", "max_iter", "precision", "batch_size")}
    head = ["method", "found", "exact", "z-MSE, median", "SNR, median", "evaluations", "s a clip"]
    rows = []
    for name, lines in by_method.items():
        found = _share([line["z_mse"] <= FOUND for line in lines])
        exact = f"{sum(line['match'] == EXACT for line in lines)} of {len(lines)}"
        z_mse, snr, evaluations = (
            np.median([line[key] for line in lines]) for key in ("z_mse", "snr_db", "evaluations")
        )
        cells = [SEARCHES[name], "{:.0f} % ({:.0f} to {:.0f})".format(*(100 * x for x in found)), exact, f"{z_mse:.2g}"]
        cells += [f"{snr:.1f} dB", f"{evaluations:,.0f}", f"{np.mean([line['seconds'] for line in lines]):.1f}"]
        rows.append(cells)
    return TEXT.format(table="\n".join(table_lines(head, rows)), n=len(searched), found=FOUND, **facts) + _speed(
        records
    )


def figure(records: Sequence[Record]) -> Figure:
    """Share found against mean seconds a clip, a point a method; of the last one also against starts tried."""
    by_method = _by_method(records)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    seconds, starts = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, (name, lines) in enumerate(by_method.items()):
        share, low, high = (100 * x for x in _share([line["z_mse"] <= FOUND for line in lines]))
        x = np.mean([line["seconds"] for line in lines])
        style = {"marker": "osD^v<*"[place % 7], "color": COLOURS[place % len(COLOURS)], "capsize": 3, "linestyle": ""}
        seconds.errorbar(x, share, [[share - low], [high - share]], label=name, **style)
    seconds.set_xscale("log")
    seconds.set_xlabel("seconds a clip")
    seconds.legend(frameon=False, fontsize=8)
    if SEARCH in by_method:
        lines = by_method[SEARCH]
        tried = range(1, max(line["starts"] for line in lines) + 1)
        shares = [_share([line["z_mse"] <= FOUND and line["starts"] <= k for line in lines]) for k in tried]
        share, low, high = (100 * np.array(column) for column in zip(*shares, strict=True))
        starts.errorbar(list(tried), share, [share - low, high - share], color=COLOURS[1], marker="o", capsize=3)
        starts.set_xticks(list(tried))
    starts.set_xlabel(f"starts tried, {SEARCH}")
    for panel in (seconds, starts):
        panel.set_ylabel("latents found, %")
        panel.set_ylim(-3, 103)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """By method, the lines of the batch size at which it was given most clips."""
    chosen = {}
    for name in SEARCHES:
        sizes: dict[int, list[Record]] = {}
        for record in records:
            if record["method"] == name:
                sizes.setdefault(record["batch_size"], []).append(record)
        if sizes:
            chosen[name] = max(sizes.values(), key=len)
    return chosen


def _speed(records: Sequence[Record]) -> str:
    """The table of seconds at equal loss; empty where the published loop was not timed beside the others."""
    sizes = sorted({record["batch_size"] for record in records})
    reference = {r["clip"]: r for r in records if r["method"] == PUBLISHED and r["batch_size"] == sizes[0]}
    if len(sizes) == 1 or not reference:
        return ""
    timed = sorted(clip for clip in reference if _has_all(records, clip, sizes))
    own = np.median([reference[clip]["seconds"] for clip in timed])
    head = ["method", "batch", "s a clip, to its end", "objective at its end", "s to the published loop's", "rate"]
    rows = []
    for name in SEARCHES:
        for size in sizes:
            lines = [r for r in records if (r["method"], r["batch_size"]) == (name, size) and r["clip"] in timed]
            if not lines:
                continue
            needed = [_seconds_to(line, reference[line["clip"]]["objective"]) for line in lines]
            reached = [value for value in needed if value is not None]
            share = "" if len(reached) == len(lines) else f" ({len(reached)} of {len(lines)} clips)"
            median = np.median(reached) if reached else np.nan
            cells = [SEARCHES[name], str(size), f"{np.median([line['seconds'] for line in lines]):.2f}"]
            cells += [f"{np.median([line['objective'] for line in lines]):.2g}"]
            cells += [f"{median:.2f}{share}", f"{own / median:.1f}"] if reached else ["never", "–"]
            rows.append(cells)
    return SPEED.format(n=len(timed), table="\n".join(table_lines(head, rows)))


def _has_all(records: Sequence[Record], clip: int, sizes: Sequence[int]) -> bool:
    """Whether a clip was searched by one method at every batch size, the published loop aside."""
    seen = {(r["method"], r["batch_size"]) for r in records if r["clip"] == clip}
    return any(all((name, size) in seen for size in sizes) for name in SEARCHES)


def _seconds_to(line: Record, objective: float) -> float | None:
    """Seconds of a search until its objective was this low; None where it never was."""
    if line["objective"] > objective:
        return None
    reached = [int(evaluations) for evaluations, value in line.get("curve", {}).items() if value <= objective]
    return line["seconds"] * min(reached, default=line["evaluations"]) / line["evaluations"]


def _share(found: Sequence[bool]) -> tuple[float, float, float]:
    """The share of True, and Wilson's 95 % interval of it."""
    interval = binomtest(sum(found), len(found)).proportion_ci(method="wilson")
    return sum(found) / len(found), interval.low, interval.high


if __name__ == "__main__":
    options.run(main)
