"""Standard output and error that do not end a run, whatever became of them."""

import io
import os
import sys


class _Terminal(io.FileIO):
    """A stream whose reader may go away (`| head -1`): what is written afterwards is dropped."""

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def prepare_streams() -> None:
    """Makes `sys.stdout` and `sys.stderr` take every text.

    A character that their encoding lacks is written as an escape. Closed ones lead nowhere, so that no file gets their
    numbers; so do pipes whose reader is gone. Streams that are not the process's own stay as they are.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    for number, name in (1, "stdout"), (2, "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        if stream is not None:
            stream.flush()
        raw = _Terminal(number, "w", closefd=False)
        lines = name == "stderr" or raw.isatty()
        settings = (stream.encoding, stream.write_through) if stream else ("utf-8", False)
        encoding, at_once = settings
        buffer = io.BufferedWriter(raw)
        text = io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=lines, write_through=at_once)
        setattr(sys, name, text)
