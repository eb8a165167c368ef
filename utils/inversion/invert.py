"""Recovering latents: the z with which a generator reproduces given audio, for a batch of clips at a time.

Three methods, as in the paper (`recover`): an encoder's answer (`from_encoder`, then `Inverter.evaluate`), L-BFGS from
the prior (`from_prior`, then `Inverter.refine`), and both in a row (`from_encoder`, then `Inverter.refine`).

A generator here is anything with `latent_dim`, `num_samples`, `num_channels`, `prior` (`uniform` in [-1, 1]
or `normal`) and `sample_prior`, called as z `[B, latent_dim]` to audio `[B, T, C]`, differentiable in z.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import tensorflow as tf

from utils.inversion import lbfgs
from utils.losses import Objective, Point
from utils.options import SOLVERS, UserError

TOLERANCE = 1e-8  # the paper's `tol`, of both the gradient and the relative decrease
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

    @staticmethod
    def concatenate(parts: Sequence["Recovered"]) -> "Recovered":
        columns = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
        lists = {name: sum(columns.pop(name), []) for name in ("status", "curve")}
        return Recovered(**{name: np.concatenate(column) for name, column in columns.items()}, **lists)


def from_prior(generator: Any, seed: int, identities: Sequence[str], restarts: int = 1) -> np.ndarray:
    """Starts from the prior that depend on the seed, the clip and the restart, not on the batch around them.

    Args:
        seed: of the run.
        identities: a text per clip that names it, e.g. its file's hash and window.
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
    lower, upper = _bounds(generator, clip_to_prior)
    return np.clip(z, lower, upper)[:, None]


