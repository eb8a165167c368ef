"""The latent of a clip that was cut otherwise and amplified since the generator made it: offset and gain are two more
unknowns, beside z.

Such a clip is in the range of another generator, whose latent is z, an offset and a gain: `PlacedGenerator`. Where the
search begins there, an encoder and correlation say (`PlacedSearch`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from utils.inversion import anderson
from utils.inversion.align import place
from utils.inversion.problem import Progress, in_float32, rows_together, tangents
from utils.inversion.search import ROUNDS, LatentSearch
from utils.runs.batches import in_batches

REACH_SECONDS = 0.06  # that a clip may lie earlier or later
GRID_SECONDS = 0.01  # between the offsets at which the encoder is asked first
GAINS_DB = (-6.0, 0.0, 6.0)  # around the generator's level
LEVEL_SAMPLES = 32  # whose level is the generator's: a clip is first shown to the encoder at that
CANDIDATES = 8  # offsets that go further: samples are alike at multiples of 256 samples, frames of a WaveGAN's layers
LOOKS = 2  # of the encoder, each from where the one before saw the clip to lie
OFFSET_UNIT = 4.0  # samples that one of the offset's latent stands for: it then moves audio about as much as z does


class PlacedGenerator:
    """A generator's samples somewhere in a clip of the same length, louder or softer; elsewhere is silence.

    Called as latent `[B, latent_dim + 2]` to audio `[B, T, C]`, `gain * G(z)[t + offset]`: the last two entries are the
    offset, in units of `OFFSET_UNIT` samples, and the gain's natural logarithm. Offsets between samples are
    band-limited: phases of the Fourier transform, whose derivative by the offset is exact.

    Args:
        generator: as in `utils.inversion.problem`.
    """

    def __init__(self, generator: Any):
        self._generator, self.network = generator, self
        self.latent_dim = generator.latent_dim + 2
        for name in ("num_samples", "num_channels", "sample_rate", "prior"):
            setattr(self, name, getattr(generator, name))
        reach = round(REACH_SECONDS * self.sample_rate)
        self._padded = 2 ** int(np.ceil(np.log2(self.num_samples + 2 * reach)))
        self._frequencies = tf.constant(2 * np.pi * np.fft.rfftfreq(self._padded), tf.float32)

    @property
    def float32(self) -> "PlacedGenerator":
        """The same in float32."""
        own = in_float32(self._generator)
        return self if own is self._generator else PlacedGenerator(own)

    def split(self, latent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Latent `[B, latent_dim + 2]` to z `[B, latent_dim]`, offset in samples and gain in dB `[B]`, which
        `utils.inversion.align.place` takes to bring the clip to where the generator has it."""
        offset, log_gain = np.asarray(latent[:, -2:], np.float64).T
        return latent[:, :-2], -OFFSET_UNIT * offset, -20 / np.log(10) * log_gain

    def join(self, z: np.ndarray, offset: np.ndarray, gain_db: np.ndarray) -> np.ndarray:
        """The inverse of `split`."""
        placement = np.stack([-offset / OFFSET_UNIT, -gain_db * np.log(10) / 20], axis=1)
        return np.concatenate([z, placement], axis=1).astype(np.float32)

    def __call__(self, latent: tf.Tensor) -> tf.Tensor:
        return self._move(self._generator(latent[:, :-2]), latent)

    def jacobian_product(self, latent: tf.Tensor, directions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As `models.wavegan.WaveGANGenerator.jacobian_product`, of one latent."""
        audio, moved_by = (
            self._generator(latent[:, :-2]),
            tangents(self._generator, latent[:, :-2], directions[0, :, :-2]),
        )
        placed, by_offset = self._move(audio, latent), self._move(audio, latent, derivative=True)
        by_z = self._move(moved_by, tf.repeat(latent, directions.shape[1], axis=0))
        offset, log_gain = (directions[0, :, i, None, None] for i in (-2, -1))
        return placed, (by_z + offset * by_offset + log_gain * placed)[None]

    def _move(self, audio: tf.Tensor, latent: tf.Tensor, *, derivative: bool = False) -> tf.Tensor:
        """Audio `[B, T, C]` where its latent says, or the derivative of that by the offset's entry."""
        offset, gain = latent[:, -2, None, None], tf.exp(latent[:, -1, None, None])
        after = self._padded - self.num_samples
        spectrum = tf.signal.rfft(tf.pad(tf.transpose(audio, [0, 2, 1]), [[0, 0], [0, 0], [0, after]]))
        turned = spectrum * tf.exp(tf.complex(0.0, OFFSET_UNIT * self._frequencies * offset))
        if derivative:
            turned *= tf.complex(0.0, OFFSET_UNIT * self._frequencies)
        moved = tf.signal.irfft(turned)[..., : self.num_samples]
        return gain * tf.transpose(moved, [0, 2, 1])


class PlacedSearch(LatentSearch):
    """`LatentSearch` for z, offset and gain; what it finds are latents of a `PlacedGenerator`, its `generator`.

    Args:
        generator, encode: as in `LatentSearch`; here the encoder must be.
        reach_seconds: that a clip may lie earlier or later.
        grid_seconds: between the offsets at which the encoder is asked first.

    Attributes:
        level: root mean square of the generator's samples.
    """

    def __init__(
        self,
        generator: Any,
        *,
        encode: Callable[[tf.Tensor], Any],
        reach_seconds: float = REACH_SECONDS,
        grid_seconds: float = GRID_SECONDS,
    ):
        self._reach, self._step = (round(seconds * generator.sample_rate) for seconds in (reach_seconds, grid_seconds))
        super().__init__(PlacedGenerator(generator), encode=encode, clip_to_prior=False)
        samples = np.asarray(in_float32(generator)(generator.sample_prior(0, LEVEL_SAMPLES)))
        self.level = float(np.sqrt(np.mean(np.square(samples))))
        clip = [None, generator.num_samples, generator.num_channels]
        self._reconstruct = tf.function(
            lambda audio: generator(encode(audio)), input_signature=[tf.TensorSpec(clip)], autograph=False
        )
        self._render = tf.function(
            generator, input_signature=[tf.TensorSpec([None, generator.latent_dim])], autograph=False
        )

    def _approach(
        self, targets: np.ndarray, starts: np.ndarray | None, progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Latents `[B, CANDIDATES, latent_dim + 2]` near which to search, and evaluations `[B]`.

        Out of a grid the placements at which the encoder's reconstruction, moved back, leaves least of the clip; then
        more rounds for z.
        """
        clips, reach = len(targets), self._reach
        rms = np.sqrt(np.mean(np.square(targets, dtype=np.float64), axis=(1, 2)))
        to_level = 20 * np.log10(self.level / np.maximum(rms, 1e-9))
        grid = [(at, gain) for at in range(-reach, reach + 1, self._step) for gain in GAINS_DB]
        looks = [self._look(targets, np.full(clips, at), to_level + gain) for at, gain in grid]
        offset, gain_db = distinct(*(np.stack(column, axis=1) for column in zip(*looks, strict=True)), self._step // 2)
        offset, gain_db = offset.ravel(), gain_db.ravel()
        repeated = np.repeat(targets, CANDIDATES, axis=0)
        for _ in range(LOOKS):
            offset, gain_db, _ = self._look(repeated, offset, gain_db)

        # Of the clip, where the generator has it; the rest was lost when it was cut.
        inside = place(np.ones_like(repeated), offset, np.zeros(len(offset)))
        wanted = self._by_rows(self._encode, place(repeated, offset, gain_db))

        def missing(z: np.ndarray) -> np.ndarray:
            return wanted - self._by_rows(self._encode, inside * self._by_rows(self._render, z.astype(np.float32)))

        lower, upper = self._waveform.bounds(True)
        z = anderson.iterate(missing, wanted, rounds=ROUNDS, lower=lower, upper=upper).astype(np.float32)
        offset, gain_db, _ = fit_placement(repeated, self._by_rows(self._render, z), reach)
        evaluations = np.full(clips, len(grid) + CANDIDATES * (LOOKS + ROUNDS + 1))
        return self.generator.join(z, offset, gain_db).reshape(clips, CANDIDATES, -1), evaluations

    def _look(
        self, targets: np.ndarray, offset: np.ndarray, gain_db: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`fit_placement` of what the encoder makes of clips that are placed as given."""
        seen = place(targets, offset, gain_db)
        return fit_placement(targets, self._by_rows(self._reconstruct, seen), self._reach)

    def _by_rows(self, function: Callable[[np.ndarray], Any], rows: np.ndarray) -> np.ndarray:
        return in_batches(function, rows, rows_together(self.generator))


def distinct(offset: np.ndarray, gain_db: np.ndarray, share: np.ndarray, apart: int) -> tuple[np.ndarray, np.ndarray]:
    """Offset and gain `[B, CANDIDATES]` of the lowest shares, out of `[B, K]` of each, whose offsets are at least so
    many samples apart; the best one again where there are no more."""
    chosen = []
    for row, order in zip(offset, share.argsort(axis=1), strict=True):
        places: list[int] = []
        for k in order:
            if all(abs(row[k] - row[other]) >= apart for other in places):
                places.append(k)
        chosen.append((places + CANDIDATES * places[:1])[:CANDIDATES])
    return tuple(np.take_along_axis(x, np.array(chosen), 1) for x in (offset, gain_db))


def fit_placement(clips: np.ndarray, sounds: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offset and gain, as `utils.inversion.align.place` takes them, that bring clips nearest to other sounds.

    Args:
        clips, sounds: float32 `[B, T, C]`.
        reach: largest offset in samples, either way.

    Returns:
        offset int64 `[B]`, gain_db float64 `[B]`, and the share `[B]` of each clip's energy that the sound, moved to
        where the clip has it, leaves; 0 dB and 1 where nothing fits.
    """
    length = clips.shape[1]
    spectra = [np.fft.rfft(x, 2 * length, axis=1) for x in (clips, sounds)]
    products = np.fft.irfft(spectra[0] * spectra[1].conj(), axis=1).sum(axis=2)
    offsets = np.arange(-reach, reach + 1)
    products = products[:, offsets]  # [B, offsets]: sum over t of clip[t + offset] sound[t]
    power = np.square(sounds, dtype=np.float64).sum(axis=2)
    total = np.concatenate([np.zeros((len(clips), 1)), np.cumsum(power, axis=1)], axis=1)
    within = total[:, np.clip(length - offsets, 0, length)] - total[:, np.clip(-offsets, 0, length)]
    explained = np.divide(
        np.maximum(products, 0.0) ** 2, within, out=np.zeros_like(products), where=within > 1e-9 * total[:, -1:]
    )
    best = explained.argmax(axis=1)[:, None]
    explained, product, within = (np.take_along_axis(x, best, 1)[:, 0] for x in (explained, products, within))
    energy = np.square(clips, dtype=np.float64).sum(axis=(1, 2))
    fits = (explained > 0) & (energy > 0)
    share = 1 - np.divide(explained, energy, out=np.zeros_like(energy), where=fits)
    gain_db = 20 * np.log10(np.divide(within, product, out=np.ones_like(energy), where=fits))
    return offsets[best[:, 0]], gain_db, share
