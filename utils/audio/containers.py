"""Where the recordings lie in an audio file, whatever its headers say of their lengths.

libsndfile stops where a header says that the data end, and after the first of several recordings. Streams that were
never closed say 0 or the largest number, cut files say too much, joined files (`cat a.ogg b.ogg`) say what the first
one holds. `find_parts` gives each recording as a `Part`, whose bytes can be read with a length that is right.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

BLOCK = 2**20  # bytes read at once in search of a pattern
LONGEST_PATTERN = 64  # bytes
LARGEST_FILE = 2**40  # bytes; a damaged header may say more than a file system takes
ID3, ID3_HEADER = b"ID3", 10

FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)
OGG_START = re.compile(rb"OggS\x00[\x02\x06]\x00{8}", re.DOTALL)
OGG_LAST = 4  # flag of a stream's last page
LONGEST_PAGE = 27 + 255 + 255 * 255  # bytes
# A frame whose side information is empty (9, 17 or 32 bytes) and which holds counts of frames and bytes.
XING_FRAME = re.compile(rb"\xff[\xe2-\xff]..(?:\x00{9}|\x00{17}|\x00{32})(?:Xing|Info)", re.DOTALL)
HAS_FRAMES, HAS_BYTES = 1, 2  # flags of a Xing header


@dataclass(frozen=True)
class Part:
    """One recording in a file.

    Attributes:
        start, stop: where its bytes lie.
        patches: bytes that stand in place of those at an offset from `start`.
        frames: what its header says, in samples of one channel, where `patches` take that away; 0 for no answer.
        has_length: False hides the end of the file from a decoder that would guess the length by it.
        notes: what is wrong with its lengths, as in `utils.audio.files.Clip.notes`.
    """

    start: int
    stop: int
    patches: dict[int, bytes] = field(default_factory=dict)
    frames: int | None = None
    has_length: bool = True
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether a file that consists of this part can be read as it is."""
        return self.start == 0 and not self.patches and self.has_length


class PartFile(io.RawIOBase):
    """The bytes of a part, as a binary file."""

    def __init__(self, path: str | Path, part: Part):
        super().__init__()
        self._file, self._part, self._at = open(path, "rb", buffering=0), part, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._part.stop - self._part.start if self._part.has_length else 0
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: end}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        start = self._part.start + self._at
        self._file.seek(start)
        view = memoryview(buffer)[: max(0, self._part.stop - start)]
        count = self._file.readinto(view)
        for offset, content in self._part.patches.items():
            for i in range(max(0, self._at - offset), min(len(content), self._at + count - offset)):
                view[offset + i - self._at] = content[i]
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def find_parts(path: str | Path) -> list[Part]:
    """The recordings in a file, one after the other, at least one; a file of another kind is one part as it is."""
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        start = _after_id3(file)
        magic = _read(file, start, 12)
        if magic[:4] == b"fLaC":
            return _flac_parts(file, size)
        if magic[:4] == b"OggS":
            return _ogg_parts(file, size)
        if len(magic) > 1 and magic[0] == 0xFF and magic[1] >= 0xE0:
            return _mp3_parts(file, start, size)
        return _chunk_parts(file, size)


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(min(offset, LARGEST_FILE))
    return file.read(count)


def _after_id3(file: BinaryIO) -> int:
    """Where the first byte after any ID3v2 tags is."""
    start = 0
    while (header := _read(file, start, ID3_HEADER))[:3] == ID3 and len(header) == ID3_HEADER:
        size = 0
        for byte in header[6:]:
            size = size << 7 | byte & 0x7F
        start += ID3_HEADER + size
    return start


def _find(file: BinaryIO, pattern: re.Pattern) -> list[int]:
    """Offsets of all that match, in order."""
    found, offset, tail = [], 0, b""
    file.seek(0)
    while block := file.read(BLOCK):
        text = tail + block
        found += [offset + match.start() for match in pattern.finditer(text)]
        tail = text[-LONGEST_PATTERN + 1 :]
        offset += len(text) - len(tail)
    return sorted(set(found))


