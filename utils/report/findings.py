"""What the numbers of the tables say, in at most ten lines: RESULTS.md opens with them; numbers choose the words."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from utils.evaluation.names import (
    CLASS_SAMPLE,
    CLIPPED_LATENTS,
    CONDITIONS,
    ENCODER,
    HYBRID,
    LATENTS,
    LOGISTIC_REGRESSION,
    LOOK_UPS,
    RECOVERY_METHODS,
    SILENCE,
    SPECTROGRAMS,
    SVM,
    TEMPLATE,
    UNTRAINED_LATENTS,
)
from utils.metrics import OCTAVE
from utils.report import published
from utils.report.tables import judges_of, parts_of, source_title

Metrics = Mapping[str, Mapping[str, Any]]  # of each row, by name
Said = tuple[str, str] | None  # of one preset's numbers, and what they are to be compared with
# What a look-up fails: title, metric, decimals, whether more of it is better.
OF_SOUND = (
    ("log-mel correlation", "log_mel_correlation", "2", True),
    ("STFT distance", "stft_distance", "2", False),
    ("F0 error in semitones", "f0_error", "1", False),
)
CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "not decided"
RECONSTRUCTED = "real, reconstructed"  # the set of studies/judges.py


def findings(
    tables: Mapping[int, Mapping[str, Any]], protocol: Mapping[str, Any], judges: Sequence[Mapping[str, Any]] = ()
) -> Iterator[str]:
    """The lines.

    Args:
        tables: those that there are, by number, as `read_table` gives them.
        protocol: of a searched row.
        judges: records of studies/judges.py.
    """
    limits = " and ".join(
        f"{protocol[option]:,} ({method}; the paper {papers:,})"
        for method, (option, papers) in published.LIMITS.items()
    )
    yield (
        f"{protocol['n']} clips a row, seed {protocol['seed']}; searches of at most {limits} iterations; numbers of "
        "gradient / encoder / hybrid in this order."
    )
    by_table = {
        2: {
            "**Real clips that are heard right**": _by_judges(_on_digits),
            "What look-ups fail on real clips": _on_sound,
            "**The statement of the paper's authors' thesis that the hybrid does not help on real audio**": _on_hybrid,
            "Real clips, as waveforms (MSE)": _on_waveforms,
            "Without their phase (log-magnitude SSIM)": _on_spectrograms,
        },
        1: {
            "Synthetic clips, as waveforms (MSE)": _on_waveforms,
            "Their latents (z-MSE)": lambda metrics: _on_latents(metrics, protocol["prior_variance"]),
        },
        3: {
            "**The paper's claim of Table 3, that latents tell real from synthetic better than spectrograms**": (
                _on_detection
            )
        },
    }
    for number, statements in by_table.items():
        if number in tables:
            yield from _lines(tables[number], statements)
    yield from _on_judges(judges)


def _by_judges(statement: Callable[[Metrics, str], Said]) -> Callable[[Metrics], Said]:
    """A statement for each of the judges, in one."""

    def statements(metrics: Metrics) -> Said:
        said = {judge: statement(metrics, judge) for judge in judges_of(metrics.values())}
        named = [[f"{judge}: {part}" for part in parts] for judge, parts in said.items() if parts]
        return tuple("; ".join(parts) for parts in zip(*named, strict=True)) or None

    return statements


def _lines(table: Mapping[str, Any], statements: Mapping[str, Callable[[Any], Said]]) -> Iterator[str]:
    """A line for each statement that a table has the numbers for; what two presets have in common is said once."""
    for title, statement in statements.items():
        said: dict[tuple[str, str], list[str]] = {}
        for preset, part in parts_of(table).items():
            text = statement(part if table["table"] == 3 else {row["row"]: row["metrics"] for row in part})
            if text:
                said.setdefault(text, []).append(preset)
        remarks = {remark for _, remark in said}
        parts = [
            f"{source_title(whose)} {numbers}" + (f" ({remark})" if remark and len(remarks) > 1 else "")
            for (numbers, remark), whose in said.items()
        ]
        shared = remarks.pop() if len(remarks) == 1 else ""
        if parts:
            yield f"{title}: {'; '.join(parts)}" + (f" ({shared})" if shared else "") + "."


def _values(metrics: Metrics, metric: str) -> dict[str, float]:
    """Of each row that has the metric."""
    return {row: entries[metric]["value"] for row, entries in metrics.items() if entries.get(metric)}


def _of_methods(values: Mapping[str, float], form: str) -> str:
    """Of the paper's three methods, where there are numbers: `0.5 / 0.4 / 0.3`."""
    return " / ".join(format(values[method], form) if method in values else "–" for method in RECOVERY_METHODS)


