"""studies/samples.py: which real clips are taken, and the numbers of known sets."""

import numpy as np
import pytest
import soundfile

from models.classifier import Classifier
from models.generator import load_generator
from studies import samples
from utils.audio.datasets import DIGITS
from utils.audio.splits import half_of
from utils.errors import UserError
from utils.metrics import Predictions
from utils.report.origin import FACTS, origin_of
from utils.runs.files import read_jsonl

SPEAKERS = {half_of(name): name for name in map(str, range(20))}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Of each digit a clip of either half, at levels of their own, and two training clips."""
    root = tmp_path_factory.mktemp("data")
    rng, listed = np.random.default_rng(0), []
    for digit in DIGITS:
        (root / digit).mkdir()
        clips = {SPEAKERS["report"]: 0.1, SPEAKERS["selection"]: 0.2, "someone": 0.4, "other": 0.4}
        for speaker, level in clips.items():
            soundfile.write(root / digit / f"{speaker}_nohash_0.wav", rng.uniform(-level, level, 1024), 8000)
        listed += [f"{digit}/{speaker}_nohash_0.wav" for speaker in SPEAKERS.values()]
    (root / "validation_list.txt").write_text("\n".join(listed))
    return root


def test_real_clips_are_of_the_report_half_then_of_training(data, tmp_path):
    generator = load_generator("tests.tiny:generator", trust=True)

    def peaks(n):
        sets = samples.real_clips(data, generator, n, 0, tmp_path)
        assert [len(clips) for clips in sets.values()] == [n, n]
        assert len({clip.tobytes() for clips in sets.values() for clip in clips}) == 2 * n
        return [(10 * np.abs(clips).max(axis=(1, 2))).round().tolist() for clips in sets.values()]

    assert peaks(8) == [[1] * 8, [4] * 8]
    assert peaks(13) == [[1] * 10 + [4] * 3, [4] * 13]
    with pytest.raises(UserError, match="--n 16: .* has only 30 clips"):
        peaks(16)


def test_ten_waveforms_are_seen_through():
    rng = np.random.default_rng(0)
    words, digits = rng.normal(0, 0.1, (10, 1024, 1)), np.repeat(np.arange(10), 4)
    answers = {"judge": Predictions(np.eye(10)[digits], np.eye(10)[digits])}
    class_baseline = samples.describe(words[digits].astype(np.float32), answers, 8000)
    varied = samples.describe(rng.normal(0, 0.1, (40, 1024, 1)).astype(np.float32), answers, 8000)
    assert class_baseline["inception_score/judge"] == varied["inception_score/judge"] == pytest.approx(10)
    assert class_baseline["fixed_share_in_digit"] == pytest.approx(1) and abs(varied["fixed_share_in_digit"]) < 0.1
    assert class_baseline["squared_cosine_in_digit"] == pytest.approx(1) and varied["squared_cosine_in_digit"] < 0.01
    assert class_baseline["log_mel_variance_in_digit"] < 1e-9 < 1e-3 < varied["log_mel_variance_in_digit"]


def test_the_record(data, run_main, tmp_path):
    for name, architecture in (("one", "mel_cnn"), ("other", "waveform_cnn")):
        shape = dict(width=4, num_samples=1024, sample_rate=8000)
        Classifier(architecture=architecture, class_names=DIGITS, **shape).save(tmp_path / f"{name}.keras")
    reference = tmp_path / "theirs"
    reference.mkdir()
    for i, clip in enumerate(np.random.default_rng(0).uniform(-0.4, 0.4, (6, 1024))):
        soundfile.write(reference / f"{i}.wav", clip, 8000)
    result = run_main(
        *("studies/samples.py", "--generator", "tests.tiny:generator", "--trust", "--real", data, "--n", 12),
        *("--judge", f"{tmp_path}/one.keras,{tmp_path}/other.keras", "--results", tmp_path, "--cache", tmp_path),
        *("--reference", reference),
    )
    assert result.returncode == 0, result.stderr
    lines = read_jsonl(tmp_path / "samples.jsonl")
    sets = ["samples", "real", "other real"]
    assert [(r["set"], r["n"]) for r in lines] == [(s, 12) for s in sets] + [(s, 6) for s in [*sets, "theirs"]]
    records = {record["set"]: record for record in lines[:3]}
    for judge in ("one", "other"):
        assert {f"{name}/{judge}" for name in ("precision", "recall", "density", "coverage")} <= set(records["samples"])
        assert f"coverage/{judge}" not in records["real"]
    assert records["samples"]["participation_ratio"] > 1 and "rms_db" in records["other real"]
    assert records["samples"]["commit"] and len(records["samples"]["one_sha256"]) == 64
    assert origin_of(records["samples"]).keys() == set(FACTS)
    assert 0 <= records["real"]["voiced"] <= 1 and np.isfinite(records["samples"]["hum_1000_hz_db"])
    assert sum(records["samples"]["digit_shares/one"]) == pytest.approx(1)
    assert records["samples"]["nearest_training_clip_to_validation_clips"] > 0
    assert lines[-1]["rms"] == pytest.approx(0.4 / 3**0.5, rel=0.05) and "coverage/one" in lines[-1]

    for clip in list(reference.iterdir())[:2]:
        clip.unlink()
    done = run_main("studies/samples.py", "--reference", reference, *("--generator", "tests.tiny:generator", "--trust"))
    assert done.returncode == 2 and "must be a folder of at least 6 clips (4 clip(s) in it)" in done.stderr


def test_training_clips_that_come_out_again_are_seen(data, tmp_path):
    generator = load_generator("tests.tiny:generator", trust=True)
    nearest = samples.NearestTrainingClip(data, generator, tmp_path)
    again = samples.real_clips(data, generator, 12, 0, tmp_path)["other real"]
    fresh = np.random.default_rng(5).uniform(-0.4, 0.4, (12, 1024, 1)).astype(np.float32)
    assert nearest(again) < 0.01 < 0.1 < nearest(fresh)