def _stretches(starts: list[int], size: int) -> list[tuple[int, int]]:
    """Start and end of what begins at each of `starts`; the last ends with the file."""
    return list(zip(starts, [*starts[1:], size], strict=False))


def _flac_parts(file: BinaryIO, size: int) -> list[Part]:
    parts = []
    for start, stop in _stretches(_find(file, FLAC_START), size):
        length = _read(file, start + 21, 5)  # of which the last 36 bits are the number of samples
        if len(length) == 5:
            frames = int.from_bytes(length, "big") & 0xFFFFFFFFF
            parts.append(Part(start, stop, {21: bytes([length[0] & 0xF0, 0, 0, 0, 0])}, frames=frames))
    return parts or [Part(0, size)]


def _ogg_parts(file: BinaryIO, size: int) -> list[Part]:
    starts: list[int] = []
    next_page = None
    for start in _find(file, OGG_START):
        if start != next_page:  # else a second stream of the same recording
            starts.append(start)
        header = _read(file, start, 27 + 255)
        next_page = start + 27 + header[26] + sum(header[27 : 27 + header[26]]) if len(header) > 26 else None
    parts = []
    for start, stop in _stretches(starts, size):
        end = _read(file, max(start, stop - LONGEST_PAGE), min(LONGEST_PAGE, stop - start))
        last_page = end[end.rfind(b"OggS") :]
        cut = len(last_page) > 5 and not last_page[5] & OGG_LAST
        parts.append(Part(start, stop, notes={"truncated": "the stream ends before its last page"} if cut else {}))
    return parts or [Part(0, size)]


def _mp3_parts(file: BinaryIO, start: int, size: int) -> list[Part]:
    """Parts begin at frames that hold counts, and where such counts end but more frames follow."""
    starts = {start: None}  # to the number of bytes that the part's own header says
    for at in _find(file, XING_FRAME):
        header = _read(file, at, LONGEST_PATTERN)
        name = max(header.find(b"Xing"), header.find(b"Info"))
        flags, frames, count = struct.unpack(">III", header[name + 4 : name + 16].ljust(12, b"\0"))
        known = flags & HAS_FRAMES and frames
        starts[at] = (count if flags & HAS_BYTES else 0) if known else None
        end = at + count
        if starts[at] and end < size and _begins_frame(_read(file, end, 2)):
            starts.setdefault(end, None)
    return [Part(at, stop, has_length=starts[at] is not None) for at, stop in _stretches(sorted(starts), size)]


def _begins_frame(content: bytes) -> bool:
    return len(content) == 2 and content[0] == 0xFF and content[1] >= 0xE2


# ---- containers of chunks --------------------------------------------------------


class Layout(NamedTuple):
    """How a container lays out its chunks."""

    first: int  # offset of the first chunk
    header: str  # struct of a chunk's name and size
    data: bytes  # name of the chunk that holds the samples
    besides: int = 0  # bytes of that chunk that are no samples
    size_of_header: int = 0  # where it counts in a chunk's size
    alignment: int = 2


AU = b".snd"  # no chunks: offset and size of the data follow the name
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
LAYOUTS = {
    b"RIFF": Layout(12, "<4sI", b"data"),
    b"RIFX": Layout(12, ">4sI", b"data"),
    b"RF64": Layout(12, "<4sI", b"data"),
    b"FORM": Layout(12, ">4sI", b"SSND", besides=8),
    b"caff": Layout(8, ">4sQ", b"data", besides=4, alignment=1),
    b"riff": Layout(40, "<16sQ", W64_DATA, size_of_header=24, alignment=8),
    AU: Layout(0, ">4s4xI", b"", alignment=1),
}
NO_LENGTH = {
    "I": 0x7F000000 - 8,
    "Q": 0x7F00000000000000,
}  # from here on a size beyond the file's stands for any length
LARGEST = {"I": 0xFFFFFFFF, "Q": 0xFFFFFFFFFFFFFFFF}
SMALLEST_REMAINDER = 256  # bytes after the last chunk; padding and an ID3v1 tag are shorter


