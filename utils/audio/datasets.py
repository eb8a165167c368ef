"""Folders of audio as memory-mapped arrays: SC09 in its two published layouts, or any folder of sounds.

Layouts, recognised in this order:
    Speech Commands   root/{zero ... nine}/*.wav, with validation_list.txt and testing_list.txt
    Donahue's SC09    root[/sc09]/{train,valid,test}/Zero_*.wav
    unlabelled        any other folder, walked recursively

Every clip is decoded once, by `utils.audio.files.load_clip`, into a cache that later runs map into memory.
"""

import atexit
import codecs
import errno
import functools
import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile
import soxr
import tensorflow as tf
from tqdm import tqdm

from utils.audio.files import ALIGNMENTS, Clip, Identity, find_audio, load_clip
from utils.audio.splits import HALVES, half_of, speaker_of
from utils.choices import SPLITS
from utils.errors import UserError, one_line
from utils.runs.cache import cache_folder

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UNLABELLED = -1
INT16_SCALE = 32768.0

_DONAHUE_FOLDERS = {"train": "train", "valid": "validation", "test": "test"}
_LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
_VALIDATION_PERCENT = 10
_DECODE_CHUNK = 256
_CACHE_FORMAT = 4  # counts up whenever the same files begin to be decoded to other samples


@dataclass(frozen=True)
class Dataset:
    """One split of a folder of audio.

    Attributes:
        audio: int16 `[N, T, C]`, memory-mapped and read-only; x stands for x / 32768 (`to_float`).
        labels: int32 `[N]`, the digit, or -1 for every clip of an unlabelled folder.
        names: N source paths relative to the folder, sorted; repeated where a file gave several windows.
        identities: N, what tells each window from every other.
        class_names: the names of labels 0, 1, ...; empty for an unlabelled folder.
        sample_rate: in Hz.
        layout: "speech commands", "sc09" or "unlabelled".
        split: which of `SPLITS` this is.
        problems: (name, reason) of each file that was left out.
        absent: how many lines of the folder's lists name no clip in it.
        notes: how many files have each of `utils.audio.files.Clip.notes`.
    """

    audio: np.ndarray
    labels: np.ndarray
    names: list[str]
    identities: list[Identity]
    class_names: tuple[str, ...]
    sample_rate: int
    layout: str
    split: str
    problems: list[tuple[str, str]] = field(default_factory=list)
    absent: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.audio)

    def to_float(self, index: int | slice | np.ndarray = slice(None)) -> np.ndarray:
        """The clips at `index` as float32 in [-1, 1): `[n, T, C]`, or `[T, C]` for a single integer."""
        return to_float(self.audio[index])

    def describe(self) -> str:
        """One line for a log: counts, layout, what was left out."""
        parts = [f"{self.split}: {len(self):,} clips ({self.layout} layout)"]
        if self.class_names:
            counts = np.bincount(self.labels, minlength=len(self.class_names))
            parts.append(f"{counts.min():,} to {counts.max():,} a class")
        if self.absent:
            parts.append(f"{self.absent:,} lines of the lists name no clip")
        if self.problems:
            parts.append(f"{len(self.problems):,} not read")
        parts += [f"{count:,} {note}" for note, count in self.notes.items()]
        return ", ".join(parts)


def to_float(audio: np.ndarray) -> np.ndarray:
    """int16 samples as float32 in [-1, 1), same shape."""
    return audio.astype(np.float32) / np.float32(INT16_SCALE)


