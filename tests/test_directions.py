"""Principal directions of a latent space, on layers whose answer is known."""

import numpy as np

from utils.inversion.directions import principal_directions, walk

Z = np.random.default_rng(0).uniform(-1, 1, (4000, 6)).astype(np.float32)


def test_of_a_linear_layer_they_are_its_singular_vectors():
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for size in (6, 20))
    kernel = left * [5, 3, 2, 1, 0.5, 0.1] @ right[:6]
    directions, shares = principal_directions(Z @ kernel, Z, 3)
    cosines = np.abs(np.sum(directions * left[:, :3].T, axis=1)) / np.linalg.norm(directions, axis=1)
    assert (cosines > 0.99).all()
    # A coordinate of the prior has variance 1/3, so one standard deviation of a component is as long as its root.
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), np.sqrt(1 / 3), rtol=0.05)
    np.testing.assert_allclose(shares, np.square([5, 3, 2]) / np.square([5, 3, 2, 1, 0.5, 0.1]).sum(), rtol=0.1)


def test_what_does_not_change_the_layer_is_in_no_direction():
    activations = np.maximum(Z[:, :3] @ np.random.default_rng(2).normal(size=(3, 30)), 0)
    directions, _ = principal_directions(activations, Z, 2)
    assert np.abs(directions[:, 3:]).max() < 0.1 * np.abs(directions[:, :3]).max()


def test_a_walk_stays_in_the_prior_s_box():
    z, way = np.array([0.0, 0.9], np.float32), np.array([0.2, 0.2], np.float32)
    steps = (-3.0, 0.0, 3.0)
    np.testing.assert_allclose(walk(z, way, "uniform", steps), [[-0.6, 0.3], [0, 0.9], [0.6, 1]], atol=1e-6)
    np.testing.assert_allclose(walk(z, way, "normal", steps), [[-0.6, 0.3], [0, 0.9], [0.6, 1.5]], atol=1e-6)
