"""Features of clips and their code."""

import numpy as np
import pytest
import tensorflow as tf

from models.features import (
    BANDS,
    FRAMES,
    NO_VOICE,
    Clips,
    FrontEnd,
    PrincipalCode,
    energy_centre,
    log_f0_contour,
    moved,
)
from utils.audio.datasets import load_dataset
from utils.audio.files import write_wav
from utils.errors import UserError


def harmonics(hertz, num_samples=16384, rate=16000):
    t = np.arange(num_samples) / rate
    return np.float32(sum(0.1 / k * np.sin(2 * np.pi * hertz * k * t) for k in range(1, 8)))[None, :, None]


@pytest.mark.parametrize(("num_samples", "rate"), [(16384, 16000), (65536, 44100), (16384, 8000)])
def test_autocorrelation_is_one_at_the_period_and_zero_in_silence(num_samples, rate):
    front_end = FrontEnd(num_samples, rate)
    found = front_end.autocorrelation(harmonics(200.0, num_samples, rate)).numpy()[0, FRAMES // 2]
    # The octave below is a period too.
    assert min(abs(rate / front_end.lags[found.argmax()] / hertz - 1) for hertz in (200, 100)) < 0.05
    assert 0.85 < found.max() < 1.1
    assert not front_end.autocorrelation(np.zeros((1, num_samples, 2), np.float32)).numpy().any()
    assert front_end.log_mel(np.zeros((1, num_samples, 2), np.float32)).shape == (1, FRAMES, BANDS)


def test_a_rate_too_low_for_voices_is_one_line():
    with pytest.raises(UserError, match="--sample_rate of 2000 Hz"):
        FrontEnd(16384, 1000)


def test_a_contour_fills_gaps_drops_octave_errors_and_is_defined_without_voice():
    hertz = np.full(65, 120.0)
    hertz[20:30], hertz[40] = 0, 480
    np.testing.assert_allclose(log_f0_contour(hertz, 7.0), np.log2(120.0))
    np.testing.assert_array_equal(log_f0_contour(np.zeros(65), 7.0), 7.0)
    two_voices = np.array([100.0] * 5 + [400.0] * 5)
    assert np.isfinite(log_f0_contour(two_voices, 7.0)).all()


def test_clips_move_by_whole_samples_and_silence_is_central():
    clips = np.zeros((3, 100, 1), np.float32)
    clips[0, 30], clips[1, 70] = 1, 1
    np.testing.assert_array_equal(energy_centre(clips), [30, 70, 50])
    centred = moved(clips, np.array([20, -20, 0]))
    assert centred[0, 50] == centred[1, 50] == 1 and centred.sum() == 2


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four tones, one of them late, and silence."""
    folder = tmp_path_factory.mktemp("tones")
    for i, hertz in enumerate((100, 150, 220, 220)):
        tone = harmonics(hertz)[0]
        tone[: 10000 if i == 3 else 6000], tone[14000 if i == 3 else 10000 :] = 0, 0
        write_wav(folder / f"{i}.wav", tone, 16000)
    write_wav(folder / "silence.wav", np.zeros((16384, 1), np.float32), 16000)
    dataset = load_dataset(folder, split="all", cache_dir=folder / "cache", quiet=True)
    return Clips(dataset, None, folder / "cache", quiet=True)


def test_features_hold_the_pitch_and_do_not_depend_on_where_the_sound_stands(clips):
    index = np.arange(5)
    features = clips.features(np.zeros(5, int), index)
    log_f0, periodicity = features[:, -2 * FRAMES : -FRAMES], features[:, -FRAMES:]
    np.testing.assert_allclose(2 ** log_f0[:4, FRAMES // 2], [100, 150, 220, 220], rtol=0.02)
    assert (periodicity[:4, FRAMES // 2] > 0.8).all() and not periodicity[4].any()
    np.testing.assert_allclose(features[2], features[3], atol=0.05)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(log_f0[4], clips.absent)


def test_a_corpus_without_voice_has_a_defined_pitch(tmp_path):
    for i in range(2):
        write_wav(tmp_path / f"{i}.wav", np.zeros((16384, 1), np.float32), 16000)
    dataset = load_dataset(tmp_path, split="all", cache_dir=tmp_path / "cache", quiet=True)
    silent = Clips(dataset, 0, tmp_path / "cache", quiet=True)
    assert silent.absent == NO_VOICE and silent.voiced_share == 0
    assert np.isfinite(silent.features(np.zeros(2, int), np.arange(2))).all()


def test_a_code_of_full_rank_is_lossless_and_white_with_pitch_by_itself():
    random = np.random.default_rng(0)
    pitch = random.standard_normal((300, 3)) @ random.standard_normal((3, FRAMES))
    others = random.standard_normal((300, 5)) @ random.standard_normal((5, FRAMES * BANDS + FRAMES))
    features = np.float32(np.insert(others, [FRAMES * BANDS] * FRAMES, pitch, axis=1))
    code = PrincipalCode.fit(features, 8, 0)
    w = code.encode(features)
    for part in (slice(0, 3), slice(3, 8)):
        np.testing.assert_allclose(np.cov(w[:, part].T), np.eye(part.stop - part.start), atol=0.02)
    np.testing.assert_allclose(code.decode(tf.constant(w)), features, atol=2e-2)
    assert all(value > 0.999 for name, value in code.explained(features).items() if name.endswith("explained"))
    is_pitch = np.zeros(features.shape[1], bool)
    is_pitch[-2 * FRAMES : -FRAMES] = True
    assert not code.components[:3, ~is_pitch].any() and not code.components[3:, is_pitch].any()
    other = features.copy()
    other[:, : FRAMES * BANDS] += 0.1
    difference = (other - features)[:, : FRAMES * BANDS].reshape(-1, FRAMES, BANDS)
    np.testing.assert_allclose(code.log_mel_difference(difference), code.encode(other) - w, atol=1e-2)
