"""Figure 4: clips as points of a plane, by t-SNE of their features, real and synthetic ones apart in shape and tone."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

# Okabe and Ito's palette, safe for the colour-blind; dark against light, filled against open for print in grey.
STYLES = (
    {"marker": "o", "facecolors": "#0072B2", "edgecolors": "#0072B2", "s": 26},
    {"marker": "^", "facecolors": "none", "edgecolors": "#E69F00", "s": 34, "linewidths": 1.3},
    {"marker": "x", "color": "black", "s": 28, "linewidths": 1.1},
)
LARGEST_PERPLEXITY = 30.0  # scikit-learn's default


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
