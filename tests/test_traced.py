"""tests/traced.py, and by it README.md and the pages of the weights: each measured number is a published line's."""

import json
from pathlib import Path

import pytest

from tests.traced import untraced

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "results" / "published"


@pytest.fixture
def lines(tmp_path):
    line = {"accuracy": 0.9052, "interval": [0.879, 0.926], "errors": {"z_mse": 0.0512}, "curve": {"1": 7.77}, "n": 600}
    (tmp_path / "x.jsonl").write_text(json.dumps(line) + "\n")
    return [tmp_path / "x.jsonl"]


def test_numbers_of_lines_are_traced_and_others_are_not(lines):
    text = "| correct | 90.5 % (87.9 to 92.6) | z 0.05, 0.051 | wrong 9.5 % |"
    assert untraced(text, lines) == []
    assert untraced(text.replace("90.5", "90.6").replace("0.051", "0.052"), lines) == ["90.6", "0.052"]
    assert untraced("largest to the tenth 3.0, in 77 % and 7.77", lines) == ["3.0", "77", "7.77"]
    assert untraced("largest to the tenth 3.0", lines, allowed=["3.0"]) == []


def test_what_is_no_measurement_is_left_alone(lines):
    text = "`--rate 0.5` [x](http://1.2) v1.2.3 ``` 0.7 ``` <!-- results --> 0.8 <!-- /results --> in 2021, 32 files"
    assert untraced(text, lines) == []


# What is no measurement of a study: settings, the paper's numbers, and what a training logged, which the page says.
ALLOWED = {
    "README.md": (),
    "checkpoint/README.md": (),
    "classifier_checkpoint/README.md": ("87.6", "96.2", "97.4", "95.41"),
    # Preset paper's are published with the next `make results`, which measures judges by it, too.
    "inverse_mapping_checkpoint/README.md": (
        *("6.5", "86.0", "0.941", "0.984", "0.0163", "0.0023", "0.264"),
        *("82.2", "78.9", "85.0", "67.2", "63.3", "70.8", "85.5", "82.5", "88.1", "0.00743", "0.089", "0.00053"),
        *("71.0", "74.5", "66.8", "70.5"),
    ),
}


@pytest.mark.parametrize("page", ALLOWED)
def test_every_measured_number_of_a_page_is_a_published_lines(page):
    studies = ("judges", "samples", "recovery") if "checkpoint" in page else [p.stem for p in PUBLISHED.glob("*.jsonl")]
    files = [PUBLISHED / f"{name}.jsonl" for name in studies]
    assert untraced((ROOT / page).read_text(), files, ALLOWED[page]) == []
