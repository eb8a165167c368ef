"""The critics that train a generator: critics of image patches with a class head, and WaveGAN's own waveform critic."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from models.classifier import Classifier, classifier_features
from utils.spectrograms import magnitude, stft

MAGNITUDE_FLOOR = 1e-2


def critic_image(audio: tf.Tensor, frame_length: int, frame_step: int, patch: tuple[int, int]) -> tf.Tensor:
    """Log-magnitude spectrogram as an image of patches, what a `PatchCritic` may look at.

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


class Guide:
    """What a trained classifier makes of audio: images for critics to look at (Sauer et al., 2021) and its answer.

    Args:
        classifier: stays as it is.
        clips: float32 `[N, T, C]`, real; every channel of an image is divided by its root mean square over them.
    """

    def __init__(self, classifier: Classifier, clips: np.ndarray):
        self._classifier = classifier
        self._taps = classifier.block_names[1::2]
        features = classifier.network.predict(clips, batch_size=50, verbose=0)
        powers = [np.mean(np.square(features[tap], dtype=np.float64), axis=(0, 1, 2)) for tap in self._taps]
        self._scales = [(1 / np.sqrt(power + 0.01 * power.mean())).astype(np.float32) for power in powers]

    def __call__(self, audio: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Audio float32 `[B, T, C]` to images float32 `[B, H, W, channels]`, fine to coarse, and logits `[B, K]`."""
        features = classifier_features(self._classifier, audio)
        images = [tf.cast(features[t], tf.float32) * scale for t, scale in zip(self._taps, self._scales, strict=True)]
        return images, features["logits"]


class PatchCritic(keras.Model):
    """Spectrally normalised convolutions on an image; scores each patch, and the class where there are any.

    The score is that of a projection discriminator (Miyato & Koyama, 2018): a patch's score + <embedding of the class,
    pooled features>. A second head classifies (Odena et al., 2017). Features are pooled over time only: which
    band they are in tells the digits apart.

    Args:
        num_classes: 0 for unlabelled sound.
        convolutions: (channels, stride) of each 3x3 convolution.
        dtype: compute dtype policy.
    """

    def __init__(self, num_classes: int, convolutions: Sequence[tuple[int, int]], dtype: str = "float32"):
        super().__init__(dtype=dtype)
        self.num_classes = num_classes
        self.convolutions = [
            layers.SpectralNormalization(layers.Conv2D(channels, 3, strides, padding="same", dtype=dtype), dtype=dtype)
            for channels, strides in convolutions
        ]
        self.patch_score = layers.SpectralNormalization(layers.Conv2D(1, 1, dtype=dtype), dtype=dtype)
        if num_classes:
            self.normalization = layers.LayerNormalization(dtype="float32")
            self.embedding = layers.SpectralNormalization(
                layers.Dense(num_classes, use_bias=False, dtype="float32"), dtype="float32"
            )
            self.class_logits = layers.Dense(num_classes, dtype="float32")

    def call(
        self, image: tf.Tensor, classes: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Look at a batch of images.

        Args:
            image: float `[B, H, W, channels]`.
            classes: int32 `[B]`, the classes that the clips are meant to be.
            training: whether the spectral norms are updated.

        Returns:
            scores float32 `[B, H', W']`; class logits float32 `[B, num_classes]`; the activations of each convolution.
        """
        h, activations = image, []
        for convolution in self.convolutions:
            h = tf.nn.leaky_relu(convolution(h, training=training), 0.2)
            activations.append(h)
        score = tf.cast(self.patch_score(h, training=training), tf.float32)[..., 0]
        if not self.num_classes:
            return score, tf.zeros([tf.shape(image)[0], 0]), activations
        pooled = tf.reduce_mean(tf.cast(h, tf.float32), axis=1)
        pooled = tf.reshape(pooled, [-1, pooled.shape[1] * pooled.shape[2]])
        projection = tf.gather(self.embedding(pooled, training=training), classes, batch_dims=1)
        return score + projection[:, None, None], self.class_logits(self.normalization(pooled)), activations


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
