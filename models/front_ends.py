"""Front ends of encoders and classifiers as Keras layers: audio to a spectrogram image, in float32.

For ONNX, whose operators have no Fourier transform of the kind that TensorFlow's STFT makes, `by_products` gives the
same network with front ends that multiply by cosines and sines.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from utils.choices import FRONT_ENDS
from utils.spectrograms import (
    FRAME_LENGTH,
    FRAME_STEP,
    LOG_FLOOR,
    MAGNITUDE_EPSILON,
    MEL_BANDS,
    MEL_FRAME,
    log_mel,
    mel_filters,
    spectrogram,
)


class _FrontEnd(layers.Layer):
    """A layer of audio float32 `[B, T, C]`; with `products` its Fourier transforms are products."""

    products = False

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})


@keras.saving.register_keras_serializable("audio_gan_inversion")
class Spectrogram(_FrontEnd):
    """Audio float32 `[B, T, C]` in [-1, 1] -> spectrogram image float32 `[B, frames, 129, C or 3]`.

    Args:
        kind: "stft_real" (the paper's) or "log_magnitude", shifted so that digital silence is 0, which
            is also what the convolutions pad with.
        stack: repeat one channel three times, as the paper does to reuse an image network.
    """

    def __init__(self, kind: str = "log_magnitude", stack: bool = False, **kwargs):
        if kind not in FRONT_ENDS:
            raise ValueError(f"kind must be one of {', '.join(FRONT_ENDS)}. Received: {kind!r}")
        super().__init__(**kwargs)
        self.kind = kind
        self.stack = stack

    def call(self, audio: tf.Tensor) -> tf.Tensor:
        if not self.products:
            image = spectrogram(audio, self.kind)
        elif self.kind == "stft_real":
            image = stft_by_products(audio, FRAME_LENGTH, FRAME_STEP)[0]
        else:
            image = tf.math.log(_magnitude_by_products(audio, FRAME_LENGTH, FRAME_STEP) + LOG_FLOOR)
        if self.kind == "log_magnitude":
            image -= math.log(LOG_FLOOR)
        return tf.repeat(image, 3, axis=-1) if self.stack else image

    def get_config(self) -> dict:
        return {**super().get_config(), "kind": self.kind, "stack": self.stack}


@keras.saving.register_keras_serializable("audio_gan_inversion")
class LogMel(_FrontEnd):
    """Audio float32 `[B, T, C]` -> log-mel float32 `[B, ceil(T / hop), num_mels, C]`; silence is 0."""

    def __init__(
        self,
        sample_rate: int,
        num_mels: int = MEL_BANDS,
        frame_length: int = MEL_FRAME,
        hop: int = 256,
        floor: float = 1e-2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.options = {
            "sample_rate": sample_rate,
            "num_mels": num_mels,
            "frame_length": frame_length,
            "hop": hop,
            "floor": floor,
        }

    def call(self, audio: tf.Tensor) -> tf.Tensor:
        rate, bands, length, hop, floor = self.options.values()
        if self.products:
            mel = tf.einsum(
                "btfc,fm->btmc", _magnitude_by_products(audio, length, hop), mel_filters(bands, length, rate)
            )
            image = tf.math.log(mel + floor)
        else:
            image = log_mel(audio, rate, bands=bands, frame_length=length, frame_step=hop, floor=floor)
        return image - math.log(floor)

    def get_config(self) -> dict:
        return {**super().get_config(), **self.options}


def by_products(network: keras.Model) -> keras.Model:
    """A functional network, its layers shared, without Fourier transforms in its front ends."""

    def clone(layer: layers.Layer) -> layers.Layer:
        if not isinstance(layer, _FrontEnd):
            return layer
        copy = type(layer).from_config(layer.get_config())
        copy.products = True
        return copy

    return keras.models.clone_model(network, clone_function=clone)


def stft_by_products(audio: tf.Tensor, frame_length: int, frame_step: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Real and imaginary part of `utils.spectrograms.stft` by gathering frames and multiplying by cosines and sines.

    Args:
        audio: float32 `[B, T, C]`, T known.
        frame_length: window length in samples.
        frame_step: hop in samples.

    Returns:
        float32 `[B, ceil(T / frame_step), frame_length / 2 + 1, C]` each.
    """
    length = audio.shape[1]
    frames = -(-length // frame_step)
    padded = tf.pad(audio, [(0, 0), (0, (frames - 1) * frame_step + frame_length - length), (0, 0)])
    places = frame_step * np.arange(frames)[:, None] + np.arange(frame_length)
    framed = tf.transpose(tf.gather(padded, places, axis=1), [0, 1, 3, 2])  # [B, frames, C, frame_length]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame_length) / frame_length)
    angles = 2 * np.pi / frame_length * np.outer(np.arange(frame_length), np.arange(frame_length // 2 + 1))

    def product(wave: np.ndarray) -> tf.Tensor:
        spectra = tf.matmul(framed, tf.constant(window[:, None] * wave, tf.float32))
        return tf.transpose(spectra, [0, 1, 3, 2])  # [B, frames, bins, C]

    return product(np.cos(angles)), product(-np.sin(angles))


def _magnitude_by_products(audio: tf.Tensor, frame_length: int, frame_step: int) -> tf.Tensor:
    real, imaginary = stft_by_products(audio, frame_length, frame_step)
    return tf.sqrt(tf.square(real) + tf.square(imaginary) + MAGNITUDE_EPSILON)
