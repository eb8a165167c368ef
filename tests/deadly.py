"""The tiny generator, for tests of workers that die: reading a `deadly.wav` that is not empty kills the process."""

import os
import signal

from tests.tiny import Tiny
from utils.audio import files


def generator() -> Tiny:
    """As `tests.tiny:generator`."""
    if not hasattr(files.load_clip, "deadly"):
        files.load_clip = _deadly(files.load_clip)
    return Tiny()


def _deadly(load_clip):
    def load(path, *arguments):
        if path.name == "deadly.wav" and path.stat().st_size:
            os.kill(os.getpid(), signal.SIGKILL)
        return load_clip(path, *arguments)

    load.deadly = True
    return load
