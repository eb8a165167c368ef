"""What happens around the steps of a training: saving, stopping, going on, and what is written."""

import os
import re
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf

from utils.errors import UserError
from utils.runs.files import read_jsonl
from utils.runs.training_run import Checkpoints, TrainingRun, losses_by_step

TOTAL, EVALUATE_EVERY = 7, 3


class Sum(tf.Module):
    """Adds the numbers of its steps, so that a step done twice or never shows."""

    def __init__(self):
        super().__init__()
        self.value = tf.Variable(0.0)

    def step(self, number):
        self.value.assign(self.value * 1.5 + number)
        return {"loss": self.value, "number": float(number)}


def train(folder, at_step=lambda run: None, **settings):
    """Seven steps with an evaluation after every third; the trainer at the end."""
    settings = {"evaluate_every": EVALUATE_EVERY, "save_minutes": 60.0} | settings
    trainer = Sum()
    with TrainingRun(folder / "run", "sum", {"seed": 1}, quiet=True) as run:
        checkpoints = Checkpoints(run.folder, trainer)
        for step in run.steps(TOTAL, done=checkpoints.step, save=checkpoints.save, **settings):
            run.count(trainer.step(step))
            at_step(run)
            if run.evaluation_due:
                run.log("epochs", {"epoch": 1} | run.mean_losses() | {"val_loss": 0.25})
    return run, trainer


def press(number):
    """Presses Ctrl-C after a number of steps."""
    return lambda run: os.kill(os.getpid(), signal.SIGINT) if run.done == number else None


def epochs(folder):
    return [{k: v for k, v in row.items() if k != "hours"} for row in read_jsonl(folder / "run" / "epochs.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run, trainer = train(folder)
    assert run.finished
    return folder, float(trainer.value)


def test_what_is_written(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, value = whole
    steps = losses_by_step(folder / "run")
    assert list(steps) == list(range(TOTAL)) and steps[6] == {"loss": value, "number": 6.0}
    assert [row["step"] for row in epochs(folder)] == [3, 6, 7]
    assert [row["number"] for row in epochs(folder)] == [1.0, 4.0, 6.0]
    for name, expected in (("train", {"loss", "number"}), ("validation", {"loss"})):
        events = EventAccumulator(str(folder / "run" / "tensorboard" / name))
        events.Reload()
        assert set(events.Tags()["tensors"]) == expected
        assert [event.step for event in events.Tensors("loss")] == [3, 6, 7]


@pytest.mark.parametrize("at", [2, 3, 6])
def test_interrupted_and_started_again_it_ends_as_if_uninterrupted(whole, tmp_path, at, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "sounds"])
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="This goes on where it was: python train.py sounds"):
        train(tmp_path, press(at))
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(losses_by_step(tmp_path / "run")) == at
    run, trainer = train(tmp_path)
    assert float(trainer.value) == whole[1] and epochs(tmp_path) == epochs(whole[0])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at, kept", [(2, 0), (5, 3)])
def test_what_was_not_saved_is_done_again(whole, tmp_path, at, kept):
    def kill(run):
        if run.done == at:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path, kill)
    assert Checkpoints(tmp_path / "run", Sum()).step == kept
    assert float(train(tmp_path)[1].value) == whole[1]
    assert losses_by_step(tmp_path / "run") == losses_by_step(whole[0] / "run")


def test_time_that_is_up_saves_and_stops(whole, tmp_path, capsys):
    run, _ = train(tmp_path, minutes=1e-9)
    assert run.done == 1 and not run.finished
    assert re.search(r"Stopped after 1e-09 minutes and 1 steps. This goes on", capsys.readouterr().out)
    run, trainer = train(tmp_path, save_minutes=1e-9)
    assert run.finished and float(trainer.value) == whole[1]


def test_stopped_early_it_is_saved_and_finished(tmp_path):
    run, trainer = train(tmp_path, lambda run: run.stop() if run.done == 4 else None)
    assert run.finished and run.done == 4 and Checkpoints(run.folder, Sum()).step == 4


def test_saves_within_an_evaluations_stretch(tmp_path):
    def look(run):
        if run.done == 3:
            assert Checkpoints(run.folder, Sum()).step == 2

    train(tmp_path, look, save_minutes=1e-9, evaluate_every=100)


def test_a_loss_that_is_not_finite_names_the_clips(tmp_path):
    def broken(step):
        return {"loss": np.float32("nan" if step == 4 else 1.5)}

    with TrainingRun(tmp_path / "run", "sum", {}, quiet=True) as run:
        settings = dict(evaluate_every=3, save_minutes=60.0, clips_of=lambda step: [f"{step}.wav", "a.wav", "a.wav"])
        with pytest.raises(UserError, match=r"step 4: .*nan.* as it was saved before; .*: 4.wav, a.wav$"):
            for step in run.steps(9, done=0, save=lambda step: None, **settings):
                run.count(broken(step))
        assert list(losses_by_step(run.folder)) == [0, 1, 2, 3]
        with pytest.raises(UserError, match="nothing had been saved"):
            for _ in run.steps(9, done=0, save=lambda step: None, **settings):
                run.count(broken(4))


def test_a_measure_that_is_not_finite_is_not_logged(tmp_path):
    def measure(run):
        run.log("epochs", {"val_ssim": float("inf")})

    with pytest.raises(UserError, match="step 1: not finite: val_ssim"):
        train(tmp_path, measure)
    assert not (tmp_path / "run" / "epochs.jsonl").exists()


def test_a_worker_that_is_not_the_chief_writes_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    with TrainingRun(tmp_path / "run", "sum", {"seed": 1}, is_chief=False) as run:
        for _ in run.steps(3, done=0, save=lambda step: pytest.fail("saved"), evaluate_every=1, save_minutes=60.0):
            run.count({"loss": 1.0})
            run.log("epochs", {"val_loss": 1.0})
    assert not list(run.folder.iterdir())


def test_the_pace_is_told_in_clips_and_in_seconds(tmp_path):
    with TrainingRun(tmp_path / "run", "sum", {}, quiet=True) as run:
        settings = dict(done=0, save=lambda step: None, evaluate_every=2, save_minutes=60.0)
        for _ in run.steps(2, clips_per_step=64, **settings):
            run.count({"loss": 1.0})
        assert re.fullmatch(r"[\d,]+ clips/s, 0\.0 min left", run.pace())
        run._paced_seconds = 30.0
        assert run.pace() == "2 clips/s, 0.0 min left"
        run._paced_seconds = 640.0
        assert run.pace() == "10.0 s a clip, 0.0 min left"


def test_other_options_are_refused(whole):
    with pytest.raises(UserError, match="--seed: .* began with 1"):
        with TrainingRun(whole[0] / "run", "sum", {"seed": 2}, quiet=True):
            pass
