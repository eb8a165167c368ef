"""utils/inversion/gauss_newton.py and problem.py, against SciPy and on generators that can be inverted."""

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.generator import Generator, load_generator
from models.wavegan import Architecture, WaveGANGenerator, initial_weights
from utils.inversion.gauss_newton import minimize
from utils.inversion.lbfgs import Status
from utils.inversion.problem import LeastSquares
from utils.losses import Point, parse_objective


def rosenbrock(x):
    return np.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]), np.array([[-20 * x[0], 10], [-1, 0]])


def decay(x):
    """Two exponentials at 30 times, an ill-conditioned fit with a residual that is not zero."""
    t = np.linspace(0, 3, 30)
    data = 2 * np.exp(-t) + np.exp(-3 * t) + 0.05 * np.sin(20 * t)
    e = np.exp(-np.outer(t, x[2:]))
    return e @ x[:2] - data, np.concatenate([e, -t[:, None] * e * x[:2]], axis=1)


def powell(x):
    """Singular at its solution."""
    r = [x[0] + 10 * x[1], 5**0.5 * (x[2] - x[3]), (x[1] - 2 * x[2]) ** 2, 10**0.5 * (x[0] - x[3]) ** 2]
    a, b = 2 * (x[1] - 2 * x[2]), 2 * 10**0.5 * (x[0] - x[3])
    j = [[1, 10, 0, 0], [0, 0, 5**0.5, -(5**0.5)], [0, a, -2 * a, 0], [b, 0, 0, -b]]
    return np.array(r), np.array(j)


PROBLEMS = {"rosenbrock": (rosenbrock, 2), "decay": (decay, 4), "powell": (powell, 4)}
BOXES = {"free": (-np.inf, np.inf), "box": (-0.7, 0.8), "wide": (-0.5, 3.2)}


def ours(problem, x0, *, gradients=False, **options):
    """`minimize` on a problem of one point, whichever the row."""

    def value(x, index):
        return [np.square(problem(row)[0]).sum() for row in x]

    def linearise(x, index):
        parts = [(j.T @ r, j.T @ j) for r, j in map(problem, x.astype(np.float64))]
        return tuple(np.stack(part) for part in zip(*parts, strict=True))

    if gradients:
        options["value_and_gradient"] = lambda x, index: (value(x, index), 2 * linearise(x, index)[0])
    return minimize(value, linearise, x0, **options)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("box", BOXES)
def test_ends_as_low_as_scipys(name, box, gradients):
    problem, n = PROBLEMS[name]
    lower, upper = BOXES[box]
    x0 = np.random.default_rng(0).uniform(max(lower, 0.1), min(upper, 2.0), (5, n))
    found = ours(problem, x0, gradients=gradients, lower=lower, upper=upper, max_iter=300, tol_change=1e-12)
    for start, x, fun in zip(x0, found.x, found.fun, strict=True):
        expected = scipy.optimize.least_squares(
            lambda x: problem(x)[0], start, lambda x: problem(x)[1], (lower, upper), xtol=1e-15, ftol=1e-15, gtol=1e-12
        )
        assert fun <= 2 * expected.cost * (1 + 1e-4) + 1e-12
        assert fun == pytest.approx(np.square(problem(x)[0]).sum())
        assert lower <= x.min() and x.max() <= upper


@pytest.mark.parametrize("gradients", [False, True])
def test_batch_equals_one_at_a_time_and_counts_are_honest(gradients):
    x0 = np.random.default_rng(1).uniform(-2, 2, (4, 2))
    calls = np.zeros(4, int)

    def value(x, index):
        np.add.at(calls, index, 1)
        return [np.square(rosenbrock(row)[0]).sum() for row in x]

    def linearise(x, index):
        calls[index] += 2
        return tuple(np.stack(p) for p in zip(*[(j.T @ r, j.T @ j) for r, j in map(rosenbrock, x)], strict=True))

    def value_and_gradient(x, index):
        return value(x, index), np.stack([2 * j.T @ r for r, j in map(rosenbrock, x)])

    found = minimize(value, linearise, x0, max_iter=60, value_and_gradient=value_and_gradient if gradients else None)
    assert found.evaluations.tolist() == calls.tolist() == [len(curve) for curve in found.curve]
    assert all((np.diff(curve) <= 0).all() and curve[-1] == f for curve, f in zip(found.curve, found.fun, strict=True))
    for i in range(4):
        alone = ours(rosenbrock, x0[i : i + 1], gradients=gradients, max_iter=60)
        np.testing.assert_array_equal(alone.x[0], found.x[i])
        assert alone.status[0] == found.status[i]


