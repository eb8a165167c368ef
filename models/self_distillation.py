"""A generator that learns to say one thing or another: fewer latents between two classes.

Where the largest entries of a latent's class code are nearly equal, a generator trained on classes gives neither. It
knows better: with the code moved towards one class (`utils.paired_latents.decided_latents`) the same weights speak
clearly. So they are their own teacher: the first layers must come to answer a latent as they answered the decided one;
the others, which make sound of that, stay as they are.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from models.gan_training import TrainerBase
from models.wavegan import Architecture, WaveGANGenerator

# The third layer's activations are what the sound is made of. Compared there alone, the first layer's die out: 85 of
# 16384 were left of a generator like the bundled one, and with them went most directions of dG/dz.
COMPARED = (0, 2)


class SelfDistillationTrainer(TrainerBase):
    """Trains the dense layer and the first three upsampling layers on their former activations.

    Args:
        architecture: of the generator.
        start: the weights to begin with, also the teacher's: TF1 name to float32 array.
        learning_rate: of Adam.
        precision: of the convolutions.
        ema: decay of the moving average of the weights.
    """

    def __init__(
        self,
        architecture: Architecture,
        start: Mapping[str, np.ndarray],
        learning_rate,
        precision: str = "float32",
        ema: float = 0.99,
    ):
        layers = ("G/z_project/dense", *architecture.layer_names[: COMPARED[-1] + 1])
        trained = [f"{layer}/{part}" for layer in layers for part in ("kernel", "bias")]
        super().__init__(architecture, start, precision, learning_rate, (0.9, 0.99), ema, trained)
        self.teacher = WaveGANGenerator(architecture, start, precision)

    @tf.function(autograph=False)
    def step(self, latents: tf.Tensor, decided: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update.

        Args:
            latents: float32 `[B, L]`.
            decided: float32 `[B, L]`, the same with a decided class code.

        Returns:
            `layer_0`, `layer_2`: the squared distance of the activations, relative to the teacher's own squares.
        """
        targets = self._compared(self.teacher, decided)
        with tf.GradientTape() as tape:
            answers = self._compared(self.generator, latents)
            report = {
                f"layer_{i}": tf.reduce_mean(tf.square(answer - target)) / (tf.reduce_mean(tf.square(target)) + 1e-12)
                for i, answer, target in zip(COMPARED, answers, targets, strict=True)
            }
            loss = tf.add_n(list(report.values()))
        self._apply_to_generator(tape.gradient(loss, self.generator_variables))
        return report

    @staticmethod
    def _compared(generator: WaveGANGenerator, z: tf.Tensor) -> list[tf.Tensor]:
        activations = generator.activations(z, COMPARED[-1] + 1)
        return [tf.cast(activations[i], tf.float32) for i in COMPARED]
