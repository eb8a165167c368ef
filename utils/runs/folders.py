"""The folder of a run: its number, the options it began with, its log."""

import contextlib
import json
import re
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from utils.errors import UserError
from utils.runs import locks
from utils.runs.environment import describe_environment
from utils.runs.files import TEMPORARY, read_json, remove_torn, to_json, write_json
from utils.runs.locks import LOCK

OPTIONS = "options.json"


def output_folder(output: Path | None, parent: Path, description: str) -> Path:
    """The folder that `--output` names, made if need be, or else a new numbered one; locked (`locks.hold`).

    Files that a killed process was writing into it (`atomic_path`) are removed.

    Raises:
        UserError: when the folder cannot be made or written to, or another process writes into it.
    """
    try:
        if output is None:
            output = new_run(parent, description)
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output or parent}: cannot make this folder: {error.strerror}") from error
    try:
        locks.hold(output)
    except OSError as error:
        raise UserError(f"--output {output}: this folder cannot be written to: {error.strerror}") from error
    remove_torn(output)
    return output


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
        if any(not other.name.startswith((TEMPORARY, LOCK)) for other in folder.iterdir()):
            raise UserError(f"--output {folder}: is neither empty nor the folder of a run (no {OPTIONS})")
        write_json(path, {**options, "environment": describe_environment()})
    before, now = read_json(path), json.loads(to_json(options))
    for name, value in now.items():
        if name not in changeable and before.get(name) != value:
            flag = name.upper() if name in positional else "--" + name.removesuffix("_sha256")
            kind = "sha256 " if name.endswith("_sha256") else ""
            raise UserError(
                f"{flag}: {folder} began with {kind}{before.get(name)}. Received: {kind}{value}. Give the same, "
                "or another --output"
            )


def require_folder(folder: Path) -> None:
    """Raises a UserError where the folder of a run, which `keep_options` began, is not there any more.

    Writers make missing folders: on a disk that was taken away they would write beside what was done.
    """
    if not (folder / OPTIONS).exists():
        raise UserError(
            f"{folder}: has vanished (no {OPTIONS} there any more); bring it back and run the same command "
            "again, which resumes"
        )


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
