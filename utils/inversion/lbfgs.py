"""Batched L-BFGS: many independent, possibly box-constrained minimisations that share each evaluation.

Recovering B latents means B separate problems in n ~ 100 variables, whose one expensive part, a generator's
value and gradient, is much cheaper per row on a batch. Here each call of the objective serves every
unfinished row's own line-search trial: no row waits for another, and a finished row leaves the batch.

The method is L-BFGS (Nocedal & Wright 2006, Algorithm 7.4) with a weak Wolfe line search, which unlike the
strong one also suits non-smooth objectives such as a mean absolute error (Lewis & Overton 2013). A box is
handled by two-metric projection (Bertsekas 1982): the variables that a scaled gradient step would push onto
their bounds go there, the others take the quasi-Newton step of the free subspace, and the line search follows
the projected path.

The objective runs wherever its caller put it, usually in a `tf.function`. The solver's own state is small, so
it stays in NumPy and in float64: about 0.6 ms a step for 32 rows of 100 variables, and plain code to read.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

SUFFICIENT_DECREASE = 1e-3  # Wolfe's c1 and c2, as in L-BFGS-B
CURVATURE = 0.9
MAX_TRIALS = 20  # evaluations in one line search
ROUNDING = np.finfo(np.float64).eps
TINY = np.finfo(np.float64).tiny
NOWHERE = (np.inf, np.inf, 0.0)  # the triple of a step that is not known yet


class Status(IntEnum):
    """Why a row stopped. `Status(code).name` is the name to report."""

    running = -1  # never in a Result
    converged_gradient = 0
    converged_change = 1
    max_iter = 2
    max_evals = 3
    line_search_failed = 4
    nonfinite_start = 5
    converged_value = 6  # as low as was asked for


class FinishedRows(Protocol):
    """What `Result.finish` reads of a solver's rows: their place in x0, and what each has cost."""

    index: np.ndarray
    evaluations: np.ndarray
    iterations: np.ndarray


@dataclass
class Result:
    """What `minimize` gives, one entry per row.

    x: [B, n], dtype of x0. Best point evaluated (x0 itself where the start was not finite).
    fun: [B] float64. Value at x; inf where the start was not finite.
    evaluations, iterations: [B] int. Every evaluation of the row counts, its start included.
    status: [B] int, codes of `Status`.
    curve: B arrays; curve[i] is [evaluations[i]] float64, the best value so far after each evaluation.
    """

    x: np.ndarray
    fun: np.ndarray
    evaluations: np.ndarray
    iterations: np.ndarray
    status: np.ndarray
    curve: list[np.ndarray]

    @classmethod
    def unfinished(cls, x0: np.ndarray) -> "Result":
        """What a solver fills in, row by row: x is x0 until a finite value is known."""
        b = len(x0)
        counts = {name: np.zeros(b, int) for name in ("evaluations", "iterations")}
        status = np.full(b, Status.running, int)
        return cls(x=x0.copy(), fun=np.full(b, np.inf), status=status, curve=[], **counts)

    def finish(self, rows: "FinishedRows", x: np.ndarray, fun: np.ndarray, status: np.ndarray) -> None:
        """Takes rows that leave the batch; a value that is not finite leaves x as it was."""
        finite = np.isfinite(fun)
        self.x[rows.index[finite]] = x[finite]
        self.fun[rows.index] = fun
        self.evaluations[rows.index] = rows.evaluations
        self.iterations[rows.index] = rows.iterations
        self.status[rows.index] = status

    @property
    def status_names(self) -> list[str]:
        return [Status(code).name for code in self.status]


