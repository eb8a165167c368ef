"""The manifest of a recovery: a Parquet table of all its results, which pandas, Polars, DuckDB and Spark read."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.runs.files import atomic_path

ROWS_TOGETHER = 1000
# Names of Arrow types; a list has an entry a window.
COLUMNS = {
    "source": "string",
    "source_sha256": "string",
    "method": "string",
    "kind": "string",
    "status": "string",  # `failed` or `not done` where there is no result
    "error": "string",
    "windows": "int32",
    "sample_rate": "int32",
    "objective": "float64",
    "log_mel_distance": "float64",
    "log_mel_distance_silence": "float64",
    "f0_error": "float64",
    "waveform_mse": "float64",
    "ssim": "float64",
    "snr_db": "float64",
    "match": "string",
    "z_mse": "float64",
    "found": "bool_",
    "space": "string",
    "prior_distance": "float64",
    "offset_ms": "float64",
    "gain_db": "float64",
    "notes": "string",
    "evaluations": "int64",
    "seconds": "float64",
    "window_objective": "list<float64>",
    "z": "list<list<float32>>",
    "z_true": "list<list<float32>>",
    "latents": "string",
    "original": "string",
    "reconstruction": "string",
}


def require_pyarrow(what: str = "--manifest", setup: str = "make setup-ray") -> None:
    """Raises a UserError where pyarrow is missing, which names what needs it and what installs it."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError(f"{what}: needs pyarrow, which is not installed: {setup}") from error


def latent_columns(z: Any, z_true: Any, objective: Any, source_sha256: str) -> dict[str, Any]:
    """The values of a row that the arrays of a result give; see `utils.inversion.latents`."""
    lists = {"z": z, "z_true": z_true, "window_objective": objective}
    lists = {name: None if value is None else value.tolist() for name, value in lists.items()}
    return lists | {"source_sha256": source_sha256}


def write_manifest(path: Path, rows: Iterable[dict[str, Any]], columns: Mapping[str, str] = COLUMNS) -> None:
    """Writes a Parquet file atomically, `ROWS_TOGETHER` rows in memory at a time.

    Args:
        path: of the file.
        rows: values by names in `columns`; what a row lacks is null.
        columns: names of Arrow types by name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow_type(pa, text)) for name, text in columns.items()])
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        waiting = []
        for row in rows:
            waiting.append({name: row.get(name) for name in columns})
            if len(waiting) == ROWS_TOGETHER:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting = []
        writer.write_table(pa.Table.from_pylist(waiting, schema))


def _arrow_type(pa: Any, text: str) -> Any:
    if text.startswith("list<"):
        return pa.list_(_arrow_type(pa, text.removeprefix("list<").removesuffix(">")))
    return getattr(pa, text)()
