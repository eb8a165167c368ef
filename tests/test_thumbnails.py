"""Pictures are checked by decoding them: the PNG with matplotlib's reader, the SVG path by walking it."""

import io
import re
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from utils.report.thumbnails import data_uri, spectrogram_db, spectrogram_png, waveform_svg

RATE = 16000


def tone(frequency: float, samples: int = 16384, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(samples) / RATE)).astype(np.float32)[:, None]


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def outline_heights(svg: str) -> np.ndarray:
    """The y coordinates that the outline visits, walking its `M`, `v` and `V` commands."""
    path = ElementTree.fromstring(svg)[0].attrib["d"]
    y, visited = 0, []
    for command, number in re.findall(r"([MvV])(?:0 )?(-?\d+)", path):
        y = y + int(number) if command == "v" else int(number)
        visited.append(y)
    return np.array(visited)


@pytest.mark.parametrize("samples, columns", [(1, 1), (128, 1), (129, 2), (16384, 128), (200_000, 256)])
def test_spectrogram_has_a_column_for_each_hop_up_to_the_limit(samples, columns):
    assert spectrogram_db(tone(500, samples)).shape == (129, columns)


def test_spectrogram_agrees_with_scipy():
    rng = np.random.default_rng(0)
    audio = rng.uniform(-1, 1, (16384, 2)).astype(np.float32)
    window = signal.get_window("hann", 256)
    reference = signal.ShortTimeFFT(window, hop=128, fs=RATE, fft_mode="onesided")
    padded = np.pad(audio, ((0, 128), (0, 0)))
    power = np.abs(reference.stft(padded, axis=0, p0=1, p1=129)) ** 2  # frame p is centred at 128 p
    expected = 10 * np.log10(power.mean(axis=1) / (window.sum() / 2) ** 2 + 1e-14)
    np.testing.assert_allclose(spectrogram_db(audio), expected, atol=1e-3)


def test_full_scale_tone_is_zero_decibels_and_a_long_one_too():
    for samples in (16384, 400_000):
        decibels = spectrogram_db(tone(2000, samples))
        assert decibels.argmax(axis=0).tolist() == [32] * decibels.shape[1]
        np.testing.assert_allclose(decibels[32, :-1], 0, atol=0.01)


@pytest.mark.parametrize("frequency", [500, 2000, 6000])
def test_a_tone_is_a_bright_row_at_its_frequency_counted_from_below(frequency):
    picture = pixels(spectrogram_png(spectrogram_db(tone(frequency)), top=0))
    assert picture.shape == (129, 128, 3)
    brightest = picture.sum(axis=2).mean(axis=1).argmax()
    assert brightest == 128 - frequency / (RATE / 2) * 128


def test_louder_is_brighter_on_a_common_scale_and_silence_is_dark():
    loud, soft = (spectrogram_db(tone(2000, amplitude=a)) for a in (0.5, 0.05))
    light = [pixels(spectrogram_png(d, top=loud.max()))[96].sum(axis=1).mean() for d in (loud, soft)]
    assert light[0] > light[1] > 0.1
    silence = spectrogram_db(np.zeros((16384, 1)))
    assert pixels(spectrogram_png(silence, top=float(silence.max()))).max() < 0.05


def test_pictures_are_small():
    noise = np.random.default_rng(0).normal(0, 0.1, (16384 * 40, 1))
    for audio in (noise[:16384], noise):
        decibels = spectrogram_db(audio)
        assert len(data_uri(spectrogram_png(decibels, decibels.max()))) < 33_000
        assert len(waveform_svg(audio, 1.0)) < 5000


def test_waveform_reaches_the_peak_on_both_sides():
    audio = np.zeros((16384, 1), np.float32)
    audio[5000], audio[9000] = 0.5, -0.25
    heights = outline_heights(waveform_svg(audio, 0.5, height=120))
    assert (heights.min(), heights.max()) == (0, 90)
    assert heights[0] == 60


def test_waveform_spans_all_channels():
    audio = np.stack([np.full(1000, 0.5), np.full(1000, -1.0)], axis=1)
    assert set(outline_heights(waveform_svg(audio, 1.0, height=120))) == {30, 120}


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(0, 700),
    channels=st.integers(1, 3),
    peak=st.floats(0, 2),
    odd=st.sampled_from([0.0, np.nan, np.inf, -np.inf]),
)
def test_any_audio_is_drawn(samples, channels, peak, odd):
    audio = np.random.default_rng(samples).normal(0, 1, (samples, channels)).astype(np.float32)
    audio[: samples // 2] = odd
    heights = outline_heights(waveform_svg(audio, peak))
    assert heights.min() >= 0 and heights.max() <= 120
    decibels = spectrogram_db(audio)
    assert np.isfinite(decibels).all()
    assert pixels(spectrogram_png(decibels, decibels.max())).shape == (*decibels.shape, 3)