def test_the_active_set_grows_until_every_other_variable_is_solved_anew():
    # Solved freely x is (3, -4, 0); with x0 and x1 held at the bounds that it crosses, the last one crosses its own.
    a = np.array([[-1.0, 3.0, 0.0], [-3.0, 2.0, 2.0], [2.0, -2.0, -3.0]])
    b = a @ np.array([3.0, -4.0, 0.0])
    expected = scipy.optimize.lsq_linear(a, b, (-1, 1), tol=1e-14).x
    found = ours(lambda x: (a @ x - b, a), np.zeros((1, 3)), lower=-1, upper=1, max_iter=1)
    assert found.iterations.tolist() == [1]
    np.testing.assert_allclose(found.x[0], expected, atol=1e-2)


def test_steps_between_jacobians_save_jacobians():
    def problem(x):
        return np.expm1(x), np.diag(np.exp(x))

    x0 = np.random.default_rng(2).uniform(0.5, 1.5, (8, 4))
    each, some = (ours(problem, x0, gradients=gradients, max_iter=60, tol_value=1e-20) for gradients in (False, True))
    assert each.status_names == some.status_names == ["converged_value"] * 8
    assert some.iterations.sum() <= 0.6 * each.iterations.sum()


def test_what_is_not_finite_never_wins_and_leaves_the_neighbours_alone():
    def problem(x):  # not finite left of 0
        return (np.log(x), np.diag(1 / x)) if (x > 0).all() else (np.full(2, np.nan), np.full((2, 2), np.nan))

    with np.errstate(all="ignore"):
        found = ours(problem, np.array([[3.0, 40.0], [-1.0, 2.0], [0.2, 0.01]]), max_iter=60, tol_value=1e-12)
    assert found.status_names == ["converged_value", "nonfinite_start", "converged_value"]
    np.testing.assert_allclose(found.x[[0, 2]], 1, atol=1e-5)
    assert found.x[1].tolist() == [-1, 2] and np.isinf(found.fun[1])


def test_a_jacobian_that_is_not_finite_ends_its_row_only():
    def linearise(x, index):
        return np.where(index[:, None] == 0, np.nan, x), np.tile(np.eye(2), (len(x), 1, 1))

    found = minimize(lambda x, index: (x**2).sum(axis=1), linearise, np.ones((2, 2)), tol_value=1e-9)
    assert found.status_names == ["line_search_failed", "converged_value"] and found.fun[0] == 2


def test_limits():
    x0 = np.full((2, 2), -1.5)
    found = ours(rosenbrock, x0, max_iter=3)
    assert found.status_names == ["max_iter"] * 2 and found.iterations.tolist() == [3, 3]
    found = ours(rosenbrock, x0, max_iter=300, tol_value=np.array([1.0, 1e-20]))
    assert found.status_names == ["converged_value"] * 2
    assert 1e-20 < found.fun[0] <= 1 and found.fun[1] <= 1e-20
    assert ours(rosenbrock, np.ones((1, 2))).status == [Status.converged_value]
    assert ours(decay, np.ones((1, 4)), max_iter=300, tol_grad=1e-3, tol_change=0).status == [Status.converged_gradient]
    assert ours(rosenbrock, np.zeros((0, 2))).x.shape == (0, 2)
    for bad in (dict(x0=np.zeros(2)), dict(x0=np.zeros((1, 2), int)), dict(x0=np.zeros((1, 2)), lower=1, upper=0)):
        with pytest.raises(ValueError, match="x0|lower"):
            ours(rosenbrock, **bad)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), width=st.floats(0.01, 3), dtype=st.sampled_from(["f4", "f8"]))
def test_never_worse_than_the_start_and_a_linear_problem_is_solved_in_the_box(seed, n, width, dtype):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2 * n, n)), rng.normal(size=2 * n)
    x0 = rng.uniform(-2 * width, 2 * width, (3, n)).astype(dtype)
    found = ours(lambda x: (a @ x - b, a), x0, lower=-width, upper=width, max_iter=60, tol_change=1e-14)
    bound = np.asarray(width, dtype)
    assert (np.abs(found.x) <= bound).all() and found.x.dtype == x0.dtype
    start = np.square(np.clip(x0, -bound, bound) @ a.T - b).sum(axis=1)
    assert (found.fun <= start * (1 + 1e-6)).all()
    expected = scipy.optimize.lsq_linear(a, b, (-width, width), tol=1e-14).cost * 2
    np.testing.assert_allclose(found.fun, expected, rtol=1e-3, atol=1e-9)


