"""One run at a time writes into a folder."""

import fcntl
import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from utils.errors import UserError

LOCK = ".lock"
_held: dict[Path, int] = {}  # file descriptors by the folders that this process holds


def hold(folder: Path) -> None:
    """Locks a folder until `release_all`, or until this process ends, however it ends.

    The lock is the operating system's, on the file .lock: it does not outlive its holder. The file says who holds it.

    Raises:
        UserError: where another process holds it, naming host, process and time.
        OSError: where the file cannot be made.
    """
    folder = folder.resolve()
    while folder not in _held:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode(errors="replace")
            os.close(descriptor)
            raise UserError(f"--output {folder}: {_describe(holder)}; wait for it, or give another --output") from None
        except OSError as error:  # a file system without locks
            print(f"note: {folder}: cannot be locked against a second run: {error.strerror}", file=sys.stderr)
        if not _is_there(folder / LOCK, descriptor):  # its last holder has just removed it
            os.close(descriptor)
            continue
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": f"{datetime.now(UTC):%F %T} UTC"}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        _held[folder] = descriptor


def release_all() -> None:
    """Unlocks every folder that this process holds."""
    while _held:
        folder, descriptor = _held.popitem()
        (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)


def _is_there(path: Path, descriptor: int) -> bool:
    return path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor))


def _describe(holder: str) -> str:
    try:
        facts = json.loads(holder)
        return f"process {facts['process']} on {facts['host']} has been writing into it since {facts['since']}"
    except (ValueError, TypeError, KeyError):  # it has not said so yet
        return "another process is writing into it"
