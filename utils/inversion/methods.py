"""Recovering latents: the z with which a generator reproduces given audio, for a batch of clips at a time.

Three methods, as in the paper (`Recovery`): an encoder's answer (`from_encoder`, then `Inverter.evaluate`), L-BFGS from
the prior (`from_prior`, then `Inverter.refine`), and both in a row (`from_encoder`, then `Inverter.refine`).

A generator here is anything with `latent_dim`, `num_samples`, `num_channels`, `sample_rate`, `prior` (a name in
`utils.priors.PRIORS`) and `sample_prior`, called as z `[B, latent_dim]` to audio `[B, T, C]`, differentiable
in z. One whose z is of another space than the prior's has `off_prior`, too (`models.projected`).
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
from utils.inversion.problem import LeastSquares
from utils.inversion.search import LatentSearch
from utils.losses import Objective, Point
from utils.priors import PRIORS

METHODS = ("encoder", "gradient", "hybrid")
LBFGS = {"batched": lbfgs.minimize, "scipy": scipy_lbfgs.minimize}
SOLVERS = (*LBFGS, "gauss_newton")
TOLERANCE = 1e-8  # the paper's `tol`, of both the gradient and the relative decrease
TOLERANCE_SQUARES = 1e-13  # of a sum of squares: float32's rounding of samples
POLISH_SHARE = 4  # after a bfloat16 search of max_iter iterations, float32 gets a quarter of them

Features = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]  # audio [B, T, C] to activations by block
Progress = Callable[[int, float], None]  # rows that still run, median of their best objectives


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
    return np.clip(z, *_bounds(generator, clip_to_prior))[:, None]


class Inverter:
    """Minimises an objective over the latents of one generator; its graphs are traced once for all batches.

    Args:
        generator: searched with.
        objective: one value per clip, see `utils.losses`.
        solver: `batched` (`utils.inversion.lbfgs`, all rows at once), `scipy` (L-BFGS-B, one row after another: the
            paper's) or `gauss_newton` (`utils.inversion.gauss_newton`, for objectives that are sums of squares).
        clip_to_prior: keep z in the prior's box. Without effect for a normal prior, which has none.
        polish: the same generator in float32, where `generator` computes in less: a search ends with a short
            one on it, and every objective and sample reported is its.
        features: what the objective's terms of features compare: audio `[B, T, C]` to a classifier's activations
            by block, each float `[B, ...]`, differentiable. Those of the targets are computed once a search.

    Raises:
        ValueError: for another solver.
        UserError: for an objective with a term of features, but no features, or one that the solver cannot minimise.
    """

    def __init__(
        self,
        generator: Any,
        objective: Objective,
        *,
        solver: str = "batched",
        clip_to_prior: bool = True,
        polish: Any = None,
        features: Features | None = None,
    ):
        if solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}. Received: {solver!r}")
        if objective.needs_features and features is None:
            raise UserError(f"--objective: its terms of features need a --classifier. Received: {objective}")
        features = features if objective.needs_features else _no_features
        self.generator, self.objective, self.solver, self.clip_to_prior = generator, objective, solver, clip_to_prior
        self._targets = _targets(generator, features)
        spec = _spec(self._targets)
        self._search = _value_and_gradient(generator, objective, features, spec)
        self._polish = polish and _value_and_gradient(polish, objective, features, spec)
        self._forward = _forward(polish or generator, objective, features, spec)
        squares = solver == "gauss_newton"
        self._least_squares = LeastSquares(generator, objective, exact=polish) if squares else None

    def refine(
        self, targets: np.ndarray, starts: np.ndarray, *, max_iter: int, progress: Progress | None = None
    ) -> Recovered:
        """Searches from each start; of a clip's results the one with the smallest objective is kept.

        Args:
            targets: float32 `[B, T, C]` in [-1, 1].
            starts: float32 `[B, K, latent_dim]`; all B * K rows are computed together by the batched solver.
            max_iter: iterations per start.
            progress: called after each evaluation.
        """
        clips, restarts, latent_dim = starts.shape
        audio, targets = targets, self._targets(tf.constant(targets))
        if self._least_squares:
            result = self._least_squares.minimize(
                audio,
                starts,
                clip_to_prior=self.clip_to_prior,
                max_iter=max_iter,
                tol_value=TOLERANCE_SQUARES,
                callback=_callback(progress),
            )
        else:
            result = self._minimize(self._search, targets, starts.reshape(-1, latent_dim), restarts, max_iter, progress)
        best = result.fun.reshape(clips, restarts).argmin(axis=1) + restarts * np.arange(clips)
        z, status = result.x[best], [result.status_names[i] for i in best]
        evaluations = result.evaluations.reshape(clips, restarts).sum(axis=1)
        curve = [result.curve[i] for i in best]
        if self._polish and not self._least_squares:  # whose values are float32's already
            polished = self._minimize(self._polish, targets, z, 1, -(-max_iter // POLISH_SHARE), progress)
            z, status = polished.x, polished.status_names
            evaluations = evaluations + polished.evaluations
            curve = [np.concatenate(parts) for parts in zip(curve, polished.curve, strict=True)]
        objective, audio = self._forward(tf.constant(z), targets)
        return Recovered(z, audio.numpy(), objective.numpy().astype(np.float64), evaluations, status, curve)

    def evaluate(self, targets: np.ndarray, z: np.ndarray) -> Recovered:
        """What given latents, float32 `[B, latent_dim]`, give without a search: one evaluation each."""
        objective, audio = self._forward(tf.constant(z), self._targets(tf.constant(targets)))
        objective = objective.numpy().astype(np.float64)
        return Recovered(
            z, audio.numpy(), objective, np.ones(len(z), int), ["encoded"] * len(z), list(objective[:, None])
        )

    def prior_distance(self, z: np.ndarray) -> np.ndarray | None:
        """How far `[B, latent_dim]` latents of another space lie from what the prior gives: float64 `[B]`, root mean
        square of `off_prior`; None where z is the prior's own."""
        if not hasattr(self.generator, "off_prior"):
            return None
        return np.sqrt(np.mean(np.square(np.asarray(self.generator.off_prior(tf.constant(z)), np.float64)), axis=1))

    def _minimize(self, compiled, targets, rows, restarts, max_iter, progress) -> lbfgs.Result:
        def value_and_gradient(x, index):
            return compiled(tf.constant(x), tf.constant(index // restarts), targets)

        lower, upper = _bounds(self.generator, self.clip_to_prior)
        return LBFGS[self.solver](
            value_and_gradient,
            rows,
            lower=lower,
            upper=upper,
            max_iter=max_iter,
            tol_grad=TOLERANCE,
            tol_change=TOLERANCE,
            callback=_callback(progress),
        )


@dataclass(frozen=True)
class Recovery:
    """The paper's three methods and their settings: what all clips of a run share.

    Attributes:
        inverter: evaluates and searches.
        encoder: audio `[B, T, C]` and its domain, "real" or "synthetic", to z; None where only `gradient` is wanted.
        max_iter: iterations of each start by method, of `gradient` and `hybrid`.
        restarts: starts of `gradient`.
        seed: of the starts of `gradient`.
        networks: JSON-able: `encoder_sha256`, and what else tells networks that give other results.
        search: for the latent itself, which `hybrid` then tries first; None: it minimises the objective alone.
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
            method: a name in `METHODS`.
            targets: float32 `[B, T, C]` in [-1, 1].
            identities: of the B clips.
            domain: "real", or "synthetic" for the generator's own samples: what is told to the encoder.
            progress: called after each evaluation of a search.
            neighbours: float32 `[B, latent_dim]`, latents of the windows before these; a search starts there where the
                objective is lower than at its own first start.
        """
        inverter = self.inverter
        if method == "gradient":
            starts = from_prior(inverter.generator, self.seed, identities, self.restarts)
        else:
            clip, encode = inverter.clip_to_prior, lambda audio: self.encoder(audio, domain)
            starts = from_encoder(inverter.generator, encode, targets, clip_to_prior=clip)
        if method == "encoder":
            return inverter.evaluate(targets, starts[:, 0])
        if neighbours is not None:
            own, theirs = (inverter.evaluate(targets, z).objective for z in (starts[:, 0], neighbours))
            starts[:, 0] = np.where((theirs < own)[:, None], neighbours, starts[:, 0])
        if method == "hybrid" and self.search:
            return self._search(targets, starts, progress)
        return inverter.refine(targets, starts, max_iter=self.max_iter[method], progress=progress)

    def _search(self, targets: np.ndarray, starts: np.ndarray, progress: Progress | None) -> Recovered:
        """What the search for the latent finds; of clips whose latent it does not find what `refine` does, if that is
        lower."""
        found = self.search(targets, starts)
        recovered = self.inverter.evaluate(targets, found.z)
        recovered.evaluations = recovered.evaluations + found.evaluations
        recovered.status = [(Status.converged_value if exact else Status.max_iter).name for exact in found.exact]
        rest = np.flatnonzero(~found.exact)
        if rest.size:
            refined = self.inverter.refine(
                targets[rest], starts[rest], max_iter=self.max_iter["hybrid"], progress=progress
            )
            recovered.evaluations[rest] += refined.evaluations
            refined.evaluations = recovered.evaluations[rest]
            before = recovered.objective[rest]
            for i in np.flatnonzero((refined.objective < before) | ~np.isfinite(before)):
                for name, value in vars(refined).items():
                    vars(recovered)[name][rest[i]] = value[i]
        return recovered

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
        if method != "encoder":
            settings |= {"solver": inverter.solver, "max_iter": self.max_iter[method]}
        if method == "hybrid" and self.search:
            settings |= {"search": True}
        if method == "gradient":
            settings |= {"restarts": self.restarts, "seed": self.seed, "encoder_sha256": None}
        return settings


def _bounds(generator: Any, clip_to_prior: bool) -> tuple[float, float]:
    prior = PRIORS[generator.prior]
    return (prior.low, prior.high) if clip_to_prior else (-np.inf, np.inf)


def _callback(progress: Progress | None) -> Callable | None:
    """`progress` as the solvers call it."""
    return progress and (lambda evaluations, index, best: progress(len(index), float(np.median(best))))


def _no_features(audio: tf.Tensor) -> dict[str, tf.Tensor]:
    return {}


def _targets(generator: Any, features: Features) -> Callable:
    """Traced once: clips `[B, T, C]` to all that points hold of them, by field of `Point`."""
    clips = tf.TensorSpec([None, generator.num_samples, generator.num_channels], tf.float32)

    @tf.function(input_signature=[clips], autograph=False)
    def targets(audio):
        return {"target": tf.identity(audio), "target_features": features(audio)}

    return targets


def _spec(targets: Callable) -> dict:
    """What `targets` returns, as an input signature."""
    outputs = targets.get_concrete_function().structured_outputs
    return tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), outputs)


def _point(generator: Any, features: Features, z: tf.Tensor, targets: dict) -> Point:
    """What z and its targets are to an objective."""
    audio, facts = generator(z), {"prior": generator.prior, "sample_rate": generator.sample_rate}
    if hasattr(generator, "off_prior"):
        facts["off_prior"] = generator.off_prior(z)
    return Point(audio, z=z, features=features(audio), **facts, **targets)


def _value_and_gradient(generator: Any, objective: Objective, features: Features, targets_spec: dict) -> Callable:
    """Traced once: (z `[b, latent_dim]`, index of each row's target, targets) to value and gradient in z."""
    z_spec = tf.TensorSpec([None, generator.latent_dim], tf.float32)

    @tf.function(input_signature=[z_spec, tf.TensorSpec([None], tf.int32), targets_spec], autograph=False)
    def value_and_gradient(z, index, targets):
        mine = tf.nest.map_structure(lambda x: tf.gather(x, index), targets)
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = objective(_point(generator, features, z, mine))
        return value, tape.gradient(value, z)

    return value_and_gradient


def _forward(generator: Any, objective: Objective, features: Features, targets_spec: dict) -> Callable:
    """Traced once: (z, targets) to the objective `[B]` and the audio `[B, T, C]`."""
    z_spec = tf.TensorSpec([None, generator.latent_dim], tf.float32)

    @tf.function(input_signature=[z_spec, targets_spec], autograph=False)
    def forward(z, targets):
        point = _point(generator, features, z, targets)
        return objective(point), point.audio

    return forward
