"""Tables 1 to 3 as JSON lines, Markdown and CSV, with the paper's numbers.

`tableN.jsonl` is the source of all the others: of Tables 1 and 2 a line for each row, of Table 3 a line for each preset
with its cells and how they were made. Two runs of a script, one for each preset, make one table.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.evaluation.names import (
    CLASS_SAMPLE,
    CLIPS,
    CONDITIONS,
    ENCODER,
    FEWEST,
    GRADIENT,
    HYBRID,
    LOGISTIC_REGRESSION,
    OTHER,
    PROJECTED,
    ROWS,
    SAMPLE,
    SEARCH,
    SILENCE,
    SVM,
    TEMPLATE,
)
from utils.options import PRESETS
from utils.report import published
from utils.report.markdown import table_lines
from utils.runs.files import read_jsonl, to_json, write_text

TITLES = {1: "Table 1. Synthetic clips", 2: "Table 2. Real clips", 3: "Table 3. Detection"}
ROW_TITLES = {
    CLIPS: "the clips themselves",
    GRADIENT: "gradient",
    ENCODER: "encoder",
    HYBRID: "hybrid",
    SEARCH: "search (ours)",
    PROJECTED: "hybrid, projected (no latent of the prior)",
    OTHER: "baseline: other real clips",
    TEMPLATE: "class-conditional baseline: one waveform a digit",
    CLASS_SAMPLE: "class-conditional baseline: a random sample of the digit",
    SAMPLE: "baseline: random samples",
    SILENCE: "baseline: silence",
}
NONE = "–"

# Columns: title, metric as recorded, decimals (`%`: a share).
BESIDE_PAPER = (
    ("IS", "inception_score/classifier", "2"),
    ("FID", "frechet_distance/classifier", "3"),
    ("MSE", "waveform_mse", "5"),
    ("SSIM", "ssim", "4"),
    ("accuracy", "accuracy/classifier", "%"),
)
BY_EACH_JUDGE = (("IS", "inception_score", "2"), ("FID", "frechet_distance", "3"), ("accuracy", "accuracy", "%"))
OF_SOUND = (
    ("STFT distance", "stft_distance", "3"),
    ("log-mel correlation", "log_mel_correlation", "3"),
    ("F0 frame error", "f0_frame_error", "%"),
    ("F0 error, semitones", "f0_error", "2"),
    ("SSIM, log magnitude", "ssim_log_magnitude", "3"),
)
OF_SOUND_TITLE = (
    "By the sound: distance of STFTs, correlation of log-mel spectrograms after the mean of the digit's originals is "
    "taken out\nof both, F0. F0 frame error: share of frames voiced in one alone, or in both with F0 more than 20 % "
    "off. F0 error: of clips\nwith a pitch; a reconstruction that is never voiced with its clip counts as 12 semitones."
)
OF_LATENTS = (
    ("z-MSE", "latent_mse", "3"),
    ("Frechet distance of z", "latent_frechet_distance", "2"),
    ("z outside the box", "outside_prior", "%"),
)
# Options that a row of a search depends on: where one is not the preset's own, the row's label names it.
SEARCH_OPTIONS = ("alignment", "encoder", "objective", "clip_to_prior", "restarts")
OPTIONS_OF = {
    GRADIENT: tuple(name for name in SEARCH_OPTIONS if name != "encoder"),
    HYBRID: SEARCH_OPTIONS[:-1],
    SEARCH: SEARCH_OPTIONS[:-1],
    PROJECTED: SEARCH_OPTIONS[:-2],
    ENCODER: SEARCH_OPTIONS[:2],
}
LIMITED = published.LIMITS | dict.fromkeys((SEARCH, PROJECTED), published.LIMITS[HYBRID])
# What rows of one part share, as shown under a table.
PROTOCOL = (
    "n",
    "seed",
    "split",
    "draw",
    "alignment",
    "objective",
    "clip_to_prior",
    "max_iter",
    "hybrid_max_iter",
    "restarts",
    "batch_size",
    "splits",
    "resamples",
)


def add_rows(folder: Path, number: int, preset: str, rows: list[dict[str, Any]]) -> None:
    """Puts rows into Table 1 or 2, in place of earlier ones of the same preset and name, and writes all its files.

    Args:
        folder: where `tableN.jsonl`, `tableN.md` and `tableN.csv` are.
        number: 1 or 2.
        preset: the rows' preset.
        rows: records as calculate_metrics.py makes them: `row`, `metrics`, `protocol`, `environment`, ...
    """
    table = read_table(folder, number) or {"table": number, "presets": {}}
    known = {row["row"]: row for row in table["presets"].get(preset, [])} | {row["row"]: row for row in rows}
    ours = [known.pop(name) for name in ROWS[number] if name in known]
    table["presets"][preset] = ours + list(known.values())
    _write_table(folder, table, table_csv(table))


def add_detection(folder: Path, preset: str, part: dict[str, Any]) -> None:
    """Puts a preset's part into Table 3, in place of an earlier one, and writes all its files.

    Args:
        folder: where `table3.jsonl`, `table3.md` and `table3.csv` are.
        preset: of the part.
        part: as deepfake_detection.py makes it: `cells` (`utils.evaluation.detection.summarise`), `protocol`,
            `seconds`, `environment`.
    """
    table = read_table(folder, 3) or {"table": 3, "presets": {}}
    table["presets"][preset] = {"preset": preset, **part}
    _write_table(folder, table, detection_csv(table))


def _write_table(folder: Path, table: dict[str, Any], as_csv: str) -> None:
    path = folder / f"table{table['table']}"
    write_text(path.with_suffix(".jsonl"), "".join(f"{to_json(line)}\n" for line in lines_of(table)))
    write_text(path.with_suffix(".md"), f"# {TITLES[table['table']]}\n\n{table_markdown(table)}")
    write_text(path.with_suffix(".csv"), as_csv)


def lines_of(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table's JSON lines: rows, or of Table 3 a part for each preset."""
    parts = parts_of(table).values()
    return list(parts) if table["table"] == 3 else [row for rows in parts for row in rows]


