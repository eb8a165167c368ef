"""Sums of squares over a generator's latents: what `utils.inversion.gauss_newton` needs of one, compiled.

A network that knows its own forward-mode derivatives says so by a method `jacobian_product(z, directions)`, as
`models.wavegan` has; any other is differentiated by `tf.autodiff.ForwardAccumulator`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from utils.errors import UserError
from utils.inversion import gauss_newton, lbfgs
from utils.inversion.lbfgs import Result
from utils.losses import RESIDUALS, Objective, Point
from utils.priors import PRIORS

COLUMNS = 128  # tangents pushed through a network together
CLIPS = 64  # evaluated together


class LeastSquares:
    """An objective that is a sum of squares, over the latents of one generator; traced once for all batches.

    Memory: the Jacobians are computed clip by clip and only J'J and J'r are kept, so at a time there is one of
    `latent_dim * M` numbers for M residuals, in float32 and float64 (12 bytes each; 20 MB for 100 latents and a
    waveform of 16,384 samples), and the activations of at most `COLUMNS` tangents, or of
    `CLIPS` clips for their gradient.

    Args:
        generator: searched with, as in `utils.inversion.methods`.
        objective: one value per clip.
        exact: the same generator in float32, where `generator` computes in less: every value is its, and `generator`
            gives the Jacobians alone.

    Raises:
        UserError: for an objective with a term that is no sum of squares.
    """

    def __init__(self, generator: Any, objective: Objective, *, exact: Any = None):
        if not objective.sum_of_squares:
            others = ", ".join(name for name in objective.weights if name not in RESIDUALS)
            raise UserError(
                f"--solver gauss_newton: minimises sums of squares only, out of {', '.join(RESIDUALS)}; "
                f"--objective must be such as waveform_squared=1. Received: {others}"
            )
        self.generator, self.objective = generator, objective
        exact = exact or generator
        self._value = _value(exact, objective)
        self._value_and_gradient = _value_and_gradient(generator, objective)
        self._linearise = _linearise(generator, exact, objective)
        self._gradient = _gradient(generator, exact, objective)

    def trace(self) -> None:
        """Compiles the Jacobian, or raises what the generator raises in forward mode."""
        self._linearise.get_concrete_function()

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
        prior = PRIORS[self.generator.prior]

        def in_chunks(compiled: Callable) -> Callable:
            def function(z: np.ndarray, index: np.ndarray) -> np.ndarray:
                chunks = [slice(first, first + CLIPS) for first in range(0, len(z), CLIPS)]
                return np.concatenate([compiled(z[c], targets[index[c] // restarts]) for c in chunks])

            return function

        def linearise(z: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = [self._linearise(row[None], targets[i // restarts][None]) for row, i in zip(z, index, strict=True)]
            return tuple(np.stack(column) for column in zip(*rows, strict=True))

        return gauss_newton.minimize(
            in_chunks(self._value),
            linearise,
            starts.reshape(-1, latent_dim),
            lower=prior.low if clip_to_prior else -np.inf,
            upper=prior.high if clip_to_prior else np.inf,
            max_iter=max_iter,
            tol_change=tol_change,
            tol_value=np.repeat(np.broadcast_to(tol_value, clips), restarts),
            gradient=in_chunks(self._gradient),
            callback=callback,
        )

    def descend(self, targets: np.ndarray, starts: np.ndarray, *, clip_to_prior: bool = True, max_iter: int) -> Result:
        """The same minimum by `utils.inversion.lbfgs`, all of it by `generator`; arguments as in `minimize`."""
        restarts, prior = starts.shape[1], PRIORS[self.generator.prior]
        return lbfgs.minimize(
            lambda z, index: self._value_and_gradient(z, targets[index // restarts]),
            starts.reshape(-1, starts.shape[2]),
            lower=prior.low if clip_to_prior else -np.inf,
            upper=prior.high if clip_to_prior else np.inf,
            max_iter=max_iter,
            tol_change=1e-7,
        )


def _signature(generator: Any, rows: int | None) -> list[tf.TensorSpec]:
    """Of z and targets."""
    clip = [rows, generator.num_samples, generator.num_channels]
    return [tf.TensorSpec([rows, generator.latent_dim], tf.float32), tf.TensorSpec(clip, tf.float32)]


def _point(generator: Any, audio: tf.Tensor, targets: tf.Tensor, z: tf.Tensor) -> Point:
    return Point(audio, targets, z, generator.prior, sample_rate=generator.sample_rate)


def _value(generator: Any, objective: Objective) -> Callable:
    """Traced once: (z `[b, latent_dim]`, targets `[b, T, C]`) to the sum of squares, float64 `[b]`."""

    @tf.function(input_signature=_signature(generator, None), autograph=False)
    def value(z, targets):
        residuals = objective.residuals(_point(generator, generator(z), targets, z))
        return tf.reduce_sum(tf.square(tf.cast(residuals, tf.float64)), axis=1)

    return value


def _value_and_gradient(generator: Any, objective: Objective) -> Callable:
    """Traced once: (z `[b, latent_dim]`, targets `[b, T, C]`) to the sum of squares and its gradient in z."""

    @tf.function(input_signature=_signature(generator, None), autograph=False)
    def value_and_gradient(z, targets):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = objective(_point(generator, generator(z), targets, z))
        return value, tape.gradient(value, z)

    return value_and_gradient


def _linearise(generator: Any, exact: Any, objective: Objective) -> Callable:
    """Traced once: (z `[1, latent_dim]`, target `[1, T, C]`) to J'r `[latent_dim]` and J'J, float64."""
    n = generator.latent_dim

    @tf.function(input_signature=_signature(generator, 1), autograph=False)
    def linearise(z, target):
        audio = exact(z)
        r = tf.cast(objective.residuals(_point(generator, audio, target, z))[0], tf.float64)
        columns = []
        for first in range(0, n, COLUMNS):
            directions = tf.eye(n)[first : first + COLUMNS]
            tangents = _tangents(generator, z, directions)
            k = directions.shape[0]
            many_z, many_audio = tf.repeat(z, k, axis=0), tf.repeat(audio, k, axis=0)
            with tf.autodiff.ForwardAccumulator([many_z, many_audio], [directions, tangents]) as accumulator:
                residuals = objective.residuals(_point(generator, many_audio, target, many_z))
            columns.append(accumulator.jvp(residuals))
        jacobian = tf.cast(tf.concat(columns, axis=0), tf.float64)  # [n, M]
        return tf.linalg.matvec(jacobian, r), tf.matmul(jacobian, jacobian, transpose_b=True)

    return linearise


def _gradient(generator: Any, exact: Any, objective: Objective) -> Callable:
    """Traced once: (z `[b, latent_dim]`, targets `[b, T, C]`) to J'r `[b, latent_dim]`, its r of `exact`."""

    @tf.function(input_signature=_signature(generator, None), autograph=False)
    def gradient(z, targets):
        audio = exact(z)
        with tf.GradientTape() as outer:
            outer.watch([z, audio])
            squares = tf.square(objective.residuals(_point(generator, audio, targets, z)))
        at_z, at_audio = outer.gradient(squares, [z, audio], unconnected_gradients="zero")
        with tf.GradientTape() as inner:
            inner.watch(z)
            made = generator(z)
        return (at_z + inner.gradient(made, z, output_gradients=at_audio)) / 2

    return gradient


def _tangents(generator: Any, z: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
    """dG/dz along `directions` `[K, latent_dim]` at z `[1, latent_dim]`, float32 `[K, T, C]`."""
    network = getattr(generator, "network", None)
    if hasattr(network, "jacobian_product"):
        return network.jacobian_product(z, directions[None])[1][0]
    many_z = tf.repeat(z, directions.shape[0], axis=0)
    with tf.autodiff.ForwardAccumulator(many_z, directions) as accumulator:
        audio = generator(many_z)
    return accumulator.jvp(audio)
