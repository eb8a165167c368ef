"""Pictures of a clip, cheap enough for hundreds on one page: a waveform as SVG, a spectrogram as a small PNG.

The spectrogram here is for the eye (power in dB); nothing is measured on it.
"""

import base64
import functools
import io

import matplotlib
import numpy as np
from PIL import Image

from utils.numpy_spectrograms import stft
from utils.spectrograms import FRAME_LENGTH, FRAME_STEP

RANGE_DB = 75.0
LEVELS = 64
SILENCE_DB = -60.0


def waveform_svg(audio: np.ndarray, peak: float, *, columns: int = 256, height: int = 120) -> str:
    """Draw the minimum and maximum of each stretch of time as one filled outline in `currentColor`.

    Args:
        audio: float `[T, C]`. The outline spans all channels; samples that are not finite are drawn as zero.
        peak: amplitude that touches the upper and lower edge; larger samples are cut off there.
        columns: stretches of time, at most; a shorter clip has one for each sample.
        height: of the drawing, in its own units; the drawing stretches to the element's size.

    Returns:
        An `<svg>` element of about 2 kB.
    """
    signal = _finite(audio)
    starts = np.linspace(0, len(signal), min(columns, len(signal)), endpoint=False).astype(int)
    # One sample of overlap joins neighbouring stretches where the signal jumps between them.
    low = np.minimum.reduceat(signal, starts).min(axis=1)
    high = np.maximum.reduceat(signal, starts).max(axis=1)
    low[1:] = np.minimum(low[1:], high[:-1])
    high[1:] = np.maximum(high[1:], low[:-1])

    def rows(values: np.ndarray) -> np.ndarray:
        return np.round((1 - np.clip(values / max(peak, 1e-9), -1, 1)) / 2 * height).astype(int)

    there, back = rows(high), rows(low)[::-1]
    outline = f"M0 {there[0]}" + "".join(f"h1v{step}" for step in np.diff(there)) + "h1"
    outline += f"V{back[0]}" + "".join(f"h-1v{step}" for step in np.diff(back)) + "h-1z"
    middle = height / 2
    return (
        f'<svg class="wave" viewBox="0 0 {len(starts)} {height}" '
        f'preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{outline}" fill="currentColor" stroke="currentColor" stroke-width="1" '
        f'vector-effect="non-scaling-stroke"/>'
        f'<path d="M0 {middle:g}H{len(starts)}" class="zero" vector-effect="non-scaling-stroke"/></svg>'
    )


def spectrogram_db(audio: np.ndarray, *, max_columns: int = 256) -> np.ndarray:
    """Power of the short-time Fourier transform in dB, mean over channels; a full-scale sine reaches 0 dB.

    Args:
        audio: float `[T, C]`; samples that are not finite count as zero.
        max_columns: a longer clip has its frames averaged (in power) down to at most this many columns.

    Returns:
        float32 `[129, columns]`, row 0 = 0 Hz, floor -140 dB. 16384 samples give 128 columns.
    """
    signal = _finite(audio)
    frames = -(-len(signal) // FRAME_STEP)

    def power(first: int, last: int) -> np.ndarray:
        some = signal[first * FRAME_STEP : (last - 1) * FRAME_STEP + FRAME_LENGTH]
        return np.mean(np.abs(stft(some)[: last - first]) ** 2, axis=2)  # [last - first, 129]

    if frames <= max_columns:
        columns = power(0, frames)
    else:  # column by column, so that an hour of audio never has all its frames in memory
        edges = np.linspace(0, frames, max_columns + 1).astype(int)
        columns = np.stack([power(a, b).mean(axis=0) for a, b in zip(edges, edges[1:], strict=False)])
    full_scale = (FRAME_LENGTH / 4) ** 2  # half the sum of the Hann window
    return (10 * np.log10(columns.T / full_scale + 1e-14)).astype(np.float32)


def spectrogram_png(decibels: np.ndarray, top: float) -> bytes:
    """Colour a spectrogram (magma: brighter is louder), high frequencies up, one pixel a value.

    Args:
        decibels: float `[rows, columns]`, row 0 = lowest frequency.
        top: level in dB of the brightest colour; the darkest lies `RANGE_DB` below. Pictures that are to be
            compared share it: the maximum over all of them. Held above `SILENCE_DB`, so that silence is dark.

    Returns:
        A PNG file of indexed colours: 8 to 10 kB for 129 x 128 values.
    """
    level = 1 + (decibels[::-1] - max(top, SILENCE_DB)) / RANGE_DB
    pixels = np.round(np.clip(level, 0, 1) * (LEVELS - 1)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG file as a `data:` address for an `<img>`."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


@functools.cache
def _palette() -> bytes:
    return matplotlib.colormaps["magma"](np.linspace(0, 1, LEVELS), bytes=True)[:, :3].tobytes()


def _finite(audio: np.ndarray) -> np.ndarray:
    """`[T, C]` float32 without NaN or infinity, and with at least one sample."""
    signal = np.nan_to_num(np.asarray(audio, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return signal if len(signal) else np.zeros((1, max(signal.shape[1], 1)), np.float32)
