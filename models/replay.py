"""Saved latents, rendered by a generator."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.generator import Generator
from models.projected import ProjectedGenerator
from utils.errors import UserError
from utils.inversion.latents import Latents, load_latents


def read_latents(path: Path, generator: Generator) -> Latents:
    """A file's latents, if they fit the generator.

    Raises:
        UserError: as `load_latents`, and for another latent size.
    """
    latents = load_latents(path)
    latent_dim = generator.latent_dim if latents.space == "z" else ProjectedGenerator(generator).latent_dim
    if latents.z.shape[1] != latent_dim:
        raise UserError(f"{path}: z must be [W, {latent_dim}] for {generator.name}. Received: {list(latents.z.shape)}")
    if latents.generator not in ("", generator.fingerprint):
        print(f"warning: {path}: its latents belong to another generator than {generator.name}", file=sys.stderr)
    return latents


class Piece(NamedTuple):
    """One WAV to write.

    Attributes:
        name: of the file, without suffix.
        z: float32 `[1, latent_dim]`, or a row for each window.
        provenance: which windows; None where there is one.
        space: of z, "z" or "projected".
        moved: offset and gain_db, `[1]` each, with which the clip was inverted.
    """

    name: str
    z: np.ndarray
    provenance: dict | None = None
    space: str = "z"
    moved: tuple[np.ndarray, np.ndarray] | None = None


def saved_pieces(name: str, latents: Latents) -> list[Piece]:
    """One clip joined from the windows that a file's rows are; of a file without windows, one clip a row."""
    if len(latents.provenance.get("window_starts", [])) == len(latents.z):
        moved = None if latents.offset is None else (latents.offset, latents.gain_db)
        return [Piece(name, latents.z, latents.provenance, latents.space, moved)]
    if len(latents.z) == 1:
        return [Piece(name, latents.z, space=latents.space)]
    return one_each(f"{name}_", latents.z, latents.space)


def one_each(prefix: str, z: np.ndarray, space: str = "z") -> list[Piece]:
    return [Piece(f"{prefix}{row:04d}", z[row : row + 1], space=space) for row in range(len(z))]
