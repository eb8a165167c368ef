"""Critics of speech: of the waveform folded by several periods (HiFi-GAN: Kong et al., 2020) and of log-spectrograms of
several windows (UnivNet: Jang et al., 2021)."""

import keras
import tensorflow as tf
from keras import layers

from models.gan_training import all_variables
from models.vocoder import unit
from utils.spectrograms import magnitude, stft

PERIODS = (2, 3, 5, 7, 11)
CROP = 4096  # samples of a clip that the period critics see
PERIOD_CHANNELS = (16, 48, 96, 128)
PHASE_SHUFFLE = 2  # frames; against a hum at the generator's frame rates (Donahue et al., 2019, section 3.3)
# Of each spectrogram: frame, hop, and the frames and bins that are folded into channels.
SPECTRA = ((256, 128, (4, 4)), (1024, 256, (4, 8)))
SPECTRUM_CHANNELS = ((64, 1), (96, 2), (128, 2), (128, 1))
MAGNITUDE_FLOOR = 1e-2
LARGEST_SHIFT = 512  # samples
R1, R1_EVERY = 0.02, 8  # gradient penalty on real clips (Mescheder et al., 2018) and steps between two
WEIGHTS = {"adversarial": 1.0, "features": 1.0}


class PeriodCritic(keras.Model):
    """Audio `[B, CROP, C]` to patch scores `[B, n]` and activations: convolutions along each phase of a period."""

    def __init__(self, period: int):
        super().__init__()
        self.period = period
        self.convolutions = [layers.Conv2D(n, (5, 1), (3, 1), padding="same") for n in PERIOD_CHANNELS]
        self.score = layers.Conv2D(1, (3, 1), padding="same")

    def call(self, audio: tf.Tensor, shifts: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        lacking = -audio.shape[1] % self.period
        h = tf.pad(audio, [[0, 0], [0, lacking], [0, 0]], mode="REFLECT")
        h = tf.reshape(h, [-1, h.shape[1] // self.period, self.period, audio.shape[2]])
        activations = []
        for i, convolution in enumerate(self.convolutions):
            h = tf.nn.leaky_relu(convolution(h), 0.1)
            activations.append(h)
            if i < len(self.convolutions) - 1:
                h = _shuffled(h, shifts[i])
        return tf.reshape(self.score(h), [tf.shape(audio)[0], -1]), activations


class SpectrumCritic(keras.Model):
    """Audio `[B, T, C]` to patch scores `[B, n]` and activations, by a log-spectrogram."""

    def __init__(self, frame: int, hop: int, patch: tuple[int, int]):
        super().__init__()
        self.front_end = frame, hop, patch
        self.convolutions = [layers.Conv2D(n, 3, stride, padding="same") for n, stride in SPECTRUM_CHANNELS]
        self.score = layers.Conv2D(1, 1)

    def call(self, audio: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        h, activations = spectrum_image(audio, *self.front_end), []
        for convolution in self.convolutions:
            h = tf.nn.leaky_relu(convolution(h), 0.2)
            activations.append(h)
        score = self.score(h)
        return tf.reshape(score, [-1, score.shape[1] * score.shape[2]]), activations


class Critics(tf.Module):
    """All critics, their Adam and their updates.

    Args:
        num_samples: T.
        num_channels: C.
        learning_rate: of Adam.
    """

    def __init__(self, num_samples: int, num_channels: int, learning_rate: float = 2e-4):
        super().__init__()
        self.periods = [PeriodCritic(period) for period in PERIODS]
        self.spectra = [SpectrumCritic(*options) for options in SPECTRA]
        silence = tf.zeros([1, num_samples, num_channels])
        self(silence, tf.zeros([2], tf.int32))
        networks = self.periods + self.spectra
        self.critic_variables = [v.value for network in networks for v in network.trainable_variables]
        self.optimizer = keras.optimizers.Adam(learning_rate, 0.5, 0.99, name="critics_adam")
        self.optimizer.build(self.critic_variables)
        self.network_state = [variable for network in networks for variable in all_variables(network)]

    def __call__(self, audio: tf.Tensor, seed: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Scores `[B, n]` of each critic and all activations, of audio `[B, T, C]`.

        The seed, int32 `[2]`, decides the shift, the noise, the crop and the phase shuffle, alike for all clips.
        """
        shift_seed, noise_seed, crop_seed, phase_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
        audio = disguised(audio, shift_seed, noise_seed)
        first = tf.random.stateless_uniform([], crop_seed, 0, audio.shape[1] - CROP + 1, tf.int32)
        crop = tf.ensure_shape(audio[:, first : first + CROP], [None, CROP, audio.shape[2]])
        shifts = tf.random.stateless_uniform(
            [len(PERIODS), len(PERIOD_CHANNELS)], phase_seed, -PHASE_SHUFFLE, PHASE_SHUFFLE + 1, tf.int32
        )
        answers = [critic(crop, shifts[i]) for i, critic in enumerate(self.periods)]
        answers += [critic(audio) for critic in self.spectra]
        return [scores for scores, _ in answers], [h for _, activations in answers for h in activations]

    def gradient(self, audio: tf.Tensor, clips: tf.Tensor, seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Losses of a generator and their balanced gradient at its audio.

        Args:
            audio: float32 `[B + P, T, C]`: what was made of B clips, then P samples.
            clips: float32 `[B, T, C]`, whose activations those of the first B are to have.
            seed: int32 `[2]`.
        """
        count = clips.shape[0]
        wanted = self(clips, seed)[1]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(audio)
            scores, activations = self(audio, seed)
            losses = {"adversarial": -tf.add_n([tf.reduce_mean(s) for s in scores]) / len(scores)}
            distances = [
                tf.reduce_mean(tf.abs(h[:count] - target)) / (tf.reduce_mean(tf.abs(target)) + 1e-6)
                for h, target in zip(activations, wanted, strict=True)
            ]
            losses["features"] = tf.add_n(distances) / len(distances)
        return losses, tf.add_n([WEIGHTS[name] * unit(tape.gradient(loss, audio)) for name, loss in losses.items()])

    def update(self, clips: tf.Tensor, audio: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update by the hinge loss, every `R1_EVERY`-th with a penalty on the slope at real clips.

        Args:
            clips: float32 `[B, T, C]`, real.
            audio: float32 `[P, T, C]`, generated.
            seed: int32 `[2]`, of which the second decides when the penalty is due.
        """
        count = clips.shape[0]
        with tf.GradientTape() as tape:
            scores, _ = self(tf.concat([clips, audio], 0), seed)
            hinge = tf.add_n(
                [tf.reduce_mean(tf.nn.relu(1 - s[:count])) + tf.reduce_mean(tf.nn.relu(1 + s[count:])) for s in scores]
            ) / len(scores)
            penalty = tf.cond(
                seed[1] % R1_EVERY == 0,
                lambda: R1_EVERY * R1 / 2 * self._slope(clips, seed),
                lambda: 0.0,
            )
            loss = hinge + penalty
        gradients = tape.gradient(loss, self.critic_variables)
        self.optimizer.apply_gradients(zip(gradients, self.critic_variables, strict=True))
        return {"hinge": hinge, "critic_penalty": penalty}

    def _slope(self, clips, seed):
        """Mean squared norm of the gradient of the mean score at clips, in units of their power."""
        with tf.GradientTape() as inner:
            inner.watch(clips)
            scores, _ = self(clips, seed)
            total = tf.add_n([tf.reduce_sum(tf.reduce_mean(s, axis=1)) for s in scores]) / len(scores)
        power = tf.reduce_mean(tf.reduce_sum(tf.square(clips), axis=[1, 2]))
        return power * tf.reduce_mean(tf.reduce_sum(tf.square(inner.gradient(total, clips)), axis=[1, 2]))


def spectrum_image(audio: tf.Tensor, frame: int, hop: int, patch: tuple[int, int]) -> tf.Tensor:
    """Log-magnitude spectrogram as an image of patches: `[B, T, C]` to float32 `[B, T / hop / patch[0],
    frame / 2 / patch[1], patch[0] * patch[1] * C]`, about unit variance."""
    bins = frame // 2
    image = tf.math.log(magnitude(stft(audio, frame, hop))[:, :, :bins] + MAGNITUDE_FLOOR)
    image = (image + 2.5) / 1.5
    rows, columns, channels = image.shape[1] // patch[0], bins // patch[1], image.shape[3]
    image = tf.reshape(image, [-1, rows, patch[0], columns, patch[1], channels])
    return tf.reshape(tf.transpose(image, [0, 1, 3, 2, 4, 5]), [-1, rows, columns, patch[0] * patch[1] * channels])


def disguised(audio: tf.Tensor, shift_seed: tf.Tensor, noise_seed: tf.Tensor) -> tf.Tensor:
    """Clips `[B, T, C]` with one shift and noise of one level, which remove inaudible cues of real clips: digital
    silence and the position of the cut."""
    n = LARGEST_SHIFT
    shift = tf.random.stateless_uniform([], shift_seed, -n, n + 1, tf.int32)
    padded = tf.pad(audio, [[0, 0], [n, n], [0, 0]])
    shifted = tf.ensure_shape(padded[:, n + shift : n + shift + audio.shape[1]], audio.shape)
    level_seed, noise_seed = tf.unstack(tf.random.experimental.stateless_split(noise_seed, 2))
    deviation = 10 ** tf.random.stateless_uniform([], level_seed, -3.7, -2.7)
    return shifted + deviation * tf.random.stateless_normal(tf.shape(audio), noise_seed)


def _shuffled(h: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Phase shuffle: `[B, n, ...]` later by `shift` frames, filled by reflection."""
    n, frames = PHASE_SHUFFLE, h.shape[1]
    padded = tf.pad(h, [[0, 0], [n, n], [0, 0], [0, 0]], mode="REFLECT")
    return tf.ensure_shape(padded[:, n + shift : n + shift + frames], h.shape)
