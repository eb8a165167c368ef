"""The clips of a recovery: files, and the generator's own samples. Needs no network, so that `--dry_run` is quick."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.audio.decoding import SUFFIXES
from utils.audio.files import find_audio
from utils.errors import UserError

FILE, OWN_SAMPLE = "file", "own sample"


@dataclass(frozen=True)
class Source:
    """A clip to invert: a file, or the generator's own sample number `index`.

    Attributes:
        name: in results.
        folder: of its results, relative to the run's.
    """

    name: str
    folder: str
    path: Path | None = None
    index: int | None = None

    @property
    def kind(self) -> str:
        return OWN_SAMPLE if self.path is None else FILE


def own_samples(n: int) -> list[Source]:
    """The first n samples of the generator's prior, by the run's seed."""
    return [Source(f"own sample {i}", f"own_samples/{i:03}", index=i) for i in range(n)]


def files_below(base: Path, files: Iterable[Path]) -> tuple[list[Source], list[tuple[str, str]]]:
    """Files, named as from the folder `base`; and (name, reason) of those whose name cannot be written down."""
    sources, nameless = [], []
    for file in files:
        name = file.relative_to(base).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError:
            nameless.append((_shown(file.relative_to(base)), "the name is not valid UTF-8: rename the file"))
        else:
            sources.append(Source(name, f"clips/{name}", path=file))
    return sources, nameless


def find_files(
    inputs: Sequence[Path], output: Path, limit: int | None = None
) -> tuple[list[Source], list[tuple[str, str]]]:
    """The audio files that inputs name, those of a folder in sorted order, each once; named as from the folder that all
    inputs have in common.

    Args:
        inputs: audio files, and folders of them.
        output: where the run writes.
        limit: take only the first ones.

    Returns:
        The clips, and (name, reason) of what cannot be read.

    Raises:
        UserError: for an input that is not there or is all there is and no audio, for a folder without audio, or one
            that `output` lies in.
    """
    roots = [Path(os.path.abspath(root)) for root in inputs]
    base = Path(os.path.commonpath([root if root.is_dir() else root.parent for root in roots]))
    files: dict[Path, None] = {}
    problems: dict[Path, str] = {}
    for given, root in zip(inputs, roots, strict=True):
        try:
            some, bad = find_audio(given)
        except UserError as error:
            if len(inputs) == 1 or not given.exists():
                raise
            some, bad = [], [(root, str(error).removeprefix(f"{given}: "))]  # fails alone
        if not some and not bad:
            raise UserError(f"{given}: no audio in this folder (looked for {' '.join(sorted(SUFFIXES))})")
        if root.is_dir() and output.resolve().is_relative_to(root.resolve()):
            raise UserError(f"--output {output}: lies inside INPUT, whose clips it would join; choose another folder")
        files |= dict.fromkeys(Path(os.path.abspath(path)) for path in some)
        problems |= {Path(os.path.abspath(path)): reason for path, reason in bad}
    sources, nameless = files_below(base, list(files)[:limit])
    return sources, [(_shown(path.relative_to(base)), reason) for path, reason in problems.items()] + nameless


def _shown(path: Path) -> str:
    """A path as text, also where its bytes are none."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