def load_dataset(
    root: str | Path,
    num_samples: int = 16384,
    num_channels: int = 1,
    sample_rate: int = 16000,
    split: str = "train",
    alignment: str = "aligned",
    cache_dir: str | Path | None = None,
    *,
    window: str = "start",
    quiet: bool = False,
) -> Dataset:
    """Load one split of a folder of audio, decoding it into `cache_dir` the first time.

    An unlabelled folder, or a Speech Commands folder without its lists, is split by a hash of the file names
    (one speaker's clips stay together): 10 % validation, the rest training, no test split. The validation clips of
    any folder have two halves, "selection" and "report" (`utils.audio.splits`).

    Args:
        root: the folder.
        num_samples: length T of a clip in samples; shorter files are zero-padded.
        num_channels: C.
        sample_rate: in Hz; other rates are resampled.
        split: a name in `SPLITS`.
        alignment: a name in `utils.audio.files.ALIGNMENTS`.
        cache_dir: where decoded clips are kept. The key covers the files' names, sizes and times, every
            option here, the format of the cache and the libraries that decode; one entry per split. A damaged entry
            is decoded again. Where it cannot be written, a folder takes its place that goes with the process.
            Defaults to `utils.runs.cache.cache_folder()`.
        window: "start" or "loudest" (one clip a file), or "all" (a long file gives several).
        quiet: no progress bar.

    Returns:
        A `Dataset`. Files that cannot be decoded are named on stderr and left out.

    Raises:
        UserError: no such folder, nothing in this split, not one readable file in it, or lists most of whose lines
            name no clip.
        ValueError: for another split or alignment.
    """
    root, cache_dir = Path(root), cache_folder() if cache_dir is None else Path(cache_dir)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}. Received: {split!r}")
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment must be one of {', '.join(ALIGNMENTS)}. Received: {alignment!r}")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name a folder of audio, or fetch SC09 with: python download.py sc09")

    layout, entries, problems, absent = _scan(root, split)
    if not entries:
        raise UserError(
            f"{root}: no audio for the split {split!r} ({layout} layout). Looked for zero/ ... nine/ with "
            "validation_list.txt and testing_list.txt (Speech Commands), for train/, valid/ and test/ with "
            "Zero_*.wav ... (SC09), then for audio files at any depth"
        )

    def decode(path: Path) -> Clip:
        return load_clip(path, num_samples, num_channels, sample_rate, window=window, alignment=ALIGNMENTS[alignment])

    options = [num_samples, num_channels, sample_rate, window, repr(ALIGNMENTS[alignment])]
    key = _cache_key(root, [entry.path for entry in entries], options)
    name = f"{root.resolve().name}-{split}-{alignment}-{key}"
    folder = cache_dir / name
    cached = _read_cache(folder, num_samples * num_channels)
    if cached is None:
        folder = _writable(cache_dir) / name
        _write_cache(folder, root, entries, decode, quiet)
        cached = _read_cache(folder, num_samples * num_channels)
        if cached is None:
            raise UserError(f"{folder}: cannot be read just after it was written; is the disk full or damaged?")

    if not cached["names"]:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in cached["problems"][:3])
        raise UserError(f"{root}: none of {len(entries):,} files ({split} split) is readable ({reasons})")
    shape = (len(cached["names"]), num_samples, num_channels)
    return Dataset(
        audio=np.memmap(folder / "audio.int16", np.int16, "r", shape=shape),
        class_names=() if layout == "unlabelled" else DIGITS,
        sample_rate=sample_rate,
        layout=layout,
        split=split,
        absent=absent,
        **cached | {"problems": problems + cached["problems"]},
    )


def to_int16(audio: np.ndarray) -> np.ndarray:
    """float samples in [-1, 1] as int16, same shape; exact for what was read from 16-bit files."""
    return np.clip(np.rint(audio * INT16_SCALE), -32768, 32767).astype(np.int16)


# ---- tf.data --------------------------------------------------------------------


