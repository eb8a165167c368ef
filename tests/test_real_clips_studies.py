"""studies/speech.py and studies/projected.py: their sections of RESULTS.md."""

from studies import projected, speech
from studies.results_md import read_lines
from utils.report.figures import save_figure
from utils.runs.files import append_jsonl


def test_sections_tell_what_the_lines_do(tmp_path):
    shared = {"n": 32, "seed": 0, "precision": "float32", "max_iter": 100, "split": "report", "log_mel": 0.75}
    shared |= {"stft_distance": 1.234, "seconds_a_clip": 5.04, "prior_distance": 0.5}
    shared |= {
        f"{what}/{who}": share
        for what, share in (("accuracy", 0.91), ("between", 0.82))
        for who in ("classifier", "ear")
    }
    for space, weight in (("projected", 1.0), ("projected", 0.1), ("z", 0.0), ("projected", 0.1)):
        append_jsonl(tmp_path / "projected.jsonl", shared | {"space": space, "weight": weight})
    lines = read_lines(tmp_path, "projected")
    text = projected.section(lines)
    rows = [line for line in text.splitlines() if line.startswith(("| z", "| projected"))]
    assert [row.split(" | ")[1] for row in rows] == ["–", "0.1", "1"]  # z first; of equal lines the last one
    assert rows[1] == "| projected | 0.1 | 0.50 | 0.75 | 1.23 | 91 % | 82 % | 5.0 |"
    assert "not a latent of\nthe prior" in text
    save_figure(projected.figure(lines), tmp_path / "projected.png", (".png",))
    assert 5_000 < (tmp_path / "projected.png").stat().st_size < 150_000
    text = speech.section([shared | {"method": "hybrid", "space": "projected", "objective": "log_mel=1"}])
    assert "| report | hybrid, projected | `log_mel=1` | 100 | 91 % | 91 % | 0.75 | 1.23 | 5.0 |" in text
