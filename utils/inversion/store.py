"""The keyed result store: one record a finished unit of work, so that an interrupted run resumes.

A unit of work (a clip by one method, a cell of a table) has a name, which is its file's, and a key: all that its
result depends on. A record is written once and whole; one that was written under another key counts as absent.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.runs.files import atomic_path, remove_torn, to_json

KEY, FACTS = "key_sha256", "facts"


@dataclass(frozen=True)
class Record:
    """A finished unit of work.

    Attributes:
        facts: JSON-able.
        arrays: by name, without pickle.
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


class ResultStore:
    """Records as `folder/NAME.npz`; a name may hold slashes.

    Args:
        folder: made when the first record is written; also of an object store, see `utils.runs.files.open_path`.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, name: str) -> Path:
        """The file of a unit of work, there or not."""
        return self.folder / f"{name}.npz"

    def read(self, name: str, key: Mapping[str, Any]) -> Record | None:
        """The record of a unit of work; None where there is none, none of this key, or a damaged one."""
        try:
            members = read_npz(self.path(name))
            if str(members.pop(KEY)) == key_sha256(key):
                return Record(json.loads(str(members.pop(FACTS))), members)
        except (OSError, ValueError, KeyError):
            pass
        return None

    def write(self, name: str, key: Mapping[str, Any], record: Record) -> None:
        """Writes a record atomically; equal records give equal bytes.

        Raises:
            ValueError: where the facts hold NaN or an infinity.
        """
        path = self.path(name)
        remove_torn(path.parent)
        arrays = {KEY: np.asarray(key_sha256(key)), FACTS: np.asarray(to_json(record.facts)), **record.arrays}
        with atomic_path(path) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The members of an `.npz` file, without pickle.

    Raises:
        OSError: where the file cannot be read.
        ValueError: where it is damaged, or of another kind.
    """
    content = path.read_bytes()
    try:
        # A bad member of the archive shows only when it is read, hence all of them here.
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            members = {name: file[name] for name in file.files}
    except Exception as error:  # NumPy raises many kinds for damage, tokenize.TokenError among them
        raise ValueError(f"damaged, or no .npz file: {error}") from error
    if not all(isinstance(member, np.ndarray) for member in members.values()):  # NumPy gives bytes for what is no array
        raise ValueError("damaged, or no .npz file: a member is no array")
    return members


def key_sha256(key: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-able key, whatever the order of its entries; hexadecimal."""
    plain = json.loads(to_json(key))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of an array's values, for keys; hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
