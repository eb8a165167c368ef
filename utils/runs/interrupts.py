"""Ctrl-C: where it stops a run, what is kept, and the command that resumes the run."""

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm


class Interrupt:
    """Whether Ctrl-C was pressed."""

    asked = False


@contextlib.contextmanager
def on_interrupt(*, finish_step: bool) -> Iterator[Interrupt]:
    """Within the block Ctrl-C marks the `Interrupt`, and raises KeyboardInterrupt.

    The mark is for loops to look at: an exception that Python raises within a destructor is lost.

    Args:
        finish_step: the first Ctrl-C only marks, so that the step in hand is finished and saved; the second raises.
    """
    interrupt = Interrupt()

    def handle(*_) -> None:
        if finish_step and not interrupt.asked:
            interrupt.asked = True
            tqdm.write("saving after this step; Ctrl-C once more stops at once", file=sys.stderr)
            return
        interrupt.asked = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def resume_command(folder: Path, output: Path | None) -> str:
    """The sentence that ends an interrupted run.

    Args:
        folder: of the run.
        output: what `--output` named; None where the folder is a new numbered one.
    """
    name = Path(sys.argv[0]).name
    command = shlex.join([*(["python"] if name.endswith(".py") else []), name, *sys.argv[1:]])
    return f"Interrupted. To resume: {command}" + ("" if output else f" --output {shlex.quote(str(folder))}")
