"""Batched Anderson acceleration of fixed-point iterations: many independent ones that share each evaluation.

Where x + f(x) is nearer to the solution of f(x) = 0 than x is, repeating it converges, if slowly. Anderson's method
takes the combination of the last steps whose f is smallest instead (Walker & Ni 2011, "Anderson acceleration for
fixed-point iterations", method of differences): nearly as fast as a quasi-Newton method, without any derivative.
"""

from collections.abc import Callable

import numpy as np

HISTORY = 8  # differences that are combined
RIDGE = 1e-8  # of the least squares, of their trace


def iterate(
    residual: Callable[[np.ndarray], np.ndarray], x0: np.ndarray, *, rounds: int, lower: float, upper: float
) -> np.ndarray:
    """Where `rounds` evaluations of f lead to.

    Args:
        residual: f of x `[B, n]`, each row by itself.
        x0: `[B, n]`.
        rounds: at least 0.
        lower, upper: x is kept between.

    Returns:
        float64 `[B, n]`.
    """
    x = np.clip(np.asarray(x0, np.float64), lower, upper)
    points, values = [], []
    for _ in range(rounds):
        f = np.asarray(residual(x), np.float64)
        points, values = [*points, x][-HISTORY - 1 :], [*values, f][-HISTORY - 1 :]
        step = f
        if len(points) > 1:
            dx, df = np.diff(points, axis=0).transpose(1, 2, 0), np.diff(values, axis=0).transpose(1, 2, 0)
            normal = df.transpose(0, 2, 1) @ df
            ridge = RIDGE * np.einsum("bii->b", normal) + np.finfo(float).tiny
            normal += ridge[:, None, None] * np.eye(normal.shape[1])
            weights = np.linalg.solve(normal, np.vecmat(f, df)[..., None])[..., 0]
            step = f - np.matvec(dx + df, weights)
        x = np.clip(x + step, lower, upper)
    return x