class Data(NamedTuple):
    """Where a container's samples begin, how many bytes its header says they are, and where and how it says so."""

    start: int
    said: int
    place: int
    form: str
    layout: Layout


def _chunk_parts(file: BinaryIO, size: int) -> list[Part]:
    parts, start = [], 0
    while data := _find_data(file, start, size):
        held, said = (max(0, count - data.layout.besides) for count in (size - data.start, data.said))
        end = _after_chunks(file, data.start + max(0, data.said), size, data.layout)
        unsaid = not said and held and size - end >= SMALLEST_REMAINDER
        if unsaid or said > held:
            length = min(size - data.start + data.layout.size_of_header, LARGEST[data.form[-1]])
            streamed = unsaid or said >= NO_LENGTH[data.form[-1]]
            says = f"{said} bytes of audio" + (", which stands for any length" if streamed else "")
            notes = {"streamed" if streamed else "truncated": f"the header says {says}; the file holds {held} bytes"}
            return [*parts, Part(start, size, {data.place - start: struct.pack(data.form, length)}, notes=notes)]
        if size - end < SMALLEST_REMAINDER:
            return [*parts, Part(start, end)]
        joined = _read(file, end, 4) in LAYOUTS
        ignored = f"the header says {said} bytes of audio, {size - end} more follow that are none by any header"
        parts.append(Part(start, end, notes={} if joined else {"bytes ignored": ignored}))
        if not joined:
            return parts
        start = end
    return parts or [Part(0, size)]


def _find_data(file: BinaryIO, start: int, size: int) -> Data | None:
    """None where there are no samples, or where the container is of another kind."""
    magic = _read(file, start, 4)
    if magic == AU:
        offset, said = struct.unpack(">II", _read(file, start + 4, 8).ljust(8, b"\0"))
        return Data(start + offset, said, start + 8, ">I", LAYOUTS[AU]) if start + offset <= size else None
    layout, long_size = LAYOUTS.get(magic), None
    for name, body, length in _chunks(file, start + layout.first, size, layout) if layout else ():
        if name == layout.data:
            form = layout.header[0] + layout.header[-1]
            place = body - struct.calcsize(form)
            return Data(body, *(long_size or (length, place, form)), layout)
        if name == b"ds64":  # of RF64, where the size of the data chunk is unused
            said = struct.unpack("<Q", _read(file, body + 8, 8).ljust(8, b"\0"))[0]
            long_size = said, body + 8, "<Q"
    return None


def _chunks(file: BinaryIO, at: int, size: int, layout: Layout) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset of the content and its size, of chunks for as long as there are any; the size may be wrong."""
    header = struct.calcsize(layout.header)
    while at + header <= size:
        name, length = struct.unpack(layout.header, _read(file, at, header))
        if not _is_name(name[:4]):
            return
        length -= layout.size_of_header
        yield name, at + header, length
        if length < 0:
            return
        at = _next_chunk(file, at + header + length, layout)


def _after_chunks(file: BinaryIO, at: int, size: int, layout: Layout) -> int:
    """Where the chunks end that follow the samples, which end at `at`."""
    at = _next_chunk(file, at, layout)
    for name, body, length in _chunks(file, at, size, layout):
        if name[:4] in LAYOUTS or not 0 <= length <= size - body:
            break
        at = _next_chunk(file, body + length, layout)
    return min(at, size)


def _next_chunk(file: BinaryIO, at: int, layout: Layout) -> int:
    """Where the chunk begins that follows one which ends at `at`: chunks are padded, but not by every program."""
    return at if _is_name(_read(file, at, 4)) else at + -at % layout.alignment


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)
