"""What the benchmarks recorded, as sections of RESULTS.md: samples and judges; the others have files of their own."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.report.markdown import table_lines
from utils.runs.files import read_jsonl

# What tells two records of one file apart: of equal ones the last counts.
BENCHMARKS = {
    "samples": ("set", "n"),
    "judges": ("set",),
    "recovery": ("method", "batch_size", "clip"),
    "speech": ("split", "method", "space", "objective"),
    "projected": ("space", "weight"),
    "attribution": ("generator_sha256", "set", "transformation"),
}


def read_records(folder: Path, name: str) -> list[dict[str, Any]]:
    """The records of a benchmark in `BENCHMARKS`, the last of equal ones."""
    records = {
        tuple(record.get(key) for key in BENCHMARKS[name]): record for record in read_jsonl(folder / f"{name}.jsonl")
    }
    return list(records.values())


def samples_markdown(records: Iterable[Mapping[str, Any]]) -> str:
    """What studies/samples.py measured: a row a measure, a column a set of clips."""
    columns = {f"{record['set']}, n = {record['n']:,}": numbers_of(record) for record in records}
    rows = []
    for measure in dict.fromkeys(name for numbers in columns.values() for name in numbers):
        cells = [format(numbers[measure], ".4g") if measure in numbers else "–" for numbers in columns.values()]
        rows.append([measure.replace("_", " ").replace("/", ", "), *cells])
    return "\n".join(table_lines(["", *columns], rows)) + "\n"


def judges_markdown(records: Iterable[Mapping[str, Any]]) -> str:
    """What studies/judges.py measured: right answers, inception score and confidence of each classifier; equal
    answers of each pair."""
    sets = {f"{record['set']}, n = {record['n']:,}": record for record in records}
    subjects = dict.fromkeys(
        who for record in sets.values() for who, facts in record.items() if isinstance(facts, dict)
    )
    rows = []
    for who in subjects:
        measures = {
            f"{who}: right (95 % interval)": ("accuracy", "from", "to"),
            f"{who}: inception score": ("inception_score",),
            f"{who}: answers at p >= 0.9": ("confident",),
            f"same answer of {' and '.join(who.split(', '))}": ("agreement",),
        }
        for title, names in measures.items():
            cells = [_judged(record.get(who, {}), names) for record in sets.values()]
            if any(cell != "–" for cell in cells):
                rows.append([title, *cells])
    return "\n".join(table_lines(["", *sets], rows)) + "\n"


def _judged(facts: Mapping[str, float], names: tuple[str, ...]) -> str:
    if names[0] not in facts:
        return "–"
    if names[0] == "inception_score":
        return f"{facts[names[0]]:.2f}"
    interval = " ({:.1f} to {:.1f})".format(*(100 * facts[name] for name in names[1:])) if len(names) > 1 else ""
    return f"{100 * facts[names[0]]:.1f} %{interval}"


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The measures of a record of studies/samples.py."""
    return {
        name: value
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("n", "seed")
    }
