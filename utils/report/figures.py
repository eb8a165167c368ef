"""Figures of matplotlib: how they are written, training curves, confusion matrices, and Figures 2, 3 and 4."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image
from sklearn.manifold import TSNE

from utils import metrics
from utils.report.thumbnails import RANGE_DB, spectrogram_db
from utils.runs.files import atomic_path

TRAINED, HELD_OUT, ALONE = "#0072B2", "#D55E00", "#666666"  # Okabe and Ito's palette
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666")
COLOURS = ("black", "#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's palette, safe for the colour-blind
# Okabe and Ito's palette, safe for the colour-blind; dark against light, filled against open for print in grey.
STYLES = (
    {"marker": "o", "facecolors": "#0072B2", "edgecolors": "#0072B2", "s": 26},
    {"marker": "^", "facecolors": "none", "edgecolors": "#E69F00", "s": 34, "linewidths": 1.3},
    {"marker": "x", "color": "black", "s": 28, "linewidths": 1.1},
)
MARKERS = "osD^v"
LARGEST_PERPLEXITY = 30.0  # scikit-learn's default


def save_figure(figure: Figure, path: Path, suffixes: Sequence[str] = (".png", ".svg")) -> None:
    """Writes `path` with the suffixes .png (150 dots an inch, 256 colours) and .svg, atomically.

    Equal figures give equal bytes. With a palette spectrograms take half the space.
    """
    with matplotlib.rc_context({"svg.hashsalt": "figure", "svg.fonttype": "none"}):
        for suffix in suffixes:
            metadata = {".png": {"Software": None}, ".svg": {"Date": None}}[suffix]
            with atomic_path(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, dpi=150, metadata=metadata)
                if suffix == ".png":
                    Image.open(temporary).convert("RGB").quantize(256).save(temporary, optimize=True)


class Estimate(NamedTuple):
    """A number and its 95 % interval, None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


