"""Arrays that can be computed again, kept in the cache; a damaged one counts as absent."""

import sys
from pathlib import Path

import numpy as np

from utils.errors import one_line
from utils.runs.files import atomic_path


def read_array(file: Path) -> np.ndarray | None:
    """The array of a file in the cache; None where there is none, or, with a line on stderr, a damaged one."""
    if not file.is_file():
        return None
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        print(f"warning: {file}: computed again: {one_line(error)}", file=sys.stderr)
        return None


def keep_array(file: Path, array: np.ndarray) -> None:
    """Writes an array into the cache; where that cannot be written, says so on stderr and does without."""
    try:
        with atomic_path(file) as temporary:
            np.save(temporary, array)
    except OSError as error:
        print(f"warning: {file}: not kept: {one_line(error)}", file=sys.stderr)
