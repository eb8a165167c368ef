"""utils/spectrograms.py against SciPy, and its twin utils/numpy_spectrograms.py against it."""

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from models.front_ends import LogMel
from utils import numpy_spectrograms, spectrograms

AUDIO = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4000, 2)).astype(np.float32)  # no multiple of the hop
SOUNDS = {"noise": AUDIO, "silence": np.zeros_like(AUDIO), "short": AUDIO[:, :5]}
KINDS = {
    "stft": {},
    "stft_real": {},
    "log_magnitude": {},
    "log_mel": {"sample_rate": 16000},
}


@pytest.mark.parametrize("frame, hop", [(256, 128), (512, 100), (1024, 1024)])
def test_the_stft_is_scipys(frame, hop):
    window = scipy.signal.get_window("hann", frame)
    frames = -(-AUDIO.shape[1] // hop)
    padded = np.pad(AUDIO, [(0, 0), (0, (frames - 1) * hop + frame - AUDIO.shape[1]), (0, 0)])
    for i in range(frames):
        expected = np.fft.rfft(padded[:, i * hop : i * hop + frame] * window[:, None], axis=1)
        for stft in (spectrograms.stft, numpy_spectrograms.stft):
            np.testing.assert_allclose(stft(AUDIO, frame, hop)[:, i], expected, atol=1e-4)


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_is_equal(kind, sound):
    audio, options = SOUNDS[sound], KINDS[kind]
    expected = getattr(spectrograms, kind)(tf.constant(audio), **options).numpy()
    twin = getattr(numpy_spectrograms, kind)
    assert twin(audio, **options).dtype == (np.complex128 if kind == "stft" else np.float64)
    np.testing.assert_allclose(twin(audio, **options), expected, atol=2e-5 if kind.startswith("stft") else 1e-3)
    np.testing.assert_array_equal(twin(audio, **options)[1], twin(audio[1], **options))  # alone as among others


@pytest.mark.parametrize("rate", [8000, 16000])
def test_the_classifiers_log_mel_is_the_same_but_for_its_floor(rate):
    layer = LogMel(rate, frame_length=512, hop=128, floor=1e-3)(tf.constant(AUDIO))
    np.testing.assert_allclose(numpy_spectrograms.log_mel(AUDIO, rate), layer + np.log(1e-3), atol=1e-3)


def test_a_graph_holds_the_mel_filters_as_a_constant():
    function = tf.function(lambda audio: spectrograms.log_mel(audio, 11025))  # a rate that no other test has cached
    graph = function.get_concrete_function(tf.TensorSpec(AUDIO.shape)).graph
    np.testing.assert_allclose(function(AUDIO), numpy_spectrograms.log_mel(AUDIO, 11025), atol=1e-3)
    assert "Log1p" not in {operation.type for operation in graph.get_operations()}  # of the mel scale
