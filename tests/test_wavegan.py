"""models/wavegan.py against TensorFlow's own convolutions and its automatic differentiation."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.wavegan import (
    LENGTHS,
    POST_FILTER,
    Architecture,
    Upsampling,
    WaveGANGenerator,
    initial_weights,
)


def loud_weights(architecture, seed=0):
    """Random weights whose audio fills [-1, 1], so that an error shows."""
    rng = np.random.default_rng(seed)
    weights = initial_weights(architecture, seed)
    gain = 4 if architecture.upsample == "zeros" else 2
    return {
        name: value * gain if name.endswith("kernel") else rng.normal(0, 0.1, value.shape).astype(np.float32)
        for name, value in weights.items()
    }


def reference_upsampling(layer, x, kernel):
    if layer.upsample == "zeros":
        size = [x.shape[0], 1, x.shape[1] * layer.stride, layer.channels_out]
        return tf.nn.conv2d_transpose(x[:, None], kernel, size, [1, 1, layer.stride, 1], "SAME")[:, 0]
    return tf.nn.conv1d(tf.repeat(x, layer.stride, axis=1), kernel, 1, "SAME")


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from(["zeros", "nn"]),
)
def test_upsampling_equals_tensorflows_convolution_with_its_gradients(
    c_in, c_out, kernel_len, stride, frames, upsample
):
    layer = Upsampling(c_in, c_out, kernel_len, stride, upsample)
    rng = np.random.default_rng(kernel_len * 10 + stride)
    x = tf.constant(rng.normal(size=(2, frames, c_in)), tf.float32)
    kernel = tf.constant(rng.normal(size=layer.kernel_shape), tf.float32)
    weight = tf.constant(rng.normal(size=(2, frames * stride, c_out)), tf.float32)
    results = []
    for function in (
        lambda: layer(x, layer.polyphase_kernel(kernel)),
        lambda: reference_upsampling(layer, x, kernel),
    ):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = function()
            loss = tf.reduce_sum(y * weight)
        results.append([y, *tape.gradient(loss, [x, kernel])])
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_samples", LENGTHS)
@pytest.mark.parametrize("upsample", ["zeros", "nn"])
def test_jacobian_product_equals_reverse_mode(num_samples, upsample):
    architecture = Architecture(
        latent_dim=3, dim=1, kernel_len=9, num_samples=num_samples, num_channels=2, upsample=upsample
    )
    weights = loud_weights(architecture)
    weights[POST_FILTER] = np.random.default_rng(0).normal(size=(5, 2, 2)).astype(np.float32)
    network = WaveGANGenerator(architecture, weights)
    z = tf.constant(np.random.default_rng(1).uniform(-1, 1, (2, 3)), tf.float32)
    directions = tf.eye(3, batch_shape=[2])
    audio, product = network.jacobian_product(z, directions)
    np.testing.assert_allclose(audio, network(z), atol=1e-6)
    assert product.shape == (2, 3, num_samples, 2)
    # Project on a few random waveforms: v . (J d) must be d . (J^T v).
    for seed in range(3):
        v = tf.constant(np.random.default_rng(seed).normal(size=audio.shape), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = tf.reduce_sum(network(z) * v)
        expected = tape.gradient(value, z)
        ours = tf.einsum("btc,bktc->bk", v, product)
        scale = np.abs(expected).max()
        assert scale > 1
        np.testing.assert_allclose(ours, expected, atol=1e-3 * scale)


def test_trainable_network_gives_gradients_of_every_weight_and_follows_them():
    architecture = Architecture(latent_dim=4, dim=1)
    weights = {name: tf.Variable(value) for name, value in loud_weights(architecture).items()}
    z = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 4)), tf.float32)
    trainable, constant = (
        WaveGANGenerator(architecture, weights, trainable=True),
        WaveGANGenerator(architecture, weights),
    )
    with tf.GradientTape() as tape:
        before = trainable(z)
        loss = tf.reduce_sum(tf.square(before))
    gradients = tape.gradient(loss, weights)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients.values())
    np.testing.assert_allclose(constant(z), before, atol=1e-6)
    name = "G/upconv_4/conv2d_transpose/kernel"
    weights[name].assign(weights[name] * 0.5)
    assert np.abs(trainable(z) - before).max() > 0.01
    np.testing.assert_allclose(constant(z), before, atol=1e-6)


def test_a_leak_leaves_the_audio_and_wakes_a_silent_channel():
    architecture = Architecture(latent_dim=4, dim=2)
    weights = {name: tf.Variable(value) for name, value in loud_weights(architecture).items()}
    weights["G/upconv_0/conv2d_transpose/bias"].assign(np.eye(16, dtype=np.float32)[0] * -1e4)
    z = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 4)), tf.float32)
    audio, slopes = [], []
    for leak in (0.0, 0.02):
        network = WaveGANGenerator(architecture, weights, trainable=True, leak=leak)
        with tf.GradientTape() as tape:
            audio.append(network(z))
            loss = tf.reduce_sum(audio[-1])
        slopes.append(tape.gradient(loss, weights["G/upconv_0/conv2d_transpose/bias"]).numpy())
    np.testing.assert_array_equal(*audio)
    assert slopes[0][0] == 0 != slopes[1][0] and np.all(slopes[0][1:])


def test_mixed_bfloat16_is_near_float32_and_returns_float32():
    architecture = Architecture(latent_dim=4, dim=2)
    weights = loud_weights(architecture)
    z = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 4)), tf.float32)
    exact = WaveGANGenerator(architecture, weights)(z)
    mixed = WaveGANGenerator(architecture, weights, "mixed_bfloat16")(z)
    assert mixed.dtype == tf.float32
    assert 0 < np.abs(mixed - exact).mean() < 0.01


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="num_samples must be one of .* Received: 8192"):
        Architecture(num_samples=8192)
    with pytest.raises(ValueError, match="upsample must be"):
        Architecture(upsample="linear")
    architecture = Architecture(latent_dim=4, dim=1)
    weights = initial_weights(architecture, 0)
    with pytest.raises(ValueError, match="precision must be"):
        WaveGANGenerator(architecture, weights, "float16")
    with pytest.raises(ValueError, match="weight G/z_project/dense/bias must have shape"):
        WaveGANGenerator(architecture, weights | {"G/z_project/dense/bias": np.zeros(3, np.float32)})
    del weights["G/z_project/dense/bias"]
    with pytest.raises(ValueError, match="weight G/z_project/dense/bias is missing"):
        WaveGANGenerator(architecture, weights)


def test_paper_size():
    shapes = Architecture().weight_shapes
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 19_065_345
    assert shapes["G/z_project/dense/kernel"] == (100, 16384)
    assert shapes["G/upconv_4/conv2d_transpose/kernel"] == (1, 25, 1, 64)
