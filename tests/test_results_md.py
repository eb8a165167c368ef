"""RESULTS.md and the numbers of README.md, from JSON lines."""

import shutil
from pathlib import Path

import pytest

from studies import results_md
from tests.detection_part import detection_part
from tests.table_row import row
from utils.errors import UserError
from utils.evaluation.names import (
    CLASS_SAMPLE,
    CLIPS,
    CONDITIONS,
    ENCODER,
    GRADIENT,
    HYBRID,
    LATENTS,
    LOGISTIC_REGRESSION,
    ROWS,
    SILENCE,
    SPECTROGRAMS,
    SVM,
    TAIL_LEVEL,
    TEMPLATE,
    UNTRAINED_LATENTS,
)
from utils.options import EXIT_OK, EXIT_USAGE
from utils.report import findings, tables
from utils.report.readme import write_readme
from utils.runs.files import append_jsonl, read_jsonl

ROOT = Path(__file__).resolve().parent.parent
PAIRS = ("frechet_distance/classifier", "frechet_distance/judge", "waveform_mse", "ssim", "ssim_log_magnitude")
PAIRS += ("stft_distance", "log_mel_correlation", "f0_error", "voicing_agreement", "latent_mse")


@pytest.fixture
def folder(tmp_path):
    """Both tables by both presets, and the studies' lines."""
    for number, names in ROWS.items():
        for preset, shift in (("aligned", 0.001), ("paper", 0.0)):
            clips = dict.fromkeys(PAIRS) if CLIPS in names else {}
            rows = [row(name, preset, shift, **(clips if name == CLIPS else {})) for name in names]
            tables.add_rows(tmp_path, number, preset, rows)
    for name in ("real", "real, reconstructed"):
        append_jsonl(tmp_path / "judges.jsonl", agreement(0.9, 0.8, 0.7) | {"set": name, "n": 600})
    for n in (501, 2048, 501):
        record = {"benchmark": "samples", "set": "samples", "n": n, "inception_score/judge": 7.25, "seed": 0}
        append_jsonl(tmp_path / "samples.jsonl", record | row(CLIPS, "paper")["environment"])
    return tmp_path


def agreement(*shares):
    subjects = ("judge_mel, judge_wave", "classifier, judge_mel", "classifier, judge_wave")
    facts = {subject: {"agreement": share} for subject, share in zip(subjects, shares, strict=True)}
    judged = {"inception_score": 8.5, "confident": 0.8, "accuracy": 0.9, "from": 0.85, "to": 0.95}
    return {"benchmark": "judges", "seed": 0, "judge_mel": judged, **facts, **row(CLIPS, "paper")["environment"]}


def said(tmp_path, rows, number=2, preset="paper", judges=()):
    """What the page opens with, of rows of one table alone."""
    tables.add_rows(tmp_path, number, preset, rows)
    return "\n".join(findings.findings({number: tables.read_table(tmp_path, number)}, rows[0]["protocol"], judges))


def test_the_page_opens_with_at_most_ten_lines_of_its_numbers(folder):
    add_detection(folder, "aligned", latents=0.8, untrained=0.7, spectrograms=0.95, tail=0.6)
    text = results_md.results_markdown(folder, [])
    lines = [line for line in text.split("## ")[0].splitlines() if line.startswith("- ")]
    assert len(lines) == 10
    assert (
        "501 clips a row, seed 7; searches of at most 80 (gradient; the paper 50,000) and 81 (hybrid; the paper" in text
    )
    assert "0.300 / 0.300 / 0.300; preset aligned 0.301 / 0.301 / 0.301 (always answering z = 0 scores 0.333" in text
    assert lines[1].startswith("- **Real clips that are heard right**")
    assert "differ" not in lines[-1] and "than each other in 10.0 %" in lines[-1]


