"""models/resnet.py and models/classifier.py: shapes, taps, saving, precision, gradients, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.classifier import ARCHITECTURES, Classifier, classifier_features, load_classifier
from models.resnet import BLOCK_NAMES, BatchNormalization, Conv2D, resnet18
from utils.errors import UserError

NAMES = ("no", "yes", "maybe")


def tiny(architecture="resnet18", **options):
    keras.utils.set_random_seed(1)
    options = {"width": 4, "num_samples": 4096, "class_names": NAMES, **options}
    return Classifier(architecture=architecture, **options)


def noise(clips=2, samples=4096):
    return 0.1 * tf.random.stateless_normal([clips, samples, 1], [3, 4])


def test_resnet18_is_the_papers():
    image = keras.Input((128, 129, 3))
    features = resnet18(image, width=64)
    assert tuple(features) == (*BLOCK_NAMES, "pooled")
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in features.items()}
    for stage, shape in enumerate([(32, 33, 64), (16, 17, 128), (8, 9, 256), (4, 5, 512)], 1):
        assert shapes[f"stage{stage}_block1"] == shapes[f"stage{stage}_block2"] == shape
    assert shapes["pooled"] == (512,)
    network = keras.Model(image, features)
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 17 + 3 and all(layer.use_bias for layer in convolutions)
    # torchvision's ResNet-18 has 11,176,512 weights before its last layer; here every convolution adds a bias
    # per output channel (4,800), and Keras also counts the moving statistics (2 x 4,800).
    assert network.count_params() == 11_176_512 + 4_800 + 2 * 4_800


def test_a_block_adds_its_input():
    image = keras.Input((32, 32, 4))
    network = keras.Model(image, resnet18(image, width=4))
    for layer in network.layers:
        if layer.name.startswith("stage1_block2_conv2"):
            layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    out = network(tf.random.stateless_normal([2, 32, 32, 4], [1, 1]))
    np.testing.assert_allclose(out["stage1_block2"], out["stage1_block1"], atol=1e-6)


def test_a_block_ends_in_a_relu():
    image = keras.Input((32, 32, 4))
    network = keras.Model(image, resnet18(image, width=4))
    for name in BLOCK_NAMES:
        beta = network.get_layer(f"{name}_norm2").beta
        beta.assign(tf.fill(beta.shape, -100.0))  # so that every sum of a block is far below 0
    out = network(tf.random.stateless_normal([2, 32, 32, 4], [1, 1]))
    for name in BLOCK_NAMES:
        np.testing.assert_array_equal(out[name], 0, err_msg=name)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(front_end="stft_real", alignment="paper"),
        dict(architecture="mel_cnn", width=8),
        dict(architecture="mel_cnn", width=8, precision="mixed_bfloat16", num_channels=2),
        dict(architecture="waveform_cnn", width=8, num_channels=2),
    ],
)
def test_a_saved_classifier_comes_back_whole(tmp_path, options):
    model = tiny(**options)
    audio = tf.repeat(noise(), model.num_channels, axis=-1)
    model.save(tmp_path / "classifier.keras")
    loaded = load_classifier(tmp_path)
    assert loaded.options == model.options and loaded.class_names == NAMES
    np.testing.assert_array_equal(loaded(audio), model(audio))
    features = classifier_features(loaded, audio)
    assert set(features) == {*loaded.block_names, "pooled", "logits", "probabilities"}
    np.testing.assert_allclose(tf.reduce_sum(features["probabilities"], -1), 1, atol=1e-5)
    np.testing.assert_allclose(loaded.predict(audio, verbose=0), features["probabilities"], atol=1e-3)
    assert all(features[name].dtype == tf.float32 for name in ("pooled", "logits", "probabilities"))


def test_precision_changes_and_the_global_policy_does_not():
    mixed = tiny(precision="mixed_bfloat16")
    assert classifier_features(mixed, noise())["stage1_block1"].dtype == tf.bfloat16
    assert keras.config.dtype_policy().name == "float32"
    whole = mixed.with_precision("float32")
    assert classifier_features(whole, noise())["stage1_block1"].dtype == tf.float32
    np.testing.assert_allclose(whole(noise()), mixed(noise()), atol=0.03)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_reach_the_audio(architecture):
    model = tiny(architecture)
    for audio in (noise(), tf.zeros([1, 4096, 1])):
        with tf.GradientTape() as tape:
            tape.watch(audio)
            loss = tf.reduce_sum(classifier_features(model, audio)[model.block_names[0]])
        gradient = tape.gradient(loss, audio)
        assert np.isfinite(gradient).all()


def test_errors_name_the_file(tmp_path):
    with pytest.raises(UserError, match="nowhere.keras: no such classifier"):
        load_classifier(tmp_path / "nowhere.keras")
    (tmp_path / "damaged.keras").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match="damaged.keras: not a readable"):
        load_classifier(tmp_path / "damaged.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="other.keras: holds a Sequential"):
        load_classifier(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="Received: 'vgg'"):
        tiny("vgg")


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_fused_batch_normalization_is_keras_own(precision):
    fused, reference = BatchNormalization(dtype=precision), keras.layers.BatchNormalization(dtype=precision)
    image = tf.random.stateless_normal([64, 12, 13, 5], [1, 2]) * 3 + 1
    for training in (True, True, False):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(image)
            outputs = [layer(image, training=training) for layer in (fused, reference)]
            totals = [tf.reduce_sum(tf.sin(tf.cast(output, tf.float32))) for output in outputs]
        assert outputs[0].dtype == outputs[1].dtype
        slopes = [tape.gradient(total, image) for total in totals]
        tolerance = 1e-3 if precision == "float32" else 0.1
        np.testing.assert_allclose(*(tf.cast(x, tf.float32) for x in outputs), atol=tolerance)
        np.testing.assert_allclose(*slopes, atol=tolerance)
    for mine, other in zip(fused.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3)  # biased and unbiased variance


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"kernel_size": (1, 5)}, {"kernel_size": 4}, {"kernel_size": 3, "strides": 2}]
)
def test_convolution_is_keras_own(options, precision):
    own, reference = (layer(6, padding="same", dtype=precision, **options) for layer in (Conv2D, keras.layers.Conv2D))
    image = tf.random.stateless_normal([4, 12, 13, 5], [1, 2])
    reference(image)
    own.build(image.shape)
    own.set_weights(reference.get_weights())
    outputs, slopes = [], []
    for layer in (own, reference):
        with tf.GradientTape() as tape:
            tape.watch(image)
            output = tf.cast(layer(image), tf.float32)
            total = tf.reduce_sum(tf.sin(output))
        outputs.append(output)
        slopes.append(tape.gradient(total, [image, *layer.trainable_variables]))
    tolerance = 1e-4 if precision == "float32" else 0.05
    np.testing.assert_allclose(*outputs, atol=tolerance)
    for mine, other in zip(*slopes, strict=True):
        assert mine.dtype == other.dtype
        scale = np.abs(other).max()
        np.testing.assert_allclose(mine / scale, other / scale, atol=tolerance)
