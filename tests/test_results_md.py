"""RESULTS.md, its CSV files and the numbers of README.md, from JSON lines: facts, not wording."""

import csv
import io
import re
import shutil
from pathlib import Path

import pytest

from studies import claims, results_md, short_tables
from tests.detection_part import detection_part
from tests.drawn import drawn
from tests.table_row import row
from utils.errors import UserError
from utils.evaluation.attribution import ABSTAINS, MADE, NOT
from utils.evaluation.comparison import BETTER, NOT_DECIDED, WORSE, share_interval
from utils.evaluation.names import (
    CLASS_SAMPLE,
    CLIPS,
    CONDITIONS,
    ENCODER,
    HYBRID,
    LATENTS,
    LOGISTIC_REGRESSION,
    ROWS,
    SILENCE,
    SPECTROGRAMS,
    SVM,
    TEMPLATE,
)
from utils.options import EXIT_OK, EXIT_USAGE
from utils.report import tables
from utils.runs.files import append_jsonl, read_jsonl

ROOT = Path(__file__).resolve().parent.parent
SHA256 = 64 * "a"
PAIRS = ("frechet_distance/classifier", "frechet_distance/judge", "waveform_mse", "ssim", "ssim_log_magnitude")
PAIRS += ("stft_distance", "log_mel_correlation", "f0_error", "f0_frame_error", "latent_mse")
ENVIRONMENT = row(CLIPS, "paper")["environment"]


def named(record, commit="abcdef0123456789", sha256=SHA256):
    """A row made by a generator and a commit."""
    record["protocol"]["generator_sha256"] = sha256
    record["environment"]["commit"] = commit
    return record


@pytest.fixture
def folder(tmp_path):
    """All three tables by both presets, and lines of three studies."""
    for number, names in ROWS.items():
        for preset, shift in (("aligned", 0.001), ("paper", 0.0)):
            clips = dict.fromkeys(PAIRS) if CLIPS in names else {}
            rows = [named(row(name, preset, shift, **(clips if name == CLIPS else {}))) for name in names]
            tables.add_rows(tmp_path, number, preset, rows)
    for preset in ("aligned", "paper"):
        add_detection(tmp_path, preset, latents=0.8, spectrograms=0.95)
    for n in (501, 2048, 501):
        line = {"benchmark": "samples", "set": "samples", "n": n, "inception_score/judge": 7.25, "seed": 0}
        append_jsonl(tmp_path / "samples.jsonl", line | {"generator_sha256": SHA256} | ENVIRONMENT)
    for clip in range(8):
        append_jsonl(tmp_path / "recovery.jsonl", searched("search", clip, 1e-9 if clip < 6 else 0.1))
    for name, made, n in (("own samples", 20, 20), ("real clips", 1, 30)):
        verdicts = {MADE: made, ABSTAINS: 0, NOT: n - made}
        line = {"set": name, "transformation": "none", "n": n, "seed": 1, "verdicts": verdicts}
        line |= {"generator": "checkpoint/", "generator_sha256": SHA256, "inversion": {"auroc": [0.9, 0.8, 0.95]}}
        append_jsonl(tmp_path / "attribution.jsonl", line | ENVIRONMENT)
    return tmp_path


def searched(method, clip, z_mse):
    found = {"method": method, "clip": clip, "batch_size": 8, "z_mse": z_mse, "snr_db": 120.0, "objective": 1e-9}
    found |= {"evaluations": 900, "starts": 1, "seconds": 4.0, "seed": 0, "n": 8, "curve": {"1": 2.0}}
    return found | {"generator_sha256": SHA256, "precision": "float32"} | ENVIRONMENT


def add_detection(folder, preset, latents, spectrograms, said="worse"):
    cells = [
        {"condition": c, "tested_on": "own", "feature": f, "classifier": classifier, "accuracy": accuracy}
        | {"auc": 0.9, "eer": 0.1, "low": accuracy - 0.02, "high": accuracy + 0.02, "repeats": 2}
        | {"against": {SPECTROGRAMS: {"verdict": said}} if f == LATENTS else {}}
        for c in CONDITIONS
        for f, accuracy in {SPECTROGRAMS: spectrograms, LATENTS: latents}.items()
        for classifier in (LOGISTIC_REGRESSION, SVM)
    ]
    tables.add_detection(folder, preset, detection_part(cells))


def page(folder):
    return results_md.results_markdown(folder, [], SHA256)


def cells(text, *first):
    """The rest of the table's row that begins with these cells."""
    (line,) = [line for line in text.splitlines() if line.startswith("| " + " | ".join(first) + " |")]
    return line.strip("| ").split(" | ")[len(first) :]


