"""What happens around the steps of a training: saving, stopping, going on, and what is written."""

import os
import re
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf

from utils.errors import UserError
from utils.runs import training_run
from utils.runs.files import read_json, read_jsonl, write_json
from utils.runs.training_run import TrainingRun, read_steps

TOTAL, EVALUATE_EVERY = 7, 3


class Sum:
    """Adds the numbers of its steps, so that a step done twice or never shows.

    Args:
        at_step: called with the number of steps done, at the end of each.
    """

    def __init__(self, at_step=lambda done: None):
        self.value, self.at_step = 0.0, at_step

    def step(self, number):
        self.value = self.value * 1.5 + number
        self.at_step(number + 1)
        return {"loss": tf.constant(self.value), "number": float(number)}

    def save(self, folder, step):
        write_json(folder / "sum.json", [step, self.value])

    def restore(self, folder):
        step, self.value = read_json(folder / "sum.json") if (folder / "sum.json").exists() else (0, 0.0)
        return step


def train(folder, at_step=lambda done: None, at_evaluation=lambda run: None, **settings):
    """Seven steps with an evaluation after every third; the trainer at the end."""
    settings = {"evaluate_every": EVALUATE_EVERY, "save_minutes": 60.0} | settings
    trainer = Sum(at_step)
    with TrainingRun(folder / "run", "sum", {"seed": 1}, quiet=True) as run:
        for _ in run.train(trainer, TOTAL, **settings):
            at_evaluation(run)
            run.log("epochs", {"epoch": 1} | run.mean_losses() | {"val_loss": 0.25})
    return run, trainer


def press(number):
    """Presses Ctrl-C in a step."""
    return lambda done: os.kill(os.getpid(), signal.SIGINT) if done == number else None


def saved(folder):
    """The steps of the checkpoint."""
    return Sum().restore(folder / "run")


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
    steps = read_steps(folder / "run")[1]
    assert list(steps) == list(range(TOTAL)) and steps[6] == {"loss": pytest.approx(value), "number": 6.0}
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
    with pytest.raises(KeyboardInterrupt, match="To resume: python train.py sounds"):
        train(tmp_path, press(at))
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(read_steps(tmp_path / "run")[1]) == at
    run, trainer = train(tmp_path)
    assert float(trainer.value) == whole[1] and epochs(tmp_path) == epochs(whole[0])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at, kept", [(2, 0), (5, 3)])
def test_what_was_not_saved_is_done_again(whole, tmp_path, at, kept):
    def kill(done):
        if done == at:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path, kill)
    assert saved(tmp_path) == kept
    assert float(train(tmp_path)[1].value) == whole[1]
    assert read_steps(tmp_path / "run")[1] == read_steps(whole[0] / "run")[1]
    assert epochs(tmp_path) == epochs(whole[0])


@pytest.mark.parametrize("at", [3, TOTAL])
def test_what_is_evaluated_is_saved_before_and_evaluated_again_where_that_was_cut_short(whole, tmp_path, at):
    def kill(run):
        if run.done == at:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path, at_evaluation=kill)
    assert saved(tmp_path) == at
    run, trainer = train(tmp_path, at_step=lambda done: pytest.fail("done again") if done <= at else None)
    assert run.finished and trainer.value == whole[1] and epochs(tmp_path) == epochs(whole[0])


def test_time_that_is_up_saves_and_stops(whole, tmp_path, capsys):
    run, _ = train(tmp_path, minutes=1e-9)
    assert run.done == 1 and not run.finished
    assert re.search(r"Stopped after 1e-09 minutes and 1 steps. To resume: ", capsys.readouterr().out)
    run, trainer = train(tmp_path, save_minutes=1e-9)
    assert run.finished and trainer.value == whole[1]


def test_stopped_early_it_is_saved_and_finished(tmp_path):
    run, trainer = train(tmp_path, at_evaluation=lambda run: run.stop() if run.done == 6 else None)
    assert run.finished and run.done == 6 == saved(tmp_path)


def test_saves_within_an_evaluations_stretch(tmp_path):
    def look(done):
        if done == 3:
            assert saved(tmp_path) == 2

    train(tmp_path, look, save_minutes=1e-9, evaluate_every=100)


