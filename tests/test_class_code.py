"""The class that a latent stands for."""

import numpy as np
import pytest
import tensorflow as tf

from utils.audio.class_code import class_code, class_code_of_normal, class_moments, with_class
from utils.latents import squash, unsquash


@pytest.fixture
def normal():
    return np.random.default_rng(0).standard_normal((4000, 23)).astype(np.float32)


def test_squash_makes_the_uniform_prior_of_a_standard_normal_and_unsquash_takes_it_back(normal):
    z = squash(normal).numpy()
    assert abs(np.var(z) - 1 / 3) < 0.01 and np.abs(z).max() < 1
    inside = np.abs(normal) < 3.5
    np.testing.assert_allclose(unsquash(z).numpy()[inside], normal[inside], atol=1e-2)


def test_the_class_is_the_block_with_the_largest_sum_and_all_are_equally_frequent(normal):
    z = squash(normal).numpy()
    codes = class_code(z, 5)
    np.testing.assert_array_equal(codes, normal[:, :20].reshape(-1, 5, 4).sum(axis=2).argmax(axis=1))
    np.testing.assert_array_equal(codes, class_code_of_normal(tf.constant(normal), 5))
    assert np.bincount(codes, minlength=5).min() > 700


def test_with_class_changes_only_what_has_another_class(normal):
    labels = np.arange(len(normal), dtype=np.int32) % 5
    changed = with_class(tf.constant(normal), tf.constant(labels), 5, 0.5).numpy()
    np.testing.assert_array_equal(class_code_of_normal(tf.constant(changed), 5), labels)
    right = class_code_of_normal(tf.constant(normal), 5).numpy() == labels
    np.testing.assert_array_equal(changed[right], normal[right])
    assert not np.array_equal(changed[~right], normal[~right])
    np.testing.assert_array_equal(changed[:, 20:], normal[:, 20:])


def test_one_class_is_every_latent(normal):
    assert not class_code_of_normal(tf.constant(normal), 1).numpy().any()
    np.testing.assert_array_equal(with_class(tf.constant(normal), tf.zeros([4000], tf.int32), 1, 0.5), normal)


def test_class_moments_are_those_of_draws(normal):
    draws = np.random.default_rng(1).standard_normal((200_000, 23)).astype(np.float32)
    members = draws[class_code_of_normal(tf.constant(draws), 5).numpy() == 2]
    mean, covariance = class_moments(23, 5, 2)
    np.testing.assert_allclose(members.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(members.T), covariance, atol=0.04)
