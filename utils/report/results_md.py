"""RESULTS.md: every table and figure on one page, with what the numbers say and what differs from the paper.

Example:
    # From what calculate_metrics.py and deepfake_detection.py wrote into a folder (`make results` does all of it)
    python -m utils.report.results_md results/tables --output RESULTS.md
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from utils import options
from utils.evaluation.names import (
    CONDITIONS,
    LATENTS,
    LOGISTIC_REGRESSION,
    OTHER,
    RECOVERY_METHODS,
    SAMPLE,
    SILENCE,
    SPECTROGRAMS,
    TAIL_LEVEL,
    UNTRAINED_LATENTS,
)
from utils.options import UserError
from utils.report.tables import TITLES, judges_of, parts_of, read_table, source_title, table_markdown
from utils.runs.files import atomic_path, write_text

FIGURES = {
    2: "Figure 2. Synthetic clips of two digits and what each method makes of them.",
    3: "Figure 3. Real clips of two digits and what each method makes of them.",
    4: "Figure 4. t-SNE of spectrograms and of latents, real and synthetic clips.",
}

OPENING = """\
# Results

Every table and figure of the paper, made by `make results`. This page is generated: do not edit it.

{summary}
"""

INTRODUCTION = """\
## What differs from the paper

- **The generator** is {generator}. All numbers depend on it.
- **The budget** is at most {max_iter} iterations for gradient and {hybrid_max_iter} for hybrid, the same for all rows;
  the paper allowed its gradient method 50,000 and its hybrid 200, so rows
  of a search may be short of what it can reach.
- **The clips** are drawn from the {split} split by the seed; the published scripts take the first 501 of all
  validation clips.
- **Preset `paper`** reads clips as the published scripts do (stretched by 2.4 %, raised by 3 dB), minimises their loss
  and leaves z free. **Preset `aligned`** reads clips at the rate and level the generator was trained on, minimises a
  multi-resolution STFT distance as well, and keeps z in the prior's box.
- **FID** here is the Frechet distance of a classifier's pooled features between reconstructions and originals, the
  field's usual meaning. The paper does not say whose features its FID takes, and its caption speaks of latent vectors:
  that distance is a column of its own. Neither is comparable with the paper's figure; compare with the floors below it.
- **Accuracy** by the classifier in the loss is circular; the judges, two networks on other front ends that were
  trained on other clips, took part in no loss.
- **SSIM**, the paper's, is of signed STFTs and scaled by the range of both clips: silence scores high, and a loud
  reconstruction higher than a quiet one. The log-magnitude column is scaled alike, but knows no phase.
- Inception score and Frechet distances depend on n: compare at equal n only.

## How to read it

Brackets are 95 % bootstrap intervals over clips; the tables' CSV files have them as columns low and high, and the
standard deviation over the {splits} splits of the inception score. The floors say what doing nothing scores: silence in
place of each reconstruction, a random sample of the generator, and another real clip (which gives the real-against-real
Frechet distance at the same n).
"""

BUNDLED = "checkpoint"
BUNDLED_GENERATOR = (
    "the small WaveGAN that comes with the project, trained on 7,000 digits, not the published one of 18,620; encoder\n"
    "  and classifier are small, too"
)

COMMANDS = """\
## The commands

```
make results                    # this page and all that is on it; goes on where it was stopped
make results N=40               # a first look in a few minutes; its page is results/tables-40/RESULTS.md

# One row; one table
.venv/bin/python calculate_metrics.py {input} --inverse_mapping --gradient --preset paper
.venv/bin/python calculate_metrics.py {input} --table 2 --n 40

# The same tables with the official generator and the whole of SC09
.venv/bin/python download.py wavegan-sc09 sc09
.venv/bin/python train.py {official} --generator checkpoint/sc09 --output logs/encoder-sc09
make results GENERATOR=checkpoint/sc09 DATA={official} ENCODER=logs/encoder-sc09 OUTPUT=results/official
```

