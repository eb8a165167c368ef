"""Keras checkpoints that a person names on a command line."""

import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from utils.options import UserError, one_line
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
    if not file.is_file():
        raise UserError(f"{file}: no such {kind}; {remedy}")
    return file


def load_keras(file: Path) -> keras.Model:
    """Read a `.keras` file; the model is uncompiled.

    Raises:
        UserError: where Keras cannot read it.
    """
    try:
        return keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises many kinds for a damaged file
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


def require_same_clips(flag: str, network: Any, generator: Any, instead: str = "") -> None:
    """A network must take the clips that the generator gives; both have num_samples, num_channels, sample_rate.

    Args:
        flag: the option that named the network, and its value.
        network: an `Encoder` or a `Classifier`.
        generator: a `Generator`.
        instead: what else the user could do, for the message.

    Raises:
        UserError: another length, number of channels or rate.
    """
    facts = ("num_samples", "num_channels", "sample_rate")
    takes, gives = ([getattr(x, fact) for fact in facts] for x in (network, generator))
    if takes != gives:
        raise UserError(
            f"{flag}: takes {takes[0]} samples of {takes[1]} channel(s) at {takes[2]} Hz, the generator gives "
            f"{gives[0]} of {gives[1]} at {gives[2]} Hz" + (f"; {instead}" if instead else "")
        )
