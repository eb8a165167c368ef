"""Recipe flow as a whole: its stages, resuming, its export, and what it says of folders that it cannot learn from."""

import numpy as np
import pytest
import tensorflow as tf

import train_wavegan
from models import distillation
from models.distillation import STAGES, FlowTrainer, stage_of
from models.generator import load_generator
from models.wavegan import WaveGANGenerator
from utils.audio.datasets import DIGITS
from utils.audio.files import write_wav
from utils.runs.training_run import read_steps

SHORT = {"vocoder": 2, "front": 1}
JOINED = sum(SHORT.values()) + 1  # steps up to the critics' first in the joined stage
TINY = ("--recipe", "flow", "--dim", 1, "--latent_dim", 6, "--batch_size", 2, "--evaluate_every", 100)


@pytest.fixture
def short_stages(monkeypatch):
    for name, steps in SHORT.items():
        monkeypatch.setitem(STAGES, name, steps)
    for module, name in ((distillation, "MEASURED"), (train_wavegan, "EVALUATED")):
        monkeypatch.setattr(module, name, 8)
    monkeypatch.setattr(distillation, "CRITICS_WARM_UP", 1)
    monkeypatch.setattr(train_wavegan, "JACOBIANS", 1)


def tones(folder, names):
    """Harmonic tones that come and go, one a file."""
    random = np.random.default_rng(0)
    for name in names:
        t, hertz = np.arange(16384) / 16000, random.uniform(100, 300)
        tone = sum(np.sin(2 * np.pi * k * hertz * t) / k for k in range(1, 6))
        envelope = np.exp(-np.square((t / t[-1] - random.uniform(0.3, 0.7)) / 0.15))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_wav(folder / name, np.float32(0.1 * tone * envelope)[:, None], 16000)
    return folder


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    return tones(tmp_path_factory.mktemp("music"), [f"{i}.wav" for i in range(12)])


def test_every_step_belongs_to_a_stage():
    names = [stage_of(step)[0] for step in range(sum(STAGES.values()) + 1)]
    assert list(dict.fromkeys(names)) == [*STAGES, "joined"]
    assert all(names.count(name) == length for name, length in STAGES.items())
    assert stage_of(STAGES["vocoder"]) == ("front", STAGES["vocoder"])


@pytest.mark.slow
def test_a_run_ends_in_the_same_bytes_interrupted_or_not_and_exports_what_it_trained(
    run_main, music, tmp_path, short_stages, monkeypatch
):
    trainers = []

    class Kept(FlowTrainer):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            trainers.append(self)

    monkeypatch.setattr(train_wavegan, "FlowTrainer", Kept)
    at_once, resumed = tmp_path / "at_once", tmp_path / "resumed"

    def train(folder, *stops):
        for stop in stops:
            done = run_main("train_wavegan.py", music, *TINY, "--steps", stop, "--output", folder)
            assert done.returncode == 0, done.stderr

    train(at_once, JOINED)
    train(resumed, 2, JOINED)
    assert read_steps(at_once)[1] == read_steps(resumed)[1]
    first, second = (next((f / "export").glob("model.ckpt.data*")).read_bytes() for f in (at_once, resumed))
    assert first == second

    exported = load_generator(at_once / "export")
    halves = {name: np.float32(np.float16(value)) for name, value in trainers[0].averaged_weights().items()}
    z = exported.sample_prior(0, 4)
    native = WaveGANGenerator(trainers[0].generator.architecture, halves)(tf.constant(z))
    np.testing.assert_allclose(exported(z), native, atol=1e-5)


@pytest.mark.slow
def test_the_critics_stage_resumes_at_its_losses(run_main, music, tmp_path, short_stages):
    for folder, stops in (("at_once", (JOINED + 3,)), ("resumed", (JOINED + 1, JOINED + 3))):
        for stop in stops:
            done = run_main("train_wavegan.py", music, *TINY, "--steps", stop, "--output", tmp_path / folder)
            assert done.returncode == 0, done.stderr
    losses = [read_steps(tmp_path / folder)[1][JOINED + 2] for folder in ("at_once", "resumed")]
    assert {"hinge", "adversarial", "features"} <= set(losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_only_training_and_selection_clips_of_the_named_folder_are_read(run_main, tmp_path, short_stages, monkeypatch):
    folder = tones(tmp_path / "digits", [f"{digit}/speaker{i}_nohash_0.wav" for digit in DIGITS for i in range(3)])
    read, load = [], train_wavegan.load_dataset

    def recorded(root, *args, **options):
        dataset = load(root, *args, **options)
        read.append((root, dataset.split))
        return dataset

    monkeypatch.setattr(train_wavegan, "load_dataset", recorded)
    tiny = (*TINY, "--latent_dim", 10, "--steps", 1, "--output", tmp_path / "run")
    done = run_main("train_wavegan.py", folder, *tiny)
    assert done.returncode == 0, done.stderr
    assert set(read) <= {(folder, "train"), (folder, "selection")} and (folder, "train") in read


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--latent_dim", 100), "more training clips than --latent_dim, 100; the folder has"),
        (("--sample_rate", 1000), "--sample_rate of 2000 Hz or more"),
    ],
)
def test_a_folder_or_option_that_cannot_work_is_one_line(run_main, music, tmp_path, options, message):
    done = run_main("train_wavegan.py", music, *TINY, *options, "--quiet", "--output", tmp_path / "run")
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_class_without_clips_is_one_line(run_main, tmp_path):
    folder = tones(tmp_path / "digits", [f"{digit}/speaker{i}_nohash_0.wav" for digit in DIGITS[:2] for i in range(9)])
    done = run_main("train_wavegan.py", folder, *TINY, "--latent_dim", 10, "--steps", 1, "--output", tmp_path / "run")
    assert done.returncode == 2 and "there are none of: two, three" in done.stderr
