"""RESULTS.md: every table and figure on one page, with what the numbers say and what differs from the paper.

All its numbers come from JSON lines: table1.jsonl, table2.jsonl and table3.jsonl of calculate_metrics.py and
deepfake_detection.py, and those of the studies. Those of the published page are in
results/published.

Examples:
    # The published page again, from the published lines alone; with it the numbers of README.md
    python -m studies.results_md --readme README.md

    # From what was just measured into a folder, publishing its lines (`make results` does all of it)
    python -m studies.results_md results/tables --publish results/published
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
from studies import attribution, judges, projected, recovery, samples, speech
from utils import options
from utils.errors import UserError
from utils.report.figures import save_figure
from utils.report.findings import findings
from utils.report.readme import write_readme
from utils.report.tables import (
    TITLES,
    describe_origin,
    lines_of,
    read_table,
    table_markdown,
)
from utils.runs.files import atomic_path, read_jsonl, to_json, write_text

PUBLISHED = Path("results/published")
# In the order of the page. Each has a TITLE, a KEY that tells two of its lines apart, and `section` of its lines.
STUDIES = {
    "samples": samples,
    "judges": judges,
    "recovery": recovery,
    "speech": speech,
    "projected": projected,
    "attribution": attribution,
}
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
- **The budget**: each row's label names what it was made with where that is not its preset's; iterations are limited as
  in the paper, to 50,000 (gradient) and 200 (hybrid), unless the label says otherwise.
- **The clips** are {draw}, of the {split} split of the data (`datasets/splits/`: no speaker is in two); whatever was
  chosen by a score was chosen on other clips. The published scripts take the first 501 clips of sc09/valid in the order
  in which their file system lists them, which nobody wrote down; `--split validation --draw first` takes the first ones
  in the order of speakers.
- **Preset `paper`** reads clips as the published scripts do (stretched by 2.4 %, raised by 3 dB), minimises their loss
  and leaves z free. **Preset `aligned`** reads clips at the rate and level the generator was trained on, minimises
  {objective}, and keeps z in the prior's box.
- **FID** here is the Frechet distance of a classifier's pooled features between reconstructions and originals, the
  field's usual meaning. The paper does not say whose features its FID takes, and its caption speaks of latent vectors:
  that distance is a column of its own. Neither is comparable with the paper's figure; compare with the floors below it.
- **Who judges**: accuracy by the classifier in the loss is circular and stands only beside the paper's numbers. The
  judges are two networks of other front ends and architectures, trained on other clips; neither is ever a loss, a
  critic or a selector.
- **SSIM**, the paper's, is of signed STFTs and scaled by the range of both clips: silence scores high, and a loud
  reconstruction higher than a quiet one. The log-magnitude column is scaled alike, but knows no phase.
- Inception score and Frechet distances depend on n: compare at equal n only. The field scores 2,048 samples of SC09;
  below stands that beside the n of the tables. Scores of the widely used SC09 script are another quantity: it calls
  SciPy's entropy without its axis, which hides a collapse onto few digits.

## How to read it

Brackets are 95 % bootstrap intervals over clips; the tables' CSV files have them as columns low and high, and the
standard deviation over the {splits} splits of the inception score. The floors say what inverting nothing scores:
silence in place of each reconstruction, a random sample of the generator, another real clip (which gives the
real-against-real Frechet distance at the same n), and two look-ups, which hear the digit by the classifier in the loss
and answer with one fixed waveform a digit, the generator's at the mean latent of its samples of that digit, or with a
random sample of it.
"""

