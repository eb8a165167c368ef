"""RESULTS.md: what was found, Tables 1 to 3, plots with intervals, what differs from the paper, and the CSV files.

All its numbers come from JSON lines: table1.jsonl, table2.jsonl and table3.jsonl of calculate_metrics.py and
deepfake_detection.py, and those of the studies. Those of the published page are in results/published.

Examples:
    # The published page again, from the published lines alone; with it the numbers of README.md
    python -m studies.results_md --readme README.md

    # From what was just measured into a folder, publishing its lines (`make results` does all of it)
    python -m studies.results_md results/tables --publish results/published
"""

import argparse
import csv
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import options

PUBLISHED = Path("results/published")


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "folder of the JSON lines, and of figureN.png where they are new", str(PUBLISHED))
    parser.add_argument("--output", type=Path, default=Path("RESULTS.md"), metavar="FILE", help="the page")
    readme = "also put the numbers between <!-- results --> and <!-- /results --> of this file (default: none)"
    parser.add_argument("--readme", type=Path, metavar="FILE", help=readme)
    target = "first copy the folder's lines into this one, of which the page is made then (default: none)"
    parser.add_argument("--publish", type=Path, metavar="DIR", help=target)
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
from models.generator import load_generator
from studies import attribution, formats, judges, projected, recovery, samples, speech
from studies.claims import claims
from studies.short_tables import (
    detection_figure,
    detection_markdown,
    readme_markdown,
    table_figure,
    table_markdown,
)
from utils.bundled import bundled
from utils.errors import UserError
from utils.report.figures import save_figure
from utils.report.markdown import table_lines
from utils.report.origin import origin_of
from utils.report.tables import TITLES, detection_csv, lines_of, read_table, table_csv
from utils.runs.files import atomic_path, read_jsonl, to_json, write_text

# In the order of the page. Each has a TITLE, a KEY that tells two of its lines apart, ABOUT its file, and but for
# samples a `figure` of its lines.
STUDIES = {
    "recovery": recovery,
    "formats": formats,
    "judges": judges,
    "speech": speech,
    "projected": projected,
    "attribution": attribution,
    "samples": samples,
}
ABOUT_TABLES = {
    1: "Table 1, a line a number, with intervals, n and seed: every metric of every row",
    2: "Table 2, the same",
    3: "Table 3, a line a cell: accuracy with interval, AUC, equal error rate, five conditions",
}
EXAMPLES = {
    2: "Figure 2. Synthetic clips of two digits and their reconstructions.",
    3: "Figure 3. Real clips of two digits and their reconstructions.",
    4: "Figure 4. t-SNE of spectrograms and of latents, real and synthetic clips.",
}
README_BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
LEFT_OUT = ("curve", "versions", "cells", "metrics", "against")  # of CSV files: what is no number of a line

OPENING = """\
# Results

Every table and figure of the paper, made by `make results`. This page is generated: do not edit it. Brackets are 95 %
intervals: Clopper and Pearson's of shares, the bootstrap's over clips of means.

{claims}

{origins}
"""

TABLE_NOTES = {
    1: "Samples of the generator. IS and FID are by the classifier that takes part in the loss, as the paper's are.",
    2: """\
Real clips. The judges take part in no loss and no choice; accuracy is by the classifier in the loss, which is circular,
as the paper's is. Baselines invert nothing: silence, a random sample, another real clip, and two that answer with a
sound of the digit that the classifier assigns to the clip (one fixed waveform a digit, or a random sample of it).
Log-mel correlation is taken after the mean of the clip's digit is subtracted from both.""",
    3: """\
Accuracy of telling real from synthetic clips, by logistic regression (LR) and SVM; chance is 50 %. Matched: real
silence and level as the synthetic clips', then all rounded to 16 bit.""",
}

