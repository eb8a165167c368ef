"""Progress bars: twice a second on a terminal, twice a minute in a file or a pipe."""

import sys
import threading

from tqdm import tqdm

SECONDS = (2, 5)  # after which a `MovingBar` is redrawn: on a terminal, and in a file or a pipe


def progress_bar(title: str, total: int, *, unit: str = "clip", quiet: bool = False, **settings) -> tqdm:
    """A bar with the time left. Raise its `initial` by what was done before, so that it does not count as speed."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, desc=title, unit=unit, smoothing=0, mininterval=interval, disable=quiet, **settings)


class MovingBar(tqdm):
    """A bar of steps that take long: it is redrawn every few seconds also while nothing is counted, so that the time
    moves, and what `set_postfix_str` said last stays.

    Args:
        title: of what is counted.
        total: clips.
        quiet: draw nothing.
    """

    def __init__(self, title: str, total: int, *, quiet: bool = False):
        terminal = sys.stderr.isatty()
        self._over = threading.Event()
        super().__init__(
            total=total, desc=title, unit="clip", smoothing=0, mininterval=0.5 if terminal else 5, disable=quiet
        )
        if not quiet:
            threading.Thread(target=self._redraw, args=(SECONDS[not terminal],), daemon=True).start()

    def _redraw(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            self.refresh()

    def close(self) -> None:
        self._over.set()
        super().close()
