"""The commands of README.md and of the pages it leads to: their options exist, and they run (at a small size)."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "benchmarks/README.md", ROOT / "RESULTS.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = ".venv/bin/python"
# What makes a command small; a later option wins over an earlier one.
SMALL = {
    "latent_vector_recovery.py": "--limit 2 --max_iter 2 --own_samples 1",
    "generate.py": "--n 2",
    "attribute.py": "--n 3 --limit 1",
    "train_wavegan.py": "--dim 1 --latent_dim 6 --batch_size 4 --steps 1",
    "train_sc09_classifier.py": "--width 2 --epochs 1 --batch_size 8 --results results",
    "train.py": "--width 2 --epochs 1 --steps_per_epoch 1 --batch_size 4 --validation_clips 4",
    "calculate_metrics.py": "--n 4 --max_iter 2",
    "deepfake_detection.py": "--n 10 --repeats 1",
    "export.py": "--encoder none",
    "examples.drums": "--n 20 --warm_steps 1 --steps 1",
    "benchmarks.generator": "--rounds 1",
    "studies.samples": "--n 50",
    "studies.attribution": "--n 3 --robust_n 0",
    "studies.recovery": "--n 2 --max_iter 2 --methods published,hybrid,search",
    "studies.speech": "--n 2 --max_iter 1",
    "studies.projected": "--pairs 2 --max_iter 1 --weights 1",
    "benchmarks.training": "--dim 1 --width 2 --batch_size 2 --rounds 1",
    "benchmarks.scale": "--rounds 1 --groups 3 --max_iter 1 --batch_size 1",
}
# Two of the first four, which are held out, are in the selection half, two in the report half.
SPEAKERS = (0, 1, 7, 12, 2, 3, 4, 5)
# They need a network (tests/test_download.py has a server of its own), or serve until they are stopped.
NOT_RUN = ("download.py", "-m pip", "-m tensorboard.main")


def commands(pages: list[Path]) -> list[str]:
    """The Python commands of the pages' code blocks, continued lines joined, comments left out."""
    blocks = [block for page in pages for block in re.findall(r"```\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = itertools.chain.from_iterable(block.replace("\\\n", " ").splitlines() for block in blocks)
    found = [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith(PYTHON)]
    return list(dict.fromkeys(line.removeprefix(PYTHON).strip() for line in found))


COMMANDS = [command for command in commands(PAGES) if not command.startswith(NOT_RUN)]


def split(command: str) -> tuple[list[str], str, list[str]]:
    """What Python is given to start the script, the script's name, its arguments."""
    words = shlex.split(command)
    count = 2 if words[0] == "-m" else 1
    return words[:count], words[count - 1], words[count:]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project beside a little speech, in a folder of its own: commands may write where they like."""
    home = tmp_path_factory.mktemp("home")
    project = home / "project"
    project.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("cache", "logs", "results", "waves", "my_clips", "my_sounds"):
            (project / path.name).symlink_to(path)
    demo = sorted((ROOT / "datasets/demo").glob("*.flac"))
    for name in ("my_clips", "my_sounds"):
        (project / name).mkdir()
        for clip in demo:
            shutil.copy(clip, project / name)
    digits = home / "shared/data/speech_commands_digits"
    held_out = []
    for digit in "zero one two three four five six seven eight nine".split():
        (digits / digit).mkdir(parents=True)
        for speaker, clip in zip(SPEAKERS, [path for path in demo if digit in path.name][:2] * 4, strict=True):
            samples, rate = soundfile.read(clip)
            name = f"{digit}/{speaker:08x}_nohash_0.wav"
            soundfile.write(digits / name, samples[speaker * 20 :], rate)
            held_out += [name] * (speaker in SPEAKERS[:4])
    (digits / "validation_list.txt").write_text("\n".join(held_out))
    (digits / "testing_list.txt").write_text("")
    return project


def test_pages_have_commands_of_every_script():
    scripts = {split(command)[1] for command in COMMANDS}
    assert scripts >= {path.name for path in ROOT.glob("*.py")} - {"download.py", "entry_points.py"}


def test_readme_and_results_are_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1000 and len(text.splitlines()) <= 150
    lines = (ROOT / "RESULTS.md").read_text().splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 700


@pytest.mark.parametrize("page", [p for p in ROOT.glob("*/README.md") if "_checkpoint" in p.parent.name] + [PAGES[1]])
def test_weights_and_speeds_have_a_page_of_eighty_lines(page):
    assert len(page.read_text().splitlines()) <= 80


def test_make_targets_on_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= targets, page


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md"), *ROOT.glob("*/README.md")], ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_options_on_the_pages_exist(run_main):
    flags = {(name, word) for _, name, words in map(split, COMMANDS) for word in words if word.startswith("--")}
    shown = {name: run_main(name, "--help").stdout for name, _ in flags}
    for name, flag in flags:
        assert re.search(rf"(?<![\w-]){re.escape(flag)}\b", shown[name]), f"{name} {flag}"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command, project):
    start, name, arguments = split(command)
    if name == "benchmarks.scale" or "--engine" in arguments:
        pytest.importorskip("ray")
    small = shlex.split(SMALL.get(name, "")) if "--help" not in arguments else []
    done = subprocess.run(
        [sys.executable, *start, *arguments, *small],
        cwd=project,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(project)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
