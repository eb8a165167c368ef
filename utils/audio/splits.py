"""The validation clips in two halves: whatever is chosen by a score uses `selection`, published figures use `report`.

A speaker is in one half only. The speakers of datasets/splits/ are where its lists have them, in every data set; of
others a hash of the name decides.
"""

import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from utils.bundled import HOME
from utils.runs.files import atomic_path

HALVES = ("selection", "report")
LISTS = HOME / "datasets" / "splits"


def speaker_of(name: str | Path) -> str:
    """0ab3b47d of Speech Commands' `zero/0ab3b47d_nohash_1.wav`; any other file is a speaker of its own."""
    return Path(name).stem.split("_nohash_")[0]


def half_of(speaker: str) -> str:
    """The half of the validation clips in which this speaker is."""
    return _listed_speakers().get(speaker) or HALVES[_hash(speaker) % 2]


def halve(names: Iterable[str]) -> dict[str, list[str]]:
    """Divide clips `DIGIT/SPEAKER_nohash_N.wav` into halves, speakers whole and digits as equal as that allows.

    From the speaker of most clips to that of fewest (equals by a hash of the name), each goes where the differences
    of the digits' counts, squared and summed, become smaller.

    Returns:
        The sorted names of each half of `HALVES`.
    """
    clips = defaultdict(list)
    for name in sorted(names):
        clips[speaker_of(name)].append(name)
    halves, surplus = {half: [] for half in HALVES}, Counter()  # how many more the first half has, by digit
    for speaker in sorted(clips, key=lambda speaker: (-len(clips[speaker]), _hash(speaker))):
        own = Counter(name.split("/")[0] for name in clips[speaker])
        in_common = sum(surplus[digit] * own[digit] for digit in own)
        first = in_common < 0 or in_common == 0 and _hash(speaker) % 2 == 0
        halves[HALVES[not first]] += clips[speaker]
        for digit in own:
            surplus[digit] += own[digit] if first else -own[digit]
    return {half: sorted(names) for half, names in halves.items()}


def write_lists(validation_list: str | Path, folder: str | Path = LISTS) -> None:
    """Write selection.txt and report.txt, the halves of the clips that a Speech Commands validation_list.txt names."""
    for half, names in halve(Path(validation_list).read_text().split()).items():
        with atomic_path(Path(folder) / f"{half}.txt") as temporary:
            temporary.write_text("\n".join(names) + "\n")


@functools.cache
def _listed_speakers() -> dict[str, str]:
    lists = {half: (LISTS / f"{half}.txt").read_text().split() for half in HALVES}
    return {speaker_of(name): half for half, names in lists.items() for name in names}


def _hash(speaker: str) -> int:
    return int(hashlib.sha256(f"half of {speaker}".encode()).hexdigest(), 16)
