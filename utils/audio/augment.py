"""Augmentation of clips: random shift, masks, noise and gain, as functions of a seed."""

import numpy as np
import tensorflow as tf


def augment(
    audio: tf.Tensor,
    seed: tf.Tensor,
    *,
    max_shift: int = 1600,
    gain_db: tuple[float, float] = (-12.0, 6.0),
    snr_db: tuple[float, float] = (10.0, 50.0),
    max_time_mask: float = 0.12,
    max_band_mask: float = 0.12,
) -> tf.Tensor:
    """Random time shift, SpecAugment-like masks, noise and gain, all functions of `seed` alone.

    The masks (a silent stretch; a mel-spaced band removed) are made on the waveform, so that every front
    end sees them. Park et al. 2019, "SpecAugment".

    Args:
        audio: float32 `[B, T, C]` in [-1, 1].
        seed: int32 `[2]`.
        max_shift: samples by which a clip moves at most, to either side; zeros come in.
        gain_db: range of the gain.
        snr_db: range of the signal-to-noise ratio of the white noise.
        max_time_mask: longest silenced stretch, as a share of T.
        max_band_mask: widest removed band, as a share of the mel axis.

    Returns:
        float32 `[B, T, C]` in [-1, 1].
    """
    batch, length = tf.shape(audio)[0], tf.shape(audio)[1]
    seeds = tf.unstack(tf.random.split(seed, 8))

    def uniform(index: int, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        return tf.random.stateless_uniform([batch, 1, 1], seeds[index], low, high)

    shift = tf.random.stateless_uniform([batch, 1], seeds[0], -max_shift, max_shift + 1, tf.int32)
    source = tf.range(length)[tf.newaxis] - shift
    inside = tf.cast((source >= 0) & (source < length), tf.float32)[..., tf.newaxis]
    audio = tf.gather(audio, tf.clip_by_value(source, 0, length - 1), axis=1, batch_dims=1) * inside

    # From 0 Hz (0) to the Nyquist frequency (1), on the HTK mel scale of a 16 kHz signal.
    bins = length // 2 + 1
    mel = tf.math.log1p(tf.linspace(0.0, 1.0, bins) * 8000.0 / 700.0) / np.log1p(8000.0 / 700.0)
    width = uniform(1, 0.0, max_band_mask)
    start = uniform(2) * (1.0 - width)
    mel = mel[tf.newaxis, tf.newaxis]
    keep = tf.cast((mel < start) | (mel >= start + width), tf.complex64)  # [B, 1, bins]
    spectrum = tf.signal.rfft(tf.transpose(audio, [0, 2, 1])) * keep
    audio = tf.transpose(tf.signal.irfft(spectrum, [length]), [0, 2, 1])

    level = tf.sqrt(tf.reduce_mean(tf.square(audio), axis=[1, 2], keepdims=True))
    noise = tf.random.stateless_uniform(tf.shape(audio), seeds[3], -(3.0**0.5), 3.0**0.5)
    audio += noise * level * tf.pow(10.0, -uniform(4, *snr_db) / 20.0)

    time = tf.range(length, dtype=tf.float32)[tf.newaxis, :, tf.newaxis] / tf.cast(length, tf.float32)
    width = uniform(5, 0.0, max_time_mask)
    start = uniform(6) * (1.0 - width)
    audio *= tf.cast((time < start) | (time >= start + width), tf.float32)

    audio *= tf.pow(10.0, uniform(7, *gain_db) / 20.0)
    return tf.clip_by_value(audio, -1.0, 1.0)


# ---- layouts --------------------------------------------------------------------
