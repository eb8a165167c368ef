"""utils/inversion/anderson.py, on fixed points that are known."""

import numpy as np
import pytest

from utils.inversion.anderson import iterate


@pytest.fixture
def linear():
    """Three problems of five unknowns whose plain iteration contracts slowly, and their solutions."""
    rng = np.random.default_rng(0)
    bases = np.linalg.qr(rng.normal(size=(3, 5, 5)))[0]
    matrices = bases * np.array([0.05, 0.2, 0.5, 0.9, 1.2]) @ bases.transpose(0, 2, 1)
    solutions = rng.uniform(-0.5, 0.5, (3, 5))
    return lambda x: np.matvec(matrices, solutions - x), solutions


def test_a_linear_problem_ends_after_as_many_rounds_as_it_has_unknowns(linear):
    residual, solutions = linear
    found = iterate(residual, np.zeros((3, 5)), rounds=8, lower=-np.inf, upper=np.inf)
    plain = np.zeros((3, 5))
    for _ in range(8):
        plain = plain + residual(plain)
    errors = [np.square(x - solutions).mean(axis=1) for x in (found, plain)]
    assert (errors[0] < 1e-6).all() and (errors[0] < 1e-3 * errors[1]).all()


def test_each_row_goes_its_own_way(linear):
    residual, _ = linear
    together = iterate(residual, np.zeros((3, 5)), rounds=4, lower=-np.inf, upper=np.inf)
    alone = iterate(lambda x: residual(np.repeat(x, 3, axis=0))[:1], np.zeros((1, 5)), rounds=4, lower=-9, upper=9)
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-9)


def test_stays_in_the_box_and_where_it_is_when_there_is_nothing_to_do(linear):
    residual, solutions = linear
    seen = []
    found = iterate(lambda x: seen.append(x) or residual(x), np.ones((3, 5)), rounds=6, lower=-0.1, upper=0.1)
    assert all(np.abs(x).max() <= 0.1 for x in [*seen, found]) and len(seen) == 6
    np.testing.assert_allclose(iterate(residual, solutions, rounds=5, lower=-1, upper=1), solutions, atol=1e-12)
    np.testing.assert_array_equal(iterate(residual, solutions, rounds=0, lower=-1, upper=1), solutions)
