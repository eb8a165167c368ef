"""Layouts, splits, cache and batches of utils/datasets.py, on real files in a temporary folder."""

import os

import numpy as np
import pytest
import soundfile

from utils.audio.augment import augment
from utils.audio.datasets import (
    DIGITS,
    batch_indices,
    evaluation_batches,
    load_dataset,
    training_batches,
)
from utils.errors import UserError

RATE = 16000
SAMPLES = 512


def write(path, value, samples=SAMPLES):
    """16-bit audio whose every sample is `value` / 32768."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(samples, value, np.int16), RATE, subtype="PCM_16")


@pytest.fixture
def load(tmp_path):
    def load(root, split="train", **options):
        options = {"num_samples": SAMPLES, "quiet": True, "cache_dir": tmp_path / "cache", **options}
        return load_dataset(root, split=split, **options)

    return load


@pytest.fixture
def speech_commands(tmp_path):
    root = tmp_path / "speech"
    for label, digit in enumerate(DIGITS):
        for take in range(3):
            write(root / digit / f"ab_nohash_{take}.flac", 100 * label + take)
    write(root / "bird" / "ab_nohash_0.wav", 1)
    (root / "validation_list.txt").write_text("seven/ab_nohash_1.wav\nbird/ab_nohash_0.wav\nseven/gone.wav\n")
    (root / "testing_list.txt").write_text("two/ab_nohash_2.wav\n")
    return root


def test_speech_commands_layout(load, speech_commands):
    train, validation, test = (load(speech_commands, split) for split in ("train", "validation", "test"))
    assert (train.layout, len(train), train.class_names) == ("speech commands", 28, DIGITS)
    assert validation.names == ["seven/ab_nohash_1.flac"] and validation.labels.tolist() == [7]
    assert test.names == ["two/ab_nohash_2.flac"] and test.labels.tolist() == [2]
    assert validation.absent == 1 and "1 listed but not on disk" in validation.describe()
    everything = load(speech_commands, "all")
    assert sorted(everything.names) == everything.names and len(everything) == 30
    for audio, label, name in zip(everything.audio, everything.labels, everything.names, strict=True):
        assert name.startswith(DIGITS[label] + "/")
        assert (audio == 100 * label + int(name[-6])).all()  # 16-bit files come through unchanged


def test_speech_commands_without_lists_keeps_a_speaker_together(load, tmp_path):
    for speaker in range(40):
        for digit in ("one", "two"):
            write(tmp_path / "s" / digit / f"{speaker:08x}_nohash_0.wav", speaker)
    speakers = [{name.split("/")[1] for name in load(tmp_path / "s", split).names} for split in ("train", "validation")]
    assert not speakers[0] & speakers[1] and len(speakers[0] | speakers[1]) == 40
    assert 1 <= len(speakers[1]) <= 12


@pytest.mark.parametrize("inside", ["", "sc09"])
def test_donahue_layout(load, tmp_path, inside):
    home = tmp_path / "data" / inside
    for folder, count in (("train", 3), ("valid", 2), ("test", 1)):
        for take in range(count):
            write(home / folder / f"Three_ab_nohash_{take}.wav", take)
            write(home / folder / f"Nine_ab_nohash_{take}.wav", take)
    for split, count in (("train", 3), ("validation", 2), ("test", 1), ("all", 6)):
        dataset = load(tmp_path / "data", split)
        assert dataset.layout == "sc09"
        assert np.bincount(dataset.labels, minlength=10).tolist() == [0, 0, 0, count, 0, 0, 0, 0, 0, count]


def test_unlabelled_folder_splits_by_name(load, tmp_path):
    for i in range(60):
        write(tmp_path / "birds" / f"deep{i % 3}" / f"{i}.wav", i)
    train, validation, everything = (load(tmp_path / "birds", s) for s in ("train", "validation", "all"))
    assert (everything.labels == -1).all() and everything.class_names == ()
    assert not set(train.names) & set(validation.names) and len(validation)
    assert sorted(train.names + validation.names) == sorted(everything.names)
    with pytest.raises(UserError, match="test"):
        load(tmp_path / "birds", "test")


def test_long_files_give_all_their_windows(load, tmp_path):
    write(tmp_path / "long" / "a.wav", 5, samples=2 * SAMPLES + 10)
    dataset = load(tmp_path / "long", "all", window="all")
    assert dataset.names == ["a.wav"] * 3
    assert (dataset.audio[2, :10] == 5).all() and (dataset.audio[2, 10:] == 0).all()


def test_samples_are_int16_and_to_float_is_their_share_of_full_scale(load, tmp_path):
    write(tmp_path / "x" / "a.wav", -32768)
    dataset = load(tmp_path / "x", "all")
    assert isinstance(dataset.audio, np.memmap) and dataset.audio.dtype == np.int16
    assert dataset.to_float().dtype == np.float32 and (dataset.to_float() == -1).all()
    assert dataset.to_float(0).shape == (SAMPLES, 1)


def test_damaged_files_are_named_and_left_out(load, tmp_path, capsys):
    write(tmp_path / "x" / "good.wav", 3)
    (tmp_path / "x" / "bad.wav").write_text("no audio")
    dataset = load(tmp_path / "x", "all")
    assert dataset.names == ["good.wav"] and [name for name, _ in dataset.problems] == ["bad.wav"]
    assert "bad.wav" in capsys.readouterr().err
    assert load(tmp_path / "x", "all").problems == dataset.problems  # also when read from the cache
    (tmp_path / "x" / "good.wav").unlink()
    with pytest.raises(UserError, match="bad.wav"):
        load(tmp_path / "x", "all")


def test_errors_name_the_folder(load, tmp_path):
    with pytest.raises(UserError, match="nowhere.*no such folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty.*zero/ \.\.\. nine/"):
        load(tmp_path / "empty")
    with pytest.raises(ValueError, match="Received: 'valid'"):
        load(tmp_path / "empty", "valid")


def test_cache_is_reused_and_renewed_when_anything_changes(load, tmp_path):
    root, cache = tmp_path / "x", tmp_path / "cache"
    write(root / "a.wav", 3)

    def entries():
        return set(cache.iterdir())

    load(root, "all")
    first = entries()
    stamp = next(iter(first)).joinpath("index.json").stat().st_mtime_ns
    load(root, "all")
    assert entries() == first and next(iter(first)).joinpath("index.json").stat().st_mtime_ns == stamp

    changes = [
        dict(num_samples=SAMPLES + 1),
        dict(num_channels=2),
        dict(sample_rate=8000),
        dict(alignment="paper"),
        dict(window="loudest"),
    ]
    for count, change in enumerate(changes, 2):
        load(root, "all", **change)
        assert len(entries()) == count, change

    write(root / "a.wav", 4)  # the same size
    os.utime(root / "a.wav", ns=(1, 1))
    assert (load(root, "all").audio == 4).all()
    write(root / "b.wav", 5)
    assert load(root, "all").names == ["a.wav", "b.wav"]
    assert not [path for path in entries() if path.name.startswith(".tmp")]


def test_batch_indices_see_every_clip_once_an_epoch():
    drawn = np.concatenate([batch_indices(10, 4, step, seed=3) for step in range(10)])
    for epoch in drawn.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert (drawn[:10] != drawn[10:20]).any()
    assert (drawn != np.concatenate([batch_indices(10, 4, step, seed=4) for step in range(10)])).any()


def test_batches_of_a_resumed_stream_are_those_of_an_uninterrupted_one(load, speech_commands):
    dataset = load(speech_commands, "all")
    options = dict(seed=5, augmentation=lambda audio, seed: augment(audio, seed, max_shift=50))
    whole = list(training_batches(dataset, 8, **options).take(6))
    rest = list(training_batches(dataset, 8, first_step=4, **options).take(2))
    for (audio, labels), (again, labels_again) in zip(whole[4:], rest, strict=True):
        assert labels.numpy().tolist() == labels_again.numpy().tolist()
        np.testing.assert_array_equal(audio, again)


def test_evaluation_batches_drop_nothing_and_keep_the_order(load, speech_commands):
    dataset = load(speech_commands, "all")
    batches = list(evaluation_batches(dataset, 8))
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 6]
    np.testing.assert_array_equal(np.concatenate([audio for audio, _ in batches]), dataset.to_float())
