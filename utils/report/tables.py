"""Tables 1 and 2 as JSON, Markdown and CSV beside the paper's numbers.

`tableN.json` is the source of all the others. It holds one part per preset, so that two runs of the script, one for
each, make one table.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.evaluation.rows import CLIPS, ENCODER, GRADIENT, HYBRID, OTHER, SAMPLE, SILENCE
from utils.options import PRESETS
from utils.runs.files import read_json, write_json, write_text

TITLES = {1: "Table 1. Synthetic clips", 2: "Table 2. Real clips"}
ROWS = {
    1: (CLIPS, GRADIENT, ENCODER, HYBRID, SAMPLE, SILENCE),
    2: (CLIPS, GRADIENT, ENCODER, HYBRID, OTHER, SAMPLE, SILENCE),
}
ROW_TITLES = {
    CLIPS: "the clips themselves",
    GRADIENT: "gradient",
    ENCODER: "encoder",
    HYBRID: "hybrid",
    OTHER: "floor: other real clips",
    SAMPLE: "floor: random samples",
    SILENCE: "floor: silence",
}

# Table 1 and 2 of the paper: (mean, standard deviation) or one number.
PAPER: dict[int, dict[str, dict[str, tuple[float, ...]]]] = {
    1: {
        CLIPS: {"inception_score": (7.23, 0.003)},
        GRADIENT: {
            "inception_score": (3.96, 0.203),
            "frechet_distance": (0.7140,),
            "waveform_mse": (0.00489,),
            "ssim": (0.9618,),
        },
        ENCODER: {
            "inception_score": (7.50, 0.288),
            "frechet_distance": (0.4841,),
            "waveform_mse": (0.00196,),
            "ssim": (0.9731,),
        },
        HYBRID: {
            "inception_score": (7.23, 0.006),
            "frechet_distance": (0.4850,),
            "waveform_mse": (0.00003,),
            "ssim": (0.9979,),
        },
    },
    2: {
        CLIPS: {"inception_score": (9.20, 0.019), "accuracy": (0.9541,)},
        GRADIENT: {
            "inception_score": (2.20, 0.063),
            "frechet_distance": (1.0566,),
            "waveform_mse": (0.00959,),
            "ssim": (0.953,),
            "accuracy": (0.1717,),
        },
        ENCODER: {
            "inception_score": (7.93, 0.077),
            "frechet_distance": (0.4514,),
            "waveform_mse": (0.01176,),
            "ssim": (0.946,),
            "accuracy": (0.7106,),
        },
        HYBRID: {
            "inception_score": (3.89, 0.027),
            "frechet_distance": (0.8976,),
            "waveform_mse": (0.00887,),
            "ssim": (0.954,),
            "accuracy": (0.3693,),
        },
    },
}

# Columns: title, metric as recorded, decimals (`e`: with an exponent, `%`: a share).
BESIDE_PAPER = (
    ("IS", "inception_score/classifier", "2"),
    ("FID", "frechet_distance/classifier", "3"),
    ("MSE", "waveform_mse", "5"),
    ("SSIM", "ssim", "4"),
    ("accuracy", "accuracy/classifier", "%"),
)
BY_JUDGE = (
    ("IS", "inception_score/judge", "2"),
    ("FID", "frechet_distance/judge", "3"),
    ("accuracy", "accuracy/judge", "%"),
    ("SSIM, log magnitude", "ssim_log_magnitude", "3"),
    ("STFT distance", "stft_distance", "3"),
)
OF_LATENTS = (
    ("z-MSE", "latent_mse", "3"),
    ("Frechet distance of z", "latent_frechet_distance", "2"),
    ("z outside the box", "outside_prior", "%"),
)
# What rows of one part share, as shown under a table.
PROTOCOL = (
    *(
        "n",
        "seed",
        "split",
        "alignment",
        "objective",
        "solver",
        "clip_to_prior",
        "max_iter",
        "hybrid_max_iter",
        "restarts",
    ),
    *("precision", "batch_size", "splits", "resamples"),
)


def add_rows(folder: Path, number: int, preset: str, rows: list[dict[str, Any]]) -> None:
    """Puts rows into a table, in place of earlier ones of the same preset and name, and writes all its files.

    Args:
        folder: where `tableN.json`, `tableN.md` and `tableN.csv` are.
        number: 1 or 2.
        preset: the rows' preset.
        rows: records as calculate_metrics.py makes them: `row`, `metrics`, `protocol`, `environment`, ...
    """
    table = read_table(folder, number) or {"table": number, "presets": {}}
    known = {row["row"]: row for row in table["presets"].get(preset, [])} | {row["row"]: row for row in rows}
    ours = [known.pop(name) for name in ROWS[number] if name in known]
    table["presets"][preset] = ours + list(known.values())
    write_json(folder / f"table{number}.json", table)
    write_text(folder / f"table{number}.md", f"# {TITLES[number]}\n\n{table_markdown(table)}")
    write_text(folder / f"table{number}.csv", table_csv(table))


def read_table(folder: Path, number: int) -> dict[str, Any] | None:
    """What `add_rows` wrote; None where there is none yet.

    Raises:
        UserError: when the file is damaged.
    """
    path = folder / f"table{number}.json"
    return read_json(path) if path.exists() else None


def table_markdown(table: Mapping[str, Any]) -> str:
    """A table as Markdown: beside the paper, by the judge, the latents, and how the numbers were made."""
    number, presets = table["table"], parts_of(table)
    parts = [
        "Numbers of the paper's kind, by the classifier that also serves as a loss; 95 % intervals in brackets.",
        "",
    ]
    parts += _grid(presets, BESIDE_PAPER, PAPER[number])
    parts += ["", "By the independent judge, which took part in no loss, and by the spectrogram.", ""]
    parts += _grid(presets, BY_JUDGE)
    parts += ["", "Latents, and what they cost.", ""]
    parts += _grid(presets, OF_LATENTS, costs=True)
    parts += [""]
    for preset, rows in presets.items():
        parts += [f"- preset {preset}: {describe_protocol(rows)}"]
    return "\n".join(parts) + "\n"


def table_csv(table: Mapping[str, Any]) -> str:
    """A table as CSV, one line a number: table, row, source, metric, value, low, high, std, n, seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "row", "source", "metric", "value", "low", "high", "std", "n", "seed"))
    number = table["table"]
    for row, found in PAPER[number].items():
        for metric, (value, *std) in found.items():
            writer.writerow((number, row, "paper", metric, value, "", "", *(std or [""]), 501, ""))
    for preset, rows in parts_of(table).items():
        for row in rows:
            for metric, found in row["metrics"].items():
                if found is not None:
                    numbers = (found["value"], found["low"], found["high"], found.get("std"))
                    facts = (row["protocol"]["n"], row["protocol"]["seed"])
                    writer.writerow((number, row["row"], f"preset {preset}", metric, *numbers, *facts))
    return text.getvalue()


