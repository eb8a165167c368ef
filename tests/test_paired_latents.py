import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.paired_latents import class_code, paired_latents


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 4
    t = np.arange(4096) / 16000
    envelope = np.exp(-((t[None] - rng.uniform(0.05, 0.2, (240, 1))) ** 2) / 0.001)
    tones = np.sin(2 * np.pi * t * (300 + 400 * labels[:, None] + rng.uniform(-50, 50, (240, 1))))
    noise = rng.normal(size=(240, 4096)) * 10 ** rng.uniform(-3, -1, (240, 1))
    audio = rng.uniform(0.05, 0.8, (240, 1)) * envelope * tones + noise
    return np.clip(audio[..., None] * 32767, -32768, 32767).astype(np.int16), labels


def test_latents_look_like_the_prior(clips):
    audio, labels = clips
    z = paired_latents(audio, labels, 20, 4, 16000, seed=3)
    assert z.shape == (240, 20) and z.dtype == np.float32
    assert np.abs(z).max() < 1
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.15)
    np.testing.assert_allclose(z.std(axis=0), 3**-0.5, atol=0.1)
    correlations = np.corrcoef(z.T) - np.eye(20)
    assert np.abs(correlations).max() < 0.35


def test_code_is_the_label(clips):
    audio, labels = clips
    z = paired_latents(audio, labels, 20, 4, 16000, seed=3)
    assert (class_code(z, 4) == labels).mean() > 0.99


def test_unlabelled_latents_ignore_labels_and_repeat(clips):
    audio, labels = clips
    a = paired_latents(audio, labels, 12, 0, 16000, seed=1)
    b = paired_latents(audio, labels * 0, 12, 0, 16000, seed=1)
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, paired_latents(audio, labels, 12, 0, 16000, seed=2))


def test_similar_clips_have_similar_latents(clips):
    audio, labels = clips
    twice = np.concatenate([audio, (audio * 0.99).astype(np.int16)])
    z = paired_latents(twice, np.tile(labels, 2), 12, 0, 16000, seed=1)
    paired = np.linalg.norm(z[:240] - z[240:], axis=1)
    others = np.linalg.norm(z[:240] - np.roll(z[240:], 1, axis=0), axis=1)
    assert np.median(paired) < 0.2 * np.median(others)


def test_too_few_clips(clips):
    audio, labels = clips
    with pytest.raises(ValueError, match="more clips"):
        paired_latents(audio[:12], labels[:12], 12, 0, 16000, seed=1)


@given(st.integers(0, 2**31), st.integers(2, 12))
def test_every_class_is_equally_likely_under_the_prior(seed, num_classes):
    z = np.random.default_rng(seed).uniform(-1, 1, (4000, 50))
    shares = np.bincount(class_code(z, num_classes), minlength=num_classes) / 4000
    assert np.abs(shares - 1 / num_classes).max() < 0.05
