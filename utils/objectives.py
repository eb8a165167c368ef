"""Objectives as they are written, `stft_real=1,waveform=1`; what their terms compute is in `utils.losses`."""

import math
from collections.abc import Mapping

from utils.errors import UserError

TERMS = (  # that recovery can minimise
    "stft_real",
    "waveform",
    "mr_stft",
    "spectral",
    "log_mel",
    "waveform_squared",
    "stft_real_squared",
    "mr_stft_squared",
    "log_mel_squared",
    "stft_whitened_squared",
    "feature",
    "features",
    "feature_squared",
    "latent_prior",
)


def parse_weights(text: str) -> dict[str, float]:
    """Reads recovery's objective from its text: term name to weight, in the order of the text.

    Raises:
        UserError: for an unknown or repeated term, or a weight that is not a finite number above 0.
    """
    weights = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in TERMS:
            raise UserError(
                f"--objective: each part must be TERM=WEIGHT with a term out of {', '.join(TERMS)}. "
                f"Received: {part.strip()!r} in {text!r}"
            )
        if name in weights:
            raise UserError(f"--objective: the term {name} must stand once only. Received: {text!r}")
        weights[name] = _weight(number if equals else "", name)
    return weights


def format_weights(weights: Mapping[str, float]) -> str:
    """The text that `parse_weights` reads as these weights."""
    return ",".join(f"{name}={weight:g}" for name, weight in weights.items())


def _weight(number: str, name: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(
            f"--objective: the weight of {name} must be a finite number above 0, as in {name}=1. Received: {number!r}"
        )
    return weight
