"""What the recipes that train a WaveGAN generator share: the generator with its average, and the batches."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from models.wavegan import Architecture, WaveGANGenerator, initial_weights
from utils.audio.datasets import Dataset, batch_indices
from utils.priors import PRIORS
from utils.runs.training_run import Checkpoints

PRIOR = PRIORS["uniform"]  # WaveGAN's


class GeneratorTrainer(tf.Module):
    """Generator weights and their moving average; a recipe adds what they are trained by.

    Args:
        architecture: of the generator.
        seed: of its initial weights.
        precision: of the generator's convolutions, as in `WaveGANGenerator`.
        ema: decay of the moving average of the weights.
        leak: of the generator's ReLUs, as in `WaveGANGenerator`.
    """

    def __init__(
        self,
        architecture: Architecture,
        seed: int,
        precision: str = "float32",
        ema: float = 0.999,
        leak: float = 0.0,
    ):
        super().__init__()
        start = initial_weights(architecture, seed)
        self.variables_by_name = {name: tf.Variable(value, name=name) for name, value in start.items()}
        self.averages = {name: tf.Variable(value, name=f"{name}/ema") for name, value in start.items()}
        self.generator = WaveGANGenerator(architecture, self.variables_by_name, precision, trainable=True, leak=leak)
        self.ema = ema
        self.batches: Batches | None = None  # set before the first step
        self._checkpoints: Checkpoints | None = None

    def step(self, number: int) -> dict[str, tf.Tensor]:
        """One step of the recipe, see `TrainingRun.train`; the losses."""
        return self.train_step(self.batches, number)

    def save(self, folder: Path, step: int) -> None:
        """Saves all variables (`Checkpoints`)."""
        self._checkpoints_in(folder).save(step)

    def restore(self, folder: Path) -> int:
        """Restores all variables, where some were saved; the steps done then, or 0."""
        return self._checkpoints_in(folder).restore()

    def _checkpoints_in(self, folder: Path) -> Checkpoints:
        self._checkpoints = self._checkpoints or Checkpoints(folder, self)
        return self._checkpoints

    def averaged_weights(self) -> dict[str, np.ndarray]:
        """The moving average of the generator's weights by TF1 name: what is exported and sampled from."""
        return {name: value.numpy() for name, value in self.averages.items()}


def apply_and_average(
    optimizer: keras.Optimizer,
    gradients: list[tf.Tensor],
    variables: list[tf.Variable],
    averages: list[tf.Variable],
    ema: float,
) -> None:
    """One step of an optimizer, and of the moving averages of the first `len(averages)` variables.

    An average starts as a plain mean, so that early exports are not the random start.
    """
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    steps = tf.cast(optimizer.iterations, tf.float32)
    decay = tf.minimum(ema, steps / (steps + 10))
    for average, variable in zip(averages, variables[: len(averages)], strict=True):
        average.assign(decay * average + (1 - decay) * variable)


def all_variables(network: keras.Model) -> list[tf.Variable]:
    """All variables of a network, as `tf.train.Checkpoint` finds them: it does not look into lists of layers."""
    return [variable.value for variable in network.variables]


class Batches:
    """Clips and latents, each a function of the seed and a number alone.

    Args:
        dataset: real clips.
        latent_dim: size of z.
        batch_size: clips, and latents, a batch.
        seed: of all.
    """

    def __init__(self, dataset: Dataset, latent_dim: int, batch_size: int, seed: int):
        self.dataset, self.latent_dim, self.batch_size, self.seed = dataset, latent_dim, batch_size, seed

    def clips(self, number: int) -> np.ndarray:
        """Real clips, float32 `[B, T, C]` in [-1, 1]; every clip once before any twice."""
        return self.dataset.to_float(self.indices(number))

    def names(self, number: int) -> list[str]:
        """The files of `clips`."""
        return [self.dataset.names[i] for i in self.indices(number)]

    def latents(self, number: int) -> np.ndarray:
        """Draws from the prior, float32 `[B, latent_dim]`."""
        rng = np.random.default_rng([self.seed, number])
        return PRIOR.draw(rng, (self.batch_size, self.latent_dim)).astype(np.float32)

    def indices(self, number: int) -> np.ndarray:
        """Which clips of the dataset `clips` are, int `[B]`."""
        return batch_indices(len(self.dataset), self.batch_size, number, self.seed)
