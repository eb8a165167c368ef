"""The folder where what can be computed again is kept between runs."""

import os
import tempfile
from pathlib import Path

NAME = "audio-gan-inversion"


def cache_folder() -> Path:
    """The project's folder in `$XDG_CACHE_HOME`, or in `~/.cache`; it need not exist, nor be writable.

    By the XDG Base Directory Specification a path that is not absolute counts as not set. A user without a home
    has it in the folder of temporary files.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if Path(given).is_absolute():
        return Path(given) / NAME
    try:
        return Path.home() / ".cache" / NAME
    except RuntimeError:
        return Path(tempfile.gettempdir()) / NAME
