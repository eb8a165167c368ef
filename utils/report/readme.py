"""The numbers of README.md: Tables 1 and 2 in short, from the same JSON lines as RESULTS.md."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.evaluation.names import CLASS_SAMPLE, RECOVERY_METHODS, SILENCE, TEMPLATE
from utils.report import published
from utils.report.markdown import table_lines
from utils.report.tables import ROW_TITLES, TITLES, describe_origin, judges_of, parts_of, read_table, wall_minutes
from utils.runs.files import write_text

BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def write_readme(path: Path, folder: Path) -> None:
    """Puts the numbers into README.md, between `<!-- results -->` and `<!-- /results -->`.

    Raises:
        UserError: where README.md has no such place.
    """
    text = path.read_text(encoding="utf-8")
    block = readme_markdown({number: table for number in TITLES if (table := read_table(folder, number))})
    new, count = BLOCK.subn(lambda match: match[1] + block + match[2], text)
    if count != 1:
        raise UserError(f"{path}: must have one place <!-- results --> ... <!-- /results -->. Found: {count}")
    write_text(path, new)


def readme_markdown(tables: Mapping[int, Mapping[str, Any]]) -> str:
    """The README's numbers: Tables 1 and 2 in short, and how long all tables took."""
    rows = {
        (number, preset, row["row"]): row
        for number, table in tables.items()
        if number != 3
        for preset, part in parts_of(table).items()
        for row in part
    }
    judges = judges_of(row["metrics"] for row in rows.values())
    protocol = next(row["protocol"] for row in rows.values())

    def ours(number: int, preset: str, row: str, form: str, *metrics: str) -> str:
        found = rows.get((number, preset, row), {"metrics": {}})["metrics"]
        scale = 100 if form.endswith("f %") else 1
        cells = [format(scale * found[m]["value"], form.removesuffix(" %")) for m in metrics if found.get(m)]
        return " / ".join(cells) + (" %" if cells and scale > 1 else "")

    def papers(number: int, row: str, metric: str, form: str) -> str:
        known = published.ROWS[number].get(row, {}).get(metric)
        return format(known[0], form) if known else ""

    heard = [f"accuracy/{judge}" for judge in judges]
    parts = list(parts_of(tables[3]).values()) if 3 in tables else []
    minutes = wall_minutes(list(rows.values())) + sum(part["seconds"] for part in parts) / 60
    environment = next(iter(rows.values()))["environment"]
    limits = " and ".join(f"{protocol[option]:,} ({row})" for row, (option, _) in published.LIMITS.items())
    opening = (
        f"{protocol['n']:,} clips a row, seed {protocol['seed']}, at most {limits} iterations a search, "
        f"{minutes:.0f} minutes for all tables ({describe_origin(environment)}); heard right by {' / '.join(judges)}:"
    )
    head = ("", "own samples, MSE: paper", "preset `paper`", "their z, MSE: preset `paper`")
    head += ("real clips heard right: paper", "preset `paper`", "preset `aligned`", "log-mel correlation", "F0 error")
    body = [
        [
            ROW_TITLES[row],
            papers(1, row, "waveform_mse", ".5f"),
            ours(1, "paper", row, ".5f", "waveform_mse"),
            ours(1, "paper", row, ".3f", "latent_mse"),
            papers(2, row, "accuracy", ".1%").replace("%", " %"),
            ours(2, "paper", row, ".1f %", *heard),
            ours(2, "aligned", row, ".1f %", *heard),
            ours(2, "aligned", row, ".2f", "log_mel_correlation"),
            ours(2, "aligned", row, ".1f", "f0_error"),
        ]
        for row in (*RECOVERY_METHODS, TEMPLATE, CLASS_SAMPLE, SILENCE)
    ]
    return "\n".join([opening, "", *table_lines(head, body)]) + "\n"
