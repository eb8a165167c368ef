"""The map between the prior and a code: its inverse, its classes, its distribution; the start of what follows it."""

import numpy as np
import pytest
import tensorflow as tf

from models.class_map import ClassMap
from models.features import BANDS, FRAMES, PrincipalCode
from models.front import dense_start, upsampling_start
from models.wavegan import FIRST_FRAMES, Architecture, WaveGANGenerator, initial_weights
from utils.priors import PRIORS

DIM, CLASSES = 8, 3


@pytest.fixture(scope="module")
def codes():
    """Codes of three classes that differ in mean and in covariance, and their labels."""
    random = np.random.default_rng(0)
    labels = np.int32(random.integers(0, CLASSES, 3000))
    mixing, means = random.standard_normal((CLASSES, DIM, DIM)), random.standard_normal((CLASSES, DIM))
    codes = np.einsum("ni,nij->nj", random.standard_normal((3000, DIM)), mixing[labels]) + 2 * means[labels]
    return np.float32(codes), labels


@pytest.fixture(scope="module")
def class_map(codes):
    return ClassMap(*codes, CLASSES, importance=np.arange(1, DIM + 1), seed=0)


def draws(seed, count, dim=DIM):
    return tf.constant(PRIORS["uniform"].draw(np.random.default_rng(seed), (count, dim)), tf.float32)


def test_the_inverse_takes_t_back(class_map):
    z = draws(1, 500)
    inside = np.abs(z).max(axis=1) < 0.99
    back = class_map.inverse(class_map.forward(z), class_map.labels(z))
    np.testing.assert_allclose(back[inside], z[inside], atol=1e-3)


def test_codes_are_reached_from_latents_of_their_class_in_the_prior_s_box(class_map, codes):
    z = class_map.inverse(*map(tf.constant, codes))
    np.testing.assert_array_equal(class_map.labels(z), codes[1])
    assert np.abs(z).max() < 1
    assert np.square(class_map.forward(z) - codes[0]).mean() < 0.06 * np.var(codes[0])


def test_t_of_the_prior_has_each_class_s_mean_and_covariance(class_map, codes):
    z = draws(2, 20000)
    made, labels = class_map.forward(z).numpy(), class_map.labels(z).numpy()
    np.testing.assert_allclose(np.bincount(labels) / len(labels), 1 / CLASSES, atol=0.02)
    for k in range(CLASSES):
        wanted = codes[0][codes[1] == k]
        np.testing.assert_allclose(made[labels == k].mean(axis=0), wanted.mean(axis=0), atol=0.15)
        covariance = np.cov(wanted.T)
        assert np.abs(np.cov(made[labels == k].T) - covariance).max() < 0.25 * np.abs(covariance).max()


def test_leading_components_are_alike_in_all_classes_and_the_others_follow_them_as_in_the_codes(codes):
    class_map = ClassMap(*codes, CLASSES, importance=np.ones(DIM), shared=2)
    z = draws(2, 20000)
    made, labels = class_map.forward(z).numpy(), class_map.labels(z).numpy()
    np.testing.assert_array_equal(class_map.slopes[:, :, :2], np.repeat(class_map.slopes[:1, :, :2], CLASSES, axis=0))
    np.testing.assert_allclose(made[:, :2].mean(axis=0), codes[0][:, :2].mean(axis=0), atol=0.1)
    np.testing.assert_allclose(np.cov(made[:, :2].T), np.cov(codes[0][:, :2].T), rtol=0.1, atol=0.1)

    def by_the_shared(rows):
        rows = rows - rows.mean(axis=0)
        return np.linalg.lstsq(rows[:, :2], rows[:, 2:], rcond=None)[0]

    for k in range(CLASSES):
        wanted = by_the_shared(codes[0][codes[1] == k])
        assert np.abs(by_the_shared(made[labels == k]) - wanted).max() < 0.4 * np.abs(wanted).max()


def test_without_labels_one_affine_map_covers_the_whole_box(codes):
    class_map = ClassMap(codes[0], np.zeros_like(codes[1]), 1, importance=np.ones(DIM), seed=0)
    z = draws(3, 400)
    rows = np.concatenate([z, np.ones((400, 1))], axis=1)
    left = np.linalg.lstsq(rows, class_map.forward(z).numpy(), rcond=None)[1]
    assert left.max() < 1e-6 and not class_map.labels(z).numpy().any()


def test_the_first_layers_start_close_to_what_they_are_to_follow(codes):
    random = np.random.default_rng(1)
    latent_dim, architecture = DIM, Architecture(latent_dim=DIM, dim=8)
    smooth = np.cos(np.pi * np.arange(latent_dim)[:, None] * np.linspace(0, 1, FRAMES * (BANDS + 2)))
    components = np.linalg.qr(smooth.T)[0].T
    code = PrincipalCode(np.zeros(components.shape[1]), components, np.ones(latent_dim))
    class_map = ClassMap(*codes, CLASSES, importance=np.ones(DIM), seed=0)
    mixing = np.zeros((latent_dim, FRAMES))
    readout = random.standard_normal((BANDS, 64))

    def wanted(z):
        log_mel = tf.reshape(code.decode(class_map.forward(z))[:, : FRAMES * BANDS], [-1, FRAMES, BANDS])
        return tf.matmul(log_mel, np.float32(readout))

    weights = initial_weights(architecture, 0)
    weights["G/z_project/dense/kernel"], weights["G/z_project/dense/bias"] = dense_start(
        architecture, class_map, code, mixing
    )
    network = WaveGANGenerator(architecture, weights)
    weights["G/upconv_0/conv2d_transpose/kernel"] = upsampling_start(
        architecture.upsamplings[0],
        lambda z: tf.reshape(network.first_activations(z), [-1, FIRST_FRAMES, architecture.first_channels]),
        wanted,
        0,
        latent_dim,
    )
    z = draws(4, 500)
    error = np.square(WaveGANGenerator(architecture, weights).hidden(z) - wanted(z)).mean()
    linear = np.linalg.lstsq(
        np.pad(z, [(0, 0), (0, 1)], constant_values=1), np.reshape(wanted(z), [500, -1]), rcond=None
    )
    left_by_the_best_affine_map = linear[1].sum() / np.size(wanted(z))
    assert error < 0.35 * left_by_the_best_affine_map
