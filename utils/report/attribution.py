"""What studies/attribution.py recorded, as a section of RESULTS.md."""

from collections.abc import Iterable, Mapping
from typing import Any

from utils.evaluation.attribution import ABSTAINS, MADE, MEASURES, NOT
from utils.report.markdown import table_lines

TITLES = {"auroc": "AUROC", "tpr_at_1_fpr": "found at 1 % false alarms", "eer": "equal error rate"}
METHODS = ("inversion", "fingerprint")


def attribution_markdown(records: Iterable[Mapping[str, Any]]) -> str:
    """By generator, the first without a heading: a table of what own samples are told from, one of what they survive;
    brackets are 95 % bootstrap intervals."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["generator_sha256"], []).append(record)
    first, *others = groups.values()
    return _section(first) + "".join(
        f"\n### With `{group[0]['generator']}` as the generator\n\n"
        f"What that is: [benchmarks/README.md](benchmarks/README.md).\n\n{_section(group)}"
        for group in others
    )


def _section(records: list[Mapping[str, Any]]) -> str:
    plain = [record for record in records if record["transformation"] == "none"]
    own = next(record for record in plain if record["set"] == "own samples")
    others = [record for record in plain if record is not own]
    titles = [f"{TITLES[measure]}, {method}" for method in METHODS for measure in MEASURES]
    lines = [
        f"Own samples against clips of other origin, n = {own['n']} of each unless a row says otherwise, all of "
        "16 bits. Inversion: what is left of a clip after the search for its latent (`attribute.py`). Fingerprint: the "
        "cheap baseline, correlation with the mean residual of own samples (arXiv 2411.14013).\n",
        *table_lines(["told from", *titles], [[_name(record, own), *_separation(record)] for record in others]),
        "",
        _verdicts(plain, "clips"),
        f"\nMedian score of own samples {own['median_score']:.2f}, {own['exact']} of {own['n']} met to the rounding of "
        f"their samples; {own['seconds']:.1f} s a clip.\n",
    ]
    changed = [record for record in records if record["transformation"] != "none"]
    pairs = [record for record in changed if record["set"] != "own samples"]
    if pairs:
        lines += [
            f"Both classes after a transformation, own samples against real clips, n = {pairs[0]['n']} of each; then "
            "the verdicts by the thresholds of untouched clips:\n",
            *table_lines(
                ["transformation", *titles], [[record["transformation"], *_separation(record)] for record in pairs]
            ),
            "",
            _verdicts([record for record in changed if record["set"] == "own samples"], "own samples after"),
        ]
    return "\n".join(lines) + "\n"


def _name(record: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    return record["set"] if record["n"] == own["n"] else f"{record['set']} (n = {record['n']})"


def _separation(record: Mapping[str, Any]) -> list[str]:
    return [_interval(record[method][measure], measure) for method in METHODS for measure in MEASURES]


def _interval(value: tuple[float, float, float], measure: str) -> str:
    if measure == "auroc":
        return "{:.3f} ({:.3f} to {:.3f})".format(*value)
    return "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * x for x in value))


def _verdicts(records: list[Mapping[str, Any]], title: str) -> str:
    """A table of the verdicts' shares."""
    rows = []
    for record in records:
        name = record["set"] if record["transformation"] == "none" else record["transformation"]
        shares = [f"{100 * record['verdicts'][verdict] / record['n']:.1f} %" for verdict in (MADE, ABSTAINS, NOT)]
        rows.append([name, *shares, f"{record['median_score']:z.2f}"])
    return "\n".join(table_lines([title, MADE, ABSTAINS, NOT, "median score"], rows))
