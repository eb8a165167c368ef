"""How sure a number is, and when one method is better than another: one rule for every table and sentence.

A share has the interval of Clopper and Pearson (1934). Two methods on the same clips are compared in pairs, clip by
clip: shares by McNemar's exact test (1947), means by a bootstrap of the differences. `BETTER` or `WORSE` is said where
that excludes chance at 5 % and at least `FEWEST` clips were compared, and `NOT_DECIDED` of everything else.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from scipy.stats import beta, binomtest

from utils.evaluation.names import FEWEST

BETTER, WORSE, NOT_DECIDED = "better", "worse", "not decided"
CONFIDENCE = 0.95
RESAMPLES = 2000  # of a bootstrap of differences


def share_interval(successes: float, n: int) -> tuple[float, float]:
    """The 95 % interval of Clopper and Pearson of a share: 0 of n and n of n have a width, too.

    Args:
        successes: 0 to n; a fraction where the share is a mean of shares.
        n: at least 1.
    """
    tail = (1 - CONFIDENCE) / 2
    low = beta.ppf(tail, successes, n - successes + 1) if successes > 0 else 0.0
    high = beta.ppf(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return float(low), float(high)


def compare(ours: np.ndarray, theirs: np.ndarray, *, higher_is_better: bool, seed: int = 0) -> dict[str, Any] | None:
    """Two methods' values of the same clips, in pairs.

    Values that are all 0 or 1 are outcomes, and compared by McNemar's exact test; others by a bootstrap of the mean
    difference.

    Args:
        ours, theirs: float `[N]`; NaN for a clip without a value, which is left out of both.
        higher_is_better: of the values.
        seed: of the bootstrap.

    Returns:
        `n` pairs, the mean `difference` ours - theirs, and `verdict` on ours. Of outcomes also the clips `gained` (1 in
        ours alone) and `lost`, and `p`; of others the interval `low`, `high` of the difference. None without a pair.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    known = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[known], theirs[known]
    n = len(ours)
    if not n:
        return None
    differences = ours - theirs
    facts: dict[str, Any] = {"n": n, "difference": float(differences.mean())}
    if np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all():
        gained, lost = int(np.sum(differences > 0)), int(np.sum(differences < 0))
        p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        facts |= {"gained": gained, "lost": lost, "p": p}
        decided = p < 1 - CONFIDENCE
    else:
        draws = np.random.default_rng([seed, zlib.crc32(b"differences")]).integers(n, size=(RESAMPLES, n))
        tails = 100 * np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        low, high = np.percentile(differences[draws].mean(axis=1), tails)
        facts |= {"low": float(low), "high": float(high)}
        decided = bool(low > 0 or high < 0)
    ahead = facts["difference"] > 0 if higher_is_better else facts["difference"] < 0
    facts["verdict"] = NOT_DECIDED if n < FEWEST or not decided else BETTER if ahead else WORSE
    return facts


def compare_repeats(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Two methods' numbers of the same repeats, each with clips of its own, in pairs; higher is better.

    Returns:
        `n` repeats, the mean `difference`, its interval `low`, `high` by Student's t, and `verdict` on ours:
        `NOT_DECIDED` of a single repeat, whose spread is not known.
    """
    differences = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return {"n": n, "difference": mean, "verdict": NOT_DECIDED}
    half = float(stats.sem(differences) * stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    said = BETTER if mean - half > 0 else WORSE if mean + half < 0 else NOT_DECIDED
    return {"n": n, "difference": mean, "low": mean - half, "high": mean + half, "verdict": said}


def verdict(rows: Mapping[str, Mapping[str, Any]], ours: str, theirs: str, metric: str) -> str:
    """What `compare` said of two rows of a table in a metric; `NOT_DECIDED` where they were not compared.

    Args:
        rows: by name, with what each was compared with in `against` (`utils.evaluation.rows.Scorer`).
    """
    said = rows.get(ours, {}).get("against", {}).get(theirs, {}).get(metric)
    if said:
        return said["verdict"]
    said = rows.get(theirs, {}).get("against", {}).get(ours, {}).get(metric)
    return {BETTER: WORSE, WORSE: BETTER}.get(said["verdict"], NOT_DECIDED) if said else NOT_DECIDED
