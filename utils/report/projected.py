"""What is heard of real clips, and of the space of the dense layer's output, as sections of RESULTS.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from utils.report.figures import COLOURS
from utils.report.markdown import table_lines

HEARD = """\
By objective and space, {n} clips of each half, {precision}, seed {seed}. The default objective was chosen on the
selection half; `python -m studies.speech INPUT` makes the lines. The classifier takes part in the objective's term
`features`, the judges in none.

{table}
"""

TEXT = """\
`--space projected` searches the output of the generator's dense layer in place of z. **What it finds is not a latent of
the prior**: how far it lies from what the prior gives, in standard deviations of the layer's output (root mean square
over its units), is the column "off the prior", and the weight of the objective's term `latent_prior` holds it near.
Editability: of the points at a quarter, a half and three quarters between two inverted clips of one digit, the share
that is still heard as that digit. {n} clips of the report half, at most {max_iter} iterations from the encoder's
answer, seed {seed}, {precision}; `python -m studies.projected INPUT` makes the lines.

{table}

![Fidelity and editability against the weight of the regulariser](figures/projected.png)
"""


Record = Mapping[str, Any]


def speech_markdown(records: Sequence[Record]) -> str:
    """What studies/speech.py measured: a row an objective, method and half."""
    first = records[0]
    judges = ["classifier", *_judges(first)]
    head = ["half", "made by", "objective", "iterations", *(f"right, {judge}" for judge in judges)]
    head += ["log-mel distance", "STFT distance", "s a clip"]
    rows = []
    for line in records:
        made_by = "the clips themselves" if line["method"] == "clips" else line["method"]
        made_by += ", projected" if line.get("space") == "projected" else ""
        cells = [line["split"], made_by, f"`{line['objective']}`" if "objective" in line else "–"]
        cells += [str(line.get("max_iter", "–")), *(f"{100 * line[f'accuracy/{judge}']:.0f} %" for judge in judges)]
        cells += [f"{line['log_mel']:.2f}", f"{line['stft_distance']:.2f}"]
        cells += [f"{line['seconds_a_clip']:.1f}" if "seconds_a_clip" in line else "–"]
        rows.append(cells)
    facts = {name: first[name] for name in ("n", "precision", "seed")}
    return HEARD.format(table="\n".join(table_lines(head, rows)), **facts)


def projected_markdown(records: Sequence[Record]) -> str:
    """What studies/projected.py measured, z first, then by weight; `projected_figure` is its picture."""
    facts = {name: records[0][name] for name in ("n", "max_iter", "seed", "precision")}
    return TEXT.format(table="\n".join(_table(_by_weight(records))), **facts)


def projected_figure(records: Sequence[Record]) -> Figure:
    """Against the regulariser's weight: log-mel distance, accuracy of reconstructions, and of points in between."""
    lines = _by_weight(records)
    z = next((line for line in lines if line["space"] == "z"), None)
    swept = [line for line in lines if line["space"] != "z"]
    places, labels = range(len(swept)), [f"{line['weight']:g}" for line in swept]
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, 3)
    panels[0].plot(places, [line["log_mel"] for line in swept], "o-", color=COLOURS[0])
    panels[0].set_title("log-mel distance", fontsize=10)
    for panel, measure, title in (
        (panels[1], "accuracy", "reconstructions heard right"),
        (panels[2], "between", "in between heard as the digit"),
    ):
        for colour, judge in zip(COLOURS[1:], _judges(swept[0]), strict=False):
            panel.plot(places, [100 * line[f"{measure}/{judge}"] for line in swept], "o-", color=colour, label=judge)
            if z:
                panel.axhline(100 * z[f"{measure}/{judge}"], color=colour, linestyle=":")
        panel.set_ylim(0, 102)
        panel.set_ylabel("%")
        panel.set_title(title, fontsize=10)
    if z:
        panels[0].axhline(z["log_mel"], color=COLOURS[0], linestyle=":", label="z")
        panels[0].legend(frameon=False)
    panels[2].legend(frameon=False, loc="lower right")
    for panel in panels:
        panel.set_xticks(places, labels)
        panel.set_xlabel("weight of latent_prior (dotted: z)")
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _by_weight(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record["space"] != "z", record["weight"]))


def _judges(line: Record) -> list[str]:
    names = [key.removeprefix("accuracy/") for key in line if key.startswith("accuracy/")]
    return [name for name in names if name != "classifier"]


def _table(lines: Sequence[Record]) -> list[str]:
    judges = _judges(lines[0])
    head = ["space", "weight", "off the prior", "log-mel distance", "STFT distance"]
    head += [f"heard right, {judge}" for judge in judges] + [f"in between, {judge}" for judge in judges] + ["s a clip"]
    rows = []
    for line in lines:
        numbers = [line["prior_distance"], line["log_mel"], line["stft_distance"]]
        cells = ["z", "–"] if line["space"] == "z" else ["projected", f"{line['weight']:g}"]
        cells += [f"{number:.2f}" for number in numbers]
        cells += [f"{100 * line[f'{what}/{judge}']:.0f} %" for what in ("accuracy", "between") for judge in judges]
        rows.append([*cells, f"{line['seconds_a_clip']:.1f}"])
    return table_lines(head, rows)
