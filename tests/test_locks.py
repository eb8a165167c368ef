"""utils/runs/locks.py: a second run says who holds the folder; a dead holder's lock is taken over."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from utils.errors import UserError
from utils.runs import locks
from utils.runs.folders import output_folder

# Holds a folder until its stdin is closed.
HOLDER = """
import sys
from pathlib import Path
from utils.runs.folders import output_folder
output_folder(Path(sys.argv[1]), Path("x"), "x")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(repo_root, tmp_path):
    command = [sys.executable, "-c", HOLDER, tmp_path / "run"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=repo_root, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_the_second_run_says_who_holds_the_folder(holder, run_script, tmp_path):
    torn = tmp_path / "run" / ".tmp-1.wav"  # that the first is writing
    torn.write_bytes(b"1")
    done = run_script("generate.py", "--n", 3, "--output", tmp_path / "run")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and torn.exists()
    told = f"process {holder.pid} on {socket.gethostname()} has been writing into it since 20"
    assert f"--output {tmp_path / 'run'}: {told}" in done.stderr


def test_a_dead_holders_lock_is_taken_over(holder, tmp_path):
    with pytest.raises(UserError, match=f"process {holder.pid}"):
        output_folder(tmp_path / "run", tmp_path, "x")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists()
    output_folder(tmp_path / "run", tmp_path, "x")
    output_folder(tmp_path / "run", tmp_path, "x")  # it is this process's own
    assert f'"process": {os.getpid()}' in (tmp_path / "run" / ".lock").read_text()
    locks.release_all()
    assert not list((tmp_path / "run").iterdir())
