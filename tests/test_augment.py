"""utils/audio/augment.py: each augmentation does what it says, and all of them are functions of the seed."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from utils.audio.augment import (
    AUGMENTATIONS,
    add_coloured_noise,
    augment,
    augment_heavily,
    change_channel,
    change_speed,
    impulse_responses,
    pass_codec,
)

RATE, LENGTH = 16000, 4096
SEED = tf.constant([7, 9])
HEAVY = tf.function(augment_heavily)


def noise(clips=4, level=0.1, channels=1):
    return level * tf.random.stateless_normal([clips, LENGTH, channels], [1, 2])


def tone(hz):
    return 0.5 * np.sin(2 * np.pi * hz / RATE * np.arange(LENGTH))[None, :, None].astype(np.float32)


def rms(audio):
    return np.sqrt(np.mean(np.square(audio), axis=(1, 2)))


def power_db(audio, low, high):
    """Mean power of the bins from `low` to `high` Hz, over all clips."""
    power = np.abs(np.fft.rfft(np.asarray(audio)[:, :, 0] * np.hanning(LENGTH))) ** 2
    hz = np.fft.rfftfreq(LENGTH, 1 / RATE)
    return 10 * np.log10(power[:, (hz >= low) & (hz < high)].mean())


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
@given(st.integers(0, 2**31 - 1), st.floats(0, 8))
def test_any_is_a_function_of_the_seed_finite_and_within_full_scale(name, seed, level):
    augmentation = HEAVY if name == "heavy" else AUGMENTATIONS[name]
    audio = tf.clip_by_value(noise(level=level), -1, 1)
    changed = augmentation(audio, tf.constant([seed, 1])).numpy()
    assert changed.shape == audio.shape and changed.dtype == np.float32
    assert np.isfinite(changed).all() and np.abs(changed).max() <= 1
    np.testing.assert_array_equal(changed, augmentation(audio, tf.constant([seed, 1])))
    if level > 0.01:
        assert np.any(changed != augmentation(audio, tf.constant([seed, 2])))


def test_clips_of_a_batch_are_changed_differently():
    changed = HEAVY(tf.repeat(noise(1), 4, axis=0), SEED).numpy()
    assert all(np.abs(changed[i] - changed[j]).max() > 1e-3 for i in range(4) for j in range(i))
    assert augment_heavily(noise(2, channels=2), SEED, sample_rate=8000).shape == (2, LENGTH, 2)


def test_speed_moves_the_pitch_and_leaves_the_middle():
    np.testing.assert_allclose(change_speed(noise(), SEED, speed=(1.0, 1.0)), noise(), atol=1e-6)
    faster = change_speed(tone(500), SEED, speed=(2.0, 2.0)).numpy()
    assert np.abs(np.fft.rfft(faster[0, :, 0])).argmax() == 1000 * LENGTH // RATE
    assert np.abs(faster[0, : LENGTH // 4]).max() == np.abs(faster[0, -LENGTH // 4 + 1 :]).max() == 0
    click = np.zeros((1, LENGTH + 1, 1), np.float32)
    click[0, LENGTH // 2] = 1
    assert np.argmax(change_speed(click, SEED, speed=(0.8, 1.2))) == LENGTH // 2


OFF = dict(reverberated=0.0, tilt_db=(0.0, 0.0), limited=0.0)


def test_channel_off_changes_nothing():
    np.testing.assert_allclose(change_channel(noise(), SEED, **OFF), noise(), atol=1e-6)


def test_channel_tilts():
    tilted = change_channel(noise(), SEED, **{**OFF, "tilt_db": (3.0, 3.0)})
    slope = (power_db(tilted, 4000, 4400) - power_db(noise(), 4000, 4400)) - (
        power_db(tilted, 500, 550) - power_db(noise(), 500, 550)
    )
    assert slope == pytest.approx(9, abs=1)  # three octaves


def test_channel_limits_the_band_and_keeps_the_level():
    limited = change_channel(noise(), SEED, **{**OFF, "limited": 1.0}, low_hz=(400, 400), high_hz=(3000, 3000))
    inside = power_db(limited, 800, 1500)
    assert power_db(limited, 50, 100) < inside - 40 and power_db(limited, 7000, 8000) < inside - 25
    np.testing.assert_allclose(rms(limited), rms(noise()), rtol=1e-4)


def test_channel_reverberates_with_one_of_the_rooms():
    click = np.zeros((8, LENGTH, 1), np.float32)
    click[:, 100] = 0.5
    reverberated = change_channel(click, SEED, **{**OFF, "reverberated": 1.0}).numpy()[:, 100:, 0]
    rooms = impulse_responses(RATE)[:, : LENGTH - 100]
    rooms = rooms / np.linalg.norm(rooms, axis=1, keepdims=True)
    reverberated = reverberated / np.linalg.norm(reverberated, axis=1, keepdims=True)
    likeness = reverberated @ rooms.T
    np.testing.assert_allclose(likeness.max(axis=1), 1, atol=1e-3)
    assert len(set(likeness.argmax(axis=1))) > 1


def test_impulse_responses_decay_as_they_say():
    rooms = impulse_responses(RATE).astype(np.float64)
    np.testing.assert_allclose((rooms**2).sum(axis=1), 1, rtol=1e-5)
    for room, seconds in zip(rooms, np.geomspace(0.1, 0.8, len(rooms)), strict=True):
        remaining = np.cumsum(room[::-1] ** 2)[::-1]  # Schroeder's backward integration
        begin, end = (int(seconds * share * RATE) for share in (0.25, 0.75))
        fall = 10 * np.log10(remaining[begin] / remaining[end])
        assert fall == pytest.approx(30, abs=6)


def test_coloured_noise_has_the_ratio_and_the_colour():
    np.testing.assert_array_equal(add_coloured_noise(noise(), SEED, noisy=0.0), noise())
    for exponent, octave_db in ((0.0, 0), (1.0, -3), (2.0, -6)):
        changed = add_coloured_noise(noise(16), SEED, noisy=1.0, snr_db=(20, 20), exponent=(exponent, exponent))
        added = changed - noise(16)
        np.testing.assert_allclose(rms(added), 0.1 * rms(noise(16)), rtol=1e-3)
        slope = (power_db(added, 4000, 4400) - power_db(added, 500, 550)) / 3
        assert slope == pytest.approx(octave_db, abs=0.6)


def test_codecs_are_what_they_say():
    ramp = tf.reshape(tf.linspace(-1.0, 1.0, LENGTH), [1, LENGTH, 1])
    np.testing.assert_array_equal(pass_codec(ramp, SEED, shares=(1, 0, 0, 0)), ramp)

    mu_law = pass_codec(ramp, SEED, shares=(0, 1, 0, 0)).numpy()
    assert len(np.unique(mu_law)) <= 255
    loud = np.abs(ramp) > 0.02
    assert np.abs(mu_law / ramp - 1)[loud].max() < 0.04  # steps in proportion to the sample

    few_bits = pass_codec(tf.repeat(ramp, 16, axis=0), SEED, shares=(0, 0, 1, 0)).numpy()
    steps = {len(np.unique(clip)) - 1 for clip in few_bits}
    assert steps <= {64, 128, 256, 512} and len(steps) > 1

    half_rate = lambda audio: pass_codec(audio, SEED, shares=(0, 0, 0, 1)).numpy()  # noqa: E731
    np.testing.assert_allclose(half_rate(tone(100)), tone(100), atol=0.02)
    alternating = np.resize([0.5, -0.5], (1, LENGTH, 1)).astype(np.float32)
    assert np.abs(half_rate(alternating)).max() < 1e-6


def test_augment_does_what_it_says_and_no_more():
    audio = 0.1 * tf.random.stateless_normal([4, 4096, 1], [1, 2])
    seed = tf.constant([7, 9])
    off = dict(max_shift=0, gain_db=(0.0, 0.0), snr_db=(200.0, 200.0), max_time_mask=0.0, max_band_mask=0.0)
    np.testing.assert_allclose(augment(audio, seed, **off), audio, atol=1e-6)

    louder = augment(audio, seed, **{**off, "gain_db": (6.0206, 6.0206)})
    np.testing.assert_allclose(louder, 2 * audio, atol=1e-4)

    shifted = augment(audio, seed, **{**off, "max_shift": 300}).numpy()
    lags = [
        np.argmax(np.correlate(s[:, 0], a[:, 0], "full")) - 4095 for s, a in zip(shifted, audio.numpy(), strict=True)
    ]
    assert max(map(abs, lags)) <= 300 and len(set(lags)) > 1
    for clip, lag in zip(shifted, lags, strict=True):
        assert np.abs(clip[:lag] if lag > 0 else clip[lag:] if lag else clip[:0]).max(initial=0) < 1e-6

    noisy = augment(audio, seed, **{**off, "snr_db": (20.0, 20.0)}) - audio
    assert abs(10 * np.log10(np.mean(noisy**2) / np.mean(audio**2)) + 20) < 0.5

    masked = augment(audio, seed, **{**off, "max_time_mask": 0.5}).numpy()
    assert 0 < (masked == 0).mean() <= 0.5

    band = augment(audio, seed, **{**off, "max_band_mask": 0.5}).numpy()
    lost = (np.abs(np.fft.rfft(band[:, :, 0])) < 1e-4).mean(axis=1)
    assert (lost > 0).any() and (lost < 0.9).all()

    assert np.abs(augment(20 * audio, seed)).max() <= 1
    np.testing.assert_array_equal(augment(audio, seed), augment(audio, seed))
    assert np.any(augment(audio, seed) != augment(audio, seed + 1))
