"""utils/runs/cache.py: where things are kept that can be computed again."""

import tempfile
from pathlib import Path

from utils.runs.cache import cache_folder


def test_the_folder_is_that_of_the_xdg_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "audio-gan-inversion" and not cache_folder().exists()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for not_absolute in ("", "here"):
        monkeypatch.setenv("XDG_CACHE_HOME", not_absolute)
        assert cache_folder() == tmp_path / "home/.cache/audio-gan-inversion"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home/.cache/audio-gan-inversion"


def test_without_a_home_it_is_among_temporary_files(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")  # as of a user that the system does not know

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert cache_folder() == Path(tempfile.gettempdir()) / "audio-gan-inversion"
