"""Keras checkpoints that a person names on a command line."""

import os
import zipfile
from pathlib import Path

import keras
import numpy as np

from utils.errors import UserError, one_line
from utils.runs.files import atomic_path


def existing_file(file: Path, kind: str, remedy: str) -> Path:
    """The file, if it is there.

    Args:
        file: a path.
        kind: what it should hold, e.g. "encoder", for the message.
        remedy: how to get one, for the message.

    Raises:
        UserError: no such file.
    """
    if not os.path.isfile(file):  # which pathlib's is_file does not answer for too long a name
        raise UserError(f"{file}: no such {kind}; {remedy}")
    return file


def load_keras(file: Path, *, trust: bool = False) -> keras.Model:
    """Read a `.keras` file; the model is uncompiled.

    Args:
        file: its path.
        trust: run the Python code in it, if there is any: Lambda layers.

    Raises:
        UserError: where Keras cannot read it, or there is code in it that is not trusted.
    """
    try:
        return keras.saving.load_model(file, compile=False, safe_mode=not trust)
    except Exception as error:  # Keras raises many kinds for a damaged file
        if not trust and "safe_mode=False" in str(error):
            raise UserError(f"{file}: holds Python code (a Lambda layer), which is run only with --trust") from error
        raise UserError(f"{file}: not a readable .keras file ({one_line(error)})") from error


def write_in_half_precision(model: keras.Model, file: Path) -> None:
    """Write a `.keras` file of little more than half the size, atomically; it is read as any other.

    The model's weights are rounded to float16 in place; what the float32 of the file then holds in vain is deflated.
    """
    model.set_weights([weight.astype(np.float16).astype(np.float32) for weight in model.get_weights()])
    with atomic_path(file) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            parts = {part.filename: archive.read(part) for part in archive.infolist()}
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in parts.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=9)
