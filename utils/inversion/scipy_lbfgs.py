"""SciPy's L-BFGS-B, one row after another: the paper's solver, and the oracle of the batched one's tests."""

from collections.abc import Callable

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike

from utils.inversion.lbfgs import Result, Status


def minimize(
    value_and_gradient: Callable[[np.ndarray, np.ndarray], tuple[ArrayLike, ArrayLike]],
    x0: np.ndarray,
    *,
    lower: float,
    upper: float,
    max_iter: int,
    tol_grad: float,
    tol_change: float,
    callback: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
) -> Result:
    """`utils.inversion.lbfgs.minimize` by `scipy.optimize.minimize`, which also keeps its limit of 15,000 evaluations.

    Args:
        value_and_gradient: as there; called for one row at a time.
        x0: `[B, n]` float32.
        lower, upper: of every variable; infinite where there is no bound.
        max_iter, tol_grad, tol_change: as there.
        callback: called after each row as callback(evaluations so far, index of the rows that are left and this one,
            [this one's value]).
    """
    results = []
    for row, start in enumerate(x0):
        results.append(_minimize_row(value_and_gradient, row, start, lower, upper, max_iter, tol_grad, tol_change))
        if callback:
            callback(sum(len(r[-1]) for r in results), np.arange(row, len(x0)), np.array([results[-1][1]]))
    x, fun, iterations, status, curve = zip(*results, strict=True)
    return Result(
        x=np.array(x),
        fun=np.array(fun),
        evaluations=np.array([len(c) for c in curve]),
        iterations=np.array(iterations),
        status=np.array(status),
        curve=list(curve),
    )


def _minimize_row(value_and_gradient, row, start, lower, upper, max_iter, tol_grad, tol_change):
    best_x, best, curve = start, np.inf, []

    def function(x):
        nonlocal best_x, best
        x = x.astype(np.float32)
        value, gradient = value_and_gradient(x[None], np.array([row], np.int32))
        value, gradient = float(value[0]), np.asarray(gradient[0], np.float64)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            value, gradient = np.inf, np.zeros_like(gradient)
        if value < best:
            best_x, best = x, value
        curve.append(best)
        return value, gradient

    result = scipy.optimize.minimize(
        function,
        start.astype(np.float64),
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(lower, upper) if np.isfinite(lower) else None,
        options={"maxiter": max_iter, "gtol": tol_grad, "ftol": tol_change},
    )
    return best_x, best, result.nit, _status(result, curve, max_iter), np.array(curve)


def _status(result: scipy.optimize.OptimizeResult, curve: list[float], max_iter: int) -> Status:
    if curve[0] == np.inf:
        return Status.nonfinite_start
    if result.status == 1:
        return Status.max_iter if result.nit >= max_iter else Status.max_evals
    if result.status == 2:
        return Status.line_search_failed
    gradient_is_small = "PGTOL" in result.message.upper() or "PROJECTED GRADIENT" in result.message.upper()
    return Status.converged_gradient if gradient_is_small else Status.converged_change
