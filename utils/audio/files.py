"""Audio files in and out: the one border where clips become arrays of the generator's shape, rate and level.

Everything that happens to a clip on the way in (channel mapping, resampling, gain, clipping, windowing) is
recorded in `Clip.provenance`, so that a latent can always be traced back to the samples it stands for.
"""

import hashlib
import itertools
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from utils.audio.decoding import LOWEST_RATE, NEEDS_FFMPEG, Decoder, is_audio, lacks_ffmpeg
from utils.errors import UserError
from utils.options import WINDOWS
from utils.runs.files import atomic_path, file_sha256

NOT_UTF8 = "the name is not valid UTF-8: rename it"
FULL_SCALE = 0.999  # from here on a sample counts as clipped
CLIPPED_SHARE = 0.01  # of the samples, that is worth a note
WRONG_SCALE = 10.0  # a peak that no level in dB explains: integers stored as floats
CANCELLED_SHARE = 0.1  # of the energy that independent channels keep in their mean
SILENCE = 2.0**-16  # half a step of 16 bits
OFFSET, OFFSET_SHARE = 0.02, 0.5  # of full scale, and of the RMS
SHORT_SHARE, EXCERPT_SHARE = 0.05, 1.1  # of the generator's length


@dataclass(frozen=True)
class Alignment:
    """How a clip is brought to the generator's level and time base.

    Attributes:
        gain: linear factor on samples whose full scale is 1.
        treat_as_rate: rate in Hz to which clips are resampled, as if the generator ran at it. None: the
            generator's own sample rate.
    """

    gain: float = 1.0
    treat_as_rate: int | None = None

    def __post_init__(self):
        if not (math.isfinite(self.gain) and self.gain > 0):
            raise UserError(f"gain must be a positive number. Received: {self.gain}")
        if self.treat_as_rate is not None and self.treat_as_rate < LOWEST_RATE:
            raise UserError(f"treat_as_rate must be at least {LOWEST_RATE} Hz. Received: {self.treat_as_rate}")


ALIGNMENTS = {
    # What the official WaveGAN was trained on: 16 kHz clips, zero-padded, at their own level.
    "aligned": Alignment(),
    # The published scripts: int16 / 32767 x 1.414, one second stretched over 16384 samples. An int16 x is
    # read here as x / 32768, hence the ratio. What the gain lifts beyond full scale is clipped and counted.
    "paper": Alignment(gain=1.414 * 32768 / 32767, treat_as_rate=16384),
}


@dataclass(frozen=True)
class Identity:
    """What tells one window of audio from every other, in recovery and in tables alike.

    Attributes:
        sha256: of the file; for a generator's own sample its `own_sample_sha256`.
        window_start: in samples at the generator's rate.
    """

    sha256: str
    window_start: int = 0

    def __str__(self) -> str:
        return f"{self.sha256} {self.window_start}"


def own_sample_sha256(generator_sha256: str, seed: int, index: int) -> str:
    """Stands for a file's hash where the clip is sample `index` of a generator's prior, by `seed`; hexadecimal."""
    return hashlib.sha256(f"{generator_sha256} {seed} {index}".encode()).hexdigest()


