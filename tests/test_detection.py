"""Features, cross-validation and numbers of real/synthetic detection, against scikit-learn, SciPy and by hand."""

import csv
import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import det_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.detection_part import detection_part
from utils.evaluation.comparison import NOT_DECIDED
from utils.evaluation.detection import (
    CLASSIFIERS,
    HeldOut,
    confidence_interval,
    cross_validate,
    equal_error_rate,
    measure,
    summarise,
)
from utils.evaluation.detection_features import (
    SHORTEST_SILENCE,
    Encoded,
    digital_silence,
    feature_names,
    features,
    match_silence_and_level,
    prepare,
)
from utils.evaluation.names import CLIPPED_LATENTS, LATENTS, SPECTROGRAMS, UNTRAINED_LATENTS
from utils.report import tables
from utils.spectrograms import spectrogram

LABELS = np.repeat([0, 1], 50)


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def encoded(audio, z, reconstruction):
    """What features see; the untrained encoder answers z + 1."""
    spectrograms = [spectrogram(tf.constant(x), "log_magnitude").numpy() for x in (audio, reconstruction)]
    return Encoded(audio, z, z + 1, *spectrograms)


# ---- error rates ----------------------------------------------------------------


@given(
    real=arrays(np.float64, st.integers(1, 30), elements=st.integers(-5, 5)),
    synthetic=arrays(np.float64, st.integers(1, 30), elements=st.integers(-5, 5)),
)
def test_equal_error_rate_lies_on_scikit_learns_curve_and_auc_is_mann_whitneys(real, synthetic):
    labels, scores = np.repeat([0, 1], [len(real), len(synthetic)]), np.concatenate([real, synthetic])
    false_positives, false_negatives, _ = det_curve(labels, scores)
    points = np.column_stack([false_positives, false_negatives])
    points = np.vstack([[1, 0], points, [0, 1]])  # det_curve leaves out its trivial ends
    rate = equal_error_rate(labels, scores)
    # At the crossing of a falling chain of points with the diagonal neither neighbour is on the wrong side.
    before, after = points[points[:, 0] >= points[:, 1]][-1], points[points[:, 0] <= points[:, 1]][0]
    assert after[0] - 1e-9 <= rate <= before[0] + 1e-9 and before[1] - 1e-9 <= rate <= after[1] + 1e-9

    u = stats.mannwhitneyu(synthetic, real).statistic / (len(real) * len(synthetic))
    found = measure(HeldOut(scores, labels, np.zeros(len(labels), int)))
    assert found["auc"] == pytest.approx(u) and found["eer"] == rate
    assert found["accuracy"] == pytest.approx(((real <= 0).mean() + (synthetic > 0).mean()) / 2)


def test_equal_error_rate_of_known_cases():
    assert equal_error_rate(LABELS, LABELS * 2.0 - 1) == 0
    assert equal_error_rate(LABELS, 1 - LABELS * 2.0) == 1
    assert equal_error_rate(LABELS, np.zeros(100)) == 0.5
    # Two normal distributions 2 apart: the midpoint misjudges Phi(-1) of each.
    scores = np.concatenate([noise(0, 40_000), noise(1, 40_000) + 2])
    assert equal_error_rate(np.repeat([0, 1], 40_000), scores) == pytest.approx(stats.norm.cdf(-1), abs=0.004)


def test_measures_are_means_over_folds_and_ignore_their_offsets():
    scores = np.concatenate([noise(0, 50), noise(1, 50) + 1])
    folds = np.tile(np.arange(5), 20)
    found = measure(HeldOut(scores, LABELS, folds))
    moved = measure(HeldOut(scores + 100 * folds, LABELS, folds))
    assert moved["auc"] == found["auc"] and moved["eer"] == found["eer"]


# ---- nothing leaks --------------------------------------------------------------


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_pure_noise_scores_one_half(classifier):
    found = [measure(cross_validate(noise(seed, 100, 300), LABELS, classifier, seed=seed)[0]) for seed in range(12)]
    for name in ("accuracy", "auc", "eer"):
        values = [measures[name] for measures in found]
        assert abs(np.mean(values) - 0.5) < 3 * stats.sem(values) < 0.1, name


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_what_only_the_clip_itself_could_tell_is_worth_nothing(classifier):
    """Each clip has a feature of its own: it gives every label away to a classifier that has seen the clip."""
    x = np.eye(100)
    assert CLASSIFIERS[classifier]().fit(x, LABELS).score(x, LABELS) == 1
    held_out, _ = cross_validate(x, LABELS, classifier, seed=0)
    assert measure(held_out)["accuracy"] == 0.5
    np.testing.assert_allclose(held_out.scores, 0, atol=1e-6)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_held_out_clip_changes_no_score_but_its_own_in_its_fold(classifier):
    x = noise(0, 100, 20)
    before, _ = cross_validate(x, LABELS, classifier, seed=3)
    x[0] = 1e4  # would dominate a scaling that saw it
    after, _ = cross_validate(x, LABELS, classifier, seed=3)
    mates = (before.folds == before.folds[0]) & (np.arange(100) != 0)
    np.testing.assert_array_equal(after.folds, before.folds)
    np.testing.assert_array_equal(after.scores[mates], before.scores[mates])
    assert not np.allclose(
        after.scores[before.folds != before.folds[0]], before.scores[before.folds != before.folds[0]]
    )


