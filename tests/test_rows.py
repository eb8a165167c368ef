"""utils/evaluation/rows.py: what a look-up of classes answers."""

import numpy as np
import pytest
import tensorflow as tf
from tiny import Tiny

from utils import numpy_spectrograms
from utils.errors import UserError
from utils.evaluation import rows
from utils.evaluation.clips import synthetic_clips
from utils.evaluation.names import CLASS_SAMPLE, CLIPS, SILENCE, TEMPLATE
from utils.evaluation.rows import Reconstruction, Scorer, baseline, look_up
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


def test_a_look_up_answers_by_the_class_alone():
    generator = Generator()
    clips, samples = synthetic_clips(generator, 12, 0), synthetic_clips(generator, 40, 0, start=12)
    wanted, held = classes(clips.audio), classes(samples.audio)
    assert set(wanted) <= set(held) and len(set(wanted)) > 1
    answers = look_up(CLASS_SAMPLE, generator, samples, scorer(clips), seed=1)
    np.testing.assert_array_equal(classes(answers.audio), wanted)
    np.testing.assert_allclose(generator(tf.constant(answers.z)), answers.audio, atol=1e-5)
    assert len(np.unique(answers.z, axis=0)) > len(set(wanted))  # and says it in several ways

    answers = look_up(TEMPLATE, generator, samples, scorer(clips), seed=1)
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
        look_up(TEMPLATE, generator, samples, absent, seed=0).z, np.tile(samples.z.mean(axis=0), (6, 1)), atol=1e-6
    )
    assert np.isin(look_up(CLASS_SAMPLE, generator, samples, absent, seed=0).audio, only_others).all()
    with pytest.raises(UserError, match="--method template.*name a --classifier"):
        look_up(TEMPLATE, generator, samples, scorer(clips, lambda audio: {}), seed=0)


def test_what_tells_a_clip_from_others_of_its_digit(monkeypatch):
    """The digit's mean is of the row's originals; a look-up of one waveform a digit has no correlation with them."""
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
    itself, template = row("perfect", Reconstruction(clips.audio)), look_up(TEMPLATE, generator, samples, score, 0)
    assert itself["log_mel_correlation"]["value"] == pytest.approx(1)
    assert abs(row(TEMPLATE, template)["log_mel_correlation"]["value"]) < 0.2
    assert len(tracked) <= 3  # one a digit
    assert row(CLIPS, baseline(CLIPS, clips, {}))["log_mel_correlation"] is None
    silence = row(SILENCE, baseline(SILENCE, clips, {}))
    assert (silence["f0_error"] is None) == (itself["f0_error"] is None)
    if silence["f0_error"]:
        assert (silence["f0_error"]["value"], silence["voicing_agreement"]["value"]) == (12, 0)
