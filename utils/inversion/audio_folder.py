"""A recovery's results as a folder that Hugging Face's `datasets` reads (its builder `audiofolder`).

The audio files lie as in the run's folder; `metadata.parquet` is the manifest of `utils.report.manifest` with
`file_name` (the reconstruction) and `original_file_name` in place of its own paths.
"""

import shutil
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.inversion.latents import load_latents
from utils.report import manifest
from utils.runs.files import read_jsonl

METADATA = "metadata.parquet"
PATHS = {"reconstruction": "file_name", "original": "original_file_name"}
# First file_name: datasets 5.2 gives that name to the first column.
COLUMNS = dict.fromkeys(PATHS.values(), "string") | {
    name: kind for name, kind in manifest.COLUMNS.items() if name not in (*PATHS, "latents", "error")
}


def write_audio_folder(run: Path, folder: Path) -> int:
    """Copy the audio and write metadata.parquet.

    Args:
        run: the folder that latent_vector_recovery.py wrote.
        folder: made; what is in it is written over.

    Returns:
        The number of rows.

    Raises:
        UserError: where there is no result, a file is missing or damaged, or pyarrow is not installed.
    """
    manifest.require_pyarrow("dataset", "make setup-export")
    rows = [_row(run, result, folder) for result in read_jsonl(run / "results.jsonl")]
    if not rows:
        raise UserError(f"--recovery {run}: no results.jsonl with a result in it; latent_vector_recovery.py writes one")
    manifest.write_manifest(folder / METADATA, rows, COLUMNS)
    return len(rows)


def _row(run: Path, result: dict[str, Any], folder: Path) -> dict[str, Any]:
    latents = load_latents(run / result["latents"])
    row = result | {PATHS[name]: result[name] for name in PATHS}
    for name in PATHS:
        target = folder / result[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(run / result[name], target)
        except OSError as error:
            raise UserError(f"{run / result[name]}: cannot be copied to {folder}: {error.strerror}") from error
    return row | manifest.latent_columns(latents.z, latents.z_true, latents.objective, latents.source_sha256)
