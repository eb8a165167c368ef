"""WaveGAN's published recipe: WGAN-GP (Gulrajani et al., 2017) with a waveform critic and phase shuffle."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from models.gan_training import Batches, GeneratorTrainer, all_variables, apply_and_average
from models.wavegan import Architecture

CRITIC_UPDATES = 5  # for each of the generator


class WaveformCritic(keras.Model):
    """WaveGAN's critic (Donahue et al., 2019, table 4): strided convolutions on the waveform with phase shuffle.

    Args:
        num_samples: clip length T, 4 ** 5 times a whole number.
        dim: channel multiplier.
        phase_shuffle: largest shift of phase shuffle, in frames.
    """

    def __init__(self, num_samples: int, dim: int = 64, phase_shuffle: int = 2):
        super().__init__()
        self.phase_shuffle = phase_shuffle
        count = 5 if num_samples == 16384 else 6
        widths = [dim * 2**i for i in range(count)]
        self.convolutions = [layers.Conv1D(width, 25, 4, padding="same") for width in widths]
        self.score = layers.Dense(1)

    def call(self, audio: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Audio `[B, T, C]` and an int32 `[2]` seed of the phase shuffle to scores `[B]`."""
        h = audio
        shifts = tf.random.stateless_uniform(
            [len(self.convolutions)], seed, -self.phase_shuffle, self.phase_shuffle + 1, tf.int32
        )
        for i, convolution in enumerate(self.convolutions):
            h = tf.nn.leaky_relu(convolution(h), 0.2)
            if self.phase_shuffle and i < len(self.convolutions) - 1:
                h = self._shuffle(h, shifts[i])
        return self.score(tf.reshape(h, [tf.shape(h)[0], int(np.prod(h.shape[1:]))]))[:, 0]

    def _shuffle(self, h: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
        frames, n = h.shape[1], self.phase_shuffle
        padded = tf.pad(h, [[0, 0], [n, n], [0, 0]], mode="REFLECT")
        return tf.ensure_shape(padded[:, n + shift : n + shift + frames], h.shape)


class WassersteinTrainer(GeneratorTrainer):
    """Generator and critic, and their updates.

    Args:
        architecture: of the generator.
        seed: of every initial weight.
        learning_rate: of both Adams (published: 1e-4).
        precision: of the generator's convolutions.
        phase_shuffle: as in `WaveformCritic`.
        penalty: weight of the gradient penalty.
        ema: decay of the moving average of the generator's weights.
    """

    def __init__(
        self,
        architecture: Architecture,
        seed: int,
        learning_rate: float = 1e-4,
        precision: str = "float32",
        phase_shuffle: int = 2,
        penalty: float = 10.0,
        ema: float = 0.999,
    ):
        keras.utils.set_random_seed(seed)
        super().__init__(architecture, seed, precision, ema)
        self.penalty = penalty
        self.critic = WaveformCritic(architecture.num_samples, architecture.dim, phase_shuffle)
        self.critic(tf.zeros([1, architecture.num_samples, architecture.num_channels]), tf.zeros([2], tf.int32))
        self.critic_optimizer = keras.optimizers.Adam(learning_rate, 0.5, 0.9, name="critic_adam")
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.generator_variables = list(self.variables_by_name.values())
        self.generator_optimizer = keras.optimizers.Adam(learning_rate, 0.5, 0.9, name="generator_adam")
        self.generator_optimizer.build(self.generator_variables)
        self.critic_state = all_variables(self.critic)

    def train_step(self, batches: Batches, step: int) -> dict[str, tf.Tensor]:
        """Five critic updates and one of the generator; the losses of the last of each."""
        report = {}
        for i in range(CRITIC_UPDATES):
            number = step * (CRITIC_UPDATES + 1) + i
            clips = tf.constant(batches.clips(step * CRITIC_UPDATES + i))
            report = self.critic_step(tf.constant([batches.seed, number]), clips, tf.constant(batches.latents(number)))
        number = step * (CRITIC_UPDATES + 1) + CRITIC_UPDATES
        latents = tf.constant(batches.latents(number))
        return report | self.generator_step(tf.constant([batches.seed, number]), latents)

    @staticmethod
    def measures(step: int) -> dict[str, float]:
        """This recipe has none but those of its samples."""
        return {}

    @staticmethod
    def is_worth_exporting(step: int, facts: dict[str, float]) -> bool:
        """The latest weights are exported."""
        return True

    @staticmethod
    def clips_of(batches: Batches, step: int) -> list[str]:
        """The files that `train_step` takes."""
        return [name for i in range(CRITIC_UPDATES) for name in batches.names(step * CRITIC_UPDATES + i)]

    @tf.function(autograph=False)
    def critic_step(self, seed: tf.Tensor, clips: tf.Tensor, latents: tf.Tensor) -> dict[str, tf.Tensor]:
        """One critic update. Clips float32 `[B, T, C]`, latents `[B, L]`, seed int32 `[2]`; returns the losses."""
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
        audio = self.generator(latents)
        mix = tf.random.stateless_uniform([tf.shape(clips)[0], 1, 1], seeds[0])
        between = clips + mix * (audio - clips)
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(between)
                scores = self.critic(between, seeds[1])
            slopes = tf.sqrt(tf.reduce_sum(tf.square(inner.gradient(scores, between)), axis=[1, 2]) + 1e-12)
            distance = tf.reduce_mean(self.critic(clips, seeds[2])) - tf.reduce_mean(self.critic(audio, seeds[3]))
            gradient_penalty = tf.reduce_mean(tf.square(slopes - 1))
            loss = self.penalty * gradient_penalty - distance
        gradients = tape.gradient(loss, self.critic.trainable_variables)
        self.critic_optimizer.apply_gradients(zip(gradients, self.critic.trainable_variables, strict=True))
        return {"wasserstein": distance, "gradient_penalty": gradient_penalty}

    @tf.function(autograph=False)
    def generator_step(self, seed: tf.Tensor, latents: tf.Tensor) -> dict[str, tf.Tensor]:
        """One generator update. Latents float32 `[B, L]`, seed int32 `[2]`; returns the losses."""
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.critic(self.generator(latents), seed))
        gradients, averages = tape.gradient(loss, self.generator_variables), list(self.averages.values())
        apply_and_average(self.generator_optimizer, gradients, self.generator_variables, averages, self.ema)
        return {"adversarial": loss}
