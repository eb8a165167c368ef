"""Latents on disk: `.npz` files without pickle that hold all it takes to trace and replay them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.inversion.store import read_npz
from utils.runs.files import atomic_path, to_json


@dataclass
class Latents:
    """The latents of one clip.

    Attributes:
        z: float32 `[W, latent_dim]`, one row per window; `[W, units]` in the space `projected`.
        generator: fingerprint (SHA-256) of the generator they belong to; empty where it is not known.
        method: how they were found (`utils.inversion.names.METHODS`), or `prior` for samples; empty if not known.
        seed: of the run.
        z_true: float32 `[W, latent_dim]`, where known.
        source: path of the audio file, empty for a sample.
        source_sha256: of the file, empty for a sample.
        options: the run's, JSON-able.
        provenance: what was done to the audio (`utils.audio.files.Clip`), JSON-able.
        objective: float64 `[W]`, at z.
        evaluations: int64 `[W]`.
        status: `[W]` texts, why the search ended.
        match: "exact" where the reconstruction is the clip up to the rounding of its samples, and z therefore the
            latent, else "approximate" (`utils.inversion.exactness`); empty where it is not known.
        curve: float32 `[W, E]`, best objective after each evaluation; shorter rows repeat their last.
        space: `z`, or `projected`: outputs of the generator's dense layer, which are no latents of its prior.
        prior_distance: float64 `[W]`, in the space `projected` how far z lies from what the prior gives.
        offset, gain_db: int64 and float64 `[W]`, with which the clip was inverted (`utils.inversion.align.place`); None
            where it was inverted as it is.
    """

    z: np.ndarray
    generator: str
    method: str
    seed: int
    z_true: np.ndarray | None = None
    source: str = ""
    source_sha256: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    objective: np.ndarray | None = None
    evaluations: np.ndarray | None = None
    status: np.ndarray | None = None
    curve: np.ndarray | None = None
    match: str = ""
    space: str = "z"
    prior_distance: np.ndarray | None = None
    offset: np.ndarray | None = None
    gain_db: np.ndarray | None = None


TEXTS = ("generator", "method", "source", "source_sha256", "match", "space")
RECORDS = ("options", "provenance")
REQUIRED = ("z", "generator", "method", "seed")


def stack_curves(curves: list[np.ndarray]) -> np.ndarray:
    """Loss curves of several lengths, each at least 1, as float32 `[W, E]`; the last value fills up a row."""
    longest = max(map(len, curves))
    return np.stack([np.pad(c, (0, longest - len(c)), mode="edge") for c in curves]).astype(np.float32)


def latent_arrays(latents: Latents) -> dict[str, np.ndarray]:
    """The members of a file of latents, by name. Fields that are None are left out.

    Raises:
        ValueError: z is not `[W, latent_dim]` and finite, or another field does not have its W rows.
    """
    problem = _problem(latents)
    if problem:
        raise ValueError(problem)
    members = {name: to_json(value) if name in RECORDS else value for name, value in vars(latents).items()}
    return {name: np.asarray(value) for name, value in members.items() if value is not None}


def save_latents(path: Path, latents: Latents) -> None:
    """Writes a `.npz` atomically; equal latents give equal bytes.

    Raises:
        ValueError: as `latent_arrays`.
    """
    arrays = latent_arrays(latents)
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def load_latents(path: Path) -> Latents:
    """Reads what `save_latents` or a recovery wrote, or a file of somebody else's that holds z and nothing more of it.

    Somebody else's z may be numbers of any type, and `[latent_dim]` for one window.

    Raises:
        UserError: when the file is missing, damaged or not one of these; the message says what was found.
    """
    try:
        members = read_npz(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged, or no latents file (.npz)") from error
    missing = [name for name in REQUIRED if name not in members]
    if missing == ["generator", "method", "seed"] and members["z"].dtype.kind in "fiu":
        members = {"z": np.atleast_2d(members["z"]).astype(np.float32), "generator": "", "method": "", "seed": 0}
    elif missing:
        raise UserError(f"{path}: no {', '.join(missing)} in it. Found: {', '.join(members) or 'nothing'}")
    fields = {name: value for name, value in members.items() if name in Latents.__dataclass_fields__}
    try:
        fields["seed"] = int(fields["seed"])
        fields |= {name: str(fields[name]) for name in TEXTS if name in fields}
        fields |= {name: json.loads(str(fields[name])) for name in RECORDS if name in fields}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged: {error}") from error
    latents = Latents(**fields)
    problem = _problem(latents)
    if problem:
        raise UserError(f"{path}: {problem}")
    return latents


def _problem(latents: Latents) -> str | None:
    z = latents.z
    if z.ndim != 2 or z.dtype != np.float32 or 0 in z.shape:
        return f"z must be float32 [W, latent_dim]. Received: {z.dtype} of shape {z.shape}"
    if not np.isfinite(z).all():
        return "z must be finite"
    if latents.z_true is not None and latents.z_true.shape != z.shape:
        return f"z_true must have z's shape {z.shape}. Received: {latents.z_true.shape}"
    for name in ("objective", "evaluations", "status", "curve", "prior_distance", "offset", "gain_db"):
        value = getattr(latents, name)
        if value is not None and len(value) != len(z):
            return f"{name} must have {len(z)} rows, as z has. Received: {len(value)}"
    return None
