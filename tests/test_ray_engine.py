"""latent_vector_recovery.py --engine ray: two actors, killed workers, a killed driver, a clip that kills, S3."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale import actors_of
from tests.test_latent_vector_recovery import SCRIPT, SIMPLE, compared, write_clips
from utils.runs.files import read_jsonl

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SEARCH = (*SIMPLE, "--max_iter", "60", "--restarts", "2", "--batch_size", "2", "--own_samples", "2")
RAY = ("--engine", "ray", "--actors", "2")
N = 18


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "in", N)


@pytest.fixture(scope="module")
def local(run_main, clips, tmp_path_factory) -> dict[str, object]:
    """The local engine's results of the clips."""
    output = tmp_path_factory.mktemp("local") / "out"
    assert (
        run_main(
            SCRIPT, clips, "--generator", "tests.tiny:generator", "--trust", *SEARCH, "--output", output
        ).returncode
        == 0
    )
    return compared(output)


def test_a_killed_worker_and_a_killed_driver_leave_one_result_a_clip(run_script, clips, local, tmp_path):
    output = tmp_path / "out"
    args = (clips, "--generator", "tests.tiny:generator", "--trust", *SEARCH, *RAY, "--output", output)

    def records() -> set[Path]:
        return set(output.glob("*/*/gradient.npz"))

    def wait_for_records(n: int) -> None:
        deadline = time.monotonic() + 500
        while len(records()) < n:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)

    process = subprocess.Popen([sys.executable, SCRIPT, *map(str, args)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_records(2)
    workers = actors_of(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    wait_for_records(8)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    while any(Path(f"/proc/{worker}").exists() for worker in workers):  # Ray ends them with their driver
        time.sleep(0.05)
    done = {path: path.stat().st_mtime_ns for path in records()}
    assert 8 <= len(done) < N and not (output / "results.jsonl").exists()

    again = run_script(SCRIPT, *args, timeout=900)
    assert again.returncode == 0 and "Traceback" not in again.stderr, again.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    rows = read_jsonl(output / "results.jsonl")
    assert len(rows) == len({row["source"] for row in rows}) == N + 2
    result = compared(output)
    assert list(result) == list(local)
    for name, value in local.items():
        assert result[name] == value, name


def test_a_clip_that_kills_its_worker_fails_and_takes_none_with_it(run_script, run_main, tmp_path):
    folder = write_clips(tmp_path / "in", 6)
    (folder / "02.wav").rename(folder / "deadly.wav")  # the last one, in a group with 05.wav
    args = (folder, *SEARCH, "--generator", "tests.deadly:generator", "--trust")
    done = run_script(SCRIPT, *args, *RAY, "--output", tmp_path / "out", timeout=900)
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    (failure,) = read_jsonl(tmp_path / "out" / "failures.jsonl")
    assert failure["source"] == "deadly.wav" and "worker died each time, 3 times in a row" in failure["reason"]

    (folder / "deadly.wav").write_bytes(b"")  # then the local engine leaves it out, too
    assert run_main(SCRIPT, *args, "--output", tmp_path / "local").returncode == 3
    expected, result = compared(tmp_path / "local"), compared(tmp_path / "out")
    for contents in (expected, result):
        del contents["failures.jsonl"]
    assert list(result) == list(expected)
    for name, value in expected.items():
        assert result[name] == value, name


@pytest.fixture
def bucket(monkeypatch):
    """The URL of a bucket on an S3 server of this machine."""
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="sounds")
    yield "s3://sounds/run"
    server.stop()


def test_results_in_an_object_store(run_script, clips, local, bucket, tmp_path):
    import boto3

    store = ("--store", bucket)
    args = (
        clips,
        "--generator",
        "tests.tiny:generator",
        "--trust",
        *SEARCH,
        *store,
        "--output",
        tmp_path / "out",
        "--manifest",
    )
    done = run_script(SCRIPT, *args, *RAY, timeout=900)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr

    def objects() -> dict:
        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket="sounds", Prefix="run/")
        return {
            entry["Key"].removeprefix("run/"): entry["LastModified"] for page in pages for entry in page["Contents"]
        }

    there = objects()
    files = {name: value for name, value in local.items() if isinstance(value, bytes)}
    assert set(there) == set(files) | {"options.json"}
    for name, content in files.items():
        assert boto3.client("s3").get_object(Bucket="sounds", Key=f"run/{name}")["Body"].read() == content, name
    check_manifest(tmp_path / "out" / "manifest.parquet", local)
    assert not (tmp_path / "out" / "index.html").exists()

    again = run_script(SCRIPT, *args, timeout=900)  # by the other engine
    assert again.returncode == 0, again.stderr
    assert {k: v for k, v in objects().items() if k != "options.json"} == {
        k: v for k, v in there.items() if k != "options.json"
    }
    gone = run_script(SCRIPT, *args[:-5], "--store", "s3://nowhere/run", "--output", tmp_path / "other", timeout=900)
    line = gone.stderr.splitlines()[-1]  # before it TensorFlow may report on this processor
    assert gone.returncode == 2 and line.startswith("error: s3://nowhere/run/options.json: cannot be written")


def check_manifest(path: Path, local: dict[str, object]) -> None:
    """All three readers see one row a clip, with the latents that the local engine found."""
    pandas, polars, duckdb = (pytest.importorskip(name) for name in ("pandas", "polars", "duckdb"))
    rows = local["results.jsonl"]
    tables = (
        pandas.read_parquet(path).to_dict("records"),
        polars.read_parquet(path).to_dicts(),
        duckdb.sql(f"select * from '{path}'").df().to_dict("records"),
    )
    for table in tables:
        assert [row["source"] for row in table] == [row["source"] for row in rows]
        for got, expected in zip(table, rows, strict=True):
            assert got["status"] == expected["status"] and got["objective"] == expected["objective"]
            z = np.array([list(window) for window in got["z"]], np.float32)
            np.testing.assert_array_equal(z, latents_of(local, expected["latents"]))


def latents_of(local: dict[str, object], name: str) -> np.ndarray:
    with np.load(io.BytesIO(local[name])) as file:
        return file["z"]
