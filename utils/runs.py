"""Runs and their records: numbered folders, files that are whole or absent, JSON lines, log, environment."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import secrets
import subprocess
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from utils.options import UserError

TEMPORARY = ".tmp-"
OPTIONS = "options.json"
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "numpy",
    "scipy",
    "librosa",
    "soundfile",
    "soxr",
    "scikit-learn",
    "scikit-image",
)


def output_folder(output: Path | None, parent: Path, description: str) -> Path:
    """The folder that `--output` names, made if need be, or else a new numbered one.

    Files that a killed process was writing into it (`atomic_path`) are removed.

    Raises:
        UserError: when the folder cannot be made or written to.
    """
    try:
        if output is None:
            return new_run(parent, description)
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output or parent}: cannot make this folder: {error.strerror}") from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise UserError(f"--output {output}: this folder cannot be written to")
    remove_torn(output)
    return output


def remove_torn(folder: Path) -> None:
    """Removes what a killed process left half-written in a folder (`atomic_path`), not below it."""
    for torn in folder.glob(f"{TEMPORARY}*"):
        torn.unlink()


def new_run(parent: Path, description: str) -> Path:
    """Makes the next folder `parent/NNNNN-description`, counting from 00000; safe among concurrent processes.

    Args:
        parent: made if need be.
        description: characters other than letters, digits and `. = _ -` become `_`; at most 60 are kept.
    """
    parent.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^\w.=-]+", "_", description)[:60]
    while True:
        taken = [int(m[1]) for p in parent.iterdir() if (m := re.fullmatch(r"(\d{5,})(-.*)?", p.name))]
        number = f"{max(taken, default=-1) + 1:05d}"
        # The bare number is the lock: only its maker may look for a run of this number and name the folder.
        claim = parent / number
        try:
            claim.mkdir()
        except FileExistsError:
            continue
        if any(parent.glob(f"{number}-*")):
            claim.rmdir()
            continue
        return claim.rename(parent / f"{number}-{slug}")


def keep_options(
    folder: Path,
    options: Mapping[str, Any],
    *,
    changeable: Collection[str] = (),
    positional: Collection[str] = (),
    write: bool = True,
) -> None:
    """A run is continued with the options it began with: written to options.json, or compared with those there.

    Args:
        folder: of the run, see `output_folder`.
        options: by name; values as in `to_json`. One called NAME_sha256 says what the file of option NAME holds.
        changeable: names of those that may have another value when the run is continued.
        positional: names of those that are given without a flag.
        write: False where another process of the same run writes.

    Raises:
        UserError: for another value than the run began with, or a folder of something else: neither empty nor
            with an options.json.
    """
    path = folder / OPTIONS
    if not path.exists():
        if not write:
            return
        if any(not other.name.startswith(TEMPORARY) for other in folder.iterdir()):
            raise UserError(f"--output {folder}: is neither empty nor the folder of a run (no {OPTIONS})")
        write_json(path, {**options, "environment": environment()})
    before, now = read_json(path), json.loads(to_json(options))
    for name, value in now.items():
        if name not in changeable and before.get(name) != value:
            flag = name.upper() if name in positional else "--" + name.removesuffix("_sha256")
            kind = "sha256 " if name.endswith("_sha256") else ""
            raise UserError(
                f"{flag}: {folder} began with {kind}{before.get(name)}. Received: {kind}{value}. Give the same, "
                "or another --output"
            )


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary file name beside `path`, with its suffix; on success the file becomes `path`.

    A reader sees the old file or the whole new one, also after a power cut. When the block raises, the
    temporary file is removed and `path` stays as it was. Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def append_jsonl(path: Path, obj: dict[str, Any]) -> None:
    """Adds one object as one line and waits until it is on the disk. Values and errors as in `to_json`.

    A line that a killed process left half-written is removed first. Missing parent folders are made.
    """
    line = to_json(obj).encode() + b"\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        _mend_last_line(file)
        file.write(line)
        file.flush()
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


def environment() -> dict[str, Any]:
    """What a result depends on besides its options: JSON-able; imports none of the packages it names.

    Returns:
        `date` (UTC, ISO 8601), `commit` and `dirty` (tracked files changed; both None outside of a checkout),
        `python`, `platform`, `versions` (installed packages only), and `hardware`: `cpu`, `cores` (usable by
        this process) and `gpus` (NVIDIA's names, empty without a driver).
    """
    commit, dirty = _commit()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": _versions(),
        "hardware": {"cpu": _cpu(), "cores": _cores(), "gpus": _gpus()},
    }


def _output_of(*command: str) -> str | None:
    """What a command prints, or None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit(root: Path = ROOT) -> tuple[str | None, bool | None]:
    git = ("git", "-C", str(root))
    # A copy without .git may lie inside some other repository, whose commit says nothing about it.
    top = _output_of(*git, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None, None
    changes = _output_of(*git, "status", "--porcelain", "--untracked-files=no")
    return _output_of(*git, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _gpus() -> list[str]:
    names = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines() if names else []


class _Tee:
    """A text stream that writes to the terminal and, whole lines only, to a log."""

    def __init__(self, terminal: TextIO, log: TextIO):
        self._terminal, self._log = terminal, log
        self._line = ""
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)

    def write(self, text: str) -> int:
        self._terminal.write(text)
        with self._lock:
            if self._log is not None:
                *whole, rest = (self._line + text).split("\n")
                for line in whole:
                    self._log.write(_last_state(line).rstrip("\r") + "\n")
                self._line = _last_state(rest)
        return len(text)

    def detach_log(self) -> None:
        """Logs what stands on the unfinished line; from here on only the terminal is written to."""
        with self._lock:
            if self._line.strip():
                self._log.write(self._line.rstrip("\r") + "\n")
            self._log = None


def _last_state(line: str) -> str:
    """What a terminal shows of a line rewritten with carriage returns; those at its end are kept."""
    text = line.rstrip("\r")
    return text.rpartition("\r")[2] + line[len(text) :]


@contextlib.contextmanager
def tee_log(path: Path) -> Iterator[None]:
    """Within the block, what Python prints on stdout and stderr is also appended to `path`, line by line.

    Of a line that a progress bar rewrites with carriage returns only its last state is kept. The traceback of
    an error that ends the block is logged too. Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1) as log:
        tees = _Tee(sys.stdout, log), _Tee(sys.stderr, log)
        try:
            with contextlib.redirect_stdout(tees[0]), contextlib.redirect_stderr(tees[1]):
                yield
        except Exception:
            log.write(traceback.format_exc())
            raise
        finally:
            for tee in tees:
                tee.detach_log()
