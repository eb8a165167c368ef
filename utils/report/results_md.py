"""RESULTS.md: every table and figure on one page, with what differs from the paper and what the numbers mean."""

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.evaluation.detection import CONDITIONS, LATENTS, SPECTROGRAMS, TAIL_LEVEL, UNTRAINED_LATENTS
from utils.evaluation.rows import ENCODER, GRADIENT, HYBRID, OTHER, SAMPLE, SILENCE
from utils.options import UserError
from utils.report.tables import TITLES, parts_of, read_table, table_markdown
from utils.runs.files import atomic_path, read_json, write_text

FIGURES = {
    2: "Figure 2. Synthetic clips of two digits and what each method makes of them.",
    3: "Figure 3. Real clips of two digits and what each method makes of them.",
    4: "Figure 4. t-SNE of spectrograms and of latents, real and synthetic clips.",
}

INTRODUCTION = """\
# Results

Every table and figure of the paper, made by `make results`. This page is generated: do not edit it.

## What differs from the paper

- **The generator** is {generator}. All numbers depend on it.
- **The budget** is at most {max_iter} iterations for gradient and {hybrid_max_iter} for hybrid, the same for all rows;
  the paper allowed its gradient method 50,000 and its hybrid 200, so rows
  of a search may be short of what it can reach.
- **The clips** are drawn from the validation split by the seed; the published scripts take its first 501.
- **Preset `paper`** reads clips as the published scripts do (stretched by 2.4 %, raised by 3 dB), minimises their loss
  and leaves z free. **Preset `aligned`** reads clips at the rate and level the generator was trained on, minimises a
  multi-resolution STFT distance as well, and keeps z in the prior's box.
- **FID** here is the Frechet distance of a classifier's pooled features between reconstructions and originals, the
  field's usual meaning. The paper does not say whose features its FID takes, and its caption speaks of latent vectors:
  that distance is a column of its own. Neither is comparable with the paper's figure; compare with the floors below it.
- **Accuracy** by the classifier in the loss is circular; the judge, another network on another front end, took part in
  no loss.
- **SSIM**, the paper's, is of signed STFTs and scaled by the range of both clips: silence scores high, and a loud
  reconstruction higher than a quiet one. The log-magnitude column is scaled alike, but hears no phase.
- Inception score and Frechet distances depend on n: compare at equal n only.

## How to read it

Brackets are 95 % bootstrap intervals over clips; `±` is the standard deviation over the {splits} splits of the
inception score. The floors say what doing nothing scores: silence in place of each reconstruction, a random sample of
the generator, and another real clip (which gives the real-against-real Frechet distance at the same n).
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
.venv/bin/python calculate_metrics.py --data {data} --inverse_mapping --gradient --preset paper
.venv/bin/python calculate_metrics.py --data {data} --table 2 --n 40

# The same tables with the official generator and the whole of SC09
.venv/bin/python download.py wavegan-sc09 sc09
.venv/bin/python train.py {official} --generator checkpoint/sc09 --output logs/encoder-sc09
make results GENERATOR=checkpoint/sc09 DATA={official} ENCODER=logs/encoder-sc09 OUTPUT=results/official
```

By the paper's own budget, for days: `calculate_metrics.py --all --preset paper`.
"""
# Folders of Table 3 by preset.
DETECTION = {"paper": "paper", "aligned": "."}
OFFICIAL_DATA = "datasets/sc09"


def write_report(path: Path, folder: Path, data: str) -> None:
    """Writes the page from the tables and figures in a folder; figures are copied beside it, into `figures/`.

    Args:
        path: RESULTS.md.
        folder: of `tableN.json`, `figureN.png` and, for the presets of `DETECTION`, `table3.md` and `table3.json`; what
            is missing is left out and the page says so.
        data: the real clips, as the commands name them.

    Raises:
        UserError: when there is neither Table 1 nor Table 2.
    """
    tables = {number: table for number in TITLES if (table := read_table(folder, number))}
    rows = [row for table in tables.values() for part in parts_of(table).values() for row in part]
    shared = next((row["protocol"] for row in rows if "max_iter" in row["protocol"]), None)
    if shared is None:
        raise UserError(f"--report: no table1.json or table2.json with rows of ours in {folder}; --all makes them")
    generator = BUNDLED_GENERATOR if Path(shared["generator"]) == Path(BUNDLED) else f"`{shared['generator']}`"
    facts = {name: shared[name] for name in ("max_iter", "hybrid_max_iter", "splits")}
    parts = [INTRODUCTION.format(generator=generator, **facts)]
    for number, table in tables.items():
        parts += [f"## {TITLES[number]}\n", table_markdown(table), *_meaning(table)]
    detected = {
        preset: folder / place for preset, place in DETECTION.items() if (folder / place / "table3.md").exists()
    }
    if detected:
        parts += ["## Table 3. Detection\n"]
    for preset, place in detected.items():
        lines = (place / "table3.md").read_text(encoding="utf-8").strip().splitlines()
        table = "\n".join(line for line in lines if not line.startswith("# ")).strip()
        parts += [f"### Preset {preset}\n", table + "\n", _on_detection(preset, read_json(place / "table3.json"))]
    parts += ["## Figures\n"]
    for number, caption in FIGURES.items():
        picture = folder / f"figure{number}.png"
        if picture.exists():
            copy = path.parent / "figures" / picture.name
            with atomic_path(copy) as temporary:
                shutil.copyfile(picture, temporary)
            parts += [f"![{caption}](figures/{picture.name})\n\n{caption}\n"]
    missing = [f"Table {n}" for n in TITLES if n not in tables] + ([] if detected else ["Table 3"])
    missing += [f"Figure {n}" for n in FIGURES if not (folder / f"figure{n}.png").exists()]
    if missing:
        parts += [f"Not made yet: {', '.join(missing)}.\n"]
    parts += [COMMANDS.format(data=data, official=OFFICIAL_DATA)]
    write_text(path, "\n".join(parts))


