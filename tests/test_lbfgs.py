"""The batched L-BFGS against SciPy's L-BFGS-B, and its promises on batching and non-finite values."""

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from utils.inversion.lbfgs import Status, minimize

# Each problem is a function from points [b, n] to values [b] and gradients [b, n].


def rosenbrock(x):
    valley, ahead = x[:, 1:] - x[:, :-1] ** 2, 1 - x[:, :-1]
    gradient = np.zeros_like(x)
    gradient[:, 1:] += 200 * valley
    gradient[:, :-1] -= 400 * valley * x[:, :-1] + 2 * ahead
    return (100 * valley**2 + ahead**2).sum(1), gradient


def quadratic(n, condition, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = basis * np.geomspace(1, condition, n) @ basis.T
    centre = spread * rng.normal(size=n)
    return lambda x: (0.5 * ((x - centre) @ matrix * (x - centre)).sum(1), (x - centre) @ matrix)


def mean_absolute_error(n, m, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(m, n))
    target = matrix @ rng.uniform(-1, 1, n) + noise * rng.normal(size=m)
    return lambda x: (np.abs(x @ matrix.T - target).mean(1), np.sign(x @ matrix.T - target) @ matrix / m)


def ours(problem, x0, **options):
    return minimize(lambda x, index: problem(x), x0, **{"max_iter": 5000} | options)


def scipys(problem, x0, lower=-np.inf, upper=np.inf, tol_grad=1e-8, tol_change=1e-8):
    """SciPy's minima [B, n], values [B] and evaluations [B] from the same starts."""

    def one(x):
        value, gradient = problem(x[None])
        return value[0], gradient[0]

    answers = [
        scipy.optimize.minimize(
            one,
            row,
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(lower, upper),
            options={"maxiter": 5000, "maxfun": 10**6, "ftol": tol_change, "gtol": tol_grad},
        )
        for row in x0
    ]
    return np.stack([a.x for a in answers]), *(np.array([a[k] for a in answers]) for k in ("fun", "nfev"))


PROBLEMS = {  # problem, n, lower, upper of the starts, box or not
    "rosenbrock 2": (rosenbrock, 2, -2, 2, False),
    "rosenbrock 10": (rosenbrock, 10, -2, 2, False),
    "rosenbrock 50": (rosenbrock, 50, -2, 2, False),
    "quadratic 50, condition 1e2": (quadratic(50, 1e2), 50, -1, 1, False),
    "quadratic 50, condition 1e4": (quadratic(50, 1e4), 50, -1, 1, False),
    "boxed rosenbrock 2": (rosenbrock, 2, -0.5, 0.8, True),
    "boxed rosenbrock 10": (rosenbrock, 10, -0.5, 0.8, True),
    "boxed rosenbrock 50": (rosenbrock, 50, -0.5, 0.8, True),
    "boxed rosenbrock 10, minimum outside": (rosenbrock, 10, 1.1, 2, True),
    "boxed quadratic 50, condition 1e2": (quadratic(50, 1e2, spread=2), 50, -1, 1, True),
    "boxed quadratic 50, condition 1e4": (quadratic(50, 1e4, spread=2), 50, -1, 1, True),
}


def starts(name, count=6):
    problem, n, lower, upper, boxed = PROBLEMS[name]
    x0 = np.random.default_rng(1).uniform(lower, upper, (count, n))
    return problem, x0, {"lower": lower, "upper": upper} if boxed else {}


@pytest.mark.parametrize("name", PROBLEMS)
def test_reaches_a_minimum_as_good_as_scipys(name):
    problem, x0, box = starts(name)
    result = ours(problem, x0, tol_grad=1e-6, tol_change=1e-14, **box)
    x, fun, _ = scipys(problem, x0, tol_grad=1e-6, tol_change=1e-14, **box)
    # Rosenbrock has a second, local minimum from four dimensions on; which one a start finds is luck.
    same = np.abs(result.fun - fun) < 1
    assert same.sum() >= len(x0) - 2
    np.testing.assert_allclose(result.fun[same], fun[same], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(result.x[same], x[same], atol=1e-4)
    assert set(result.status) <= {Status.converged_gradient, Status.converged_change}
    if box:
        at_bound = (result.x == box["lower"]) | (result.x == box["upper"])
        assert at_bound.any(), "the box was meant to matter"
        np.testing.assert_array_equal(at_bound[same], ((x == box["lower"]) | (x == box["upper"]))[same])


def test_needs_about_as_many_evaluations_as_scipy():
    counts = {}
    for name in PROBLEMS:
        problem, x0, box = starts(name)
        counts[name] = ours(problem, x0, **box).evaluations.sum(), scipys(problem, x0, **box)[2].sum()
        mine, reference = counts[name]
        assert mine <= 2 * reference, (
            name,
            counts[name],
        )  # two variables and 15 evaluations leave room for luck
    mine, reference = np.sum(list(counts.values()), axis=0)
    assert mine <= 1.1 * reference, counts


def test_one_sided_and_per_row_bounds():
    problem = quadratic(30, 1e3, spread=1.5, seed=3)
    x0 = np.random.default_rng(0).uniform(0, 1, (3, 30))
    lower = np.array([[-0.2], [0.0], [0.1]])
    result = ours(problem, x0, lower=lower, tol_change=1e-12)
    for i in range(3):
        _, fun, _ = scipys(problem, x0[i : i + 1], lower=lower[i], tol_change=1e-12)
        np.testing.assert_allclose(result.fun[i], fun[0], rtol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("box", [{}, {"lower": -0.7, "upper": 0.7}])
def test_a_mean_absolute_error_ends_as_low_as_scipys(noise, box):
    problem = mean_absolute_error(50, 1000, noise)
    x0 = np.random.default_rng(2).uniform(-0.7, 0.7, (6, 50))
    result = ours(problem, x0, **box)
    _, fun, evaluations = scipys(problem, x0, **box)
    assert np.mean(result.fun) <= np.mean(fun) * (1 + 1e-4) + 1e-7
    assert result.evaluations.sum() <= 1.3 * evaluations.sum()


def test_batch_equals_one_at_a_time_and_repeats():
    x0 = np.random.default_rng(4).uniform(-2, 2, (5, 10))
    for box in {}, {"lower": -0.5, "upper": 0.8}:
        batch, again = ours(rosenbrock, x0, **box), ours(rosenbrock, x0, **box)
        alone = [ours(rosenbrock, row[None], **box) for row in x0]
        for name in "x", "fun", "evaluations", "iterations", "status":
            np.testing.assert_array_equal(getattr(batch, name), getattr(again, name))
            np.testing.assert_array_equal(getattr(batch, name), np.concatenate([getattr(a, name) for a in alone]))


def test_finished_rows_are_not_evaluated_and_counts_are_honest():
    x0 = np.stack([np.ones(10), np.full(10, 1.001), np.full(10, -1.5)])  # solved, nearly solved, far away
    seen = []

    def problem(x, index):
        assert x.dtype == np.float64 and index.dtype == np.int32
        seen.append(index)
        return rosenbrock(x)

    calls = []
    result = minimize(problem, x0, callback=lambda *report: calls.append(report))
    counts = np.bincount(np.concatenate(seen))
    np.testing.assert_array_equal(result.evaluations, counts)
    assert counts[0] == 1 and counts[1] < counts[2]
    sizes = [len(index) for index in seen]
    assert sizes[0] == 3 and sizes[-1] == 1 and sizes == sorted(sizes, reverse=True)
    assert [done for done, _, _ in calls] == list(np.cumsum(sizes))
    for curve, count, fun in zip(result.curve, result.evaluations, result.fun, strict=True):
        assert len(curve) == count and curve[-1] == fun and (np.diff(curve) <= 0).all()


def test_non_finite_values_never_win_and_leave_the_neighbours_alone():
    def problem(x, index):
        """Row 0: NaN right of the line sum x = 1.5; row 1: infinite gradient there; row 2: untouched."""
        value, gradient = rosenbrock(x)
        wild = x.sum(1) > 1.5
        value[wild & (index == 0)] = np.nan
        gradient[wild & (index == 1), 0] = np.inf
        value[index == 3] = np.nan
        return value, gradient

    x0 = np.zeros((4, 5))
    result = minimize(problem, x0)
    assert result.x.sum(1)[:2].max() <= 1.5
    assert (result.fun[:2] < 0.9 * rosenbrock(x0[:2])[0]).all()
    np.testing.assert_array_equal(result.x[2], minimize(lambda x, i: problem(x, i + 2), x0[:1]).x[0])
    assert result.status_names[3] == "nonfinite_start" and result.evaluations[3] == 1
    assert (result.x[3] == x0[3]).all() and result.fun[3] == np.inf


def test_limits():
    x0 = np.full((2, 10), -1.5)
    by_evals, by_iter = ours(rosenbrock, x0, max_evals=7), ours(rosenbrock, x0, max_iter=5)
    assert by_evals.status_names == ["max_evals"] * 2 and (by_evals.evaluations == 7).all()
    assert by_iter.status_names == ["max_iter"] * 2 and (by_iter.iterations == 5).all()
    assert (by_evals.fun < rosenbrock(x0)[0]).all()
    np.testing.assert_array_equal(ours(rosenbrock, x0, max_iter=0).x, x0)
    assert ours(rosenbrock, np.zeros((0, 3))).x.shape == (0, 3)


def test_a_wrong_gradient_ends_as_a_failed_line_search():
    uphill = minimize(lambda x, index: ((x**2).sum(1), -2 * x), np.ones((1, 3)), tol_change=0)
    assert uphill.status_names == ["line_search_failed"]
    np.testing.assert_array_equal(uphill.x, np.ones((1, 3)))


@pytest.mark.filterwarnings("error")
def test_values_that_differ_by_rounding_from_call_to_call():
    """As those of a batch do when it shrinks: the same point may then be lower than itself."""
    for seed in range(30):
        problem, noise = mean_absolute_error(4, 12, noise=0.1, seed=seed), np.random.default_rng(seed)

        def rounded(x, index, problem=problem, noise=noise):
            value, gradient = problem(x)
            return value + 1e-9 * noise.standard_normal(len(x)), gradient.astype(np.float32)

        result = minimize(rounded, np.zeros((3, 4), np.float32), tol_grad=0, tol_change=0)
        assert (result.fun < problem(np.zeros((1, 4)))[0]).all()
        assert np.ptp(result.fun) < 0.01


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="x0 must be"):
        ours(rosenbrock, np.zeros(3))
    with pytest.raises(ValueError, match="lower must not exceed"):
        ours(rosenbrock, np.zeros((1, 3)), lower=1.0, upper=0.0)
    with pytest.raises(ValueError, match="must return shapes"):
        minimize(lambda x, index: (x, x), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="max_evals=0"):
        ours(rosenbrock, np.zeros((1, 3)), max_evals=0)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 6),
    width=st.sampled_from([0.0, 1e-3, 0.5, np.inf]),
    dtype=st.sampled_from([np.float32, np.float64]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_never_worse_than_the_start_and_always_inside_the_box(seed, n, width, dtype, scale):
    """On a rugged function with kinks and a NaN region, rounded to the dtype."""
    rng = np.random.default_rng(seed)
    matrix, lower = rng.normal(size=(n, n)), rng.normal(size=(3, n)).astype(dtype)
    upper = (lower + width).astype(dtype)
    x0 = np.clip(rng.normal(size=(3, n)), lower, upper).astype(dtype)

    def problem(x, index):
        assert x.dtype == dtype and (lower[index] <= x).all() and (x <= upper[index]).all()
        u = x @ matrix.astype(dtype)
        value = np.abs(u).sum(1) + np.sin(5 * x).sum(1)
        value[x[:, 0] > 2] = np.nan
        gradient = np.sign(u) @ matrix.T + 5 * np.cos(5 * x)
        return (scale * value).astype(dtype), (scale * gradient).astype(dtype)

    start = problem(x0, np.arange(3))[0].astype(np.float64)
    result = minimize(problem, x0, lower=lower, upper=upper, max_iter=50)
    assert result.x.dtype == dtype
    assert (lower <= result.x).all() and (result.x <= upper).all()
    assert (result.fun <= np.where(np.isnan(start), np.inf, start)).all()
    found = np.isfinite(result.fun)
    np.testing.assert_allclose(problem(result.x, np.arange(3))[0][found], result.fun[found], rtol=1e-4)


@pytest.mark.parametrize("power", [1, 2])
def test_recovers_the_latents_of_a_random_generator(power):
    """MAE and MSE of the waveform, float32 on TensorFlow, four restarts of each of eight latents."""
    rng = np.random.default_rng(0)
    dense = [tf.constant(rng.normal(size=(m, n)) * np.sqrt(2 / m), tf.float32) for m, n in [(8, 64), (64, 256)]]

    def generator(z):
        return tf.tanh(0.5 * tf.nn.relu(z @ dense[0]) @ dense[1])

    z_true = rng.uniform(-1, 1, (8, 8)).astype(np.float32)
    target = tf.repeat(generator(z_true), 4, axis=0)

    @tf.function(input_signature=[tf.TensorSpec([None, 8]), tf.TensorSpec([None], tf.int32)])
    def objective(z, index):
        with tf.GradientTape() as tape:
            tape.watch(z)
            error = tf.abs(generator(z) - tf.gather(target, index)) ** power
            value = tf.reduce_mean(error, axis=1)
        return value, tape.gradient(value, z)

    x0 = rng.uniform(-1, 1, (32, 8)).astype(np.float32)
    result = minimize(objective, x0, lower=-1, upper=1, tol_change=1e-8 if power == 1 else 1e-12)
    best = result.fun.reshape(8, 4).argmin(axis=1)
    z = result.x.reshape(8, 4, 8)[np.arange(8), best]
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, z_true, atol=1e-3)
