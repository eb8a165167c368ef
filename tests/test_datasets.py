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
    assert validation.absent == 1 and "1 lines of the lists name no clip" in validation.describe()
    everything = load(speech_commands, "all")
    assert sorted(everything.names) == everything.names and len(everything) == 30
    for audio, label, name in zip(everything.audio, everything.labels, everything.names, strict=True):
        assert name.startswith(DIGITS[label] + "/")
        assert (audio == 100 * label + int(name[-6])).all()  # 16-bit files come through unchanged


@pytest.mark.parametrize(
    "text",
    [
        "seven\\ab_nohash_1.wav\r\n\r\n",
        "./seven/ab_nohash_1.wav\r",
        "SEVEN/AB_nohash_1.WAV",
        "data/sc/seven/ab_nohash_1.wav\n",
        "C:\\data\\seven\\ab_nohash_1.wav",
        "\n seven/ab_nohash_1 \n",
        "\ufeffseven/ab_nohash_1.wav\n",
    ],
)
def test_a_lists_lines_may_be_spelled_otherwise(load, speech_commands, text):
    (speech_commands / "validation_list.txt").write_bytes(text.encode())
    (speech_commands / "testing_list.txt").rename(speech_commands / "Testing_List.txt")
    names = {split: load(speech_commands, split).names for split in ("train", "validation", "test")}
    assert names["validation"] == ["seven/ab_nohash_1.flac"] and names["test"] == ["two/ab_nohash_2.flac"]
    assert len(names["train"]) == 28 and load(speech_commands).absent == 0


@pytest.mark.parametrize(
    "content, said",
    [
        ("seven/ab_nohash_1.wav\n".encode("utf-16"), "validation_list.txt: is not UTF-8 text, but UTF-16"),
        ("seven/ab_nohash_1.wav\n".encode("utf-16-be"), "validation_list.txt: is not UTF-8 text, but UTF-16"),
        (b"seven_ab_nohash_1.wav\n", "validation_list.txt: 1 of its 1 lines name no clip of .*'seven_ab_nohash_1'"),
        (b"seven/caf\xe9.wav\nseven/gone.wav\nseven/ab_nohash_1.wav", "2 of its 3 lines name no clip.*udce9"),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_lists_of_other_clips_are_refused(load, speech_commands, content, said, split):
    """Their clips would join the training data."""
    (speech_commands / "validation_list.txt").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        load(speech_commands, split)
    assert str(error.value).encode() and "\n" not in str(error.value)


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


def test_notes_are_counted(load, tmp_path):
    for name, value in (("a", 0), ("b", 0), ("c", 32767), ("d", 5)):
        write(tmp_path / "x" / f"{name}.wav", value, samples=2 * SAMPLES)
    dataset = load(tmp_path / "x", "all")
    assert dataset.notes == {"silent": 2, "excerpt": 4, "clipped": 1, "offset": 1}
    assert dataset.describe().endswith(", 2 silent, 4 excerpt, 1 clipped, 1 offset")
    assert load(tmp_path / "x", "all").notes == dataset.notes  # from the cache


@pytest.mark.parametrize("damage", ["text", "cut", "list", "fields", "audio", "gone", "folder"])
def test_a_damaged_cache_is_decoded_again(load, tmp_path, capsys, damage):
    for i in range(3):
        write(tmp_path / "x" / f"{i}.wav", 7 + i)
    load(tmp_path / "x", "all")
    [entry] = (tmp_path / "cache").iterdir()
    index, audio = entry / "index.json", entry / "audio.int16"
    if damage in ("audio", "cut"):
        path = audio if damage == "audio" else index
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "gone":
        audio.unlink()
    elif damage == "folder":
        index.unlink()
    else:
        index.write_text({"text": "{{", "list": "[1]", "fields": '{"names": []}'}[damage])
    capsys.readouterr()
    dataset = load(tmp_path / "x", "all")
    assert dataset.audio[:, 0, 0].tolist() == [7, 8, 9] and dataset.names == ["0.wav", "1.wav", "2.wav"]
    assert capsys.readouterr().err.startswith(f"{entry}: damaged, decoded again (")
    assert len(load(tmp_path / "x", "all")) == 3 and capsys.readouterr().err == ""


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
