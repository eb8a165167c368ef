"""The one spectrogram front end: encoder, classifier, losses, metrics and detection all see audio through it.

Frame 256, hop 128, periodic Hann window, 256-point FFT, end-padded: 16384 samples give 128 frames of 129 bins.
"""

import tensorflow as tf

from utils.choices import FRONT_ENDS

FRAME_LENGTH = 256
FRAME_STEP = 128
LOG_FLOOR = 1e-3
MEL_BANDS = 64
MAGNITUDE_EPSILON = 1e-8  # under the root of a magnitude, whose gradient at silence it keeps finite


def stft(
    audio: tf.Tensor,
    frame_length: int = FRAME_LENGTH,
    frame_step: int = FRAME_STEP,
    fft_length: int | None = None,
) -> tf.Tensor:
    """Complex short-time Fourier transform of each channel, end-padded so that no sample is lost.

    Args:
        audio: float32 `[B, T, C]`.
        frame_length: window length in samples.
        frame_step: hop in samples.
        fft_length: FFT size in samples. Defaults to `frame_length`.

    Returns:
        complex64 `[B, ceil(T / frame_step), fft_length // 2 + 1, C]`.
    """
    channels_first = tf.transpose(tf.cast(audio, tf.float32), [0, 2, 1])
    spectra = tf.signal.stft(channels_first, frame_length, frame_step, fft_length or frame_length, pad_end=True)
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


def log_mel(audio: tf.Tensor, sample_rate: int) -> tf.Tensor:
    """Natural logarithm of the mel spectrogram, `log(mel + LOG_FLOOR)`: 64 bands of magnitudes, frame 512, hop 128.

    Args:
        audio: float32 `[B, T, C]` in [-1, 1].
        sample_rate: Hz. Bands reach from 60 Hz to 95 % of half of it.

    Returns:
        float32 `[B, ceil(T / 128), 64, C]`.
    """
    filters = mel_filters(MEL_BANDS, 512, sample_rate)
    return tf.math.log(tf.einsum("btfc,fm->btmc", magnitude(stft(audio, 512, 128)), filters) + LOG_FLOOR)


def mel_filters(bands: int, frame_length: int, sample_rate: int, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Weights of mel bands from 60 Hz to 95 % of half the rate in Hz: `[frame_length / 2 + 1, bands]`."""
    bins, top = frame_length // 2 + 1, 0.475 * sample_rate
    return tf.signal.linear_to_mel_weight_matrix(bands, bins, sample_rate, 60.0, top, dtype)


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
