"""Folders whose names TensorFlow would read as patterns, or not at all: what is written there is read again."""

import os
import shutil
import tempfile

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from wavegan_checkpoints import build

from models.export import freeze, write_saved_model
from models.generator import load_generator
from models.tf1 import write_tf1
from models.wavegan import Architecture, initial_weights
from utils.errors import UserError
from utils.runs import files
from utils.runs.files import literal_path
from utils.runs.training_run import Checkpoints, TrainingRun

NAMES = ["g [1]", "a\\b", "a*b", "a?b", os.fsdecode(b"caf\xe9")]


@pytest.fixture(params=NAMES)
def folder(request, tmp_path):
    path = tmp_path / request.param
    path.mkdir()
    return path


def test_a_checkpoint_is_written_and_read(folder):
    architecture = Architecture(latent_dim=4, dim=1)
    weights = initial_weights(architecture, 0)
    write_tf1(folder / "export", weights, architecture)
    written = load_generator(folder / "export")
    assert written.network is not None
    shutil.copytree(folder / "export", folder.parent / "plain")
    plain, z = load_generator(folder.parent / "plain"), written.sample_prior(0, 2)
    np.testing.assert_array_equal(written(z), plain(z))
    assert written.fingerprint == plain.fingerprint
    frozen = freeze(plain, z, "z")
    write_saved_model(frozen, folder / "saved")
    np.testing.assert_allclose(load_generator(folder / "saved")(z), plain(z), atol=1e-5)
    (folder / "g.pb").write_bytes(frozen.graph_def.SerializeToString())
    with pytest.raises(UserError, match="no tensor 'G_z:0'"):  # it was found and read
        load_generator(folder / "g.pb")


def test_a_checkpoint_of_such_a_name(tmp_path):
    build(tmp_path)
    expected = load_generator(tmp_path)
    for suffix in ("index", "data-00000-of-00001"):
        (tmp_path / f"model.ckpt.{suffix}").rename(tmp_path / f"model [1].ckpt.{suffix}")
    for path in (tmp_path, tmp_path / "model [1].ckpt"):
        generator = load_generator(path)
        assert generator.network is not None and generator.fingerprint == expected.fingerprint


def test_a_training_is_saved_resumed_and_followed(folder):
    neighbour = folder.parent / "aXb"  # that the pattern a*b names as well
    shutil.copytree(folder, neighbour)
    trainer = tf.Module()
    trainer.weight = tf.Variable(0.0)
    for at in (neighbour, folder):
        checkpoints = Checkpoints(at, trainer)
        for step in range(1, 5):
            trainer.weight.assign(step)
            checkpoints.save(step)
        assert len(list((at / "checkpoints").glob("*.index"))) == 2
    assert len(list((neighbour / "checkpoints").glob("*.index"))) == 2
    resumed = tf.Module()
    resumed.weight = tf.Variable(0.0)
    assert Checkpoints(folder, resumed).restore() == 4 and resumed.weight == 4.0
    with TrainingRun(folder / "run", "test", {}, quiet=True) as run:
        with run.board("train"):
            tf.summary.scalar("a", 1.5)
    assert list((run.folder / "tensorboard/train").glob("events*"))


@pytest.mark.slow
def test_a_generator_is_trained_below_such_a_folder(run_main, tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "g [1]"
    (tmp_path / "clips [x]").mkdir()
    for i in range(4):
        soundfile.write(tmp_path / "clips [x]" / f"{i}.wav", rng.uniform(-0.5, 0.5, 16384), 16000)
    given = (tmp_path / "clips [x]", "--recipe", "wgan_gp", "--dim", 1, "--latent_dim", 4, "--batch_size", 2)
    for steps in (1, 2):
        done = run_main("train_wavegan.py", *given, "--steps", steps, "--output", folder)
        assert done.returncode == 0, done.stderr
    assert "resumed at step 1" in done.stdout
    done = run_main("generate.py", "--generator", folder / "export", "--n", 2, "--output", folder / "out")
    assert done.returncode == 0 and len(list((folder / "out").glob("*.wav"))) == 2, done.stderr


def test_plain_paths_stay_as_they_are(tmp_path, monkeypatch):
    assert literal_path(tmp_path / "a b" / "ü") == str(tmp_path / "a b" / "ü")
    assert literal_path("relative") == "relative"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[t]"))
    files._links.cache_clear()
    with pytest.raises(UserError, match=r"TMPDIR=.*\[t\]: must be a path"):
        literal_path(tmp_path / "g [1]")
    files._links.cache_clear()
