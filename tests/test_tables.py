"""Tables, from rows as calculate_metrics.py records them."""

import csv
import io
import re

import pytest

from tests.table_row import row
from utils.evaluation.names import (
    CLIPS,
    ENCODER,
    GRADIENT,
    HYBRID,
    OTHER,
    PROJECTED,
    ROWS,
    SILENCE,
)
from utils.report import tables


@pytest.fixture
def folder(tmp_path):
    clips = {
        "frechet_distance/classifier": None,
        "frechet_distance/judge": None,
        "waveform_mse": None,
        "ssim": None,
        "ssim_log_magnitude": None,
        "stft_distance": None,
        "log_mel_correlation": None,
        "f0_error": None,
        "f0_frame_error": None,
        "latent_mse": None,
    }
    for number, names in ROWS.items():
        for preset, shift in (("aligned", 0.001), ("paper", 0.0)):
            rows = [row(name, preset, shift, **(clips if name == CLIPS else {})) for name in names]
            tables.add_rows(tmp_path, number, preset, rows)
    return tmp_path


def lines_of(text, *starts):
    return [line for line in text.splitlines() if line.startswith(" | ".join(starts))]


def test_our_numbers_stand_beside_the_papers(folder):
    text = (folder / "table1.md").read_text()
    paper, ours, aligned = (
        lines_of(text, "| gradient", source)[0] for source in ("paper", "preset paper:", "preset aligned:")
    )
    assert paper == "| gradient | paper | 3.96 ± 0.203 | 0.714 | 0.00489 | 0.9618 | – |"
    assert "| 5.00 [4.50, 6.00] | 2.000 [1.800, 2.400] | 0.00400 [0.00360, 0.00480] | 0.9500" in ours
    assert "| 50.0 % [45.0, 60.0] |" in ours and "0.00500" in aligned
    assert text.index(paper) < text.index(ours) < text.index(aligned)
    assert lines_of((folder / "table2.md").read_text(), "| hybrid", "paper")[0].endswith("| 36.93 % |")
    assert (
        "n 501; seed 7; split report; draw random; objective waveform=1; max_iter 80" in text
        and "commit abcdef012345; Some CPU, 2 cores" in text
    )


def test_every_line_of_a_grid_has_its_columns(folder):
    for number in ROWS:
        grids = re.findall(r"(?:^\|.*\n)+", (folder / f"table{number}.md").read_text(), re.M)
        assert len(grids) == 4
        for grid in grids:
            assert len({line.count("|") for line in grid.splitlines()}) == 1


def test_the_rows_costs_are_added_up():
    rows = [row(GRADIENT, "paper", n=60), row(SILENCE, "paper", n=60)]
    assert tables.wall_minutes(rows) == pytest.approx((60 * 0.5 + 2 * 30) / 60)


def test_a_cell_of_other_clips_than_its_row_says_so_and_of_few_it_has_no_interval(tmp_path):
    made = row(GRADIENT, "paper")
    made["metrics"]["f0_error"] = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 400}
    few = row(HYBRID, "paper")
    few["metrics"]["f0_error"] = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 11}  # as once was published
    few["metrics"]["accuracy/judge"] = {"value": 1.0, "n": 29}
    tables.add_rows(tmp_path, 1, "paper", [made, few])
    text = (tmp_path / "table1.md").read_text()
    assert "| 0.50 [0.40, 0.60] (n = 400) |" in text
    assert "| <sub>0.00 (n = 11)</sub> |" in text and "| <sub>100.0 % (n = 29)</sub> |" in text
    assert "f0_error,0.0,0.0,0.0,,11,7" in (tmp_path / "table1.csv").read_text()
    assert "accuracy/judge,1.0,,,,29,7" in (tmp_path / "table1.csv").read_text()
    assert "f0_error                        0.5        [0.4, 0.6]  n = 400" in tables.row_text(made)


def test_csv_holds_every_number_once(folder):
    found = list(csv.DictReader(io.StringIO((folder / "table2.csv").read_text())))
    keys = [(line["row"], line["source"], line["metric"]) for line in found]
    assert len(keys) == len(set(keys))
    by_key = dict(zip(keys, found, strict=True))
    assert float(by_key[ENCODER, "paper", "accuracy"]["value"]) == 0.7106
    ours = by_key[OTHER, "preset aligned", "waveform_mse"]
    assert (float(ours["value"]), float(ours["low"])) == pytest.approx((0.005, 0.0036))
    assert (ours["n"], ours["seed"]) == ("501", "7")
    assert by_key[OTHER, "preset aligned", "inception_score/judge"]["std"] == "0.25" and ours["std"] == ""
    assert (CLIPS, "preset paper", "waveform_mse") not in by_key


def test_a_row_replaces_its_own_only_and_a_foreign_one_comes_last(folder):
    before = tables.read_table(folder, 2)["presets"]
    tables.add_rows(folder, 2, "paper", [row("theirs", "paper"), row(GRADIENT, "paper", ssim=0.5)])
    after = tables.read_table(folder, 2)["presets"]
    assert after["aligned"] == before["aligned"]
    assert [r["row"] for r in after["paper"]] == [*ROWS[2], "theirs"]
    assert [r for r in after["paper"] if r["row"] not in (GRADIENT, "theirs")] == [
        r for r in before["paper"] if r["row"] != GRADIENT
    ]
    assert after["paper"][1]["metrics"]["ssim"]["value"] == 0.5
    assert lines_of((folder / "table2.md").read_text(), "| theirs", "preset paper")


def test_rows_that_agree_stand_once(tmp_path):
    for preset in ("paper", "aligned"):
        shift = 0.01 if preset == "paper" else 0
        tables.add_rows(tmp_path, 1, preset, [row(SILENCE, preset), row(GRADIENT, preset, shift)])
    text = (tmp_path / "table1.md").read_text()
    assert len(lines_of(text, "| baseline: silence", "both presets")) == 4
    assert not lines_of(text, "| baseline: silence", "preset")
    for preset in ("paper", "aligned"):
        assert len(lines_of(text, "| gradient", f"preset {preset}: batched, float32, max_iter 80 of 50,000")) == 4
        assert f"{SILENCE},preset {preset},ssim" in (tmp_path / "table1.csv").read_text()


def test_a_rows_label_names_what_is_not_its_presets_own_or_the_papers():
    def label(name, **protocol):
        made = row(name, "paper")
        made["protocol"] |= protocol
        return tables.row_label(made)

    papers = {"max_iter": 50_000, "hybrid_max_iter": 200}
    changed = {"encoder": "logs/x", "alignment": "aligned"}
    searched, plain = "preset paper: batched, float32", "preset paper"
    assert [label(name, **papers) for name in (GRADIENT, ENCODER, HYBRID, SILENCE)] == [searched, plain] * 2
    assert label(PROJECTED, **papers, precision="mixed_bfloat16") == "preset paper: batched, mixed_bfloat16"
    assert label(HYBRID, max_iter=50_000, hybrid_max_iter=50) == f"{searched}, hybrid_max_iter 50 of 200"
    assert label(GRADIENT, changed=changed).startswith(f"{searched}, alignment aligned, max_iter 80 of")
    assert label(ENCODER, changed=changed) == "preset paper: alignment aligned, encoder logs/x"
    assert label(SILENCE, changed=changed) == "preset paper: alignment aligned"
    assert label("theirs") == "preset paper"
