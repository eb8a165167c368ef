"""Fixed latents of a dataset's clips: they look like the prior, tell sounds apart and hold the class."""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import kstest

from utils.audio.principal_latents import class_code, gaussianized, principal_latents
from utils.errors import UserError

LABELS = np.repeat(np.arange(3), 100)


@pytest.fixture(scope="module")
def features():
    """What differs by class and, more, by clip: 30 numbers of unequal spread, not normally distributed."""
    rng = np.random.default_rng(0)
    hidden = np.column_stack([np.eye(3)[LABELS] * 4, rng.laplace(size=(300, 25)) * np.geomspace(3, 0.1, 25)])
    return (hidden @ rng.standard_normal((28, 30))).astype(np.float32)


def latents(features, num_classes=3, latent_dim=20, seed=0):
    return principal_latents(features, LABELS, num_classes, latent_dim, seed)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_they_look_like_the_prior(features, num_classes):
    z = latents(features, num_classes)
    assert z.shape == (300, 20) and z.dtype == np.float32 and np.abs(z).max() < 1
    assert kstest(z.ravel(), "uniform", (-1, 2)).statistic < 0.02
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.diag(np.cov(z.T)), 1 / 3, atol=0.05)


def test_the_class_is_in_them(features):
    np.testing.assert_array_equal(class_code(latents(features), 3), LABELS)


def test_near_sounds_have_near_latents(features):
    rng = np.random.default_rng(1)
    twice = np.concatenate([features, features + 0.01 * rng.standard_normal(features.shape)]).astype(np.float32)
    z = principal_latents(twice, np.tile(LABELS, 2), 0, 20, 0)
    apart = np.linalg.norm(z[:, None, :] - z[None], axis=2)
    assert np.median(np.diag(apart[:300, 300:])) < 0.2 * np.median(apart)


def test_a_linear_map_comes_near_them(features):
    z = latents(features, num_classes=0)
    nearest = np.linalg.lstsq(np.column_stack([features, np.ones(300)]), ndtri((z + 1) / 2), rcond=None)[0]
    found = 2 * ndtr(np.column_stack([features, np.ones(300)]) @ nearest) - 1
    assert np.mean(np.square(found - z)) < 0.05


def test_the_seed_decides(features):
    np.testing.assert_array_equal(latents(features), latents(features))
    assert not np.array_equal(latents(features), latents(features, seed=1))


def test_class_codes_are_equally_likely_under_the_prior():
    z = np.random.default_rng(0).uniform(-1, 1, (6000, 32))
    np.testing.assert_allclose(np.bincount(class_code(z, 3)) / 6000, 1 / 3, atol=0.02)


def test_gaussianized_undoes_a_mixture():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-3, 0.3, (500, 2)), rng.normal(3, 1, (500, 2))])
    y = gaussianized(x, rng)
    assert all(kstest(y @ direction, "norm").statistic < 0.03 for direction in ([1, 0], [0, 1], [0.6, 0.8]))


@pytest.mark.parametrize(("count", "latent_dim"), [(15, 20), (300, 5)])
def test_too_few_are_refused(features, count, latent_dim):
    with pytest.raises(UserError, match="--latent_dim"):
        principal_latents(features[:count], LABELS[:count], 3, latent_dim, 0)
