"""What studies/recovery.py measured of searches for own samples' latents, as a section of RESULTS.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from utils.inversion.exactness import EXACT
from utils.report.figures import COLOURS
from utils.report.markdown import table_lines

FOUND = 1e-6  # z-MSE of a latent that counts as found
PUBLISHED, SEARCH = "published", "search"
METHODS = {
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


def search_markdown(records: Sequence[Record]) -> str:
    """A table of how often each method finds the latent; another of speeds, where several batch sizes were measured."""
    main = _main(records)
    searched = next(lines for lines in main.values())
    first = main.get(SEARCH, searched)[0]
    facts = {name: first[name] for name in ("minimised", "max_iter", "precision", "batch_size")}
    head = ["method", "found", "exact", "z-MSE, median", "SNR, median", "evaluations", "s a clip"]
    rows = []
    for name, lines in main.items():
        found = _share([line["z_mse"] <= FOUND for line in lines])
        exact = f"{sum(line['match'] == EXACT for line in lines)} of {len(lines)}"
        z_mse, snr, evaluations = (
            np.median([line[key] for line in lines]) for key in ("z_mse", "snr_db", "evaluations")
        )
        cells = [METHODS[name], "{:.0f} % ({:.0f} to {:.0f})".format(*(100 * x for x in found)), exact, f"{z_mse:.2g}"]
        cells += [f"{snr:.1f} dB", f"{evaluations:,.0f}", f"{np.mean([line['seconds'] for line in lines]):.1f}"]
        rows.append(cells)
    return TEXT.format(table="\n".join(table_lines(head, rows)), n=len(searched), found=FOUND, **facts) + _speed(
        records
    )


def search_figure(records: Sequence[Record]) -> Figure:
    """Share found against mean seconds a clip, a point a method; of the last one also against starts tried."""
    main = _main(records)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    seconds, starts = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, (name, lines) in enumerate(main.items()):
        share, low, high = (100 * x for x in _share([line["z_mse"] <= FOUND for line in lines]))
        x = np.mean([line["seconds"] for line in lines])
        style = {"marker": "osD^v<*"[place % 7], "color": COLOURS[place % len(COLOURS)], "capsize": 3, "linestyle": ""}
        seconds.errorbar(x, share, [[share - low], [high - share]], label=name, **style)
    seconds.set_xscale("log")
    seconds.set_xlabel("seconds a clip")
    seconds.legend(frameon=False, fontsize=8)
    if SEARCH in main:
        lines = main[SEARCH]
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


def _main(records: Sequence[Record]) -> dict[str, list[Record]]:
    """By method, the lines of the batch size at which it was given most clips."""
    chosen = {}
    for name in METHODS:
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
    for name in METHODS:
        for size in sizes:
            lines = [r for r in records if (r["method"], r["batch_size"]) == (name, size) and r["clip"] in timed]
            if not lines:
                continue
            needed = [_seconds_to(line, reference[line["clip"]]["objective"]) for line in lines]
            reached = [value for value in needed if value is not None]
            share = "" if len(reached) == len(lines) else f" ({len(reached)} of {len(lines)} clips)"
            median = np.median(reached) if reached else np.nan
            cells = [METHODS[name], str(size), f"{np.median([line['seconds'] for line in lines]):.2f}"]
            cells += [f"{np.median([line['objective'] for line in lines]):.2g}"]
            cells += [f"{median:.2f}{share}", f"{own / median:.1f}"] if reached else ["never", "–"]
            rows.append(cells)
    return SPEED.format(n=len(timed), table="\n".join(table_lines(head, rows)))


def _has_all(records: Sequence[Record], clip: int, sizes: Sequence[int]) -> bool:
    """Whether a clip was searched by one method at every batch size, the published loop aside."""
    seen = {(r["method"], r["batch_size"]) for r in records if r["clip"] == clip}
    return any(all((name, size) in seen for size in sizes) for name in METHODS)


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
