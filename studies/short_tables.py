"""Tables 1, 2 and 3 as RESULTS.md and README.md show them: one table each, methods, baselines and the paper's numbers.

Their intervals are in the figures (`table_figure`, `detection_figure`) and in the CSV files.
"""

import textwrap
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from utils.evaluation.names import (
    CONDITIONS,
    ENCODER,
    GRADIENT,
    HYBRID,
    LOGISTIC_REGRESSION,
    RECOVERY_METHODS,
    SVM,
    TEMPLATE,
)
from utils.report import published
from utils.report.figures import Estimate, interval_figure
from utils.report.markdown import table_lines
from utils.report.tables import NONE, ROW_TITLES, judges_of, parts_of

ENDS = (next(iter(CONDITIONS)), next(reversed(CONDITIONS)))  # of Table 3's conditions: the first, and the hardest
# Columns: title, metric as recorded, decimals (`%`: a share).
LOSS_CLASSIFIER = (
    ("IS", "inception_score/classifier", "2"),
    ("FID", "frechet_distance/classifier", "3"),
)
PAIRED = (("MSE", "waveform_mse", "5"), ("SSIM", "ssim", "4"))
OF_SOUND = (
    ("STFT distance", "stft_distance", "2"),
    ("log-mel correlation", "log_mel_correlation", "2"),
    ("F0 error, semitones", "f0_error", "1"),
)
COLUMNS = {
    1: (*PAIRED, ("z-MSE", "latent_mse", "3"), *LOSS_CLASSIFIER),
    2: (("accuracy", "accuracy/classifier", "%"), *PAIRED, *OF_SOUND, *LOSS_CLASSIFIER),
}
# What the figures show of a table, and the rows that are no scale for the others.
PLOTTED = {
    1: (("MSE", "waveform_mse"), ("z-MSE", "latent_mse"), ("SSIM", "ssim")),
    2: (("STFT distance", "stft_distance"), ("log-mel correlation", "log_mel_correlation"), ("F0 error", "f0_error")),
}


def table_markdown(table: Mapping[str, Any]) -> str:
    """Table 1 or 2: of each row the paper's numbers and those of each preset; equal ones once."""
    number, presets = table["table"], parts_of(table)
    columns = _columns(table)
    lines = []
    for name in dict.fromkeys(row["row"] for rows in presets.values() for row in rows):
        known = published.ROWS[number].get(name)
        if known:
            cells = [_paper(known.get(metric.partition("/")[0]), form, metric) for _, metric, form in columns]
            lines.append([ROW_TITLES.get(name, name), "the paper", *cells])
        sources: dict[tuple[str, ...], list[str]] = {}
        for preset, rows in presets.items():
            for row in (row for row in rows if row["row"] == name):
                cells = tuple(number_text(row["metrics"].get(metric), form) for _, metric, form in columns)
                sources.setdefault(cells, []).append(preset)
        for cells, of in sources.items():
            if any(cell != NONE for cell in cells):
                of = "both presets" if len(of) > 1 else f"preset {of[0]}"
                lines.append([ROW_TITLES.get(name, name), of, *cells])
    used = [i for i in range(len(columns)) if any(line[i + 2] != NONE for line in lines)]
    head = ["row", "by", *(columns[i][0] for i in used)]
    return "\n".join(table_lines(head, [[*line[:2], *(line[i + 2] for i in used)] for line in lines])) + "\n"