def test_look_ups_stand_beside_the_methods(tmp_path):
    heard = {GRADIENT: 0.2, ENCODER: 0.85, HYBRID: 0.6, TEMPLATE: 0.97, CLASS_SAMPLE: 0.92}
    rows = [row(name, "paper", **{"accuracy/judge": share}) for name, share in heard.items()]
    text = said(tmp_path, rows)
    assert "judge: 20.0 / 85.0 / 60.0 % (judge: look-ups, which invert nothing, are ahead of all methods, so" in text
    assert "one waveform a digit 97.0 %, a random sample of the digit 92.0 %" in text
    better = [row(ENCODER, "paper", **{"accuracy/judge": 0.99})]
    assert "look-ups, which invert nothing, are below encoder" in said(tmp_path, better)


def test_what_look_ups_fail_is_said_measure_by_measure(tmp_path):
    look_ups = [row(name, "paper", log_mel_correlation=0.01, stft_distance=2, f0_error=7) for name in (TEMPLATE,)]
    good = row(ENCODER, "paper", log_mel_correlation=0.3, stft_distance=1, f0_error=4)
    mixed = row(HYBRID, "paper", log_mel_correlation=0.4, stft_distance=1, f0_error=6.5)
    text = said(tmp_path, [mixed, good, *look_ups])
    assert "log-mel correlation – / 0.30 / 0.40 against 0.01 (beaten by encoder, hybrid); STFT distance –" in text
    assert "F0 error in semitones – / 4.0 / 6.5 against 7.0 (beaten by encoder)" in text
    rival = row(CLASS_SAMPLE, "paper", log_mel_correlation=0.01, stft_distance=0.5, f0_error=12)
    text = said(tmp_path, [rival, row(ENCODER, "paper", f0_error=12, log_mel_correlation=0.3), *look_ups[1:]])
    assert "STFT distance – / 1.50 / 1.00 against 0.50 (beaten by none)" in text
    assert "F0 error in semitones – / 12.0 (no common pitch) / 6.5 against 7.0 (beaten by none)" in text


@pytest.mark.parametrize(
    "encoder, hybrid, verdict",
    [
        ((0.8, 0.8), (0.4, 0.8), "confirmed (encoder to hybrid: heard right by judge 80.0 to 40.0 %, by other 80.0 to"),
        ((0.5, 0.5), (0.9, 0.9), "refuted (encoder to hybrid: heard right by judge 50.0 to 90.0 %"),
        ((0.5, 0.8), (0.9, 0.8), "refuted by judge alone (encoder"),
        ((0.80, 0.8), (0.85, 0.8), "not decided ("),  # within the intervals
    ],
)
def test_whether_the_hybrid_helps_on_real_clips(tmp_path, encoder, hybrid, verdict):
    rows = []
    for name, shares in ((ENCODER, encoder), (HYBRID, hybrid)):
        numbers = {"accuracy/judge": shares[0], "stft_distance": 2 if name == ENCODER else 1}
        rows.append(row(name, "aligned", log_mel_correlation=0.5 if name == ENCODER else 0.1, **numbers))
        share = {"value": shares[1], "low": 0.9 * shares[1], "high": 1.2 * shares[1], "n": 501}
        rows[-1]["metrics"]["accuracy/other"] = share
    text = said(tmp_path, rows, preset="aligned")
    assert f"the hybrid does not help on real audio**: preset aligned {verdict}" in text
    assert "; nearer in STFT distance; farther in log-mel correlation)" in text


def add_detection(folder, preset, latents, untrained, spectrograms, tail):
    named = {SPECTROGRAMS: spectrograms, LATENTS: latents, UNTRAINED_LATENTS: untrained, TAIL_LEVEL: tail}
    cells = [
        {"condition": c, "tested_on": "own", "feature": f, "classifier": classifier, "accuracy": accuracy}
        | {"auc": 0.9, "eer": 0.1, "low": accuracy - 0.02, "high": accuracy + 0.02, "repeats": 2}
        for c in CONDITIONS
        for f, accuracy in named.items()
        for classifier in (LOGISTIC_REGRESSION, SVM)
    ]
    tables.add_detection(folder, preset, detection_part(cells))