class Breaking(Sum):
    """Its losses are not numbers from step 4 on."""

    def step(self, number):
        return {"loss": np.float32("nan" if number >= 4 else 1.5)}


def test_a_loss_that_is_not_finite_names_the_clips_and_nothing_is_saved_after_it(tmp_path):
    clips = {"clips_of": lambda step: [f"{step}.wav", "a.wav", "a.wav"]}
    with TrainingRun(tmp_path / "run", "sum", {}, quiet=True) as run:
        with pytest.raises(UserError, match=r"step 4: .*nan.* as it was saved before; .*: 4.wav, a.wav$"):
            for _ in run.train(Breaking(), 9, evaluate_every=3, save_minutes=60.0, **clips):
                run.log("epochs", {"epoch": 1})
        assert list(read_steps(run.folder)[1]) == [0, 1, 2, 3] and saved(tmp_path) == 3
    with TrainingRun(tmp_path / "other", "sum", {}, quiet=True) as run:
        with pytest.raises(UserError, match="step 4: .* nothing had been saved"):
            for _ in run.train(Breaking(), 9, evaluate_every=9, save_minutes=60.0, **clips):
                pytest.fail("evaluated")


class Unread:
    """A loss that tells when it is read."""

    def __init__(self, reads):
        self.reads = reads

    def __float__(self):
        self.reads.append(self)
        return 0.5


def test_each_loss_is_read_once_and_not_at_every_step(tmp_path, monkeypatch):
    reads, read_after = [], []

    class Slow(Sum):
        def step(self, number):
            read_after.append(len(reads))
            return {"loss": Unread(reads)}

    monkeypatch.setattr(training_run, "LOSSES_SECONDS", 60.0)
    with TrainingRun(tmp_path / "run", "sum", {}, quiet=True) as run:
        for _ in run.train(Slow(), 10, evaluate_every=5, save_minutes=60.0):
            assert run.mean_losses() == {"loss": 0.5}
    assert read_after == [0, 1, 1, 1, 1, 5, 5, 5, 5, 5] and len(reads) == len(set(reads)) == 10
    assert list(read_steps(run.folder)[1]) == list(range(10))


def test_a_measure_that_is_undefined_is_left_out_and_said(tmp_path, capsys):
    with TrainingRun(tmp_path / "run", "sum", {}, quiet=True) as run:
        for _ in run.train(Sum(), 1, evaluate_every=1, save_minutes=60.0):
            kept = run.log("epochs", {"val_ssim": float("inf"), "val_loss": 1.0})
    assert "note: step 1: undefined for these clips: val_ssim" in capsys.readouterr().out
    (row,) = epochs(tmp_path)
    assert row == {"step": 1, "val_loss": 1.0} and kept == {"val_loss": 1.0}


def test_a_worker_that_is_not_the_chief_writes_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "options.json", {"seed": 1})
    with TrainingRun(tmp_path / "run", "sum", {"seed": 1}, is_chief=False) as run:
        for _ in run.train(Sum(), 3, evaluate_every=1, save_minutes=60.0):
            pytest.fail("evaluated")
    assert run.finished and [path.name for path in run.folder.iterdir()] == ["options.json"]


def test_the_pace_is_told_in_clips_and_in_seconds(tmp_path):
    with TrainingRun(tmp_path / "run", "sum", {}, quiet=True) as run:
        for _ in run.train(Sum(), 2, clips_per_step=64, evaluate_every=2, save_minutes=60.0):
            pass
        assert re.fullmatch(r"[\d,]+ clips/s, 0\.0 min left", run.pace())
        run._paced_seconds = 30.0
        assert run.pace() == "2 clips/s, 0.0 min left"
        run._paced_seconds = 640.0
        assert run.pace() == "10.0 s a clip, 0.0 min left"


def test_other_options_are_refused(whole):
    with pytest.raises(UserError, match="--seed: .* began with 1"):
        with TrainingRun(whole[0] / "run", "sum", {"seed": 2}, quiet=True):
            pass