@dataclass(frozen=True)
class Clip:
    """An audio file cut to the generator's shape.

    Attributes:
        windows: float32 `[W, T, C]` in [-1, 1]; the last window is zero-padded at its end.
        provenance: JSON-able record of where the clip came from and what was done to it:
            `source` (the path as given), `sha256` (of the file); `original_rate` (Hz), `original_channels`,
            `original_frames` (see `Decoder.frames`), `original_format`, `original_subtype`; `channel_mapping`,
            `resampled_to` (Hz), `gain`, `clipped` (sample values beyond full scale, set to -1 or 1); `window`,
            `window_starts` (in samples at `resampled_to`), `overlap` (samples that consecutive windows have in
            common), `valid_length` (samples of the joined windows before the zero-padding) and `notes` (a sentence
            by each of `Clip.notes`).
    """

    windows: np.ndarray
    provenance: dict[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        """Why the windows may not be the recording that was meant, in a word or two each.

        `silent`, `clipped`, `wrong scale` (integers stored as floats), `channels cancel`, `offset`, `very short`,
        `excerpt` (of a longer file), `truncated` (the file ends before its header says), `header too short`,
        `streamed` (the header says no length), `joined` (of several recordings), `damaged`, `bytes ignored`.
        """
        return tuple(self.provenance.get("notes", ()))

    @property
    def identities(self) -> list[Identity]:
        """W identities, one a window."""
        return [Identity(self.provenance["sha256"], start) for start in self.provenance["window_starts"]]


def find_audio(root: str | Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Audio files below a folder, recursively, by suffix (`utils.audio.decoding`), hidden ones left out.

    Links are followed. A file reached by several links is listed under each name; a folder is walked once
    only, under its real name where that lies below `root`, so that link loops end.

    Args:
        root: a folder; or one file, which is returned whatever its suffix, if its header can be read.

    Returns:
        The files, sorted, and (path, reason) of what looks like audio or a folder and cannot be read.

    Raises:
        UserError: if `root` does not exist, or is a file that cannot be read.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    if not root.is_dir():
        if not _is_utf8(root):
            raise UserError(f"{_shown(root)}: {NOT_UTF8}")
        with Decoder(root):
            return [root], []

    files, problems = [], []
    walked = {_identity(parent) for parent in root.resolve().parents}
    folders, linked_folders = [root], []
    while folders or linked_folders:
        folder = folders.pop() if folders else linked_folders.pop(0)
        if _identity(folder) in walked:
            continue
        walked.add(_identity(folder))
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            problems.append((folder, f"folder cannot be read: {error.strerror}"))
            continue
        for path in entries:
            if path.name.startswith("."):
                continue
            has_audio_suffix = is_audio(path)
            try:
                mode = path.stat().st_mode
            except OSError as error:
                if has_audio_suffix or not path.suffix:  # without a suffix it may have led to a folder
                    reason = "broken symbolic link" if path.is_symlink() else "cannot be read"
                    problems.append((path, f"{reason}: {error.strerror}"))
                continue
            if stat.S_ISDIR(mode):
                (linked_folders if path.is_symlink() else folders).append(path)
            elif not has_audio_suffix:
                continue
            elif not stat.S_ISREG(mode):
                problems.append((path, "not a regular file"))
            elif not _is_utf8(path):
                problems.append((_shown(path), NOT_UTF8))
            elif lacks_ffmpeg(path):
                problems.append((path, NEEDS_FFMPEG))
            else:
                files.append(path)
    return sorted(files), sorted(problems)


def load_clip(
    path: str | Path,
    num_samples: int,
    num_channels: int,
    sample_rate: int,
    window: str = "start",
    alignment: Alignment = ALIGNMENTS["aligned"],
    overlap: int = 0,
) -> Clip:
    """Read an audio file as windows of a generator's shape.

    In this order: channels are mapped (as they are when their number fits; else their mean, copied to each
    channel of the generator), resampled by soxr, cut, multiplied by the gain, clipped to [-1, 1], zero-padded
    at the end. The file is streamed: `start` reads little more than it needs (damage further on is not seen),
    `loudest` holds one window at a time, `all` holds the resampled clip.

    Args:
        path: any file that libsndfile reads, or by its suffix ffmpeg.
        num_samples: T, length of a window in samples.
        num_channels: C.
        sample_rate: the generator's, in Hz.
        window: `start` (the first T samples), `loudest` (the T consecutive samples of most energy, the
            earliest of equals) or `all` (consecutive windows that cover the clip).
        alignment: level and time base, see `ALIGNMENTS`.
        overlap: samples that consecutive windows of `all` have in common, at most T / 2.

    Returns:
        The clip, with W = 1, or for `all` as many windows as cover it. Silence is a valid clip. Data that end before or
        after the header says are used as far as they go, with a note; where the decoder fails at the cut (FLAC) it is
        an error.

    Raises:
        UserError: one line that names the file: no regular file, unreadable, empty, not audio, damaged, without
            samples, or with NaN, infinite or absurd sample values.
        ValueError: for another `window`.
    """
    if window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}. Received: {window!r}")
    rate = alignment.treat_as_rate or sample_rate
    levels = Levels()
    with Decoder(path) as decoder:
        sha256 = file_sha256(path)
        blocks = decoder.blocks(rate)
        blocks = ((source_rate, levels.map_channels(block, num_channels)) for source_rate, block in blocks)
        blocks = _resample(blocks, rate, num_channels)
        if window == "start":
            start, audio = 0, _first(blocks, math.ceil(EXCERPT_SHARE * num_samples))
            length, audio = len(audio), audio[:num_samples]
        elif window == "loudest":
            start, audio, length = _loudest(blocks, num_samples)
        else:
            start, audio = 0, np.concatenate(list(blocks))
            length = len(audio)
    if length == 0:
        raise UserError(f"{path}: too short: {decoder.decoded} samples at {decoder.rate} Hz make none at {rate} Hz")

    hop = num_samples - overlap
    num_windows = max(1, math.ceil((len(audio) - overlap) / hop))
    padded = np.zeros(((num_windows - 1) * hop + num_samples, num_channels), np.float32)
    padded[: len(audio)] = audio
    padded *= np.float32(alignment.gain)
    notes = decoder.notes | levels.notes() | _notes_of_windows(padded[: len(audio)], num_samples, length)
    clipped = int(np.count_nonzero(np.abs(padded) > 1))
    np.clip(padded, -1, 1, out=padded)
    windows = np.stack([padded[i * hop : i * hop + num_samples] for i in range(num_windows)])
    provenance = {
        "source": str(path),
        "sha256": sha256,
        "original_rate": decoder.rate,
        "original_channels": decoder.channels,
        "original_frames": decoder.frames,
        "original_format": decoder.format,
        "original_subtype": decoder.subtype,
        "channel_mapping": _describe_mapping(decoder.channels, num_channels),
        "resampled_to": rate,
        "gain": alignment.gain,
        "clipped": clipped,
        "window": window,
        "window_starts": [start + i * hop for i in range(num_windows)],
        "overlap": overlap,
        "valid_length": len(audio),
        "notes": notes,
    }
    return Clip(windows, provenance)


def join_windows(windows: np.ndarray, provenance: dict[str, Any]) -> np.ndarray:
    """Undo the cutting: a clip's windows (or their reconstructions) end to end, without the zero-padding.

    Where windows overlap they fade into each other by raised cosines that sum to 1: equal samples stay as they are.

    Args:
        windows: `[W, T, C]`.
        provenance: that of the `Clip` they come from.

    Returns:
        `[N, C]`, N = `provenance["valid_length"]`: for `all` the length of the whole resampled clip.

    Raises:
        ValueError: if the windows are not as many as the clip's.
    """
    expected = len(provenance["window_starts"])
    if windows.ndim != 3 or len(windows) != expected:
        raise ValueError(f"windows must be [{expected}, T, C]. Received: shape {windows.shape}")
    overlap, length = provenance.get("overlap", 0), windows.shape[1]
    hop = length - overlap
    fade = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap, dtype=windows.dtype)[:, None] + 0.5) / overlap)
    joined = np.empty(((len(windows) - 1) * hop + length, windows.shape[2]), windows.dtype)
    joined[:length] = windows[0]
    for i, window in enumerate(windows[1:], 1):
        both = joined[i * hop : i * hop + overlap]
        both += fade * (window[:overlap] - both)
        joined[i * hop + overlap : i * hop + length] = window[overlap:]
    return joined[: provenance["valid_length"]]


