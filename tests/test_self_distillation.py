import numpy as np
import pytest
import tensorflow as tf

from models.self_distillation import SelfDistillationTrainer
from models.wavegan import Architecture, WaveGANGenerator, initial_weights
from utils.paired_latents import decided_latents

ARCHITECTURE = Architecture(latent_dim=12, dim=2)
CLASSES, TEMPERATURE = 3, 0.06


def latents(step):
    return np.random.default_rng([1, step]).uniform(-1, 1, (64, 12)).astype(np.float32)


def train(trainer, steps):
    for step in steps:
        z = latents(step)
        trainer.step(tf.constant(z), tf.constant(decided_latents(z, CLASSES, TEMPERATURE)))
    return trainer


@pytest.fixture(scope="module")
def start():
    return initial_weights(ARCHITECTURE, 0)


def test_activations_come_nearer_to_those_of_decided_latents(start):
    trainer = train(SelfDistillationTrainer(ARCHITECTURE, start, 3e-3), range(150))
    z = latents(10_000)
    decided = tf.constant(decided_latents(z, CLASSES, TEMPERATURE))
    aims = WaveGANGenerator(ARCHITECTURE, start).activations(decided, 3)
    before, after = (
        [
            float(tf.reduce_mean(tf.square(answer - aim)))
            for answer, aim in zip(WaveGANGenerator(ARCHITECTURE, w).activations(tf.constant(z), 3), aims, strict=True)
        ]
        for w in (start, trainer.averaged_weights())
    )
    assert after[0] < 0.6 * before[0] and after[2] < 0.6 * before[2]


def test_later_layers_stay(start):
    weights = train(SelfDistillationTrainer(ARCHITECTURE, start, 1e-2), range(3)).averaged_weights()
    changed = {name.split("/")[1] for name in weights if np.abs(weights[name] - start[name]).max() > 1e-6}
    assert changed == {"z_project", "upconv_0", "upconv_1", "upconv_2"}


def test_resumes_exactly(start, tmp_path):
    straight = train(SelfDistillationTrainer(ARCHITECTURE, start, 1e-3), range(4))
    begun = train(SelfDistillationTrainer(ARCHITECTURE, start, 1e-3), range(2))
    path = tf.train.Checkpoint(trainer=begun).save(str(tmp_path / "state"))
    resumed = SelfDistillationTrainer(ARCHITECTURE, start, 1e-3)
    tf.train.Checkpoint(trainer=resumed).restore(path).assert_existing_objects_matched()
    train(resumed, range(2, 4))
    for name, value in straight.averaged_weights().items():
        np.testing.assert_array_equal(value, resumed.averaged_weights()[name])
