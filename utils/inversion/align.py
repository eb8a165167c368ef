"""Where a clip begins and how loud it is, as the generator would have it: `--align`.

A generator knows its training data's cut: the word begins about there and is about as loud. A user's file is cut
otherwise, and no z moves a sound by much. Offset and gain are searched before z, by what an encoder's reconstruction,
moved back, leaves of the clip: coarse to fine.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from utils.runs.batches import in_batches
from utils.spectrograms import log_mel

REACH, COARSE = 4, 8  # offsets of up to a quarter of a clip, in eight steps; then, with the gain, in halves of a step
HALVINGS = (2, 4, 8)
GAINS_DB = (-12.0, -6.0, 6.0, 12.0)  # over the halving, around the level of the generator's samples


class Placements(NamedTuple):
    """Where the generator would have B clips.

    offset, gain_db: int and float `[B]`, as `place` takes them.
    beyond: float32 `[B, T, C]`, what is where placing has moved in the clip's ends, and 0 elsewhere: silence, or what
        the generator has there where the clip is known to be a part of its sample.
    """

    offset: np.ndarray
    gain_db: np.ndarray
    beyond: np.ndarray

    def place(self, clips: np.ndarray) -> np.ndarray:
        """The clips there, float32 `[B, T, C]`."""
        return place(clips, self.offset, self.gain_db) + self.beyond

    def some(self, clips: slice) -> "Placements":
        return Placements(self.offset[clips], self.gain_db[clips], self.beyond[clips])


def place(audio: np.ndarray, offset: np.ndarray, gain_db: np.ndarray) -> np.ndarray:
    """Clips as they are when they begin later and are louder: `place(x, offset, gain)[t] = gain * x[t + offset]`.

    Args:
        audio: float32 `[B, T, C]`; beyond its ends lies silence.
        offset: int `[B]`, in samples, at most T either way.
        gain_db: float `[B]`.

    Returns:
        float32 `[B, T, C]`.
    """
    placed = np.zeros_like(audio)
    for row, (clip, shift) in enumerate(zip(audio, offset, strict=True)):
        kept = clip[max(shift, 0) : len(clip) + min(shift, 0)]
        placed[row, max(-shift, 0) : max(-shift, 0) + len(kept)] = kept
    return placed * np.float32(10 ** (np.asarray(gain_db)[:, None, None] / 20))


def move_back(audio: np.ndarray, offset: np.ndarray, gain_db: np.ndarray) -> np.ndarray:
    """Undoes `place`, but for what it moved beyond the ends: those are silent."""
    return place(audio, -offset, -gain_db)


def align(
    clips: np.ndarray,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    *,
    sample_rate: int,
    level: float,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Offset and gain with which each clip is reconstructed best.

    Scored is the log-mel distance between the clip and its reconstruction moved back, both at the generator's level, so
    that moving sound out of sight or below the floor gains nothing.

    Args:
        clips: float32 `[B, T, C]`.
        reconstruct: by encoder and generator, float32 `[b, T, C]` to the same.
        sample_rate: Hz.
        level: root mean square of the generator's samples.
        batch_size: clips computed together.

    Returns:
        offset int64 `[B]` in samples and gain_db float64 `[B]` as `place` takes them; both 0 where nothing was better
        and for a silent clip.
    """
    rms = np.sqrt(np.mean(np.square(clips, dtype=np.float64), axis=(1, 2)))
    to_level = 20 * np.log10(level / np.maximum(rms, 1e-9))
    headroom = -20 * np.log10(np.maximum(np.abs(clips).max(axis=(1, 2)), 1e-9))
    zero = np.zeros(len(clips), np.int64)
    reference = place(clips, zero, to_level)
    features = tf.function(lambda x: log_mel(x, sample_rate), autograph=False)
    expected = in_batches(features, reference, batch_size)

    def score(offset: np.ndarray, gain_db: np.ndarray) -> np.ndarray:
        answers = in_batches(reconstruct, place(clips, offset, gain_db), batch_size)
        restored = move_back(answers, offset, gain_db - to_level)
        return np.abs(in_batches(features, restored, batch_size) - expected).mean(axis=(1, 2, 3))

    offset, gain_db = zero, np.zeros(len(clips))
    best = score(offset, gain_db)

    def attempt(new_offset: np.ndarray, new_gain_db: np.ndarray) -> None:
        nonlocal offset, gain_db, best
        new_gain_db = np.minimum(new_gain_db, headroom)  # never beyond full scale
        value = score(new_offset, new_gain_db)
        better = (value < best) & (rms > 0)
        offset, gain_db = np.where(better, new_offset, offset), np.where(better, new_gain_db, gain_db)
        best = np.where(better, value, best)

    step = clips.shape[1] // (REACH * COARSE)
    for steps in range(-COARSE, COARSE + 1):
        attempt(zero + steps * step, to_level)
    for halving in HALVINGS:
        around = offset
        for change in (-step // halving, step // halving):
            attempt(around + change, gain_db)
        around = gain_db
        for change in GAINS_DB:
            attempt(offset, around + change / halving)
    return offset, gain_db
