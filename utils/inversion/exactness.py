"""What counts as recovered, everywhere: `exact`, and where the true latent is known `found`.

Exact is a reconstruction that differs from its clip by the rounding of the clip's own samples alone. Found is a latent
whose mean squared error is at most `FOUND_Z_MSE`.
"""

import numpy as np

EXACT, APPROXIMATE = "exact", "approximate"
BITS = (8, 16, 24)  # of integer formats
FLOAT_SNR_DB = 100.0  # of two float32 computations of one sample, with a margin
MARGIN = 1.25  # of rounding noise over its expected power
FOUND_Z_MSE = 1e-6  # always answering 0 has that of the prior, 1/3 for the uniform one


def rounding_step(audio: np.ndarray) -> np.ndarray:
    """Step of the integer format whose multiples all samples of a clip are, whatever file they came from: 2^-15 of
    16-bit PCM, and so on; 0 of no integer format, such as of resampled samples.

    Args:
        audio: float32 `[B, ...]` in [-1, 1].

    Returns:
        float64 `[B]`.
    """
    flat = np.asarray(audio, np.float64).reshape(len(audio), -1)
    steps = np.zeros(len(flat))
    for bits in reversed(BITS):
        step = 2.0 ** (1 - bits)
        steps = np.where((np.remainder(flat, step) == 0).all(axis=1), step, steps)
    return steps


def noise_floor(audio: np.ndarray) -> np.ndarray:
    """Mean squared error below which a reconstruction differs from clips by the rounding of their samples alone.

    Rounding to a step has a mean square of step^2 / 12. Samples of no integer format are float, where a reconstruction
    must have an SNR of 100 dB.

    Args:
        audio: float32 `[B, ...]` in [-1, 1].

    Returns:
        float64 `[B]`.
    """
    power = np.mean(np.square(np.asarray(audio, np.float64).reshape(len(audio), -1)), axis=1)
    return np.maximum(power * 10 ** (-FLOAT_SNR_DB / 10), MARGIN * rounding_step(audio) ** 2 / 12)


def match(original: np.ndarray, reconstruction: np.ndarray) -> str:
    """Says "exact" where a reconstruction `[T, C]` is a clip up to the rounding of the clip's samples.

    Else "approximate", which silence always is: it says nothing of z.
    """
    error = np.mean(np.square(np.subtract(original, reconstruction, dtype=np.float64)))
    return EXACT if np.any(original) and error <= noise_floor(original[None])[0] else APPROXIMATE


def is_found(z_mse: float) -> bool:
    """Whether a latent of this mean squared error counts as the true one."""
    return z_mse <= FOUND_Z_MSE
