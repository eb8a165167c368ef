"""utils/evaluation/honesty.py: a few waveforms score badly; against brute force, and known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.evaluation.honesty import (
    fixed_waveform_share,
    mean_squared_cosine,
    nearest_distances,
    precision_recall_density_coverage,
    variance,
    within_class,
)


def noise(n: int, seed: int = 0, length: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, length, 1)).astype(np.float32)


@given(st.floats(0, 1), st.integers(5, 40))
def test_share_of_a_known_mixture(share, n):
    fixed, free = noise(1, 1), noise(n, 2)
    audio = np.sqrt(share) * fixed + np.sqrt(1 - share) * free
    assert fixed_waveform_share(audio) == pytest.approx(share, abs=0.04)
    assert mean_squared_cosine(audio) == pytest.approx(share**2, abs=0.04)


def test_one_waveform_at_any_level_has_no_variety():
    copies = noise(1) * np.linspace(0.1, 1, 6)[:, None, None]
    assert mean_squared_cosine(copies) == pytest.approx(1)
    assert fixed_waveform_share(np.repeat(noise(1), 6, axis=0)) == pytest.approx(1)


def test_one_waveform_a_class_shows_within_them_only():
    words, classes = noise(10, 3), np.repeat(np.arange(10), 8)
    audio = words[classes]
    assert fixed_waveform_share(audio) == pytest.approx(0.09, abs=0.05)
    assert within_class(fixed_waveform_share, audio, classes) == pytest.approx(1)
    with pytest.raises(ValueError, match="no class has two"):
        within_class(fixed_waveform_share, audio[:2], np.array([0, 1]))


def test_silence_resembles_nothing_and_one_clip_is_no_set():
    audio = noise(4)
    audio[0] = 0
    others = mean_squared_cosine(audio[1:])
    assert mean_squared_cosine(audio) == pytest.approx(others * 6 / 12)
    for measure in (fixed_waveform_share, mean_squared_cosine):
        with pytest.raises(ValueError, match="at least 2"):
            measure(audio[:1])


def test_variance_is_unbiased():
    draws = [variance(np.random.default_rng(seed).normal(0, 3, (3, 500))) for seed in range(20)]
    assert np.mean(draws) == pytest.approx(9, rel=0.05)


def brute_force(real: np.ndarray, generated: np.ndarray, k: int) -> dict[str, float]:
    def radius(points, i):
        return sorted(np.linalg.norm(points[i] - p) for p in points)[k]

    inside = [[np.linalg.norm(r - g) < radius(real, i) for g in generated] for i, r in enumerate(real)]
    inside_generated = [[np.linalg.norm(r - g) < radius(generated, j) for j, g in enumerate(generated)] for r in real]
    return {
        "precision": np.mean(np.any(inside, axis=0)),
        "recall": np.mean(np.any(inside_generated, axis=1)),
        "density": np.sum(inside) / (k * len(generated)),
        "coverage": np.mean(np.any(inside, axis=1)),
    }


@given(st.integers(0, 1000), st.integers(1, 4), st.floats(0, 3))
def test_neighbourhoods_agree_with_brute_force(seed, k, shift):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(12, 3)), rng.normal(size=(9, 3)) + shift
    found = precision_recall_density_coverage(real, generated, k)
    assert found == pytest.approx(brute_force(real, generated, k))


def test_coverage_of_the_same_distribution_of_few_clips_and_of_none():
    rng = np.random.default_rng(0)
    real, other = rng.normal(size=(400, 2)), rng.normal(size=(400, 2))
    same = precision_recall_density_coverage(real, other)
    assert same["coverage"] == pytest.approx(1 - 0.5**5, abs=0.03)
    assert same["density"] == pytest.approx(1, abs=0.1)
    class_baseline = precision_recall_density_coverage(real, np.repeat(other[:10], 40, axis=0))
    assert class_baseline["coverage"] < 0.2 and class_baseline["precision"] > 0.8
    nothing = precision_recall_density_coverage(real, other + 100)
    assert set(nothing.values()) == {0.0}
    with pytest.raises(ValueError, match="more than 5 rows"):
        precision_recall_density_coverage(real[:5], other)


def test_nearest_distances_by_hand():
    known = np.array([[0.0, 0.0], [3.0, 4.0]])
    found = nearest_distances(np.array([[3.0, 4.0], [0.0, 1.0], [3.0, 2.0]]), known)
    np.testing.assert_allclose(found, [0, (1 / 2) ** 0.5, (4 / 2) ** 0.5], atol=1e-6)