def read_table(folder: Path, number: int) -> dict[str, Any] | None:
    """What was written of a table: its `table` number and, by preset, its `presets`; None where there is none yet.

    Raises:
        UserError: when the file is damaged, or no such table.
    """
    path = folder / f"table{number}.jsonl"
    lines, presets = read_jsonl(path), {}
    for line in lines:
        if not isinstance(line, dict) or not {"preset", "cells" if number == 3 else "metrics"} <= line.keys():
            raise UserError(f"{path}: holds no Table {number} as this version writes it; remove it and make it again")
        if number == 3:
            presets[line["preset"]] = line
        else:
            presets.setdefault(line["preset"], []).append(line)
    return {"table": number, "presets": presets} if lines else None


def table_markdown(table: Mapping[str, Any]) -> str:
    """A table as Markdown: ours and the paper's numbers, and how ours were made."""
    return detection_markdown(table) if table["table"] == 3 else rows_markdown(table)


def parts_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table's parts by preset, `paper` first."""
    return {preset: table["presets"][preset] for preset in sorted(PRESETS, reverse=True) if preset in table["presets"]}


def judges_of(metrics: Iterable[Mapping[str, Any]]) -> list[str]:
    """The judges that scored rows of Table 1 or 2, from the rows' metrics, in the order in which they were named."""
    scored = dict.fromkeys(name.removeprefix("accuracy/") for row in metrics for name in row if "accuracy/" in name)
    return [name for name in scored if name != "classifier"]