By the paper's own budget, for days: `calculate_metrics.py --all --preset paper`.
"""
OFFICIAL_DATA = "datasets/sc09"


def main() -> None:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "folder of tableN.json and figureN.png")
    parser.add_argument("--output", type=Path, default=Path("RESULTS.md"), metavar="FILE", help="the page")
    args = parser.parse_args()
    write_results(args.output, args.input)
    print(args.output)


def write_results(path: Path, folder: Path) -> None:
    """Writes the page from the tables and figures in a folder; figures are copied beside it, into `figures/`.

    Args:
        path: RESULTS.md.
        folder: of `tableN.json` and `figureN.png`; what is missing is left out and the page says so.

    Raises:
        UserError: when there is neither Table 1 nor Table 2.
    """
    tables = {number: table for number in TITLES if (table := read_table(folder, number))}
    protocols = [
        row["protocol"] for n in (1, 2) if n in tables for rows in parts_of(tables[n]).values() for row in rows
    ]
    shared = next((protocol for protocol in protocols if "max_iter" in protocol), None)
    if shared is None:
        raise UserError(
            f"{folder}: no table1.json or table2.json with rows of ours; calculate_metrics.py --all makes them"
        )
    generator = BUNDLED_GENERATOR if Path(shared["generator"]) == Path(BUNDLED) else f"`{shared['generator']}`"
    facts = {name: shared[name] for name in ("max_iter", "hybrid_max_iter", "splits")}
    real = next((protocol for protocol in protocols if "input" in protocol), {})
    facts["split"] = real.get("split", "report")
    summary = "\n".join(f"- {line}" for line in summarise(tables, shared))
    parts = [OPENING.format(summary=summary), INTRODUCTION.format(generator=generator, **facts)]
    for number, table in tables.items():
        parts += [f"## {TITLES[number]}\n", table_markdown(table)]
    parts += ["## Figures\n"]
    for number, caption in FIGURES.items():
        picture = folder / f"figure{number}.png"
        if picture.exists():
            copy = path.parent / "figures" / picture.name
            with atomic_path(copy) as temporary:
                shutil.copyfile(picture, temporary)
            parts += [f"![{caption}](figures/{picture.name})\n\n{caption}\n"]
    missing = [f"Table {n}" for n in TITLES if n not in tables]
    missing += [f"Figure {n}" for n in FIGURES if not (folder / f"figure{n}.png").exists()]
    if missing:
        parts += [f"Not made yet: {', '.join(missing)}.\n"]
    parts += [COMMANDS.format(input=real.get("input", OFFICIAL_DATA), official=OFFICIAL_DATA)]
    write_text(path, "\n".join(parts))


# ---- the summary ----------------------------------------------------------------

Metrics = Mapping[str, Mapping[str, Any]]  # of each row, by name


def summarise(tables: Mapping[int, Mapping[str, Any]], protocol: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers say, at most ten lines.

    Args:
        tables: those that there are, by number, as `read_table` gives them.
        protocol: of a searched row.
    """
    yield (
        f"{protocol['n']} clips a row, seed {protocol['seed']}; searches of at most {protocol['max_iter']} (gradient) "
        f"and {protocol['hybrid_max_iter']} (hybrid) iterations; numbers of gradient / encoder / hybrid in this order."
    )
    by_table = {
        1: {
            "Synthetic clips, as waveforms (MSE)": _on_waveforms,
            "Their digits": _by_judges(_on_digits),
            "Their FID": _by_judges(_on_distances),
            "Their latents (z-MSE)": lambda metrics: _on_latents(metrics, protocol["prior_variance"]),
        },
        2: {
            "Real clips, as waveforms (MSE)": _on_waveforms,
            "Without their phase (log-magnitude SSIM)": _on_spectrograms,
            "Their digits": _by_judges(_on_digits),
            "Their FID": _by_judges(_on_distances),
        },
        3: {"Detection, by logistic regression": _on_detection},
    }
    for number, statements in by_table.items():
        if number in tables:
            yield from _lines(tables[number], statements)


Said = tuple[str, str] | None  # of one preset's numbers, and what they are to be compared with


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
            f"{source_title(whose)} {numbers}" + (f" ({remark})" if len(remarks) > 1 else "")
            for (numbers, remark), whose in said.items()
        ]
        if parts:
            yield f"{title}: {'; '.join(parts)}" + (f" ({remarks.pop()})" if len(remarks) == 1 else "") + "."


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
    beaten = sum(values[m] < silence for m in methods)
    return _of_methods(values, ".3f"), f"silence {silence:.3f}, above {beaten} of {len(methods)}"


def _on_digits(metrics: Metrics, judge: str) -> Said:
    values = {row: 100 * share for row, share in _values(metrics, f"accuracy/{judge}").items()}
    methods = [m for m in RECOVERY_METHODS if m in values]
    if not methods:
        return None
    best = max(methods, key=values.get)
    sample = f", of random samples {values[SAMPLE]:.1f} %" if SAMPLE in values else ""
    return f"{_of_methods(values, '.1f')} % right", f"best {best}{sample}"


def _on_distances(metrics: Metrics, judge: str) -> Said:
    values = _values(metrics, f"frechet_distance/{judge}")
    floor = values.get(OTHER if OTHER in metrics else SAMPLE)
    methods = [m for m in RECOVERY_METHODS if m in values]
    if floor is None or not methods:
        return None
    nearest = min(methods, key=values.get)
    relation = "below" if values[nearest] < floor else "above"
    return _of_methods(values, ".3f"), f"two disjoint sets of such clips {floor:.3f}, {nearest} is {relation} that"


def _on_latents(metrics: Metrics, variance: float) -> Said:
    values = _values(metrics, "latent_mse")
    if not any(m in values for m in RECOVERY_METHODS):
        return None
    floors = f"always answering z = 0 scores {variance:.3f}, another draw {2 * variance:.3f}"
    return _of_methods(values, ".3f"), floors


def _on_detection(part: Mapping[str, Any]) -> Said:
    """The latents beside what is as good without any training, in the last, hardest condition that was tried."""
    accuracy = {
        (cell["condition"], cell["feature"]): 100 * cell["accuracy"]
        for cell in part["cells"]
        if cell["classifier"] == LOGISTIC_REGRESSION and cell["tested_on"] == "own"
    }
    hardest = [condition for condition in CONDITIONS if (condition, LATENTS) in accuracy][-1]
    named = (LATENTS, SPECTROGRAMS, UNTRAINED_LATENTS, TAIL_LEVEL)
    listed = [f"{name} {accuracy[hardest, name]:.1f} %" for name in named if (hardest, name) in accuracy]
    if (hardest, UNTRAINED_LATENTS) in accuracy:
        gain = accuracy[hardest, LATENTS] - accuracy[hardest, UNTRAINED_LATENTS]
        listed.append(f"training to invert adds {gain:+.1f} points to the latents")
    return ", ".join(listed), f"clips: {CONDITIONS[hardest]}"


if __name__ == "__main__":
    options.run(main)
