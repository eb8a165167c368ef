"""A disk that is full, read-only or gone: one line says so, and the same command resumes when that is fixed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_latent_vector_recovery import SCRIPT, SIMPLE, TINY, compared, write_clips
from tests.test_train import STEPS, arguments, call, place, same_training, whole  # noqa: F401  (fixtures)
from utils import options
from utils.audio.datasets import load_dataset
from utils.errors import UserError
from utils.runs.folders import keep_options, require_folder
from utils.runs.training_run import TrainingRun

SEARCH = (*TINY, *SIMPLE, "--max_iter", "20", "--batch_size", "2", "--own_samples", "0")
GOES_ON = "fix this and run the same command again with its --output, which resumes"


class Disk:
    """A file system in memory of its own, of some megabytes, at `path`."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir()

    def mount(self, setting: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", setting, "none", self.path], check=True, capture_output=True)

    def remount(self, setting: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{setting}", self.path], check=True, capture_output=True)

    def fill(self) -> Path:
        """Leaves no byte free; gives the file that takes them."""
        ballast = self.path / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue
        return ballast


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    try:
        disk.mount("size=64m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here (root on Linux can): {error}")
    yield disk
    while os.path.ismount(disk.path):
        subprocess.run(["umount", "-l", disk.path], check=True)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "in", 12)


@pytest.fixture(scope="module")
def expected(run_main, clips, tmp_path_factory) -> dict[str, object]:
    """What a run on a sound disk leaves."""
    output = tmp_path_factory.mktemp("sound") / "out"
    assert run_main(SCRIPT, clips, *SEARCH, "--output", output).returncode == 0
    return compared(output)


def fails(run_main, clips: Path, output: Path) -> str:
    """The one line that a recovery ends with."""
    done = run_main(SCRIPT, clips, *SEARCH, "--quiet", "--output", output)
    (line,) = done.stderr.splitlines()
    assert done.returncode == options.EXIT_USAGE and line.startswith("error: ")
    return line


def goes_on(run_main, clips: Path, output: Path, expected: dict[str, object]) -> None:
    done = run_main(SCRIPT, clips, *SEARCH, "--output", output)
    assert done.returncode == 0, done.stderr
    result = compared(output)
    assert list(result) == list(expected)
    for name, value in expected.items():
        assert result[name] == value, name


@pytest.mark.slow
def test_a_recovery_on_a_full_disk(run_main, clips, expected, disk):
    output = disk.path / "out"
    disk.remount("size=200k")
    line = fails(run_main, clips, output)
    assert f"{output}/clips/" in line and f"No space left on device; {GOES_ON}" in line
    done = len(list(output.glob("clips/*/gradient.npz")))
    assert 0 < done < 12 and not list(output.rglob(".tmp-*"))
    assert "No space left" in fails(run_main, clips, output)
    disk.remount("size=64m")
    goes_on(run_main, clips, output, expected)


@pytest.mark.slow
def test_a_recovery_on_a_read_only_disk(run_main, clips, expected, disk):
    output = disk.path / "out"
    disk.remount("ro")
    assert f"--output {output}: cannot make this folder: Read-only file system" in fails(run_main, clips, output)
    disk.remount("rw")
    output.mkdir()
    disk.remount("ro")
    assert f"--output {output}: this folder cannot be written to" in fails(run_main, clips, output)
    disk.remount("rw")
    goes_on(run_main, clips, output, expected)


@pytest.mark.slow
def test_a_recovery_whose_disk_vanishes(run_main, clips, expected, disk, tmp_path):
    output = disk.path / "out"
    command = [sys.executable, SCRIPT, *map(str, (clips, *SEARCH, "--output", output))]
    kept = tmp_path / "kept"
    subprocess.run(["mkdir", kept], check=True)
    subprocess.run(["mount", "--bind", disk.path, kept], check=True)  # another way to the same files
    try:
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True)
        while not list(output.glob("clips/*/gradient.npz")):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        subprocess.run(["umount", "-l", disk.path], check=True)
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == options.EXIT_USAGE and "Traceback" not in stderr
        assert stderr.splitlines()[-1].startswith(f"error: {output}: has vanished")
        assert 0 < len(list((kept / "out").glob("clips/*/gradient.npz"))) < 12
        shutil.rmtree(disk.path / "out", ignore_errors=True)  # the clip in hand was written where the disk had been
        subprocess.run(["mount", "--bind", kept, disk.path], check=True)
        goes_on(run_main, clips, output, expected)
    finally:
        for path in (disk.path, kept):
            while os.path.ismount(path):
                subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full", "gone"])
def test_a_training_whose_disk_is_full_or_gone(call, place, whole, disk, monkeypatch, capsys, fault):  # noqa: F811
    count = TrainingRun._count
    run = disk.path / "run"

    def break_after(self, losses, began):
        count(self, losses, began)
        if self.done == STEPS + 2:
            if fault == "full":
                disk.fill()
            else:
                run.rename(disk.path / "elsewhere")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_count", break_after)
        patch.setattr(sys, "argv", ["train.py", *arguments(place, disk.path)])
        with pytest.raises(SystemExit) as end:
            options.run(__import__("train").main)
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == options.EXIT_USAGE
    if fault == "full":
        assert last.startswith(f"error: {run}/") and f"No space left on device; {GOES_ON}" in last
        (disk.path / "ballast").unlink()
    else:
        assert last.startswith(f"error: {run}: has vanished")
        shutil.rmtree(run, ignore_errors=True)
        (disk.path / "elsewhere").rename(run)
    assert call(disk.path) == options.EXIT_OK
    assert f"resumed at step {STEPS}" in capsys.readouterr().out
    same_training(disk.path, whole)


def test_a_folder_that_has_vanished_is_missed(tmp_path):
    keep_options(tmp_path, {"seed": 0})
    require_folder(tmp_path)
    (tmp_path / "options.json").unlink()
    with pytest.raises(UserError, match=": has vanished"):
        require_folder(tmp_path)


def test_a_cache_of_clips_that_cannot_be_written_is_done_without(disk, clips, capsys):
    disk.remount("ro")
    dataset = load_dataset(clips, 1024, split="all", cache_dir=disk.path / "cache", quiet=True)
    said = f"cache {disk.path / 'cache'}: Read-only file system; this run's decoded clips are not kept\n"
    assert len(dataset) == 12 and capsys.readouterr().err == said


@pytest.mark.parametrize("script", [SCRIPT, "attribute.py"])
@pytest.mark.parametrize("kind", ["pipe", "descriptor", "device", "text", "empty"])
def test_an_input_that_cannot_be_read_is_named_before_any_work(run_main, tmp_path, script, kind):
    path, output = tmp_path / f"{kind}.wav", tmp_path / "out"
    ends = os.pipe()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "descriptor":  # as of the shell's <(...)
        path = Path(f"/dev/fd/{ends[0]}")
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        path.write_text("no audio" if kind == "text" else "")
    result = run_main(script, path, *(TINY if script == SCRIPT else ()), "--output", output)
    for end in ends:
        os.close(end)
    reason = {"text": "no audio file", "empty": "empty file"}.get(kind, "not a regular file")
    assert result.returncode == options.EXIT_USAGE and not output.exists()
    assert result.stderr.startswith(f"error: {path}: {reason}") and result.stderr.count("\n") == 1
