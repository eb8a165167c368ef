"""What a run of latent_vector_recovery.py tells at its end: its tables, its page, and medians on the terminal."""

from statistics import median
from typing import Any

from utils.inversion.exactness import EXACT
from utils.inversion.folder import FILE, OWN_SAMPLE, RecoveryFolder
from utils.report.manifest import write_manifest
from utils.report.page import write_page
from utils.runs.files import read_json
from utils.runs.folders import OPTIONS


def write_reports(settings: dict[str, Any], folder: RecoveryFolder) -> None:
    """Writes results.jsonl, summary.csv, and as asked for manifest.parquet or index.html.

    Args:
        settings: of the run, as it keeps them.
        folder: with its results.
    """
    folder.write_tables()
    if settings["manifest"]:
        write_manifest(folder.folder / "manifest.parquet", folder.manifest_rows())
    if settings["store"]:
        return
    environment = read_json(folder.folder / OPTIONS)["environment"]
    effort = {
        "gradient": f"at most {settings['max_iter']} iterations, {settings['restarts']} start(s)",
        "hybrid": f"at most {settings['hybrid_max_iter']} iterations",
    }
    hashes = {name: settings[f"{name}_sha256"] for name in ("generator", "encoder", "classifier")}
    facts = {name: f"{settings[name]} ({sha256[:12]})" for name, sha256 in hashes.items() if sha256}
    if settings["space"] != "z":
        facts["space"] = "projected: outputs of the generator's dense layer, which are no latents of its prior"
    facts |= {
        "objective": settings["objective"],
        "objective of own samples": settings["own_objective"] or "–",
        "solver": settings["solver"],
        **{method: effort[method] for method in folder.methods if method in effort},
        "window": settings["window"],
        "alignment": settings["alignment"] + (", then offset and gain by --align" if settings["align"] else ""),
        "seed": str(settings["seed"]),
        "commit": str(environment["commit"])[:12],
        "hardware": environment["hardware"]["cpu"],
    }
    title = f"Recovery of {settings['input'].name}"
    write_page(folder.folder, title, folder.results(), facts, failures=folder.failures)


def print_medians(results: list[dict[str, Any]]) -> None:
    """A line for each method: medians of own samples and of files, and how many were found exactly."""
    for method in dict.fromkeys(result["method"] for result in results):
        parts = []
        for kind, phrase in (
            (OWN_SAMPLE, "on its own samples the generator is recovered to"),
            (FILE, "on your files to"),
        ):
            some = [r for r in results if r["method"] == method and r["kind"] == kind]
            if some:
                numbers = (
                    f"median SNR {_median_text(some, 'snr_db', '.1f')} dB, SSIM {_median_text(some, 'ssim', '.3f')}"
                )
                numbers += f", MSE {_median_text(some, 'waveform_mse', '.2e')}"
                if kind == OWN_SAMPLE:
                    numbers += f", z-MSE {_median_text(some, 'z_mse', '.2g')}"
                exact = sum(result["match"] == EXACT for result in some)
                parts.append(f"{phrase} {numbers}, {exact} of {len(some)} exactly")
        print(f"{method}: {'; '.join(parts)}")


def _median_text(results: list[dict[str, Any]], key: str, form: str) -> str:
    values = [result[key] for result in results if result[key] is not None]
    return format(median(values), form) if values else "-"
