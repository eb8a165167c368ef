"""The one spectrogram front end, in TensorFlow: encoder, classifier, losses and detection all see audio through it.

Unless told otherwise: frame 256, hop 128, periodic Hann window, end-padded: 16384 samples give 128 frames of 129 bins.
`utils.numpy_spectrograms` is the same in NumPy.
"""

import functools

import numpy as np
import tensorflow as tf

from utils.choices import FRONT_ENDS

FRAME_LENGTH = 256
FRAME_STEP = 128
LOG_FLOOR = 1e-3
MEL_BANDS, MEL_FRAME = 64, 512
MAGNITUDE_EPSILON = 1e-8  # under the root of a magnitude, whose gradient at silence it keeps finite


def stft(audio: tf.Tensor, frame_length: int = FRAME_LENGTH, frame_step: int = FRAME_STEP) -> tf.Tensor:
    """Complex short-time Fourier transform of each channel, end-padded so that no sample is lost.

    Args:
        audio: float32 `[B, T, C]`.
        frame_length: window length and FFT size in samples.
        frame_step: hop in samples.

    Returns:
        complex64 `[B, ceil(T / frame_step), frame_length // 2 + 1, C]`.
    """
    channels_first = tf.transpose(tf.cast(audio, tf.float32), [0, 2, 1])
    spectra = tf.signal.stft(channels_first, frame_length, frame_step, frame_length, pad_end=True)
    return tf.transpose(spectra, [0, 2, 3, 1])


def magnitude(spectra: tf.Tensor, epsilon: float = MAGNITUDE_EPSILON) -> tf.Tensor:
    """|X| of a complex tensor with a finite gradient at zero: sqrt(re^2 + im^2 + epsilon) float32, same shape."""
    return tf.sqrt(tf.square(tf.math.real(spectra)) + tf.square(tf.math.imag(spectra)) + epsilon)


def stft_real(audio: tf.Tensor) -> tf.Tensor:
    """The paper's spectrogram: the REAL PART of the STFT, signed and sensitive to phase.

    Args:
        audio: float32 `[B, T, C]` in [-1, 1].

    Returns:
        float32 `[B, frames, 129, C]`.
    """
    return tf.math.real(stft(audio))


def log_magnitude(audio: tf.Tensor, floor: float = LOG_FLOOR) -> tf.Tensor:
    """Natural logarithm of the STFT magnitude, `log(|X| + floor)`.

    Args:
        audio: float32 `[B, T, C]` in [-1, 1].
        floor: added to the magnitude, so that digital silence stays finite.

    Returns:
        float32 `[B, frames, 129, C]`.
    """
    return tf.math.log(magnitude(stft(audio)) + floor)


def log_mel(
    audio: tf.Tensor,
    sample_rate: int,
    *,
    bands: int = MEL_BANDS,
    frame_length: int = MEL_FRAME,
    frame_step: int = FRAME_STEP,
    floor: float = LOG_FLOOR,
) -> tf.Tensor:
    """Natural logarithm of the mel spectrogram, `log(mel + floor)`, where mel are sums of STFT magnitudes.

    Args:
        audio: float32 `[B, T, C]` in [-1, 1].
        sample_rate: in Hz.
        bands: M, see `mel_filters`.
        frame_length: window length in samples.
        frame_step: hop in samples.
        floor: added to the bands, so that digital silence stays finite.

    Returns:
        float32 `[B, ceil(T / frame_step), M, C]`.
    """
    filters = mel_filters(bands, frame_length, sample_rate)
    mel = tf.einsum("btfc,fm->btmc", magnitude(stft(audio, frame_length, frame_step)), filters)
    return tf.math.log(mel + floor)


@functools.cache
def mel_filters(bands: int, frame_length: int, sample_rate: int, dtype: tf.DType = tf.float32) -> np.ndarray:
    """Weights `[frame_length / 2 + 1, bands]` of triangles on HTK's mel scale from 60 Hz to 95 % of half the rate."""
    bins, top = frame_length // 2 + 1, 0.475 * sample_rate
    with tf.init_scope():  # a constant also where a graph is being traced
        return tf.signal.linear_to_mel_weight_matrix(bands, bins, sample_rate, 60.0, top, dtype).numpy()


def spectrogram(audio: tf.Tensor, kind: str) -> tf.Tensor:
    """Dispatch by name: `stft_real` (the paper's) or `log_magnitude`. Shapes as in those functions.

    Raises:
        ValueError: for another kind.
    """
    if kind == "stft_real":
        return stft_real(audio)
    if kind == "log_magnitude":
        return log_magnitude(audio)
    raise ValueError(f"kind must be one of {', '.join(FRONT_ENDS)}. Received: {kind!r}")
