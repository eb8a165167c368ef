"""utils/evaluation/rows.py: what class-conditional baselines answer, and the numbers of a row."""

import numpy as np
import pytest
import tensorflow as tf
from tiny import Tiny

from utils import metrics, numpy_spectrograms
from utils.audio.datasets import UNLABELLED
from utils.domains import REAL
from utils.errors import UserError
from utils.evaluation import rows
from utils.evaluation.clips import Clips, synthetic_clips
from utils.evaluation.comparison import BETTER, WORSE
from utils.evaluation.names import CLASS_SAMPLE, CLIPS, ENCODER, HYBRID, SILENCE, TEMPLATE
from utils.evaluation.rows import Reconstruction, Scorer, baseline, class_baseline
from utils.metrics import Predictions
from utils.priors import PRIORS


class Generator(Tiny):
    fingerprint = "tiny"

    def sample_prior(self, seed: int, n: int, start: int = 0) -> np.ndarray:
        rows = [np.random.default_rng([seed, start + i]).uniform(-1, 1, self.latent_dim) for i in range(n)]
        return np.array(rows, np.float32)


def by_level(audio: np.ndarray) -> dict[str, Predictions]:
    """Class 0, 1 or 2 by a clip's level."""
    classes = np.digitize(np.abs(audio).mean(axis=(1, 2)), [0.3, 0.45])
    return {"classifier": Predictions(np.eye(3)[classes], np.eye(3)[classes])}


def scorer(clips, classify=by_level) -> Scorer:
    settings = dict(sample_rate=8000, prior=PRIORS["uniform"], z_reference=None, splits=1, resamples=2, seed=0)
    return Scorer(clips, classify, **settings)


def classes(audio: np.ndarray) -> np.ndarray:
    return by_level(audio)["classifier"].probabilities.argmax(axis=1)


def test_a_class_baseline_answers_by_the_class_alone():
    generator = Generator()
    clips, samples = synthetic_clips(generator, 12, 0), synthetic_clips(generator, 40, 0, start=12)
    wanted, held = classes(clips.audio), classes(samples.audio)
    assert set(wanted) <= set(held) and len(set(wanted)) > 1
    answers = class_baseline(CLASS_SAMPLE, generator, samples, scorer(clips), seed=1)
    np.testing.assert_array_equal(classes(answers.audio), wanted)
    np.testing.assert_allclose(generator(tf.constant(answers.z)), answers.audio, atol=1e-5)
    assert len(np.unique(answers.z, axis=0)) > len(set(wanted))  # and says it in several ways

    answers = class_baseline(TEMPLATE, generator, samples, scorer(clips), seed=1)
    for k in set(wanted):
        expected = np.tile(samples.z[held == k].mean(axis=0), (np.sum(wanted == k), 1))
        np.testing.assert_allclose(answers.z[wanted == k], expected, atol=1e-6)
        assert np.ptp(answers.audio[wanted == k], axis=0).max() == 0
    np.testing.assert_allclose(generator(tf.constant(answers.z)), answers.audio, atol=1e-5)


def test_a_class_that_no_sample_is_of_and_no_classifier():
    generator = Generator()
    clips, samples = synthetic_clips(generator, 6, 0), synthetic_clips(generator, 8, 0, start=6)
    only_others = samples.audio.copy()
    absent = scorer(clips, lambda audio: {"classifier": Predictions(np.eye(2)[[int(len(audio) == 6)] * len(audio)], 0)})
    np.testing.assert_allclose(
        class_baseline(TEMPLATE, generator, samples, absent, seed=0).z,
        np.tile(samples.z.mean(axis=0), (6, 1)),
        atol=1e-6,
    )
    assert np.isin(class_baseline(CLASS_SAMPLE, generator, samples, absent, seed=0).audio, only_others).all()
    with pytest.raises(UserError, match="--method template.*name a --classifier"):
        class_baseline(TEMPLATE, generator, samples, scorer(clips, lambda audio: {}), seed=0)


