import io
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UserError
from utils.runs import environment
from utils.runs.batches import in_batches
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl, atomic_path, read_json, read_jsonl, write_json
from utils.runs.folders import keep_options, new_run, output_folder, tee_log

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(st.text(), json_values, max_size=4)


def make_runs(parent: Path, description: str, count: int) -> None:
    for _ in range(count):
        new_run(parent, description)


def test_runs_are_numbered_and_named(tmp_path):
    parent = tmp_path / "logs"
    assert new_run(parent, "encoder").name == "00000-encoder"
    assert new_run(parent, "sc09 / dim=64").name == "00001-sc09_dim=64"
    (parent / "00041-old").mkdir()
    (parent / "notes").mkdir()
    assert new_run(parent, "x" * 500).name == "00042-" + "x" * 60
    (parent / "100000-many").mkdir()
    assert new_run(parent, "next").name == "100001-next"


def test_concurrent_runs_never_share_a_number(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=make_runs, args=(tmp_path, f"worker{i}", 25)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    numbers = sorted(int(path.name.partition("-")[0]) for path in tmp_path.iterdir())
    assert len(numbers) == 100 == len(set(numbers))
    assert all("-worker" in path.name for path in tmp_path.iterdir())


def test_output_folder(tmp_path):
    chosen = tmp_path / "a" / "b"
    assert output_folder(chosen, tmp_path, "x") == chosen == output_folder(chosen, tmp_path, "x")
    assert chosen.is_dir()
    assert output_folder(None, tmp_path / "results", "demo") == tmp_path / "results" / "00000-demo"
    (tmp_path / "file").write_text("")
    for blocked in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="--output .*file"):
            output_folder(blocked, tmp_path, "x")
    with pytest.raises(UserError, match="--output .*file"):
        output_folder(None, tmp_path / "file", "x")


def test_atomic_path_replaces_on_success_only(tmp_path):
    path = tmp_path / "new" / "clip.wav"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".wav"
        temporary.write_bytes(b"old")
        assert not path.exists()
    assert path.read_bytes() == b"old"
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half of the ne")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["clip.wav"]


def test_atomic_path_takes_the_longest_file_name(tmp_path):
    path = tmp_path / ("x" * 251 + ".wav")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"1")
    assert path.read_bytes() == b"1"


@given(json_values)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_a_run_is_continued_with_the_options_it_began_with(tmp_path):
    options = {"data": Path("a"), "seed": np.int64(3), "shape": (1, 2), "epochs": 5, "encoder_sha256": None}
    keep_options(tmp_path, options)
    written = read_json(tmp_path / "options.json")
    assert written["data"] == "a" and written["shape"] == [1, 2] and "commit" in written["environment"]
    keep_options(tmp_path, options | {"epochs": 9, "patience": None}, changeable=["epochs"])
    assert read_json(tmp_path / "options.json") == written
    for change, said in [
        ({"seed": 4}, "--seed: .* began with 3. Received: 4. Give the same, or another --output"),
        ({"data": Path("b")}, "DATA: .* began with a. Received: b"),
        ({"encoder_sha256": "f0"}, "--encoder: .* began with sha256 None. Received: sha256 f0"),
        ({"patience": 2}, "--patience: .* began with None. Received: 2"),
    ]:
        with pytest.raises(UserError, match=said):
            keep_options(tmp_path, options | change, positional=["data"])


def test_a_folder_of_something_else_is_no_run(tmp_path):
    (tmp_path / ".tmp-12.json").write_text("half")
    keep_options(tmp_path, {"seed": 1}, write=False)
    assert not (tmp_path / "options.json").exists()
    keep_options(tmp_path, {"seed": 1})
    (tmp_path / "options.json").rename(tmp_path / "other.json")
    with pytest.raises(UserError, match="--output .* neither empty"):
        keep_options(tmp_path, {"seed": 1})


def test_json_takes_paths_and_numpy(tmp_path):
    path = tmp_path / "options.json"
    written = {"output": Path("a/b"), "mse": np.float32(0.5), "n": np.int64(3), "z": np.arange(2)}
    write_json(path, written)
    assert read_json(path) == {"output": "a/b", "mse": 0.5, "n": 3, "z": [0, 1]}
    with pytest.raises(TypeError, match="Received: set"):
        write_json(path, {"bad": {1}})


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan"), np.float64("-inf"), np.array([1.0, np.nan])])
def test_not_a_number_is_refused_and_the_old_file_stays(tmp_path, value):
    path, lines = tmp_path / "a.json", tmp_path / "a.jsonl"
    write_json(path, {"loss": 1})
    append_jsonl(lines, {"loss": 1})
    with pytest.raises(ValueError):
        write_json(path, {"loss": value})
    with pytest.raises(ValueError):
        append_jsonl(lines, {"loss": value})
    assert read_json(path) == {"loss": 1} and read_jsonl(lines) == [{"loss": 1}]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_json_file_is_the_users_to_mend(tmp_path):
    path = tmp_path / "options.json"
    for text in ("", "{", '{"a": NaN}', "\x80"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match="options.json"):
            read_json(path)
    with pytest.raises(UserError, match="absent.json"):
        read_json(tmp_path / "absent.json")


