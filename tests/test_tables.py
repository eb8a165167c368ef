"""Tables and the results page, from rows as calculate_metrics.py records them."""

import csv
import io
import re

import pytest

from tests.detection_part import detection_part
from utils.evaluation.names import (
    CLIPS,
    CONDITIONS,
    ENCODER,
    GRADIENT,
    HYBRID,
    LATENTS,
    LOGISTIC_REGRESSION,
    OTHER,
    ROWS,
    SAMPLE,
    SILENCE,
    SPECTROGRAMS,
    SVM,
    TAIL_LEVEL,
    UNTRAINED_LATENTS,
)
from utils.options import EXIT_OK, EXIT_USAGE, UserError
from utils.report import results_md, tables


def row(name, preset, shift=0.0, n=501, **changed):
    """A record whose numbers are plausible and all different."""
    values = {
        "inception_score/classifier": 5,
        "inception_score/judge": 4,
        "frechet_distance/classifier": 2,
        "frechet_distance/judge": 3,
        "accuracy/classifier": 0.5,
        "accuracy/judge": 0.4,
        "waveform_mse": 0.004,
        "ssim": 0.95,
        "ssim_log_magnitude": 0.4,
        "stft_distance": 1.5,
        "latent_mse": 0.3,
        "latent_frechet_distance": 6,
        "outside_prior": 0.1,
    } | changed
    numbers = {}
    for metric, value in values.items():
        std = {"std": 0.25} if metric.startswith("inception") else {}
        numbers[metric] = value and {"value": value + shift, "low": 0.9 * value, "high": 1.2 * value, **std}
    searched = name in (GRADIENT, ENCODER, HYBRID)
    return {
        "row": name,
        "kind": "real",
        "preset": preset,
        "metrics": numbers,
        "seconds_a_clip": 0.5 if searched else None,
        "evaluations_a_clip": 110.0 if searched else None,
        "seconds_to_score": 30.0,
        "protocol": {
            "generator": "checkpoint/",
            "n": n,
            "seed": 7,
            "max_iter": 80,
            "hybrid_max_iter": 81,
            "splits": 2,
            "objective": "waveform=1",
            "prior_variance": 1 / 3,
            "input": "some/data",
        },
        "environment": {
            "commit": "abcdef0123456789",
            "dirty": False,
            "hardware": {"cpu": "Some CPU", "cores": 2, "gpus": []},
        },
    }


@pytest.fixture
def folder(tmp_path):
    clips = {
        "frechet_distance/classifier": None,
        "frechet_distance/judge": None,
        "waveform_mse": None,
        "ssim": None,
        "ssim_log_magnitude": None,
        "stft_distance": None,
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
        lines_of(text, "| gradient", source)[0] for source in ("paper", "preset paper", "preset aligned")
    )
    assert paper == "| gradient | paper | 3.96 ± 0.203 | 0.714 | 0.00489 | 0.9618 | – |"
    assert "| 5.00 [4.50, 6.00] | 2.000 [1.800, 2.400] | 0.00400 [0.00360, 0.00480] | 0.9500" in ours
    assert "| 50.0 % [45.0, 60.0] |" in ours and "0.00500" in aligned
    assert text.index(paper) < text.index(ours) < text.index(aligned)
    assert lines_of((folder / "table2.md").read_text(), "| hybrid", "paper")[0].endswith("| 36.93 % |")
    assert (
        "n 501; seed 7; objective waveform=1; max_iter 80" in text and "commit abcdef012345; Some CPU, 2 cores" in text
    )


def test_every_line_of_a_grid_has_its_columns(folder):
    for number in ROWS:
        grids = re.findall(r"(?:^\|.*\n)+", (folder / f"table{number}.md").read_text(), re.M)
        assert len(grids) == 3
        for grid in grids:
            assert len({line.count("|") for line in grid.splitlines()}) == 1


def test_the_rows_costs_are_added_up():
    rows = [row(GRADIENT, "paper", n=60), row(SILENCE, "paper", n=60)]
    assert tables.wall_minutes(rows) == pytest.approx((60 * 0.5 + 2 * 30) / 60)


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
    assert len(lines_of(text, "| floor: silence", "both presets")) == 3
    assert not lines_of(text, "| floor: silence", "preset")
    for preset in ("paper", "aligned"):
        assert len(lines_of(text, "| gradient", f"preset {preset}")) == 3
        assert f"{SILENCE},preset {preset},ssim" in (tmp_path / "table1.csv").read_text()


def add_detection(folder, preset, latents, untrained):
    accuracies = {SPECTROGRAMS: 0.5, LATENTS: latents, UNTRAINED_LATENTS: untrained, TAIL_LEVEL: 1.0}
    cells = [
        {"condition": c, "tested_on": "own", "feature": f, "classifier": classifier, "accuracy": accuracy}
        | {"auc": 0.9, "eer": 0.1, "low": accuracy - 0.1, "high": accuracy, "repeats": 2}
        for c in CONDITIONS
        for f, accuracy in accuracies.items()
        for classifier in (LOGISTIC_REGRESSION, SVM)
    ]
    tables.add_detection(folder, preset, detection_part(cells))


