"""An objective over the latents of one generator, compiled: value, gradient, and of a sum of squares also residual and
Jacobian.

A generator here is anything with `latent_dim`, `num_samples`, `num_channels`, `sample_rate`, `prior` (a name in
`utils.priors.PRIORS`) and `sample_prior`, called as z `[B, latent_dim]` to audio `[B, T, C]`, differentiable in z. One
that computes in less than float32 has the same in float32 as its attribute `float32`; one whose z is of another space
than the prior's has `off_prior` (`models.projected`). A network that knows its own forward-mode derivatives has a
method `jacobian_product(z, directions)` (`models.wavegan`); any other is differentiated by
`tf.autodiff.ForwardAccumulator`.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from utils.errors import UserError
from utils.inversion import gauss_newton, lbfgs
from utils.inversion.lbfgs import Result
from utils.losses import RESIDUALS, Objective, Point
from utils.priors import PRIORS
from utils.runs.batches import in_batches

ROWS = 64  # evaluated together, where many are faster than one
COLUMNS = 128  # tangents pushed through a network together

Features = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]  # audio [B, T, C] to activations by block
# Stage, rows that still run, steps so far, about how many at most, median of the rows' best values.
Progress = Callable[[str, int, int, int, float], None]
Targets = dict[str, Any]  # what all points hold of their clips, by field of `Point`
# z [b, latent_dim], index [b] of each row's target, and targets to arrays of b rows.
Function = Callable[[np.ndarray, np.ndarray, Targets], Any]


def watched(progress: Progress | None, stage: str, most: int) -> Callable[[int, np.ndarray, np.ndarray], None] | None:
    """A solver's callback that tells `progress` of its steps, about `most`."""
    steps = itertools.count(1)
    return progress and (
        lambda evaluations, index, best: progress(stage, len(index), next(steps), most, float(np.median(best)))
    )


def rows_together(generator: Any) -> int:
    """How many rows are evaluated at once, whatever the number of clips in a batch.

    A batch rounds its rows' sums in another way than each row alone, and a search over speech amplifies that to other
    latents. In float32 on a CPU, where a batch saves a fifth of the time or less, each row is therefore on its own:
    results are the same to the last bit in any company.
    """
    alone = in_float32(generator) is generator and not tf.config.list_physical_devices("GPU")
    return 1 if alone else ROWS


def in_float32(generator: Any) -> Any:
    """The same generator in float32, which is itself where it computes in nothing less."""
    return getattr(generator, "float32", generator)


