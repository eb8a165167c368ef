"""An audio file as blocks of samples, decoded to its end: by libsndfile, or by ffmpeg where it is installed."""

import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from utils.audio.containers import Part, PartFile, find_parts
from utils.errors import UserError

SUFFIXES = frozenset(".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64".split())
FFMPEG_SUFFIXES = frozenset(
    ".m4a .m4b .aac .wma .webm .weba .mka .amr .ac3 .mp4 .m4v .mov .mkv .avi .wmv .flv .3gp .mpg .mpeg .ogv".split()
)
NEEDS_FFMPEG = "passed over: it is read through ffmpeg, which is not installed (Debian, Ubuntu: apt install ffmpeg)"
BLOCK_VALUES = 2**17  # sample values held at once
LARGEST_SAMPLE = 1e9  # beyond this a float sample is garbage, and could overflow the resampler
LOWEST_RATE = 100  # Hz; below this the header is damaged, and resampling would explode the clip


class Decoder:
    """An open audio file; a context manager, at whose end `notes` are complete.

    Args:
        path: of a regular file.

    Attributes:
        rate, channels, format, subtype: of its first recording, as libsndfile names them; rate in Hz.
        frames: samples of one channel, as the headers say or as the bytes do that are there; None where only decoding
            can tell.
        decoded: samples of one channel that `blocks` has given so far.
        notes: what differs between headers and file, as in `utils.audio.files.Clip.notes`.

    Raises:
        UserError: one line that names the file: no regular file, unreadable, empty, not audio, or a damaged header.
    """

    def __init__(self, path: str | Path):
        self._path = path = Path(path)
        self.decoded, self.notes = 0, {}
        try:
            require_regular(path)
            if path.stat().st_size == 0:
                raise UserError(f"{path}: empty file (0 bytes)")
            needs_ffmpeg = path.suffix.lower() in FFMPEG_SUFFIXES
            parts = [] if needs_ffmpeg else find_parts(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        first, self._rest = _Ffmpeg(path) if needs_ffmpeg else _Recording(path, parts[0]), parts[1:]
        self._stream = first
        self.rate, self.channels, self.format, self.subtype = first.rate, first.channels, first.format, first.subtype
        self.frames = None if self._rest else first.frames

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_) -> None:
        self.notes |= self._stream.notes
        self._stream.close()

    def blocks(self, target_rate: int) -> Iterator[tuple[int, np.ndarray]]:
        """The rate in Hz and float32 samples `[n, channels]`, n such that a block is small also at `target_rate`.

        Raises:
            UserError: no samples, damaged ones, or NaN, infinite or absurd sample values.
        """
        blocks = self._read(target_rate)
        for rate, block in blocks:
            if unusable := _count_unusable(block):
                unusable += sum(_count_unusable(rest) for _, rest in blocks)
                values = self.decoded * self.channels
                raise UserError(
                    f"{self._path}: {unusable} of {values} sample values are NaN, infinite or beyond {LARGEST_SAMPLE:g}"
                )
            yield rate, block
        if self.decoded == 0:
            raise UserError(f"{self._path}: holds 0 samples")

    def _read(self, target_rate: int) -> Iterator[tuple[int, np.ndarray]]:
        while True:
            stream = self._stream
            size = max(1, BLOCK_VALUES // stream.channels)
            size = max(1, min(size, size * stream.rate // target_rate))
            while len(block := stream.read(size)):
                self.decoded += len(block)
                yield stream.rate, block
            if not self._rest:
                return
            part = self._rest.pop(0)
            try:
                self._stream = _Recording(self._path, part)
            except UserError as error:
                reason = str(error).removeprefix(f"{self._path}: ")
                size = self._path.stat().st_size - part.start
                self.notes["bytes ignored"] = f"{size} bytes follow the audio ({reason})"
                return
            stream.close()
            self.notes |= {"joined": "several recordings in one file, read one after the other"} | stream.notes


def require_regular(path: str | Path) -> None:
    """Refuses a pipe, a device or a socket, which can block for ever or never end.

    Raises:
        UserError: for one of those.
        OSError: where there is no such file.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: not a regular file but a pipe, a device or a socket; save the audio to a file first")


def is_audio(path: Path) -> bool:
    """Whether a file's suffix, in either case, is one that is read here."""
    return path.suffix.lower() in SUFFIXES | FFMPEG_SUFFIXES


def lacks_ffmpeg(path: Path) -> bool:
    """Whether a file needs ffmpeg, and ffmpeg is not installed."""
    return path.suffix.lower() in FFMPEG_SUFFIXES and shutil.which("ffmpeg") is None


def _count_unusable(block: np.ndarray) -> int:
    return int(np.count_nonzero(~(np.abs(block) < LARGEST_SAMPLE)))


class _SoundFile(soundfile.SoundFile):
    """Read from start to end: soundfile would seek after each block, which a decoder without a length cannot do."""

    def seekable(self) -> bool:
        return False


class _Recording:
    """One part of a file, by libsndfile."""

    def __init__(self, path: Path, part: Part):
        self._path, self._part, self.notes, self._decoded = path, part, dict(part.notes), 0
        self._source = os.fsencode(path) if part.plain and part.stop == os.path.getsize(path) else PartFile(path, part)
        try:
            self._file = _SoundFile(self._source)
        except soundfile.LibsndfileError as error:
            if isinstance(self._source, PartFile):
                self._source.close()
            raise UserError(
                f"{path}: no audio file, or a damaged header (libsndfile: {error.error_string.strip()})"
            ) from None
        self.rate, self.channels = self._file.samplerate, self._file.channels
        if self.rate < LOWEST_RATE:
            self.close()
            raise UserError(f"{path}: damaged header: its sample rate is {self.rate} Hz")
        self.format, self.subtype = self._file.format, self._file.subtype
        self.frames = self._file.frames if part.frames is None else part.frames or None

    def read(self, frames: int) -> np.ndarray:
        """The next samples, float32 `[n, channels]`, n at most `frames` and 0 at the end."""
        block, error = np.empty((frames, self.channels), np.float32), None
        try:
            block = self._file.read(out=block)
        except soundfile.LibsndfileError as caught:
            error = caught.error_string.strip()
            block = block[: self._file.tell() - self._decoded]
        self._decoded += len(block)
        if error:
            self._handle_error(error)
        elif len(block) == 0:
            self._end()
        return block

    def close(self) -> None:
        self._file.close()
        if isinstance(self._source, PartFile):
            self._source.close()

    def _end(self) -> None:
        if self.frames is None and "truncated" not in self.notes:
            self.notes["streamed"] = f"the header says no length, {self._decoded} samples were decoded"
        elif self.frames not in (None, self._decoded):
            note = "truncated" if self._decoded < self.frames else "header too short"
            self.notes[note] = f"the header says {self.frames} samples, {self._decoded} could be decoded"

    def _handle_error(self, error: str) -> None:
        """After all that the header says, what follows is no audio; where it says nothing, that may be a cut."""
        if self.frames is None and self._decoded:
            text = f"the header says no length, {self._decoded} samples could be decoded (libsndfile: {error})"
            self.notes["truncated"] = text
        elif self.frames is None or self._decoded < self.frames:
            raise UserError(
                f"{self._path}: damaged or truncated: of {self.frames or 'unknown many'} samples not all can be "
                f"decoded (libsndfile: {error})"
            )


class _Ffmpeg:
    """The first audio stream of a file, through a pipe from ffmpeg."""

    format, frames = "ffmpeg", None

    def __init__(self, path: Path):
        if lacks_ffmpeg(path):
            raise UserError(f"{path}: {NEEDS_FFMPEG}")
        self.notes: dict[str, str] = {}
        self.subtype = path.suffix.lower().removeprefix(".")
        self._name = f"file:{os.path.abspath(path)}"  # no option, and no address of something else
        source = ["-protocol_whitelist", "file", "-i", self._name]
        target = ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            ["ffmpeg", "-nostdin", "-v", "error", *source, *target],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        header = self._process.stdout.read(24)
        if len(header) < 24:
            self._process.wait()
            reason = self._error() or "no audio in it"
            self.close()
            raise UserError(f"{path}: cannot be read (ffmpeg: {reason})")
        _, offset, _, _, self.rate, self.channels = struct.unpack(">4s5I", header)
        self._process.stdout.read(offset - 24)

    def read(self, frames: int) -> np.ndarray:
        """As of `_Recording`."""
        size = 4 * self.channels
        content = self._process.stdout.read(frames * size)
        if not content:
            self._process.wait()
            if error := self._error():
                self.notes["damaged"] = f"ffmpeg: {error}"
        samples = np.frombuffer(content[: len(content) // size * size], ">f4")
        return samples.astype(np.float32).reshape(-1, self.channels)

    def close(self) -> None:
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()

    def _error(self) -> str:
        """The first line of what ffmpeg says, without the name of the file or of the part of ffmpeg."""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return re.sub(r"^\[[^]]* @ \w+\] ", "", lines[0]).removeprefix(f"{self._name}: ") if lines else ""
