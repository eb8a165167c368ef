"""The training script as a user runs it: one epoch, mistakes, and going on after kill -9."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.classifier import load_classifier
from train_sc09_classifier import out_of_patience
from utils.audio.datasets import DIGITS, load_dataset
from utils.runs.files import read_jsonl
from utils.runs.training_run import read_steps

ROOT = Path(__file__).parents[1]
CLIPS_A_DIGIT = 6
TINY = "--architecture mel_cnn --width 2 --num_samples 2048 --batch_size 8".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Digits as tones; of six clips a digit two are in the selection half of the validation clips, one in the other."""
    root = tmp_path_factory.mktemp("digits")
    time_axis = np.arange(2048) / 16000
    for label, digit in enumerate(DIGITS):
        (root / digit).mkdir()
        for take in range(CLIPS_A_DIGIT):
            tone = 0.3 * np.sin(2 * np.pi * (300 + 500 * label) * time_axis + take)
            soundfile.write(root / digit / f"{take}_nohash_0.wav", tone, 16000)
    (root / "validation_list.txt").write_text("\n".join(f"{d}/{t}_nohash_0.wav" for d in DIGITS for t in (1, 3, 2)))
    return root


def arguments(data, folder, *more):
    places = [data, "--output", folder / "run", "--results", folder / "results", "--cache", folder / "cache"]
    return [*map(str, places), *TINY, *map(str, more)]


def test_one_epoch(run_main, data, tmp_path):
    one_epoch = ("--epochs", 1, "--export", tmp_path / "my.keras", "--export_dtype", "float16")
    done = run_main("train_sc09_classifier.py", *arguments(data, tmp_path, *one_epoch, "--seed", 3))
    assert done.returncode == 0, done.stderr
    assert "epoch   1/1" in done.stdout and "accuracy" in done.stdout
    model = load_classifier(tmp_path / "my.keras")
    for rounded, weight in zip(model.weights, load_classifier(tmp_path / "run").weights, strict=True):
        np.testing.assert_array_equal(rounded, np.float16(weight))
    assert model.options["width"] == 2 and model.options["num_samples"] == 2048 and model.class_names == DIGITS

    folder, results = tmp_path / "run", tmp_path / "results"
    assert {"options.json", "log.txt", "epochs.jsonl", "last.keras", "best.keras", "classifier.keras"} <= {
        path.name for path in folder.iterdir()
    }
    assert list(folder.glob("tensorboard/**/events*"))
    (line,) = read_jsonl(results / "classifier.jsonl")
    rows = list(csv.reader(open(results / "run-confusion.csv")))
    confusion = np.array([row[1:] for row in rows[1:]], int)
    assert rows[0][1:] == list(DIGITS) and confusion.sum(axis=1).tolist() == [1] * 10
    assert line["n"] == 10 and line["accuracy"] == confusion.trace() / 10
    low, high = line["accuracy_95"]
    assert 0 <= low <= line["accuracy"] <= high <= 1
    (epoch,) = read_jsonl(folder / "epochs.jsonl")
    assert epoch["val_accuracy"] == line["selection_accuracy"] and epoch["step"] == 4
    assert epoch["loss"] == pytest.approx(np.mean([losses["loss"] for losses in read_steps(folder)[1].values()]))
    assert (results / "run-confusion.png").read_bytes().startswith(b"\x89PNG")

    other = run_main("train_sc09_classifier.py", *arguments(data, tmp_path, *one_epoch, "--seed", 4))
    assert other.returncode == 2 and "--seed" in other.stderr and "Traceback" not in other.stderr


def accuracy(path, dataset):
    answers = load_classifier(path)(dataset.to_float(range(len(dataset))), training=False)
    return np.mean(np.argmax(answers, axis=1) == dataset.labels)


def test_the_epoch_that_is_best_on_the_selection_half_is_kept(run_main, data, tmp_path):
    """At a rate so high that it learns nothing, and no later epoch is better; with --keep_epochs every epoch."""
    given = ("--epochs", 4, "--learning_rate", 0.3, "--schedule", "constant", "--keep_epochs", "--augment", "none")
    done = run_main("train_sc09_classifier.py", *arguments(data, tmp_path, *given, "--seed", 3))
    assert done.returncode == 0, done.stderr
    selection = load_dataset(data, 2048, 1, 16000, "selection", cache_dir=tmp_path / "cache", quiet=True)
    accuracies = [row["val_accuracy"] for row in read_jsonl(tmp_path / "run" / "epochs.jsonl")]
    kept = sorted((tmp_path / "run" / "epochs").iterdir())
    assert [path.name for path in kept] == [f"{epoch:04}.keras" for epoch in (1, 2, 3, 4)]
    assert [accuracy(path, selection) for path in kept] == pytest.approx(accuracies)
    best = int(np.argmax(accuracies))
    assert best < 3  # otherwise this tells nothing
    weights = [load_classifier(path).get_weights() for path in (kept[best], tmp_path / "run" / "best.keras")]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("patience, stops", [(None, False), (3, False), (2, True)])
def test_patience_is_the_epochs_since_the_best(patience, stops):
    assert out_of_patience([0.2, 0.5, 0.4, 0.5], patience) is stops
    assert not out_of_patience([], patience)


@pytest.mark.slow
def test_without_a_better_epoch_it_stops(run_main, data, tmp_path):
    still = arguments(data, tmp_path, "--patience", 1, "--learning_rate", 1e-12, "--epochs", 9)
    for _ in range(2):  # started again, it is still out of patience
        done = run_main("train_sc09_classifier.py", *still)
        assert done.returncode == 0 and "the best of 2 epochs was chosen" in done.stdout, done.stderr


DIES = """
import os, signal, sys
import train_sc09_classifier as script
step = script.ClassifierTrainer.step
def step_or_die(self, number):
    if number == 6:  # in the second epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number)
script.ClassifierTrainer.step = step_or_die
sys.exit(script.main())
"""


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_uninterrupted(run_script, data, tmp_path):
    options = ("--epochs", 4, "--seed", 3)
    script = "train_sc09_classifier.py"
    assert run_script(script, *arguments(data, tmp_path / "whole", *options)).returncode == 0
    command = [sys.executable, "-c", DIES, *arguments(data, tmp_path / "killed", *options)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    done = run_script(script, *arguments(data, tmp_path / "killed", *options))
    assert done.returncode == 0 and "resumed at step" in done.stdout, done.stderr

    weights = [load_classifier(tmp_path / name / "run").get_weights() for name in ("whole", "killed")]
    for whole, resumed in zip(*weights, strict=True):
        np.testing.assert_allclose(resumed, whole, atol=1e-4)


def test_an_unlabelled_folder_is_refused(run_script, tmp_path):
    (tmp_path / "birds").mkdir()
    for name in "abcdefghijklmnopqrstuvwxyz":
        soundfile.write(tmp_path / "birds" / f"{name}.wav", np.zeros(100), 16000)
    done = run_script("train_sc09_classifier.py", *arguments(tmp_path / "birds", tmp_path))
    assert done.returncode == 2 and "no digit labels" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name, architecture", [("judge_mel", "mel_cnn"), ("judge_wave", "waveform_cnn")])
def test_the_bundled_judges_load(name, architecture):
    file = ROOT / "classifier_checkpoint" / f"{name}.keras"
    judge = load_classifier(file)
    assert judge.class_names == DIGITS and judge.options["architecture"] == architecture
    assert judge.options["precision"] == "float32" and file.stat().st_size < 2e6
