"""Recovering latents: the z with which a generator reproduces given audio, for a batch of clips at a time.

Four methods (`utils.inversion.names`), applied by `Recovery`. The paper's three: an encoder's answer, L-BFGS on the
objective from the prior, and from the encoder's answer. And `search`: from the encoder's answer first the latent itself
(`utils.inversion.search`), then, of clips that are out of the generator's range, the objective.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from utils.audio.files import Identity
from utils.errors import UserError
from utils.inversion import lbfgs, scipy_lbfgs
from utils.inversion.lbfgs import Status
from utils.inversion.names import ENCODER, GRADIENT, HYBRID, SEARCH
from utils.inversion.problem import Features, Problem, Progress, rows_together, watched
from utils.inversion.search import SEARCH_VERSION, LatentSearch
from utils.losses import Objective
from utils.priors import PRIORS
from utils.runs.batches import in_batches

SOLVERS = {"batched": lbfgs.minimize, "scipy": scipy_lbfgs.minimize}
TOLERANCE = 1e-8  # the paper's `tol`, of both the gradient and the relative decrease
FLOAT32_SHARE = 5  # the last fifth of the iterations of a bfloat16 search is float32's


@dataclass
class Recovered:
    """Latents and what they give, one entry per clip; from the start with the smallest objective.

    z: `[B, latent_dim]` float32.
    audio: `[B, T, C]` float32, the generator's output at z, in float32 arithmetic.
    objective: `[B]` float64, at z; not finite where the generator or the objective was not.
    evaluations: `[B]` int, of the generator, over all starts of the clip.
    status: `[B]` names, why the search ended (`utils.inversion.lbfgs.Status`).
    curve: B arrays: the best objective so far after each evaluation from the start that won.
    """

    z: np.ndarray
    audio: np.ndarray
    objective: np.ndarray
    evaluations: np.ndarray
    status: list[str]
    curve: list[np.ndarray]

    def __getitem__(self, clips: slice) -> "Recovered":
        return Recovered(**{name: value[clips] for name, value in vars(self).items()})

    @property
    def finite(self) -> np.ndarray:
        """`[B]` bool: whether generator and objective were."""
        finite = np.isfinite(self.objective) & np.isfinite(self.z).all(axis=1)
        return finite & np.isfinite(self.audio).all(axis=(1, 2))

    @staticmethod
    def concatenate(parts: Sequence["Recovered"]) -> "Recovered":
        columns = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
        lists = {name: sum(columns.pop(name), []) for name in ("status", "curve")}
        return Recovered(**{name: np.concatenate(column) for name, column in columns.items()}, **lists)


def from_prior(generator: Any, seed: int, identities: Sequence[Identity], restarts: int = 1) -> np.ndarray:
    """Starts from the prior that depend on the seed, the clip and the restart, not on the batch around them.

    Args:
        seed: of the run.
        identities: of the clips.
        restarts: K; the first ones are the same for a larger K.

    Returns:
        float32 `[B, K, latent_dim]`.
    """
    starts = []
    for identity in identities:
        digest = hashlib.sha256(f"{seed} {identity}".encode()).digest()
        starts.append(generator.sample_prior(int.from_bytes(digest, "big"), restarts))
    return np.array(starts, np.float32).reshape(len(identities), restarts, generator.latent_dim)


def from_encoder(
    generator: Any, encoder: Callable[[np.ndarray], Any], targets: np.ndarray, *, clip_to_prior: bool = True
) -> np.ndarray:
    """An encoder's answer: audio `[B, T, C]` to z, float32 `[B, 1, latent_dim]`; in the prior's box if `clip_to_prior`.

    Raises:
        UserError: when the encoder does not take the generator's audio or does not give its latents.
    """
    try:
        z = np.asarray(encoder(targets), np.float32)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"--encoder: does not take the generator's audio, {targets.shape}: {reason}") from error
    if z.shape != (len(targets), generator.latent_dim):
        raise UserError(
            f"--encoder: must give latents [B, {generator.latent_dim}], as the generator takes them. "
            f"Received: shape {z.shape} for {len(targets)} clips"
        )
    prior = PRIORS[generator.prior]
    return (np.clip(z, prior.low, prior.high) if clip_to_prior else z)[:, None]


class Inverter:
    """Minimises an objective over the latents of one generator; its graphs are traced once for all batches.

    Every objective and sample reported is of the generator in float32. Where it computes in less, a search ends with a
    short one in float32.

    Args:
        generator: searched with, as in `utils.inversion.problem`.
        objective: one value per clip, see `utils.losses`.
        solver: `batched` (`utils.inversion.lbfgs`, all rows at once) or `scipy` (L-BFGS-B, one row after another: the
            paper's).
        clip_to_prior: keep z in the prior's box. Without effect for a normal prior, which has none.
        features: of `utils.inversion.problem.Problem`.

    Raises:
        ValueError: for another solver.
        UserError: for an objective with a term of features, but no features.
    """

    def __init__(
        self,
        generator: Any,
        objective: Objective,
        *,
        solver: str = "batched",
        clip_to_prior: bool = True,
        features: Features | None = None,
    ):
        if solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}. Received: {solver!r}")
        self.generator, self.objective, self.solver, self.clip_to_prior = generator, objective, solver, clip_to_prior
        self._problem = Problem(generator, objective, features=features)

    def refine(
        self, targets: np.ndarray, starts: np.ndarray, *, max_iter: int, progress: Progress | None = None
    ) -> Recovered:
        """Searches from each start; of a clip's results the one with the smallest objective is kept.

        Args:
            targets: float32 `[B, T, C]` in [-1, 1].
            starts: float32 `[B, K, latent_dim]`; all B * K rows are searched together by the batched solver.
            max_iter: iterations per start, those in float32 included.
            progress: called after each evaluation.
        """
        clips, restarts, latent_dim = starts.shape
        problem = self._problem
        targets = problem.targets(targets)
        rows, search = starts.reshape(-1, latent_dim), problem.value_and_gradient
        in_float32 = self.float32_iterations(max_iter)
        result = self._minimize(search, targets, rows, restarts, max_iter - in_float32, progress)
        best = result.fun.reshape(clips, restarts).argmin(axis=1) + restarts * np.arange(clips)
        z, status = result.x[best], [result.status_names[i] for i in best]
        evaluations = result.evaluations.reshape(clips, restarts).sum(axis=1)
        curve = [result.curve[i] for i in best]
        if in_float32:
            search = problem.float32_value_and_gradient
            last = self._minimize(search, targets, z, 1, in_float32, progress)
            z, status = last.x, last.status_names
            evaluations = evaluations + last.evaluations
            curve = [np.concatenate(parts) for parts in zip(curve, last.curve, strict=True)]
        objective, audio = problem.value_and_audio(z, np.arange(clips), targets)
        return Recovered(z, audio, objective.astype(np.float64), evaluations, status, curve)

    def float32_iterations(self, max_iter: int) -> int:
        """How many of a search's iterations are float32's after those of a generator that computes in less."""
        return 0 if self._problem.float32_generator is self._problem.generator else max_iter // FLOAT32_SHARE

    def evaluate(self, targets: np.ndarray, z: np.ndarray) -> Recovered:
        """What given latents, float32 `[B, latent_dim]`, give without a search: one evaluation each."""
        objective, audio = self._problem.value_and_audio(z, np.arange(len(z)), self._problem.targets(targets))
        objective = objective.astype(np.float64)
        return Recovered(z, audio, objective, np.ones(len(z), int), ["encoded"] * len(z), list(objective[:, None]))

    def prior_distance(self, z: np.ndarray) -> np.ndarray | None:
        """How far `[B, latent_dim]` latents of another space lie from what the prior gives: float64 `[B]`, root mean
        square of `off_prior`; None where z is the prior's own."""
        if not hasattr(self.generator, "off_prior"):
            return None
        return np.sqrt(np.mean(np.square(np.asarray(self.generator.off_prior(tf.constant(z)), np.float64)), axis=1))

    def _minimize(self, function, targets, rows, restarts, max_iter, progress) -> lbfgs.Result:
        lower, upper = self._problem.bounds(self.clip_to_prior)
        return SOLVERS[self.solver](
            lambda z, index: function(z, index // restarts, targets),
            rows,
            lower=lower,
            upper=upper,
            max_iter=max_iter,
            tol_grad=TOLERANCE,
            tol_change=TOLERANCE,
            callback=watched(progress, "objective", max_iter),
        )


@dataclass(frozen=True)
class Recovery:
    """The methods and their settings: what all clips of a run share.

    Attributes:
        inverter: evaluates and searches.
        encoder: audio `[B, T, C]` and its domain, "real" or "synthetic", to z; None: `encoder` and `hybrid` are not to
            be had, and `search` starts from a bank of samples.
        max_iter: iterations of each start by method, of `gradient` and of `hybrid`; those of `hybrid` are `search`'s.
        restarts: starts of `gradient`.
        seed: of the starts of `gradient`.
        networks: JSON-able: `encoder_sha256`, and what else tells networks that give other results.
        search: for the latent itself; None where the generator or the space allows none: `search` is then `hybrid`.

    Raises:
        UserError: when called, for a method that needs an encoder, where there is none.
    """

    inverter: Inverter
    encoder: Callable[[np.ndarray, str], Any] | None
    max_iter: Mapping[str, int]
    restarts: int
    seed: int
    networks: Mapping[str, Any]
    search: LatentSearch | None = None

    def __call__(
        self,
        method: str,
        targets: np.ndarray,
        identities: Sequence[Identity],
        domain: str,
        progress: Progress | None = None,
        neighbours: np.ndarray | None = None,
    ) -> Recovered:
        """Latents of a batch of clips.

        Args:
            method: a name in `utils.inversion.names.METHODS`.
            targets: float32 `[B, T, C]` in [-1, 1].
            identities: of the B clips.
            domain: "real", or "synthetic" for the generator's own samples: which the encoder is given.
            progress: called after each evaluation of a search.
            neighbours: float32 `[B, latent_dim]`, latents of the windows before these; a search starts there where the
                objective is lower than at its own first start.
        """
        inverter = self.inverter
        starts = self._starts(method, targets, identities, domain)
        if method == ENCODER:
            return inverter.evaluate(targets, starts[:, 0])
        if neighbours is not None and not starts.shape[1]:
            starts = neighbours[:, None]
        elif neighbours is not None:
            own, theirs = (inverter.evaluate(targets, z).objective for z in (starts[:, 0], neighbours))
            starts[:, 0] = np.where((theirs < own)[:, None], neighbours, starts[:, 0])
        if method == SEARCH and self.search:
            return self._search(targets, starts, progress)
        return inverter.refine(targets, starts, max_iter=self._max_iter(method), progress=progress)

    def _starts(self, method: str, targets: np.ndarray, identities: Sequence[Identity], domain: str) -> np.ndarray:
        """float32 `[B, K, latent_dim]`; K is 0 for `search` without an encoder."""
        generator = self.inverter.generator
        if method == GRADIENT:
            return from_prior(generator, self.seed, identities, self.restarts)
        if self.encoder:
            rows = rows_together(generator)
            encode = lambda audio: in_batches(lambda some: self.encoder(some, domain), audio, rows)  # noqa: E731
            return from_encoder(generator, encode, targets, clip_to_prior=self.inverter.clip_to_prior)
        if method == SEARCH and self.search:
            return np.empty((len(targets), 0, generator.latent_dim), np.float32)
        raise UserError(f"--encoder none: the method {method} starts from an encoder's answer here; name an encoder")

    def _search(self, targets: np.ndarray, starts: np.ndarray, progress: Progress | None) -> Recovered:
        """What the search for the latent finds; of clips whose latent it does not find what `refine` does, if that is
        lower."""
        found = self.search(targets, starts if starts.shape[1] else None, progress)
        recovered = self.inverter.evaluate(targets, found.z)
        recovered.evaluations = recovered.evaluations + found.evaluations
        recovered.status = [(Status.converged_value if exact else Status.max_iter).name for exact in found.exact]
        rest = np.flatnonzero(~found.exact)
        if rest.size:
            starts = starts[rest] if starts.shape[1] else found.z[rest, None]
            max_iter = self._max_iter(SEARCH)
            refined = self.inverter.refine(targets[rest], starts, max_iter=max_iter, progress=progress)
            recovered.evaluations[rest] += refined.evaluations
            refined.evaluations = recovered.evaluations[rest]
            before = recovered.objective[rest]
            for i in np.flatnonzero((refined.objective < before) | ~np.isfinite(before)):
                for name, value in vars(refined).items():
                    vars(recovered)[name][rest[i]] = value[i]
        return recovered

    def _max_iter(self, method: str) -> int:
        return self.max_iter[HYBRID if method == SEARCH else method]

    def in_batches(
        self,
        method: str,
        targets: np.ndarray,
        identities: Sequence[Identity],
        domain: str,
        *,
        batch_size: int,
        progress: Progress | None = None,
        neighbours: np.ndarray | None = None,
    ) -> tuple[Recovered, np.ndarray]:
        """Latents of any number N of clips, `batch_size` computed together; and float64 `[N]`: the seconds they took,
        those of a batch shared equally."""
        parts, seconds = [], []
        for first in range(0, len(targets), batch_size):
            batch, started_at = slice(first, first + batch_size), time.monotonic()
            near = None if neighbours is None else neighbours[batch]
            parts.append(self(method, targets[batch], identities[batch], domain, progress, near))
            size = len(parts[-1].z)
            seconds += [(time.monotonic() - started_at) / size] * size
        return Recovered.concatenate(parts), np.array(seconds)

    def settings(self, method: str) -> dict[str, Any]:
        """All that the result of a method depends on besides the clips; JSON-able."""
        inverter = self.inverter
        settings = {"method": method, "objective": str(inverter.objective), "clip_to_prior": inverter.clip_to_prior}
        settings |= self.networks
        if method != ENCODER:
            max_iter = self._max_iter(method)
            settings |= {"solver": inverter.solver, "max_iter": max_iter}
            settings |= {"float32_iterations": inverter.float32_iterations(max_iter)}
        if method == SEARCH:
            settings |= {"search_version": SEARCH_VERSION if self.search else None}
        if method == GRADIENT:
            settings |= {"restarts": self.restarts, "seed": self.seed, "encoder_sha256": None}
        return settings