def test_what_tells_a_clip_from_others_of_its_digit(monkeypatch):
    """The digit's mean is of the row's originals; a baseline of one waveform a digit has no correlation with them."""
    generator = Generator()
    clips, samples = synthetic_clips(generator, 40, 0), synthetic_clips(generator, 60, 0, start=40)
    score, tracked = scorer(clips), []
    f0 = rows.metrics.f0
    monkeypatch.setattr(rows.metrics, "f0", lambda audio, rate: tracked.extend(audio) or f0(audio, rate))

    def row(method, reconstruction):
        return score(method, reconstruction)["metrics"]

    log_mel, digits = numpy_spectrograms.log_mel(clips.audio, 8000), classes(clips.audio)
    shuffled = np.roll(clips.audio, 1, axis=0)
    expected = [
        np.corrcoef(*(x.ravel() - log_mel[digits == digit].mean(axis=0).ravel() for x in pair))[0, 1]
        for digit, *pair in zip(digits, log_mel, np.roll(log_mel, 1, axis=0), strict=True)
    ]
    assert row("other", Reconstruction(shuffled))["log_mel_correlation"]["value"] == pytest.approx(np.mean(expected))
    assert not tracked  # the tracks of these sounds are known
    itself, template = (
        row("perfect", Reconstruction(clips.audio)),
        class_baseline(TEMPLATE, generator, samples, score, 0),
    )
    assert itself["log_mel_correlation"]["value"] == pytest.approx(1)
    assert abs(row(TEMPLATE, template)["log_mel_correlation"]["value"]) < 0.2
    assert len(tracked) <= 3  # one a digit
    assert row(CLIPS, baseline(CLIPS, clips, {}))["log_mel_correlation"] is None


def test_f0_of_every_clip_and_of_silence():
    """Clips with a voice for half of their time, which silence has not."""
    time = np.arange(8000) / 8000
    pitches = np.linspace(100, 200, 32)[:, None]
    sound = sum(np.sin(2 * np.pi * k * pitches * time) / k for k in range(1, 9)) * (time < 0.5)
    audio = (0.1 * sound).astype(np.float32)[..., None]
    score = scorer(Clips(audio, np.zeros(32, np.int32), [], [], REAL))
    itself = score("perfect", Reconstruction(audio))
    silence = score(SILENCE, Reconstruction(np.zeros_like(audio)))
    frames = score._f0(audio) > 0
    assert 0.4 < frames.mean() < 0.6
    for name, of_silence in (("f0_error", metrics.OCTAVE), ("f0_frame_error", frames.mean())):
        assert itself["metrics"][name]["value"] == 0 and itself["metrics"][name]["n"] == 32
        assert silence["metrics"][name]["value"] == pytest.approx(of_silence)


def test_accuracy_is_of_the_clips_digit_not_of_what_the_classifier_takes_the_clip_for():
    """Of 40 clips the classifier takes each for the next digit; one without a label counts as what it takes it for."""
    labels = np.arange(40) % 10
    audio = labels[:, None, None] / np.float32(10) * np.ones((40, 1024, 1), np.float32)

    def next_digit(audio):
        answers = np.eye(10)[(np.rint(10 * audio[:, 0, 0]).astype(int) + 1) % 10]
        return {"classifier": Predictions(answers, answers)}

    def accuracy(labels, reconstruction):
        score = scorer(Clips(audio, labels.astype(np.int32), [], [], REAL), next_digit)
        return score("method", Reconstruction(reconstruction))["metrics"]["accuracy/classifier"]

    assert accuracy(labels, audio) == {"value": 0, "n": 40, "low": 0, "high": pytest.approx(0.0881, abs=1e-4)}
    before = (labels - 1)[:, None, None] % 10 / np.float32(10) * np.ones_like(audio)
    assert accuracy(labels, before)["value"] == 1
    assert (
        accuracy(np.full(40, UNLABELLED), audio)["value"] == 1
        and accuracy(np.full(40, UNLABELLED), before)["value"] == 0
    )


def test_a_method_is_compared_with_the_rows_before_it_on_the_same_clips():
    generator = Generator()
    clips = synthetic_clips(generator, 40, 0)
    score = scorer(clips)
    for name in (CLIPS, SILENCE):
        assert score(name, baseline(name, clips, {}))["against"] == {}
    near = Reconstruction(clips.audio + np.float32(1e-3), clips.z + np.float32(1e-3))
    first = score(ENCODER, near)
    assert first["against"].keys() == {CLIPS, SILENCE}
    assert first["against"][SILENCE]["waveform_mse"]["verdict"] == BETTER
    assert "waveform_mse" not in first["against"][CLIPS] and "latent_mse" not in first["against"][SILENCE]
    shuffled = Reconstruction(np.roll(clips.audio, 1, axis=0), np.roll(clips.z, 1, axis=0))
    second = score(HYBRID, shuffled)["against"][ENCODER]
    assert second["latent_mse"]["verdict"] == second["waveform_mse"]["verdict"] == WORSE
    lost = np.mean(classes(shuffled.audio) != classes(clips.audio))
    right = second["accuracy/classifier"]
    assert (right["gained"], right["lost"], right["n"]) == (0, round(40 * lost), 40) and right["verdict"] == WORSE
