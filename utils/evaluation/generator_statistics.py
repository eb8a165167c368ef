"""How good a generator is, in numbers: levels, a judge's answers on its samples, how evenly it uses its latents."""

from typing import Any

import numpy as np
import tensorflow as tf

from utils.metrics import FEWEST_VOICED, inception_score


def level_statistics(audio: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Root mean square over all samples of two sets of clips `[N, T, C]`, and their ratio in dB (0: equally loud)."""
    rms, reference_rms = (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (audio, reference))
    ratio = (rms + 1e-9) / (reference_rms + 1e-9)
    return {"rms": rms, "rms_reference": reference_rms, "rms_db": float(20 * np.log10(ratio))}


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


def voice_statistics(tracks: np.ndarray) -> dict[str, float]:
    """What F0 tracks `[N, frames]` in Hz, 0 where unvoiced (`utils.metrics.f0`), say of a set of clips.

    Returns:
        voiced: share of frames that are.
        f0_median, f0_spread: of the medians of the clips with a pitch, in Hz: their median and standard deviation;
            left out where fewer than two clips have one.
    """
    voiced = [track[track > 0] for track in tracks]
    pitches = [np.median(track) for track in voiced if len(track) >= FEWEST_VOICED]
    facts = {"voiced": float(np.mean(tracks > 0))}
    if len(pitches) > 1:
        facts |= {"f0_median": float(np.median(pitches)), "f0_spread": float(np.std(pitches, ddof=1))}
    return facts


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


def hum(audio: np.ndarray, sample_rate: int, rates: tuple[float, ...] = (62.5, 250.0, 1000.0)) -> float:
    """How far the energy at a generator's frame rates is above that of neighbouring bands, in pauses: dB, the largest.

    A pause is the quietest quarter of a clip; neighbouring bands of a rate are 7 to 20 % away from it.

    Args:
        audio: float `[N, T, C]`.
        sample_rate: Hz.
        rates: Hz, of the upsampling layers' frames at 16 kHz and 16384 samples.
    """
    mono, length = np.asarray(audio, np.float64).mean(axis=2), audio.shape[1] // 4
    starts = np.arange(0, mono.shape[1] - length + 1, length // 4)
    windows = np.stack([mono[:, start : start + length] for start in starts], axis=1)
    quietest = np.square(windows).sum(axis=2).argmin(axis=1)
    pauses = windows[np.arange(len(mono)), quietest] * np.hanning(length)
    # A loud clip's pause counts no more than a soft one's.
    pauses /= np.sqrt(np.square(pauses).mean(axis=1, keepdims=True)) + 1e-9
    power = np.square(np.abs(np.fft.rfft(pauses))).mean(axis=0) + 1e-12
    hertz = np.fft.rfftfreq(length, 1 / sample_rate)
    excess = []
    for rate in rates:
        distance = np.abs(hertz / rate - 1)
        at = np.abs(hertz - rate) <= 1.5 * sample_rate / length
        excess.append(10 * np.log10(power[at].max() / power[(distance > 0.07) & (distance < 0.2) & ~at].mean()))
    return float(max(excess))
