"""utils/runs/progress.py: bars that move."""

import io
import sys
import time

from utils.runs import progress


def test_a_bar_is_drawn_anew_while_nothing_is_counted(monkeypatch):
    drawn = io.StringIO()
    monkeypatch.setattr(sys, "stderr", drawn)
    monkeypatch.setattr(progress, "SECONDS", (0.05, 0.05))
    with progress.MovingBar("files", 4) as bar:
        bar.set_postfix_str("search, log-mel: 4 starts running")
        before = drawn.getvalue()
        time.sleep(0.5)
        after = drawn.getvalue()
    assert "search, log-mel: 4 starts running" in before
    assert after.count("files:") > before.count("files:") + 3
    time.sleep(0.2)
    end = drawn.getvalue()
    time.sleep(0.2)
    assert drawn.getvalue() == end  # not any more


def test_a_quiet_bar_draws_nothing(monkeypatch):
    drawn = io.StringIO()
    monkeypatch.setattr(sys, "stderr", drawn)
    with progress.MovingBar("files", 4, quiet=True) as bar:
        bar.update()
    assert drawn.getvalue() == ""