class Problem:
    """An objective over the latents of one generator; each function is traced once, for all batches.

    Values, gradients and audio are computed `rows_together` rows at a time.

    Args:
        generator: see above.
        objective: one value per clip, see `utils.losses`.
        features: what the objective's terms of features compare: audio `[B, T, C]` to a classifier's activations
            by block, each float `[B, ...]`, differentiable. Those of the targets are computed once a search.

    Raises:
        UserError: for an objective with a term of features, but no features.
    """

    def __init__(self, generator: Any, objective: Objective, *, features: Features | None = None):
        if objective.needs_features and features is None:
            raise UserError(f"--objective: its terms of features need a --classifier. Received: {objective}")
        self.generator, self.objective, self._rows = generator, objective, rows_together(generator)
        self.float32_generator = in_float32(generator)
        self._features = features if objective.needs_features else _no_features
        clips = tf.TensorSpec([None, generator.num_samples, generator.num_channels], tf.float32)
        self._targets = tf.function(
            lambda audio: {"target": tf.identity(audio), "target_features": self._features(audio)},
            input_signature=[clips],
            autograph=False,
        )

    def targets(self, audio: np.ndarray) -> Targets:
        """What the functions below take of clips float32 `[B, T, C]` in [-1, 1]."""
        return tf.nest.map_structure(tf.constant, in_batches(self._targets, audio, self._rows))

    def bounds(self, clip_to_prior: bool) -> tuple[float, float]:
        """Lowest and highest value that an entry of z may have."""
        prior = PRIORS[self.generator.prior]
        return (prior.low, prior.high) if clip_to_prior else (-np.inf, np.inf)

    @cached_property
    def value_and_gradient(self) -> Function:
        """The objective float32 `[b]` and its gradient `[b, latent_dim]`, by `generator`."""
        return self._value_and_gradient(self.generator)

    @cached_property
    def float32_value_and_gradient(self) -> Function:
        """The same by `float32_generator`."""
        if self.float32_generator is self.generator:
            return self.value_and_gradient
        return self._value_and_gradient(self.float32_generator)

    @cached_property
    def value_and_audio(self) -> Function:
        """The objective float32 `[b]` and the audio `[b, T, C]`, by `float32_generator`."""

        def value_and_audio(z, targets):
            point = self._point(self.float32_generator, z, targets)
            return self.objective(point), point.audio

        return self._compile(value_and_audio)

    def _value_and_gradient(self, generator: Any) -> Function:
        def value_and_gradient(z, targets):
            with tf.GradientTape() as tape:
                tape.watch(z)
                value = self.objective(self._point(generator, z, targets))
            return value, tape.gradient(value, z)

        return self._compile(value_and_gradient)

    def _point(self, generator: Any, z: tf.Tensor, targets: Targets) -> Point:
        return self._point_of(generator(z), z, targets)

    def _point_of(self, audio: tf.Tensor, z: tf.Tensor, targets: Targets) -> Point:
        """What z, its audio and its targets are to an objective."""
        generator = self.generator
        facts = {"prior": generator.prior, "sample_rate": generator.sample_rate}
        if hasattr(generator, "off_prior"):
            facts["off_prior"] = generator.off_prior(z)
        return Point(audio, z=z, features=self._features(audio), **facts, **targets)

    def _compile(self, function: Callable[[tf.Tensor, Targets], Any], rows: int | None = None) -> Function:
        """Of z and each row's own targets; traced once, for any number of rows, or for `rows` of them at a time."""
        outputs = self._targets.get_concrete_function().structured_outputs
        signature = [
            tf.TensorSpec([rows, self.generator.latent_dim], tf.float32),
            tf.TensorSpec([rows], tf.int32),
            tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), outputs),
        ]

        @tf.function(input_signature=signature, autograph=False)
        def compiled(z, index, targets):
            return function(z, tf.nest.map_structure(lambda x: tf.gather(x, index), targets))

        compiled.get_concrete_function()  # raises what the generator raises

        def in_chunks(z: np.ndarray, index: np.ndarray, targets: Targets) -> Any:
            index = np.asarray(index, np.int32)
            chunk = lambda which: compiled(tf.constant(z[which]), tf.constant(index[which]), targets)  # noqa: E731
            return in_batches(chunk, np.arange(len(z)), rows or self._rows)

        return in_chunks


