"""The cost of the batched L-BFGS itself: milliseconds per batched evaluation, without the objective's own time.

Examples:

    python -m benchmarks.lbfgs
"""

import time

from utils import options

if __name__ == "__main__":
    options.parse_early(options.make_parser(__doc__).parse_args)

import numpy as np

from utils.inversion.lbfgs import minimize

CURVATURES = np.geomspace(1, 1e3, 100)


def overhead_ms(batch: int, bound: float | None) -> float:
    """Mean over 60 iterations on `batch` quadratics in 100 variables, within [-bound, bound] where a bound is given."""
    in_objective, calls = 0.0, 0

    def quadratic(x: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal in_objective, calls
        start = time.perf_counter()
        gradient = (x - 0.5) * CURVATURES
        value = 0.5 * ((x - 0.5) * gradient).sum(axis=1)
        calls += 1
        in_objective += time.perf_counter() - start
        return value, gradient

    x0 = np.random.default_rng(0).uniform(-1, 1, (batch, 100)).astype(np.float32)
    box = {} if bound is None else {"lower": -bound, "upper": bound}
    start = time.perf_counter()
    minimize(quadratic, x0, max_iter=60, tol_grad=0, tol_change=0, **box)
    return 1e3 * (time.perf_counter() - start - in_objective) / calls


if __name__ == "__main__":
    overhead_ms(8, None)
    print("| rows | ms, no box | ms, box |\n|---|---|---|")
    for batch in 1, 8, 32, 128, 256:
        free, boxed = (min(overhead_ms(batch, bound) for _ in range(5)) for bound in (None, 0.4))
        print(f"| {batch} | {free:.2f} | {boxed:.2f} |")
