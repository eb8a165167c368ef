"""What a run of latent_vector_recovery.py tells at its end: its tables, its page, and medians on the terminal."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from utils.inversion.exactness import EXACT
from utils.inversion.folder import SUMMARY, RecoveryFolder
from utils.inversion.names import SEARCH
from utils.inversion.sources import FILE, OWN_SAMPLE
from utils.report.manifest import write_manifest
from utils.report.page import write_page
from utils.runs.cache import cache_folder
from utils.runs.files import read_json
from utils.runs.folders import OPTIONS


def describe(settings: dict[str, Any], generator: Any, methods: Sequence[str], n: int) -> list[str]:
    """What a run says before it begins.

    Args:
        settings: of the run, as it keeps them.
        generator: as in `utils.inversion.problem`, with `name`.
        methods: that are applied.
        n: files.
    """
    lines = [
        f"{generator.name}: latent size {generator.latent_dim}, {generator.num_samples} samples at "
        f"{generator.sample_rate} Hz, {generator.num_channels} channel(s), {generator.prior} prior",
        f"{', '.join(methods)}: minimises {settings['objective']}; {n} files, {settings['own_samples']} own samples",
    ]
    if SEARCH in methods:
        lines.append(f"samples that searches start from are kept in {cache_folder()}")
    return lines


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
        "search": f"for the latent itself, then at most {settings['hybrid_max_iter']} iterations on the objective",
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
    first, *others = settings["input"]
    title = f"Recovery of {first.name}" + (f" and {len(others)} more" if others else "")
    write_page(folder.folder, title, folder.results(), facts, failures=folder.failures)


def print_summary(results: list[dict[str, Any]]) -> None:
    """A line for each method and kind of clip: medians, and how many are exact or found; then what silence scores."""
    for method in dict.fromkeys(result["method"] for result in results):
        for kind, describe in ((FILE, _on_files), (OWN_SAMPLE, _on_own_samples)):
            some = [result for result in results if result["method"] == method and result["kind"] == kind]
            if some:
                exact = sum(result["match"] == EXACT for result in some)
                print(f"{method}, {len(some)} {kind}{'s' * (len(some) != 1)}: {describe(some)}, {exact} exact")
    files = {result["source"]: result for result in results if result["kind"] == FILE}
    if files:
        silence = _median_text(list(files.values()), "log_mel_distance_silence", ".2f")
        print(f"silence, in place of your files: log-mel distance {silence}")
    noted = sum(bool(result.get("notes")) for result in files.values())
    if noted:
        print(f"{noted} of {len(files)} files have notes on what was read, see {SUMMARY}")


def _on_files(results: list[dict[str, Any]]) -> str:
    parts = [f"log-mel distance {_median_text(results, 'log_mel_distance', '.2f')}"]
    judges = dict.fromkeys(name.removesuffix("_clip") for result in results for name in result if _is_judge(name))
    for judge in judges:
        answers = [(r.get(f"{judge}_clip"), r.get(f"{judge}_reconstruction")) for r in results]
        same = [a.split()[0] == b.split()[0] for a, b in answers if a and b]
        parts.append(f"same digit by {judge} {sum(same)} of {len(same)}")
    voiced = [result for result in results if result.get("f0_error") is not None]
    if voiced:
        parts.append(f"F0 error {_median_text(voiced, 'f0_error', '.1f')} semitones ({len(voiced)} voiced)")
    return ", ".join(parts)


def _is_judge(name: str) -> bool:
    return name.startswith("judge_") and name.endswith("_clip")


def _on_own_samples(results: list[dict[str, Any]]) -> str:
    text = f"SNR {_median_text(results, 'snr_db', '.1f')} dB, SSIM {_median_text(results, 'ssim', '.3f')}"
    known = [result["found"] for result in results if result.get("found") is not None]
    return text + (f", latent found in {sum(known)} of {len(known)}" if known else "")


def _median_text(results: list[dict[str, Any]], key: str, form: str) -> str:
    values = [value for result in results if (value := result.get(key)) is not None]
    return format(median(values), form) if values else "-"
