"""The project as others use it: installed beside their code, called from Python."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from fnmatch import fnmatch
from pathlib import Path

import pytest

from utils.audio.splits import half_of

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_script_has_an_entry_point():
    entries = (ROOT / "entry_points.py").read_text()
    scripts = {path.stem for path in ROOT.glob("*.py")} - {"entry_points"}
    assert set(re.findall(r'_run, "(\w+)"', entries)) == scripts
    named = {entry.rpartition(":")[2] for entry in PROJECT["project"]["scripts"].values()}
    assert named == set(re.findall(r"^(\w+) = functools", entries, re.MULTILINE))


def test_every_package_and_data_file_is_installed():
    tools = PROJECT["tool"]["setuptools"]
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for part in ("models", "utils")
        for path in (ROOT / part).rglob("__init__.py")
    }
    assert set(tools["packages"]) == packages | {"audio_gan_inversion"}
    for package, patterns in tools["package-data"].items():
        folder = ROOT / tools["package-dir"].get(package, package)
        assert all(list(folder.glob(pattern)) for pattern in patterns)
    tracked = subprocess.run(["git", "ls-files", "models", "utils"], cwd=ROOT, capture_output=True, text=True).stdout
    others = [name for name in tracked.split() if not name.endswith(".py")]
    assert all(name.endswith((".html", "py.typed")) for name in others), others


def example() -> str:
    return re.search(r"~~~python\n(.*?)~~~", (ROOT / "docs/library.md").read_text(), re.DOTALL)[1]


def test_the_ten_lines_of_the_library_s_page(tmp_path):
    code = example().replace("my_clip.wav", str(ROOT / "datasets/demo/one_en-gb_f2.flac"))
    assert len(code.splitlines()) <= 14
    code = code.replace("max_iter=200", "max_iter=5")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reconstruction.wav").stat().st_size > 16384 * 4
    assert "(1, 100)" in done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of the commands of an installed copy. What it depends on is that of the tests' own environment."""
    home = tmp_path_factory.mktemp("installed")
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    context = [line[1:] for line in ignore if line.startswith("!")]  # what a Docker image is made of must be enough
    names = [name for name in names if any(fnmatch(name, f"{part}*" if part[-1] == "/" else part) for part in context)]
    for name in names:  # a copy: setuptools writes beside the source
        target = home / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    venv.create(home / "venv", with_pip=True)
    site = next((home / "venv").glob("lib/python*/site-packages"))
    (site / "tests_own.pth").write_text(str(Path(pytest.__file__).parents[1]))
    pip = [
        home / "venv/bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    subprocess.run([*pip, home / "source"], check=True, capture_output=True, text=True)
    return home / "venv/bin"


@pytest.mark.slow
def test_an_installed_copy(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run(
            [installed / command[0], *map(str, command[1:])],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        return done

    for name in PROJECT["project"]["scripts"]:
        shown = run(name, "--help")
        assert shown.returncode == 0 and "usage: " + name in shown.stdout, shown.stderr

    done = run("audio-gan-generate", "--n", 2, "--output", "waves")
    assert done.returncode == 0, done.stderr
    options = json.loads((tmp_path / "waves/options.json").read_text())
    assert "site-packages/audio_gan_inversion/checkpoint" in options["generator"]
    done = run(
        "audio-gan-invert", "waves", "--method", "hybrid", "--hybrid_max_iter", 3, "--own_samples", 1, "--output", "r"
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "r/results.jsonl").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "r/options.json").read_text())["environment"]["versions"]["audio-gan-inversion"]

    wrong = run("audio-gan-invert", "nowhere")
    assert wrong.returncode == 2 and "error: nowhere: no such file" in wrong.stderr
    (tmp_path / "checkpoint").mkdir()  # a folder of one's own comes first, as in a checkout
    wrong = run("audio-gan-generate", "--n", 1)
    assert wrong.returncode == 2 and "checkpoint/: looked for infer.meta" in wrong.stderr

    code = "import models; from utils.audio.splits import half_of; print(half_of('060cd039'), models.__file__)"
    half, where = run("python", "-c", code).stdout.split()
    assert where.startswith(str(installed.parent)) and half == half_of("060cd039")


@pytest.mark.slow
def test_what_it_depends_on_is_read_from_requirements(installed):
    site = next(installed.parent.glob("lib/python*/site-packages"))
    (distribution,) = importlib.metadata.distributions(name="audio-gan-inversion", path=[str(site)])
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert distribution.requires == [line for line in lines if line and not line.startswith("#")]


@pytest.mark.slow
def test_the_api_s_pages(tmp_path):
    """`make docs`: each module has a page, each public function of it an entry."""
    pytest.importorskip("pdoc", reason="pdoc is not installed: make setup-docs")
    (command,) = re.findall(r"-m (pdoc .*)", (ROOT / "Makefile").read_text())
    command = command.replace("docs/api", str(tmp_path))
    subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, check=True, capture_output=True)
    for path in (*ROOT.glob("models/*.py"), *ROOT.glob("utils/**/*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
        page = (tmp_path / f"{name}.html").read_text()
        for function in re.findall(r"^(?:def|class) ([a-zA-Z]\w*)", path.read_text(), re.MULTILINE):
            assert f'id="{function}"' in page, f"{name}: {function}"


@pytest.mark.slow
def test_the_notebook_runs():
    pytest.importorskip("nbmake", reason="nbmake is not installed: make setup-docs")
    notebook = ROOT / "docs/walkthrough.ipynb"
    assert notebook.stat().st_size < 300_000
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-m", "", "--nbmake-timeout=1200", notebook]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout[-3000:]