def interval_figure(
    panels: Mapping[str, Mapping[str, Mapping[str, Estimate]]], note: str = "", *, logarithmic: Sequence[str] = ()
) -> Figure:
    """Estimates with their intervals, a row each; panels stand side by side and share their rows.

    Args:
        panels: by what is measured, by series (a colour and a marker), by row.
        note: a line below the panels.
        logarithmic: panels with a logarithmic axis.
    """
    rows = list(dict.fromkeys(row for panel in panels.values() for series in panel.values() for row in series))
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    figure = Figure(figsize=(2.2 + 2.6 * len(panels), 1.3 + 0.32 * len(rows)), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, panel) in zip(grid, panels.items(), strict=True):
        for name, series in panel.items():
            place = names.index(name)
            style = {"color": SERIES[place % len(SERIES)], "marker": MARKERS[place % len(MARKERS)], "markersize": 4}
            shift = 0.5 * (list(panel).index(name) / (len(panel) - 1) - 0.5) if len(panel) > 1 else 0.0
            for row, (value, low, high) in series.items():
                error = None if low is None or high is None else [[max(value - low, 0)], [max(high - value, 0)]]
                y = rows.index(row) + shift
                axes.errorbar(value, y, xerr=error, label=name, linestyle="", capsize=2, elinewidth=1, **style)
        if title in logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(title, loc="left", fontsize=10)
        axes.tick_params(labelsize=8, left=False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
    grid[0].set_yticks(range(len(rows)), rows)
    grid[0].set_ylim(len(rows) - 0.5, -0.5)
    if len(names) > 1:
        legends = [axes.get_legend_handles_labels() for axes in grid]
        handles = {label: handle for legend in legends for handle, label in zip(*legend, strict=True)}
        place = {"loc": "outside upper center", "ncols": len(names), "frameon": False, "fontsize": 8}
        figure.legend(handles.values(), handles, **place)
    if note:
        figure.supxlabel(note, fontsize=8)
    return figure


def training_figure(
    epochs: Sequence[Mapping[str, float]],
    panels: Mapping[str, Sequence[str]],
    levels: Mapping[str, tuple[float, str]] | None = None,
) -> Figure:
    """Curves over epochs, a panel for each quantity: as trained, solid, and on validation clips (`val_`), dashed.

    Args:
        epochs: what was logged after each epoch, "epoch" and the quantities.
        panels: quantities by panel title; those that were not logged are left out, panels without any too.
        levels: by panel title, a value to draw a line at and what it says.

    Returns:
        The figure, two panels a row.
    """
    logged = {title: [n for n in names if f"val_{n}" in epochs[-1]] for title, names in panels.items()}
    logged = {title: names for title, names in logged.items() if names}
    rows = -(-len(logged) // 2)
    figure = Figure(figsize=(8, 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in grid[len(logged) :]:
        axes.set_axis_off()
    for axes, (title, names) in zip(grid, logged.items(), strict=False):
        for name, marker in zip(names, "o^sv", strict=False):
            kinds = ((name, TRAINED, "-", "training"), (f"val_{name}", HELD_OUT, "--", "validation"))
            for key, colour, line, kind in kinds:
                points = [(row["epoch"], row[key]) for row in epochs if key in row]
                if points:
                    label = f"{name.replace('_', ' ')}, {kind}" if len(names) > 1 else kind
                    axes.plot(*zip(*points, strict=True), line, color=colour, marker=marker, markersize=3, label=label)
        if levels and title in levels:
            value, says = levels[title]
            axes.axhline(value, color=ALONE, linewidth=1, linestyle=":", label=says)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7, frameon=False)
    return figure


def reconstruction_figure(
    originals: np.ndarray, methods: Mapping[str, np.ndarray], titles: Sequence[str], sample_rate: int, note: str
) -> Figure:
    """Two rows a clip (waveform, spectrogram), a column for the original and for each method.

    The panels of one clip share their axes and levels. MSE and SSIM (the paper's) stand above each reconstruction.

    Args:
        originals: float `[N, T, C]` in [-1, 1].
        methods: reconstructions `[N, T, C]` by name.
        titles: N, what each clip is.
        sample_rate: Hz.
        note: a line below the panels.
    """
    columns = {"original": originals} | dict(methods)
    figure = Figure(figsize=(3.1 * len(columns), 3.6 * len(originals)), layout="constrained")
    grid = figure.subplots(2 * len(originals), len(columns), sharex=True, sharey="row", squeeze=False)
    seconds = np.arange(originals.shape[1]) / sample_rate
    for clip, title in enumerate(titles):
        waves, spectra = grid[2 * clip], grid[2 * clip + 1]
        decibels = [spectrogram_db(audio[clip], max_columns=512) for audio in columns.values()]
        top = max(image.max() for image in decibels)
        for column, (name, audio) in enumerate(columns.items()):
            waves[column].plot(seconds, audio[clip].mean(axis=1), color=COLOURS[column % 4], linewidth=0.4)
            heading = f"{name}: {title}" if column == 0 else name
            if column:
                pair = originals[clip], audio[clip]
                heading += f"\nMSE {metrics.waveform_mse(*pair):.5f}, SSIM {metrics.ssim(*pair):.3f}"
            waves[column].set_title(heading, fontsize=10)
            image = spectra[column].imshow(
                decibels[column],
                origin="lower",
                aspect="auto",
                extent=(0, seconds[-1], 0, sample_rate / 2),
                vmin=top - RANGE_DB,
                vmax=top,
                cmap="magma",
            )
        waves[0].set_ylabel("amplitude")
        spectra[0].set_ylabel("frequency (Hz)")
        figure.colorbar(image, ax=spectra.tolist(), label="dB", pad=0.01)
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    figure.supxlabel(note, fontsize=8)
    return figure


def confusion_figure(confusion: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Counts of classes (rows) by what was predicted (columns), int `[K, K]`, darker where there are more."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    shades = np.log1p(confusion)
    axes.imshow(shades, cmap="Blues")
    for (row, column), count in np.ndenumerate(confusion):
        colour = "white" if shades[row, column] > 0.6 * shades.max() else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set(title=title, xlabel="predicted", ylabel="digit")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    return figure


def tsne(x: np.ndarray, seed: int) -> np.ndarray:
    """`[N, D]` features, N >= 4, to float32 `[N, 2]`: t-SNE from a PCA start (van der Maaten and Hinton, 2008).

    The perplexity is 30, or a third of the other clips where there are fewer than 91.
    """
    perplexity = min(LARGEST_PERPLEXITY, (len(x) - 1) / 3)
    return TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(x.astype(np.float32))


def embedding_figure(panels: dict[str, np.ndarray], classes: np.ndarray, names: tuple[str, ...], note: str) -> Figure:
    """Scatter plots side by side, lettered A, B, ...

    Args:
        panels: points `[N, 2]` by title.
        classes: int `[N]`, an index into `names`.
        names: of at most three classes, for the legend.
        note: a line below the panels: what was embedded.
    """
    figure = Figure(figsize=(4.2 * len(panels), 4.6), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for letter, axes, (title, points) in zip("ABCDEF", grid, panels.items(), strict=False):
        for index, (name, style) in enumerate(zip(names, STYLES, strict=False)):
            chosen = points[classes == index]
            axes.scatter(*chosen.T, label=f"{name} (n = {len(chosen)})", **style)
        axes.set_title(f"{letter}   {title}", loc="left", fontsize=11)
        axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
        axes.set_box_aspect(1)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(names), frameon=False)
    figure.supxlabel(note, fontsize=8)
    return figure