def row_label(row: Mapping[str, Any]) -> str:
    """Whose row of Table 1 or 2 it is: its preset; of a search solver and precision; and the options it was made with
    where these are not the preset's.

    Iterations are limited as in the paper unless the label says otherwise.
    """
    protocol, name = row["protocol"], row["row"]
    changed = protocol.get("changed", {})
    facts = [protocol[fact] for fact in ("solver", "precision") if name in LIMITED and protocol.get(fact)]
    facts += [f"{option} {changed[option]}" for option in OPTIONS_OF.get(name, ("alignment",)) if option in changed]
    limit, papers = LIMITED.get(name, (None, None))
    if limit and protocol.get(limit, papers) != papers:
        facts.append(f"{limit} {protocol[limit]:,} of {papers:,}")
    return f"preset {row['preset']}" + (f": {', '.join(facts)}" if facts else "")


# ---- Tables 1 and 2 -------------------------------------------------------------


def rows_markdown(table: Mapping[str, Any]) -> str:
    """Table 1 or 2: as the paper's, by the judge, the latents, and how the numbers were made."""
    number, presets = table["table"], parts_of(table)
    lines = ["Numbers of the paper's kind, by the classifier that also serves as a loss.", ""]
    lines += _grid(presets, BESIDE_PAPER, published.ROWS[number])
    lines += ["", "By the independent judges: neither is ever a loss, a critic or a selector.", ""]
    by_judge = [
        (f"{title}, {judge}", f"{metric}/{judge}", decimals)
        for judge in judges_of(row["metrics"] for rows in presets.values() for row in rows)
        for title, metric, decimals in BY_EACH_JUDGE
    ]
    lines += _grid(presets, by_judge)
    lines += ["", OF_SOUND_TITLE, ""]
    lines += _grid(presets, OF_SOUND)
    lines += ["", "Latents, and what they cost.", ""]
    lines += _grid(presets, OF_LATENTS, costs=True)
    lines += [""]
    lines += [f"- preset {preset}: {describe_protocol(rows)}" for preset, rows in presets.items()]
    return "\n".join(lines) + "\n"


