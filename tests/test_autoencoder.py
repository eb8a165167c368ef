"""The recipe `autoencoder`: what each loss measures, and that it learns, resumes and does without labels."""

import numpy as np
import pytest
import tensorflow as tf

from models import autoencoder
from models.autoencoder import (
    AutoencoderTrainer,
    level_loss,
    participation_ratio,
    similarity,
    spectral_loss,
)
from models.gan_training import Batches
from models.wavegan import Architecture
from utils.audio.datasets import Dataset

TINY = Architecture(latent_dim=6, dim=2)
LATENT_MEASURES = {"round_trip", "fixed_latents"}


def dataset(class_names):
    rng = np.random.default_rng(0)
    time, labels = np.arange(16384) / 16000, np.arange(30) % 3
    tones = [
        np.sin(2 * np.pi * (300 + 400 * label + rng.uniform(0, 100)) * time + rng.uniform(0, 6)) for label in labels
    ]
    audio = (4000 * np.array(tones)[:, :, None]).astype(np.int16)
    names = [f"{i}.wav" for i in range(30)]
    if not class_names:
        labels = np.full(30, -1)
    return Dataset(audio, labels.astype(np.int32), names, names, class_names, 16000, "unlabelled", "train")


@pytest.fixture(scope="module")
def early():
    """Encoder, critics and their losses begin within the first steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "DECODER_STEPS", 1)
        patch.setattr(autoencoder, "RISING", 1)
        patch.setattr(autoencoder, "CRITIC_EVERY", 2)
        yield


@pytest.fixture(scope="module")
def trained(early, tmp_path_factory):
    """A trainer after four steps, its batches, losses and weights, and the folder of its checkpoint of step 2."""
    folder, losses = tmp_path_factory.mktemp("run"), []
    sounds = dataset(("a", "b", "c"))
    batches = Batches(sounds, 6, 4, seed=3)
    trainer = AutoencoderTrainer(TINY, sounds, seed=1)
    for step in range(4):
        losses.append({name: float(value) for name, value in trainer.train_step(batches, step).items()})
        if step == 1:
            trainer.save(folder, 2)
    return trainer, batches, losses, [v.numpy() for v in trainer.variables], folder


def test_every_loss_is_reported_and_finite(trained):
    _, _, losses, _, _ = trained
    always = {"spectral", "level", "similarity", "participation", "class_code"} | LATENT_MEASURES
    assert set(losses[0]) == {"spectral", "linear_round_trip"}
    assert set(losses[1]) == always | {"adversarial", "prior", "features", "adversarial_class", "prior_class"}
    assert set(losses[2]) == set(losses[1]) | {"hinge", "critics_class_real"}
    assert all(np.isfinite(list(row.values())).all() for row in losses)


def test_it_computes_in_bfloat16_with_losses_in_float32(early):
    sounds = dataset(("a", "b", "c"))
    trainer = AutoencoderTrainer(TINY, sounds, seed=1, precision="mixed_bfloat16")
    losses = [trainer.train_step(Batches(sounds, 6, 4, seed=3), step) for step in range(2)]
    assert all(value.dtype == tf.float32 and np.isfinite(value) for row in losses for value in row.values())
    assert {variable.dtype for variable in trainer.critic_variables + trainer.encoder_variables} == {tf.float32}
    assert trainer.critics[0].convolutions[0].compute_dtype == "bfloat16"
    assert trainer.encoder_average.options["precision"] == "float32"


def test_resumes_exactly(trained):
    trainer, batches, losses, after, folder = trained
    for variable in (*trainer.variables, *trainer.network_state):  # nothing may be left of what the trainer was
        variable.assign(tf.ones_like(variable))
    assert trainer.restore(folder) == 2
    for step in (2, 3):
        again = {name: float(value) for name, value in trainer.train_step(batches, step).items()}
        assert again == losses[step]
    for variable, value in zip(trainer.variables, after, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_learning_rates_fall_with_the_encoder_and_in_the_last_quarter(trained, monkeypatch):
    trainer, batches, *_ = trained
    before = [variable.numpy() for variable in (*trainer.variables, *trainer.network_state)]
    monkeypatch.setattr(trainer, "steps", 8)
    rates = []
    for step in (0, 6, 7):
        trainer.train_step(batches, step)
        rates.append(
            [float(optimizer.learning_rate) for optimizer in (trainer.generator_optimizer, trainer.critic_optimizer)]
        )
    np.testing.assert_allclose(rates, [[2e-4, 2e-4], [5e-5, 7.5e-5], [2.5e-5, 3.75e-5]], rtol=1e-6)
    for variable, value in zip((*trainer.variables, *trainer.network_state), before, strict=True):
        variable.assign(value)


@pytest.mark.slow
def test_trains_without_labels(early):
    sounds = dataset(())
    trainer = AutoencoderTrainer(TINY, sounds, seed=1)
    batches = Batches(sounds, 6, 4, seed=3)
    losses = [trainer.train_step(batches, step) for step in range(3)]
    assert "class_code" not in losses[-1] and all(np.isfinite(float(value)) for value in losses[-1].values())


@pytest.mark.slow
def test_learns_to_decode_and_then_with_the_encoder(monkeypatch):
    monkeypatch.setattr(autoencoder, "DECODER_STEPS", 150)
    monkeypatch.setattr(autoencoder, "RISING", 50)
    sounds = dataset(())
    trainer = AutoencoderTrainer(Architecture(latent_dim=6, dim=8), sounds, seed=1, learning_rate=4e-4)
    batches = Batches(sounds, 6, 8, seed=3)
    losses = [{name: float(value) for name, value in trainer.train_step(batches, step).items()} for step in range(270)]

    def falls(name, first, last):
        values = [row[name] for row in losses[first:last]]
        return np.mean(values[-20:]) / np.mean(values[:20])

    assert falls("linear_round_trip", 0, 150) < 0.7
    assert falls("spectral", 150, 270) < 0.99 and falls("fixed_latents", 150, 270) < 0.95


def test_a_silent_generator_gives_no_nan():
    silent = tf.Variable(tf.zeros([2, 6, 8, 1]))
    with tf.GradientTape() as tape:
        loss = -tf.math.log(participation_ratio(silent))
    assert np.isfinite(float(loss)) and not np.any(tape.gradient(loss, silent))


def test_the_encoder_begins_near_the_fixed_latents():
    sounds = dataset(())
    trainer = AutoencoderTrainer(TINY, sounds, seed=1)
    errors = trainer.encode(tf.constant(sounds.to_float())) - trainer.fixed_latents
    assert float(tf.reduce_mean(tf.square(errors))) < 0.2  # always answering 0: 0.333


def test_participation_ratio_of_a_known_jacobian():
    scales = tf.constant([3.0, 2.0, 1.0, 1.0])
    directions = tf.random.stateless_normal([1, 400, 4], [0, 1])
    ratio = float(participation_ratio((directions * scales)[..., None]))
    assert ratio == pytest.approx(15**2 / (81 + 16 + 1 + 1), rel=0.1)


def test_similarity_of_one_waveform_and_of_opposites():
    clip = tf.random.stateless_normal([1, 500, 1], [0, 1])
    assert float(similarity(tf.concat([clip, -2 * clip, clip], 0))) == pytest.approx(1, abs=1e-4)
    assert float(similarity(tf.reshape(tf.eye(3), [3, 3, 1]))) == 0


def test_losses_of_equal_audio_are_zero_and_of_other_audio_are_not():
    audio = 0.1 * tf.random.stateless_normal([2, 4096, 1], [0, 1])
    assert float(spectral_loss(audio, audio, 16000)) == 0 and float(level_loss(audio, audio[::-1])) == 0
    assert float(spectral_loss(0.5 * audio, audio, 16000)) > 0.5
    assert float(level_loss(0.5 * audio, audio)) == pytest.approx(np.log(2), rel=1e-2)
