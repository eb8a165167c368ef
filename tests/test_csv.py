"""utils/runs/files.py: tables as CSV."""

import csv

from utils.runs.files import write_csv


def test_a_table_has_every_column_and_no_text_that_a_spreadsheet_computes(tmp_path):
    rows = [{"source": "=HYPERLINK(1)", "score": -0.5}, {"source": 'a "b", c', "score": None, "notes": "@x"}]
    write_csv(tmp_path / "x.csv", rows, ["score"])
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["score", "source", "notes"],
            ["-0.5", "'=HYPERLINK(1)", ""],
            ["", 'a "b", c', "'@x"],
        ]
    write_csv(tmp_path / "x.csv", [], ["score"])
    assert (tmp_path / "x.csv").read_text() == "score\n"


def test_a_name_that_is_no_unicode_does_not_end_a_run(tmp_path):
    write_csv(tmp_path / "x.csv", [{"source": "a\udcff.wav"}])
    assert (tmp_path / "x.csv").read_text() == "source\na?.wav\n"
