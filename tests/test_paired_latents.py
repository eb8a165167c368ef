import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from utils.paired_latents import class_code, class_directions, decided_latents, paired_latents


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


@given(
    z=arrays(np.float32, (5, 23), elements=st.floats(-1, 1, width=32)),
    temperature=st.floats(0.01, 10),
)
def test_deciding_moves_the_code_alone(z, temperature):
    basis = np.zeros((4, 23))
    for k in range(4):
        basis[k, 5 * k : 5 * k + 5] = 1 / np.sqrt(5)
    decided = decided_latents(z, 4, temperature)
    rest = np.eye(23) - basis.T @ basis
    np.testing.assert_allclose(decided @ rest, z @ rest, atol=1e-5)
    before, after = z @ basis.T, decided @ basis.T
    np.testing.assert_allclose(after.sum(axis=1), 0, atol=1e-5)
    winners = np.take_along_axis(after, before.argmax(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(winners, after.max(axis=1), atol=1e-5)


def test_a_low_temperature_gives_the_mean_code_of_a_class_enlarged():
    z = np.random.default_rng(0).uniform(-1, 1, (20_000, 100)).astype(np.float32)
    decided = decided_latents(z, 10, 1e-4)
    codes, expected = (np.sort(x.reshape(-1, 10, 10).sum(axis=2), axis=1).mean(axis=0) for x in (decided, z))
    assert codes[-1] == pytest.approx(1.25 * expected[-1], rel=0.03)
    np.testing.assert_allclose(codes[:-1], 1.25 * expected[:-1].mean(), atol=0.05)


def test_class_directions_hold_the_code_and_nothing_else():
    directions = class_directions(23, 4)
    np.testing.assert_allclose(directions @ directions.T, np.eye(4), atol=1e-12)
    z = np.random.default_rng(0).uniform(-1, 1, (50, 23))
    alone = z @ directions.T @ directions
    np.testing.assert_array_equal(class_code(alone, 4), class_code(z, 4))
    decided = decided_latents(z.astype(np.float32), 4, 0.14)
    np.testing.assert_allclose((decided - z) - (decided - z) @ directions.T @ directions, 0, atol=1e-6)
