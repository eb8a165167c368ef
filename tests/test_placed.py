"""utils/inversion/placed.py, on a generator that can be inverted exactly."""

import numpy as np
import pytest
import tensorflow as tf

from models.generator import load_generator
from utils.inversion.align import place
from utils.inversion.placed import PlacedGenerator, PlacedSearch, distinct, fit_placement


@pytest.fixture(scope="module")
def tiny():
    return load_generator("tests.tiny:generator", trust=True)


@pytest.fixture(scope="module")
def search(tiny):
    """With a linear encoder fitted to samples, which is lost where a sample is shifted."""
    z = tiny.sample_prior(5, 3000)
    x = np.asarray(tiny(z), np.float64)[..., 0]
    weights = tf.constant(np.linalg.lstsq(x, z, rcond=1e-3)[0], tf.float32)
    encode = lambda audio: tf.convert_to_tensor(audio)[..., 0] @ weights  # noqa: E731
    return PlacedSearch(tiny, encode=encode, reach_seconds=0.006, grid_seconds=1 / tiny.sample_rate)


def test_offset_and_gain_are_entries_of_its_latents(tiny):
    placed = PlacedGenerator(tiny)
    z = tiny.sample_prior(0, 3)
    offset, gain_db = np.array([0, 37, -21]), np.array([0.0, -6.0, 4.0])
    latent = placed.join(z, offset, gain_db)
    for given, got in zip((z, offset, gain_db), placed.split(latent), strict=True):
        np.testing.assert_allclose(got, given, atol=1e-5)
    audio = tiny(z).numpy()
    # Where `place` by that offset and gain brings the clip back to the sample.
    np.testing.assert_allclose(placed(latent), place(audio, -offset, -gain_db), atol=1e-5)


def test_between_samples_it_is_band_limited(tiny):
    placed = PlacedGenerator(tiny)
    z = tiny.sample_prior(0, 1)
    half, whole = (placed(placed.join(z, np.array([x]), np.zeros(1))).numpy() for x in (0.5, 1.0))
    twice = placed._move(half, placed.join(z, np.array([0.5]), np.zeros(1))).numpy()
    # But for what the samples' abrupt beginning and end ring.
    np.testing.assert_allclose(twice[0, 100:-100], whole[0, 100:-100], atol=0.01)
    assert np.abs(half - whole).max() > 0.1


def test_its_tangents_are_those_of_finite_differences(tiny):
    placed = PlacedGenerator(tiny)
    latent = placed.join(tiny.sample_prior(0, 1), np.array([5.3]), np.array([-3.0]))
    directions = np.eye(8, dtype=np.float32)
    audio, tangents = placed.jacobian_product(tf.constant(latent), tf.constant(directions[None]))
    np.testing.assert_allclose(audio, placed(latent), atol=1e-6)
    step = 1e-2
    differences = (placed(latent + step * directions).numpy() - placed(latent - step * directions).numpy()) / (2 * step)
    np.testing.assert_allclose(tangents[0], differences, atol=0.02 * np.abs(differences).max())


def test_the_best_offset_and_gain_of_one_sound_in_another(tiny):
    sounds = tiny(tiny.sample_prior(0, 3)).numpy()
    offset, gain_db = np.array([0, 40, -33]), np.array([3.0, -6.0, 0.0])
    clips = place(sounds, -offset, -gain_db)
    found = fit_placement(clips, sounds, 50)
    assert found[0].tolist() == offset.tolist()
    np.testing.assert_allclose(found[1], gain_db, atol=1e-3)
    np.testing.assert_allclose(found[2], 0, atol=1e-6)
    np.testing.assert_array_equal(fit_placement(np.zeros_like(sounds), sounds, 50)[2], 1)


def test_the_candidates_are_the_best_of_different_offsets():
    offset, gain_db = np.array([[0, 3, 40, 41, -20], [5, 5, 6, 6, 5]]), np.arange(10.0).reshape(2, 5)
    share = np.array([[0.2, 0.1, 0.5, 0.4, 0.6], [0.5, 0.4, 0.1, 0.2, 0.3]])
    chosen = distinct(offset, gain_db, share, 10)
    assert chosen[0].tolist() == [[3, 41, -20] + 5 * [3], 8 * [6]]
    assert chosen[1].tolist() == [[1, 3, 4] + 5 * [1], 8 * [7]]


def test_shifted_and_amplified_samples_are_found_exactly(tiny, search):
    z = tiny.sample_prior(0, 5)
    offset, gain_db = np.array([0, 40, -33, 0, 17]), np.array([0.0, -6.0, 3.0, 12.0, -12.0])
    clips = place(tiny(z).numpy(), -offset, -gain_db)
    found = search(clips)
    found_z, found_offset, found_gain = search.generator.split(found.z)
    assert found.exact.all() and found.in_range.all()
    assert np.square(found_z - z).mean(axis=1).max() < 1e-6
    np.testing.assert_allclose(found_offset, offset, atol=0.05)
    np.testing.assert_allclose(found_gain, gain_db, atol=0.01)
    np.testing.assert_allclose(search.generator(found.z), clips, atol=1e-4)


def test_a_clip_that_is_no_sample_is_out_of_range_wherever_it_lies(search):
    noise = np.random.default_rng(1).normal(0, 0.2, (2, 1024, 1)).astype(np.float32)
    found = search(np.concatenate([noise, np.zeros((1, 1024, 1), np.float32)]))
    assert not found.in_range.any() and not found.exact.any() and np.isfinite(found.z).all()
