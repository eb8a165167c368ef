"""models/front_ends.py: the shared spectrograms as layers, and the same by products."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.front_ends import LogMel, Spectrogram, by_products, stft_by_products
from utils.choices import FRONT_ENDS
from utils.spectrograms import LOG_FLOOR, log_magnitude, stft, stft_real

RNG = np.random.default_rng(0)


def noise(length=4096, channels=1):
    return tf.constant(RNG.uniform(-0.5, 0.5, (2, length, channels)), tf.float32)


def test_front_ends_are_the_shared_ones():
    audio = noise()
    np.testing.assert_array_equal(Spectrogram("stft_real")(audio), stft_real(audio))
    stacked = Spectrogram("stft_real", stack=True)(audio)
    assert stacked.shape == (2, 32, 129, 3)
    np.testing.assert_array_equal(stacked, np.repeat(stft_real(audio), 3, axis=-1))
    np.testing.assert_allclose(Spectrogram("log_magnitude")(audio), log_magnitude(audio) - np.log(LOG_FLOOR), atol=1e-5)
    assert np.abs(Spectrogram("log_magnitude")(0 * audio)).max() < 0.11  # magnitude's epsilon keeps it off 0


@pytest.mark.parametrize("frame_length, frame_step", [(256, 128), (512, 256), (512, 128)])
@pytest.mark.parametrize("length, channels", [(1024, 1), (1000, 2), (129, 1)])
def test_the_stft_by_products_is_the_stft(frame_length, frame_step, length, channels):
    audio = noise(length, channels)
    expected = stft(audio, frame_length, frame_step)
    real, imaginary = stft_by_products(audio, frame_length, frame_step)
    np.testing.assert_allclose(real, tf.math.real(expected), atol=5e-5)
    np.testing.assert_allclose(imaginary, tf.math.imag(expected), atol=5e-5)


@pytest.mark.parametrize(
    "front_end", [*(Spectrogram(kind, stack) for kind in FRONT_ENDS for stack in (False, True)), LogMel(8000)]
)
def test_a_network_by_products_answers_the_same_with_the_same_weights(front_end):
    audio = keras.Input((1000, 1))
    dense = keras.layers.Dense(3)
    network = keras.Model(audio, dense(keras.layers.Flatten()(front_end(audio))))
    changed, clips = by_products(network), noise(1000)
    assert changed.layers[-1] is dense
    np.testing.assert_allclose(changed(clips), network(clips), atol=1e-2)  # the logarithm's slope at its floor is 1000
    operations = {op.type for op in tf.function(changed).get_concrete_function(clips).graph.get_operations()}
    assert "MatMul" in operations and not any("FFT" in name for name in operations)
