"""Searches compared on the generator's own samples: how often the latent itself is found, and how fast.

  published       the paper's loop, rewritten: SciPy's L-BFGS-B, an eager gradient tape, one clip at a time
  lbfgs           batched L-BFGS from the prior, as the paper's `gradient`
  hybrid          batched L-BFGS from the encoder's answer
  adam            Adam from the prior, clipped to the box after each step
  adam_stochastic the same; a coordinate outside the box is drawn again from the prior (Lipton & Tripathi, 2017)
  basin_cma       CMA-ES over starts, each scored after a few steps of Adam, then Adam (BasinCMA of pix2latent)
  search          `utils.inversion.search` from the encoder's answer

The first six minimise OBJECTIVE, in float32; `search` computes as --precision says, and its audio is float32's.
Each clip and method is a JSON line, appended as it is found; what a file has already is not computed again.

Examples:
  python -m studies.recovery --n 64 --output results/published/recovery.jsonl --precision mixed_bfloat16
  python -m studies.recovery --n 8 --batch_size 1 --methods published,search --output results/tables/recovery.jsonl
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils import options


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_shared(parser, "generator", "encoder", "precision", "batch_size", "seed")
    parser.add_argument("--n", type=options.positive_int, default=16, metavar="N", help="own samples")
    parser.add_argument("--methods", default="published,lbfgs,hybrid,adam,adam_stochastic,basin_cma,search")
    parser.add_argument("--max_iter", type=options.positive_int, default=200, metavar="N", help="iterations or steps")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON lines, appended to")
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split

import cma
import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from models.networks import Networks
from models.recovery import make_search
from utils import metrics
from utils.evaluation.comparison import share_interval
from utils.inversion import lbfgs, scipy_lbfgs
from utils.inversion.exactness import is_found, match
from utils.inversion.methods import TOLERANCE, from_encoder
from utils.losses import Point, parse_objective
from utils.report.figures import Estimate, interval_figure
from utils.report.origin import origin
from utils.runs.files import append_jsonl, read_jsonl

TITLE = "Own samples: how often each search finds the latent"
ABOUT = "searches for the latents of own samples, a line a clip: z-MSE, SNR, evaluations, seconds"
KEY = ("method", "batch_size", "clip")  # of two lines with the same, the later one counts
OBJECTIVE = "stft_real=1,waveform=1"
RATE = 0.03  # of Adam
CMA = {"generations": 10, "steps": 20}  # of BasinCMA: populations, and Adam's steps before a start is scored
PROTOCOL = ("n", "seed", "max_iter")
SOLVERS = {"published": "scipy", "lbfgs": "batched", "hybrid": "batched", "search": "least squares"}
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
    args = parse_arguments()
    networks = Networks(args.generator, precision=args.precision, encoder=args.encoder)
    generator = networks.generator
    problem = Problem(generator)
    search = make_search(networks)
    z_true = generator.sample_prior(args.seed, args.n)
    targets = np.concatenate([generator(z_true[i : i + 16]).numpy() for i in range(0, args.n, 16)])
    done = {
        (line["method"], line["batch_size"], line["clip"])
        for line in read_jsonl(args.output)
        if line.get("generator_sha256") == generator.fingerprint
    }

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
        if method == "search":
            return asdict(search(batch))
        encoded = from_encoder(generator, lambda audio: networks.encode(audio, "synthetic"), batch)
        return minimise(lbfgs.minimize, problem.compiled, batch, encoded[:, 0], args.max_iter, 1.0)

    problem.compiled(tf.constant(z_true[:1]), tf.constant(targets[:1]))  # traced before anything is timed
    if "search" in args.methods:
        find("search", np.arange(1))
    for method in args.methods.split(","):
        precision = args.precision if method == SEARCH else "float32"
        made = {"generator": args.generator} | origin(networks, precision=precision, solver=SOLVERS.get(method, method))
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
                    "seconds": round(seconds / len(clips), 3),
                    "cpu_seconds": round(cpu / len(clips), 3),
                }
                if "curve" in found:
                    curve = found["curve"][i]
                    places = np.unique(np.geomspace(1, len(curve), CURVE_POINTS).astype(int))
                    line["curve"] = {int(place): float(curve[place - 1]) for place in places}
                protocol = {"minimised": OBJECTIVE} | {name: vars(args)[name] for name in PROTOCOL}
                append_jsonl(args.output, line | protocol | made)
            print(f"{method} {clips[-1] + 1}/{args.n}: {seconds / len(clips):.1f} s a clip", flush=True)


# ---- in RESULTS.md --------------------------------------------------------------

PUBLISHED, SEARCH = "published", "search"
SECONDS, EVALUATIONS = "seconds a clip, median", "evaluations, median"
SEARCHES = {
    PUBLISHED: "the published loop",
    "lbfgs": "L-BFGS from the prior",
    "hybrid": "L-BFGS from the encoder's answer",
    "adam": "Adam, clipped",
    "adam_stochastic": "Adam, stochastic clipping",
    "basin_cma": "BasinCMA",
    SEARCH: "the default search",
}

Record = Mapping[str, Any]


def found_by_method(lines: Sequence[Record]) -> dict[str, list[bool]]:
    """By method, of each clip whether its latent was found."""
    return {name: [is_found(line["z_mse"]) for line in some] for name, some in _by_method(lines).items()}


def figure(lines: Sequence[Record]) -> Figure:
    """Share of latents found, and medians of what it took, a row a method."""
    panels: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, some in _by_method(lines).items():
        found = [is_found(line["z_mse"]) for line in some]
        share = (sum(found) / len(found), *share_interval(sum(found), len(found)))
        row = f"{SEARCHES[name]} (n = {len(some)})"
        seconds, evaluations = (np.median([line[key] for line in some]) for key in ("seconds", "evaluations"))
        for title, numbers in (
            ("latents found, %", Estimate(*(100 * x for x in share))),
            (SECONDS, Estimate(seconds)),
            (EVALUATIONS, Estimate(evaluations)),
        ):
            panels.setdefault(title, {}).setdefault("all", {})[row] = numbers
    return interval_figure(panels, logarithmic=(SECONDS, EVALUATIONS))


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


if __name__ == "__main__":
    options.run(main)