BUNDLED = "checkpoint"
BUNDLED_GENERATOR = (
    "the small WaveGAN that comes with the project (`checkpoint/README.md` has its training), not the published one,\n"
    "  trained on 18,620 digits; encoder and classifier are small, too"
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
    options.add_input(parser, "folder of the JSON lines, and of figureN.png where they are new", default=str(PUBLISHED))
    parser.add_argument("--output", type=Path, default=Path("RESULTS.md"), metavar="FILE", help="the page")
    readme = "also put the numbers between <!-- results --> and <!-- /results --> of this file (default: none)"
    parser.add_argument("--readme", type=Path, metavar="FILE", help=readme)
    target = "first copy the folder's lines into this one, of which the page is made then (default: none)"
    parser.add_argument("--publish", type=Path, metavar="DIR", help=target)
    args = parser.parse_args()
    if args.publish:
        publish(args.input, args.publish)
    lines = args.publish or args.input
    write_results(args.output, lines, args.input)
    if args.readme:
        write_readme(args.readme, lines)
    print(args.output)


def write_results(path: Path, folder: Path, pictures: Path | None = None) -> None:
    """Writes the page from the JSON lines in a folder; its figures are copied beside the page, into `figures/`.

    Args:
        path: RESULTS.md.
        folder: of the lines.
        pictures: of `figureN.png`, where the page has not got that yet; what is missing is left out and the page says
            so. None for the lines' folder.

    Raises:
        UserError: when there is neither Table 1 nor Table 2.
    """
    for number in FIGURES:
        if (picture := (pictures or folder) / f"figure{number}.png").exists():
            with atomic_path(_figure(path, number)) as temporary:
                shutil.copyfile(picture, temporary)
    for name in ("projected", "recovery"):
        if records := read_lines(folder, name):
            save_figure(STUDIES[name].figure(records), path.parent / "figures" / f"{name}.png", (".png",))
    write_text(path, results_markdown(folder, [number for number in FIGURES if _figure(path, number).exists()]))


def publish(folder: Path, target: Path) -> None:
    """Copies the lines that the page is made of; what the folder has none of stays as it was published."""
    lines = {f"table{number}": lines_of(table) for number in TITLES if (table := read_table(folder, number))}
    lines |= {name: records for name in STUDIES if (records := read_lines(folder, name))}
    for name, records in lines.items():
        write_text(target / f"{name}.jsonl", "".join(f"{to_json(record)}\n" for record in records))


def read_lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of a study in `STUDIES`, the last of equal ones."""
    key = STUDIES[name].KEY
    lines = {tuple(line.get(part) for part in key): line for line in read_jsonl(folder / f"{name}.jsonl")}
    return list(lines.values())


def _figure(page: Path, number: int) -> Path:
    return page.parent / "figures" / f"figure{number}.png"


def results_markdown(folder: Path, figures: Iterable[int]) -> str:
    """The page's text, from the JSON lines in a folder, with those figures. Errors as in `write_results`."""
    figures = list(figures)
    tables = {number: table for number in TITLES if (table := read_table(folder, number))}
    protocols = [row["protocol"] for n in (1, 2) if n in tables for row in lines_of(tables[n])]
    shared = next((protocol for protocol in protocols if "max_iter" in protocol), None)
    if shared is None:
        raise UserError(
            f"{folder}: no table1.jsonl or table2.jsonl with rows of ours; calculate_metrics.py --all makes them"
        )
    generator = BUNDLED_GENERATOR if Path(shared["generator"]) == Path(BUNDLED) else f"`{shared['generator']}`"
    real = [protocol for protocol in protocols if "input" in protocol]
    facts = {"splits": shared["splits"], "split": "report", "draw": "random", "input": OFFICIAL_DATA} | (
        {name: real[0][name] for name in ("split", "draw", "input")} if real else {}
    )
    facts["draw"] = "drawn by the seed" if facts["draw"] == "random" else "the first in the order of speakers"
    facts["objective"] = " and ".join(_aligned_objectives(tables)) or "another objective"
    records = {name: read_lines(folder, name) for name in STUDIES}
    summary = "\n".join(f"- {line}" for line in findings(tables, shared, records["judges"]))
    parts = [OPENING.format(summary=summary), INTRODUCTION.format(generator=generator, **facts)]
    for number, table in tables.items():
        parts += [f"## {TITLES[number]}\n", table_markdown(table)]
    for name, study in STUDIES.items():
        if records[name]:
            last = records[name][-1]
            parts += [f"## {study.TITLE}\n", study.section(records[name])]
            parts += [f"- seed {last['seed']}; {describe_origin(last)}; `studies/{name}.py`\n"]
    parts += ["## Figures\n"]
    parts += [f"![{FIGURES[n]}](figures/figure{n}.png)\n\n{FIGURES[n]}\n" for n in figures]
    missing = [f"Table {n}" for n in TITLES if n not in tables]
    missing += [f"Figure {n}" for n in FIGURES if n not in figures]
    if missing:
        parts += [f"Not made yet: {', '.join(missing)}.\n"]
    parts += [COMMANDS.format(input=facts["input"], official=OFFICIAL_DATA)]
    return "\n".join(parts)


def _aligned_objectives(tables: Mapping[int, Any]) -> list[str]:
    """What preset aligned minimises, of own samples and of real clips."""
    found = {}
    for number in (1, 2):
        for row in lines_of(tables[number]) if number in tables else ():
            if row["preset"] == "aligned" and "objective" in row["protocol"]:
                found.setdefault(number, f"`{row['protocol']['objective']}` (Table {number})")
    return list(found.values())


if __name__ == "__main__":
    options.run(main)
