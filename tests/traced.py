"""Whether the measured numbers of a page are those of published lines."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

GENERATED = re.compile(r"<!-- (\w+) -->.*?<!-- /\1 -->", re.DOTALL)  # made from the lines, and compared elsewhere
CODE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)  # and the targets of links
MEASURED = re.compile(r"(?<![\w.:])-?\d+\.\d+(?![\w.]*\d)|(?<![\w.:])-?\d+(?= %)")
HIDDEN = ("curve", "versions", "hardware", "thresholds")  # nothing of them is said on a page
LARGEST = 1e12


def values(path: Path) -> Iterator[float]:
    """Every number in the lines of a file."""
    for line in path.read_text().splitlines():
        yield from _numbers(json.loads(line))


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        if abs(value) < LARGEST:
            yield float(value)
    elif isinstance(value, dict):
        for name, entry in value.items():
            if name not in HIDDEN:
                yield from _numbers(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _numbers(entry)


def untraced(text: str, files: Iterable[Path], allowed: Iterable[str] = ()) -> list[str]:
    """The numbers of a page that are in no line of the files, in the order of the page.

    A number is one with a decimal point, or a percentage; outside of code, links and generated blocks. It is traced
    where a line has it, or a hundredth of it, or the rest to one (an error for an accuracy), rounded as on the page.

    Args:
        text: of the page, Markdown.
        files: of lines, as in results/published.
        allowed: numbers, as they are written, that are no measurements of ours, such as the paper's.
    """
    known = sorted({value for path in files for value in values(path)})
    known = sorted({*known, *(100 * value for value in known), *(100 * (1 - value) for value in known)})
    plain = CODE.sub(" ", GENERATED.sub(" ", text))
    found = [match[0] for match in MEASURED.finditer(plain)]
    return [number for number in found if number not in set(allowed) and not _is_near(float(number), number, known)]


def _is_near(value: float, text: str, known: list[float]) -> bool:
    """Whether one of the sorted values rounds to the text."""
    decimals = len(text.partition(".")[2])
    margin = 0.5 * 10**-decimals * (1 + 1e-9) + 1e-12
    low, high = 0, len(known)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if known[middle] < value - margin else (low, middle)
    return low < len(known) and math.fabs(known[low] - value) <= margin