def _on_waveforms(metrics: Metrics) -> Said:
    values = _values(metrics, "waveform_mse")
    silence, methods = values.get(SILENCE), [m for m in RECOVERY_METHODS if m in values]
    if silence is None or not methods:
        return None
    worse = [m for m in methods if values[m] >= silence]
    verdict = f"no nearer than that: {', '.join(worse)}" if worse else "all are nearer"
    return _of_methods(values, ".5f"), f"silence {silence:.5f}; {verdict}"


def _on_spectrograms(metrics: Metrics) -> Said:
    values = _values(metrics, "ssim_log_magnitude")
    silence, methods = values.get(SILENCE), [m for m in RECOVERY_METHODS if m in values]
    if silence is None or not methods:
        return None
    beaten = [m for m in methods if values[m] < silence]
    verdict = f"above {', '.join(beaten)}" if beaten else "below all"
    if len(beaten) == len(methods):
        verdict = "above all, so the measure rewards emptiness and nothing here is concluded from it"
    return _of_methods(values, ".3f"), f"silence {silence:.3f}, {verdict}"


def _on_digits(metrics: Metrics, judge: str) -> Said:
    """The methods beside the look-ups, which invert nothing."""
    values = {row: 100 * share for row, share in _values(metrics, f"accuracy/{judge}").items()}
    methods, look_ups = ([m for m in group if m in values] for group in (RECOVERY_METHODS, LOOK_UPS))
    if not methods:
        return None
    if not look_ups:
        return f"{_of_methods(values, '.1f')} %", f"best {max(methods, key=values.get)}"
    best = max(values[m] for m in look_ups)
    ahead = [m for m in methods if values[m] > best]
    verdict = f"below {', '.join(ahead)}"
    if not ahead:
        verdict = "ahead of all methods, so accuracy alone is no evidence of inversion"
    named = {TEMPLATE: "one waveform a digit", CLASS_SAMPLE: "a random sample of the digit"}
    floors = ", ".join(f"{named[m]} {values[m]:.1f} %" for m in look_ups)
    return f"{_of_methods(values, '.1f')} %", f"look-ups, which invert nothing, are {verdict}: {floors}"


def _on_sound(metrics: Metrics) -> Said:
    """Measure by measure, which methods beat the better look-up beyond the intervals."""
    parts = []
    for title, metric, decimals, more in OF_SOUND:
        known = {row: entries[metric] for row, entries in metrics.items() if entries.get(metric)}
        look_ups, methods = ([m for m in group if m in known] for group in (LOOK_UPS, RECOVERY_METHODS))
        if look_ups and methods:
            best = (max if more else min)((known[m] for m in look_ups), key=lambda estimate: estimate["value"])
            winners = [m for m in methods if _better(known[m], best, more)]
            form = f".{decimals}f"
            numbers = f"{_of_methods(_values(metrics, metric), form)} against {best['value']:{form}}"
            if metric == "f0_error":
                numbers = numbers.replace(f"{OCTAVE:{form}}", f"{OCTAVE:{form}} (no common pitch)", 1)
            parts.append(f"{title} {numbers} (beaten by {', '.join(winners) or 'none'})")
    return ("; ".join(parts), "the methods against the better look-up") if parts else None


def _better(a: Mapping[str, float], b: Mapping[str, float], more: bool) -> bool:
    """Whether an estimate is better than another beyond both intervals."""
    return a["low"] > b["high"] if more else a["high"] < b["low"]


def _on_hybrid(metrics: Metrics) -> Said:
    """Whether more clips are heard right after the search than before it, beyond the intervals, by which judges."""
    judges = [j for j in judges_of(metrics.values()) if _both(metrics, f"accuracy/{j}")]
    if not judges:
        return None
    heard, parts = {judge: _both(metrics, f"accuracy/{judge}") for judge in judges}, []
    for judge, (encoder, hybrid) in heard.items():
        parts.append(f"{judge} {100 * encoder['value']:.1f} to {100 * hybrid['value']:.1f} %")
    helped = [judge for judge, (encoder, hybrid) in heard.items() if _better(hybrid, encoder, True)]
    if helped:
        verdict = REFUTED if helped == judges else f"{REFUTED} by {', '.join(helped)} alone"
    else:
        more = any(hybrid["value"] > encoder["value"] for encoder, hybrid in heard.values())
        verdict = UNDECIDED if more else CONFIRMED
    changes = {"nearer": [], "farther": []}
    for title, metric, _, more in (*OF_SOUND, ("MSE", "waveform_mse", "5", False)):
        if pair := _both(metrics, metric):
            encoder, hybrid = pair
            if _better(hybrid, encoder, more):
                changes["nearer"].append(title)
            elif _better(encoder, hybrid, more):
                changes["farther"].append(title)
    near = "".join(f"; {how} in {', '.join(titles)}" for how, titles in changes.items() if titles)
    return f"{verdict} (encoder to hybrid: heard right by {', by '.join(parts)}{near})", ""


