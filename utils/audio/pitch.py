"""Fundamental frequency of clips by pYIN (Mauch & Dixon, 2014), computed once and kept."""

import hashlib
from pathlib import Path

import joblib
import librosa
import numpy as np
from tqdm import tqdm

from utils.runs.cache import cache_folder
from utils.runs.cached_arrays import keep_array, read_array

LOWEST, HIGHEST = 65.0, 500.0  # Hz
CHUNK = 250  # clips a file of the cache


def pitch(clip: np.ndarray, sample_rate: int, hop: int) -> np.ndarray:
    """Fundamental frequency of one clip.

    Args:
        clip: int16 or float `[T]`, T a multiple of `hop`.
        sample_rate: Hz.
        hop: samples between frames; frame k is centred at sample k * hop.

    Returns:
        float32 `[T / hop + 1]` in Hz, 0 where there is no voice, as everywhere in silence.
    """
    scale = 32768 if clip.dtype == np.int16 else 1
    x = clip.astype(np.float32) / scale
    if not x.any():
        return np.zeros(len(x) // hop + 1, np.float32)
    frame_length = 2 ** int(np.ceil(np.log2(4 * sample_rate / LOWEST)))
    hertz, voiced, _ = librosa.pyin(
        x, fmin=LOWEST, fmax=HIGHEST, sr=sample_rate, frame_length=frame_length, hop_length=hop
    )
    return np.where(voiced, hertz, 0).astype(np.float32)


def pitches(
    audio: np.ndarray, sample_rate: int, hop: int, cache_dir: Path | None = None, *, quiet: bool = False
) -> np.ndarray:
    """`pitch` of the mean of the channels of many clips, by all processors, 0.1 s a clip and processor.

    An interrupted call loses one chunk of `CHUNK` clips.

    Args:
        audio: int16 or float32 `[N, T, C]`.
        sample_rate: Hz.
        hop: as in `pitch`.
        cache_dir: where results are kept, keyed by the samples and every option; None: `cache_folder()`.
        quiet: no progress bar.

    Returns:
        float32 `[N, T / hop + 1]`.
    """
    options = f"{librosa.__version__} {LOWEST} {HIGHEST} {sample_rate} {hop} {audio.dtype}"
    chunks = []
    with (
        joblib.Parallel(n_jobs=-1) as parallel,
        tqdm(total=len(audio), desc="pitch", unit="clip", disable=quiet) as bar,
    ):
        for first in range(0, len(audio), CHUNK):
            clips = np.ascontiguousarray(audio[first : first + CHUNK])
            key = hashlib.sha256(options.encode() + str(clips.shape).encode() + clips.tobytes()).hexdigest()[:24]
            path = (cache_dir or cache_folder()) / "pitch" / f"{key}.npy"
            found = read_array(path)
            if found is None:
                mono = clips[..., 0] if clips.shape[2] == 1 else clips.astype(np.float32).mean(axis=2)
                found = np.stack(parallel(joblib.delayed(pitch)(clip, sample_rate, hop) for clip in mono))
                keep_array(path, found)
            chunks.append(found)
            bar.update(len(clips))
    return np.concatenate(chunks)
