"""Figures 2 and 3: clips and what each method makes of them, as waveforms and spectrograms side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from utils import metrics
from utils.figures import RANGE_DB, spectrogram_db

COLOURS = ("black", "#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's palette, safe for the colour-blind


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
