"""Augmentation of clips, as functions of a seed: `augment` for the classifier, `augment_heavily` for the judges."""

import functools

import numpy as np
import tensorflow as tf

MU = 255.0  # of the mu-law
CODECS = ("none", "mu-law", "few bits", "half rate")


def augment(
    audio: tf.Tensor,
    seed: tf.Tensor,
    *,
    sample_rate: int = 16000,
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
        sample_rate: in Hz.
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

    if max_band_mask:
        # From 0 Hz (0) to the Nyquist frequency (1), on the HTK mel scale.
        bins, nyquist = length // 2 + 1, sample_rate / 2 / 700.0
        mel = tf.math.log1p(tf.linspace(0.0, 1.0, bins) * nyquist) / np.log1p(nyquist)
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


def augment_heavily(audio: tf.Tensor, seed: tf.Tensor, *, sample_rate: int = 16000) -> tf.Tensor:
    """Other speed, `augment`, a room, a microphone, coloured noise and a codec, all functions of `seed` alone.

    Args:
        audio: float32 `[B, T, C]` in [-1, 1].
        seed: int32 `[2]`.
        sample_rate: in Hz.

    Returns:
        float32 `[B, T, C]` in [-1, 1].
    """
    seeds = tf.unstack(tf.random.split(seed, 5))
    audio = change_speed(audio, seeds[0])
    audio = augment(audio, seeds[1], sample_rate=sample_rate, snr_db=(20.0, 60.0))
    audio = change_channel(audio, seeds[2], sample_rate=sample_rate)
    audio = add_coloured_noise(audio, seeds[3])
    return pass_codec(audio, seeds[4])


def change_speed(audio: tf.Tensor, seed: tf.Tensor, *, speed: tuple[float, float] = (0.88, 1.14)) -> tf.Tensor:
    """Play each clip faster or slower, and so higher or lower, by linear interpolation; its middle stays in place.

    Ko et al. 2015, "Audio augmentation for speech recognition". Shapes and types as in `augment_heavily`.
    """
    batch, length = tf.shape(audio)[0], tf.shape(audio)[1]
    middle = tf.cast(length - 1, tf.float32) / 2
    factor = tf.random.stateless_uniform([batch, 1], seed, *speed)
    source = middle + (tf.range(length, dtype=tf.float32) - middle)[tf.newaxis] * factor
    before = tf.floor(source)
    share = (source - before)[..., tf.newaxis]

    def sample(index: tf.Tensor) -> tf.Tensor:
        index = tf.cast(index, tf.int32)
        inside = tf.cast((index >= 0) & (index < length), tf.float32)[..., tf.newaxis]
        return inside * tf.gather(audio, tf.clip_by_value(index, 0, length - 1), axis=1, batch_dims=1)

    return (1 - share) * sample(before) + share * sample(before + 1)


def change_channel(
    audio: tf.Tensor,
    seed: tf.Tensor,
    *,
    sample_rate: int = 16000,
    reverberated: float = 0.4,
    tilt_db: tuple[float, float] = (-4.0, 4.0),
    limited: float = 0.4,
    low_hz: tuple[float, float] = (20.0, 400.0),
    high_hz: tuple[float, float] = (2800.0, 8000.0),
) -> tf.Tensor:
    """A room (one of `impulse_responses`), a spectral tilt and band limits; the level stays, or falls where it must.

    Args:
        audio: float32 `[B, T, C]` in [-1, 1].
        seed: int32 `[2]`.
        sample_rate: in Hz.
        reverberated: probability of a room.
        tilt_db: range of the gain in dB an octave, 0 at 1 kHz and constant below 60 Hz.
        limited: probability of each of the two band limits, of 24 dB an octave.
        low_hz: range of the lower.
        high_hz: range of the upper.

    Returns:
        float32 `[B, T, C]` in [-1, 1].
    """
    batch, length = tf.shape(audio)[0], tf.shape(audio)[1]
    seeds = tf.unstack(tf.random.split(seed, 7))

    def uniform(index: int, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        return tf.random.stateless_uniform([batch, 1, 1], seeds[index], low, high)

    rooms = tf.constant(impulse_responses(sample_rate))
    size = length + rooms.shape[1]  # of a linear convolution
    frequency = tf.linspace(0.0, sample_rate / 2, size // 2 + 1)[tf.newaxis, tf.newaxis]

    octaves = tf.math.log(tf.maximum(frequency, 60.0) / 1000.0) / np.log(2.0)
    response = tf.pow(10.0, uniform(0, *tilt_db) * octaves / 20.0)
    low, high = uniform(1, *low_hz), uniform(2, *high_hz)
    response *= tf.where(uniform(3) < limited, tf.math.rsqrt(1.0 + (low / tf.maximum(frequency, 1.0)) ** 8), 1.0)
    response *= tf.where(uniform(4) < limited, tf.math.rsqrt(1.0 + (frequency / high) ** 8), 1.0)

    room = tf.random.stateless_uniform([batch], seeds[5], 0, rooms.shape[0], tf.int32)
    room = tf.gather(tf.signal.rfft(rooms, [size]), room)[:, tf.newaxis]
    room = tf.where(uniform(6) < reverberated, room, tf.ones_like(room))

    spectrum = tf.signal.rfft(tf.transpose(audio, [0, 2, 1]), [size]) * tf.cast(response, tf.complex64) * room
    changed = tf.transpose(tf.signal.irfft(spectrum, [size])[..., :length], [0, 2, 1])
    changed *= _level(audio) / tf.maximum(_level(changed), 1e-9)
    return changed / tf.maximum(tf.reduce_max(tf.abs(changed), axis=[1, 2], keepdims=True), 1.0)


@functools.cache
def impulse_responses(sample_rate: int, rooms: int = 12) -> np.ndarray:
    """Synthetic rooms: a direct sound, then decaying noise (Polack's model), the same in every run.

    The reverberation time (fall by 60 dB) grows from 0.1 to 0.8 s, the energy after the direct sound lies from 3 to
    15 dB below it, and begins 2 to 20 ms later.

    Returns:
        float32 `[rooms, 0.8 s * sample_rate]`, each of energy 1.
    """
    random = np.random.default_rng(0)
    time = np.arange(round(0.8 * sample_rate)) / sample_rate
    responses = np.zeros((rooms, len(time)))
    for response, decay in zip(responses, np.geomspace(0.1, 0.8, rooms), strict=True):
        tail = random.normal(size=len(time)) * 10 ** (-3 * time / decay) * (time > random.uniform(0.002, 0.02))
        response += tail / np.linalg.norm(tail) * 10 ** (-random.uniform(3, 15) / 20)
        response[0] = 1
        response /= np.linalg.norm(response)
    return responses.astype(np.float32)


def add_coloured_noise(
    audio: tf.Tensor,
    seed: tf.Tensor,
    *,
    noisy: float = 0.6,
    snr_db: tuple[float, float] = (3.0, 40.0),
    exponent: tuple[float, float] = (0.0, 2.0),
) -> tf.Tensor:
    """Noise of power 1 / f^exponent, from white (0) to brown (2), in a share `noisy` of the clips.

    Shapes and types as in `augment_heavily`.
    """
    batch, length, channels = tf.unstack(tf.shape(audio))
    seeds = tf.unstack(tf.random.split(seed, 4))

    def uniform(index: int, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        return tf.random.stateless_uniform([batch, 1, 1], seeds[index], low, high)

    bins = length // 2 + 1
    shape = tf.pow(tf.cast(tf.maximum(tf.range(bins), 1), tf.float32), -uniform(0, *exponent) / 2)
    parts = tf.random.stateless_normal([2, batch, channels, bins], seeds[1])
    noise = tf.transpose(tf.signal.irfft(tf.complex(parts[0] * shape, parts[1] * shape), [length]), [0, 2, 1])
    ratio = tf.pow(10.0, -uniform(2, *snr_db) / 20.0) * tf.cast(uniform(3) < noisy, tf.float32)
    return tf.clip_by_value(audio + noise * ratio * _level(audio) / tf.maximum(_level(noise), 1e-9), -1.0, 1.0)


def pass_codec(audio: tf.Tensor, seed: tf.Tensor, *, shares: tuple[float, ...] = (0.55, 0.15, 0.15, 0.15)) -> tf.Tensor:
    """Each clip through one of `CODECS`, drawn with the probabilities `shares`.

    These are round trips in TensorFlow, of no published codec: "mu-law" is the continuous curve of ITU-T G.711 (mu =
    255) in 255 levels; "few bits" has 2^6 to 2^9 equal steps; "half rate" keeps the mean of each two samples, and
    interpolates between those means. Shapes and types as in `augment_heavily`.
    """
    batch, length = tf.shape(audio)[0], tf.shape(audio)[1]
    seeds = tf.unstack(tf.random.split(seed, 2))
    bits = tf.cast(tf.random.stateless_uniform([batch, 1, 1], seeds[0], 6, 10, tf.int32), tf.float32)
    half_steps = tf.pow(2.0, bits - 1.0)

    compressed = tf.sign(audio) * tf.math.log1p(MU * tf.abs(audio)) / np.log1p(MU)
    compressed = tf.round(compressed * 127.0) / 127.0
    mu_law = tf.sign(compressed) * (tf.exp(tf.abs(compressed) * np.log1p(MU)) - 1.0) / MU

    few_bits = tf.round(audio * half_steps) / half_steps

    means = tf.nn.avg_pool1d(audio, 2, 2, "SAME")
    earlier = tf.concat([means[:, :1], means[:, :-1]], axis=1)
    later = tf.concat([means[:, 1:], means[:, -1:]], axis=1)
    pairs = tf.stack([0.75 * means + 0.25 * earlier, 0.75 * means + 0.25 * later], axis=2)
    half_rate = tf.reshape(pairs, [batch, -1, tf.shape(audio)[2]])[:, :length]

    codec = tf.random.stateless_uniform([batch, 1, 1], seeds[1])
    for edge, coded in zip(np.cumsum(shares)[:-1], (mu_law, few_bits, half_rate), strict=True):
        audio = tf.where(codec >= edge, coded, audio)
    return audio


AUGMENTATIONS = {"none": None, "light": augment, "heavy": augment_heavily}


def _level(audio: tf.Tensor) -> tf.Tensor:
    """RMS `[B, 1, 1]`."""
    return tf.sqrt(tf.reduce_mean(tf.square(audio), axis=[1, 2], keepdims=True))
