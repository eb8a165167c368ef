"""Figures of matplotlib: how they are written, and the curves of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from utils.runs import atomic_path

TRAINED, HELD_OUT, ALONE = "#0072B2", "#D55E00", "#666666"  # Okabe and Ito's palette


def save_figure(figure: Figure, path: Path) -> None:
    """Writes `path` with the suffixes .png (200 dots an inch, 256 colours) and .svg, atomically.

    Equal figures give equal bytes. With a palette spectrograms take half the space.
    """
    with matplotlib.rc_context({"svg.hashsalt": "figure", "svg.fonttype": "none"}):
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            with atomic_path(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, dpi=200, metadata=metadata)
                if suffix == ".png":
                    Image.open(temporary).convert("RGB").quantize(256).save(temporary, optimize=True)


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
