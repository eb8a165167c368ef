"""Batched Levenberg-Marquardt: many independent, possibly box-constrained least-squares problems at once.

Where a target is in a generator's range, the residual at the sought z is zero, and Gauss-Newton's steps converge to it
quadratically where quasi-Newton steps crawl along valleys. The price is the Jacobian of every residual in all n
latents; forward mode gives it for n forward passes, and only J'J and J'r leave the network (`linearise`).

The method is Levenberg's and Marquardt's (Nocedal & Wright 2006, section 10.3). Trials are cheap compared with a
Jacobian, so each step tries several dampings in one batch and keeps the best. A box is handled by an active set:
variables at a bound that the gradient pushes outwards stay there, those that a step would carry across one stop on it,
and the others' step is solved again. Every row has its own damping, acceptance and stopping, and a finished row leaves
the batch. The solver's own state is NumPy and float64, as in `utils.inversion.lbfgs`.

A Jacobian costs as much as dozens of gradients, and serves longer than for one step: in coordinates in which its damped
J'J is the identity the problem is nearly round, and there L-BFGS (`utils.inversion.lbfgs`) continues by gradients alone
until it slows down. For own samples of the bundled generator, from six rounds of its encoder, that is one Jacobian and
10 to 25 gradients, where a Jacobian a step, or J'J of the step before (the chord method), took 3 or 4 of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from utils.inversion import lbfgs
from utils.inversion.lbfgs import Result, Status

FACTORS = (1e-3, 1e-1, 1.0, 1e1)  # of the row's damping, tried together
START, SMALLEST, LARGEST = 1e-2, 1e-12, 1e6  # dampings, relative to the mean diagonal entry of J'J
RAISE = 1e3  # after a step of which no trial was lower
ACTIVE_SET_PASSES = 8
GRADIENTS = 40  # after a Jacobian, at most
SLOW = 2e-3  # relative decrease by an L-BFGS step at which the next Jacobian is due
# Of `tol_value`, at which L-BFGS ends. Where that is the level of noise in a clip, it slows down before: at the z that
# fits the noisy clip best, and not just well enough.
LOW = 0.1

Value = Callable[[np.ndarray, np.ndarray], ArrayLike]
Linearise = Callable[[np.ndarray, np.ndarray], tuple[ArrayLike, ArrayLike]]
ValueAndGradient = Callable[[np.ndarray, np.ndarray], tuple[ArrayLike, ArrayLike]]


@dataclass
class _Rows:
    """State of the unfinished rows; the first dimension of every array."""

    index: np.ndarray  # row of x0
    lower: np.ndarray
    upper: np.ndarray
    x: np.ndarray
    f: np.ndarray  # sum of squares
    jr: np.ndarray  # [b, n] J'r, half the gradient
    jj: np.ndarray  # [b, n, n] J'J
    damping: np.ndarray
    decrease: np.ndarray  # relative, by the last Jacobian
    evaluations: np.ndarray
    iterations: np.ndarray

    def take(self, which: np.ndarray) -> "_Rows":
        return _Rows(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


def minimize(
    value: Value,
    linearise: Linearise,
    x0: ArrayLike,
    *,
    lower: ArrayLike = -np.inf,
    upper: ArrayLike = np.inf,
    max_iter: int = 50,
    tol_grad: float = 0.0,
    tol_change: float = 1e-4,
    tol_value: ArrayLike = 0.0,
    value_and_gradient: ValueAndGradient | None = None,
    callback: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
) -> Result:
    """Minimises B independent sums of squares |r(x)|^2 of n variables.

    Args:
        value: called as value(x, index): x [b, n] in x0's dtype, in the box, and index [b] int32, which rows of x0
            these points belong to, each as often as there are dampings. Returns |r|^2, [b]. A row that is not finite
            counts as infinitely high.
        linearise: called as linearise(x, index), each row at most once. Returns J'r [b, n] and J'J [b, n, n], float64.
            May be approximate: a trial counts only where `value` falls.
        x0: [B, n] float32 or float64. Starts, projected into the box.
        lower, upper: bounds that broadcast to [B, n].
        max_iter: Jacobians a row may take.
        tol_grad: a row ends when max |P(x - 2 J'r) - x| <= tol_grad, P the projection into the box.
        tol_change: a row ends when a Jacobian lowers its value by no more than this share of it, or none can.
        tol_value: [B] or one number: a row ends when its value is no more.
        value_and_gradient: called as value; returns |r|^2 [b] and its gradient [b, n]. With it L-BFGS continues from
            where each Jacobian has led.
        callback: called after each Jacobian as callback(evaluations so far over all rows, index [b] of the rows that
            run, their best values [b]).

    Returns:
        As `utils.inversion.lbfgs.minimize`. An iteration is a Jacobian; it counts as n evaluations, what its tangents
        cost, and each trial and each gradient as one.

    Raises:
        ValueError: x0 has the wrong shape or dtype, or lower exceeds upper.
    """
    x0 = np.asarray(x0)
    if x0.ndim != 2 or x0.dtype not in (np.float32, np.float64):
        raise ValueError(f"x0 must be [B, n] float32 or float64. Received: {x0.dtype} of shape {x0.shape}")
    lower, upper = (np.broadcast_to(np.asarray(b, x0.dtype), x0.shape).astype(np.float64) for b in (lower, upper))
    if not (lower <= upper).all():
        raise ValueError("lower must not exceed upper, and neither may be NaN")
    tol_value = np.broadcast_to(np.asarray(tol_value, np.float64), len(x0))
    size, n = x0.shape

    def evaluate(x: np.ndarray, index: np.ndarray) -> np.ndarray:
        f = np.asarray(value(x.astype(x0.dtype), index.astype(np.int32)), np.float64)
        return np.where(np.isfinite(f), f, np.inf)

    x = np.clip(x0.astype(np.float64), lower, upper)
    f = evaluate(x, np.arange(size)) if size else np.zeros(0)
    rows = _Rows(
        index=np.arange(size),
        lower=lower,
        upper=upper,
        x=x,
        f=f,
        jr=np.zeros((size, n)),
        jj=np.zeros((size, n, n)),
        damping=np.full(size, START),
        decrease=np.full(size, np.inf),
        evaluations=np.ones(size, int),
        iterations=np.zeros(size, int),
    )
    result = Result.unfinished(x0)
    curves = [[best] for best in f]
    moved = np.ones(size, bool)
    while True:
        status = np.select(
            [np.isinf(rows.f), rows.f <= tol_value[rows.index], rows.decrease <= tol_change]
            + [rows.damping > LARGEST, moved & (rows.iterations >= max_iter)],
            [Status.nonfinite_start, Status.converged_value, Status.converged_change]
            + [Status.converged_change, Status.max_iter],
            Status.running,
        )
        due = moved & (status == Status.running)
        if due.any():
            jr, jj = linearise(rows.x[due].astype(x0.dtype), rows.index[due].astype(np.int32))
            rows.jr[due], rows.jj[due] = np.asarray(jr, np.float64), np.asarray(jj, np.float64)
            rows.iterations[due] += 1
            rows.evaluations[due] += n
            for i in rows.index[due]:
                curves[i] += [curves[i][-1]] * n
            finite = np.isfinite(rows.jr).all(axis=1) & np.isfinite(rows.jj).all(axis=(1, 2))
            slope = np.where(finite[:, None], 2 * rows.jr, 0.0)
            flat = np.abs(np.clip(rows.x - slope, rows.lower, rows.upper) - rows.x).max(axis=1) <= tol_grad
            ended = np.where(flat, Status.converged_gradient, Status.running)
            ended = np.where(finite, ended, Status.line_search_failed)
            status = np.where(status == Status.running, ended, status)
        running = status == Status.running
        if not running.all():
            done = rows.take(~running)
            result.finish(done, done.x, done.f, status[~running])
            rows = rows.take(running)
        if not running.any():
            result.curve = [np.array(curve) for curve in curves]
            return result
        before = rows.f
        moved = _advance(rows, evaluate, x0.dtype)
        for i, f in zip(rows.index, rows.f, strict=True):
            curves[i] += [f] * len(FACTORS)
        further = np.flatnonzero(moved & (rows.f > LOW * tol_value[rows.index]))
        if value_and_gradient is not None and further.size:
            for i, curve in zip(
                rows.index[further], _descend(rows, further, value_and_gradient, tol_value, x0.dtype), strict=True
            ):
                curves[i] += np.minimum(curve, curves[i][-1]).tolist()
        rows.decrease = np.where(moved, (before - rows.f) / before, rows.decrease)
        if callback is not None:
            callback(sum(map(len, curves)), rows.index, rows.f)


def _advance(rows: _Rows, evaluate: Callable[[np.ndarray, np.ndarray], np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Tries every damping for each row and takes the lowest trial; which rows moved, [b] bool."""
    tried, b = len(FACTORS), len(rows.x)
    dampings = np.clip(np.multiply.outer(rows.damping, FACTORS), SMALLEST, None)
    row = np.repeat(np.arange(b), tried)
    # Rounded as the network sees it, so that the point kept is the point measured.
    x = _steps(rows.take(row), dampings.ravel()).astype(dtype).astype(np.float64)
    f = evaluate(x, rows.index[row]).reshape(b, tried)
    best = f.argmin(axis=1)
    new = f[np.arange(b), best]
    moved = new < rows.f
    rows.damping = np.where(moved, dampings[np.arange(b), best], rows.damping * RAISE)
    rows.x = np.where(moved[:, None], x.reshape(b, tried, -1)[np.arange(b), best], rows.x)
    rows.f = np.where(moved, new, rows.f)
    rows.evaluations += tried
    return moved


def _descend(
    rows: _Rows, which: np.ndarray, value_and_gradient: ValueAndGradient, tol_value: np.ndarray, dtype: np.dtype
) -> list[np.ndarray]:
    """L-BFGS from where the rows `which` are, in coordinates y with x = P(x + S y), in which their damped J'J is the
    identity, and in units in which 1 is as low as can be; the value after each evaluation."""
    some = rows.take(which)
    matrix = some.jj + _added(some, some.damping)[:, None, None] * np.eye(rows.x.shape[1])
    scaling = np.linalg.inv(np.linalg.cholesky(matrix)).transpose(0, 2, 1)
    unit = np.maximum(LOW * tol_value[some.index], np.finfo(np.float64).eps * some.f)

    def unbounded(y: np.ndarray, i: np.ndarray) -> np.ndarray:
        return some.x[i] + np.matvec(scaling[i], y)

    def project(x: np.ndarray, i: np.ndarray) -> np.ndarray:
        return np.clip(x, some.lower[i], some.upper[i]).astype(dtype)

    def scaled(y: np.ndarray, i: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = unbounded(y, i)
        f, gradient = value_and_gradient(project(x, i), some.index[i].astype(np.int32))
        inside = (x >= some.lower[i]) & (x <= some.upper[i])
        gradient = np.vecmat(np.where(inside, gradient, 0.0), scaling[i])
        return np.asarray(f, np.float64) / unit[i], gradient / unit[i][:, None]

    found = lbfgs.minimize(
        scaled,
        np.zeros_like(some.x),
        max_iter=GRADIENTS,
        max_evals=GRADIENTS,
        tol_grad=0.0,
        tol_change=SLOW,
        tol_value=1.0,
        curvature=2 / unit,
    )
    f = found.fun * unit
    lower = f < some.f
    every = np.arange(len(which))
    rows.x[which[lower]] = project(unbounded(found.x, every), every).astype(np.float64)[lower]
    rows.f[which[lower]] = f[lower]
    rows.evaluations[which] += found.evaluations
    return [curve * one for curve, one in zip(found.curve, unit, strict=True)]


def _added(rows: _Rows, damping: np.ndarray) -> np.ndarray:
    """What a damping adds to the diagonal of each row's J'J, [b]."""
    mean = np.einsum("bii->b", rows.jj) / rows.jj.shape[1]
    return damping * np.where(mean > 0, mean, 1.0)


def _steps(rows: _Rows, damping: np.ndarray) -> np.ndarray:
    """Minimises each row's damped linear model in the box: the points [b, n]."""
    x, diagonal = rows.x, np.arange(rows.x.shape[1])
    added = _added(rows, damping)[:, None]
    outwards = ((x <= rows.lower) & (rows.jr > 0)) | ((x >= rows.upper) & (rows.jr < 0))
    free, step = ~outwards, np.zeros_like(x)
    left = np.arange(len(x))  # rows whose active set still grows
    for _ in range(ACTIVE_SET_PASSES):
        f, fixed = free[left], np.where(free[left], 0.0, step[left])
        jj = rows.jj[left]
        right = -(rows.jr[left] + np.matvec(jj, fixed))
        matrix = np.where(f[:, :, None] & f[:, None, :], jj, 0.0)
        matrix[:, diagonal, diagonal] += np.where(f, added[left], 1.0)
        solved = np.linalg.solve(matrix, np.where(f, right, 0.0)[..., None])[..., 0]
        step[left] = np.where(f, solved, fixed)
        target = x[left] + step[left]
        out = f & ((target < rows.lower[left]) | (target > rows.upper[left]))
        step[left] = np.clip(target, rows.lower[left], rows.upper[left]) - x[left]
        free[left] &= ~out
        left = left[out.any(axis=1)]
        if not left.size:
            break
    return np.clip(x + step, rows.lower, rows.upper)
