"""A generator that learns to say one thing or another: fewer latents between two classes.

Where the largest entries of a latent's class code are nearly equal, a generator trained on classes gives neither. It
knows better: with the code moved towards one class (`utils.paired_latents.decided_latents`) the same weights speak
clearly. So they are their own teacher: the first layers must come to answer a latent as they answered the decided one;
the others, which make sound of that, stay as they are. What is smooth cannot follow such a step everywhere; a trained
classifier, which must hear the class in the sound, says where it matters.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from models.critic import Guide
from models.gan_training import TrainerBase, augmentation
from models.wavegan import Architecture, WaveGANGenerator

LAYERS = 2
CLASSIFICATION = 0.1
HEARD = 32


class SelfDistillationTrainer(TrainerBase):
    """Trains the dense layer and the first two upsampling layers on their former activations.

    Args:
        architecture: of the generator.
        start: the weights to begin with, also the teacher's: TF1 name to float32 array.
        learning_rate: of Adam.
        guide: a trained classifier for the same classes, which hears the first 32 samples of a batch, or None.
        precision: of the convolutions.
        ema: decay of the moving average of the weights.
    """

    def __init__(
        self,
        architecture: Architecture,
        start: Mapping[str, np.ndarray],
        learning_rate,
        guide: Guide | None = None,
        precision: str = "float32",
        ema: float = 0.99,
    ):
        layers = ("G/z_project/dense", *architecture.layer_names[:LAYERS])
        trained = [f"{layer}/{part}" for layer in layers for part in ("kernel", "bias")]
        super().__init__(architecture, start, precision, learning_rate, (0.9, 0.99), ema, trained)
        self.guide = guide
        self.teacher = WaveGANGenerator(architecture, start, precision)

    @tf.function(autograph=False)
    def step(self, seed, latents: tf.Tensor, decided: tf.Tensor, code: tf.Tensor, guided: bool) -> dict[str, tf.Tensor]:
        """One update.

        Args:
            seed: int32 `[2]`, of the shift and the noise that the classifier hears the samples with.
            latents: float32 `[B, L]`.
            decided: float32 `[B, L]`, the same with a decided class code.
            code: int32 `[B]`, the classes they stand for.
            guided: whether the guide takes part.

        Returns:
            `layer_0`, `layer_1`: the squared distance of the activations, relative to the teacher's own squares;
            `class_fake`, where guided: the guide's cross-entropy.
        """
        targets = [tf.cast(a, tf.float32) for a in self.teacher.activations(decided, LAYERS)]
        with tf.GradientTape() as tape:
            answers = [tf.cast(a, tf.float32) for a in self.generator.activations(latents, LAYERS)]
            report = {
                f"layer_{i}": tf.reduce_mean(tf.square(answer - target)) / (tf.reduce_mean(tf.square(target)) + 1e-12)
                for i, (answer, target) in enumerate(zip(answers, targets, strict=True))
            }
            loss = tf.add_n(list(report.values()))
            if guided:
                _, logits = self.guide(augmentation(seed)(self.generator(latents[:HEARD])))
                errors = tf.nn.sparse_softmax_cross_entropy_with_logits(code[:HEARD], logits)
                report["class_fake"] = tf.reduce_mean(errors)
                loss += CLASSIFICATION * report["class_fake"]
        self._apply_to_generator(tape.gradient(loss, self.generator_variables))
        return report
