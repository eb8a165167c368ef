"""What a result depends on besides its options: commit, versions, hardware."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "audio-gan-inversion",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "numpy",
    "scipy",
    "librosa",
    "soundfile",
    "soxr",
    "scikit-learn",
    "scikit-image",
)


def describe_environment() -> dict[str, Any]:
    """What a result depends on besides its options: JSON-able; imports none of the packages it names.

    Returns:
        `date` (UTC, ISO 8601), `commit` and `dirty` (tracked files changed; both None outside of a checkout),
        `python`, `platform`, `versions` (installed packages only), and `hardware`: `cpu`, `cores` (usable by
        this process) and `gpus` (NVIDIA's names, empty without a driver).
    """
    commit, dirty = _commit()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": _versions(),
        "hardware": {"cpu": _cpu(), "cores": _cores(), "gpus": gpus()},
    }


def _output_of(*command: str) -> str | None:
    """What a command prints, or None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit(root: Path = ROOT) -> tuple[str | None, bool | None]:
    git = ("git", "-C", str(root))
    # A copy without .git may lie inside some other repository, whose commit says nothing about it.
    top = _output_of(*git, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None, None
    changes = _output_of(*git, "status", "--porcelain", "--untracked-files=no")
    return _output_of(*git, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def gpus() -> list[str]:
    """Names of the GPUs of this machine that have NVIDIA's driver."""
    names = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines() if names else []
