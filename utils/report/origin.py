"""Where published lines come from: networks, precision, solver and commit, and what a page has to say of that."""

from collections.abc import Mapping, Sequence
from typing import Any

from utils.runs.environment import describe_environment

FACTS = ("generator_sha256", "encoder_sha256", "precision", "solver", "commit")
SHOWN = 12  # digits of a hash


def origin(networks: Any, *, precision: str = "float32", solver: str | None = None) -> dict[str, Any]:
    """What a study's line says of how it was made: hashes of the run's networks, `FACTS`, versions and hardware.

    Args:
        networks: a `models.networks.Networks`.
        precision: computed in.
        solver: of what was searched; None where nothing was.
    """
    named = ("generator", "encoder", "classifier", *networks.judges)
    hashes = {f"{name}_sha256": networks.sha256(name) for name in named}
    return hashes | {"precision": precision, "solver": solver} | describe_environment()


def origin_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """`FACTS` of a line: of a study, or of a table, whose facts are in its `protocol` and `environment`.

    A fact that is there and None does not apply, such as the solver of what searches nothing; one that the line lacks
    is left out.
    """
    parts = [part for name in ("protocol", "environment") if isinstance(part := line.get(name), Mapping)]
    known = {name: value for part in (line, *parts) for name, value in part.items()}
    return {name: known[name] for name in FACTS if name in known}


def origin_notes(files: Mapping[str, Sequence[Mapping[str, Any]]], page: str, fingerprint: str | None) -> list[str]:
    """What a page must say of lines that were not measured together, by one commit and with its generator.

    Args:
        files: lines by file.
        page: path of the generator that the page is about; lines that name another one are about that.
        fingerprint: of that generator as it is now; None where it is not to be had.

    Returns:
        Sentences in Markdown, none where all lines belong together.
    """
    commits: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    lacking: dict[str, list[str]] = {}
    for name, lines in files.items():
        for line in lines:
            origin = origin_of(line)
            for fact in FACTS:
                if fact not in origin:
                    _append(lacking, fact.removesuffix("_sha256"), name)
            if "commit" in origin:
                _append(commits, str(origin["commit"])[:SHOWN], name)
            made, path = origin.get("generator_sha256"), _generator_of(line)
            if fingerprint and made and made != fingerprint and path in (None, page.rstrip("/")):
                _append(others, made[:SHOWN], name)
    notes = []
    if others:
        notes.append(
            f"**Not of the generator in `{page}` as it is now ({fingerprint[:SHOWN]})**: {_listed(others)}; "
            "`make results` measures them again."
        )
    if len(commits) > 1:
        notes.append(f"**Measured by {len(commits)} commits**: {_listed(commits)}.")
    if lacking:
        notes.append(f"**Lines that do not say how they were made**: {_listed(lacking)}.")
    return notes


def _generator_of(line: Mapping[str, Any]) -> str | None:
    """The path of a line's generator."""
    protocol = line.get("protocol")
    path = protocol.get("generator") if isinstance(protocol, Mapping) else line.get("generator")
    return path and str(path).rstrip("/")


def _append(groups: dict[str, list[str]], key: str, name: str) -> None:
    names = groups.setdefault(key, [])
    if name not in names:
        names.append(name)


def _listed(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{key} ({', '.join(names)})" for key, names in groups.items())
