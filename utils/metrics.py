"""How close a reconstruction is to its original: float64 NumPy, one clip at a time, never NaN or infinite."""

import numpy as np
from scipy.ndimage import correlate1d

from utils.spectrograms import FRAME_LENGTH, FRAME_STEP

SNR_CAP_DB = 120.0  # about the resolution of float32 audio
SSIM_SIGMA, SSIM_TAPS = 1.5, 11
SSIM_K1, SSIM_K2 = 0.01, 0.03


def waveform_mse(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Mean squared difference of the samples `[T, C]` (the paper's raw audio MSE, of one clip)."""
    return float(np.mean(np.square(_difference(original, reconstruction))))


def snr_db(original: np.ndarray, reconstruction: np.ndarray) -> float | None:
    """Signal-to-noise ratio of `[T, C]` audio in dB: power of the original over power of the difference.

    Returns:
        At most `SNR_CAP_DB`; None for a silent original, which has no such ratio.
    """
    signal = np.sum(np.square(np.asarray(original, np.float64)))
    noise = np.sum(np.square(_difference(original, reconstruction)))
    if signal == 0:
        return None
    if noise == 0:
        return SNR_CAP_DB
    return float(min(10 * (np.log10(signal) - np.log10(noise)), SNR_CAP_DB))


def ssim(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Structural similarity of the real-part STFTs of `[T, C]` audio, mean over channels (the paper's SSIM).

    Equal to `tf.image.ssim` with `max_val` = max - min over both STFTs. A clip of fewer than 11 frames is
    compared with a Gaussian window of as many taps as it has frames.

    Returns:
        At most 1; 1 for two silent clips.
    """
    _difference(original, reconstruction)
    x, y = stft_real(original), stft_real(reconstruction)
    max_val = max(x.max(), y.max()) - min(x.min(), y.min())
    if max_val == 0:
        return 1.0
    taps = min(SSIM_TAPS, len(x))
    c1, c2 = (SSIM_K1 * max_val) ** 2, (SSIM_K2 * max_val) ** 2
    mean_x, mean_y = _blur(x, taps), _blur(y, taps)
    covariance = _blur(x * y, taps) - mean_x * mean_y
    variances = _blur(x * x + y * y, taps) - mean_x**2 - mean_y**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (variances + c2)))


def latent_mse(z: np.ndarray, z_true: np.ndarray) -> float:
    """Mean squared difference of latents of one shape. Always answering 0 scores 1/3 under U(-1, 1)."""
    return float(np.mean(np.square(_difference(z_true, z))))


def stft_real(audio: np.ndarray) -> np.ndarray:
    """`utils.spectrograms.stft_real` in float64: `[T, C]` to `[ceil(T / 128), 129, C]`."""
    audio = np.asarray(audio, np.float64)
    frames = -(-len(audio) // FRAME_STEP)
    padded = np.pad(audio, [(0, (frames - 1) * FRAME_STEP + FRAME_LENGTH - len(audio)), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, FRAME_LENGTH, axis=0)[::FRAME_STEP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME_LENGTH) / FRAME_LENGTH)
    return np.fft.rfft(windows * hann, axis=-1).real.transpose(0, 2, 1)


def _difference(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    original, reconstruction = np.asarray(original, np.float64), np.asarray(reconstruction, np.float64)
    if original.shape != reconstruction.shape:
        raise ValueError(f"both must have one shape. Received: {original.shape} and {reconstruction.shape}")
    return original - reconstruction


def _blur(image: np.ndarray, taps: int) -> np.ndarray:
    """Gaussian window over the first two dimensions, at the places where it fits wholly."""
    position = np.arange(taps) - (taps - 1) / 2
    weights = np.exp(-np.square(position) / (2 * SSIM_SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        first = taps // 2
        image = correlate1d(image, weights, axis, mode="constant")
        image = image.take(range(first, first + image.shape[axis] - taps + 1), axis)
    return image
