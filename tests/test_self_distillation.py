import keras
import numpy as np
import pytest
import tensorflow as tf

from models.classifier import Classifier
from models.critic import Guide
from models.self_distillation import SelfDistillationTrainer
from models.wavegan import Architecture, WaveGANGenerator, initial_weights
from utils.paired_latents import class_code, decided_latents

ARCHITECTURE = Architecture(latent_dim=12, dim=2)
CLASSES, TEMPERATURE = 3, 0.06


def latents(step, n=64):
    return np.random.default_rng([1, step]).uniform(-1, 1, (n, 12)).astype(np.float32)


def train(trainer, steps):
    for step in steps:
        report(trainer, step)
    return trainer


def report(trainer, step, n=64, guided=False):
    z = latents(step, n)
    decided, code = decided_latents(z, CLASSES, TEMPERATURE), class_code(z, CLASSES)
    losses = trainer.step(tf.constant([0, step]), tf.constant(z), tf.constant(decided), tf.constant(code), guided)
    return {name: float(value) for name, value in losses.items()}


@pytest.fixture(scope="module")
def start():
    return initial_weights(ARCHITECTURE, 0)


def test_activations_come_nearer_to_those_of_decided_latents(start):
    trainer = train(SelfDistillationTrainer(ARCHITECTURE, start, 3e-3), range(150))
    z = latents(10_000)
    aim = WaveGANGenerator(ARCHITECTURE, start).activations(tf.constant(decided_latents(z, CLASSES, TEMPERATURE)), 2)[1]
    before, after = (
        float(tf.reduce_mean(tf.square(WaveGANGenerator(ARCHITECTURE, w).activations(tf.constant(z), 2)[1] - aim)))
        for w in (start, trainer.averaged_weights())
    )
    assert after < 0.6 * before


def test_later_layers_stay(start):
    weights = train(SelfDistillationTrainer(ARCHITECTURE, start, 1e-2), range(3)).averaged_weights()
    changed = {name.split("/")[1] for name in weights if np.abs(weights[name] - start[name]).max() > 1e-6}
    assert changed == {"z_project", "upconv_0", "upconv_1"}


def test_resumes_exactly(start, tmp_path):
    straight = train(SelfDistillationTrainer(ARCHITECTURE, start, 1e-3), range(4))
    begun = train(SelfDistillationTrainer(ARCHITECTURE, start, 1e-3), range(2))
    path = tf.train.Checkpoint(trainer=begun).save(str(tmp_path / "state"))
    resumed = SelfDistillationTrainer(ARCHITECTURE, start, 1e-3)
    tf.train.Checkpoint(trainer=resumed).restore(path).assert_existing_objects_matched()
    train(resumed, range(2, 4))
    for name, value in straight.averaged_weights().items():
        np.testing.assert_array_equal(value, resumed.averaged_weights()[name])


def test_the_guide_pulls_towards_the_class(start):
    keras.utils.set_random_seed(0)
    classifier = Classifier(architecture="resnet18", width=2, class_names=("a", "b", "c"))
    clips = np.random.default_rng(0).normal(0, 0.1, (4, 16384, 1)).astype(np.float32)
    trainer = SelfDistillationTrainer(ARCHITECTURE, start, 1e-2, Guide(classifier, clips))
    reports = [report(trainer, 0, n=8, guided=True) for _ in range(12)]
    assert "class_fake" not in report(trainer, 0, n=8)
    assert reports[-1]["class_fake"] < reports[0]["class_fake"]
