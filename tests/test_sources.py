"""utils/inversion/sources.py: the clips that inputs name."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.errors import UserError
from utils.inversion.sources import FILE, OWN_SAMPLE, find_files, own_samples


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, np.zeros(100), 8000)


def names(inputs, output=Path("/nowhere"), limit=None) -> list[str]:
    return [source.name for source in find_files(inputs, output, limit)[0]]


def test_clips_are_named_from_the_folder_that_the_inputs_have_in_common(tmp_path, monkeypatch):
    make(tmp_path, "x/a.wav", "x/deep/b.wav", "y/a.wav")
    assert names([tmp_path / "x"]) == ["a.wav", "deep/b.wav"]
    assert names([tmp_path / "x/a.wav"]) == ["a.wav"]
    assert names([tmp_path / "y", tmp_path / "x"]) == ["y/a.wav", "x/a.wav", "x/deep/b.wav"]
    monkeypatch.chdir(tmp_path / "x")
    assert names([Path("a.wav"), Path("../x/a.wav"), Path("deep")]) == ["a.wav", "deep/b.wav"]  # each once
    assert names([Path("../y/a.wav"), Path("a.wav")], limit=1) == ["y/a.wav"]
    (source,), _ = find_files([Path("a.wav")], Path("out"))
    assert source.path == tmp_path / "x/a.wav" and source.folder == "clips/a.wav" and source.kind == FILE


def test_names_that_cannot_be_written_down_are_refused_one_by_one(tmp_path):
    make(tmp_path, "good.wav")
    bad = tmp_path / os.fsdecode(b"bad \xff.wav")
    bad.write_bytes((tmp_path / "good.wav").read_bytes())
    for inputs in ([tmp_path], [tmp_path / "good.wav", bad]):
        sources, problems = find_files(inputs, tmp_path.parent / "out")
        assert [source.name for source in sources] == ["good.wav"]
        ((name, reason),) = problems
        assert name == "bad \\xff.wav" and "not valid UTF-8" in reason


def test_an_output_inside_an_input_and_an_empty_folder_are_refused(tmp_path):
    make(tmp_path, "x/a.wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="lies inside INPUT"):
        find_files([tmp_path / "x/a.wav", tmp_path / "x"], tmp_path / "x/out")
    with pytest.raises(UserError, match="empty: no audio in this folder"):
        find_files([tmp_path / "x", tmp_path / "empty"], tmp_path / "out")


def test_one_of_several_inputs_fails_alone(tmp_path):
    make(tmp_path, "a.wav")
    (tmp_path / "text.wav").write_text("no audio")
    sources, problems = find_files([tmp_path / "a.wav", tmp_path / "text.wav"], tmp_path / "out")
    assert [source.name for source in sources] == ["a.wav"]
    ((name, reason),) = problems
    assert name == "text.wav" and "no audio file" in reason
    for inputs in ([tmp_path / "text.wav"], [tmp_path / "a.wav", tmp_path / "absent.wav"]):
        with pytest.raises(UserError, match="no audio file|no such file"):
            find_files(inputs, tmp_path / "out")


def test_own_samples_are_numbered():
    assert [(source.name, source.folder, source.index) for source in own_samples(2)] == [
        ("own sample 0", "own_samples/000", 0),
        ("own sample 1", "own_samples/001", 1),
    ]
    assert own_samples(1)[0].kind == OWN_SAMPLE
