"""docs/audio: what is written of a run of recovery, and what is in the repository."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from docs import audio_examples
from utils.audio.files import write_wav
from utils.audio.splits import LISTS
from utils.errors import UserError

AUDIO = Path(__file__).resolve().parent.parent / "docs/audio"


@pytest.fixture
def recovered(tmp_path):
    """A folder of latent_vector_recovery.py with two clips, by one method, and two own samples, by two."""
    rng = np.random.default_rng(0)
    for clip in ("clips/real-1-two.flac", "clips/real-2-six.wav", "own_samples/000", "own_samples/001"):
        for method in ("original", "encoder", *(["projected"] if "own" in clip else [])):
            write_wav(tmp_path / clip / f"{method}.wav", rng.uniform(-0.5, 0.5, (1600, 1)).astype(np.float32), 16000)
    return tmp_path


def test_sounds_and_their_table(recovered):
    output, sources = recovered / "audio", {"real-1-two": "two/a_nohash_0.flac", "real-2-six": "six/b_nohash_0.wav"}
    output.mkdir()
    (output / "former.flac").write_bytes(b"")
    audio_examples.write_examples(recovered, output, sources, seed=3, given="DATA -- --max_iter 5")
    assert len(list(output.glob("*.flac"))) == 2 * 2 + 2 * 3
    samples, rate = soundfile.read(output / "real-1-two-encoder.flac")
    original, _ = soundfile.read(recovered / "clips/real-1-two.flac/encoder.wav")
    assert rate == 16000 and np.abs(samples - original).max() <= 1 / 32768
    readme = (output / "README.md").read_text()
    assert "| real-2-six | `six/b_nohash_0.wav` | [listen](real-2-six-original.flac) |" in readme
    assert (
        "| synthetic-2 | sample of seed 3 |" in readme
        and "(a search from the encoder's answer), `projected`." in readme
    )
    assert "docs.audio_examples DATA -- --max_iter 5`, commit" in readme and "CC BY 4.0" in readme
    for link in re.findall(r"\((\S+\.flac)\)", readme):
        assert (output / link).exists()


def test_too_much_is_refused(recovered, monkeypatch):
    monkeypatch.setattr(audio_examples, "LARGEST", 1000)
    with pytest.raises(UserError, match="at most 1,000"):
        audio_examples.write_examples(recovered, recovered / "audio", {}, seed=0, given="")


def test_what_is_in_the_repository():
    """Ten clips by all methods, under 2 MB, real ones of the report half, each of another speaker; all of it listed."""
    files = {path.name: path for path in AUDIO.glob("*.flac")}
    assert sum(path.stat().st_size for path in files.values()) < 2_000_000
    readme = (AUDIO / "README.md").read_text()
    assert set(re.findall(r"\((\S+\.flac)\)", readme)) == set(files)
    rows = re.findall(r"^\| ((?:real|synthetic)-\d\S*) \| `?([^`|]+?)`? \|", readme, re.M)
    assert len(rows) == 10
    for name, _ in rows:
        assert {f"{name}-{part}.flac" for part in ("original", "encoder", "gradient", "hybrid")} <= set(files)
    sources = [Path(source).with_suffix("").as_posix() for name, source in rows if name.startswith("real")]
    report = {Path(line).with_suffix("").as_posix() for line in (LISTS / "report.txt").read_text().split()}
    assert len(sources) == 5 and set(sources) <= report
    assert len({Path(source).name.split("_")[0] for source in sources}) == 5
    for path in files.values():
        samples, rate = soundfile.read(path)
        assert rate == 16000 and 4000 < len(samples) <= 16384 and np.abs(samples).max() > 0.001