@dataclass
class _Rows:
    """State of the unfinished rows; the first dimension of every array. A triple is (step, value, slope)."""

    index: np.ndarray  # row of x0
    lower: np.ndarray
    upper: np.ndarray
    x: np.ndarray  # current iterate, its value and gradient
    f: np.ndarray
    g: np.ndarray
    best_x: np.ndarray  # lowest value seen, rejected trials included
    best_f: np.ndarray
    best_g: np.ndarray
    s: np.ndarray  # [b, history, n] last steps, a ring buffer, zero where there are none yet
    y: np.ndarray  # [b, history, n] changes of the gradient along them
    pairs: np.ndarray  # how many were stored; the next one goes to pairs % history
    gamma: np.ndarray  # scale of the initial inverse Hessian
    curvature: np.ndarray  # that the caller knows; NaN where none
    length: np.ndarray  # of the last step that had one
    decrease: np.ndarray  # relative, by the last step
    evaluations: np.ndarray
    iterations: np.ndarray
    status: np.ndarray
    d: np.ndarray  # search direction
    slope: np.ndarray  # g . d
    step: np.ndarray  # the next trial is P(x + step * d)
    trials: np.ndarray  # in this line search
    lo: np.ndarray  # [b, 3] triple of the longest step known to be too short
    hi: np.ndarray  # [b, 3] triple of the shortest step known to be too long, or NOWHERE

    def take(self, which: np.ndarray) -> "_Rows":
        return _Rows(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


def minimize(
    value_and_gradient: Callable[[np.ndarray, np.ndarray], tuple[ArrayLike, ArrayLike]],
    x0: ArrayLike,
    *,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    max_iter: int = 200,
    max_evals: int | None = None,
    tol_grad: float = 1e-8,
    tol_change: float = 1e-8,
    tol_value: ArrayLike = -np.inf,
    curvature: ArrayLike = np.nan,
    history: int = 10,
    callback: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
) -> Result:
    """Minimises B independent functions of n variables.

    Deterministic. A row's path depends on the rows beside it only as far as its values and gradients do.

    Args:
        value_and_gradient: called as f(x, index): x [b, n] in x0's dtype, in the box, and index [b] int32,
            which rows of x0 these points belong to (gather targets by it). Returns values [b] and
            gradients [b, n], arrays or tensors. b falls as rows finish: give a `tf.function` an
            input_signature with a None batch dimension. A row with a non-finite value or gradient counts as
            infinitely high.
        x0: [B, n] float32 or float64. Starts, projected into the box. The first step has length 1: scale the
            variables to change by about that much or less.
        lower, upper: bounds that broadcast to [B, n], or None.
        max_iter: iterations (accepted steps) a row may take.
        max_evals: evaluations a row may take, the start included, or None.
        tol_grad: a row ends when max |P(x - g) - x| <= tol_grad, P the projection into the box.
        tol_change: a row ends when a step lowers its value by no more than tol_change * max(|f|, |f_new|, 1),
            or none could. Both tolerances mean what SciPy's L-BFGS-B means by gtol and ftol.
        tol_value: [B] or one number: a row ends when its value is no more.
        curvature: [B] or one number: about the second derivative along every direction, of variables that were scaled
            to have the same one. The first step is then Newton's in place of one of length 1.
        history: pairs of steps and gradient changes that are kept.
        callback: called after each batched evaluation as callback(evaluations so far over all rows, index [b]
            of the rows evaluated, their best values [b]).

    Raises:
        ValueError: x0, or what value_and_gradient returned, has the wrong shape or dtype; lower exceeds
            upper; or history, max_iter or max_evals is too small.
    """
    x0 = np.asarray(x0)
    if x0.ndim != 2 or x0.dtype not in (np.float32, np.float64):
        raise ValueError(f"x0 must be [B, n] float32 or float64. Received: {x0.dtype} of shape {x0.shape}")
    if history < 1 or max_iter < 0 or (max_evals is not None and max_evals < 1):
        raise ValueError(
            "history and max_evals must be at least 1, max_iter at least 0. "
            f"Received: history={history}, max_evals={max_evals}, max_iter={max_iter}"
        )
    lower = _bound(lower, -np.inf, x0)
    upper = _bound(upper, np.inf, x0)
    if not (lower <= upper).all():
        raise ValueError("lower must not exceed upper, and neither may be NaN")

    def evaluate(x: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = value_and_gradient(x.astype(x0.dtype), index.astype(np.int32))
        value, gradient = np.asarray(value, np.float64), np.asarray(gradient, np.float64)
        if value.shape != index.shape or gradient.shape != x.shape:
            raise ValueError(
                f"value_and_gradient must return shapes {index.shape} and {x.shape}. "
                f"Received: {value.shape} and {gradient.shape}"
            )
        finite = np.isfinite(value) & np.isfinite(gradient).all(axis=1)
        return np.where(finite, value, np.inf), np.where(finite[:, None], gradient, 0.0)

    result = Result.unfinished(x0)
    if len(x0) == 0:
        return result
    curves: list[list[float]] = [[] for _ in x0]
    max_evals = np.inf if max_evals is None else max_evals

    x = np.clip(x0.astype(np.float64), lower, upper)
    tol_value, curvature = (np.broadcast_to(np.asarray(a, np.float64), len(x)) for a in (tol_value, curvature))
    rows = _start(x, *evaluate(x, np.arange(len(x))), lower, upper, curvature, history)
    moved = np.ones(len(x), bool)
    while True:
        for i, best in zip(rows.index, rows.best_f, strict=True):
            curves[i].append(best)
        if callback is not None:
            callback(sum(map(len, curves)), rows.index, rows.best_f)

        rows.status = np.select(
            [
                np.isinf(rows.f),
                rows.best_f <= tol_value[rows.index],
                _projected_gradient_norm(rows) <= tol_grad,
                rows.decrease <= tol_change,
                rows.iterations >= max_iter,
                rows.evaluations >= max_evals,
            ],
            [
                Status.nonfinite_start,
                Status.converged_value,
                Status.converged_gradient,
                Status.converged_change,
                Status.max_iter,
                Status.max_evals,
            ],
            rows.status,
        )
        running = rows.status == Status.running
        if not running.all():
            done = rows.take(~running)
            result.finish(done, done.best_x, done.best_f, done.status)
            rows, moved = rows.take(running), moved[running]
        if not running.any():
            result.curve = [np.array(curve) for curve in curves]
            return result

        _start_search(rows, np.flatnonzero(moved))
        trial = rows.x + rows.step[:, None] * rows.d
        with np.errstate(over="ignore"):  # a step out of float32's range is just another non-finite point
            # Rounded as the objective sees it, so that s and y describe the same step.
            x = np.clip(trial, rows.lower, rows.upper).astype(x0.dtype).astype(np.float64)
        f, g = evaluate(x, rows.index)
        slope = np.vecdot(g, np.where((trial > rows.lower) & (trial < rows.upper), rows.d, 0.0))
        moved = _advance(rows, x, f, g, slope, tol_change)


def _bound(bound: ArrayLike | None, default: float, x0: np.ndarray) -> np.ndarray:
    """[B, n] float64, rounded to x0's dtype so that a clipped point stays inside when it is rounded too."""
    bound = np.asarray(default if bound is None else bound, x0.dtype)
    return np.broadcast_to(bound, x0.shape).astype(np.float64)


def _start(
    x: np.ndarray,
    f: np.ndarray,
    g: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    curvature: np.ndarray,
    history: int,
) -> _Rows:
    b, n = x.shape
    rows = _Rows(
        index=np.arange(b),
        lower=lower,
        upper=upper,
        x=x,
        f=f,
        g=g,
        best_x=x.copy(),
        best_f=f.copy(),
        best_g=g.copy(),
        s=np.zeros((b, history, n)),
        y=np.zeros((b, history, n)),
        pairs=np.zeros(b, int),
        gamma=np.zeros(b),
        curvature=curvature,
        length=np.ones(b),
        decrease=np.full(b, np.inf),
        evaluations=np.ones(b, int),
        iterations=np.zeros(b, int),
        status=np.full(b, Status.running, int),
        d=np.zeros((b, n)),
        slope=np.zeros(b),
        step=np.zeros(b),
        trials=np.zeros(b, int),
        lo=np.zeros((b, 3)),
        hi=np.zeros((b, 3)),
    )
    _forget(rows, rows.index)
    return rows


def _projected_gradient_norm(rows: _Rows) -> np.ndarray:
    return np.abs(np.clip(rows.x - rows.g, rows.lower, rows.upper) - rows.x).max(axis=1)


def _forget(rows: _Rows, which: np.ndarray) -> None:
    """Back to steepest descent, its step Newton's where the curvature is known, or else as long as the last one (1 at
    the start, as in L-BFGS-B)."""
    rows.s[which] = rows.y[which] = 0.0
    rows.pairs[which] = 0
    norm = np.sqrt(np.vecdot(rows.g[which], rows.g[which]))
    known = rows.curvature[which]
    rows.gamma[which] = np.where(np.isnan(known), rows.length[which] / np.maximum(norm, TINY), 1 / known)


def _start_search(rows: _Rows, which: np.ndarray) -> None:
    """Gives the rows `which` a new direction and an empty bracket."""
    d = _direction(rows, which)
    slope = np.vecdot(rows.g[which], d)
    uphill = slope >= 0  # only by rounding, or by pairs that the active set has maimed
    if uphill.any():
        _forget(rows, which[uphill])
        d[uphill] = _direction(rows, which[uphill])
        slope = np.vecdot(rows.g[which], d)
    rows.d[which], rows.slope[which] = d, slope
    rows.step[which] = 1.0
    rows.trials[which] = 0
    rows.lo[which] = np.stack([np.zeros(len(which)), rows.f[which], slope], axis=1)
    rows.hi[which] = NOWHERE


def _direction(rows: _Rows, which: np.ndarray) -> np.ndarray:
    """To the bounds that a scaled gradient step reaches, a quasi-Newton step in the free variables."""
    x, g, lower, upper = rows.x[which], rows.g[which], rows.lower[which], rows.upper[which]
    target = x - rows.gamma[which, None] * g
    to_lower, to_upper = (target <= lower) & (g > 0), (target >= upper) & (g < 0)
    d = _quasi_newton(rows, which, free=~(to_lower | to_upper))
    return np.where(to_lower, lower - x, np.where(to_upper, upper - x, d))


def _quasi_newton(rows: _Rows, which: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Two-loop recursion in the subspace of the free variables [len(which), n]; zero in the others."""
    q = np.where(free, -rows.g[which], 0.0)
    history = rows.s.shape[1]
    used = []
    for age in range(1, 1 + min(history, rows.pairs[which].max(initial=0))):
        slot = (rows.pairs[which] - age) % history
        s, y = rows.s[which, slot] * free, rows.y[which, slot] * free
        sy = np.vecdot(s, y)
        rho = np.divide(1.0, sy, out=np.zeros_like(sy), where=sy > ROUNDING * np.vecdot(y, y))
        alpha = rho * np.vecdot(s, q)
        q -= alpha[:, None] * y
        used.append((s, y, rho, alpha))
    q *= rows.gamma[which, None]
    for s, y, rho, alpha in reversed(used):
        q += (alpha - rho * np.vecdot(y, q))[:, None] * s
    return q


def _advance(
    rows: _Rows, x: np.ndarray, f: np.ndarray, g: np.ndarray, slope: np.ndarray, tol_change: float
) -> np.ndarray:
    """Takes in one evaluated trial per row; returns which rows [b] need a new direction."""
    rows.evaluations += 1
    rows.trials += 1
    better = f < rows.best_f
    rows.best_x[better], rows.best_f[better], rows.best_g[better] = x[better], f[better], g[better]

    low_enough = f <= rows.f + SUFFICIENT_DECREASE * rows.step * rows.slope
    unmoved = (x == rows.x).all(axis=1)
    wolfe = low_enough & (slope >= CURVATURE * rows.slope) & ~unmoved
    _narrow(rows, np.stack([rows.step, f, slope], axis=1), low_enough)

    # Along a convex line nothing shorter than hi can gain more than hi * slope.
    negligible = -rows.slope * rows.hi[:, 0] <= tol_change * np.maximum(np.abs(rows.f), 1.0)
    exhausted = ~wolfe & (negligible | unmoved | (rows.trials >= MAX_TRIALS))
    to_best = exhausted & (rows.best_f < rows.f)
    stuck = exhausted & ~to_best
    hopeless = stuck & (rows.pairs == 0)  # it was steepest descent already
    rows.status[hopeless & ~negligible] = Status.line_search_failed
    rows.status[hopeless & negligible] = Status.converged_change

    x, f, g = x.copy(), f.copy(), g.copy()
    x[to_best], f[to_best], g[to_best] = rows.best_x[to_best], rows.best_f[to_best], rows.best_g[to_best]
    _move(rows, np.flatnonzero(wolfe | to_best), x, f, g)
    _forget(rows, np.flatnonzero(stuck))
    return wolfe | exhausted


def _move(rows: _Rows, which: np.ndarray, x: np.ndarray, f: np.ndarray, g: np.ndarray) -> None:
    """Makes x[which] the iterate of the rows `which` and remembers the step."""
    s, y = x[which] - rows.x[which], g[which] - rows.g[which]
    sy, yy = np.vecdot(s, y), np.vecdot(y, y)
    old, new = rows.f[which], f[which]
    rows.decrease[which] = (old - new) / np.maximum(np.maximum(np.abs(old), np.abs(new)), 1.0)
    length = np.sqrt(np.vecdot(s, s))
    # 0 where a function gave the same point a lower value the second time.
    rows.length[which] = np.where(length > 0, length, rows.length[which])
    rows.x[which], rows.f[which], rows.g[which] = x[which], new, g[which]
    rows.iterations[which] += 1

    curved = sy > ROUNDING * yy
    s, y, which = s[curved], y[curved], which[curved]
    slot = rows.pairs[which] % rows.s.shape[1]
    rows.s[which, slot], rows.y[which, slot] = s, y
    rows.pairs[which] += 1
    rows.gamma[which] = sy[curved] / yy[curved]


def _narrow(rows: _Rows, trial: np.ndarray, low_enough: np.ndarray) -> None:
    """Puts the trials' triples [b, 3] into the brackets and chooses the next steps."""
    short, bracketed = low_enough[:, None], np.isfinite(rows.hi[:, 0])
    width = rows.hi[:, 0] - rows.lo[:, 0]
    before, rows.lo, rows.hi = rows.lo, np.where(short, trial, rows.lo), np.where(short, rows.hi, trial)
    lo, hi = rows.lo[:, 0], rows.hi[:, 0]

    with np.errstate(all="ignore"):  # inf - inf and 0 / 0 give NaN, which no comparison takes
        inner = _cubic_minimum(rows.lo, rows.hi)
        outer = _cubic_minimum(before, rows.lo)
        new_width = hi - lo
        slow = bracketed & (new_width > width * 2 / 3)
        inner = np.where(slow | np.isnan(inner), lo + new_width / 2, inner)
        inner = np.clip(inner, lo + new_width * 0.1, hi - new_width * 0.1)
        stretch = lo - before[:, 0]
        outer = np.where(outer > lo, np.clip(outer, lo + 1.1 * stretch, lo + 4 * stretch), lo + 4 * stretch)
    rows.step = np.where(np.isfinite(hi), inner, outer)


def _cubic_minimum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Minimum of the cubic through two triples (Nocedal & Wright 2006, eq. 3.59); NaN where there is none."""
    (ta, fa, da), (tb, fb, db) = a.T, b.T
    d1 = da + db - 3 * (fa - fb) / (ta - tb)
    d2 = np.sqrt(d1**2 - da * db)
    return tb - (tb - ta) * (db + d2 - d1) / (db - da + 2 * d2)