def test_folds_are_stratified_and_follow_the_seed():
    x = noise(0, 100, 3)
    (first, _), (again, _), (other, _) = (cross_validate(x, LABELS, "SVM", seed=seed) for seed in (1, 1, 2))
    for fold in range(10):
        assert np.bincount(first.labels[first.folds == fold]).tolist() == [5, 5]
    np.testing.assert_array_equal(first.scores, again.scores)
    assert (first.folds != other.folds).any()


def test_an_informative_feature_is_found_and_the_rotation_changes_no_answer():
    x = noise(0, 100, 400)
    x[:, 0] += 4 * LABELS
    assert measure(cross_validate(x[:, :1], LABELS, "SVM", seed=0)[0])["accuracy"] > 0.9
    train, test = slice(0, None, 2), slice(1, None, 2)
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-8)).fit(x[train], LABELS[train])
    rotated = CLASSIFIERS["logistic regression"]().fit(x[train], LABELS[train])
    np.testing.assert_allclose(rotated.decision_function(x[test]), plain.decision_function(x[test]), atol=5e-3)


def test_foreign_clips_are_tested_beside_the_held_out_real_ones_and_never_trained_on():
    x = noise(0, 100, 4) + 5 * LABELS[:, np.newaxis]
    own, foreign = cross_validate(x, LABELS, "logistic regression", seed=0, foreign=noise(1, 30, 4))
    np.testing.assert_array_equal(own.scores, cross_validate(x, LABELS, "logistic regression", seed=0)[0].scores)
    np.testing.assert_array_equal(foreign.scores[:50], own.scores[:50])
    assert foreign.labels.tolist() == [0] * 50 + [1] * 30
    assert np.bincount(foreign.folds[50:]).tolist() == [3] * 10
    assert measure(own)["accuracy"] == 1
    assert measure(foreign)["accuracy"] == 0.5, "they sound real: each is missed, and each real clip is known"
    _, foreign = cross_validate(x, LABELS, "logistic regression", seed=0, foreign=noise(1, 30, 4) + 5)
    assert measure(foreign)["accuracy"] == 1


# ---- conditions of the clips ----------------------------------------------------


@given(arrays(np.int8, (2, 100, 2), elements=st.sampled_from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])))
def test_digital_silence_is_the_long_runs_of_zeros(audio):
    audio[0, 40:80] = 0
    found = digital_silence(audio.astype(np.float32))
    for clip, mask in zip(audio, found, strict=True):
        zero, expected = (clip == 0).all(axis=1), np.zeros(100, bool)
        for start in range(100 - SHORTEST_SILENCE + 1):
            if zero[start : start + SHORTEST_SILENCE].all():
                expected[start : start + SHORTEST_SILENCE] = True
        np.testing.assert_array_equal(mask, expected)
    assert found[0, 40:80].all()


def test_matching_takes_the_donors_silence_and_level():
    clips, donors = noise(0, 3, 1000, 2) * 0.2, noise(1, 3, 1000, 2) * 0.01
    clips[0, 900:] = 0
    clips[1] = 0
    matched = match_silence_and_level(clips, donors)
    assert matched.dtype == np.float32
    np.testing.assert_array_equal(matched[0, 900:], donors[0, 900:])
    np.testing.assert_array_equal(matched[1], donors[1])
    rms = np.sqrt(np.square(matched, dtype=np.float64).mean(axis=(1, 2)))
    np.testing.assert_allclose(rms, np.sqrt(np.square(donors, dtype=np.float64).mean(axis=(1, 2))), rtol=1e-5)
    scale = matched[0, :900] / clips[0, :900]
    np.testing.assert_allclose(scale, scale[0, 0], rtol=1e-5)


