"""Where lines of results come from: networks, precision, solver and commit."""

from collections.abc import Mapping
from typing import Any

from utils.runs.environment import describe_environment

FACTS = ("generator_sha256", "encoder_sha256", "precision", "solver", "commit")


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
