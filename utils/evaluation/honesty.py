"""How varied a generator's samples are: measures by which ten fixed waveforms, one a digit, score badly.

Classifier scores reward ten perfect waveforms, one a digit. These do not: how much of the samples' power is one fixed
waveform, how alike the waveforms of one class are, how much of real clips' variety is there, how much of the real
clips' neighbourhood is covered, and how many reconstructions are nearest to their own clip.
"""

import numpy as np
from scipy.spatial.distance import cdist


def fixed_waveform_share(audio: np.ndarray) -> float:
    """Share of the clips' power that is one and the same waveform.

    With m the mean waveform of n clips and P their mean power, (mean m^2 - P / n) / (P (1 - 1 / n)): 1 where all clips
    are one waveform, 0 on average where they are independent (P / n is what is left of independent clips in m).

    Args:
        audio: float `[N, T, C]`, N of at least 2, not all silent.

    Returns:
        At most 1; below 0 only by chance.
    """
    x = _flat(audio)
    n, power = len(x), np.mean(np.square(x))
    return float((np.mean(np.square(x.mean(axis=0))) - power / n) / (power * (1 - 1 / n)))


def mean_squared_cosine(audio: np.ndarray) -> float:
    """Mean over all pairs of the squared cosine between two waveforms; 1 / (T C) for independent white noise.

    Args:
        audio: float `[N, T, C]`, N of at least 2. A silent clip has cosine 0 with every other.
    """
    x = _flat(audio)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    squares = np.square(x @ x.T)
    n = len(x)
    return float((squares.sum() - np.trace(squares)) / (n * (n - 1)))


def within_class(measure, audio: np.ndarray, classes: np.ndarray) -> float:
    """Mean over the classes of a measure of their clips; classes of fewer than two clips are left out.

    Args:
        measure: such as `fixed_waveform_share`: float `[n, T, C]` to a number.
        audio: float `[N, T, C]`.
        classes: int `[N]`.

    Raises:
        ValueError: where no class has two clips.
    """
    groups = [audio[classes == k] for k in np.unique(classes)]
    values = [measure(group) for group in groups if len(group) > 1]
    if not values:
        raise ValueError("no class has two clips")
    return float(np.mean(values))


def nearest_distances(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Root mean square difference from each of `features` `[N, ...]` to the nearest of `known` `[M, ...]`; `[N]`.

    Of a generator's samples among training clips, compared with held-out clips: lower where training clips are
    reproduced.
    """
    a, b = (np.asarray(x, np.float32).reshape(len(x), -1) for x in (features, known))
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares.min(axis=1), 0) / a.shape[1])


def variance(features: np.ndarray) -> float:
    """Mean over the entries of the unbiased variance over clips, `[N, ...]`: of log-mel spectrograms, how varied sounds
    are. Divide by that of real clips."""
    return float(np.var(np.asarray(features, np.float64), axis=0, ddof=1).mean())


def precision_recall_density_coverage(real: np.ndarray, generated: np.ndarray, neighbours: int = 5) -> dict[str, float]:
    """How generated clips lie among real ones in a space of features.

    Precision and recall (Kynkaanniemi et al., 2019): the share of one set that lies in the balls around the other's
    points, each reaching to its k-th nearest neighbour. Density and coverage (Naeem et al., 2020, equations 3 and 4):
    how many real balls a generated point lies in, over k; the share of real balls that hold a generated point. Coverage
    of another set of real clips is 1 - (1 / 2)^k for equal N: compare with that and at equal N only.

    Args:
        real: float `[N, D]`.
        generated: float `[M, D]`.
        neighbours: k, below N and M.

    Raises:
        ValueError: for fewer than `neighbours` + 1 rows.
    """
    if min(len(real), len(generated)) <= neighbours:
        raise ValueError(f"must have more than {neighbours} rows. Received: {len(real)} and {len(generated)}")
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    real_radii, generated_radii = (
        np.partition(cdist(x, x), neighbours, axis=1)[:, neighbours] for x in (real, generated)
    )
    distances = cdist(real, generated)
    in_real_ball = distances < real_radii[:, None]
    return {
        "precision": float(in_real_ball.any(axis=0).mean()),
        "recall": float((distances < generated_radii).any(axis=1).mean()),
        "density": float(in_real_ball.sum() / (neighbours * len(generated))),
        "coverage": float((distances.min(axis=1) < real_radii).mean()),
    }


def _flat(audio: np.ndarray) -> np.ndarray:
    """`[N, T, C]` as float64 `[N, T * C]`, N of at least 2."""
    x = np.asarray(audio, np.float64).reshape(len(audio), -1)
    if len(x) < 2:
        raise ValueError(f"must be at least 2 clips. Received: {len(x)}")
    return x
