"""utils/metrics.py against TensorFlow's image SSIM and closed forms."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from utils import metrics, spectrograms

RNG = np.random.default_rng(0)
ORIGINAL = RNG.uniform(-0.5, 0.5, (4096, 2))
NOISE = RNG.normal(0, 0.05, (4096, 2))


def test_stft_real_equals_the_front_end():
    expected = spectrograms.stft_real(tf.constant(ORIGINAL[None], tf.float32))[0]
    np.testing.assert_allclose(metrics.stft_real(ORIGINAL), expected, atol=1e-5)


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
