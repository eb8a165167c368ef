"""What real and synthetic clips are told apart by: clips of a seed, their condition, their features.

A feature is a function of an `Encoded` batch of clips, in `FEATURES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import ndimage

from utils.audio.datasets import Dataset, to_float, to_int16
from utils.errors import UserError
from utils.evaluation.names import (
    CLIPPED_LATENTS,
    CONDITIONS,
    LATENTS,
    SPECTROGRAMS,
    TAIL_LEVEL,
    UNTRAINED_LATENTS,
)
from utils.inversion import methods
from utils.priors import PRIORS
from utils.runs.batches import in_batches
from utils.spectrograms import spectrogram

SHORTEST_SILENCE = 32  # samples, 2 ms at 16 kHz: a quiet recording has shorter runs of zeros by chance
TAIL_SHARE = 64  # the tail is the last 1/64 of a clip: 256 of 16384 samples, inside a one-second clip's padding
SILENCE_POWER = 1e-12  # -120 dB


# ---- clips ----------------------------------------------------------------------


def pcm_round_trip(audio: np.ndarray) -> np.ndarray:
    """float audio in [-1, 1] through 16-bit PCM and back: float32, same shape."""
    return to_float(to_int16(audio))


def digital_silence(audio: np.ndarray) -> np.ndarray:
    """Which samples lie in a run of at least `SHORTEST_SILENCE` exact zeros, in all channels.

    Args:
        audio: `[B, T, C]`.

    Returns:
        bool `[B, T]`.
    """
    return ndimage.binary_opening((audio == 0).all(axis=-1), np.ones((1, SHORTEST_SILENCE)))


def match_silence_and_level(clips: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """Gives each clip the digital silence and the level of a synthetic donor.

    Where a clip is digitally silent (`digital_silence`: padding, mostly) it takes its donor's samples at the same
    places; the rest is scaled to the donor's RMS over the rest. So the result has the donor's RMS, and its former
    silence is distributed as those places of a synthetic clip are. Samples beyond full scale are cut to -1 or 1.
    Of a clip that is silence throughout, the donor remains.

    Args:
        clips: float32 `[B, T, C]` in [-1, 1].
        donors: likewise; clips that are used for nothing else, so that no sample stands in both classes.

    Returns:
        float32 `[B, T, C]` in [-1, 1].
    """
    silent = digital_silence(clips)[..., np.newaxis]
    power, wanted = (np.sum(np.square(x, dtype=np.float64), axis=(1, 2), where=~silent) for x in (clips, donors))
    gain = np.sqrt(wanted / np.where(power > 0, power, 1))[:, np.newaxis, np.newaxis]
    return np.clip(np.where(silent, donors, clips * gain), -1, 1).astype(np.float32)


def prepare(condition: str, clips: np.ndarray, donors: np.ndarray | None) -> np.ndarray:
    """Clips `[B, T, C]` under one of `CONDITIONS`. Donors are for clips read from files, None for synthetic ones."""
    if condition not in CONDITIONS:
        raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}. Received: {condition!r}")
    if condition == "matched" and donors is not None:
        clips = match_silence_and_level(clips, donors)
    return clips if condition == "as_is" else pcm_round_trip(clips)


# ---- features -------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """Clips and all that features are computed from.

    Attributes:
        audio: float32 `[B, T, C]` in [-1, 1].
        z: float32 `[B, latent_dim]`, the encoder's answer to it.
        untrained_z: the same encoder's with random weights, before any training.
        spectrogram: float32 `[B, frames, bins, C]`.
        reconstructed_spectrogram: of the generator's output at z.
    """

    audio: np.ndarray
    z: np.ndarray
    untrained_z: np.ndarray
    spectrogram: np.ndarray
    reconstructed_spectrogram: np.ndarray


def _tail_level(clips: Encoded) -> np.ndarray:
    return _level_db(clips.audio[:, -max(1, clips.audio.shape[1] // TAIL_SHARE) :])


def _reconstruction_error(clips: Encoded) -> np.ndarray:
    """Mean absolute difference of the spectrograms."""
    return np.abs(clips.spectrogram - clips.reconstructed_spectrogram).mean(axis=(1, 2, 3))


def _level_db(audio: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.mean(np.square(audio, dtype=np.float64), axis=(1, 2)) + SILENCE_POWER)


# Each gives [B, ...]: the paper's two, clipped latents, numbers that need no training, an untrained encoder.
FEATURES: dict[str, Callable[[Encoded], np.ndarray]] = {
    SPECTROGRAMS: lambda clips: clips.spectrogram,
    LATENTS: lambda clips: clips.z,
    CLIPPED_LATENTS: lambda clips: np.clip(clips.z, PRIORS["uniform"].low, PRIORS["uniform"].high),
    TAIL_LEVEL: _tail_level,
    "RMS level": lambda clips: _level_db(clips.audio),
    "norm of z": lambda clips: np.linalg.norm(clips.z, axis=1),
    "largest |z|": lambda clips: np.abs(clips.z).max(axis=1),
    "reconstruction error": _reconstruction_error,
    UNTRAINED_LATENTS: lambda clips: clips.untrained_z,
}


def feature_names(prior: str) -> list[str]:
    """Of `FEATURES`, in order; a prior without bounds has no box to clip latents into."""
    return [name for name in FEATURES if name != CLIPPED_LATENTS or PRIORS[prior].bounded]


def features(clips: Encoded, names: list[str]) -> dict[str, np.ndarray]:
    """What classifiers are tried on, float32 `[B, D]` each."""
    return {name: FEATURES[name](clips).reshape(len(clips.z), -1).astype(np.float32) for name in names}


class Extractor:
    """Draws the clips of a seed and computes their features.

    Args:
        generator: in float32: the noise of bfloat16 would give synthetic clips away.
        encoder: audio `[B, T, C]` to z `[B, latent_dim]`.
        untrained: the same network with random weights.
        real: the real clips.
        foreign: another generator's clips, for testing only; None for none.
        n: clips of each class.
        front_end: of the spectrograms, see `utils.spectrograms`.
        batch_size: clips computed together.
    """

    def __init__(
        self,
        generator: Any,
        encoder: Callable[[np.ndarray], Any],
        untrained: Callable[[np.ndarray], Any],
        real: Dataset,
        foreign: Dataset | None,
        *,
        n: int,
        front_end: str,
        batch_size: int,
    ):
        self.generator, self.real, self.foreign = generator, real, foreign
        self.n, self.front_end, self.batch_size = n, front_end, batch_size
        self.names = feature_names(generator.prior)
        self._generate, self._encoder, self._untrained = tf.function(generator), encoder, untrained

    def draw(self, seed: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Real, synthetic and perhaps foreign clips `[B, T, C]`, each with the donors that `matched` takes."""
        n = self.n
        z = self.generator.sample_prior(seed, 3 * n)
        synthetic, donors, more_donors = np.split(in_batches(self._generate, z, self.batch_size), 3)
        rng = np.random.default_rng(seed)
        drawn = [(_choose(self.real, n, rng), donors), (synthetic, None)]
        if self.foreign is not None:
            foreign = _choose(self.foreign, min(n, len(self.foreign)), rng)
            drawn.append((foreign, more_donors[: len(foreign)]))
        return drawn

    def __call__(
        self, condition: str, drawn: list[tuple[np.ndarray, np.ndarray | None]]
    ) -> list[dict[str, np.ndarray]]:
        """The features of what `draw` gave, by name, of each class."""
        return [features(self._encode(prepare(condition, *group)), self.names) for group in drawn]

    def _encode(self, audio: np.ndarray) -> Encoded:
        size = self.batch_size
        z = in_batches(
            lambda x: methods.from_encoder(self.generator, self._encoder, x, clip_to_prior=False)[:, 0], audio, size
        )
        reconstruction = in_batches(self._generate, z, size)
        for option, values in (("encoder", z), ("generator", reconstruction)):
            if not np.isfinite(values).all():
                raise UserError(f"--{option}: gives NaN or infinite values for these clips")
        ours, made = (spectrogram(tf.constant(x), self.front_end).numpy() for x in (audio, reconstruction))
        return Encoded(audio, z, in_batches(self._untrained, audio, size), ours, made)


def _choose(dataset: Dataset, n: int, rng: np.random.Generator) -> np.ndarray:
    return dataset.to_float(np.sort(rng.choice(len(dataset), n, replace=False)))
