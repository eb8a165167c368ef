"""utils/losses.py: each term against its definition, and objectives read from text."""

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from utils import objectives, spectrograms
from utils.errors import UserError
from utils.losses import OF_AUDIO, OF_FEATURES, RESIDUALS, TERMS, Objective, Point, parse_objective
from utils.options import OWN_OBJECTIVE, PAPER_RECOVERY, REAL_OBJECTIVE

RNG = np.random.default_rng(0)
AUDIO = RNG.uniform(-1, 1, (3, 2048, 2)).astype(np.float32)
TARGET = RNG.uniform(-1, 1, (3, 2048, 2)).astype(np.float32)
Z, TRUE_Z = RNG.uniform(-2, 2, (2, 3, 5)).astype(np.float32)


def blocks(audio) -> dict[str, tf.Tensor]:
    """Two maps in place of a classifier's activations, of several sizes and types."""
    return {"square": tf.square(audio), "coarse": tf.cast(audio[:, ::64, :1], tf.bfloat16)}


def point(audio=AUDIO, target=TARGET, z=Z, prior="uniform", true_z=TRUE_Z) -> Point:
    audio, target, z, true_z = (tf.constant(x) for x in (audio, target, z, true_z))
    return Point(audio, target, z, prior, blocks(audio), blocks(target), true_z)


