"""Fixtures that several test files share."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from utils import options
from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

ROOT = Path(__file__).resolve().parent.parent
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".pytest_cache" / "xdg")  # not the user's own

# No deadline: TensorFlow's first call is slow. Derandomised: the same commit always passes or always fails.
hypothesis.settings.register_profile("fast", deadline=None, derandomize=True, max_examples=20)
hypothesis.settings.register_profile("slow", deadline=None, derandomize=True, max_examples=100)
hypothesis.settings.load_profile("fast")


def pytest_configure(config) -> None:
    """`-m slow` takes more examples of each property."""
    if config.getoption("markexpr") == "slow":
        hypothesis.settings.load_profile("slow")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The folder that holds the scripts."""
    return ROOT


@pytest.fixture(scope="session")
def run_script():
    """A function that runs a script of the root folder, there, as a user would.

    `run_script("generate.py", "--n", "3")` returns the `CompletedProcess` with text output, whatever the exit
    code; keyword `env` adds environment variables, `timeout` is in seconds.
    """

    def run(name: str, *args, timeout: float = 300, env: dict[str, str] | None = None):
        return subprocess.run(
            [sys.executable, name, *map(str, args)],
            cwd=ROOT,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def run_main():
    """A function that runs a script's `main` in this process: much faster than `run_script`, with the same result.

    `run_main("generate.py", "--n", "3")` gives a `CompletedProcess`: exit code, stdout, stderr. Folders are relative
    to the root of the project. A test of each script's start, and of Ctrl-C, takes `run_script`.
    """

    def run(name: str, *args) -> subprocess.CompletedProcess:
        main = importlib.import_module(name.removesuffix(".py").replace("/", ".")).main
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            patch.setattr(sys, "argv", [name, *map(str, args)])
            patch.chdir(ROOT)
            options.run(main)
        return subprocess.CompletedProcess([name, *map(str, args)], end.value.code, out.getvalue(), err.getvalue())

    return run
