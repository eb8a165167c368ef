"""The search for the latent itself, of clips that the generator can make: coarse to fine, from several starts.

1. L-BFGS on log-mel spectrograms from every start: such spectrograms know no phase, so their basins are wide, and a
   gradient is cheap beside a Jacobian.
2. From the lowest, Levenberg-Marquardt on whitened STFTs (`stft_whitened_squared`): in the waveform
   alone the loud parts hide the directions of z that the sound hardly depends on.
3. Levenberg-Marquardt on the waveform, until the residual is the rounding of the clip's samples
   (`utils.inversion.exactness`): the latent is found.

The starts are the caller's (an encoder's answer) at first, without patience; for a clip that is not there then, where
they ended and the nearest of a bank of samples (`utils.inversion.bank`). Those that the first stage has not brought
near go no further; a clip without any that it has is out of the generator's range.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.inversion import lbfgs
from utils.inversion.bank import LatentBank
from utils.inversion.exactness import noise_floor
from utils.inversion.problem import LeastSquares, Progress, watched
from utils.losses import parse_objective

SEARCH_VERSION = 1  # to be raised with every change of what the search gives: it is in the keys of kept results
COARSE = "log_mel_squared=1"
COARSE_NAME = "log-mel"
STAGES = {"whitened STFT": "stft_whitened_squared=1", "waveform": "waveform_squared=1"}
JACOBIANS = (100, 40)  # of the stages, at most
# Relative decreases by a Jacobian that end a stage. From an encoder's answer own samples go fast or not at all; from
# farther away some go slowly for dozens before they arrive.
QUICK, PATIENT = 0.05, 1e-6
COARSE_ITERATIONS = 150
NEIGHBOURS, BANK_SIZE = 3, 4096
NEAR = 0.2  # mean square of log-mel differences, in squared nepers: own samples end below 0.01, speech from 0.25


@dataclass
class Found:
    """One entry a clip.

    z: float32 `[B, latent_dim]`.
    exact: `[B]` bool, whether the generator's audio is the clip up to the rounding of its samples.
    in_range: `[B]` bool; where not, z is where the first stage ended.
    evaluations: `[B]` int, of the generator; a Jacobian counts as latent_dim.
    starts: `[B]` int, how many the finer stages went on from.
    residual: `[B]` the lowest of the last stage; infinite where not in range.
    """

    z: np.ndarray
    exact: np.ndarray
    in_range: np.ndarray
    evaluations: np.ndarray
    starts: np.ndarray
    residual: np.ndarray


class LatentSearch:
    """The stages over one generator; traced once for all batches.

    Args:
        generator: searched with, as in `utils.inversion.problem`.
        clip_to_prior: keep z in the box of a bounded prior.
        neighbours: starts from the bank.
        bank_size: of the bank.
        near: value of the first stage from which a start goes further.
        jacobians: that each of the other two may take.
        cache: folder in which the bank is kept between processes.
    """

    def __init__(
        self,
        generator: Any,
        *,
        clip_to_prior: bool = True,
        neighbours: int = NEIGHBOURS,
        bank_size: int = BANK_SIZE,
        near: float = NEAR,
        jacobians: tuple[int, int] = JACOBIANS,
        cache: Path | None = None,
    ):
        self._clip_to_prior, self._neighbours, self._near = clip_to_prior, neighbours, near
        self._bank = LatentBank(generator, bank_size, cache)
        self._coarse = LeastSquares(generator, parse_objective(COARSE))
        self._stages = [
            (LeastSquares(generator, parse_objective(text)), max_iter)
            for text, max_iter in zip(STAGES.values(), jacobians, strict=True)
        ]

    def check(self) -> None:
        """Raises what the generator's forward-mode derivatives raise."""
        self._stages[-1][0].trace()

    def __call__(self, targets: np.ndarray, starts: np.ndarray, progress: Progress | None = None) -> Found:
        """Searches from K starts of each clip, and from the bank's where those do not end at the latent.

        Args:
            targets: float32 `[B, T, C]` in [-1, 1].
            starts: float32 `[B, K, latent_dim]`.
            progress: called after each step of a stage.
        """
        if not starts.shape[1]:
            return self._from(targets, self._bank.nearest(targets, self._neighbours), PATIENT, progress)
        found = self._from(targets, starts, QUICK, progress)
        rest = np.flatnonzero(~found.exact)
        if rest.size and self._neighbours:
            near = self._bank.nearest(targets[rest], self._neighbours)
            again = self._from(targets[rest], np.concatenate([found.z[rest, None], near], axis=1), PATIENT, progress)
            better = again.residual <= found.residual[rest]  # out of range both, the first stage went on from z
            found.evaluations[rest] += again.evaluations
            found.starts[rest] += again.starts
            for name in ("z", "exact", "in_range", "residual"):
                vars(found)[name][rest[better]] = vars(again)[name][better]
        return found

    def _from(self, targets: np.ndarray, starts: np.ndarray, stalled: float, progress: Progress | None) -> Found:
        """The three stages from K starts of each clip."""
        clips, restarts, _ = starts.shape
        floor = noise_floor(targets)
        coarse = self._coarse.descend(
            targets,
            starts,
            clip_to_prior=self._clip_to_prior,
            max_iter=COARSE_ITERATIONS,
            callback=watched(progress, COARSE_NAME, COARSE_ITERATIONS),
        )
        values, ends = coarse.fun.reshape(clips, restarts), coarse.x.reshape(clips, restarts, -1)
        order = values.argsort(axis=1)
        values, ends = np.take_along_axis(values, order, 1), np.take_along_axis(ends, order[..., None], 1)
        found = Found(
            z=ends[:, 0].copy(),
            exact=np.zeros(clips, bool),
            in_range=values[:, 0] <= self._near,
            evaluations=coarse.evaluations.reshape(clips, restarts).sum(axis=1),
            starts=np.zeros(clips, int),
            residual=np.full(clips, np.inf),
        )
        for attempt in range(restarts):
            pending = np.flatnonzero((values[:, attempt] <= self._near) & ~found.exact)
            if not pending.size:
                break
            z = ends[pending, attempt]
            found.starts[pending] += 1
            for name, (problem, max_iter) in zip(STAGES, self._stages, strict=True):
                last = problem is self._stages[-1][0]
                result: lbfgs.Result = problem.minimize(
                    targets[pending],
                    z[:, None],
                    clip_to_prior=self._clip_to_prior,
                    max_iter=max_iter,
                    tol_change=stalled,
                    tol_value=floor[pending] if last else 0.0,
                    callback=watched(progress, name, max_iter),
                )
                z = result.x
                found.evaluations[pending] += result.evaluations
            lower = result.fun < found.residual[pending]
            found.z[pending[lower]], found.residual[pending[lower]] = z[lower], result.fun[lower]
            found.exact = found.residual <= floor
        return found