@pytest.fixture(scope="module")
def wavegan():
    weights = {name: 3 * w for name, w in initial_weights(Architecture(latent_dim=20, dim=2), seed=0).items()}
    network = WaveGANGenerator(Architecture(latent_dim=20, dim=2), weights)
    facts = dict(latent_dim=20, sample_rate=16000, prior="uniform")
    return Generator(network, name="native", network=network, **facts)


@pytest.fixture(scope="module", params=["native", "uniform prior", "normal prior"])
def problem(request, wavegan):
    """A generator and a sum of squares, compiled once: by `jacobian_product`, or by the forward accumulator."""
    if request.param == "native":
        return LeastSquares(wavegan, parse_objective("waveform_squared=1,stft_real_squared=0.5"))
    if request.param == "uniform prior":
        text = "waveform_squared=1,log_mel_squared=0.001,latent_prior=1"
        return LeastSquares(load_generator("tests.tiny:generator", trust=True), parse_objective(text))
    return LeastSquares(load_generator("tests.tiny:stereo_normal", trust=True), parse_objective("waveform_squared=1"))


def test_the_normal_equations_are_those_of_finite_differences(problem):
    generator = problem.generator
    z, other = generator.sample_prior(0, 2)[:, None]
    target = generator(other).numpy()

    def residuals(z):
        z = tf.constant(z, tf.float32)
        point = Point(generator(z), tf.constant(target), z, generator.prior, sample_rate=generator.sample_rate)
        return problem.objective.residuals(point).numpy().astype(np.float64)

    steps = 1e-3 * np.eye(generator.latent_dim, dtype=np.float32)
    jacobian = (residuals(z + steps) - residuals(z - steps)) / 2e-3
    index, targets = np.zeros(1, int), problem.targets(target)
    (jr,), (jj,) = problem.linearise(z, index, targets)
    np.testing.assert_allclose(jr, jacobian @ residuals(z)[0], rtol=0.05, atol=0.02 * np.abs(jr).max())
    np.testing.assert_allclose(jj, jacobian @ jacobian.T, rtol=0.05, atol=0.02 * np.abs(jj).max())
    value, gradient = problem.residual_gradient(z, index, targets)
    np.testing.assert_allclose(gradient[0], 2 * jr, rtol=1e-3, atol=2e-4 * np.abs(jr).max())
    np.testing.assert_allclose(value, problem.value(z, index, targets), rtol=1e-7)  # float32's rounding


def test_finds_the_latents_of_random_generators(problem):
    generator = problem.generator
    z = generator.sample_prior(0, 3)
    targets = generator(z).numpy()
    starts = np.clip(np.stack([z + 0.05, generator.sample_prior(1, 3)], axis=1), -1, 1).astype(np.float32)
    found = problem.minimize(targets, starts, clip_to_prior=False, max_iter=40, tol_value=1e-13)
    best = found.x.reshape(3, 2, -1)[np.arange(3), found.fun.reshape(3, 2).argmin(axis=1)]
    assert np.square(best - z).mean(axis=1).max() < 1e-6
    assert found.iterations.max() <= 40
    assert (found.evaluations >= found.iterations * generator.latent_dim).all()


def test_jacobians_in_bfloat16_end_as_exactly(wavegan):
    network = wavegan.network
    fast = WaveGANGenerator(network.architecture, network.weights, "mixed_bfloat16")
    fast = Generator(fast, name="fast", network=fast, latent_dim=20, sample_rate=16000, prior="uniform")
    z = wavegan.sample_prior(0, 2)
    fast.float32 = wavegan
    problem = LeastSquares(fast, parse_objective("waveform_squared=1"))
    found = problem.minimize(wavegan(z).numpy(), 0.9 * z[:, None], max_iter=40, tol_value=1e-13)
    assert np.square(found.x - z).mean(axis=1).max() < 1e-6


def test_an_objective_that_is_no_sum_of_squares_is_refused(wavegan):
    with pytest.raises(ValueError, match="Received: stft_real=1,waveform=1"):
        LeastSquares(wavegan, parse_objective("stft_real=1,waveform=1,latent_prior=1"))
