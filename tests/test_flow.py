"""The map between the prior and a code: its inverse, its classes, its distribution."""

import numpy as np
import pytest
import tensorflow as tf

from models.flow import Flow, with_drawn_class
from utils.audio.class_code import class_code, class_code_of_normal
from utils.latents import unsquash
from utils.priors import PRIORS

DIM, CLASSES = 8, 2


def trained(num_classes, epochs=150):
    """A flow to codes that are no affine map of a normal, the codes and their labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, 512)
    codes = 0.3 * random.standard_normal((512, DIM))
    codes[:, 4:] += np.where(labels, 1.0, -1.0)[:, None]
    codes[:, 1] = np.abs(codes[:, 2]) + 0.3 * codes[:, 1]
    codes = np.float32((codes - codes.mean(axis=0)) / codes.std(axis=0))
    labels = labels if num_classes > 1 else np.zeros_like(labels)
    flow = Flow(codes, labels, num_classes, importance=np.ones(DIM), seed=0, total=2 * epochs)
    for number in range(epochs):
        flow.epoch(codes, labels, 0, number)
    return flow, codes, labels


@pytest.fixture(scope="module")
def of_classes():
    return trained(CLASSES)


def test_the_inverse_takes_t_back(of_classes):
    flow = of_classes[0]
    z = PRIORS["uniform"].draw(np.random.default_rng(1), (200, DIM)).astype(np.float32)
    classes = class_code(z, CLASSES)
    back = flow.inverse(flow.forward(tf.constant(z)), tf.constant(classes)).numpy()
    inside = np.abs(z).max(axis=1) < 0.999
    np.testing.assert_allclose(back[inside], z[inside], atol=1e-3)


def test_codes_are_reached_from_latents_of_their_class(of_classes):
    flow, codes, labels = of_classes
    z = flow.inverse(tf.constant(codes), tf.constant(labels, tf.int32)).numpy()
    np.testing.assert_array_equal(class_code(z, CLASSES), labels)
    assert np.abs(z).max() < 1


def test_t_of_the_prior_is_distributed_as_the_codes(of_classes):
    flow, codes, labels = of_classes
    z = PRIORS["uniform"].draw(np.random.default_rng(2), (2000, DIM)).astype(np.float32)
    made, classes = flow.forward(tf.constant(z)).numpy(), class_code(z, CLASSES)
    for k in range(CLASSES):
        np.testing.assert_allclose(made[classes == k].mean(axis=0), codes[labels == k].mean(axis=0), atol=0.15)
        np.testing.assert_allclose(made[classes == k].std(axis=0), codes[labels == k].std(axis=0), rtol=0.25)


def test_the_flow_makes_what_the_affine_map_cannot(of_classes):
    flow, codes, _ = of_classes
    z = PRIORS["uniform"].draw(np.random.default_rng(2), (2000, DIM)).astype(np.float32)
    made, u = flow.forward(tf.constant(z)).numpy(), unsquash(z)
    affine = flow.base(u, class_code_of_normal(u, CLASSES)).numpy()
    wanted, by_flow, by_affine = (np.corrcoef(np.abs(w[:, 2]), w[:, 1])[0, 1] for w in (codes, made, affine))
    assert wanted > 0.8 and by_flow > 0.5 and abs(by_affine) < 0.3


@pytest.mark.slow
def test_without_labels_the_latents_are_not_restricted():
    flow, codes, labels = trained(1, epochs=3)
    z = flow.inverse(tf.constant(codes), tf.constant(labels, tf.int32)).numpy()
    assert set(class_code(z, CLASSES)) == {0, 1}


def test_a_drawn_class_has_the_priors_distribution_in_its_cell():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 3000)
    u = with_drawn_class(random.standard_normal((3000, 10)), labels, 3)
    sums = u[:, :9].reshape(-1, 3, 3).sum(axis=2)
    np.testing.assert_array_equal(sums.argmax(axis=1), labels)
    assert abs(u.mean()) < 0.02 and abs(u.std() - 1) < 0.02
