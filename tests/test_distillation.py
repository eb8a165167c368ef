"""Recipe flow as a whole: its stages, resuming, its export, and what it says of folders that it cannot learn from."""

import numpy as np
import pytest
import tensorflow as tf

import train_wavegan
from models import distillation
from models.distillation import STAGES, stage_of
from models.generator import load_generator
from models.wavegan import WaveGANGenerator
from utils.audio.files import write_wav
from utils.runs.training_run import read_steps

SHORT = {"flow": 1, "vocoder": 1, "front": 1, "joined": 1}
FINISH = sum(SHORT.values())
TINY = ("--recipe", "flow", "--dim", 1, "--latent_dim", 6, "--batch_size", 2, "--evaluate_every", 100)


@pytest.fixture
def short_stages(monkeypatch):
    for name, steps in SHORT.items():
        monkeypatch.setitem(STAGES, name, steps)
    monkeypatch.setattr(distillation, "CRITICS_WARM_UP", 1)
    monkeypatch.setattr(distillation, "MEASURED", 8)
    monkeypatch.setattr(train_wavegan, "EVALUATED", 8)
    monkeypatch.setattr(train_wavegan, "JACOBIANS", 1)


def tones(folder, names, num_samples=16384, rate=16000):
    """Harmonic tones that come and go, one a file."""
    random = np.random.default_rng(0)
    for name in names:
        t, hertz = np.arange(num_samples) / rate, random.uniform(100, 300)
        tone = sum(np.sin(2 * np.pi * k * hertz * t) / k for k in range(1, 6))
        envelope = np.exp(-np.square((t / t[-1] - random.uniform(0.3, 0.7)) / 0.15))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, np.float32(0.1 * tone * envelope)[:, None], rate)
    return folder


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    return tones(tmp_path_factory.mktemp("music"), [f"{i}.wav" for i in range(12)])


@pytest.fixture(scope="module")
def two_digits(tmp_path_factory):
    names = [f"{digit}/speaker{i}_nohash_0.wav" for digit in ("zero", "one") for i in range(8)]
    return tones(tmp_path_factory.mktemp("digits"), names)


def test_every_step_belongs_to_a_stage():
    names = [stage_of(step)[0] for step in range(sum(STAGES.values()) + 1)]
    assert list(dict.fromkeys(names)) == [*STAGES, "finish"]
    assert all(names.count(name) == length for name, length in STAGES.items())
    assert stage_of(STAGES["flow"]) == ("vocoder", STAGES["flow"])


def test_an_interrupted_run_gives_the_same_bytes_in_every_stage(run_main, music, tmp_path, short_stages):
    at_once, resumed = tmp_path / "at_once", tmp_path / "resumed"
    steps = FINISH + 2
    done = run_main("train_wavegan.py", music, *TINY, "--steps", steps, "--output", at_once)
    assert done.returncode == 0, done.stderr
    for stop in range(1, steps + 1):
        done = run_main("train_wavegan.py", music, *TINY, "--steps", stop, "--output", resumed)
        assert done.returncode == 0, done.stderr
    assert read_steps(at_once)[1] == read_steps(resumed)[1]
    # An export is written where measures improve, so it is compared at one moment: the end, where there are no labels.
    weights = [(folder / "export").glob("model.ckpt.data*") for folder in (at_once, resumed)]
    first, second = (next(files).read_bytes() for files in weights)
    assert first == second


def test_the_exported_graph_is_the_network_that_was_trained(run_main, music, tmp_path, short_stages, monkeypatch):
    trainers = []
    monkeypatch.setattr(
        train_wavegan,
        "FlowTrainer",
        lambda *args, **kw: trainers.append(distillation.FlowTrainer(*args, **kw)) or trainers[0],
    )
    done = run_main("train_wavegan.py", music, *TINY, "--steps", FINISH, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    exported = load_generator(tmp_path / "run" / "export")
    halves = {name: np.float32(np.float16(value)) for name, value in trainers[0].averaged_weights().items()}
    z = exported.sample_prior(0, 4)
    native = WaveGANGenerator(trainers[0].generator.architecture, halves)(tf.constant(z))
    np.testing.assert_allclose(exported(z), native, atol=1e-5)


def test_only_training_and_selection_clips_of_the_named_folder_are_read(
    run_main, two_digits, tmp_path, short_stages, monkeypatch
):
    read = []
    load = train_wavegan.load_dataset
    monkeypatch.setattr(train_wavegan, "load_dataset", lambda *args, **kw: read.append((args, kw)) or load(*args, **kw))
    for digit in range(2, 10):
        tones(two_digits, [f"{train_wavegan.DIGITS[digit]}/speaker0_nohash_0.wav"])
    done = run_main(
        "train_wavegan.py", two_digits, *TINY, "--latent_dim", 10, "--steps", 1, "--output", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    assert {args[0] for args, _ in read} == {two_digits}
    assert [args[4] if len(args) > 4 else "train" for args, _ in read] == ["train", "selection"]
