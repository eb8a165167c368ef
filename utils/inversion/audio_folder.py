"""A recovery's results as a folder that Hugging Face's `datasets` reads (its builder `audiofolder`).

The audio files lie as in the run's folder; `metadata.parquet` has a row a clip and method: `file_name` (the
reconstruction), `original_file_name`, the numbers of results.jsonl, and the latents.
"""

import shutil
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.inversion.latents import load_latents
from utils.runs.files import atomic_path, read_jsonl

METADATA = "metadata.parquet"
PATHS = {"reconstruction": "file_name", "original": "original_file_name"}


def write_audio_folder(run: Path, folder: Path) -> int:
    """Copy the audio and write metadata.parquet.

    Args:
        run: the folder that latent_vector_recovery.py wrote.
        folder: made; what is in it is written over.

    Returns:
        The number of rows. Columns are those of results.jsonl with `PATHS` renamed, and `z` and `z_true`, float32
        lists `[W][latent_dim]` (null where not known), without `latents`, the path of the npz.

    Raises:
        UserError: where there is no result, a file is missing or damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("dataset: needs the package pyarrow; `make setup-export` installs it") from error
    rows = [_row(run, result, folder) for result in read_jsonl(run / "results.jsonl")]
    if not rows:
        raise UserError(f"--recovery {run}: no results.jsonl with a result in it; latent_vector_recovery.py writes one")
    table = pyarrow.Table.from_pylist(rows)
    for name in ("z", "z_true"):
        latents = pyarrow.array([row[name] for row in rows], pyarrow.list_(pyarrow.list_(pyarrow.float32())))
        table = table.set_column(table.column_names.index(name), name, latents)
    with atomic_path(folder / METADATA) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    return len(rows)


def _row(run: Path, result: dict[str, Any], folder: Path) -> dict[str, Any]:
    latents = load_latents(run / result["latents"])
    row = {
        PATHS[name]: result[name] for name in PATHS
    }  # first: datasets 5.2 gives file_name to the first of its columns
    row |= {name: value for name, value in result.items() if name not in (*PATHS, "latents")}
    for name in PATHS.values():
        target = folder / row[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(run / row[name], target)
        except OSError as error:
            raise UserError(f"{run / row[name]}: cannot be copied to {folder}: {error.strerror}") from error
    z_true = None if latents.z_true is None else latents.z_true.tolist()
    return row | {"z": latents.z.tolist(), "z_true": z_true}
