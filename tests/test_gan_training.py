"""What the recipes that train a generator share, and the published one."""

import numpy as np
import pytest
import tensorflow as tf

from models.gan_training import Batches
from models.wavegan import Architecture
from models.wgan_gp import CRITIC_UPDATES, WassersteinTrainer, WaveformCritic
from utils.audio.datasets import load_dataset
from utils.audio.files import write_wav

ARCHITECTURE = Architecture(latent_dim=12, dim=1)


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for i in range(30):
        write_wav(folder / f"{i}.wav", rng.normal(size=(16384, 1)).astype(np.float32) * 0.05, 16000)
    dataset = load_dataset(folder, split="all", cache_dir=folder / "cache", quiet=True)
    return Batches(dataset, latent_dim=12, batch_size=4, seed=5)


@pytest.fixture(scope="module")
def whole(batches, tmp_path_factory):
    """A trainer after three steps, its weights before and after, its losses, and the folder of its first checkpoint."""
    folder, reports = tmp_path_factory.mktemp("run"), []
    trainer = WassersteinTrainer(ARCHITECTURE, 0)

    def weights():
        return [v.numpy() for v in trainer.critic.trainable_variables], trainer.averaged_weights()

    start = weights()
    for step in range(3):
        reports.append({name: float(value) for name, value in trainer.train_step(batches, step).items()})
        if step == 0:
            trainer.save(folder, 1)
    return trainer, start, weights(), reports, folder


def test_published_recipe_moves_both_networks(whole):
    trainer, before, after, reports, _ = whole
    assert all(set(report) == {"wasserstein", "gradient_penalty", "adversarial"} for report in reports)
    assert all(np.isfinite(list(report.values())).all() and report["gradient_penalty"] > 0 for report in reports)
    assert any(not np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert all(not np.array_equal(value, after[1][name]) for name, value in before[1].items())
    assert int(trainer.critic_optimizer.iterations) == 3 * CRITIC_UPDATES
    assert int(trainer.generator_optimizer.iterations) == 3


def test_published_recipe_resumes_exactly(whole, batches):
    trainer, _, after, reports, folder = whole
    for variable in (*trainer.variables, *trainer.critic_state):  # nothing may be left of what the trainer was
        variable.assign(tf.ones_like(variable))
    assert trainer.restore(folder) == 1
    for step in (1, 2):
        again = trainer.train_step(batches, step)
        assert {name: float(value) for name, value in again.items()} == pytest.approx(reports[step], rel=1e-5)
    for name, value in after[1].items():
        np.testing.assert_allclose(trainer.averaged_weights()[name], value, rtol=1e-4, atol=1e-7)


def test_every_batch_of_clips_and_of_latents_is_another(batches):
    a_step = [batches.names(number) for number in range(CRITIC_UPDATES)]
    assert len({name for names in a_step for name in names}) == 20
    assert WassersteinTrainer.clips_of(batches, 1)[:4] == batches.names(CRITIC_UPDATES)
    z = np.stack([batches.latents(number) for number in range(50)])
    assert z.dtype == np.float32 and z.shape == (50, 4, 12) and len(np.unique(z)) == z.size
    assert np.abs(z).max() <= 1 and z.var() == pytest.approx(1 / 3, rel=0.1)
    np.testing.assert_array_equal(z[7], batches.latents(7))
    assert not np.array_equal(z[0], Batches(batches.dataset, 12, 4, seed=6).latents(0))


@pytest.mark.parametrize("num_samples", [16384, 65536])
def test_waveform_critic_scores_every_clip(num_samples):
    critic = WaveformCritic(num_samples, dim=1)
    audio = tf.random.stateless_normal([3, num_samples, 2], [1, 2])
    assert critic(audio, tf.constant([0, 1])).shape == (3,)
    np.testing.assert_array_equal(critic(audio, tf.constant([0, 1])), critic(audio, tf.constant([0, 1])))
