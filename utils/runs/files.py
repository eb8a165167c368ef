"""Files that are whole or absent: atomic writing, JSON, JSON lines, CSV, SHA-256; and paths for TensorFlow."""

import contextlib
import csv
import errno
import functools
import hashlib
import io
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError, one_line

TEMPORARY = ".tmp-"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a text begins that a spreadsheet would compute


def open_path(text: str) -> Path:
    """A path; of a URL (`s3://bucket/run`) what acts like one, from universal_pathlib.

    Raises:
        UserError: for a URL where universal_pathlib or the protocol's own package is missing.
    """
    if "://" not in text:
        return Path(text)
    try:
        from upath import UPath

        path = UPath(text)
        path.fs  # noqa: B018  (imports what the protocol needs)
        return path
    except (ImportError, ValueError) as error:
        needs = "needs requirements-ray.txt (make setup-ray) and the fsspec package of its protocol"
        raise UserError(f"{text}: {needs}: {error}") from error


def is_local(path: Path) -> bool:
    """Whether a path is of this machine's file system, not of an object store."""
    return isinstance(path, str | Path)


def remove_torn(folder: Path) -> None:
    """Removes what a killed process left half-written in a folder (`atomic_path`), not below it."""
    if is_local(folder):
        for torn in folder.glob(f"{TEMPORARY}*"):
            torn.unlink(missing_ok=True)


def literal_path(path: str | Path) -> str:
    """A path that TensorFlow's checkpoint functions take literally, of a folder or of a checkpoint's prefix.

    They read a path as a pattern (TensorFlow 2.21: `a [1]/model.ckpt` "matches no files"), and text that is not UTF-8
    not at all. Such a path is replaced by a symbolic link in a temporary folder that lasts as long as the process.

    Args:
        path: a folder that exists, or the common prefix of a checkpoint's existing files, without the dot.

    Raises:
        UserError: where the links' own path would be of that kind: TMPDIR is.
    """
    if not _is_pattern(path):
        return str(path)
    target, links = Path(os.path.abspath(path)), Path(tempfile.mkdtemp(dir=_links().name))
    for file in [target] if target.is_dir() else target.parent.iterdir():
        if file == target or file.name.startswith(f"{target.name}."):
            (links / f"link{file.name.removeprefix(target.name)}").symlink_to(file)
    return str(links / "link")


def _is_pattern(path: str | Path) -> bool:
    return bool(re.search(r"[*?\[\]\\\udc80-\udcff]", str(path)))


@functools.cache
def _links() -> tempfile.TemporaryDirectory:
    if _is_pattern(tempfile.gettempdir()):
        raise UserError(f"TMPDIR={tempfile.gettempdir()}: must be a path of plain UTF-8 without any of * ? [ ] \\")
    return tempfile.TemporaryDirectory(prefix="audio-gan-links-")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary file name beside `path`, with its suffix; on success the file becomes `path`.

    A reader sees the old file or the whole new one, also after a power cut. When the block raises, the
    temporary file is removed and `path` stays as it was. Missing parent folders are made. In an object store
    (`open_path`) an object appears whole when it has been sent, so there the temporary file is a local one.
    """
    if not is_local(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            try:
                path.write_bytes(temporary.read_bytes())
            except Exception as error:  # each protocol has its own
                raise OSError(errno.EIO, f"cannot be written: {one_line(error)}", str(path)) from error
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}")
    try:
        with _errors_name(path):
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Within the block the error of a write, which has no file name, gets this file's, not a temporary one's."""
    try:
        yield
    except OSError as error:
        if error.filename is None or Path(error.filename).name.startswith(TEMPORARY):
            error.filename, error.filename2 = str(path), None
        raise


def to_json(obj: Any, indent: int | None = None) -> str:
    """JSON text of plain values, paths (as text) and NumPy scalars and arrays (as numbers and lists).

    Raises:
        ValueError: for NaN and infinities, which are not JSON.
        TypeError: for any other type.
    """
    return json.dumps(obj, indent=indent, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot be written as JSON. Received: {type(value).__name__}")


def _parse(text: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def write_json(path: Path, obj: Any) -> None:
    """Writes `obj` to `path` atomically, indented. Values and errors as in `to_json`."""
    text = to_json(obj, indent=2) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: when it is missing, unreadable or not JSON.
    """
    try:
        return _parse(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not a valid JSON file: {error}") from error


def append_jsonl(path: Path, *objects: Mapping[str, Any], on_disk: bool = True) -> None:
    """Adds objects as one line each. Values and errors as in `to_json`.

    A line that a killed process left half-written is removed first. Missing parent folders are made.

    Args:
        path: the file.
        objects: what is added.
        on_disk: wait until the lines would survive a power cut; without it they survive the process.
    """
    lines = b"".join(to_json(one).encode() + b"\n" for one in objects)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _errors_name(path), open(path, "ab+") as file:
        _mend_last_line(file)
        file.write(lines)
        file.flush()
        if on_disk:
            os.fsync(file.fileno())


def _mend_last_line(file) -> None:
    """Brings an open JSON-lines file to end in a whole line."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    tail = file.read().rpartition(b"\n")[2]
    try:
        _parse(tail)
        file.write(b"\n")
    except ValueError:
        file.truncate(size - len(tail))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, in order; none when there is no such file.

    A half-written last line, left by a killed process, is not read.

    Raises:
        UserError: when another line is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    *lines, tail = path.read_bytes().split(b"\n")
    objects = []
    for number, line in enumerate(lines, start=1):
        try:
            objects.append(_parse(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not valid JSON: {error}") from error
    with contextlib.suppress(ValueError):
        objects.append(_parse(tail))
    return objects


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Iterable[dict[str, Any]], columns: Iterable[str] = ()) -> None:
    """Write rows as CSV, atomically: the given columns, then what else the rows have.

    A text that a spreadsheet would compute, as the name of a file may be, gets an apostrophe before it.
    """
    rows, text = list(rows), io.StringIO()
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        is_formula = {name for name, value in row.items() if isinstance(value, str) and value.startswith(FORMULA)}
        writer.writerow({name: f"'{value}" if name in is_formula else value for name, value in row.items()})
    # A name that is not valid Unicode is shown with question marks, as on the page.
    write_text(path, text.getvalue().encode("utf-8", "replace").decode("utf-8"))


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
