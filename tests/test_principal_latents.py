"""Fixed latents of a dataset's clips: they look like the prior, tell sounds apart and hold the class."""

import numpy as np
import pytest
from scipy.stats import kstest

from utils.audio.principal_latents import class_code, gaussianized, principal_latents
from utils.options import UserError

LABELS = np.repeat(np.arange(3), 100)


@pytest.fixture(scope="module")
def clips():
    """int16 tones in noise: frequency by class and by clip, at some level and onset."""
    rng = np.random.default_rng(0)
    time = np.arange(4096) / 16000
    audio = []
    for label in LABELS:
        tone = np.sin(2 * np.pi * (500 * (label + 1) + rng.uniform(0, 200)) * time) + 0.1 * rng.standard_normal(4096)
        tone *= np.exp(-np.square((np.arange(4096) - rng.uniform(1500, 2500)) / 800)) * rng.uniform(0.1, 0.5)
        audio.append(tone)
    return (np.array(audio)[:, :, None] * 20000).astype(np.int16)


def latents(clips, num_classes=3, latent_dim=20, seed=0):
    return principal_latents(clips, LABELS, num_classes, latent_dim, 16000, seed)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_they_look_like_the_prior(clips, num_classes):
    z = latents(clips, num_classes)
    assert z.shape == (300, 20) and z.dtype == np.float32 and np.abs(z).max() < 1
    assert kstest(z.ravel(), "uniform", (-1, 2)).statistic < 0.02
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.diag(np.cov(z.T)), 1 / 3, atol=0.05)


def test_the_class_is_in_them(clips):
    np.testing.assert_array_equal(class_code(latents(clips), 3), LABELS)


def test_near_sounds_have_near_latents(clips):
    twice = np.concatenate([clips, clips + 1])
    z = principal_latents(twice, np.tile(LABELS, 2), 0, 20, 16000, 0)
    apart = np.linalg.norm(z[:, None, :] - z[None], axis=2)
    assert np.median(np.diag(apart[:300, 300:])) < 0.2 * np.median(apart)


def test_the_seed_decides(clips):
    np.testing.assert_array_equal(latents(clips), latents(clips))
    assert not np.array_equal(latents(clips), latents(clips, seed=1))


def test_class_codes_are_equally_likely_under_the_prior():
    z = np.random.default_rng(0).uniform(-1, 1, (6000, 32))
    np.testing.assert_allclose(np.bincount(class_code(z, 3)) / 6000, 1 / 3, atol=0.02)


def test_gaussianized_undoes_a_mixture():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-3, 0.3, (500, 2)), rng.normal(3, 1, (500, 2))])
    y = gaussianized(x, rng)
    assert all(kstest(y @ direction, "norm").statistic < 0.03 for direction in ([1, 0], [0, 1], [0.6, 0.8]))


@pytest.mark.parametrize(("count", "latent_dim"), [(15, 20), (300, 5)])
def test_too_few_are_refused(clips, count, latent_dim):
    with pytest.raises(UserError, match="--latent_dim"):
        principal_latents(clips[:count], LABELS[:count], 3, latent_dim, 16000, 0)
