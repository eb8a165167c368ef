"""utils/evaluation/comparison.py: intervals of shares, and the one rule by which a method is better than another."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from utils.evaluation.comparison import BETTER, NOT_DECIDED, WORSE, compare, compare_repeats, share_interval, verdict


@given(st.integers(1, 600).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_shares_interval_is_scipys(counts):
    expected = scipy.stats.binomtest(*counts).proportion_ci(method="exact")
    assert share_interval(*counts) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_all_and_none_of_24_clips_have_an_interval():
    assert share_interval(24, 24) == pytest.approx((0.858, 1), abs=5e-4)
    assert share_interval(0, 24) == pytest.approx((0, 0.142), abs=5e-4)
    low, high = share_interval(23.5, 24)  # of a mean of shares
    assert share_interval(23, 24)[0] < low < share_interval(24, 24)[0] and high < 1


def outcomes(both, gained, lost, neither):
    """Ours and theirs of clips that both got right, ours alone, theirs alone, neither."""
    pairs = [(1, 1)] * both + [(1, 0)] * gained + [(0, 1)] * lost + [(0, 0)] * neither
    return np.array(pairs, float).T


def test_shares_are_compared_by_mcnemars_exact_test():
    """The audit's figures: 89 to 95 % of 200 clips, 13 gained, 1 lost."""
    ours, theirs = outcomes(177, 13, 1, 9)
    said = compare(ours, theirs, higher_is_better=True)
    assert (said["n"], said["gained"], said["lost"], said["verdict"]) == (200, 13, 1, BETTER)
    assert said["difference"] == pytest.approx(0.06) and said["p"] == pytest.approx(2 * 15 / 2**14)
    assert compare(theirs, ours, higher_is_better=True)["verdict"] == WORSE
    assert compare(ours, theirs, higher_is_better=False)["verdict"] == WORSE
    assert compare(*outcomes(177, 8, 3, 12), higher_is_better=True)["verdict"] == NOT_DECIDED
    same = compare(ours, ours, higher_is_better=True)
    assert (same["p"], same["verdict"]) == (1, NOT_DECIDED)


def test_means_are_compared_by_their_differences():
    """Clips differ far more from each other than the methods do: apart the intervals overlap, in pairs they do not."""
    random = np.random.default_rng(0)
    theirs = random.normal(10, 5, 100)
    ours = theirs - random.uniform(0.1, 0.5, 100)
    said = compare(ours, theirs, higher_is_better=False)
    assert said["verdict"] == BETTER and said["low"] < said["difference"] < said["high"] < 0
    assert compare(ours, theirs, higher_is_better=True)["verdict"] == WORSE
    assert compare(ours, theirs + random.normal(0, 5, 100), higher_is_better=False)["verdict"] == NOT_DECIDED
    assert compare(ours, theirs, higher_is_better=False) == said


def test_nothing_is_concluded_from_fewer_than_30_clips():
    ours, theirs = outcomes(0, 29, 0, 0)
    assert compare(ours, theirs, higher_is_better=True)["verdict"] == NOT_DECIDED
    ours, theirs = outcomes(0, 30, 0, 0)
    assert compare(ours, theirs, higher_is_better=True)["verdict"] == BETTER
    ours[0] = np.nan  # a clip without a value is left out
    said = compare(ours, theirs, higher_is_better=True)
    assert (said["n"], said["verdict"]) == (29, NOT_DECIDED)
    assert compare(np.full(40, np.nan), np.zeros(40), higher_is_better=True) is None


def test_repeats_are_compared_by_students_t():
    theirs = np.array([0.80, 0.90, 0.85, 0.95])
    said = compare_repeats(theirs + [0.02, 0.03, 0.01, 0.02], theirs)
    expected = scipy.stats.ttest_rel(theirs + [0.02, 0.03, 0.01, 0.02], theirs).confidence_interval(0.95)
    assert (said["low"], said["high"]) == pytest.approx((expected.low, expected.high))
    assert said["difference"] == pytest.approx(0.02) and said["verdict"] == BETTER
    assert compare_repeats(theirs, theirs + [0.02, 0.03, 0.01, 0.02])["verdict"] == WORSE
    assert compare_repeats(theirs + [0.1, -0.1, 0.1, -0.05], theirs)["verdict"] == NOT_DECIDED
    assert compare_repeats([0.9], [0.1]) == {"n": 1, "difference": 0.8, "verdict": NOT_DECIDED}


def test_two_rows_verdict_from_either_side():
    rows = {"a": {"against": {"b": {"ssim": {"verdict": BETTER}, "mse": {"verdict": NOT_DECIDED}}}}, "b": {}}
    assert verdict(rows, "a", "b", "ssim") == BETTER and verdict(rows, "b", "a", "ssim") == WORSE
    assert verdict(rows, "b", "a", "mse") == verdict(rows, "a", "c", "ssim") == NOT_DECIDED