def table_csv(table: Mapping[str, Any]) -> str:
    """Table 1 or 2, one line a number: table, row, source, metric, value, low, high (95 %), std, n, seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "row", "source", "metric", "value", "low", "high", "std", "n", "seed"))
    number = table["table"]
    for row, numbers in published.ROWS[number].items():
        for metric, (value, *std) in numbers.items():
            writer.writerow((number, row, "paper", metric, value, "", "", *(std or [""]), published.N, ""))
    for preset, rows in parts_of(table).items():
        for row in rows:
            for metric, estimate in row["metrics"].items():
                if estimate is not None:
                    numbers = (estimate.get(key) for key in ("value", "low", "high", "std"))
                    facts = (estimate["n"], row["protocol"]["seed"])
                    writer.writerow((number, row["row"], f"preset {preset}", metric, *numbers, *facts))
    return text.getvalue()


def row_text(row: Mapping[str, Any]) -> str:
    """A row as lines for the terminal."""
    protocol = row["protocol"]
    title = ROW_TITLES.get(row["row"], row["row"])
    lines = [f"{title}, {row['kind']} clips, preset {row['preset']}, n = {protocol['n']}, seed {protocol['seed']}"]
    for name, estimate in row["metrics"].items():
        if estimate is not None:
            interval = f" [{estimate['low']:.4g}, {estimate['high']:.4g}]" if "low" in estimate else ""
            std = f"  ± {estimate['std']:.3g} over {protocol['splits']} splits" if "std" in estimate else ""
            own = f"  n = {estimate['n']}" if estimate["n"] != protocol["n"] else ""
            lines.append(f"  {name:32}{estimate['value']:<10.4g}{interval}{std}{own}")
    if row["seconds_a_clip"] is not None:
        lines.append(f"  {row['seconds_a_clip']:.2f} s and {row['evaluations_a_clip']:.0f} evaluations a clip")
    return "\n".join(lines)


def describe_protocol(rows: list[dict[str, Any]]) -> str:
    """One line on how rows of one part were made: protocol, commit, hardware, wall time."""
    known = {name: row["protocol"][name] for row in reversed(rows) for name in PROTOCOL if name in row["protocol"]}
    facts = [f"{name} {known[name]}" for name in PROTOCOL if known.get(name) is not None]
    origins = dict.fromkeys(describe_origin(row["environment"]) for row in rows)
    return "; ".join([*facts, *origins, f"{wall_minutes(rows):.0f} minutes"])


def describe_origin(environment: Mapping[str, Any]) -> str:
    """Commit and hardware."""
    commit = str(environment["commit"])[:12] + (" with changes" if environment["dirty"] else "")
    hardware = environment["hardware"]
    return f"commit {commit}; " + ", ".join([*hardware["gpus"], f"{hardware['cpu']}, {hardware['cores']} cores"])


def wall_minutes(rows: list[dict[str, Any]]) -> float:
    """Minutes that rows took to recover and to score, whenever that was."""
    return sum((row["seconds_a_clip"] or 0) * row["protocol"]["n"] + row["seconds_to_score"] for row in rows) / 60


def _number_text(estimate: Mapping[str, Any] | None, form: str, n: int | None = None) -> str:
    """A number with its interval: `7.37 [7.10, 7.61]`, `75.4 % [72.0, 79.0]`; a dash where there is none.

    With its own n where that is not the row's; of fewer than `FEWEST` clips small and without an interval.
    """
    if estimate is None:
        return NONE
    scale, decimals, unit = (100, 1, " %") if form == "%" else (1, form, "")

    def text(key: str) -> str:
        return format(scale * estimate[key], f".{decimals}f")

    own_n = estimate.get("n", n)
    if own_n is not None and own_n < FEWEST:
        return f"<sub>{text('value')}{unit} (n = {own_n})</sub>"
    interval = f"{text('value')}{unit} [{text('low')}, {text('high')}]"
    return interval if own_n == n else f"{interval} (n = {own_n})"


def _grid(
    presets: Mapping[str, list[dict[str, Any]]],
    columns: Sequence[tuple[str, str, str]],
    paper: Mapping[str, Mapping[str, tuple[float, ...]]] | None = None,
    costs: bool = False,
) -> list[str]:
    """Lines of a Markdown table: for each row the paper, then the presets with a number in it; equal ones once."""
    titles = [title for title, _, _ in columns] + (["evaluations a clip", "seconds a clip"] if costs else [])
    found = []
    for name in dict.fromkeys(row["row"] for rows in presets.values() for row in rows):
        for source, cells in _sources(name, presets, columns, paper or {}, costs):
            if any(cell != NONE for cell in cells):
                found.append([ROW_TITLES.get(name, name), source, *cells])
    return table_lines(["row", "source", *titles], found)


def _sources(name, presets, columns, paper, costs) -> Iterator[tuple[str, tuple[str, ...]]]:
    if name in paper:
        known = paper[name]
        yield "paper", tuple(_paper_text(known.get(metric.partition("/")[0]), form) for _, metric, form in columns)
    by_cells: dict[tuple[str, ...], list[str]] = {}
    for rows in presets.values():
        for row in rows:
            if row["row"] == name:
                n = row["protocol"]["n"]
                cells = [_number_text(row["metrics"].get(metric), form, n) for _, metric, form in columns]
                if costs:
                    evaluations, seconds = row["evaluations_a_clip"], row["seconds_a_clip"]
                    cells += [NONE, NONE] if seconds is None else [f"{evaluations:.0f}", f"{seconds:.2f}"]
                by_cells.setdefault(tuple(cells), []).append(row_label(row))
    for cells, labels in by_cells.items():
        plain = all(":" not in label for label in labels)
        yield "both presets" if len(labels) > 1 and plain else " and ".join(labels), cells


def _paper_text(numbers: tuple[float, ...] | None, form: str) -> str:
    if numbers is None:
        return NONE
    if form == "%":
        return f"{100 * numbers[0]:.2f} %"
    return " ± ".join(f"{value:.5f}".rstrip("0") for value in numbers)


# ---- Table 3 --------------------------------------------------------------------


def detection_markdown(table: Mapping[str, Any]) -> str:
    """For each preset one grid a condition and test set, a row a feature, and how the numbers were made."""
    lines = []
    for preset, part in parts_of(table).items():
        lines += [f"### Preset {preset}", "", part_markdown(part)]
    return "\n".join(lines)


def part_markdown(part: Mapping[str, Any]) -> str:
    """What `add_detection` takes, as Markdown."""
    return "\n".join([*_detection_grids(part)[1:], "", *_detection_notes(part)]) + "\n"


def detection_csv(table: Mapping[str, Any]) -> str:
    """One cell a line, shares in [0, 1], low and high of a 95 % interval; nothing where the paper has no number."""
    text = io.StringIO(newline="")
    cells = [
        {"source": f"preset {preset}"}
        | {name: value for name, value in cell.items() if name != "against"}
        | {"paper": _published_accuracy(cell)}
        for preset, part in parts_of(table).items()
        for cell in part["cells"]
    ]
    writer = csv.DictWriter(text, list(cells[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    return text.getvalue()


def _published_accuracy(cell: Mapping[str, Any]) -> float | None:
    key = cell["feature"], cell["classifier"]
    return published.DETECTION.get(key) if cell["tested_on"] == "own" else None


def _detection_grids(part: Mapping[str, Any]) -> list[str]:
    cells = {(c["condition"], c["tested_on"], c["feature"], c["classifier"]): c for c in part["cells"]}
    lines = []
    for condition, tested_on in dict.fromkeys(key[:2] for key in cells):
        test = "" if tested_on == "own" else f"; tested on the clips of {part['protocol']['fakes']}"
        lines += ["", f"**Clips: {CONDITIONS[condition]}{test}**", ""]
        header = ["feature"]
        for name in (LOGISTIC_REGRESSION, SVM):
            header += [f"{name}: paper", "ours", "AUC", "EER"]
        rows = []
        for feature in dict.fromkeys(key[2] for key in cells if key[:2] == (condition, tested_on)):
            row = [feature.replace("|", r"\|")]
            for name in (LOGISTIC_REGRESSION, SVM):
                cell = cells[condition, tested_on, feature, name]
                paper = _published_accuracy(cell)
                row += [
                    "" if paper is None else f"{100 * paper:.1f} %",
                    _number_text({"value": cell["accuracy"], "low": cell["low"], "high": cell["high"]}, "%"),
                    f"{cell['auc']:.3f}",
                    f"{100 * cell['eer']:.1f} %",
                ]
            rows.append(row)
        lines += table_lines(header, rows)
    return lines


def _detection_notes(part: Mapping[str, Any]) -> list[str]:
    facts = part["protocol"]
    bounded = ", ends in tanh: clipping changes nothing" if facts["encoder_bounded"] else ""
    return [
        f"- {facts['n']} real clips ({Path(facts['input']).name}, {facts['split']} split of {facts['clips']}, "
        f"{facts['alignment']}) and {facts['n']} synthetic ones, drawn again for each of {facts['repeats']} seeds "
        f"({facts['seed']} to {facts['seed'] + facts['repeats'] - 1}); {facts['folds']}-fold stratified "
        "cross-validation, scaling inside the fold; 95 % intervals over seeds; AUC and EER are means over folds and "
        "seeds. Chance is 50 %.",
        f"- Spectrograms: {facts['front_end']}. Reconstruction error: mean absolute difference of these. Tail: the "
        f"last 1/{facts['tail_share']} of a clip. Levels in dB.",
        f"- Generator {facts['generator']} ({facts['generator_sha256'][:12]}), encoder {facts['encoder']} "
        f"({facts['precision']}{bounded}). The paper's numbers are of the official WaveGAN, its own encoder and one "
        "draw of SC09.",
        f"- {facts['protocol']}; {describe_origin(part['environment'])}; {part['seconds']:.0f} s.",
    ]
