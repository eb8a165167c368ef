"""The figure of the method in README.md (the paper's Figure 1): how the encoder is trained.

    python -m docs.method_figure

writes docs/method.png. The spectrograms are a demo clip's, a sample's of the bundled generator, and
what the bundled encoder and generator make of both.
"""

from pathlib import Path

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from models.encoder import load_encoder
from models.generator import load_generator
from utils.audio.files import load_clip
from utils.domains import REAL, SYNTHETIC
from utils.report.figures import save_figure
from utils.report.thumbnails import RANGE_DB, spectrogram_db

HERE = Path(__file__).parent
CLIP = HERE.parent / "datasets/demo/seven_en-us_f3.flac"
SEED = 3
NETWORK, FROZEN, LOSS = "#D55E00", "#999999", "#0072B2"  # Okabe and Ito's palette


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 1.55) -> None:
    """A box with text, centred at (x, y)."""
    corner = x - width / 2, y - 0.34
    axes.add_patch(
        FancyBboxPatch(corner, width, 0.68, "round,pad=0.06", facecolor=colour, edgecolor="none", alpha=0.18)
    )
    axes.add_patch(FancyBboxPatch(corner, width, 0.68, "round,pad=0.06", facecolor="none", edgecolor=colour))
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "black", bend: float = 0
) -> None:
    """An arrow between two points, curved by `bend`."""
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=colour, connectionstyle=style)
    )


def spectrogram(axes: Axes, x: float, y: float, audio: np.ndarray, caption: str) -> None:
    """The spectrogram of a clip `[T, 1]`, centred at (x, y)."""
    decibels = spectrogram_db(audio)
    top = decibels.max()
    extent = x - 0.75, x + 0.75, y - 0.42, y + 0.42
    axes.imshow(decibels, extent=extent, origin="lower", aspect="auto", vmin=top - RANGE_DB, vmax=top, cmap="magma")
    axes.text(x, y - 0.56, caption, ha="center", va="top", fontsize=8.5)


def row(axes: Axes, y: float, title: str, clip: np.ndarray, reconstruction: np.ndarray, names: tuple[str, str]) -> None:
    """A batch's way through the networks, at height y."""
    axes.text(0.1, y + 1.0, title, fontsize=10.5, weight="bold")
    spectrogram(axes, 3.15, y, clip, names[0])
    arrow(axes, (3.95, y), (4.6, y))
    box(axes, 5.5, y, "encoder\n(ResNet-18)", NETWORK)
    arrow(axes, (6.4, y), (6.85, y))
    axes.text(7.1, y, r"$\hat{z}$", ha="center", va="center", fontsize=13)
    arrow(axes, (7.35, y), (7.8, y))
    box(axes, 8.7, y, "generator\n(WaveGAN)", FROZEN)
    arrow(axes, (9.6, y), (10.15, y))
    spectrogram(axes, 10.95, y, reconstruction, names[1])
    box(axes, 7.1, y - 1.45, "classifier: activations of\neach residual block", FROZEN, width=2.6)
    arrow(axes, (3.15, y - 0.82), (5.7, y - 1.45), bend=0.18)
    arrow(axes, (10.95, y - 0.82), (8.5, y - 1.45), bend=-0.18)
    axes.text(7.1, y - 2.1, "feature loss", ha="center", color=LOSS, fontsize=9.5, weight="bold")


def method_figure(clip: np.ndarray, sample: np.ndarray, reconstructions: np.ndarray) -> Figure:
    """The two batches of a training step and their losses.

    Args:
        clip: real audio, float32 `[T, 1]`.
        sample: the generator's, float32 `[T, 1]`.
        reconstructions: of both, float32 `[2, T, 1]`.
    """
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    axes = figure.subplots()
    row(axes, 4.6, "1. a batch of real clips", clip, reconstructions[0], ("real clip", "reconstruction"))
    row(
        axes, 0.6, "2. a batch of the generator's own samples", sample, reconstructions[1], ("sample", "reconstruction")
    )
    axes.text(0.2, 0.6, r"$z$", ha="center", va="center", fontsize=13)
    arrow(axes, (0.4, 0.6), (0.62, 0.6))
    box(axes, 1.35, 0.6, "generator", FROZEN, width=1.1)
    arrow(axes, (2.02, 0.6), (2.35, 0.6))
    arrow(axes, (0.2, 0.85), (7.05, 0.85), colour=LOSS, bend=-0.14)
    axes.text(7.25, 1.25, r"latent loss $\|\hat{z} - z\|^2$", color=LOSS, fontsize=9.5, weight="bold")
    axes.text(0.1, -2.0, "orange: trained   grey: stays as it is", fontsize=8.5, color="#555555")
    axes.set(xlim=(0, 11.8), ylim=(-2.1, 5.8))
    axes.set_axis_off()
    return figure


def main() -> None:
    generator, encoder = (
        load_generator(str(HERE.parent / "checkpoint")),
        load_encoder(HERE.parent / "inverse_mapping_checkpoint"),
    )
    clip = load_clip(CLIP, generator.num_samples, generator.num_channels, generator.sample_rate).windows[0]
    sample = generator(generator.sample_prior(SEED, 1)).numpy()[0]
    clips = (clip, REAL), (sample, SYNTHETIC)
    z = [encoder(audio[None], training=False, domain=domain)[0] for audio, domain in clips]
    reconstructions = generator(np.stack(z)).numpy()
    save_figure(method_figure(clip, sample, reconstructions), HERE / "method.png", suffixes=(".png",))


if __name__ == "__main__":
    main()