DIFFERENCES = """\
## What differs from the paper

- **The generator** is {generator}.
- **The budget**: at most {max_iter:,} iterations (gradient) and {hybrid_max_iter:,} (hybrid and search) of L-BFGS
  (solver `{solver}`) in {precision}; the paper has 50,000 and 200.
- **The clips** are {n} a row, {clips}. No speaker is in two halves of the validation clips; what was chosen by a score
  was chosen on the selection half. The paper takes the first 501 in the order of its file system.
- **Preset `paper`** reads clips as the published scripts do (stretched by 2.4 %, raised by 3 dB), minimises their loss
  and leaves z free; its encoder is a ResNet-18, under-trained. **Preset `aligned`** reads clips at the generator's rate
  and level and keeps z in the prior's box; its encoder is a linear map of log-mel bands with convolutions beside it.
- **FID** is the Frechet distance of a classifier's pooled features; the paper does not say whose features it takes.
- **SSIM**, the paper's, is of signed STFTs and scaled by the range of both clips: silence scores high.
- IS and FID depend on n; compare at equal n only.
"""

FILES = """\
## All numbers

In `{folder}`, as CSV and as the JSON lines that this page is made from, which also name seed, versions and
hardware.

{table}
"""

COMMANDS = """\
## The commands

```
make results                    # this page and all that is on it; resumes where it was stopped
make results N=40               # a first look in a few minutes; its page is results/tables-40/RESULTS.md

# One row; one table
.venv/bin/python calculate_metrics.py {input} --inverse_mapping --gradient --preset paper
.venv/bin/python calculate_metrics.py {input} --table 2 --n 40

# One study
.venv/bin/python -m studies.samples --real {input}
.venv/bin/python -m studies.recovery --output results/recovery.jsonl
.venv/bin/python -m studies.speech {input} --projected
.venv/bin/python -m studies.projected {input}
.venv/bin/python -m studies.attribution {input}

# The same with the official generator and the whole of SC09
.venv/bin/python download.py wavegan-sc09 sc09
.venv/bin/python train.py {official} --generator checkpoint/sc09 --output logs/encoder-sc09
make results GENERATOR=checkpoint/sc09 DATA={official} ENCODER=logs/encoder-sc09 OUTPUT=results/official
```

By the paper's own budget, for days: `calculate_metrics.py --all --preset paper`.
"""
OFFICIAL_DATA = "datasets/sc09"
Line = Mapping[str, Any]


def main() -> None:
    args = parse_arguments()
    if args.publish:
        publish(args.input, args.publish)
    lines = args.publish or args.input
    write_results(args.output, lines, args.input)
    if args.readme:
        write_readme(args.readme, lines)
    print(args.output)


def publish(folder: Path, target: Path) -> None:
    """Copies the lines that the page is made of; what the folder has none of stays as it was published."""
    lines = {f"table{number}": lines_of(table) for number, table in read_tables(folder).items()}
    lines |= {name: found for name in STUDIES if (found := read_lines(folder, name))}
    for name, some in lines.items():
        write_text(target / f"{name}.jsonl", "".join(f"{to_json(line)}\n" for line in some))


def write_results(path: Path, folder: Path, pictures: Path | None = None) -> None:
    """Writes the page from the JSON lines in a folder, its figures into `figures/` beside it, and the lines as CSV.

    Args:
        path: RESULTS.md.
        folder: of the lines.
        pictures: of `figureN.png`, where the page has not got that yet; what is missing is left out and the page says
            so. None for the lines' folder.

    Raises:
        UserError: when there is neither Table 1 nor Table 2.
    """
    figures = path.parent / "figures"
    for number in EXAMPLES:
        if (picture := (pictures or folder) / f"figure{number}.png").exists():
            with atomic_path(figures / picture.name) as temporary:
                shutil.copyfile(picture, temporary)
    for number, table in read_tables(folder).items():
        drawn = detection_figure(table) if number == 3 else table_figure(table)
        save_figure(drawn, figures / f"table{number}.png", (".png",))
        write_text(folder / f"table{number}.csv", detection_csv(table) if number == 3 else table_csv(table))
    for name, study in STUDIES.items():
        if lines := read_lines(folder, name):
            write_text(folder / f"{name}.csv", lines_csv(lines))
            if study is not samples:
                save_figure(study.figure(lines), figures / f"{name}.png", (".png",))
    own = load_generator(str(bundled("checkpoint/"))).fingerprint
    examples = [n for n in EXAMPLES if (figures / f"figure{n}.png").exists()]
    write_text(path, results_markdown(folder, examples, own, os.path.relpath(folder, path.parent)))