def test_five_claims_open_the_page_each_with_number_n_and_interval(folder):
    said = [line for line in page(folder).split("## ")[0].splitlines() if re.match(r"\d\. ", line)]
    assert [line[:2] for line in said] == ["1.", "2.", "3.", "4.", "5."]
    for line in said:
        assert re.search(r"\d+\.\d % \(\d+\.\d to \d+\.\d\)", line), line
    low, high = share_interval(6, 8)
    assert f"75.0 % ({100 * low:.1f} to {100 * high:.1f}) of 8" in said[0]
    assert "40.1 %" in said[1] and "501 clips" in said[1]
    assert "n = 100" in said[3] and "of 20" in said[4] and "of 30" in said[4]


@pytest.mark.parametrize("verdict", [BETTER, WORSE, NOT_DECIDED])
def test_the_hybrid_is_called_what_the_paired_comparison_says(tmp_path, verdict):
    hybrid = row(HYBRID, "aligned", **{"accuracy/judge": 0.6})
    hybrid["against"] = {ENCODER: {"accuracy/judge": {"verdict": verdict}}}
    tables.add_rows(tmp_path, 2, "aligned", [row(ENCODER, "aligned"), hybrid])
    (said,) = claims.claims(results_md.read_tables(tmp_path), {})
    assert f"{verdict} by judge (40.0 % (36.0 to 48.0) to 60.0 % (54.0 to 72.0), n = 501)" in said


def test_digits_stand_beside_the_better_baseline(tmp_path):
    shares = {HYBRID: 0.6, TEMPLATE: 0.5, CLASS_SAMPLE: 0.7}
    rows = [row(name, "aligned", **{"accuracy/judge": share}) for name, share in shares.items()]
    tables.add_rows(tmp_path, 2, "aligned", rows)
    (said,) = claims.claims(results_md.read_tables(tmp_path), {})
    assert said.index("60.0 % (54.0 to 72.0)") < said.index("70.0 % (63.0 to 84.0)") and "50.0 %" not in said


@pytest.mark.parametrize(
    "latents, spectrograms, said", [(0.9, 0.8, "better"), (0.8, 0.9, "worse"), (0.8, 0.81, "not decided")]
)
def test_the_claim_of_table_3_by_pairs(tmp_path, latents, spectrograms, said):
    add_detection(tmp_path, "aligned", latents, spectrograms, said)
    (sentence,) = claims.claims(results_md.read_tables(tmp_path), {})
    assert sentence.count(f"{said}") >= 2 and f"{100 * latents:.1f} %" in sentence


def test_tables_hold_the_papers_numbers_ours_and_the_baselines(folder):
    text = page(folder)
    first, second = text.split("## Table 2")[0].split("## Table 1")[1], text.split("## Table 2")[1]
    assert cells(first, "hybrid", "the paper") == ["0.00003", "0.9979", "–", "7.23", "0.485"]
    assert cells(first, "hybrid", "preset aligned") == ["0.00500", "0.9510", "0.301", "5.00", "2.001"]
    assert cells(second.split("## Table 3")[0], "encoder", "the paper")[:4] == ["–", "71.1 %", "0.01176", "0.9460"]
    assert cells(second.split("## Table 3")[0], tables.ROW_TITLES[SILENCE], "preset paper")[0] == "40.0 %"
    third = text.split("## Table 3")[1].split("## ")[0]
    assert cells(third, LATENTS) == ["92.0 %", "91.5 %"] + ["80.0 %"] * 8


def test_equal_rows_of_both_presets_stand_once(tmp_path):
    for preset in ("aligned", "paper"):
        tables.add_rows(tmp_path, 1, preset, [row(HYBRID, preset)])
    assert cells(page(tmp_path), "hybrid", "both presets")


def test_intervals_are_in_the_figures(folder):
    found = results_md.read_tables(folder)
    drawn_row = drawn(short_tables.table_figure(found[2]))["correct, judge, %"]["preset paper"]["hybrid"]
    assert drawn_row == pytest.approx((40, 36, 48))
    panels = drawn(short_tables.detection_figure(found[3]))
    assert panels["preset paper, as is"][SVM][LATENTS] == pytest.approx((80, 78, 82)) and len(panels) == 4


def test_the_page_says_of_which_commits_and_generator_its_lines_are(folder):
    assert "All lines are of commit abcdef012345." in page(folder)
    tables.add_rows(folder, 1, "aligned", [named(row(HYBRID, "aligned"), commit="0123456789abcdef")])
    text = page(folder)
    assert "of 2 commits" in text and "another generator" not in text
    assert cells(text, "[table1.csv](./table1.csv)")[2] in (
        "abcdef012345, 0123456789ab",
        "0123456789ab, abcdef012345",
    )
    tables.add_rows(folder, 2, "aligned", [named(row(HYBRID, "aligned"), sha256=64 * "b")])
    text = page(folder)
    assert "another generator than the bundled one (aaaaaaaaaaaa), wholly or in part: table2." in text
    assert "aaaaaaaaaaaa, bbbbbbbbbbbb" in text or "bbbbbbbbbbbb, aaaaaaaaaaaa" in text


