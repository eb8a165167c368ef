"""How good a generator is, in numbers: levels, what a judge makes of its samples, how evenly it uses its latents."""

from typing import Any

import numpy as np
import tensorflow as tf

from utils.metrics import inception_score


def level_statistics(audio: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Root mean square over all samples of two sets of clips `[N, T, C]`, and their ratio in dB (0: equally loud)."""
    rms, reference_rms = (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (audio, reference))
    return {"rms": rms, "rms_reference": reference_rms, "rms_db": float(20 * np.log10((rms + 1e-9) / reference_rms))}


def judged_statistics(probabilities: np.ndarray) -> dict[str, float]:
    """What a classifier's answers `[N, K]` say of a set of clips.

    Returns:
        inception_score: `utils.metrics.inception_score` of one split.
        confident: share of clips whose largest probability is at least 0.9.
        smallest_class, largest_class: shares of the rarest and the most frequent answer.
    """
    p = np.asarray(probabilities, np.float64)
    shares = np.bincount(p.argmax(axis=1), minlength=p.shape[1]) / len(p)
    return {
        "inception_score": inception_score(p)[0],
        "confident": float(np.mean(p.max(axis=1) >= 0.9)),
        "smallest_class": float(shares.min()),
        "largest_class": float(shares.max()),
    }


def singular_values(generator: Any, z: np.ndarray) -> np.ndarray:
    """Singular values of dG/dz at one z `[latent_dim]`, largest first; float64 `[latent_dim]`."""
    if generator.network is not None:
        return generator.network.singular_values(z)
    repeated = tf.tile(tf.constant(z[None]), [len(z), 1])
    with tf.autodiff.ForwardAccumulator(repeated, tf.eye(len(z))) as accumulator:
        audio = generator(repeated)
    jacobian = np.asarray(accumulator.jvp(audio), np.float64).reshape(len(z), -1)
    return np.linalg.svd(jacobian, compute_uv=False)


def jacobian_statistics(singular_values: np.ndarray) -> dict[str, float]:
    """How evenly dG/dz uses its latent directions, from its singular values `[L]` in descending order.

    Returns:
        participation_ratio: (sum s^2)^2 / sum s^4, 1 (one direction matters) to L (all alike).
        smallest_to_largest: ratio of the last to the first singular value; 0 is a dead direction.
    """
    squares = np.square(np.asarray(singular_values, np.float64))
    return {
        "participation_ratio": float(squares.sum() ** 2 / np.square(squares).sum()),
        "smallest_to_largest": float(np.sqrt(squares[-1] / squares[0])),
    }
