"""`utils.spectrograms` in NumPy and float64, for metrics, pictures and studies: equal but for float32's rounding.

Audio is `[..., T, C]`, and so are spectrograms `[..., frames, bins or bands, C]`.
"""

import numpy as np
import tensorflow as tf

from utils.spectrograms import (
    FRAME_LENGTH,
    FRAME_STEP,
    LOG_FLOOR,
    MAGNITUDE_EPSILON,
    MEL_BANDS,
    MEL_FRAME,
    mel_filters,
)


def stft(audio: np.ndarray, frame_length: int = FRAME_LENGTH, frame_step: int = FRAME_STEP) -> np.ndarray:
    """Complex short-time Fourier transform: `[..., ceil(T / frame_step), frame_length // 2 + 1, C]`."""
    audio = np.asarray(audio, np.float64)
    length = audio.shape[-2]
    padding = (-(-length // frame_step) - 1) * frame_step + frame_length - length
    padded = np.pad(audio, [(0, 0)] * (audio.ndim - 2) + [(0, padding), (0, 0)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame_length, axis=-2)[..., ::frame_step, :, :]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame_length) / frame_length)
    return np.swapaxes(np.fft.rfft(frames * hann), -1, -2)


def stft_real(audio: np.ndarray) -> np.ndarray:
    """The real part of the STFT: `[..., ceil(T / 128), 129, C]`."""
    return stft(audio).real


def log_magnitude(audio: np.ndarray) -> np.ndarray:
    """log(|X| + 1e-3) of the STFT: `[..., ceil(T / 128), 129, C]`."""
    return np.log(_magnitude(stft(audio)) + LOG_FLOOR)


def log_mel(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """log(mel + 1e-3) of 64 bands, frames of 512: `[..., ceil(T / 128), 64, C]`; sample_rate in Hz."""
    filters = mel_filters(MEL_BANDS, MEL_FRAME, sample_rate, tf.float64)
    mel = np.swapaxes(_magnitude(stft(audio, MEL_FRAME, FRAME_STEP)), -1, -2) @ filters
    return np.log(np.swapaxes(mel, -1, -2) + LOG_FLOOR)


def _magnitude(spectra: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(np.abs(spectra)) + MAGNITUDE_EPSILON)
