"""studies/speech.py and studies/projected.py: their figures in RESULTS.md."""

import pytest

from studies import projected, speech
from studies.results_md import read_lines
from tests.drawn import drawn
from utils.evaluation.comparison import share_interval
from utils.runs.files import append_jsonl

SHARED = {"n": 32, "seed": 0, "precision": "float32", "max_iter": 100, "split": "report", "log_mel": 0.75}
SHARED |= {"stft_distance": 1.234, "seconds_a_clip": 5.04, "prior_distance": 0.5}
SHARED |= {f"{what}/{who}": 0.75 for what in ("accuracy", "between") for who in ("classifier", "ear")}


def test_the_projected_space_by_weight(tmp_path):
    for space, weight in (("projected", 1.0), ("projected", 0.1), ("z", 0.0), ("projected", 0.1)):
        append_jsonl(tmp_path / "projected.jsonl", SHARED | {"space": space, "weight": weight})
    panels = drawn(projected.figure(read_lines(tmp_path, "projected")))
    assert list(panels["log-mel distance"]["distance"]) == ["z", "projected, weight 0.1", "projected, weight 1"]
    low, high = share_interval(24, 32)
    assert panels["correct, %"]["ear"]["z"] == pytest.approx((75, 100 * low, 100 * high))
    low, high = share_interval(36, 48)  # three points between the two clips of each of 16 pairs
    assert panels["in between correct, %"]["ear"]["z"] == pytest.approx((75, 100 * low, 100 * high))


def test_real_clips_by_objective():
    panels = drawn(speech.figure([SHARED | {"method": "hybrid", "space": "projected", "objective": "log_mel=1"}]))
    assert list(panels) == ["correct, %", "log-mel distance", "STFT distance"]
    assert list(panels["correct, %"]) == ["classifier", "ear"]
    assert panels["STFT distance"]["distance"] == {"hybrid, projected, log_mel=1 (report)": (1.234, None, None)}
