"""models/projected.py: a WaveGAN from its dense layer's output on."""

import numpy as np
import pytest
import tensorflow as tf
from wavegan_checkpoints import build

from models.generator import load_generator
from models.projected import ProjectedGenerator
from utils.errors import UserError
from utils.inversion.methods import Inverter
from utils.losses import parse_objective


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return load_generator(build(tmp_path_factory.mktemp("projected") / "generator"))


@pytest.fixture(scope="module")
def projected(generator):
    return ProjectedGenerator(generator)


def test_it_gives_the_generators_audio_at_what_the_dense_layer_makes_of_z(generator, projected):
    z = generator.sample_prior(3, 4)
    h = projected.project(z)
    assert h.shape == (4, projected.latent_dim) and projected.latent_dim == 16 * 16
    np.testing.assert_allclose(projected(h), generator(z), atol=1e-6)
    np.testing.assert_array_equal(projected.sample_prior(3, 4), h)
    assert projected.fingerprint == generator.fingerprint


def test_off_prior_is_zero_for_samples_and_the_distance_from_them_elsewhere(generator, projected):
    z = generator.sample_prior(3, 4)
    h = projected.project(z)
    np.testing.assert_allclose(projected.off_prior(h), 0, atol=1e-4)
    # Out of the image of all z: the part of a step that is orthogonal to it.
    kernel = (projected.project(np.eye(5, dtype=np.float32)) - projected.project(np.zeros((1, 5), np.float32))).numpy()
    basis = np.linalg.qr(kernel.T)[0]
    step = np.random.default_rng(0).normal(size=h.shape)
    step -= step @ basis @ basis.T
    off = projected.off_prior(tf.constant(h + step, tf.float32))
    np.testing.assert_allclose(off * projected.scale, step, atol=1e-3)
    # Out of the box along one latent.
    far = projected.off_prior(projected.project(np.float32([[3, 0, 0, 0, 0]])))
    np.testing.assert_allclose(far * projected.scale, 2 * kernel[:1], atol=1e-3)
    spread = np.std(projected.sample_prior(0, 2000), axis=0)
    assert projected.scale == pytest.approx(np.sqrt(np.mean(spread**2)), rel=0.05)


def test_the_regulariser_keeps_a_search_near_the_prior(generator, projected):
    target = np.random.default_rng(0).normal(0, 0.1, (1, 16384, 1)).astype(np.float32)
    start = projected.sample_prior(0, 1)[:, None]
    found = {}
    for weight in ("", ",latent_prior=100"):
        inverter = Inverter(projected, parse_objective("stft_real=1" + weight), clip_to_prior=False)
        result = inverter.refine(target, start, max_iter=10)
        found[weight] = float(inverter.prior_distance(result.z)[0])
    assert found[",latent_prior=100"] < 0.5 * found[""]
    assert Inverter(generator, parse_objective("waveform=1")).prior_distance(generator.sample_prior(0, 1)) is None


def test_a_generator_without_such_a_layer_is_refused():
    with pytest.raises(UserError, match="--space projected: tests.tiny:generator is no WaveGAN"):
        ProjectedGenerator(load_generator("tests.tiny:generator", trust=True))