def test_the_page_has_all_there_is_and_says_what_is_missing(folder):
    add_detection(folder, "aligned", latents=0.8, untrained=0.7)
    add_detection(folder, "paper", latents=0.6, untrained=0.7)
    (folder / "figure2.png").write_bytes(b"picture")
    page = folder / "page" / "RESULTS.md"
    for path in folder.glob("table*.md"):
        path.unlink()  # the page is made from the JSON
    results_md.write_results(page, folder)
    text = page.read_text()
    assert all(f"## {title}" in text for title in tables.TITLES.values())
    assert "| predicted latents | 92.0 % | 80.0 % [70.0, 80.0] |" in text and "\n# Table 3" not in text
    assert "calculate_metrics.py some/data --table 2" in text
    assert "**The generator** is the small WaveGAN" in text
    assert "at most 80 iterations for gradient and 81 for hybrid" in text
    assert (page.parent / "figures" / "figure2.png").read_bytes() == b"picture"
    assert "(figures/figure2.png)" in text and "figure3.png" not in text
    assert "Not made yet: Figure 3, Figure 4." in text
    paper, aligned = (f"adds {gain} points to the latents" for gain in ("-10.0", "+10.0"))
    assert f"{paper}; preset aligned predicted latents 80.0 %" in text and f"{aligned} (clips: real silence" in text
    assert "nan" not in text and "{" not in text


def test_the_page_opens_with_ten_lines_of_its_numbers(folder):
    add_detection(folder, "aligned", latents=0.8, untrained=0.7)
    page = folder / "RESULTS.md"
    results_md.write_results(page, folder)
    opening = page.read_text().split("## ")[0]
    assert len([line for line in opening.splitlines() if line.startswith("- ")]) == 10
    assert "501 clips a row, seed 7; searches of at most 80 (gradient) and 81 (hybrid) iterations" in opening
    assert "0.300 / 0.300 / 0.300; preset aligned 0.301 / 0.301 / 0.301 (always answering z = 0 scores 0.333" in opening


def test_floors_are_those_of_the_prior(tmp_path):
    normal = row(GRADIENT, "paper")
    normal["protocol"]["prior_variance"] = 1.0
    tables.add_rows(tmp_path, 1, "paper", [normal, row(SILENCE, "paper")])
    results_md.write_results(tmp_path / "RESULTS.md", tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "always answering z = 0 scores 1.000, another draw 2.000" in text and "0.333" not in text


def test_the_words_follow_the_numbers(tmp_path):
    rows = [
        row(CLIPS, "paper", waveform_mse=None, **{"frechet_distance/judge": None, "accuracy/judge": 0.95}),
        row(GRADIENT, "paper", waveform_mse=0.02, **{"accuracy/judge": 0.17, "frechet_distance/judge": 9}),
        row(HYBRID, "paper", waveform_mse=0.001, **{"accuracy/judge": 0.71, "frechet_distance/judge": 1}),
        row(SILENCE, "paper", waveform_mse=0.01, ssim_log_magnitude=0.5),
        row(OTHER, "paper", **{"frechet_distance/judge": 2}),
        row(SAMPLE, "paper", **{"accuracy/judge": 0.1}),
    ]
    for scored, share in zip(rows[1:3], (0.4, 0.72), strict=True):
        scored["metrics"]["accuracy/other"] = dict(value=share, low=share, high=share, std=None)
    tables.add_rows(tmp_path, 2, "paper", rows)
    results_md.write_results(tmp_path / "RESULTS.md", tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "0.02000 / – / 0.00100 (silence 0.01000; no nearer than that: gradient)" in text
    assert "silence 0.500, above 2 of 2" in text
    assert "judge: 17.0 / – / 71.0 % right; other: 40.0 / – / 72.0 % right (judge: best hybrid," in text
    assert "judge: 9.000 / – / 1.000 (judge: two disjoint sets of such clips 2.000, hybrid is below that)" in text


def test_the_command_writes_the_page(folder, tmp_path_factory, run_main):
    page = tmp_path_factory.mktemp("page") / "RESULTS.md"
    done = run_main("utils/report/results_md.py", folder, "--output", page)
    assert (done.returncode, done.stdout) == (EXIT_OK, f"{page}\n"), done.stderr
    assert page.read_text().startswith("# Results")
    (folder / "table3.json").write_text("[]")
    done = run_main("utils/report/results_md.py", folder, "--output", page)
    assert done.returncode == EXIT_USAGE and "holds no Table 3" in done.stderr


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="--all makes them"):
        results_md.write_results(tmp_path / "RESULTS.md", tmp_path)
    assert tables.read_table(tmp_path, 1) is None
