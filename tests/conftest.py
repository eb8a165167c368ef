"""Fixtures that several test files share."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

import utils  # noqa: F401  (its environment variables must stand before a test imports NumPy or TensorFlow)

ROOT = Path(__file__).resolve().parent.parent

# No deadline: TensorFlow's first call is slow. Derandomised: the same commit always passes or always fails.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")


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
