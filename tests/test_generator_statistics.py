import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from tests.tiny import generator
from utils.evaluation.generator_statistics import (
    hum,
    jacobian_statistics,
    judged_statistics,
    level_statistics,
    singular_values,
    voice_statistics,
)


@given(st.integers(0, 2**31))
def test_inception_score_is_the_mean_divergence(seed):
    p = np.random.default_rng(seed).dirichlet(np.full(10, 0.2), size=64)
    expected = np.exp(np.mean([entropy(row, p.mean(axis=0)) for row in p]))
    assert judged_statistics(p)["inception_score"] == pytest.approx(expected, rel=1e-6)


def test_bounds_of_the_inception_score():
    assert judged_statistics(np.eye(10))["inception_score"] == pytest.approx(10)
    assert judged_statistics(np.full((5, 10), 0.1))["inception_score"] == pytest.approx(1)


def test_shares():
    p = np.array([[0.95, 0.05, 0], [0.6, 0.3, 0.1], [0.05, 0.95, 0], [0.92, 0.08, 0]])
    facts = judged_statistics(p)
    assert facts["confident"] == 0.75
    assert (facts["smallest_class"], facts["largest_class"]) == (0, 0.75)


def test_level_in_decibels():
    reference = np.random.default_rng(0).normal(size=(4, 100, 1))
    assert level_statistics(reference / 2, reference)["rms_db"] == pytest.approx(-6.02, abs=0.01)


def test_jacobian_of_one_and_of_all_directions():
    assert jacobian_statistics(np.ones(7)) == {"participation_ratio": 7, "smallest_to_largest": 1}
    lone = jacobian_statistics(np.array([5.0, 0, 0]))
    assert lone == {"participation_ratio": 1, "smallest_to_largest": 0}


def test_voice_statistics_by_hand():
    tracks = np.zeros((4, 10))
    tracks[0, :5], tracks[1, :] = 100, 140
    tracks[2, :4] = 400  # too few frames for a pitch
    facts = voice_statistics(tracks)
    assert facts == {"voiced": 19 / 40, "f0_median": 120, "f0_spread": pytest.approx(40 / 2**0.5)}
    assert voice_statistics(tracks[2:]) == {"voiced": 4 / 20}


def test_hum_is_seen_beside_noise():
    noise = np.random.default_rng(0).normal(0, 0.1, (64, 16384, 1))
    tone = 0.02 * np.sin(2 * np.pi * 250 * np.arange(16384) / 16000)[:, None]
    assert abs(hum(noise, 16000, (62.5,))) < 3 and abs(hum(noise + tone, 16000, (1000.0,))) < 3
    assert hum(noise + tone, 16000, (250.0,)) > 6


def test_singular_values_are_those_of_the_jacobian():
    tiny, z = generator(), np.linspace(-0.5, 0.5, 6, dtype=np.float32)
    tiny.network = None  # as of a generator that is no native WaveGAN
    steps = 1e-3 * np.eye(6, dtype=np.float32)
    differences = (tiny(z + steps) - tiny(z - steps)).numpy().reshape(6, -1) / 2e-3
    expected = np.linalg.svd(differences, compute_uv=False)
    np.testing.assert_allclose(singular_values(tiny, z), expected, rtol=1e-2, atol=1e-2)
