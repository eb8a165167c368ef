"""Pitch of known sounds, of silence and of noise, and its cache."""

import numpy as np
import pytest

from utils.audio.pitch import pitch, pitches

RATE, HOP = 16000, 256


def harmonics(hertz, num_samples=16384, rate=RATE):
    t = np.arange(num_samples) / rate
    return sum(0.1 / k * np.sin(2 * np.pi * hertz * k * t) for k in range(1, 8)).astype(np.float32)


@pytest.mark.parametrize("hertz", [90.0, 150.0, 330.0])
def test_the_pitch_of_harmonics_is_their_fundamental(hertz):
    found = pitch(harmonics(hertz), RATE, HOP)
    assert found.shape == (65,)
    assert np.mean(found > 0) > 0.9
    np.testing.assert_allclose(found[found > 0], hertz, rtol=0.01)


def test_another_rate_and_hop():
    found = pitch(harmonics(200.0, 65536, 44100), 44100, 1024)
    np.testing.assert_allclose(np.median(found[found > 0]), 200.0, rtol=0.01)


def test_silence_and_noise_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(16384).astype(np.float32)
    assert not pitch(np.zeros(16384, np.float32), RATE, HOP).any()
    assert np.mean(pitch(noise, RATE, HOP) > 0) < 0.1


def test_pitches_are_kept_and_follow_the_samples(tmp_path):
    clips = np.stack([harmonics(120.0), harmonics(240.0)])[..., None]
    first = pitches(clips, RATE, HOP, tmp_path, quiet=True)
    (kept,) = (tmp_path / "pitch").glob("*.npy")
    np.save(kept, first + 1)
    np.testing.assert_array_equal(pitches(clips, RATE, HOP, tmp_path, quiet=True), first + 1)
    stereo = np.concatenate([clips[::-1], clips[::-1]], axis=2)
    np.testing.assert_allclose(
        np.median(pitches(stereo, RATE, HOP, tmp_path, quiet=True), axis=1), [240, 120], rtol=0.02
    )
