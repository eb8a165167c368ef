"""studies/recovery.py: the table and the picture of searches for own samples' latents."""

import pytest

from studies.recovery import figure, section

PROTOCOL = {"minimised": "waveform=1", "max_iter": 200, "precision": "float32"}


def line(method, clip, batch_size=8, *, z_mse=0.3, seconds=2.0, objective=0.5, curve=None, starts=1):
    match = "exact" if z_mse <= 1e-6 else "approximate"
    facts = {"method": method, "clip": clip, "batch_size": batch_size, "z_mse": z_mse, "snr_db": 20.0, "match": match}
    facts |= {"objective": objective, "evaluations": 100, "starts": starts, "seconds": seconds}
    return facts | PROTOCOL | ({"curve": curve} if curve else {})


def rows(text, start):
    return [row for row in text.splitlines() if row.startswith(f"| {start}")]


def test_the_share_of_latents_found_has_wilsons_interval():
    records = [
        line("search", clip, z_mse=1e-9 if clip < 6 else 0.2, seconds=4.0, starts=1 + clip // 4) for clip in range(8)
    ]
    records += [line("lbfgs", clip) for clip in range(8)]
    text = section(records)
    # Wilson's formula by hand, for 6 of 8: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.96.
    (row,) = rows(text, "the default for own samples")
    assert "| 75 % (41 to 93) | 6 of 8 |" in row and row.endswith("| 4.0 |")
    (row,) = rows(text, "batched L-BFGS from the prior")
    assert "| 0 % (0 to 32) | 0 of 8 | 0.3 |" in row
    assert "At equal loss" not in text
    shares = figure(records).axes[1].lines[0].get_ydata()
    assert list(shares) == [50, 75]


def test_speeds_are_compared_where_the_published_loop_ends():
    curve = {"1": 2.0, "10": 0.9, "25": 0.5, "100": 0.1}
    records = [line("published", clip, 1, seconds=8.0, objective=0.5) for clip in range(2)]
    for size in (1, 8):
        records += [line("hybrid", clip, size, seconds=4.0 / size, objective=0.1, curve=curve) for clip in range(2)]
        records += [line("adam", clip, size, objective=0.7) for clip in range(2)]
    text = section(records)
    one, eight = (row for row in rows(text, "batched L-BFGS from the encoder") if row.count("|") == 7)
    assert one.endswith("| 1 | 4.00 | 0.1 | 1.00 | 8.0 |")  # 25 of 100 evaluations, 4 s
    assert eight.endswith("| 8 | 0.50 | 0.1 | 0.12 | 64.0 |")
    assert all(row.endswith("| never | – |") for row in rows(text, "Adam, clipped") if row.count("|") == 7)


@pytest.mark.parametrize("methods", [("published",), ("lbfgs", "search")])
def test_the_picture_takes_what_there_is(methods):
    records = [line(method, clip) for method in methods for clip in range(2)]
    assert len(figure(records).axes[0].get_legend().get_texts()) == len(methods)