def write_wav(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write a float32 WAV, atomically.

    Equal audio gives equal bytes: libsndfile's float WAVs would carry the time of writing (PEAK chunk).

    Args:
        path: the file; missing folders are made.
        audio: `[T, C]`, finite, full scale 1 (not clipped here).
        sample_rate: Hz.

    Raises:
        ValueError: for another number of dimensions, or non-finite samples.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 2:
        raise ValueError(f"audio must be [T, C]. Received: shape {audio.shape}")
    if not np.isfinite(audio).all():
        raise ValueError(f"audio for {path} must be finite")
    from scipy.io import wavfile  # here, because it takes a second and lists of files need none

    with atomic_path(path) as temporary:
        wavfile.write(temporary, sample_rate, audio)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _shown(path: Path) -> Path:
    """A path that can be printed: bytes that are no UTF-8 as escapes."""
    return Path(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@dataclass
class Levels:
    """Energies of the channels of a file and of what is made of them, so far."""

    channels: int = 0
    before: float = 0.0  # mean over channels
    after: float = 0.0

    def map_channels(self, block: np.ndarray, num_channels: int) -> np.ndarray:
        """`[n, channels]` -> `[n, num_channels]`: unchanged, or the mean copied."""
        if block.shape[1] == num_channels:
            return block
        mean = block.mean(axis=1, keepdims=True)
        self.channels = max(self.channels, block.shape[1])
        self.before += float(np.sum(np.square(block, dtype=np.float64))) / block.shape[1]
        self.after += float(np.sum(np.square(mean, dtype=np.float64)))
        return np.repeat(mean, num_channels, axis=1)

    def notes(self) -> dict[str, str]:
        if self.channels < 2 or self.after * self.channels >= CANCELLED_SHARE * self.before:
            return {}
        return {
            "channels cancel": f"the mean of {self.channels} channels keeps {self.after / self.before:.1%} of energy"
        }


def _notes_of_windows(audio: np.ndarray, num_samples: int, length: int) -> dict[str, str]:
    """Of the samples `[n, C]` of all windows, not yet clipped; the file has `length` samples at their rate."""
    notes = {}
    magnitudes = np.abs(audio)
    peak, clipped = magnitudes.max(), np.mean(magnitudes >= FULL_SCALE)
    if peak < SILENCE:
        notes["silent"] = "no sample reaches half a step of 16 bits"
    if peak > WRONG_SCALE:
        notes["wrong scale"] = f"the largest sample is {peak:.0f} times full scale"
    elif clipped >= CLIPPED_SHARE:
        notes["clipped"] = f"{clipped:.0%} of the samples are at full scale or beyond it"
    offset, rms = abs(audio.mean(dtype=np.float64)), np.sqrt(np.mean(np.square(audio, dtype=np.float64)))
    if offset > max(OFFSET, OFFSET_SHARE * rms):
        notes["offset"] = f"the mean of the samples is {offset:.2f} of full scale"
    if len(audio) < SHORT_SHARE * num_samples:
        notes["very short"] = f"{len(audio)} samples; the generator makes {num_samples}"
    if length > len(audio) and length >= EXCERPT_SHARE * num_samples:
        notes["excerpt"] = f"{num_samples} samples of a longer file"
    return notes


def _describe_mapping(source: int, target: int) -> str:
    if source == target:
        return "as it is"
    mixed = "the one channel" if source == 1 else f"mean of {source}"
    return mixed if target == 1 else f"{mixed} copied to {target}"


def _resample(blocks: Iterator[tuple[int, np.ndarray]], rate: int, channels: int) -> Iterator[np.ndarray]:
    """float32 `[n, channels]` blocks at another rate; those of one rate are together `soxr.resample` of the whole."""
    for source_rate, group in itertools.groupby(blocks, key=lambda pair: pair[0]):
        if source_rate == rate:
            yield from (block for _, block in group)
            continue
        stream = soxr.ResampleStream(source_rate, rate, channels, dtype="float32")
        for _, block in group:
            yield stream.resample_chunk(block)
        yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def _first(blocks: Iterator[np.ndarray], num_samples: int) -> np.ndarray:
    """The first `num_samples` samples, or all there are: `[n, C]`."""
    taken, length = [], 0
    for block in blocks:
        taken.append(block)
        length += len(block)
        if length >= num_samples:
            break
    return np.concatenate(taken)[:num_samples]


def _loudest(blocks: Iterator[np.ndarray], num_samples: int) -> tuple[int, np.ndarray, int]:
    """Start and samples `[n, C]` of the `num_samples` consecutive ones of most energy, or all there are; and how many
    there are."""
    best_energy, best_start, best = -1.0, 0, None
    tail, tail_start = None, 0
    for block in blocks:
        span = block if tail is None else np.concatenate([tail, block])
        if len(span) >= num_samples:
            cumulative = np.cumsum(np.square(span, dtype=np.float64).sum(axis=1))
            cumulative = np.concatenate([[0.0], cumulative])
            energy = cumulative[num_samples:] - cumulative[:-num_samples]
            loudest = int(np.argmax(energy))
            if energy[loudest] > best_energy:
                best_energy, best_start = energy[loudest], tail_start + loudest
                best = span[loudest : loudest + num_samples].copy()
        dropped = max(0, len(span) - (num_samples - 1))  # the rest can still begin a window
        tail, tail_start = span[dropped:], tail_start + dropped
    length = tail_start + len(tail)
    return (0, tail, length) if best is None else (best_start, best, length)