@given(st.lists(records, max_size=4), st.data())
def test_jsonl_survives_being_cut_anywhere(tmp_path_factory, written, data):
    path = tmp_path_factory.getbasetemp() / "results.jsonl"
    path.unlink(missing_ok=True)
    assert read_jsonl(path) == []
    ends = []
    for record in written:
        append_jsonl(path, record)
        ends.append(path.stat().st_size)
    assert read_jsonl(path) == written
    cut = data.draw(st.integers(0, ends[-1] if ends else 0))
    if ends:
        os.truncate(path, cut)
    # A line is whole also where only its newline was cut off.
    whole = [record for record, end in zip(written, ends, strict=True) if end - 1 <= cut]
    assert read_jsonl(path) == whole
    append_jsonl(path, {"after": "the cut"})
    assert read_jsonl(path) == [*whole, {"after": "the cut"}]
    assert path.read_bytes().count(b"\n") == len(whole) + 1


def test_jsonl_damage_in_the_middle_is_reported(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1}\n{"b": \n{"c": 3}\n')
    with pytest.raises(UserError, match="results.jsonl, line 2"):
        read_jsonl(path)


def test_undecodable_file_names_round_trip(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    append_jsonl(tmp_path / "a.jsonl", {"source": name})
    assert read_jsonl(tmp_path / "a.jsonl") == [{"source": name}]


def test_environment_is_complete_and_imports_nothing_heavy(repo_root):
    script = (
        "import json, sys; from utils.runs.environment import describe_environment as describe;"
        "print(json.dumps(describe()));"
        "assert not {'tensorflow', 'numpy'} & set(sys.modules)"
    )
    found = json.loads(subprocess.check_output([sys.executable, "-c", script], cwd=repo_root))
    assert found["versions"]["numpy"] == np.__version__ and "tensorflow" in found["versions"]
    assert found["hardware"]["cores"] >= 1 and found["hardware"]["cpu"]
    assert isinstance(found["hardware"]["gpus"], list)
    assert found["date"].endswith("+00:00")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_the_checkouts_own(tmp_path):
    root = tmp_path.resolve()
    assert environment._commit(root) == (None, None)
    git(root, "init", "-q")
    (root / "file").write_text("1")
    git(root, "add", "file")
    git(root, "commit", "-q", "-m", "first")
    head = git(root, "rev-parse", "HEAD")
    assert environment._commit(root) == (head, False)
    (root / "file").write_text("2")
    assert environment._commit(root) == (head, True)
    (root / "unpacked").mkdir()
    assert environment._commit(root / "unpacked") == (None, None)


def test_environment_without_git_or_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = describe_environment()
    assert (found["commit"], found["dirty"], found["hardware"]["gpus"]) == (None, None, [])


def test_tee_log_keeps_the_last_state_of_a_progress_bar(tmp_path, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    path = tmp_path / "run" / "log.txt"
    with tee_log(path):
        print("first", end="")
        print(" line\r\nsecond")
        for percent in range(0, 101, 50):
            print(f"\r{percent:3d} %", end="")
        assert path.read_text() == "first line\nsecond\n"
        print("\ncafé", end="\r")
    print("after")
    assert path.read_text(encoding="utf-8") == "first line\nsecond\n100 %\ncafé\n"
    assert terminal.getvalue() == "first line\r\nsecond\n\r  0 %\r 50 %\r100 %\ncafé\rafter\n"


def test_tee_log_appends_both_streams_and_the_traceback(tmp_path, capsys):
    path = tmp_path / "log.txt"
    with tee_log(path):
        print("out")
        print("err", file=sys.stderr)
        kept = sys.stderr
    with pytest.raises(ZeroDivisionError), tee_log(path):
        print("again")
        1 / 0  # noqa: B018
    kept.write("late\n")
    text = path.read_text()
    assert text.startswith("out\nerr\nagain\nTraceback ") and "ZeroDivisionError" in text
    assert "late" not in text
    assert capsys.readouterr() == ("out\nagain\n", "err\nlate\n")


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_batches_end_to_end_are_the_whole(size):
    rows, seen = np.arange(14.0).reshape(7, 2), []

    def function(batch):
        seen.append(len(batch))
        return {"sum": batch.sum(axis=1), "pair": (batch, batch[:, :1] * 2)}

    found = in_batches(function, rows, size)
    np.testing.assert_array_equal(found["sum"], rows.sum(axis=1))
    np.testing.assert_array_equal(found["pair"][0], rows)
    np.testing.assert_array_equal(found["pair"][1], rows[:, :1] * 2)
    assert sum(seen) == 7 and max(seen) <= size