def batch_indices(num_clips: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Which clips make up training step `step`: a function of the seed and the step alone.

    Epochs are shuffled one by one and laid end to end: every clip is seen once an epoch.

    Returns:
        int64 `[batch_size]`.
    """
    position = step * batch_size
    indices: list[np.ndarray] = []
    missing = batch_size
    while missing:
        epoch, start = divmod(position, num_clips)
        taken = _epoch_order(num_clips, seed, epoch)[start : start + missing]
        indices.append(taken)
        position += len(taken)
        missing -= len(taken)
    return np.concatenate(indices)


@functools.lru_cache(maxsize=4)
def _epoch_order(num_clips: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_clips)


def training_batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    first_step: int = 0,
    augmentation: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Endless shuffled batches, of which step t is the same whatever came before it (for exact resume).

    Args:
        dataset: the clips.
        batch_size: clips a step.
        seed: of the shuffling and the augmentation.
        first_step: the step to begin at.
        augmentation: `(audio [B, T, C] float32, seed [2] int32) -> audio`, such as `augment`.

    Returns:
        Yields (audio float32 `[B, T, C]`, labels int32 `[B]`).
    """

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        for step in itertools.count(first_step):
            indices = batch_indices(len(dataset), batch_size, step, seed)
            yield dataset.audio[indices], dataset.labels[indices], step

    def prepare(audio: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        audio = tf.cast(audio, tf.float32) / INT16_SCALE
        if augmentation is not None:
            audio = augmentation(audio, tf.stack([tf.constant(seed, tf.int32), step]))
        return audio, labels

    signature = (
        tf.TensorSpec((batch_size, *dataset.audio.shape[1:]), tf.int16),
        tf.TensorSpec((batch_size,), tf.int32),
        tf.TensorSpec((), tf.int32),
    )
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return stream.map(prepare, num_parallel_calls=2, deterministic=True).prefetch(4)


def evaluation_batches(dataset: Dataset, batch_size: int) -> tf.data.Dataset:
    """Every clip once, in order, the last batch smaller: (audio float32 `[b, T, C]`, labels int32 `[b]`)."""

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(dataset), batch_size):
            batch = slice(start, start + batch_size)
            yield dataset.to_float(batch), dataset.labels[batch]

    signature = (
        tf.TensorSpec((None, *dataset.audio.shape[1:]), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    )
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return stream.apply(tf.data.experimental.assert_cardinality(-(-len(dataset) // batch_size))).prefetch(2)


@dataclass(frozen=True)
class _Entry:
    path: Path
    label: int


def _scan(root: Path, split: str) -> tuple[str, list[_Entry], list[tuple[str, str]], int]:
    """(layout, the split's files in sorted order, (name, reason) of unreadable folders, absent files)."""
    if sum((root / digit).is_dir() for digit in DIGITS) >= 2:
        return "speech commands", *_scan_speech_commands(root, split)
    for home in (root, root / "sc09"):
        train = home / "train"
        if train.is_dir() and any(_digit_of(path) is not None for path in train.iterdir()):
            return "sc09", *_scan_donahue(home, split)
    files, problems = find_audio(root)
    kept = [_Entry(path, UNLABELLED) for path in files if _belongs(path, _split_by_hash(path), split)]
    return "unlabelled", kept, _relative(problems, root), 0


def _scan_speech_commands(root: Path, split: str) -> tuple[list[_Entry], list[tuple[str, str]], int]:
    listed, lines = _read_lists(root)
    entries, problems, seen = [], [], set()
    for label, digit in enumerate(DIGITS):
        if not (root / digit).is_dir():
            continue
        files, digit_problems = find_audio(root / digit)
        problems += _relative(digit_problems, root)
        for path in files:
            name = _list_name(path.relative_to(root).as_posix())
            seen.add(name)
            file_split = listed.get(name, "train") if listed else _split_by_hash(path)
            if _belongs(path, file_split, split):
                entries.append(_Entry(path, label))
    absent = 0
    for list_path, names in lines.items():
        missing = [name for name in names if name not in seen]
        if 2 * len(missing) > len(names):
            raise UserError(
                f"{list_path}: {len(missing):,} of its {len(names):,} lines name no clip of {root}, such as "
                f"{missing[0]!r}; each must be as in zero/0ab3b47d_nohash_0.wav"
            )
        absent += len(missing)
    return sorted(entries, key=lambda entry: entry.path), problems, absent


def _read_lists(root: Path) -> tuple[dict[str, str], dict[Path, list[str]]]:
    """The split of each listed clip, and the names in each list; those of words that are no digits left out."""
    listed, lines = {}, {}
    for path in sorted(root.iterdir()):
        list_split = _LISTS.get(path.name.lower())
        if list_split is None or not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" in content:
            raise UserError(f"{path}: is not UTF-8 text, but UTF-16 or binary; save it as UTF-8")
        names = [_list_name(line) for line in os.fsdecode(content.removeprefix(codecs.BOM_UTF8)).splitlines()]
        # Published lists name the clips of all words.
        names = [name for name in names if name and (name.partition("/")[0] in DIGITS or "/" not in name)]
        lines[path] = names
        listed |= dict.fromkeys(names, list_split)
    return listed, lines


def _list_name(line: str) -> str:
    """`zero/xxx` of a clip's path or a line of a list, whatever its case, its separators and the folders before.

    Without suffix, too: the lists say `zero/xxx.wav` also where the file is FLAC.
    """
    path = PurePosixPath(line.strip().replace("\\", "/").lower())
    return "/".join(path.with_suffix("").parts[-2:]) if path.name else ""


def _scan_donahue(home: Path, split: str) -> tuple[list[_Entry], list[tuple[str, str]], int]:
    entries, problems = [], []
    whole = "validation" if split in HALVES else split
    for folder, folder_split in _DONAHUE_FOLDERS.items():
        if whole in ("all", folder_split) and (home / folder).is_dir():
            files, folder_problems = find_audio(home / folder)
            problems += _relative(folder_problems, home)
            for path in files:
                name = path.name.partition("_")[2]  # of Three_0ab3b47d_nohash_0.wav
                if (label := _digit_of(path)) is not None and _belongs(name, folder_split, split):
                    entries.append(_Entry(path, label))
    return entries, problems, 0


def _digit_of(path: Path) -> int | None:
    """3 for `Three_0ab3b47d_nohash_0.wav`."""
    word, underscore, _ = path.name.partition("_")
    return DIGITS.index(word.lower()) if underscore and word.lower() in DIGITS else None


def _belongs(name: str | Path, file_split: str, split: str) -> bool:
    """Whether `split` has a file of "train", "validation" or "test"."""
    return split in ("all", file_split) or file_split == "validation" and split == half_of(speaker_of(name))


def _split_by_hash(path: Path) -> str:
    """Validation for about 10 % of the speakers."""
    percent = int(hashlib.sha256(speaker_of(path).encode()).hexdigest(), 16) % 100
    return "validation" if percent < _VALIDATION_PERCENT else "train"


def _relative(problems: list[tuple[Path, str]], root: Path) -> list[tuple[str, str]]:
    return [(os.path.relpath(path, root), reason) for path, reason in problems]


# ---- cache --------------------------------------------------------------------


def _cache_key(root: Path, files: list[Path], options: list) -> str:
    """16 hex digits over everything that changes the decoded samples."""
    libraries = [soundfile.__libsndfile_version__, soxr.__version__]
    digest = hashlib.sha256(json.dumps([_CACHE_FORMAT, str(root.resolve()), options, libraries]).encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{os.path.relpath(path, root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _writable(cache_dir: Path) -> Path:
    """The folder itself, or one in its place that is removed when the process ends."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir):
            return cache_dir
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        print(f"cache {cache_dir}: {error.strerror}; this run's decoded clips are not kept", file=sys.stderr)
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def _read_cache(folder: Path, values: int) -> dict[str, Any] | None:
    """Fields of a `Dataset` as `_write_cache` left them; None where there are none, or, with a line, damaged ones.

    Args:
        values: samples of a clip in all channels.
    """
    if not folder.exists():
        return None
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        fields = {
            "names": [str(name) for name in index["names"]],
            "labels": np.array(index["labels"], np.int32),
            "identities": [Identity(sha256, start) for sha256, start in index["identities"]],
            "problems": [(name, reason) for name, reason in index["problems"]],
            "notes": dict(index["notes"]),
        }
        sizes = {len(fields[name]) for name in ("names", "labels", "identities")}
        size = (folder / "audio.int16").stat().st_size
        if sizes != {size // (2 * values)} or size % (2 * values):
            raise ValueError(f"{size} bytes of audio for {sizes} clips")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{folder}: damaged, decoded again ({one_line(error)})", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return fields


def _write_cache(
    folder: Path,
    root: Path,
    entries: list[_Entry],
    decode: Callable[[Path], Clip],
    quiet: bool,
) -> None:
    """Decode beside `folder`, then rename; a second process doing the same is harmless."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    names, labels, identities, problems, notes = [], [], [], [], Counter()
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as temporary:
        partial = Path(temporary) / "entry"
        partial.mkdir()
        with (
            open(partial / "audio.int16", "wb") as out,
            ThreadPoolExecutor() as pool,
            tqdm(total=len(entries), desc=f"decoding {root.name}", unit="clip", disable=quiet) as progress,
        ):
            for start in range(0, len(entries), _DECODE_CHUNK):
                chunk = entries[start : start + _DECODE_CHUNK]
                for entry, decoded in zip(chunk, pool.map(_attempt(decode), chunk), strict=True):
                    name = os.path.relpath(entry.path, root)
                    if isinstance(decoded, UserError):
                        problems.append((name, str(decoded)))
                        tqdm.write(f"left out: {decoded}", file=sys.stderr)
                    else:
                        out.write(to_int16(decoded.windows).tobytes())
                        names += [name] * len(decoded.windows)
                        labels += [entry.label] * len(decoded.windows)
                        identities += [(identity.sha256, identity.window_start) for identity in decoded.identities]
                        notes.update(decoded.notes)
                progress.update(len(chunk))
        index = {"names": names, "labels": labels, "identities": identities, "problems": problems, "notes": notes}
        (partial / "index.json").write_text(json.dumps(index), encoding="utf-8")
        try:
            os.rename(partial, folder)
        except OSError:
            if not (folder / "index.json").is_file():
                raise


def _attempt(decode: Callable[[Path], Clip]) -> Callable[[_Entry], Clip | UserError]:
    def attempt(entry: _Entry) -> Clip | UserError:
        try:
            return decode(entry.path)
        except UserError as error:
            return error

    return attempt