class Inverter:
    """Minimises an objective over the latents of one generator; its graphs are traced once for all batches.

    Args:
        generator: searched with.
        objective: one value per clip, see `utils.losses`.
        solver: `batched` (`utils.inversion.lbfgs`, all rows at once) or `scipy` (L-BFGS-B, one row after another: the
            paper's, which besides `max_iter` keeps SciPy's limit of 15,000 evaluations).
        clip_to_prior: keep z in the prior's box [-1, 1]. Without effect for a normal prior, which has none.
        polish: the same generator in float32, where `generator` computes in less: a search ends with a short
            one on it, and every objective and sample reported is its.
        features: what the objective's term `feature` compares: audio `[B, T, C]` to a classifier's activations
            by block, each float `[B, ...]`, differentiable. Those of the targets are computed once a search.

    Raises:
        ValueError: for another solver.
        UserError: for an objective with the term `feature`, but no features.
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
            raise UserError(f"--objective: the term feature needs a --classifier. Received: {objective}")
        features = features if objective.needs_features else _no_features
        self.generator = generator
        self._minimize = _minimize_batched if solver == "batched" else _minimize_scipy
        self._bounds = _bounds(generator, clip_to_prior)
        self._targets = _targets(generator, features)
        spec = _spec(self._targets)
        self._search = _value_and_gradient(generator, objective, features, spec)
        self._polish = polish and _value_and_gradient(polish, objective, features, spec)
        self._forward = _forward(polish or generator, objective, features, spec)

    def refine(
        self, targets: np.ndarray, starts: np.ndarray, *, max_iter: int, progress: Progress | None = None
    ) -> Recovered:
        """Searches from each start; of a clip's ends the one with the smallest objective is kept.

        Args:
            targets: float32 `[B, T, C]` in [-1, 1].
            starts: float32 `[B, K, latent_dim]`; all B * K rows are computed together by the batched solver.
            max_iter: iterations per start.
            progress: called after each evaluation.
        """
        clips, restarts, latent_dim = starts.shape
        rows = starts.reshape(-1, latent_dim)
        targets = self._targets(tf.constant(targets))
        found = self._run(self._search, targets, rows, restarts, max_iter, progress)
        best = found.fun.reshape(clips, restarts).argmin(axis=1) + restarts * np.arange(clips)
        z, status = found.x[best], [lbfgs.Status(found.status[i]).name for i in best]
        evaluations = found.evaluations.reshape(clips, restarts).sum(axis=1)
        curve = [found.curve[i] for i in best]
        if self._polish:
            polished = self._run(self._polish, targets, z, 1, -(-max_iter // POLISH_SHARE), progress)
            z, status = polished.x, polished.status_names
            evaluations = evaluations + polished.evaluations
            curve = [np.concatenate(parts) for parts in zip(curve, polished.curve, strict=True)]
        objective, audio = (x.numpy() for x in self._forward(tf.constant(z), targets))
        return Recovered(z, audio, objective.astype(np.float64), evaluations, status, curve)

    def evaluate(self, targets: np.ndarray, z: np.ndarray) -> Recovered:
        """What given latents, float32 `[B, latent_dim]`, give without a search: one evaluation each."""
        targets = self._targets(tf.constant(targets))
        objective, audio = (x.numpy() for x in self._forward(tf.constant(z), targets))
        objective = objective.astype(np.float64)
        ones = np.ones(len(z), int)
        return Recovered(z, audio, objective, ones, ["encoded"] * len(z), list(objective[:, None]))

    def _run(self, compiled, targets, rows, restarts, max_iter, progress) -> lbfgs.Result:
        def value_and_gradient(x, index):
            return compiled(tf.constant(x), tf.constant(index // restarts), targets)

        lower, upper = self._bounds
        return self._minimize(value_and_gradient, rows, lower, upper, max_iter, progress)


def recover(
    inverter: Inverter,
    method: str,
    targets: np.ndarray,
    identities: Sequence[str],
    *,
    encoder: Callable[[np.ndarray], Any] | None,
    max_iter: Mapping[str, int],
    restarts: int,
    clip_to_prior: bool,
    seed: int,
    progress: Progress | None = None,
) -> Recovered:
    """Latents of a batch of clips by one of the paper's methods.

    Args:
        inverter: evaluates and searches.
        method: `encoder`, `gradient` or `hybrid`.
        targets: float32 `[B, T, C]` in [-1, 1].
        identities: B names, as in `from_prior`.
        encoder: as in `from_encoder`; not needed by `gradient`.
        max_iter: iterations of each start by method, of `gradient` and `hybrid`.
        restarts: starts of `gradient`.
        clip_to_prior: the encoder's answer is clipped into the prior's box.
        seed: of the starts of `gradient`.
        progress: called after each evaluation of a search.
    """
    if method == "gradient":
        starts = from_prior(inverter.generator, seed, identities, restarts)
    else:
        starts = from_encoder(inverter.generator, encoder, targets, clip_to_prior=clip_to_prior)
    if method == "encoder":
        return inverter.evaluate(targets, starts[:, 0])
    return inverter.refine(targets, starts, max_iter=max_iter[method], progress=progress)


def _bounds(generator: Any, clip_to_prior: bool) -> tuple[float, float]:
    return (-1.0, 1.0) if clip_to_prior and generator.prior == "uniform" else (-np.inf, np.inf)


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


def _value_and_gradient(generator: Any, objective: Objective, features: Features, targets_spec: dict) -> Callable:
    """Traced once: (z `[b, latent_dim]`, index of each row's target, targets) to value and gradient in z."""
    z_spec = tf.TensorSpec([None, generator.latent_dim], tf.float32)

    @tf.function(input_signature=[z_spec, tf.TensorSpec([None], tf.int32), targets_spec], autograph=False)
    def value_and_gradient(z, index, targets):
        mine = tf.nest.map_structure(lambda x: tf.gather(x, index), targets)
        with tf.GradientTape() as tape:
            tape.watch(z)
            audio = generator(z)
            value = objective(Point(audio, z=z, prior=generator.prior, features=features(audio), **mine))
        return value, tape.gradient(value, z)

    return value_and_gradient


def _forward(generator: Any, objective: Objective, features: Features, targets_spec: dict) -> Callable:
    """Traced once: (z, targets) to the objective `[B]` and the audio `[B, T, C]`."""
    z_spec = tf.TensorSpec([None, generator.latent_dim], tf.float32)

    @tf.function(input_signature=[z_spec, targets_spec], autograph=False)
    def forward(z, targets):
        audio = generator(z)
        return objective(Point(audio, z=z, prior=generator.prior, features=features(audio), **targets)), audio

    return forward


def _minimize_batched(value_and_gradient, rows, lower, upper, max_iter, progress) -> lbfgs.Result:
    def callback(evaluations, index, best):
        progress(len(index), float(np.median(best)))

    return lbfgs.minimize(
        value_and_gradient,
        rows,
        lower=lower,
        upper=upper,
        max_iter=max_iter,
        tol_grad=TOLERANCE,
        tol_change=TOLERANCE,
        callback=callback if progress else None,
    )


def _minimize_scipy(value_and_gradient, rows, lower, upper, max_iter, progress) -> lbfgs.Result:
    """SciPy's L-BFGS-B, row after row, with the result of `utils.inversion.lbfgs.minimize`."""
    ends = []
    for row, start in enumerate(rows):
        ends.append(_minimize_one(value_and_gradient, row, start, lower, upper, max_iter))
        if progress:
            progress(len(rows) - 1 - row, ends[-1][1])
    x, fun, iterations, status, curve = zip(*ends, strict=True)
    return lbfgs.Result(
        x=np.array(x),
        fun=np.array(fun),
        evaluations=np.array([len(c) for c in curve]),
        iterations=np.array(iterations),
        status=np.array(status),
        curve=list(curve),
    )


def _minimize_one(value_and_gradient, row, start, lower, upper, max_iter):
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

    bounded = np.isfinite(lower)
    end = scipy.optimize.minimize(
        function,
        start.astype(np.float64),
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(lower, upper) if bounded else None,
        tol=TOLERANCE,
        options={"maxiter": max_iter},
    )
    return best_x, best, end.nit, _scipy_status(end, curve, max_iter), np.array(curve)


def _scipy_status(end, curve, max_iter) -> lbfgs.Status:
    if curve[0] == np.inf:
        return lbfgs.Status.nonfinite_start
    if end.status == 1:
        return lbfgs.Status.max_iter if end.nit >= max_iter else lbfgs.Status.max_evals
    if end.status == 2:
        return lbfgs.Status.line_search_failed
    gradient_is_small = "PGTOL" in end.message.upper() or "PROJECTED GRADIENT" in end.message.upper()
    return lbfgs.Status.converged_gradient if gradient_is_small else lbfgs.Status.converged_change