@pytest.mark.parametrize(
    "numbers, verdict, equals, follows",
    [
        ((0.8, 0.82, 0.95, 0.6), "reversed", "an untrained encoder's answers)", True),
        ((0.8, 0.7, 0.95, 1.0), "reversed", "one number (tail level))", True),
        ((0.8, 0.7, 0.5, 0.6), "holds", None, False),
        ((0.8, 0.7, 0.81, 0.6), "not decided", None, False),
    ],
)
def test_the_papers_claim_of_table_3(tmp_path, numbers, verdict, equals, follows):
    add_detection(tmp_path, "aligned", *numbers)
    protocol = row(GRADIENT, "paper")["protocol"]
    *_, line = findings.findings({3: tables.read_table(tmp_path, 3)}, protocol)
    assert f"preset aligned {verdict} on clips as they are (latents 80.0 %, spectrograms" in line
    assert f"; {verdict} on clips {CONDITIONS['matched']}" in line
    assert f"as good as the latents: {equals}" in line if equals else "as good as" not in line
    assert ("says how clips were made" in line) == follows


def test_silence_and_judges(tmp_path):
    rows = [row(name, "paper", ssim_log_magnitude=0.2, waveform_mse=0.02) for name in (GRADIENT, HYBRID)]
    rows.append(row(SILENCE, "paper", ssim_log_magnitude=0.3, waveform_mse=0.01))
    text = said(tmp_path, rows)
    assert "silence 0.300, above all, so the measure rewards emptiness" in text
    assert "0.02000 / – / 0.02000 (silence 0.01000; no nearer than that: gradient, hybrid)" in text
    text = said(tmp_path, [row(HYBRID, "paper", ssim_log_magnitude=0.4)])
    assert "silence 0.300, above gradient)" in text
    for shares, verdict in (((0.9, 0.8, 0.7), "nearer"), ((0.75, 0.8, 0.7), "no nearer")):
        record = agreement(*shares) | {"set": "real, reconstructed", "n": 600}
        assert f"({verdict} to each other than to it)" in said(tmp_path, rows, judges=[record])


def test_floors_are_those_of_the_prior(tmp_path):
    normal = row(GRADIENT, "paper")
    normal["protocol"]["prior_variance"] = 1.0
    text = said(tmp_path, [normal, row(SILENCE, "paper")], number=1)
    assert "always answering z = 0 scores 1.000, another draw 2.000" in text and "0.333" not in text


def test_the_page_has_all_there_is_and_says_what_is_missing(folder):
    for preset in ("aligned", "paper"):
        add_detection(folder, preset, latents=0.8, untrained=0.7, spectrograms=0.95, tail=0.6)
    (folder / "figure2.png").write_bytes(b"picture")
    page = folder / "page" / "RESULTS.md"
    for path in folder.glob("table*.md"):
        path.unlink()  # the page is made from the lines
    results_md.write_results(page, folder)
    text = page.read_text()
    assert all(f"## {title}" in text for title in tables.TITLES.values())
    assert "| predicted latents | 92.0 % | 80.0 % [78.0, 82.0] |" in text and "\n# Table 3" not in text
    assert "calculate_metrics.py some/data --table 2" in text
    assert "**The generator** is the small WaveGAN" in text
    assert "minimises\n  `waveform=1` (Table 1) and `waveform=1` (Table 2), and keeps z" in text
    assert "| | samples, n = 501 | samples, n = 2,048 |" in text and "| inception score, judge | 7.25 | 7.25 |" in text
    assert "| judge_mel: right (95 % interval) | 90.0 % (85.0 to 95.0) | 90.0 % (85.0 to 95.0) |" in text
    assert "| same answer of classifier and judge_wave | 70.0 % | 70.0 % |" in text
    assert (page.parent / "figures" / "figure2.png").read_bytes() == b"picture"
    assert "(figures/figure2.png)" in text and "figure3.png" not in text
    assert "Not made yet: Figure 3, Figure 4." in text
    assert "nan" not in text and "{" not in text


