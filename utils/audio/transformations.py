"""Changes that a clip meets between a generator and a listener: rounding, levels, delays, rates, noise, codecs.

Each is a function of one clip, its rate and a random stream, by its name in `TRANSFORMATIONS`.
"""

import io
from collections.abc import Callable

import numpy as np
import soundfile
import soxr

OTHER_RATE = 44100  # Hz, there and back
SHIFT_SECONDS = 0.005
GAIN_DB = -6.0
OPUS_RATE = 48000  # Hz, the one rate that every Opus decoder has

Transformation = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def transform(name: str, audio: np.ndarray, sample_rate: int, seed: int) -> np.ndarray:
    """Clips after a transformation; each has a random stream of its own, of `seed` and its place in the list.

    Args:
        name: in `TRANSFORMATIONS`.
        audio: float32 `[N, T, C]` in [-1, 1].
        sample_rate: in Hz.
        seed: of the noise.

    Returns:
        float32 `[N, T, C]` in [-1, 1].
    """
    change = TRANSFORMATIONS[name]
    clips = [change(clip, sample_rate, np.random.default_rng([seed, i])) for i, clip in enumerate(audio)]
    return np.clip(np.asarray(clips, np.float32).reshape(audio.shape), -1, 1)


def round_to_bits(audio: np.ndarray, bits: int) -> np.ndarray:
    """Samples as a PCM file of so many bits gives them back, any shape."""
    scale = np.float32(2.0 ** (bits - 1))
    return np.clip(np.round(audio * scale), -scale, scale - 1) / scale


def shift(audio: np.ndarray, samples: int) -> np.ndarray:
    """`[T, C]` later by `samples`; zeros come in, the end is lost."""
    return np.concatenate([np.zeros_like(audio[:samples]), audio[: len(audio) - samples]])


def resample_there_and_back(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """`[T, C]` at `OTHER_RATE` and at its own rate again (soxr, high quality)."""
    there = soxr.resample(audio, sample_rate, OTHER_RATE)
    return _fit(soxr.resample(there, OTHER_RATE, sample_rate), len(audio))


def add_noise(audio: np.ndarray, snr_db: float, random: np.random.Generator) -> np.ndarray:
    """White Gaussian noise `snr_db` below the clip's own power."""
    level = np.sqrt(np.mean(np.square(audio, dtype=np.float64))) * 10 ** (-snr_db / 20)
    return (audio + level * random.standard_normal(audio.shape)).astype(np.float32)


def mp3(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """`[T, C]` encoded and decoded by libsndfile's MP3 (LAME), at its default quality."""
    return _fit(_through_file(audio, sample_rate, format="MP3", subtype="MPEG_LAYER_III"), len(audio))


def opus(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """`[T, C]` encoded and decoded by libsndfile's Opus at 48 kHz, at its default quality."""
    there = soxr.resample(audio, sample_rate, OPUS_RATE)
    decoded = _through_file(there, OPUS_RATE, format="OGG", subtype="OPUS")
    return _fit(soxr.resample(decoded, OPUS_RATE, sample_rate), len(audio))


TRANSFORMATIONS: dict[str, Transformation] = {
    "16 bit": lambda audio, rate, random: round_to_bits(audio, 16),
    "8 bit": lambda audio, rate, random: round_to_bits(audio, 8),
    "gain -6 dB": lambda audio, rate, random: audio * np.float32(10 ** (GAIN_DB / 20)),
    "shift 5 ms": lambda audio, rate, random: shift(audio, round(SHIFT_SECONDS * rate)),
    "resampled": lambda audio, rate, random: resample_there_and_back(audio, rate),
    "noise 30 dB": lambda audio, rate, random: add_noise(audio, 30.0, random),
    "noise 10 dB": lambda audio, rate, random: add_noise(audio, 10.0, random),
    "MP3": lambda audio, rate, random: mp3(audio, rate),
    "Opus": lambda audio, rate, random: opus(audio, rate),
}


def _through_file(audio: np.ndarray, sample_rate: int, **kind: str) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, **kind)
    file.seek(0)
    return soundfile.read(file, dtype="float32", always_2d=True)[0]


def _fit(audio: np.ndarray, length: int) -> np.ndarray:
    """The first `length` samples, zeros where there are fewer."""
    return np.pad(audio[:length], [(0, max(0, length - len(audio))), (0, 0)])
