"""The script that trains a generator, as a user runs it."""

import argparse
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import train_wavegan
from models.gan_training import GeneratorTrainer, apply_and_average
from models.generator import load_generator
from utils.audio.files import write_wav
from utils.audio.splits import half_of
from utils.runs.files import read_jsonl
from utils.runs.training_run import read_steps

TINY = ("--recipe", "wgan_gp", "--dim", 1, "--latent_dim", 6, "--batch_size", 4, "--evaluate_every", 3)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for i in range(12):
        write_wav(folder / f"{i}.wav", rng.normal(size=(3000, 1)).astype(np.float32) * 0.1, 16000)
    return folder


class Cheap(GeneratorTrainer):
    """In place of a recipe: brings the samples nearer to silence."""

    def __init__(self, architecture, *, seed, learning_rate, precision):
        super().__init__(architecture, seed, precision)
        self.generator_variables = list(self.variables_by_name.values())
        self.optimizer = keras.optimizers.Adam(learning_rate)
        self.optimizer.build(self.generator_variables)

    def train_step(self, batches, step):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.generator(tf.constant(batches.latents(step)))))
        gradients = tape.gradient(loss, self.generator_variables)
        apply_and_average(self.optimizer, gradients, self.generator_variables, list(self.averages.values()), self.ema)
        return {"loss": loss}

    @staticmethod
    def clips_of(batches, step):
        return batches.names(step)

    @staticmethod
    def measures(step):
        return {}

    @staticmethod
    def is_worth_exporting(step, facts):
        return True


def test_trains_exports_and_resumes(run_main, sounds, tmp_path, monkeypatch):
    monkeypatch.setattr(train_wavegan, "WassersteinTrainer", Cheap)
    monkeypatch.setattr(train_wavegan, "EVALUATED", 30)
    out = tmp_path / "run"
    done = run_main("train_wavegan.py", sounds, *TINY, "--steps", 3, "--output", out, "--seed", 5)
    assert done.returncode == 0, done.stderr
    generator = load_generator(out / "export")
    assert (generator.latent_dim, generator.num_samples, generator.sample_rate) == (6, 16384, 16000)
    record = json.loads((out / "statistics.jsonl").read_text())
    assert record["step"] == 3 and record["participation_ratio"] > 1 and record["hours"] > 0
    losses = read_steps(out)[1]
    assert record["loss"] == pytest.approx(np.mean([losses[t]["loss"] for t in range(3)]))
    assert (out / "waves" / "0000003.wav").exists()
    other = run_main("train_wavegan.py", sounds, *TINY, "--steps", 6, "--output", out, "--seed", 6)
    assert other.returncode == 2 and "--seed" in other.stderr
    more = run_main("train_wavegan.py", sounds, *TINY, "--steps", 6, "--output", out, "--seed", 5)
    assert more.returncode == 0 and "resumed at step 3" in more.stdout, more.stderr
    at_once = tmp_path / "at_once"
    run_main("train_wavegan.py", sounds, *TINY, "--steps", 6, "--output", at_once, "--seed", 5)
    assert read_steps(out)[1] == read_steps(at_once)[1] and list(read_steps(out)[1]) == list(range(6))
    z = generator.sample_prior(0, 2)
    np.testing.assert_array_equal(*(load_generator(folder / "export")(z) for folder in (out, at_once)))


@pytest.mark.parametrize("clips, level", [(1, 0.1), (4, 0.0)], ids=["one clip", "silent clips"])
def test_statistics_that_such_clips_do_not_have_are_left_out(run_main, tmp_path, monkeypatch, clips, level):
    monkeypatch.setattr(train_wavegan, "WassersteinTrainer", Cheap)
    monkeypatch.setattr(train_wavegan, "EVALUATED", 30)
    for i in range(1, clips + 1):  # 0.wav would be held out
        noise = np.random.default_rng(i).normal(size=(16384, 1)).astype(np.float32)
        write_wav(tmp_path / "sounds" / f"{i}.wav", level * noise, 16000)
    given = (tmp_path / "sounds", *TINY, "--steps", 1, "--output", tmp_path / "run")
    done = run_main("train_wavegan.py", *given)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "note: step 1: undefined for these clips: log_mel_variance" in done.stdout
    (record,) = read_jsonl(tmp_path / "run" / "statistics.jsonl")
    assert record["step"] == 1 and "rms_db" in record and "log_mel_variance" not in record
    assert list((tmp_path / "run" / "checkpoints").glob("*.index"))


@pytest.mark.slow
def test_published_recipe(run_script, sounds, tmp_path):
    out = tmp_path / "run"
    for steps in (1, 2):
        done = run_script("train_wavegan.py", sounds, *TINY, "--steps", steps, "--output", out)
        assert done.returncode == 0, done.stderr
    assert "resumed at step 1" in done.stdout
    assert load_generator(out / "export").latent_dim == 6
    assert all({"wasserstein", "adversarial"} <= set(losses) for losses in read_steps(out)[1].values())


def test_the_published_recipes_options(run_main, sounds):
    done = run_main("train_wavegan.py", sounds, "--recipe", "wgan_gp", "--steps", 7, "--dry_run")
    plan = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:-1])
    published = {"batch_size": "64", "learning_rate": "0.0001", "dim": "64", "steps": "7"}
    assert done.returncode == 0 and plan.items() >= published.items()


def test_the_recipe_is_that_of_the_hardware(run_main, sounds):
    done = run_main("train_wavegan.py", sounds, "--dry_run")
    plan = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:-1])
    recipe, batch = ("wgan_gp", "64") if tf.config.list_physical_devices("GPU") else ("flow", "16")
    assert (plan["recipe"], plan["batch_size"]) == (recipe, batch)


def test_a_folder_without_clips_to_hold_out_is_said_and_learned_from(sounds, capsys):
    args = argparse.Namespace(input=sounds, num_samples=16384, num_channels=1, sample_rate=16000, quiet=True)
    assert train_wavegan.load_held_out(args) is None
    assert "note: nothing is measured on clips that are not learned from" in capsys.readouterr().out


def test_one_clip_to_hold_out_is_too_few(tmp_path, capsys):
    speaker = next(f"speaker{i}" for i in range(99) if half_of(f"speaker{i}") == "selection")
    names = [f"zero/{speaker}_nohash_0.wav", "one/other_nohash_0.wav"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_wav(tmp_path / name, 0.1 * np.sin(np.arange(16384, dtype=np.float32))[:, None], 16000)
    (tmp_path / "validation_list.txt").write_text(names[0])
    args = argparse.Namespace(input=tmp_path, num_samples=16384, num_channels=1, sample_rate=16000, quiet=True)
    assert train_wavegan.load_held_out(args) is None
    assert f"{tmp_path}: its selection half is one clip" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--recipe", "--num_samples"])
def test_a_mistake_is_one_line(run_main, sounds, flag):
    done = run_main("train_wavegan.py", sounds, flag, "7")
    assert done.returncode == 2 and done.stderr.startswith(f"error: argument {flag}")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_is_not_there_is_one_line(run_script, tmp_path):
    done = run_script("train_wavegan.py", tmp_path / "none")
    assert done.returncode == 2 and "no such folder" in done.stderr and len(done.stderr.splitlines()) == 1
