"""What the numbers say, in at most five sentences, each with its number, n and 95 % interval: RESULTS.md opens with
them. The words better, worse and not decided are those of `utils.evaluation.comparison`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studies import attribution, recovery
from utils.evaluation.attribution import MADE
from utils.evaluation.comparison import NOT_DECIDED, share_interval, verdict
from utils.evaluation.names import (
    CLASS_BASELINES,
    CONDITIONS,
    ENCODER,
    HYBRID,
    LATENTS,
    LOGISTIC_REGRESSION,
    SPECTROGRAMS,
)
from utils.inversion.exactness import FOUND_Z_MSE
from utils.report.tables import judges_of, parts_of

ALIGNED = "aligned"
Lines = Sequence[Mapping[str, Any]]


def claims(tables: Mapping[int, Mapping[str, Any]], lines: Mapping[str, Lines]) -> list[str]:
    """The sentences for which there are numbers.

    Args:
        tables: by number, as `utils.report.tables.read_table` gives them.
        lines: of the studies, by name.
    """
    rows = {row["row"]: row for row in parts_of(tables[2]).get(ALIGNED, [])} if 2 in tables else {}
    said = [
        _on_own_samples(lines.get("recovery", ())),
        _on_digits(rows),
        _on_the_hybrid(rows),
        _on_detection(parts_of(tables[3]).get(ALIGNED) if 3 in tables else None),
        _on_attribution(lines.get("attribution", ())),
    ]
    return [sentence for sentence in said if sentence]


def share_text(successes: float, n: int) -> str:
    """`93.8 % (91.3 to 95.7)`."""
    low, high = share_interval(successes, n)
    return f"{100 * successes / n:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _on_own_samples(lines: Lines) -> str:
    """How often the latent of an own sample is found, by each kind of search."""
    parts = []
    for method, found in recovery.found_by_method(lines).items():
        if method in (recovery.SEARCH, HYBRID, recovery.PUBLISHED):
            parts.append(f"by {recovery.SEARCHES[method]} for {share_text(sum(found), len(found))} of {len(found)}")
    if not parts:
        return ""
    return f"**The latent of own samples is found** (z-MSE at most {FOUND_Z_MSE:g}) {'; '.join(reversed(parts))}."


def _on_digits(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """How many reconstructions of real clips keep their digit, and of the better class-conditional baseline."""
    judges = judges_of(row["metrics"] for row in rows.values())
    parts = []
    for judge in judges:
        known = {name: row["metrics"].get(f"accuracy/{judge}") for name, row in rows.items()}
        baselines = [known[name] for name in CLASS_BASELINES if known.get(name)]
        if known.get(HYBRID) and baselines:
            best = max(baselines, key=lambda estimate: estimate["value"])
            parts.append(
                f"{_estimate(known[HYBRID])} by {judge} (the better class-conditional baseline: {_estimate(best)})"
            )
    if not parts:
        return ""
    n = rows[HYBRID]["protocol"]["n"]
    return (
        f"**Real clips keep their digit**: the hybrid's reconstructions of {n} clips are judged correct for "
        f"{' and '.join(parts)}."
    )


def _on_the_hybrid(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether the hybrid is better than the encoder on real clips, by which judge."""
    parts = []
    for judge in judges_of(row["metrics"] for row in rows.values()):
        metric = f"accuracy/{judge}"
        pair = [rows[name]["metrics"].get(metric) for name in (ENCODER, HYBRID) if name in rows]
        if len(pair) == 2 and all(pair):
            said = verdict(rows, HYBRID, ENCODER, metric)
            encoder, hybrid = map(_estimate, pair)
            parts.append(f"{said} by {judge} ({encoder} to {hybrid}, n = {pair[1]['n']})")
    if not parts:
        return ""
    return f"**On real clips the hybrid, compared with the encoder, is** {', '.join(parts)}; the paper finds it worse."


def _on_detection(part: Mapping[str, Any] | None) -> str:
    """The paper's claim of Table 3, on the clips as they are and in the last, hardest condition that was tried."""
    if not part:
        return ""
    cells = {(c["condition"], c["feature"]): c for c in _own_cells(part)}
    conditions = [c for c in CONDITIONS if (c, LATENTS) in cells and (c, SPECTROGRAMS) in cells]
    parts = []
    for condition in dict.fromkeys(conditions[:1] + conditions[-1:]):
        latents, spectrograms = cells[condition, LATENTS], cells[condition, SPECTROGRAMS]
        said = latents.get("against", {}).get(SPECTROGRAMS, {}).get("verdict", NOT_DECIDED)
        numbers = " against ".join(
            f"{100 * cell['accuracy']:.1f} % ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})"
            for cell in (latents, spectrograms)
        )
        parts.append(f"{said} on clips {'as they are' if condition == conditions[0] else condition} ({numbers})")
    if not parts:
        return ""
    facts = part["protocol"]
    return (
        f"**Latents tell real from synthetic, compared with spectrograms,** {'; '.join(parts)}, by logistic "
        f"regression, n = {facts['n']} of each kind, {facts['repeats']} draws; the paper finds them better."
    )


def _own_cells(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for cell in part["cells"]:
        if cell["tested_on"] == "own" and cell["classifier"] == LOGISTIC_REGRESSION:
            yield cell


def _on_attribution(lines: Lines) -> str:
    """How many own samples and how many clips of other origin pass as made by the generator."""
    first = next((line["generator_sha256"] for line in lines), None)
    plain = [line for line in lines if line["transformation"] == "none" and line["generator_sha256"] == first]
    own = next((line for line in plain if line["set"] == attribution.OWN), None)
    others = [line for line in plain if line is not own]
    if not own or not others:
        return ""
    n = sum(line["n"] for line in others)
    passed = sum(line["verdicts"][MADE] for line in others)
    made = share_text(own["verdicts"][MADE], own["n"])
    return (
        f"**Own samples are attributed to the generator** in {made} of {own['n']}, clips of other origin in "
        f"{share_text(passed, n)} of {n}."
    )


def _estimate(estimate: Mapping[str, float]) -> str:
    text = f"{100 * estimate['value']:.1f} %"
    return text + (f" ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})" if "low" in estimate else "")