class LeastSquares(Problem):
    """An objective that is a sum of squares, and its minimisation by `utils.inversion.gauss_newton`.

    Every value and residual is that of the generator in float32; `generator` gives the Jacobians alone.

    Memory: the Jacobians are computed clip by clip and only J'J and J'r are kept, so at a time there is one of
    `latent_dim * M` numbers for M residuals, in float32 and float64 (12 bytes each; 20 MB for 100 latents and a
    waveform of 16,384 samples), and the activations of at most `COLUMNS` tangents, or of `ROWS` clips for their
    gradient.

    Args:
        generator: see above.
        objective: one value per clip.

    Raises:
        ValueError: for an objective with a term that is no sum of squares.
    """

    def __init__(self, generator: Any, objective: Objective):
        if not objective.sum_of_squares:
            raise ValueError(f"each term must be one of {', '.join(RESIDUALS)}. Received: {objective}")
        super().__init__(generator, objective)

    def trace(self) -> None:
        """Compiles the Jacobian, or raises what the generator raises in forward mode."""
        _ = self.linearise

    def minimize(
        self,
        targets: np.ndarray,
        starts: np.ndarray,
        *,
        clip_to_prior: bool = True,
        max_iter: int = 50,
        tol_change: float = 1e-4,
        tol_value: ArrayLike = 0.0,
        callback: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
    ) -> Result:
        """`gauss_newton.minimize` from each of K starts of each clip.

        Args:
            targets: float32 `[B, T, C]` in [-1, 1].
            starts: float32 `[B, K, latent_dim]`.
            clip_to_prior: keep z in the box of a bounded prior.
            max_iter: Jacobians a start may take.
            tol_change: as there.
            tol_value: `[B]` or one number: at which value a start is at its clip's noise floor and ends.
            callback: as there.

        Returns:
            B * K rows, those of a clip together.
        """
        clips, restarts, latent_dim = starts.shape
        targets, (lower, upper) = self.targets(targets), self.bounds(clip_to_prior)
        return gauss_newton.minimize(
            lambda z, index: self.value(z, index // restarts, targets),
            lambda z, index: self.linearise(z, index // restarts, targets),
            starts.reshape(-1, latent_dim),
            lower=lower,
            upper=upper,
            max_iter=max_iter,
            tol_change=tol_change,
            tol_value=np.repeat(np.broadcast_to(tol_value, clips), restarts),
            value_and_gradient=lambda z, index: self.residual_gradient(z, index // restarts, targets),
            callback=callback,
        )

    def descend(
        self,
        targets: np.ndarray,
        starts: np.ndarray,
        *,
        clip_to_prior: bool = True,
        max_iter: int,
        callback: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
    ) -> Result:
        """The same minimum by `utils.inversion.lbfgs`, all of it by `generator`; arguments as in `minimize`."""
        restarts, (lower, upper) = starts.shape[1], self.bounds(clip_to_prior)
        targets = self.targets(targets)
        return lbfgs.minimize(
            lambda z, index: self.value_and_gradient(z, index // restarts, targets),
            starts.reshape(-1, starts.shape[2]),
            lower=lower,
            upper=upper,
            max_iter=max_iter,
            tol_change=1e-7,
            callback=callback,
        )

    @cached_property
    def value(self) -> Function:
        """The sum of squares, float64 `[b]`."""

        def value(z, targets):
            residuals = self.objective.residuals(self._point(self.float32_generator, z, targets))
            return tf.reduce_sum(tf.square(tf.cast(residuals, tf.float64)), axis=1)

        return self._compile(value)

    @cached_property
    def residual_gradient(self) -> Function:
        """`value` and 2 J'r, its gradient, float32 `[b, latent_dim]`, J that of `generator`."""

        def residual_gradient(z, targets):
            audio = self.float32_generator(z)
            with tf.GradientTape() as outer:
                outer.watch([z, audio])
                squares = tf.square(self.objective.residuals(self._point_of(audio, z, targets)))
            at_z, at_audio = outer.gradient(squares, [z, audio], unconnected_gradients="zero")
            with tf.GradientTape() as inner:
                inner.watch(z)
                generated = self.generator(z)
            gradient = at_z + inner.gradient(generated, z, output_gradients=at_audio)
            return tf.reduce_sum(tf.cast(squares, tf.float64), axis=1), gradient

        return self._compile(residual_gradient)

    @cached_property
    def linearise(self) -> Function:
        """J'r `[b, latent_dim]` and J'J `[b, latent_dim, latent_dim]`, float64, by a clip at a time."""
        n = self.generator.latent_dim

        def linearise(z, targets):
            audio = self.float32_generator(z)
            r = tf.cast(self.objective.residuals(self._point_of(audio, z, targets))[0], tf.float64)
            columns = []
            for first in range(0, n, COLUMNS):
                directions = tf.eye(n)[first : first + COLUMNS]
                moved = tangents(self.generator, z, directions)
                k = directions.shape[0]
                many_z, many_audio = tf.repeat(z, k, axis=0), tf.repeat(audio, k, axis=0)
                with tf.autodiff.ForwardAccumulator([many_z, many_audio], [directions, moved]) as accumulator:
                    residuals = self.objective.residuals(self._point_of(many_audio, many_z, targets))
                columns.append(accumulator.jvp(residuals))
            jacobian = tf.cast(tf.concat(columns, axis=0), tf.float64)  # [n, M]
            return tf.linalg.matvec(jacobian, r)[None], tf.matmul(jacobian, jacobian, transpose_b=True)[None]

        return self._compile(linearise, rows=1)


def _no_features(audio: tf.Tensor) -> dict[str, tf.Tensor]:
    return {}


def tangents(generator: Any, z: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
    """dG/dz along `directions` `[K, latent_dim]` at z `[1, latent_dim]`, float32 `[K, T, C]`."""
    network = getattr(generator, "network", None)
    if hasattr(network, "jacobian_product"):
        return network.jacobian_product(z, directions[None])[1][0]
    many_z = tf.repeat(z, directions.shape[0], axis=0)
    with tf.autodiff.ForwardAccumulator(many_z, directions) as accumulator:
        audio = generator(many_z)
    return accumulator.jvp(audio)
