import numpy as np
import pytest
import tensorflow as tf

from models.classifier import Classifier
from models.critic import Guide, PatchCritic, WaveformCritic, critic_image
from models.gan_training import (
    GuidedOptions,
    GuidedTrainer,
    WassersteinTrainer,
    level_loss,
    paired_loss,
    participation_ratio,
)
from models.wavegan import Architecture

CONVOLUTIONS = ((8, 1), (12, 2), (16, 2), (16, 1))
ARCHITECTURE = Architecture(latent_dim=12, dim=1)


@pytest.fixture(scope="module")
def clips():
    return tf.constant(np.random.default_rng(0).normal(size=(4, 16384, 1)).astype(np.float32) * 0.05)


def guided(seed=0):
    return GuidedTrainer(ARCHITECTURE, 3, GuidedOptions(directions=6), 1e-3, 1e-3, seed)


def run_steps(trainer, clips, steps, paired=2):
    targets = clips[:paired] if paired else None
    classes = tf.constant([0, 1, 2, 0])
    reports = []
    for step in steps:
        z = tf.random.stateless_uniform([4, 12], [7, step], -1, 1)
        seed, progress = tf.constant([3, step]), tf.constant(0.5)
        report = trainer.step(seed, progress, clips, classes, z, classes, targets, True, True, True)
        reports.append({name: float(value) for name, value in report.items()})
    return reports


def test_guided_training_resumes_exactly(clips, tmp_path):
    straight = guided()
    reports = run_steps(straight, clips, range(4))
    assert all(np.isfinite(value) for report in reports for value in report.values())
    begun = guided()
    run_steps(begun, clips, range(2))
    path = tf.train.Checkpoint(trainer=begun).save(str(tmp_path / "state"))
    resumed = guided(seed=9)
    tf.train.Checkpoint(trainer=resumed).restore(path).assert_existing_objects_matched()
    again = run_steps(resumed, clips, range(2, 4))
    for before, after in zip(reports[2:], again, strict=True):
        assert after == pytest.approx(before, rel=1e-4)
    for name, value in straight.averaged_weights().items():
        np.testing.assert_allclose(resumed.averaged_weights()[name], value, rtol=1e-3, atol=1e-5)


def test_a_guide_adds_critics_and_an_answer(clips):
    classifier = Classifier(architecture="resnet18", width=2, class_names=("a", "b", "c"))
    trainer = GuidedTrainer(ARCHITECTURE, 3, GuidedOptions(), 1e-3, 1e-3, 0, guide=Guide(classifier, clips.numpy()))
    assert len(trainer.critics) == len(guided().critics) + 4
    images, logits = trainer.guide(clips)
    for image in images:
        power = np.mean(np.square(image), axis=(0, 1, 2))
        assert np.all(power <= 1.01) and power.max() > 0.5
    assert logits.shape == (4, 3)
    before = classifier.get_weights()
    report = run_steps(trainer, clips, range(1), paired=0)[0]
    assert all(np.isfinite(value) for value in report.values()) and "paired" not in report
    for old, new in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_warm_steps_bring_the_decoder_nearer(clips):
    trainer = guided()
    z = tf.random.stateless_uniform([4, 12], [1, 2], -1, 1)
    before = float(paired_loss(trainer.generator(z), clips))
    for step in range(12):
        trainer.warm_step(tf.constant([0, step]), clips, z, step % 4 == 0)
    assert float(paired_loss(trainer.generator(z), clips)) < before


def test_published_recipe_moves_both_networks(clips):
    trainer = WassersteinTrainer(ARCHITECTURE, 0)
    z = tf.random.stateless_uniform([4, 12], [1, 2], -1, 1)
    before = [v.numpy() for v in trainer.critic.trainable_variables], trainer.averaged_weights()
    critic = trainer.critic_step(tf.constant([0, 1]), clips, z)
    trainer.generator_step(tf.constant([0, 2]), z)
    assert float(critic["gradient_penalty"]) > 0 and np.isfinite(float(critic["wasserstein"]))
    assert any(not np.array_equal(a, b) for a, b in zip(before[0], trainer.critic.trainable_variables, strict=True))
    averages = trainer.averaged_weights()
    assert any(not np.array_equal(value, averages[name]) for name, value in before[1].items())


def test_participation_ratio_from_random_directions():
    rng = np.random.default_rng(0)
    scales = np.array([3.0, 2.0, 2.0, 1.0, 0.1])
    jacobian = np.linalg.qr(rng.normal(size=(64, 5)))[0] * scales
    expected = np.square(np.sum(scales**2)) / np.sum(scales**4)
    tangents = rng.normal(size=(2000, 5)) @ jacobian.T
    estimate = participation_ratio(tf.constant(tangents[None, ..., None], tf.float32))
    assert float(estimate[0]) == pytest.approx(expected, rel=0.05)
    lone = rng.normal(size=(50, 1)) * jacobian[:, 0]
    assert float(participation_ratio(tf.constant(lone[None, ..., None], tf.float32))[0]) == pytest.approx(1, rel=0.5)


def test_level_loss_in_nepers(clips):
    assert float(level_loss(clips, clips[::-1])) == pytest.approx(0, abs=1e-6)
    assert float(level_loss(clips * np.e, clips)) == pytest.approx(1, abs=1e-3)


def test_critic_image_keeps_every_bin_of_every_frame():
    audio = tf.constant(np.random.default_rng(0).normal(size=(2, 16384, 1)).astype(np.float32))
    image = critic_image(audio, 256, 128, (4, 4))
    assert image.shape == (2, 32, 32, 16)
    single = critic_image(audio, 256, 128, (1, 1))[..., 0]
    np.testing.assert_allclose(np.sort(image.numpy().ravel()), np.sort(single.numpy().ravel()))
    np.testing.assert_allclose(image[0, 2, 3, 5], single[0, 9, 13], rtol=1e-6)


def test_projection_makes_the_score_depend_on_the_class():
    critic = PatchCritic(3, CONVOLUTIONS)
    image = tf.random.stateless_normal([2, 8, 8, 16], [1, 2])
    first, logits, activations = critic(image, tf.constant([0, 0]))
    second, _, _ = critic(image, tf.constant([1, 1]))
    assert [a.shape[3] for a in activations] == [8, 12, 16, 16]
    assert logits.shape == (2, 3) and not np.allclose(first, second)
    score, none, _ = PatchCritic(0, CONVOLUTIONS)(image, tf.constant([0, 0]))
    assert score.shape == (2, 2, 2) and none.shape == (2, 0)


@pytest.mark.parametrize("num_samples", [16384, 65536])
def test_waveform_critic_scores_every_clip(num_samples):
    critic = WaveformCritic(num_samples, dim=1)
    audio = tf.random.stateless_normal([3, num_samples, 2], [1, 2])
    assert critic(audio, tf.constant([0, 1])).shape == (3,)
    np.testing.assert_array_equal(critic(audio, tf.constant([0, 1])), critic(audio, tf.constant([0, 1])))
