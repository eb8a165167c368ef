"""The architecture `highway` of an encoder: a linear map of log-mel in parallel with convolutions."""

import math

import keras
import tensorflow as tf
from keras import layers

from models.front_ends import LogMel

HOP, FLOOR = 256, 3e-2
LARGEST_U = 3.0  # that the linear map can answer


def highway(audio: keras.KerasTensor, latent_dim: int, sample_rate: int, precision: str) -> keras.KerasTensor:
    """Audio float32 `[B, T, C]` to u float32 `[B, latent_dim]`, of which `squash` makes z.

    A highway (Srivastava et al., 2015) between a linear map of log-mel, the layer "linear", and what convolutions
    on log-mel and on the waveform answer. The waveform has phase, which magnitudes do not hold.

    Args:
        audio: the input.
        latent_dim: size of z.
        sample_rate: Hz.
        precision: of the convolutions, "float32" or "mixed_bfloat16".
    """
    x = LogMel(sample_rate, hop=HOP, floor=FLOOR)(audio)
    x = layers.Rescaling(0.5, 1 + 0.5 * math.log(FLOOR))(x)  # to about unit variance
    linear = layers.Dense(latent_dim, name="linear")(layers.Flatten()(x))
    linear = layers.Activation(lambda u: LARGEST_U * tf.tanh(u / LARGEST_U), name="bounded")(linear)
    for channels, stride in ((32, 2), (64, 2), (96, 2), (128, 2)):
        x = layers.Conv2D(channels, 3, stride, padding="same", dtype=precision)(x)
        x = layers.LeakyReLU(0.2)(layers.GroupNormalization(8)(x))
    spectral = layers.Dense(256)(layers.Flatten()(x))
    x = audio
    for channels in (16, 32, 64, 128, 128):
        x = layers.LeakyReLU(0.2)(layers.Conv1D(channels, 25, 4, padding="same", dtype=precision)(x))
    phase = layers.Dense(256)(layers.Flatten()(layers.LayerNormalization()(x)))
    h = layers.LeakyReLU(0.2)(layers.LayerNormalization()(layers.Concatenate()([spectral, phase, linear])))
    h = layers.LeakyReLU(0.2)(layers.Dense(512)(h))
    gate = layers.Dense(latent_dim, "sigmoid", bias_initializer=keras.initializers.Constant(2.0))(h)
    answer = layers.Dense(latent_dim)(h)
    return layers.Identity(name="normal")(gate * linear + (1 - gate) * answer)
