"""How scripts start: what needs no network is answered before TensorFlow is imported."""

import json
import os
import subprocess
import sys
import tempfile

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
    "studies.attribution": None,
    "studies.formats": None,
    "studies.judges": None,
    "studies.projected": None,
    "studies.recovery": None,
    "studies.results_md": None,
    "studies.samples": None,
    "studies.speech": None,
}
# Runs modules as scripts, each with several command lines; how they ended, and what had been imported after each.
IN_ONE_PROCESS = """
import contextlib, io, json, runpy, sys
told = {}
for module, command_lines in json.loads(sys.argv[1]).items():
    codes = []
    for line in command_lines:
        sys.argv = [module, *line.split()]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                runpy.run_module(module, run_name="__main__")
            except SystemExit as end:
                codes.append(end.code)
    told[module] = codes, sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def starts(repo_root):
    command_lines = {
        script: ["--help", f"{given or ''} --no_such_option", *([] if given is None else [f"{given} --dry_run"])]
        for script, given in SCRIPTS.items()
    }
    command = [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(command_lines)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_wrong_usage_and_dry_run_wait_for_no_library(starts, script):
    codes, imported = starts[script]
    assert codes == ([0, 2] if SCRIPTS[script] is None else [0, 2, 0])
    assert "utils" in imported and not HEAVY & set(imported)


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


def start(*words, root, **settings):
    """A process of this Python with pipes, as text."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= settings.pop("environment", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=root, env=environment, text=True, **pipes)


def test_what_only_looks_like_an_error_is_not_shown(repo_root):
    code = "from utils.runs import devices; import tensorflow as tf; tf.constant(1.0, tf.float16) + 1"
    process = start("-c", code, root=repo_root, environment={"TF_ENABLE_ONEDNN_OPTS": "1"})
    assert process.communicate()[1] == "" and process.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_the_terminal_cannot_show_is_escaped(repo_root, encoding):
    plan = ("generate.py", "--dry_run", "--output", "klänge→\udcff")
    process = start(*plan, root=repo_root, environment={"PYTHONIOENCODING": encoding}, encoding=encoding)
    out, err = process.communicate()
    assert process.returncode == 0 and err == ""
    assert ("kl\\xe4nge" if encoding == "ascii" else "klänge") + "\\u2192\\udcff" in out
    wrong = start("generate.py", "--n", "drei→", root=repo_root, environment={"PYTHONIOENCODING": encoding})
    assert wrong.communicate()[1].startswith("error: argument --n: ") and wrong.returncode == 2


LISTS = """
import sys
from utils import options
def main():
    for number in range(100_000):
        print(number)
    print("finished", file=sys.stderr)
options.run(main)
"""


def test_a_run_whose_reader_goes_away_ends_as_usual(repo_root):
    process = start("-c", LISTS, root=repo_root)
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == "finished\n" and process.wait() == 0


@pytest.mark.slow
def test_a_run_with_closed_streams_writes_what_it_should(repo_root, tmp_path):
    """Closed, their numbers would go to the next files that are opened, and take what is printed."""
    command = (
        f"{sys.executable} generate.py --generator tests.tiny:generator --trust --n 3 --output {tmp_path} >&- 2>&-"
    )
    done = subprocess.run(["sh", "-c", command], cwd=repo_root)
    assert done.returncode == 0 and len(list(tmp_path.glob("*.wav"))) == 3
    assert not (tmp_path / ".lock").exists()


def test_jupyters_backend_need_not_be_installed(repo_root):
    code = "import utils, matplotlib.figure"
    process = start("-c", code, root=repo_root, environment={"MPLBACKEND": "module://no_such_package.backend_inline"})
    assert process.communicate()[1] == "" and process.returncode == 0


def test_without_a_home_caches_are_temporary(repo_root):
    code = "import os, utils; print(os.environ['NUMBA_CACHE_DIR'], os.environ['MPLCONFIGDIR'])"
    nowhere = {"HOME": "/dev/null/home", "XDG_CACHE_HOME": ""}
    process = start("-c", code, root=repo_root, environment=nowhere)
    places = process.communicate()[0].split()
    assert len(places) == 2 and all(place.startswith(tempfile.gettempdir()) for place in places)


def test_without_docstrings(repo_root):
    for script in ("calculate_metrics.py", "train.py"):
        process = start("-OO", script, "--help", root=repo_root)
        out, err = process.communicate()
        assert process.returncode == 0 and "--generator" in out and err == ""


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