def write_readme(path: Path, folder: Path) -> None:
    """Puts the numbers into README.md, between `<!-- results -->` and `<!-- /results -->`.

    Raises:
        UserError: where README.md has no such place.
    """
    block = readme_markdown(read_tables(folder))
    text, count = README_BLOCK.subn(lambda match: match[1] + block + match[2], path.read_text(encoding="utf-8"))
    if count != 1:
        raise UserError(f"{path}: must have one place <!-- results --> ... <!-- /results -->. Found: {count}")
    write_text(path, text)


def read_tables(folder: Path) -> dict[int, dict[str, Any]]:
    """The tables found, by number."""
    return {number: table for number in TITLES if (table := read_table(folder, number))}


def read_lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of a study in `STUDIES`, the last of equal ones."""
    key = STUDIES[name].KEY
    lines = {tuple(line.get(part) for part in key): line for line in read_jsonl(folder / f"{name}.jsonl")}
    return list(lines.values())


def results_markdown(folder: Path, examples: Iterable[int], bundled_sha256: str, link: str = ".") -> str:
    """The page's text, from the JSON lines in a folder.

    Args:
        folder: of the lines.
        examples: those of Figures 2 to 4 that were made.
        bundled_sha256: fingerprint of the generator that comes with the project; lines of another one are named.
        link: to the folder, from the page.

    Raises:
        UserError: as `write_results`.
    """
    examples, tables = list(examples), read_tables(folder)
    rows = [row for number in (1, 2) if number in tables for row in lines_of(tables[number])]
    searched = next((row["protocol"] for row in rows if row["protocol"].get("solver")), None)
    if searched is None:
        raise UserError(
            f"{folder}: no table1.jsonl or table2.jsonl with rows of ours; calculate_metrics.py --all makes them"
        )
    lines = {name: found for name in STUDIES if (found := read_lines(folder, name))}
    every = {f"table{number}": lines_of(table) for number, table in tables.items()} | lines
    summary = "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(claims(tables, lines), start=1))
    parts = [OPENING.format(claims=summary, origins=describe_origins(every, bundled_sha256))]
    for number, table in tables.items():
        text = detection_markdown(table) if number == 3 else table_markdown(table)
        picture = f"![{TITLES[number]}, with intervals](figures/table{number}.png)\n"
        parts += [f"## {TITLES[number]}\n", TABLE_NOTES[number] + "\n", text, picture]
    parts += [
        f"## {STUDIES[name].TITLE}\n\n![{STUDIES[name].TITLE}](figures/{name}.png)\n"
        for name in lines
        if name != "samples"
    ]
    parts += ["## Figures\n"] + [f"![{EXAMPLES[n]}](figures/figure{n}.png)\n" for n in examples]
    missing = [f"Table {n}" for n in TITLES if n not in tables]
    missing += [f"Figure {n}" for n in EXAMPLES if n not in examples]
    if missing:
        parts += [f"Not made yet: {', '.join(missing)}.\n"]
    real = next((row["protocol"] for row in rows if "input" in row["protocol"]), {})
    facts = {name: searched[name] for name in ("n", "max_iter", "hybrid_max_iter", "solver", "precision")}
    facts |= {"clips": _clips(rows), "generator": _generator(every, bundled_sha256)}
    parts += [DIFFERENCES.format(**facts), FILES.format(folder=link, table=_files(every, link))]
    parts += [COMMANDS.format(input=real.get("input", OFFICIAL_DATA), official=OFFICIAL_DATA)]
    return "\n".join(parts)


def _clips(rows: Sequence[Line]) -> str:
    """Which real clips each preset's rows are of."""
    presets: dict[str, list[str]] = {}
    for row in rows:
        if "draw" in row["protocol"]:
            of = "the selection and report halves" if row["protocol"]["split"] == "validation" else "the report half"
            draw = "drawn by the seed" if row["protocol"]["draw"] == "random" else "the first in the order of speakers"
            presets.setdefault(f"{draw}, of {of}", [])
            if row["preset"] not in presets[f"{draw}, of {of}"]:
                presets[f"{draw}, of {of}"].append(row["preset"])
    if len(presets) < 2:
        return "".join(presets) or "drawn by the seed"
    return "; ".join(f"{text} (preset `{'`, `'.join(names)}`)" for text, names in presets.items())


