"""studies/recovery.py: the picture of searches for own samples' latents."""

import pytest

from studies.recovery import EVALUATIONS, SECONDS, figure, found_by_method
from tests.drawn import drawn
from utils.evaluation.comparison import share_interval

PROTOCOL = {"minimised": "waveform=1", "max_iter": 200, "precision": "float32"}


def line(method, clip, batch_size=8, *, z_mse=0.3, seconds=2.0):
    facts = {"method": method, "clip": clip, "batch_size": batch_size, "z_mse": z_mse, "snr_db": 20.0}
    return facts | {"objective": 0.5, "evaluations": 100, "seconds": seconds} | PROTOCOL


def test_the_share_of_latents_found_with_its_interval():
    lines = [line("search", clip, z_mse=1e-6 if clip < 6 else 1.1e-6, seconds=4.0) for clip in range(8)]
    lines += [line("lbfgs", clip) for clip in range(8)]
    assert found_by_method(lines) == {"lbfgs": [False] * 8, "search": [True] * 6 + [False] * 2}
    panels = drawn(figure(lines))
    low, high = share_interval(6, 8)
    found = panels["latents found, %"]["all"]["the default search (n = 8)"]
    assert found == pytest.approx((75, 100 * low, 100 * high))
    assert panels[SECONDS]["all"] == {
        "L-BFGS from the prior (n = 8)": (2, None, None),
        "the default search (n = 8)": (4, None, None),
    }
    assert set(panels[EVALUATIONS]["all"].values()) == {(100, None, None)}


def test_of_several_batch_sizes_that_of_most_clips_counts():
    lines = [line("hybrid", clip, 1, z_mse=0.0) for clip in range(2)] + [line("hybrid", clip, 8) for clip in range(4)]
    assert found_by_method(lines) == {"hybrid": [False] * 4}