def _columns(table: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of Table 2 the judges' accuracies come first."""
    columns = list(COLUMNS[table["table"]])
    if table["table"] == 2:
        judges = judges_of(row["metrics"] for rows in parts_of(table).values() for row in rows)
        columns[:0] = [(f"correct, {judge}", f"accuracy/{judge}", "%") for judge in judges]
    return columns


def table_figure(table: Mapping[str, Any]) -> Figure:
    """Table 1 or 2 with intervals, a colour a preset."""
    judges = judges_of(row["metrics"] for rows in parts_of(table).values() for row in rows)
    plotted = [(f"correct, {judge}, %", f"accuracy/{judge}") for judge in judges] if table["table"] == 2 else []
    panels: dict[str, dict[str, dict[str, Estimate]]] = {}
    for title, metric in (*plotted, *PLOTTED[table["table"]]):
        scale = 100 if title.endswith("%") else 1
        for preset, rows in parts_of(table).items():
            for row in rows:
                if estimate := row["metrics"].get(metric):
                    numbers = (estimate["value"], estimate.get("low"), estimate.get("high"))
                    scaled = Estimate(*(None if x is None else scale * x for x in numbers))
                    panel = panels.setdefault(title, {}).setdefault(f"preset {preset}", {})
                    panel[ROW_TITLES.get(row["row"], row["row"])] = scaled
    return interval_figure(panels)


def detection_markdown(table: Mapping[str, Any]) -> str:
    """Table 3: accuracy by feature, classifier, condition and preset, and the paper's."""
    cells, names = _detection_cells(table), (LOGISTIC_REGRESSION, SVM)
    groups = list(dict.fromkeys(key[:2] for key in cells))
    short = {LOGISTIC_REGRESSION: "LR", SVM: SVM}
    head = ["feature", *(f"the paper, {short[name]}" for name in names)]
    head += [
        f"preset {preset}, {condition.replace('_', ' ')}, {short[name]}"
        for preset, condition in groups
        for name in names
    ]
    rows = []
    for feature in dict.fromkeys(key[2] for key in cells):
        known = [published.DETECTION.get((feature, name)) for name in names]
        line = [feature.replace("|", r"\|"), *(NONE if x is None else f"{100 * x:.1f} %" for x in known)]
        for group in groups:
            found = [cells.get((*group, feature, name)) for name in names]
            line += [NONE if cell is None else f"{100 * cell['accuracy']:.1f} %" for cell in found]
        rows.append(line)
    return "\n".join(table_lines(head, rows)) + "\n"


def detection_figure(table: Mapping[str, Any]) -> Figure:
    """Table 3 with intervals, a panel for each preset and condition."""
    panels: dict[str, dict[str, dict[str, Estimate]]] = {}
    for (preset, condition, feature, name), cell in _detection_cells(table).items():
        panel = panels.setdefault(f"preset {preset}, {condition.replace('_', ' ')}", {})
        numbers = Estimate(*(100 * cell[key] for key in ("accuracy", "low", "high")))
        panel.setdefault(name, {})[feature] = numbers
    return interval_figure(panels, "accuracy in %; chance is 50 %")


def _detection_cells(table: Mapping[str, Any]) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
    """By preset, condition in `ENDS`, feature and classifier; tested on clips of the kind trained on."""
    return {
        (preset, c["condition"], c["feature"], c["classifier"]): c
        for preset, part in parts_of(table).items()
        for c in part["cells"]
        if c["tested_on"] == "own" and c["condition"] in ENDS
    }


def readme_markdown(tables: Mapping[int, Mapping[str, Any]]) -> str:
    """The README's numbers: a row a method and one baseline, ours (preset aligned) and the paper's."""
    rows = {(n, row["row"]): row for n in (1, 2) if n in tables for row in parts_of(tables[n]).get("aligned", ())}
    judges = judges_of(row["metrics"] for row in rows.values())

    def ours(number: int, name: str, form: str, *metrics: str) -> str:
        found = rows.get((number, name), {"metrics": {}})["metrics"]
        return " / ".join(number_text(found[metric], form) for metric in metrics if found.get(metric))

    def papers(number: int, name: str, metric: str, form: str) -> str:
        return _paper(published.ROWS[number].get(name, {}).get(metric), form, metric).replace(NONE, "")

    head = ("", "own samples, MSE: paper", "ours", "their z, MSE", "real clips judged correct: paper", "ours")
    body = [
        [
            ROW_TITLES.get(name, name),
            papers(1, name, "waveform_mse", "5"),
            ours(1, name, "5", "waveform_mse"),
            ours(1, name, "3", "latent_mse"),
            papers(2, name, "accuracy", "%"),
            ours(2, name, "%", *(f"accuracy/{judge}" for judge in judges)),
        ]
        for name in (*dict.fromkeys((GRADIENT, ENCODER, HYBRID, *RECOVERY_METHODS)), TEMPLATE)
        if (1, name) in rows or (2, name) in rows
    ]
    protocol = next(iter(rows.values()))["protocol"]
    limits = " and ".join(f"{protocol[option]:,} ({row})" for row, (option, _) in published.LIMITS.items())
    opening = (
        f"Preset `aligned`, {protocol['n']:,} clips a row, at most {limits} iterations. Judges: {' / '.join(judges)}, "
        "which take part in no loss. Generator and clips differ from the paper's: compare the order of the methods."
    )
    return "\n".join([textwrap.fill(opening, 120), "", *table_lines(head, body)]) + "\n"


def number_text(estimate: Mapping[str, Any] | None, form: str) -> str:
    """A number without its interval: `7.37`, `75.4 %`; a dash where there is none."""
    if estimate is None:
        return NONE
    return f"{100 * estimate['value']:.1f} %" if form == "%" else format(estimate["value"], f"z.{form}f")


def _paper(numbers: tuple[float, ...] | None, form: str, metric: str) -> str:
    """The paper's number; its accuracies are by the classifier in its loss."""
    if numbers is None or metric.startswith("accuracy/judge"):
        return NONE
    return number_text({"value": numbers[0]}, form)
