"""The search for the latent itself, of clips that the generator can make: coarse to fine, from several starts.

1. L-BFGS on log-mel spectrograms from every start, the caller's (an encoder's answer) and the nearest of a bank of
   samples (`utils.inversion.bank`): such spectrograms know no phase, so their basins are wide, and a gradient is cheap
   beside a Jacobian.
2. From the lowest, Levenberg-Marquardt on whitened STFTs (`utils.losses.stft_whitened_residual`): in the waveform
   alone the loud parts hide the directions of z that the sound hardly depends on.
3. Levenberg-Marquardt on the waveform, until the residual is the rounding of the clip's samples
   (`utils.inversion.exactness`): the latent is found.

A clip that is not there goes on from its next lowest start. One that no start has brought near after the first stage is
out of the generator's range and is given up at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.inversion import lbfgs
from utils.inversion.bank import LatentBank
from utils.inversion.exactness import noise_floor
from utils.inversion.least_squares import LeastSquares
from utils.losses import parse_objective

COARSE = "log_mel_squared=1"
STAGES = (("stft_whitened_squared=1", 100), ("waveform_squared=1", 40))  # and Jacobians at most
STALLED = 1e-6  # relative decrease by a Jacobian that ends a stage: some go slowly for dozens before they arrive
COARSE_ITERATIONS = 150
NEIGHBOURS, BANK_SIZE = 3, 4096
OUT_OF_RANGE = 0.5  # mean square of log-mel differences, in squared nepers


@dataclass
class Found:
    """One entry a clip.

    z: float32 `[B, latent_dim]`.
    exact: `[B]` bool, whether the generator's audio is the clip up to the rounding of its samples.
    in_range: `[B]` bool; where not, z is where the coarse stage ended.
    evaluations: `[B]` int, of the generator; a Jacobian counts as latent_dim.
    starts: `[B]` int, how many the finer stages went on from.
    """

    z: np.ndarray
    exact: np.ndarray
    in_range: np.ndarray
    evaluations: np.ndarray
    starts: np.ndarray


class LatentSearch:
    """The stages over one generator; traced once for all batches.

    Args:
        generator: searched with, as in `utils.inversion.invert`.
        exact: the same generator in float32, where `generator` computes in less.
        clip_to_prior: keep z in the box of a bounded prior.
        neighbours: starts from the bank.
        bank_size: of the bank.
        cache: folder in which the bank is kept between processes.
    """

    def __init__(
        self,
        generator: Any,
        *,
        exact: Any = None,
        clip_to_prior: bool = True,
        neighbours: int = NEIGHBOURS,
        bank_size: int = BANK_SIZE,
        cache: Path | None = None,
    ):
        self._clip_to_prior, self._neighbours = clip_to_prior, neighbours
        self._bank = LatentBank(generator, bank_size, cache)
        self._coarse = LeastSquares(generator, parse_objective(COARSE))
        self._stages = [
            (LeastSquares(generator, parse_objective(text), exact=exact), max_iter) for text, max_iter in STAGES
        ]

    def check(self) -> None:
        """Raises what the generator's forward-mode derivatives raise."""
        self._stages[-1][0].trace()

    def __call__(self, targets: np.ndarray, starts: np.ndarray) -> Found:
        """Searches from K starts of each clip, and from the bank's.

        Args:
            targets: float32 `[B, T, C]` in [-1, 1].
            starts: float32 `[B, K, latent_dim]`.
        """
        starts = np.concatenate([starts, self._bank.nearest(targets, self._neighbours)], axis=1)
        clips, restarts, _ = starts.shape
        floor, every = noise_floor(targets), np.arange(clips)
        coarse = self._coarse.descend(targets, starts, clip_to_prior=self._clip_to_prior, max_iter=COARSE_ITERATIONS)
        order = coarse.fun.reshape(clips, restarts).argsort(axis=1)
        ends = coarse.x.reshape(clips, restarts, -1)
        found = Found(
            z=ends[every, order[:, 0]],
            exact=np.zeros(clips, bool),
            in_range=coarse.fun.reshape(clips, restarts).min(axis=1) <= OUT_OF_RANGE,
            evaluations=coarse.evaluations.reshape(clips, restarts).sum(axis=1),
            starts=np.zeros(clips, int),
        )
        lowest = np.full(clips, np.inf)
        for attempt in range(restarts):
            pending = np.flatnonzero(found.in_range & ~found.exact)
            if not pending.size:
                break
            z = ends[pending, order[pending, attempt]]
            found.starts[pending] += 1
            for problem, max_iter in self._stages:
                last = problem is self._stages[-1][0]
                result: lbfgs.Result = problem.minimize(
                    targets[pending],
                    z[:, None],
                    clip_to_prior=self._clip_to_prior,
                    max_iter=max_iter,
                    tol_change=STALLED,
                    tol_value=floor[pending] if last else 0.0,
                )
                z = result.x
                found.evaluations[pending] += result.evaluations
            lower = result.fun < lowest[pending]
            found.z[pending[lower]], lowest[pending[lower]] = z[lower], result.fun[lower]
            found.exact = lowest <= floor
        return found
