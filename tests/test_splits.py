"""utils/audio/splits.py: the halves of the validation clips, the committed lists, and which script uses which half."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile
from hypothesis import given

from utils.audio import datasets
from utils.audio.datasets import DIGITS, load_dataset
from utils.audio.splits import HALVES, LISTS, half_of, halve, speaker_of, write_lists
from utils.errors import UserError
from utils.evaluation.clips import real_clips

DATA = Path(__file__).parents[2] / "shared" / "data"
DIGIT_CLIPS, JUDGE_CLIPS = DATA / "speech_commands_digits", DATA / "speech_commands_digits_judges"


def names_in(path):
    return path.read_text().split()


def test_the_committed_lists_are_balanced_and_share_no_speaker():
    halves = {half: names_in(LISTS / f"{half}.txt") for half in HALVES}
    for half, names in halves.items():
        assert Counter(name.split("/")[0] for name in names) == dict.fromkeys(DIGITS, 60)
        assert all(half_of(speaker_of(name)) == half for name in names)
    assert not set(map(speaker_of, halves["selection"])) & set(map(speaker_of, halves["report"]))


@pytest.mark.skipif(not DIGIT_CLIPS.is_dir(), reason="needs ../shared/data/speech_commands_digits")
def test_the_committed_lists_can_be_made_again_and_load(tmp_path):
    write_lists(DIGIT_CLIPS / "validation_list.txt", tmp_path)
    for half in HALVES:
        assert (tmp_path / f"{half}.txt").read_bytes() == (LISTS / f"{half}.txt").read_bytes()
        _, entries, *_ = datasets._scan(DIGIT_CLIPS, half)
        assert [str(entry.path.relative_to(DIGIT_CLIPS)) for entry in entries] == names_in(LISTS / f"{half}.txt")


@given(st.sets(st.tuples(st.sampled_from(DIGITS), st.integers(0, 30), st.integers(0, 3)), min_size=1))
def test_halve_keeps_speakers_whole_and_digits_close(clips):
    names = [f"{digit}/{speaker:08x}_nohash_{take}.wav" for digit, speaker, take in clips]
    halves = halve(names)
    assert sorted(halves["selection"] + halves["report"]) == sorted(names)
    speakers = [set(map(speaker_of, halves[half])) for half in HALVES]
    assert not speakers[0] & speakers[1]
    # Each speaker adds its own counts, squared, to the squared differences at most.
    counts = [Counter(name.split("/")[0] for name in halves[half]) for half in HALVES]
    own = Counter((speaker_of(name), name.split("/")[0]) for name in names)
    assert sum((counts[0][d] - counts[1][d]) ** 2 for d in DIGITS) <= sum(count**2 for count in own.values())
    assert halve(reversed(names)) == halves


def test_both_layouts_and_any_other_folder_have_the_halves(tmp_path):
    speakers = ["060cd039", "099d52ad", *map(str, range(8))]
    for speaker in speakers:
        for layout in ("commands/two", "commands/one", "sc09/valid", "sc09/train", "birds"):
            prefix = "One_" if "sc09" in layout else ""
            path = tmp_path / layout / f"{prefix}{speaker}_nohash_0.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.zeros(64), 16000)
    (tmp_path / "commands" / "validation_list.txt").write_text("\n".join(f"one/{s}_nohash_0.wav" for s in speakers))
    assert (half_of("060cd039"), half_of("099d52ad")) == ("report", "selection")  # as in the lists
    for layout in ("commands", "sc09"):
        for half in HALVES:
            dataset = load_dataset(tmp_path / layout, 64, split=half, cache_dir=tmp_path / "cache", quiet=True)
            found = [speaker_of(name).removeprefix("One_") for name in dataset.names]
            assert sorted(found) == sorted(s for s in speakers if half_of(s) == half)
            assert not any("train" in name or "two" in name for name in dataset.names)
    whole, *halves = (
        {entry.path for entry in datasets._scan(tmp_path / "birds", split)[1]} for split in ("validation", *HALVES)
    )
    assert halves[0] | halves[1] == whole and not halves[0] & halves[1]


@pytest.mark.parametrize("script", ["calculate_metrics.py", "deepfake_detection.py"])
def test_what_is_published_uses_the_report_half(script, run_main):
    options = ("--all",) if script == "calculate_metrics.py" else ()
    plan = run_main(script, "--dry_run", *options).stdout
    assert re.search(r"^split\s+report$", plan, re.MULTILINE), plan


@pytest.mark.skipif(not DIGIT_CLIPS.is_dir(), reason="needs ../shared/data/speech_commands_digits")
def test_the_floor_of_table_2_has_as_many_clips_that_are_not_in_it(tmp_path):
    report, whole = (
        load_dataset(DIGIT_CLIPS, 512, split=split, cache_dir=tmp_path, quiet=True)
        for split in ("report", "validation")
    )
    assert real_clips(report, 501, seed=0)[1] is None
    clips, others = real_clips(report, 501, seed=0, besides=whole)
    assert len(clips) == len(others) == len(set(others.names)) == 501
    assert not set(others.names) & {str(Path(name).with_suffix("")) for name in report.names}


@pytest.mark.parametrize("script", ["train.py", "train_sc09_classifier.py"])
def test_what_is_chosen_uses_the_selection_half(script, run_main, monkeypatch, tmp_path):
    for take in range(2):
        for digit in DIGITS:
            path = tmp_path / digit / f"1_nohash_{take}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, np.zeros(64), 16000)
    (tmp_path / "validation_list.txt").write_text("one/1_nohash_0.wav")
    asked, scan = [], datasets._scan

    def spy(root, split):
        asked.append(split)
        if split != "train":
            raise UserError("that is enough")
        return scan(root, split)

    monkeypatch.setattr(datasets, "_scan", spy)
    options = [tmp_path, "--cache", tmp_path / "cache", "--output", tmp_path / "output"]
    if script == "train.py":
        options += ["--generator", "tests.tiny:generator", "--trust", "--feature_weight", 0, "--spectral_weight", 1]
    result = run_main(script, *options)
    assert "that is enough" in result.stderr, result
    assert asked == ["train", "selection"]


@pytest.mark.slow
@pytest.mark.skipif(not JUDGE_CLIPS.is_dir(), reason="needs ../shared/data/speech_commands_digits_judges")
def test_the_judges_clips_are_not_those_of_the_other_networks():
    """By name and by content; and nobody who speaks in a validation clip speaks in a training one."""
    clips = {
        root: {str(path.relative_to(root)): path for path in root.rglob("*.flac")}
        for root in (DIGIT_CLIPS, JUDGE_CLIPS)
    }
    assert [len(files) for files in clips.values()] == [8200, 5552]
    assert not set(clips[DIGIT_CLIPS]) & set(clips[JUDGE_CLIPS])
    hashes = [{hashlib.sha256(path.read_bytes()).digest() for path in files.values()} for files in clips.values()]
    assert not hashes[0] & hashes[1]
    held_out = {root: set(map(speaker_of, names_in(root / "validation_list.txt"))) for root in clips}
    trained = {
        root: {speaker_of(name) for name in files if name not in names_in(root / "validation_list.txt")}
        for root, files in clips.items()
    }
    for speakers in trained.values():
        for others in held_out.values():
            assert not speakers & others
