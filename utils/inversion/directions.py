"""Directions of a latent space along which a generator's sound changes most: GANSpace, and walks along them to hear.

Härkönen et al. 2020, "GANSpace: Discovering Interpretable GAN Controls" (arXiv 2004.02546), section 2.2: principal
components of an early layer's activations, carried to z by linear regression.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from sklearn.decomposition import PCA

from utils.priors import PRIORS
from utils.runs.batches import in_batches, render
from utils.runs.files import atomic_path

SAMPLES = 1000  # of the prior, for the principal components
STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # in standard deviations of a component
BATCH = 50


def principal_directions(activations: np.ndarray, z: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The directions in z of the principal components of activations.

    Args:
        activations: float `[N, D]` of an early layer at z; N of at least `count`.
        z: float32 `[N, latent_dim]`.
        count: components.

    Returns:
        Directions float32 `[count, latent_dim]`, each as long as one standard deviation of its component, and the
        components' shares of the variance, float64 `[count]`, largest first.
    """
    components = PCA(count, random_state=0).fit(activations)
    coordinates = components.transform(activations) / np.sqrt(components.explained_variance_)
    directions, *_ = np.linalg.lstsq(coordinates, z - z.mean(axis=0), rcond=None)
    return directions.astype(np.float32), components.explained_variance_ratio_


def walk(z: np.ndarray, direction: np.ndarray, prior: str, steps: tuple[float, ...] = STEPS) -> np.ndarray:
    """Latents float32 `[len(steps), latent_dim]` from z `[latent_dim]` along a direction, kept in the prior's box."""
    latents = z + np.outer(steps, direction)
    return np.clip(latents, PRIORS[prior].low, PRIORS[prior].high).astype(np.float32)


@dataclass(frozen=True)
class Walks:
    """Sounds along directions, as files `FOLDER/LATENT-DIRECTION-STEP.flac` with numbers from 0 on.

    Attributes:
        folder: relative to the page.
        latents: how many.
        shares: of the variance, one a direction.
        steps: standard deviations, one a file.
    """

    folder: str
    latents: int
    shares: list[float]
    steps: tuple[float, ...] = STEPS


def write_walks(
    folder: Path, generator: Any, activations: Callable[[Any], Any], *, seed: int, latents: int = 2, directions: int = 3
) -> Walks:
    """Render walks from the first samples of a seed along the principal directions; files that are there stay.

    Args:
        folder: of the files; its name is kept.
        generator: as in `utils.inversion.methods`, with `sample_rate`.
        activations: z float32 `[B, latent_dim]` to an early layer's activations `[B, ...]`.
        seed: of the samples.
        latents: walks along each direction.
        directions: how many.
    """
    z = generator.sample_prior(seed, SAMPLES)
    layer = in_batches(activations, z, BATCH).reshape(SAMPLES, -1)
    ways, shares = principal_directions(layer, z, directions)
    points = np.concatenate([walk(start, way, generator.prior) for start in z[:latents] for way in ways])
    names = [f"{i}-{j}-{k}.flac" for i in range(latents) for j in range(directions) for k in range(len(STEPS))]
    if not all((folder / name).exists() for name in names):
        for name, audio in zip(names, render(generator, points, BATCH), strict=True):
            with atomic_path(folder / name) as temporary:
                soundfile.write(temporary, audio, generator.sample_rate, subtype="PCM_16")
    return Walks(folder.name, latents, [float(share) for share in shares])