def _meaning(table: Mapping[str, Any]) -> Iterator[str]:
    """One paragraph per preset that says in words what its numbers mean."""
    for preset, rows in parts_of(table).items():
        found = {row["row"]: row["metrics"] for row in rows}
        sentences = [*_on_sound(found), *_on_digits(found), *_on_latents(found)]
        if sentences:
            yield f"What the numbers of preset {preset} mean. " + " ".join(sentences) + "\n"


def _value(found: Mapping[str, Any], row: str, metric: str) -> float:
    entry = found.get(row, {}).get(metric)
    return math.nan if entry is None else entry["value"]


def _on_sound(found: Mapping[str, Any]) -> Iterator[str]:
    silence = _value(found, SILENCE, "waveform_mse")
    methods = {m: _value(found, m, "waveform_mse") for m in (GRADIENT, ENCODER, HYBRID)}
    methods = {m: mse for m, mse in methods.items() if mse == mse}
    if methods and silence == silence:
        yield (
            f"Silence has MSE {silence:.5f} and SSIM {_value(found, SILENCE, 'ssim'):.4f}, so a number near these says "
            "nothing for a method; "
            + ", ".join(f"{m} has {mse:.5f} and {_value(found, m, 'ssim'):.4f}" for m, mse in methods.items())
            + "."
        )
        worse = [m for m, mse in methods.items() if mse >= silence]
        if worse:
            yield f"As a waveform, {' and '.join(worse)} {'is' if len(worse) == 1 else 'are'} no nearer than silence."


def _on_digits(found: Mapping[str, Any]) -> Iterator[str]:
    heard = {m: _value(found, m, "accuracy/judge") for m in (GRADIENT, ENCODER, HYBRID)}
    heard = {m: share for m, share in heard.items() if share == share}
    if heard:
        best = max(heard, key=heard.get)
        yield (
            f"The judge hears the right digit most often in {best} ({100 * heard[best]:.1f} %); "
            f"by chance it would in about 10 %."
        )
    floor_row = OTHER if OTHER in found else SAMPLE
    floor = _value(found, floor_row, "frechet_distance/judge")
    distances = {m: _value(found, m, "frechet_distance/judge") for m in heard}
    if floor == floor and distances:
        nearest = min(distances, key=distances.get)
        relation = "below" if distances[nearest] < floor else "above"
        yield (
            f"Two disjoint sets of such clips are {floor:.3f} apart (FID by the judge); the best method, {nearest}, "
            f"with {distances[nearest]:.3f}, is {relation} that."
        )


def _on_latents(found: Mapping[str, Any]) -> Iterator[str]:
    errors = {m: _value(found, m, "latent_mse") for m in (GRADIENT, ENCODER, HYBRID)}
    errors = {m: error for m, error in errors.items() if error == error}
    if errors:
        listed = ", ".join(f"{m} {error:.3f}" for m, error in errors.items())
        yield f"Latents: z-MSE is {listed}; always answering z = 0 scores 0.333 and a random answer 0.667."


def _on_detection(preset: str, table: Mapping[str, Any]) -> str:
    """The paragraph below Table 3: the latents beside what is as good without any training."""
    accuracy = {
        (cell["condition"], cell["feature"]): cell["accuracy"]
        for cell in table["cells"]
        if cell["classifier"] == "logistic regression" and cell["tested_on"] == "own"
    }
    names = {
        SPECTROGRAMS: SPECTROGRAMS,
        LATENTS: LATENTS,
        UNTRAINED_LATENTS: "an untrained encoder's answers",
        TAIL_LEVEL: "the level of the last moment alone",
    }
    sentences = [f"What the numbers of preset {preset} mean. Accuracy by logistic regression:"]
    for condition, title in CONDITIONS.items():
        found = [f"{name} {100 * accuracy[condition, feature]:.1f} %" for feature, name in names.items()]
        sentences.append(f'of clips "{title}", {", ".join(found)};')
    gain = accuracy["matched", LATENTS] - accuracy["matched", UNTRAINED_LATENTS]
    relation = "above" if gain > 0 else "not above"
    return (
        " ".join(sentences).rstrip(";") + f". In the last, hardest condition the trained latents are {relation} the "
        f"untrained ({100 * gain:+.1f} points): that difference, not their accuracy, is what training to invert adds.\n"
    )
