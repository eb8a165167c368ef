"""What inversion needs of a generator, tried out when one is loaded: every property that is missing is one line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from utils.errors import UserError, one_line
from utils.priors import PRIORS

TRIAL, TRIAL_BATCH = 32, 8  # latents of the prior, and how many at once
LOUDEST = 2.0  # of audio in [-1, 1], which a filter at a network's end may exceed a little
REPEATED, OF_ROWS = 1e-4, 1e-2  # relative differences that rounding may make, the latter in bfloat16


def as_audio(output: Any) -> tf.Tensor:
    """A network's output `[B, T, C]` or `[B, T]` as float32 `[B, T, C]`."""
    audio = tf.cast(tf.convert_to_tensor(output), tf.float32)
    return audio[..., None] if audio.shape.rank == 2 else audio


def try_out(
    function: Callable[[tf.Tensor], tf.Tensor], latents: np.ndarray, prior: str, name: str
) -> tuple[np.ndarray, list[str]]:
    """Calls a generator as inversion will: with one, two and three latents, again, traced, differentiated.

    Args:
        function: z float32 `[B, latent_dim]` to audio `[B, T, C]` or `[B, T]`.
        latents: z float32 `[TRIAL, latent_dim]`, drawn from the prior.
        prior: a name in `utils.priors.PRIORS`.
        name: for messages.

    Returns:
        Audio of the first two latents, float32 `[2, T, C]`, and notes of one line on what may be as it should not.

    Raises:
        UserError: names the property that inversion cannot do with.
    """
    z = tf.constant(latents)
    one, two, three, repeated = _of_batches(function, z, name)
    traced = tf.function(
        lambda z: as_audio(function(z)),
        input_signature=[tf.TensorSpec([None, z.shape[1]], tf.float32)],
        autograph=False,
    )
    try:
        first, again = traced(z[:3]).numpy(), traced(z[:3]).numpy()
        many = np.concatenate([traced(z[i : i + TRIAL_BATCH]).numpy() for i in range(0, len(z), TRIAL_BATCH)])
    except (Exception, SystemExit) as error:  # whatever a foreign network may raise
        raise UserError(
            f"{name}: cannot be traced by tf.function, which every search needs: {_kind(error)}; compute its audio by "
            "TensorFlow's operations alone"
        ) from error

    broken = ~np.isfinite(many).all(axis=(1, 2))
    if broken.any():
        raise UserError(f"{name}: gives NaN or infinite samples, for {broken.sum()} of {len(z)} latents of its prior")
    if max(_difference(repeated, three), _difference(again, first)) > REPEATED:
        raise UserError(f"{name}: gives other audio for the same z at each call (noise inside?); keep its noise fixed")
    if _difference(first, three) > OF_ROWS:
        raise UserError(f"{name}: gives other audio when traced by tf.function than when called directly")
    if max(_difference(one, three[:1]), _difference(two, three[:2]), _difference(many[:3], three)) > OF_ROWS:
        raise UserError(
            f"{name}: the audio of a latent depends on the other latents of the batch (batch statistics?); use "
            "inference mode"
        )
    _require_gradient(traced, z[:3], name)
    peak, notes = np.abs(many).max(), []
    if peak > LOUDEST:
        raise UserError(f"{name}: its audio reaches {peak:.4g} and must be in [-1, 1]; scale it")
    if peak > 1.001:
        notes.append(f"{name}: its audio reaches {peak:.3g}, beyond the range [-1, 1] of clips")
    high = min(PRIORS[prior].high, 3.0)
    for value in (0.0, high, -high):
        if not np.isfinite(traced(tf.fill([1, z.shape[1]], value))).all():
            notes.append(f"{name}: gives NaN or infinite samples where all of z is {value:g}")
    return two, notes


def _of_batches(function: Callable, z: tf.Tensor, name: str) -> list[np.ndarray]:
    """Audio of the first one, two, three and again three latents."""
    batches = [z[:1], z[:2], z[:3], z[:3], *(z[i : i + 1] for i in range(3, TRIAL_BATCH))]
    found, errors = [], {}
    for batch in batches:
        try:
            output = tf.convert_to_tensor(function(batch))
            found.append(as_audio(output) if output.dtype.is_floating else output)
        except (Exception, SystemExit) as error:  # whatever a foreign network may raise
            errors.setdefault(len(batch), error)
    if errors:
        sizes, error = ", ".join(map(str, errors)), next(iter(errors.values()))
        raise UserError(
            f"{name}: must take z [B, {z.shape[1]}] of any batch size B; it fails at B = {sizes}: {_kind(error)}"
        ) from error
    for batch, audio in zip(batches, found, strict=True):
        if not audio.dtype.is_floating:
            raise UserError(f"{name}: must give float audio in [-1, 1]. Received: {audio.dtype.name}")
        if audio.shape.rank != 3 or audio.shape[0] != len(batch) or 0 in audio.shape:
            raise UserError(
                f"{name}: must give audio [B, T, C] or [B, T]. Received: shape {tuple(audio.shape)} for z of shape "
                f"{tuple(batch.shape)}"
            )
        if audio.shape[1:] != found[0].shape[1:]:
            raise UserError(
                f"{name}: the length of its audio must not change. Received: {tuple(found[0].shape[1:])} and "
                f"{tuple(audio.shape[1:])} samples and channels"
            )
    return [audio.numpy() for audio in found[:4]]


def _require_gradient(function: Callable, z: tf.Tensor, name: str) -> None:
    with tf.GradientTape() as tape:
        tape.watch(z)
        audio = function(z)
    try:
        gradient = tape.gradient(audio, z)
    except (Exception, SystemExit) as error:  # an operation without a gradient
        raise UserError(f"{name}: its audio is not differentiable in z: {_kind(error)}") from error
    if gradient is None or not np.any(gradient):
        raise UserError(f"{name}: its audio is not differentiable in z, or does not depend on it")
    if not np.isfinite(gradient).all():
        raise UserError(f"{name}: the gradient of its audio in z is NaN or infinite")


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Norm of the difference, over that of b."""
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-9))


def _kind(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