def _both(metrics: Metrics, metric: str) -> tuple[Mapping[str, float], Mapping[str, float]] | None:
    """A metric's estimates for the encoder and for the hybrid."""
    found = [metrics.get(row, {}).get(metric) for row in (ENCODER, HYBRID)]
    return tuple(found) if all(found) else None


def _on_latents(metrics: Metrics, variance: float) -> Said:
    values = _values(metrics, "latent_mse")
    if not any(m in values for m in RECOVERY_METHODS):
        return None
    floors = f"always answering z = 0 scores {variance:.3f}, another draw {2 * variance:.3f}"
    return _of_methods(values, ".3f"), floors


def _on_detection(part: Mapping[str, Any]) -> Said:
    """The claim on the clips as they are, as in the paper, and in the last, hardest condition that was tried."""
    cells = {(c["condition"], c["feature"], c["classifier"]): c for c in part["cells"] if c["tested_on"] == "own"}
    conditions = [c for c in CONDITIONS if (c, LATENTS, LOGISTIC_REGRESSION) in cells]
    texts, doubts = zip(*(_on_condition(cells, c) for c in dict.fromkeys((conditions[0], conditions[-1]))), strict=True)
    follows = "so to tell them apart by latents says how clips were made, not that their z was found"
    return "; ".join(texts), follows if any(doubts) else "nothing simpler does as well"


def _on_condition(cells: Mapping[tuple[str, str, str], Mapping[str, float]], condition: str) -> tuple[str, bool]:
    """What is to be said, and whether something that inverts nothing does as well as the latents."""

    def accuracy(feature: str, classifier: str = LOGISTIC_REGRESSION) -> Mapping[str, float] | None:
        return cells.get((condition, feature, classifier))

    def as_good(feature: str) -> bool:
        return accuracy(feature)["high"] >= accuracy(LATENTS)["low"]

    pairs = [(accuracy(LATENTS, c), accuracy(SPECTROGRAMS, c)) for c in (LOGISTIC_REGRESSION, SVM)]
    pairs = [(latents, spectrograms) for latents, spectrograms in pairs if latents and spectrograms]
    verdict = UNDECIDED
    if all(latents["high"] < spectrograms["low"] for latents, spectrograms in pairs):
        verdict = "reversed"
    elif all(latents["low"] > spectrograms["high"] for latents, spectrograms in pairs):
        verdict = "holds"
    several = (LATENTS, CLIPPED_LATENTS, SPECTROGRAMS, UNTRAINED_LATENTS)
    single = [f for c, f, k in cells if c == condition and k == LOGISTIC_REGRESSION and f not in several]
    named = {LATENTS: "latents", SPECTROGRAMS: SPECTROGRAMS, UNTRAINED_LATENTS: "an untrained encoder's answers"}
    if single:
        best = max(single, key=lambda feature: accuracy(feature)["accuracy"])
        named[best] = f"one number ({best})"
    listed = [f"{title} {100 * accuracy(f)['accuracy']:.1f} %" for f, title in named.items() if accuracy(f)]
    equals = [title for f, title in named.items() if f not in (LATENTS, SPECTROGRAMS) and accuracy(f) and as_good(f)]
    also = f"; as good as the latents: {' and '.join(equals)}" if equals else ""
    return f"{verdict} on clips {CONDITIONS[condition]} ({', '.join(listed)}{also})", bool(equals)


def _on_judges(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Whether the judges are nearer to each other than to the classifier in the loss, on reconstructions."""
    for record in records:
        if record["set"] == RECONSTRUCTED:
            differ = {pair: 100 * (1 - facts["agreement"]) for pair, facts in record.items() if ", " in pair}
            with_loss = {pair: share for pair, share in differ.items() if "classifier" in pair.split(", ")}
            apart = {pair: share for pair, share in differ.items() if pair not in with_loss}
            if with_loss and apart:
                reached = max(apart.values()) < min(with_loss.values())
                verdict = "nearer to each other than to it" if reached else "no nearer to each other than to it"
                named = ", ".join(f"{pair.split(', ')[1]} {share:.1f} %" for pair, share in with_loss.items())
                yield (
                    "Who judges: two networks of which neither is ever a loss, a critic or a selector; of "
                    f"{record['n']} real clips reconstructed by the encoder they name another digit than each other "
                    f"in {max(apart.values()):.1f} %, than the loss's classifier: {named} ({verdict})."
                )
