"""How a script begins and ends: its streams, its exit code, and one line for what the user can fix."""

import contextlib
import errno
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from utils.errors import UserError, one_line
from utils.runs import locks
from utils.runs.terminal import prepare_streams

EXIT_OK, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 0, 2, 3, 130
# Of the disk, whatever the file; not of one file, by its name or size.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOENT)
# As libraries spell them out that hide their numbers: TensorFlow, HDF5.
FAULT_TEXTS = [os.strerror(n) for n in (*DISK_FAULTS, errno.EFBIG, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE)]


def parse_early(parse: Callable[[], Any]) -> Any:
    """Parses the command line before a script imports TensorFlow, which takes seconds; gives what `parse` gives.

    So `--help`, wrong usage and `--dry_run` end the process at once, as `run` does. The script's `main` parses again.
    """
    with _errors_in_one_line():
        args = parse()
        if not importlib.util.find_spec("tensorflow"):
            raise ModuleNotFoundError(name="tensorflow")
        return args


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs a script's `main` and ends the process with its exit code, 0 when it returns None; errors as below."""
    with _errors_in_one_line():
        code = main()
    sys.exit(code or EXIT_OK)


@contextlib.contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Within the block an error that the user can fix becomes one line on stderr and ends the process with code 2.

    That is a `UserError`, what the operating system refuses, a lack of memory, and a package that is not installed. An
    interrupt from the keyboard exits with 130, its message (`interrupts.resume_command`) on stderr.
    """
    prepare_streams()
    try:
        yield
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "error: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise
        print_error(message)
        sys.exit(EXIT_USAGE)
    finally:
        locks.release_all()


def _explain(error: Exception) -> str | None:
    """The line for an error that the user can fix; None for another."""
    if isinstance(error, UserError):
        return str(error)
    if fault := _system_fault(error):
        return f"{fault}; fix this and run the same command again with its --output, which resumes"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in ("models", "utils"):
        command = " ".join([".venv/bin/python", *sys.argv])
        return f"{sys.executable}: has no {error.name}; run `make setup`, then: {command}"
    # TensorFlow's error, which this module does not import
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return "--batch_size: out of memory; try a smaller one"
    return None


def _system_fault(error: Exception) -> str | None:
    """What the operating system refuses, where that is what an error says: with the file, if it names one."""
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, OSError) or type(error).__module__.startswith("tensorflow"):
        return one_line(error) if any(text in str(error) for text in FAULT_TEXTS) else None
    return None


def print_error(message: str) -> None:
    """Prints a message on stderr, in one line."""
    print("error:", " ".join(message.splitlines()), file=sys.stderr)
