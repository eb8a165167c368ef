"""Critics of log-spectrograms that score patches of time and frequency, with class heads where there are labels."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras import layers

from utils.spectrograms import magnitude, stft

MAGNITUDE_FLOOR = 1e-2
LARGEST_SHIFT = 1024  # samples


def critic_image(audio: tf.Tensor, frame_length: int, frame_step: int, patch: tuple[int, int]) -> tf.Tensor:
    """Log-magnitude spectrogram as an image of patches, what a `PatchCritic` looks at.

    Args:
        audio: float32 `[B, T, C]`, T a multiple of `frame_step * patch[0]`.
        frame_length: window in samples; its half a multiple of `patch[1]`.
        frame_step: hop in samples.
        patch: frames and bins folded into the channels.

    Returns:
        float32 `[B, T / hop / patch[0], frame_length / 2 / patch[1], patch[0] * patch[1] * C]`, about unit variance.
    """
    bins = frame_length // 2
    image = tf.math.log(magnitude(stft(audio, frame_length, frame_step))[:, :, :bins] + MAGNITUDE_FLOOR)
    image = (image + 2.5) / 1.5
    frames, channels = image.shape[1], image.shape[3]
    rows, columns = frames // patch[0], bins // patch[1]
    image = tf.reshape(image, [-1, rows, patch[0], columns, patch[1], channels])
    image = tf.transpose(image, [0, 1, 3, 2, 4, 5])
    return tf.reshape(image, [-1, rows, columns, patch[0] * patch[1] * channels])


class PatchCritic(keras.Model):
    """Convolutions on an image; scores each patch, and the class where there are any.

    The score is that of a projection discriminator (Miyato & Koyama, 2018): a patch's score + <embedding of the class,
    pooled features>. A second head classifies (Odena et al., 2017). Features are pooled over time only: which
    band they are in tells words apart.

    Args:
        num_classes: 0 for unlabelled sound.
        convolutions: (channels, stride) of each 3x3 convolution.
        precision: of the convolutions, a Keras dtype policy; what they answer is float32.
    """

    def __init__(self, num_classes: int, convolutions: Sequence[tuple[int, int]], precision: str = "float32"):
        super().__init__()
        self.num_classes = num_classes
        self.convolutions = [
            layers.Conv2D(channels, 3, stride, padding="same", dtype=precision) for channels, stride in convolutions
        ]
        self.patch_score = layers.Conv2D(1, 1)
        if num_classes:
            self.normalization = layers.LayerNormalization()
            self.embedding = layers.Dense(num_classes, use_bias=False)
            self.class_logits = layers.Dense(num_classes)

    def call(self, image: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Look at a batch of images.

        Args:
            image: float32 `[B, H, W, channels]`.
            classes: int32 `[B]`, the classes that the clips are meant to be.

        Returns:
            scores float32 `[B, H', W']`; class logits float32 `[B, num_classes]`; the activations of each convolution.
        """
        h, activations = image, []
        for convolution in self.convolutions:
            h = tf.nn.leaky_relu(convolution(h), 0.2)
            activations.append(tf.cast(h, tf.float32))
        h = activations[-1]
        score = self.patch_score(h)[..., 0]
        if not self.num_classes:
            return score, tf.zeros([tf.shape(image)[0], 0]), activations
        pooled = tf.reduce_mean(h, axis=1)
        pooled = tf.reshape(pooled, [-1, pooled.shape[1] * pooled.shape[2]])
        projection = tf.gather(self.embedding(pooled), classes, batch_dims=1)
        return score + projection[:, None, None], self.class_logits(self.normalization(pooled)), activations


def augmentation(seed: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """One random shift and noise level, to be applied alike to real and generated clips `[B, T, C]`.

    It hides what gives real clips away but cannot be heard: exact digital zeros and where a clip was cut.
    """
    shift_seed, level_seed, noise_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
    shift = tf.random.stateless_uniform([], shift_seed, -LARGEST_SHIFT, LARGEST_SHIFT + 1, tf.int32)
    deviation = 10 ** tf.random.stateless_uniform([], level_seed, -3.7, -2.7)

    def augment(audio):
        padded = tf.pad(audio, [[0, 0], [LARGEST_SHIFT, LARGEST_SHIFT], [0, 0]])
        first = LARGEST_SHIFT + shift
        shifted = tf.ensure_shape(padded[:, first : first + audio.shape[1]], audio.shape)
        return shifted + deviation * tf.random.stateless_normal(tf.shape(audio), noise_seed)

    return augment