def test_conditions_take_one_giveaway_each():
    real, synthetic, donors = noise(0, 100, 1024, 1) * 0.1, noise(1, 100, 1024, 1) * 0.01, noise(2, 100, 1024, 1) * 0.01
    real[:, 960:] = 0
    labels = np.repeat([0, 1], 100)

    def accuracy(condition, name):
        groups = [(real, donors), (synthetic, None)]
        clips = np.concatenate([prepare(condition, *group) for group in groups])
        x = features(encoded(clips, np.zeros((200, 3), np.float32), clips), [name])
        return measure(cross_validate(x[name], labels, "logistic regression", seed=0)[0])["accuracy"]

    assert accuracy("as_is", "tail level") == accuracy("pcm16", "tail level") == 1
    assert accuracy("as_is", "RMS level") == 1
    assert accuracy("matched", "tail level") < 0.65 and accuracy("matched", "RMS level") < 0.65
    np.testing.assert_array_equal(prepare("as_is", synthetic, None), synthetic)
    rounded = prepare("pcm16", synthetic, None)
    assert 0 < np.abs(rounded - synthetic).max() <= 0.5 / 32768
    np.testing.assert_array_equal(prepare("matched", synthetic, None), rounded)
    with pytest.raises(ValueError, match="condition must be one of"):
        prepare("loud", real, donors)


def test_features():
    audio = np.zeros((2, 1024, 1), np.float32)
    audio[0] = 0.1
    z = np.array([[3, -4, 0], [0.5, 0.5, 0.5]], np.float32)
    found = features(encoded(audio, z, audio * 0), feature_names("uniform"))
    assert found[SPECTROGRAMS].shape == (2, 8 * 129)
    np.testing.assert_array_equal(found[LATENTS], z)
    np.testing.assert_array_equal(found[UNTRAINED_LATENTS], z + 1)
    np.testing.assert_array_equal(found[CLIPPED_LATENTS], [[1, -1, 0], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(found["norm of z"], [[5], [0.75**0.5]], rtol=1e-6)
    np.testing.assert_allclose(found["largest |z|"], [[4], [0.5]])
    for name in ("tail level", "RMS level"):
        np.testing.assert_allclose(found[name], [[-20], [-120]], rtol=1e-5)
    assert found["reconstruction error"][0] > 0.1 and found["reconstruction error"][1] == 0
    assert all(len(values) == 2 and values.ndim == 2 and values.dtype == np.float32 for values in found.values())
    assert feature_names("normal") == [name for name in found if name != CLIPPED_LATENTS]


# ---- the table ------------------------------------------------------------------


def test_confidence_interval():
    accuracies = [0.8, 0.85, 0.9, 0.84]
    expected = stats.ttest_1samp(accuracies, 0).confidence_interval(0.95)
    np.testing.assert_allclose(confidence_interval(accuracies, 200), expected)
    assert confidence_interval([0.99, 1.0, 0.9], 200)[1] == 1
    # Clopper and Pearson's formula by hand, for 200 right answers of 200, and for 3 repeats that are equally good.
    for repeats in (1, 3):
        assert confidence_interval([1.0] * repeats, 200) == (pytest.approx(0.025 ** (1 / (200 * repeats))), 1)


def test_the_table_has_the_papers_numbers_beside_ours(tmp_path):
    numbers = {"decisions": 200, "auc": 0.9, "eer": 0.2}
    results = [
        {"condition": "as_is", "feature": feature, "classifier": classifier}
        | {test: numbers | {"accuracy": accuracy} for test in ("own", "foreign")}
        for accuracy in (0.8, 0.9)
        for feature in (LATENTS, "largest |z|")
        for classifier in CLASSIFIERS
    ]
    summary = summarise(results)
    assert len(summary) == 8 and summary[0]["accuracy"] == pytest.approx(0.85) and summary[0]["repeats"] == 2
    assert summary[0]["against"] == {}  # latents are compared with spectrograms, which were not tried here
    (against,) = summary[2]["against"].items()
    assert against == (LATENTS, {"n": 2, "difference": 0, "low": 0, "high": 0, "verdict": NOT_DECIDED})
    assert [cell["tested_on"] for cell in summary] == ["own"] * 4 + ["foreign"] * 4
    tables.add_detection(tmp_path, "aligned", detection_part(summary, fakes="theirs/"))
    lines = (tmp_path / "table3.md").read_text().splitlines()
    interval = "85.0 % [21.5, 100.0]"
    assert f"| {LATENTS} | 92.0 % | {interval} | 0.900 | 20.0 % | 91.5 % | {interval} | 0.900 | 20.0 % |" in lines
    assert any(line.startswith(r"| largest \|z\| | | 85.0 %") for line in lines)
    assert "**Clips: as they are; tested on the clips of theirs/**" in lines
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table3.csv").read_text())))
    assert [row["paper"] for row in rows] == ["0.9199", "0.915"] + [""] * 6
    assert float(rows[0]["low"]) == pytest.approx(0.2147, abs=1e-4) and rows[0]["source"] == "preset aligned"
