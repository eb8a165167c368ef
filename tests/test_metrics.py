"""utils/metrics.py against TensorFlow, scikit-image, SciPy and closed forms."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from utils import losses, metrics, spectrograms

RNG = np.random.default_rng(0)
ORIGINAL = RNG.uniform(-0.5, 0.5, (4096, 2))
NOISE = RNG.normal(0, 0.05, (4096, 2))


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_ssim_equals_tensorflows(scale):
    a, b = ORIGINAL, ORIGINAL + scale * NOISE
    x, y = (spectrograms.stft_real(tf.constant(v[None], tf.float32)) for v in (a, b))
    max_val = max(np.max(x), np.max(y)) - min(np.min(x), np.min(y))
    assert metrics.ssim(a, b) == pytest.approx(float(tf.image.ssim(x, y, max_val)[0]), abs=1e-5)


def test_ssim_of_equal_clips_is_one_however_short():
    for length in (1, 100, 500, 1300, 4096):
        assert metrics.ssim(ORIGINAL[:length], ORIGINAL[:length]) == pytest.approx(1)
    for length in (100, 500, 1300, 4096):
        assert metrics.ssim(ORIGINAL[:length], -ORIGINAL[:length]) < 0.99


def test_mse_and_snr_by_hand():
    original, reconstruction = np.full((10, 1), 0.5), np.full((10, 1), 0.45)
    assert metrics.waveform_mse(original, reconstruction) == pytest.approx(0.0025)
    assert metrics.snr_db(original, reconstruction) == pytest.approx(20)
    assert metrics.latent_mse(np.ones((2, 3)), np.zeros((2, 3))) == 1


def test_silence_has_defined_numbers():
    silence, noise = np.zeros((2048, 1)), NOISE[:2048, :1]
    assert metrics.snr_db(silence, noise) is None and metrics.snr_db(silence, silence) is None
    assert metrics.snr_db(noise, silence) == pytest.approx(0)
    assert metrics.snr_db(noise, noise) == metrics.SNR_CAP_DB
    assert metrics.ssim(silence, silence) == 1
    assert np.isfinite(metrics.ssim(silence, noise))


@given(arrays(np.float32, (2, 300, 1), elements=st.floats(-1, 1, width=32)))
def test_numbers_are_finite_for_any_audio(pair):
    numbers = [metrics.waveform_mse(*pair), metrics.snr_db(*pair), metrics.ssim(*pair)]
    assert all(number is None or np.isfinite(number) for number in numbers)


@pytest.mark.parametrize("metric", [metrics.waveform_mse, metrics.snr_db, metrics.ssim, metrics.latent_mse])
def test_unequal_shapes_are_refused(metric):
    with pytest.raises(ValueError, match="one shape"):
        metric(ORIGINAL, ORIGINAL[:-1])


# ---- against independent references ---------------------------------------------


def test_log_magnitude_equals_the_front_end_and_has_no_ear_for_phase():
    expected = spectrograms.log_magnitude(tf.constant(ORIGINAL[None], tf.float32))[0]
    np.testing.assert_allclose(metrics.log_magnitude(ORIGINAL), expected, atol=1e-3)
    silence = np.zeros_like(ORIGINAL)
    expected = spectrograms.log_magnitude(tf.constant(silence[None], tf.float32))[0]
    np.testing.assert_allclose(metrics.log_magnitude(silence), expected, atol=1e-5)
    assert metrics.ssim_log_magnitude(ORIGINAL, -ORIGINAL) == pytest.approx(1)
    assert metrics.ssim(ORIGINAL, -ORIGINAL) < 0.5


@pytest.mark.parametrize("reconstruction", [ORIGINAL + NOISE, np.zeros_like(ORIGINAL)])
def test_stft_distance_equals_the_loss(reconstruction):
    audio, target = (tf.constant(x[None], tf.float32) for x in (reconstruction, ORIGINAL))
    expected = losses.TERMS["mr_stft"](losses.Point(audio, target, tf.zeros([1, 1]), "uniform"))
    assert metrics.stft_distance(ORIGINAL, reconstruction) == pytest.approx(float(expected[0]), rel=1e-4)


def test_log_mel_correlation_equals_scipys_and_no_fixed_answer_has_any():
    clips, answer = RNG.normal(0, 1, (30, 12, 8, 1)), RNG.normal(3, 2, (12, 8, 1))
    mean = clips.mean(axis=0)
    expected = scipy.stats.pearsonr((clips[0] - mean).ravel(), (clips[1] - mean).ravel()).statistic
    assert metrics.log_mel_correlation(clips[0], clips[1], mean) == pytest.approx(expected)
    assert metrics.log_mel_correlation(clips[0], 0.5 * clips[0] + 0.5 * mean + 0.2, mean) == pytest.approx(1)
    assert metrics.log_mel_correlation(clips[0], clips[0], clips[0]) == 0  # the only clip of its digit
    for fixed in (answer, np.full_like(answer, -7.0), mean):
        covariances = [metrics.log_mel_correlation(clip, fixed, mean) * np.std(clip - mean) for clip in clips]
        assert np.mean(covariances) == pytest.approx(0, abs=1e-9)


RATE = 16000


def voice(f0: np.ndarray, seconds: float = 0.4) -> np.ndarray:
    """A second `[T, 1]` of which this long has twelve harmonics of f0 Hz (a number or one a sample)."""
    count = int(seconds * RATE)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(f0, count)) / RATE
    sound = sum(np.sin(k * phase) / k for k in range(1, 13)) * np.hanning(count)
    return np.pad(0.2 * sound, (4000, RATE - count - 4000))[:, None]


def f0(clip: np.ndarray) -> np.ndarray:
    return metrics.f0(clip[None], RATE)[0]


def test_f0_is_that_of_a_known_voice_with_any_number_of_channels():
    glide = np.linspace(110, 165, int(0.4 * RATE))
    track = f0(np.tile(voice(glide), (1, 2)))
    voiced = np.flatnonzero(track)
    assert metrics.FEWEST_VOICED < len(voiced) <= 0.45 * RATE / 256
    expected = glide[np.clip(voiced * 256 - 4000, 0, len(glide) - 1)]
    assert np.median(np.abs(12 * np.log2(track[voiced] / expected))) < 0.4
    assert len(f0(voice(200)[: RATE // 2])) == 1 + RATE // 2 // 256


def test_f0_error_is_the_interval_in_semitones():
    low = f0(voice(120))
    for semitones in (-3, 0.5, 2, 7):
        other = f0(voice(120 * 2 ** (semitones / 12)))
        assert metrics.f0_error(low, other) == pytest.approx(abs(semitones), abs=0.15)


def test_f0_frame_error_by_hand():
    track, other = np.array([100.0, 100, 0, 0, 200]), np.array([119.0, 121, 150, 0, 0])
    # In turn: within 20 %, beyond, voiced in one alone, in neither, in the other alone.
    assert metrics.f0_frame_error(track, other) == pytest.approx(3 / 5)
    assert metrics.f0_frame_error(np.zeros(5), np.zeros(5)) == metrics.f0_frame_error(track, track) == 0


def test_silence_cannot_win_by_having_no_pitch():
    track = f0(voice(120))
    silent = f0(np.zeros((RATE, 1)))
    assert silent.shape == track.shape and not silent.any()
    assert metrics.f0_error(track, silent) == metrics.OCTAVE
    assert metrics.f0_frame_error(track, silent) == pytest.approx(np.mean(track > 0)) != 0
    assert metrics.f0_error(track, np.roll(track, len(track) // 2)) == metrics.OCTAVE  # voiced, but never together
    assert metrics.f0_error(silent, track) is None
    assert metrics.f0_error(track, 3 * track) == metrics.OCTAVE
    tracks = np.stack([track, track, track, silent])
    silenced = metrics.Row(original_f0=tracks, reconstruction_f0=np.zeros_like(tracks))
    assert metrics.measure("f0_error", silenced) == {"value": metrics.OCTAVE, "n": 3}
    assert metrics.measure("f0_frame_error", silenced)["n"] == 4  # every clip has one
    assert metrics.measure("f0_error", metrics.Row(original_f0=tracks[2:], reconstruction_f0=tracks[2:])) is None


def test_inception_score_by_its_definition():
    p = RNG.dirichlet(np.full(10, 0.3), 40)
    divergences = [sum(row * np.log(row / p.mean(axis=0))) for row in p]
    assert metrics.inception_score(p)[0] == pytest.approx(np.exp(np.mean(divergences)))
    assert metrics.inception_score(np.tile(np.eye(10), (3, 1))) == pytest.approx((10, 0))
    assert metrics.inception_score(np.full((7, 10), 0.1))[0] == pytest.approx(1)


def test_inception_score_shows_a_collapse_that_entropy_without_its_axis_hides():
    p = np.eye(10)[[0] * 91 + list(range(1, 10))]  # 91 of 100 clips are of one class
    marginal = np.tile(p.mean(axis=0), (len(p), 1))
    defined = np.exp(scipy.stats.entropy(p, marginal, axis=1).mean())
    assert metrics.inception_score(p)[0] == pytest.approx(defined) and defined < 1.7
    assert np.exp(scipy.stats.entropy(p, marginal).mean()) > 10


def test_inception_score_of_a_missing_class_and_of_splits():
    certain = np.eye(10)[np.arange(80) % 8]  # two digits never come
    assert metrics.inception_score(certain)[0] == pytest.approx(8)
    p = RNG.dirichlet(np.full(10, 0.3), 41)
    order = np.random.default_rng(5).permutation(41)
    halves = [metrics.inception_score(part)[0] for part in (p[order[:20]], p[order[20:]])]
    assert metrics.inception_score(p, 2, seed=5) == pytest.approx((np.mean(halves), np.std(halves)))
    with pytest.raises(ValueError, match="splits"):
        metrics.inception_score(p, 42)


@pytest.mark.parametrize("n, m, dimension", [(60, 40, 5), (30, 30, 30)])
def test_frechet_distance_equals_scipys_matrix_root(n, m, dimension):
    x = RNG.normal(0, 1, (n, dimension)) @ RNG.normal(0, 1, (dimension, dimension))
    y = RNG.normal(0.3, 2, (m, dimension))
    cx, cy = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(cx @ cy).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cx + cy - 2 * root)
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_with_fewer_clips_than_features():
    x = np.zeros((9, 64))
    x[:, :3] = RNG.normal(0, 1, (9, 3))
    y = np.zeros((12, 64))
    y[:, :3] = RNG.normal(1, 2, (12, 3))
    assert metrics.frechet_distance(x, y) == pytest.approx(metrics.frechet_distance(x[:, :3], y[:, :3]))
    rotation = np.linalg.qr(RNG.normal(0, 1, (64, 64)))[0]
    assert metrics.frechet_distance(x @ rotation, y @ rotation) == pytest.approx(metrics.frechet_distance(x, y))
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(np.zeros((2, 64)), np.ones((2, 64))) == pytest.approx(64)
    with pytest.raises(ValueError, match="at least 2"):
        metrics.frechet_distance(x[:1], y)


@given(arrays(np.float32, (2, 3, 5), elements=st.floats(-1e3, 1e3, width=32)))
def test_frechet_distance_is_a_number_that_is_symmetric(sets):
    distance = metrics.frechet_distance(*sets)
    assert np.isfinite(distance) and distance >= 0
    assert metrics.frechet_distance(*sets[::-1]) == pytest.approx(distance, rel=1e-6, abs=1e-6)


# ---- of a row --------------------------------------------------------------------

N = 30
ROW = metrics.Row(
    original=RNG.uniform(-0.5, 0.5, (N, 2048, 1)),
    reconstruction=RNG.uniform(-0.5, 0.5, (N, 2048, 1)),
    probabilities=RNG.dirichlet(np.full(10, 0.3), N),
    features=RNG.normal(0, 1, (N, 50)),
    reference_features=RNG.normal(0, 1, (N, 50)),
    labels=np.arange(N) % 10,
    original_log_mel=RNG.normal(0, 1, (N, 6, 5, 1)),
    reconstruction_log_mel=RNG.normal(0, 1, (N, 6, 5, 1)),
    digit_log_mel=RNG.normal(0, 1, (N, 6, 5, 1)),
    original_f0=RNG.uniform(100, 200, (N, 9)) * (RNG.uniform(0, 1, (N, 9)) < 0.9),
    reconstruction_f0=RNG.uniform(100, 200, (N, 9)) * (RNG.uniform(0, 1, (N, 9)) < 0.9),
    z=RNG.uniform(-1.2, 1.2, (N, 8)),
    z_true=RNG.uniform(-1, 1, (N, 8)),
    z_reference=RNG.uniform(-1, 1, (N, 8)),
    bound=1.0,
    splits=2,
)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_each_metric_lies_in_its_interval_and_is_the_same_again(name):
    estimate = metrics.measure(name, ROW, resamples=50)
    assert estimate["low"] <= estimate["value"] <= estimate["high"] and estimate["low"] < estimate["high"]
    assert estimate == metrics.measure(name, ROW, resamples=50)
    assert ("std" in estimate) == (name == "inception_score") and estimate["n"] == N


@pytest.mark.parametrize("name", metrics.METRICS)
def test_what_is_not_known_has_no_number(name):
    for field in metrics.METRICS[name].needs:
        assert metrics.measure(name, ROW._replace(**{field: None})) is None
    arrays = {field: getattr(ROW, field) for field in metrics.METRICS[name].needs}
    one = {field: value[:1] for field, value in arrays.items() if isinstance(value, np.ndarray)}
    assert metrics.measure(name, ROW._replace(**one)) is None


def test_numbers_of_a_row_by_hand():
    def value(name):
        return metrics.measure(name, ROW, resamples=2)["value"]

    assert value("waveform_mse") == pytest.approx(np.mean((ROW.original - ROW.reconstruction) ** 2))
    assert value("latent_mse") == pytest.approx(np.mean((ROW.z - ROW.z_true) ** 2))
    assert value("outside_prior") == pytest.approx(np.mean(np.abs(ROW.z) > 1))
    assert value("inception_score") == pytest.approx(metrics.inception_score(ROW.probabilities, 2)[0])
    assert value("latent_frechet_distance") == pytest.approx(metrics.frechet_distance(ROW.z, ROW.z_reference))
    assert value("accuracy") == np.mean(ROW.probabilities.argmax(axis=1) == ROW.labels)
    assert value("ssim") == pytest.approx(
        np.mean([metrics.ssim(*p) for p in zip(ROW.original, ROW.reconstruction, strict=True)])
    )


def test_the_interval_of_a_mean_is_as_wide_as_the_standard_error_says():
    z = RNG.normal(0, 1, (400, 1))
    row = metrics.Row(z=z, z_true=np.zeros_like(z))
    estimate = metrics.measure("latent_mse", row, resamples=2000)
    assert estimate["high"] - estimate["low"] == pytest.approx(2 * 1.96 * np.std(z**2) / 20, rel=0.15)
