"""The search for the latent itself, of clips that the generator can make: coarse to fine.

1. The encoder's answer, and `ROUNDS` more passes of it: it also encodes the reconstruction from its answer, and the
   answer moves by the difference (Anderson-accelerated, `utils.inversion.anderson`). Without an encoder, or with one
   that does not bring the generator's own samples into range: L-BFGS on log-mel spectrograms from the nearest of a
   bank of samples (`utils.inversion.bank`), too; such spectrograms discard phase, so their basins are wide.
2. Is the clip in the generator's range? If by now more than `IN_RANGE` of its energy is left, it is not, and the search
   ends.
3. Levenberg-Marquardt on the waveform (`utils.inversion.gauss_newton`), until the residual is the rounding of the
   clip's samples (`utils.inversion.exactness`): the latent is found. One on whitened STFTs before it, which weighs
   quiet cells as loud ones, saved no Jacobian once L-BFGS went on from each: 221 evaluations, where this takes 119.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from utils.inversion import anderson
from utils.inversion.bank import LatentBank
from utils.inversion.exactness import noise_floor, rounding_step
from utils.inversion.problem import LeastSquares, Progress, rows_together, watched
from utils.losses import parse_objective
from utils.runs.batches import in_batches

SEARCH_VERSION = 3  # to be raised with every change of what the search gives: it is in the keys of kept results
ROUNDS = 6
COARSE, WAVEFORM = "log_mel_squared=1", "waveform_squared=1"
COARSE_ITERATIONS = 150
NEIGHBOURS, BANK_SIZE = 8, 4096  # 24 of 24 samples of the tests' small generator, 22 with three neighbours
PROBES = 8  # own samples by which an encoder is tried out; all but one must come into range
# Share of a clip's energy that the reconstruction leaves. Silence leaves 1, and a waveform that has nothing to do with
# the clip more than that. Measured by `python -m studies.formats` on the selection half: see its docstring.
IN_RANGE = 0.5
JACOBIANS = 12  # at most
SLOW = 0.2  # relative decrease by a Jacobian that ends the search


@dataclass
class Found:
    """One entry a clip.

    z: float32 `[B, latent_dim]`.
    exact: `[B]` bool, whether the generator's audio is the clip up to the rounding of its samples.
    in_range: `[B]` bool; where not, z is where the first stage ended.
    evaluations: `[B]` int, of the generator; a Jacobian counts as latent_dim.
    share: `[B]` of the clip's energy, what was left of it when the range was decided.
    """

    z: np.ndarray
    exact: np.ndarray
    in_range: np.ndarray
    evaluations: np.ndarray
    share: np.ndarray


class LatentSearch:
    """The stages over one generator; traced once for all batches.

    Args:
        generator: searched with, as in `utils.inversion.problem`.
        encode: audio `[B, T, C]` to z, as an encoder answers the generator's own samples; None: without.
        clip_to_prior: keep z in the box of a bounded prior.
        neighbours: starts from the bank, where the encoder alone does not do.
        bank_size: of the bank.
        cache: folder in which the bank is kept between processes.
    """

    def __init__(
        self,
        generator: Any,
        *,
        encode: Callable[[tf.Tensor], Any] | None = None,
        clip_to_prior: bool = True,
        neighbours: int = NEIGHBOURS,
        bank_size: int = BANK_SIZE,
        cache: Path | None = None,
    ):
        self.generator, self._encode, self._clip_to_prior = generator, encode, clip_to_prior
        self._neighbours, self._bank = neighbours, LatentBank(generator, bank_size, cache)
        self._coarse, self._waveform = (LeastSquares(generator, parse_objective(text)) for text in (COARSE, WAVEFORM))
        self._answer = tf.function(
            lambda z, step: encode(_rounded(generator(z), step)),
            input_signature=[tf.TensorSpec([None, generator.latent_dim]), tf.TensorSpec([None])],
            autograph=False,
        )

    def check(self) -> None:
        """Raises what the generator's forward-mode derivatives raise."""
        self._waveform.trace()

    def __call__(
        self, targets: np.ndarray, starts: np.ndarray | None = None, progress: Progress | None = None
    ) -> Found:
        """Searches for each clip's latent.

        Args:
            targets: float32 `[B, T, C]` in [-1, 1].
            starts: float32 `[B, K, latent_dim]`, where K searches of each clip begin; None: at the encoder's answer.
                Where that does not do, near samples of the bank are added.
            progress: called after each step of a stage.
        """
        ends, evaluations = self._approach(targets, starts, progress)
        clips, restarts, _ = ends.shape
        shares = self._shares_left(targets, ends)
        order = shares.argsort(axis=1)
        shares, ends = np.take_along_axis(shares, order, 1), np.take_along_axis(ends, order[..., None], 1)
        found = Found(
            z=ends[:, 0].copy(),
            exact=np.zeros(clips, bool),
            in_range=shares[:, 0] <= IN_RANGE,
            evaluations=evaluations + restarts,
            share=shares[:, 0],
        )
        floor, lowest = noise_floor(targets), np.full(clips, np.inf)
        for attempt in range(restarts):
            pending = np.flatnonzero((shares[:, attempt] <= IN_RANGE) & ~found.exact)
            if not pending.size:
                break
            result = self._waveform.minimize(
                targets[pending],
                ends[pending, attempt, None],
                clip_to_prior=self._clip_to_prior,
                max_iter=JACOBIANS,
                tol_change=SLOW,
                tol_value=floor[pending],
                callback=watched(progress, "waveform", JACOBIANS),
            )
            found.evaluations[pending] += result.evaluations
            lower = result.fun < lowest[pending]
            found.z[pending[lower]], lowest[pending[lower]] = result.x[lower], result.fun[lower]
            found.exact = lowest <= floor
        return found

    def _shares_left(self, targets: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Of each clip's energy, what reconstructions from `[B, K, latent_dim]` leave, float64 `[B, K]`; infinite for
        silence."""
        clips, restarts, n = z.shape
        index, held = np.repeat(np.arange(clips), restarts), self._waveform.targets(targets)
        energy = np.mean(np.square(targets, dtype=np.float64), axis=(1, 2))[:, None]
        left = self._waveform.value(z.reshape(-1, n), index, held).reshape(clips, restarts)
        return np.divide(left, energy, out=np.full_like(left, np.inf), where=energy > 0)

    def _approach(
        self, targets: np.ndarray, starts: np.ndarray | None, progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the first stage ends, float32 `[B, K, latent_dim]`, and its evaluations of each clip `[B]`."""
        evaluations = np.zeros(len(targets), int)
        if self._encode is not None:
            starts, evaluations = self._encoded(targets, starts)
            if self._encoder_suffices:
                return starts, evaluations
        near = self._bank.nearest(targets, self._neighbours)
        starts = near if starts is None else np.concatenate([starts, near], axis=1)
        shape = starts.shape
        coarse = self._coarse.descend(
            targets,
            starts,
            clip_to_prior=self._clip_to_prior,
            max_iter=COARSE_ITERATIONS,
            callback=watched(progress, "log-mel", COARSE_ITERATIONS),
        )
        return coarse.x.reshape(shape), evaluations + coarse.evaluations.reshape(shape[:2]).sum(axis=1)

    @cached_property
    def _encoder_suffices(self) -> bool:
        """Whether the encoder brings the generator's own samples into range."""
        samples = np.asarray(self.generator(self.generator.sample_prior(0, PROBES)), np.float32)
        ends, _ = self._encoded(samples, None)
        return np.count_nonzero(self._shares_left(samples, ends) <= IN_RANGE) >= PROBES - 1

    def _encoded(self, targets: np.ndarray, starts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Where the encoder's rounds end, `[B, K, latent_dim]`, and their evaluations of each clip `[B]`."""
        lower, upper = self._waveform.bounds(self._clip_to_prior)
        rows = rows_together(self.generator)
        wanted = in_batches(self._encode, targets, rows)
        starts = wanted[:, None] if starts is None else starts
        clips, restarts, n = starts.shape
        wanted, step = (np.repeat(x, restarts, axis=0) for x in (wanted, rounding_step(targets).astype(np.float32)))

        def missing(z: np.ndarray) -> np.ndarray:
            answer = lambda i: self._answer(tf.constant(z[i], tf.float32), tf.constant(step[i]))  # noqa: E731
            return wanted - in_batches(answer, np.arange(len(z)), rows)

        ends = anderson.iterate(missing, starts.reshape(-1, n), rounds=ROUNDS, lower=lower, upper=upper)
        return ends.astype(np.float32).reshape(starts.shape), np.full(clips, ROUNDS * restarts)


def _rounded(audio: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Audio `[B, T, C]` as a file of each clip's format gives it back; step `[B]` as of `rounding_step`."""
    step = step[:, None, None]
    return tf.where(step > 0, step * tf.round(tf.math.divide_no_nan(audio, step)), audio)