def scipy_stft(audio: np.ndarray, frame: int, hop: int) -> np.ndarray:
    """`[T, C]` to complex `[C, bins, frames]`, end-padded, unscaled."""
    frames = -(-len(audio) // hop)
    padded = np.pad(audio.T, [(0, 0), (0, (frames - 1) * hop + frame - len(audio))])
    _, _, spectra = scipy.signal.stft(
        padded, window="hann", nperseg=frame, noverlap=frame - hop, boundary=None, padded=False
    )
    return spectra * scipy.signal.get_window("hann", frame).sum()


def test_waveform_is_the_mean_absolute_error_per_clip():
    expected = np.abs(AUDIO - TARGET).mean(axis=(1, 2))
    np.testing.assert_allclose(TERMS["waveform"](point()), expected, rtol=1e-5)


def test_stft_real_is_the_mean_absolute_error_of_real_parts():
    expected = [
        np.abs((scipy_stft(a, 256, 128) - scipy_stft(b, 256, 128)).real).mean()
        for a, b in zip(AUDIO, TARGET, strict=True)
    ]
    np.testing.assert_allclose(TERMS["stft_real"](point()), expected, rtol=1e-4)


def test_mr_stft_squared_agrees_with_scipy():
    def distance(a, b, frame):
        a, b = (np.log(np.sqrt(np.abs(scipy_stft(x, frame, frame // 4)) ** 2 + 1e-6)) for x in (a, b))
        return np.square(a - b).mean()

    expected = [
        np.mean([distance(a, b, frame) for frame in (256, 512, 1024)]) for a, b in zip(AUDIO, TARGET, strict=True)
    ]
    np.testing.assert_allclose(TERMS["mr_stft_squared"](point()), expected, rtol=1e-4)


def test_mr_stft_agrees_with_scipy():
    def distance(a, b, frame):
        a, b = (np.sqrt(np.abs(scipy_stft(x, frame, frame // 4)) ** 2 + 1e-6) for x in (a, b))
        return np.linalg.norm(a - b) / np.linalg.norm(b) + np.abs(np.log(a) - np.log(b)).mean()

    expected = [
        np.mean([distance(a, b, frame) for frame in (256, 512, 1024)]) for a, b in zip(AUDIO, TARGET, strict=True)
    ]
    np.testing.assert_allclose(TERMS["mr_stft"](point()), expected, rtol=1e-4)


def test_spectral_is_the_mean_absolute_error_of_log_magnitudes():
    def log_magnitude(x):
        return np.log(np.sqrt(np.abs(scipy_stft(x, 256, 128)) ** 2 + 1e-8) + 1e-3)

    expected = [np.abs(log_magnitude(a) - log_magnitude(b)).mean() for a, b in zip(AUDIO, TARGET, strict=True)]
    np.testing.assert_allclose(TERMS["spectral"](point()), expected, rtol=1e-4)


def test_log_mel_is_the_mean_absolute_error_of_triangles_on_the_mel_scale():
    mel = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
    edges = np.linspace(1127 * np.log(1 + 60 / 700), 1127 * np.log(1 + 7600 / 700), 66)
    rising, falling = (
        (mel[:, None] - edges[:-2]) / (edges[1] - edges[0]),
        (edges[2:] - mel[:, None]) / (edges[1] - edges[0]),
    )
    filters = np.maximum(0, np.minimum(rising, falling))

    def log_mel(x):
        return np.log(np.einsum("cft,fm->cmt", np.abs(scipy_stft(x, 512, 128)), filters) + 1e-3)

    expected = [np.abs(log_mel(a) - log_mel(b)).mean() for a, b in zip(AUDIO, TARGET, strict=True)]
    np.testing.assert_allclose(TERMS["log_mel"](point()), expected, rtol=1e-3)


def test_feature_is_of_the_middle_block_alone():
    expected = np.abs(AUDIO**2 - TARGET**2).mean(axis=(1, 2))  # of two the first
    np.testing.assert_allclose(TERMS["feature"](point()), expected, rtol=1e-5)


@pytest.mark.parametrize("name, error", [("features", np.abs), ("feature_squared", np.square)])
def test_feature_terms_are_means_over_blocks_of_mean_errors(name, error):
    square = error(AUDIO**2 - TARGET**2).mean(axis=(1, 2))
    coarse = error(AUDIO - TARGET)[:, ::64, :1].mean(axis=(1, 2))
    np.testing.assert_allclose(TERMS[name](point()), (square + coarse) / 2, rtol=1e-2)


def test_an_objective_says_what_it_needs():
    assert parse_objective("waveform=1,feature=0.002").needs_features
    assert Objective({"feature_squared": 1.0}).needs_features
    assert parse_objective(REAL_OBJECTIVE).needs_features and not parse_objective(OWN_OBJECTIVE).needs_features
    assert parse_objective("latent_prior=1,spectral=2").needs_audio and Objective({"feature": 1.0}).needs_audio
    assert not Objective({"latent": 1.0, "latent_prior": 1.0}).needs_audio


@pytest.mark.parametrize(
    "name, representation",
    [
        ("waveform_squared", lambda audio: audio),
        ("stft_real_squared", spectrograms.stft_real),
        ("log_mel_squared", lambda audio: spectrograms.log_mel(audio, 16000)),
    ],
)
def test_squared_terms_are_mean_squares_and_the_sums_of_their_residuals(name, representation):
    difference = np.subtract(representation(AUDIO), representation(TARGET), dtype=np.float64)
    expected = np.square(difference.reshape(len(AUDIO), -1)).mean(axis=1)
    np.testing.assert_allclose(TERMS[name](point()), expected, rtol=1e-4)
    np.testing.assert_allclose(np.square(RESIDUALS[name](point())).sum(axis=1), expected, rtol=1e-4)


def test_residuals_of_a_sum_are_those_of_its_terms():
    objective = parse_objective("waveform_squared=2,mr_stft_squared=0.5,latent_prior=3")
    assert objective.sum_of_squares and not parse_objective("waveform=1,latent_prior=1").sum_of_squares
    for prior in ("uniform", "normal"):
        at = point(prior=prior)
        np.testing.assert_allclose(np.square(objective.residuals(at)).sum(axis=1), objective(at), rtol=1e-4)


def test_latent_is_the_mean_squared_error_of_z():
    np.testing.assert_allclose(TERMS["latent"](point()), ((Z - TRUE_Z) ** 2).mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    "prior, expected",
    [
        ("uniform", (np.maximum(np.abs(Z) - 1, 0) ** 2).mean(axis=1)),
        ("normal", (Z**2).mean(axis=1) / 2),
    ],
)
def test_latent_prior(prior, expected):
    np.testing.assert_allclose(TERMS["latent_prior"](point(prior=prior)), expected, rtol=1e-5)
    elsewhere = point(prior=prior)._replace(off_prior=tf.constant(TRUE_Z))  # z is of another space
    np.testing.assert_allclose(TERMS["latent_prior"](elsewhere), (TRUE_Z**2).mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_a_clip_alone_and_in_a_batch_lose_the_same(name):
    alone = TERMS[name](point(AUDIO[1:2], TARGET[1:2], Z[1:2], true_z=TRUE_Z[1:2]))
    np.testing.assert_allclose(TERMS[name](point())[1:2], alone, rtol=1e-5)


@pytest.mark.parametrize("name", [*OF_AUDIO, *OF_FEATURES])
@pytest.mark.parametrize("audio", [AUDIO, np.zeros_like(AUDIO)], ids=["noise", "silence"])
def test_values_and_gradients_are_finite_at_a_perfect_match_and_for_silence(name, audio):
    for target in (audio, np.zeros_like(audio)):
        x = tf.constant(audio)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = TERMS[name](point(x, target))
        assert np.isfinite(value).all() and np.isfinite(tape.gradient(value, x)).all()
        if target is audio:
            np.testing.assert_allclose(value, 0, atol=1e-5)


def test_an_objective_is_the_weighted_sum():
    objective = parse_objective(" stft_real=2, waveform = 0.5")
    expected = 2 * TERMS["stft_real"](point()) + 0.5 * TERMS["waveform"](point())
    np.testing.assert_allclose(objective(point()), expected, rtol=1e-6)
    assert parse_objective(str(objective)) == objective


@pytest.mark.parametrize("text", [OWN_OBJECTIVE, REAL_OBJECTIVE, PAPER_RECOVERY["objective"]])
def test_named_objectives_are_valid(text):
    assert str(parse_objective(text)) == text


@pytest.mark.parametrize(
    "text, said",
    [
        ("loudness=1", f"with a term out of {', '.join(objectives.TERMS)}. "),
        ("latent=1", "with a term out of stft_real"),
        ("", "TERM=WEIGHT"),
        ("waveform=1,", "TERM=WEIGHT"),
        ("waveform", "waveform=1"),
        ("waveform=", "finite number above 0"),
        ("waveform=0", "finite number above 0"),
        ("waveform=-1", "finite number above 0"),
        ("waveform=nan", "finite number above 0"),
        ("waveform=inf", "finite number above 0"),
        ("waveform=1,waveform=2", "once only"),
    ],
)
def test_wrong_objectives_are_refused_with_the_remedy(text, said):
    with pytest.raises(UserError, match="--objective") as error:
        parse_objective(text)
    assert said in str(error.value)
