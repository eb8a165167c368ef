"""Progress bars: twice a second on a terminal, twice a minute in a file or a pipe."""

import sys

from tqdm import tqdm


def progress_bar(title: str, total: int, *, unit: str = "clip", quiet: bool = False, **settings) -> tqdm:
    """A bar with the time left. Raise its `initial` by what was done before, so that it does not count as speed."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, desc=title, unit=unit, smoothing=0, mininterval=interval, disable=quiet, **settings)