def describe_origins(every: Mapping[str, Sequence[Line]], bundled_sha256: str) -> str:
    """Whether the lines come from one commit, and from the bundled generator."""
    commits = {commit for lines in every.values() for commit in _facts(lines, "commit")}
    text = f"All lines are of commit {min(commits)}."
    if len(commits) > 1:
        text = f"The lines are of {len(commits)} commits; the table of files names them."
    others = [name for name, lines in every.items() if set(_facts(lines, "generator_sha256")) - {bundled_sha256[:12]}]
    if others:
        text += f" **Of another generator than the bundled one ({bundled_sha256[:12]}), wholly or in part: "
        text += f"{', '.join(others)}.**"
    return text


def _generator(every: Mapping[str, Sequence[Line]], bundled_sha256: str) -> str:
    found = {sha256 for name in every if name.startswith("table") for sha256 in _facts(every[name], "generator_sha256")}
    if found <= {bundled_sha256[:12]}:
        return "the small WaveGAN that comes with the project (`checkpoint/README.md`), not the published one"
    return f"{', '.join(sorted(found))} (fingerprints)"


def _files(every: Mapping[str, Sequence[Line]], link: str) -> str:
    """A line a CSV file."""
    head = ["file", "what it is", "lines", "commit", "generator", "precision"]
    rows = []
    for name, lines in every.items():
        about = ABOUT_TABLES[int(name[-1])] if name.startswith("table") else STUDIES[name].ABOUT
        facts = [", ".join(_facts(lines, key)) or "–" for key in ("commit", "generator_sha256", "precision")]
        rows.append([f"[{name}.csv]({link}/{name}.csv)", about, f"{len(lines):,}", *facts])
    return "\n".join(table_lines(head, rows))


def _facts(lines: Sequence[Line], key: str) -> list[str]:
    """The different values of what lines say of how they were made, hashes cut to twelve digits."""
    found = []
    for line in lines:
        value = origin_of(line).get(key)
        if value is not None:
            found.append(str(value)[:12] if key in ("commit", "generator_sha256") else str(value))
    return list(dict.fromkeys(found))


def lines_csv(lines: Sequence[Line]) -> str:
    """JSON lines as CSV: columns `name/entry` of an object, `name`, `name/low`, `name/high` of three numbers."""
    rows = [dict(_flat(line)) for line in lines]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, entry in value.items():
        if name in LEFT_OUT:
            continue
        if isinstance(entry, Mapping):
            yield from _flat(entry, f"{prefix}{name}/")
        elif isinstance(entry, list):
            ends = ("", "/low", "/high") if len(entry) == 3 else [f"/{i}" for i in range(len(entry))]
            yield from ((f"{prefix}{name}{end}", number) for end, number in zip(ends, entry, strict=True))
        else:
            yield prefix + name, entry


if __name__ == "__main__":
    options.run(main)