def test_lines_become_csv():
    lines = [{"a": 1, "b": {"c": [0.5, 0.4, 0.6], "d": "x"}, "curve": {"1": 2}}, {"a": 2, "e": None}]
    rows = list(csv.DictReader(io.StringIO(results_md.lines_csv(lines))))
    assert rows[0] == {"a": "1", "b/c": "0.5", "b/c/low": "0.4", "b/c/high": "0.6", "b/d": "x", "e": ""}
    assert rows[1]["a"] == "2" and rows[1]["b/d"] == ""


def test_published_lines_make_the_same_page_and_readme(folder, run_main):
    target, readme, lines = folder / "RESULTS.md", folder / "README.md", folder / "published"
    readme.write_text("Before\n<!-- results -->\nold\n<!-- /results -->\nAfter\n")
    (folder / "figure2.png").write_bytes(b"picture")
    command = ("studies/results_md.py", folder, "--output", target, "--readme", readme, "--publish", lines)
    done = run_main(*command)
    assert (done.returncode, done.stdout) == (EXIT_OK, f"{target}\n"), done.stderr
    first = target.read_text(), readme.read_text()
    assert first[1].startswith("Before\n<!-- results -->\n") and first[1].endswith("|\n<!-- /results -->\nAfter\n")
    assert cells(first[1], "hybrid") == ["0.00003", "0.00500", "0.301", "36.9 %", "40.1 %"] and "old" not in first[1]
    assert len(read_jsonl(lines / "samples.jsonl")) == 2  # of equal lines the last
    assert (folder / "figures" / "figure2.png").read_bytes() == b"picture"
    assert "Not made yet: Figure 3, Figure 4." in first[0] and "nan" not in first[0] and "{" not in first[0]
    for picture in re.findall(r"\]\((figures/.*?)\)", first[0]):
        assert (folder / picture).exists(), picture
    for name in re.findall(r"\]\((published/.*?csv)\)", first[0]):
        assert (folder / name).exists(), name

    done = run_main("studies/results_md.py", lines, "--output", target, "--readme", readme)
    assert done.returncode == EXIT_OK and (target.read_text(), readme.read_text()) == first

    (folder / "recovery.jsonl").unlink()  # published before, not measured again
    assert run_main(*command).returncode == EXIT_OK and target.read_text() == first[0]

    readme.write_text("nothing")
    with pytest.raises(UserError, match="<!-- results -->"):
        results_md.write_readme(readme, lines)
    (lines / "table3.jsonl").write_text("[]\n")
    done = run_main("studies/results_md.py", lines, "--output", target)
    assert done.returncode == EXIT_USAGE and "holds no Table 3" in done.stderr


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="--all makes them"):
        page(tmp_path)
    assert tables.read_table(tmp_path, 1) is None and results_md.read_lines(tmp_path, "judges") == []


def test_the_committed_page_files_and_readme_are_those_of_the_published_lines(tmp_path):
    """No number of RESULTS.md, and of the README's results, without a line in results/published."""
    target, readme, lines = tmp_path / "RESULTS.md", tmp_path / "README.md", tmp_path / results_md.PUBLISHED
    shutil.copytree(ROOT / "figures", tmp_path / "figures")
    shutil.copyfile(ROOT / "README.md", readme)
    shutil.copytree(ROOT / results_md.PUBLISHED, lines)
    for path in lines.glob("*.csv"):
        path.unlink()
    results_md.write_results(target, lines)
    assert target.read_text() == (ROOT / "RESULTS.md").read_text()
    results_md.write_readme(readme, lines)
    assert readme.read_text() == (ROOT / "README.md").read_text()
    committed = {path.name: path.read_text() for path in (ROOT / results_md.PUBLISHED).glob("*.csv")}
    assert {path.name: path.read_text() for path in lines.glob("*.csv")} == committed


def test_a_published_line_carries_how_it_was_made():
    for path in sorted((ROOT / results_md.PUBLISHED).glob("*.jsonl")):
        for line in read_jsonl(path):
            facts = line["protocol"] if isinstance(line.get("protocol"), dict) else line
            assert facts["n"] > 0 and facts["seed"] >= 0, path
            environment = line.get("environment", line)
            assert environment["commit"] and environment["versions"] and environment["hardware"]["cpu"], path