def describe_protocol(rows: list[dict[str, Any]]) -> str:
    """One line on how rows of one part were made: protocol, commit, hardware, wall time."""
    first = rows[0]
    facts = [f"{name} {first['protocol'][name]}" for name in PROTOCOL if first["protocol"].get(name) is not None]
    environment = first["environment"]
    commit = str(environment["commit"])[:12] + (" with changes" if environment["dirty"] else "")
    hardware = environment["hardware"]
    machine = ", ".join([*hardware["gpus"], f"{hardware['cpu']}, {hardware['cores']} cores"])
    return "; ".join([*facts, f"commit {commit}", machine, f"{wall_minutes(rows):.0f} minutes"])


def wall_minutes(rows: list[dict[str, Any]]) -> float:
    """Minutes that rows took to recover and to score, whenever that was."""
    return sum((row["seconds_a_clip"] or 0) * row["protocol"]["n"] + row["seconds_to_score"] for row in rows) / 60


def number_text(found: Mapping[str, Any] | None, form: str) -> str:
    """A number with its interval: `7.37 [7.10, 7.61]`; a dash where there is none."""
    if found is None:
        return "–"
    value, low, high = (_format(found[key], form) for key in ("value", "low", "high"))
    spread = f" ± {_format(found['std'], form)}" if found.get("std") is not None else ""
    return f"{value}{spread} [{low}, {high}]"


def _format(value: float, form: str) -> str:
    return f"{100 * value:.1f} %" if form == "%" else f"{value:.{form}f}"


def parts_of(table: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """A table's rows by preset, `paper` first."""
    return {preset: table["presets"][preset] for preset in sorted(PRESETS, reverse=True) if preset in table["presets"]}


def _grid(
    presets: Mapping[str, list[dict[str, Any]]],
    columns: tuple[tuple[str, str, str], ...],
    paper: Mapping[str, Mapping[str, tuple[float, ...]]] | None = None,
    costs: bool = False,
) -> list[str]:
    """Lines of a Markdown table: for each row the paper, then each preset that has a number in it."""
    titles = [title for title, _, _ in columns] + (["evaluations a clip", "seconds a clip"] if costs else [])
    lines = ["| row | source | " + " | ".join(titles) + " |", "|---" * (2 + len(titles)) + "|"]
    names = dict.fromkeys(row["row"] for rows in presets.values() for row in rows)
    for name in names:
        for source, cells in _sources(name, presets, columns, paper or {}, costs):
            if any(cell != "–" for cell in cells):
                lines.append(f"| {ROW_TITLES.get(name, name)} | {source} | " + " | ".join(cells) + " |")
    return lines


def _sources(name, presets, columns, paper, costs) -> Iterator[tuple[str, list[str]]]:
    if name in paper:
        yield "paper", [_paper_text(paper[name].get(metric.partition("/")[0]), form) for _, metric, form in columns]
    for preset, rows in presets.items():
        for row in rows:
            if row["row"] == name:
                cells = [number_text(row["metrics"].get(metric), form) for _, metric, form in columns]
                if costs:
                    has_cost = row["seconds_a_clip"] is not None
                    cells += (
                        [f"{row['evaluations_a_clip']:.0f}", f"{row['seconds_a_clip']:.2f}"] if has_cost else ["–"] * 2
                    )
                yield f"preset {preset}", cells


def _paper_text(found: tuple[float, ...] | None, form: str) -> str:
    if found is None:
        return "–"
    if form == "%":
        return f"{100 * found[0]:.2f} %"
    return " ± ".join(f"{value:.5f}".rstrip("0") for value in found)
