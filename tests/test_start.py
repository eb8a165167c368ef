"""How scripts start: what needs no network is answered before TensorFlow is imported."""

import os
import subprocess
import sys

import pytest

from models.classifier import ARCHITECTURES
from models.encoder_training import FEATURE_TERMS
from utils import choices, losses, metrics, objectives
from utils.audio.augment import AUGMENTATIONS
from utils.audio.files import ALIGNMENTS
from utils.audio.splits import HALVES
from utils.evaluation import names
from utils.priors import PRIORS

HEAVY = {"tensorflow", "keras", "librosa", "matplotlib", "scipy", "sklearn", "numba"}
# By script, the arguments of a run without those that are wrong; None: it has no --dry_run.
SCRIPTS = {
    "attribute": "datasets/demo",
    "calculate_metrics": "--all --preset paper",
    "deepfake_detection": "",
    "download": "sc09",
    "export": "onnx",
    "generate": "",
    "latent_vector_recovery": "datasets/demo --method all",
    "train": "datasets/demo",
    "train_sc09_classifier": "datasets/demo",
    "train_wavegan": "datasets/demo",
    "benchmarks.generator": None,
    "benchmarks.lbfgs": None,
    "benchmarks.scale": None,
    "benchmarks.training": None,
    "docs.audio_examples": None,
    "examples.drums": None,
}
# Runs a module as a script with each of several command lines; says how each ended and what has been imported.
IN_ONE_PROCESS = """
import contextlib, io, runpy, sys
module, *command_lines = sys.argv[1:]
for line in command_lines:
    sys.argv = [module, *line.split()]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        print(end.code, end=" ")
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_wrong_usage_and_dry_run_wait_for_no_library(script, repo_root):
    given = SCRIPTS[script]
    command_lines = ["--help", f"{given or ''} --no_such_option", *([] if given is None else [f"{given} --dry_run"])]
    command = [sys.executable, "-c", IN_ONE_PROCESS, script, *command_lines]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    *codes, imported = done.stdout.split(maxsplit=len(command_lines))
    assert codes == ["0", "2", "0"][: len(command_lines)], done.stderr
    assert "utils" in imported.split() and not HEAVY & set(imported.split())


def test_the_names_to_choose_from_are_those_of_what_they_stand_for():
    assert choices.ALIGNMENTS == tuple(ALIGNMENTS)
    assert choices.ARCHITECTURES == tuple(ARCHITECTURES)
    assert choices.AUGMENTATIONS == tuple(AUGMENTATIONS)
    assert choices.FEATURE_DISTANCES == tuple(FEATURE_TERMS)
    assert choices.PRIORS == tuple(PRIORS)
    assert set(HALVES) < set(choices.SPLITS)
    assert {*objectives.TERMS, "latent"} == set(losses.TERMS)  # recovery does not know the true z
    assert tuple(names.METRICS) == tuple(metrics.METRICS)
    assert all(f"  {name} " in names.describe_metrics() for name in metrics.METRICS)


def test_without_tensorflow_one_line_says_what_to_run(repo_root, tmp_path):
    # A Python that finds the project but none of its packages.
    done = subprocess.run(
        [sys.executable, "-S", "generate.py", "--n", "3"],
        cwd=repo_root,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "has no tensorflow; run `make setup`, then: .venv/bin/python generate.py --n 3" in done.stderr