def test_published_lines_make_the_same_page_and_readme(folder, run_main):
    page, readme, lines = folder / "RESULTS.md", folder / "README.md", folder / "published"
    readme.write_text("Before\n<!-- results -->\nold\n<!-- /results -->\nAfter\n")
    done = run_main("studies/results_md.py", folder, "--output", page, "--readme", readme, "--publish", lines)
    assert (done.returncode, done.stdout) == (EXIT_OK, f"{page}\n"), done.stderr
    first = page.read_text(), readme.read_text()
    assert first[1].startswith("Before\n<!-- results -->\n501 clips a row, seed 7, at most 80 (gradient) and 81")
    assert " minutes for all tables (commit abcdef012345; Some CPU, 2 cores); heard right by judge:" in first[1]
    assert first[1].endswith("|\n<!-- /results -->\nAfter\n") and "old" not in first[1]
    assert "| hybrid | 0.00003 | 0.00400 | 0.300 | 36.9 % | 40.0 % | 40.1 % | 0.30 | 4.0 |" in first[1]
    assert len(read_jsonl(lines / "samples.jsonl")) == 2  # of equal records the last
    done = run_main("studies/results_md.py", lines, "--output", page, "--readme", readme)
    assert done.returncode == EXIT_OK and (page.read_text(), readme.read_text()) == first

    readme.write_text("nothing")
    with pytest.raises(UserError, match="<!-- results -->"):
        write_readme(readme, lines)
    (lines / "table3.jsonl").write_text("[]\n")
    done = run_main("studies/results_md.py", lines, "--output", page)
    assert done.returncode == EXIT_USAGE and "holds no Table 3" in done.stderr


def test_lines_that_were_published_before_stay_on_the_page(folder, run_main):
    page, lines = folder / "RESULTS.md", folder / "published"
    found = {"method": "search", "clip": 0, "batch_size": 8, "z_mse": 1e-9, "snr_db": 120.0, "match": "exact"}
    found |= {"objective": 1e-9, "evaluations": 900, "starts": 1, "seconds": 4.0, "seed": 0}
    found |= {"minimised": "waveform=1", "max_iter": 200, "precision": "float32"}
    append_jsonl(lines / "recovery.jsonl", found | row(CLIPS, "paper")["environment"])
    done = run_main("studies/results_md.py", folder, "--output", page, "--publish", lines)
    assert done.returncode == EXIT_OK, done.stderr
    assert "## Own samples: the latent itself" in page.read_text() and "| 1 of 1 |" in page.read_text()
    assert (folder / "figures" / "recovery.png").exists() and len(read_jsonl(lines / "recovery.jsonl")) == 1


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="--all makes them"):
        results_md.write_results(tmp_path / "RESULTS.md", tmp_path)
    assert tables.read_table(tmp_path, 1) is None and results_md.read_lines(tmp_path, "judges") == []


def test_the_projects_readme_has_a_place_for_the_numbers(folder, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    write_readme(readme, folder)
    assert readme.read_text() != (ROOT / "README.md").read_text()


def test_the_committed_page_and_readme_are_those_of_the_published_lines(tmp_path):
    """No number of RESULTS.md, and of the README's results, without a line in results/published."""
    page, readme = tmp_path / "RESULTS.md", tmp_path / "README.md"
    shutil.copytree(ROOT / "figures", tmp_path / "figures")
    shutil.copyfile(ROOT / "README.md", readme)
    results_md.write_results(page, ROOT / results_md.PUBLISHED)
    assert page.read_text() == (ROOT / "RESULTS.md").read_text()
    write_readme(readme, ROOT / results_md.PUBLISHED)
    assert readme.read_text() == (ROOT / "README.md").read_text()


def test_a_published_line_carries_how_it_was_made():
    for path in sorted((ROOT / results_md.PUBLISHED).glob("*.jsonl")):
        for line in read_jsonl(path):
            facts = line["protocol"] if isinstance(line.get("protocol"), dict) else line
            assert facts["n"] > 0 and facts["seed"] >= 0, path
            environment = line.get("environment", line)
            assert environment["commit"] and environment["versions"] and environment["hardware"]["cpu"], path
