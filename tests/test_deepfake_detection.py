"""deepfake_detection.py as a user runs it, on a tiny generator, a tiny untrained encoder and a few noises."""

import csv
import importlib
import json

import keras
import numpy as np
import pytest

from models.encoder import Encoder
from utils.audio.files import write_wav
from utils.evaluation.detection import CONDITIONS, LATENTS, UNTRAINED_LATENTS
from utils.options import EXIT_USAGE
from utils.runs.files import read_json, read_jsonl

detection_script = importlib.import_module("deepfake_detection")
CELLS_A_REPEAT = len(CONDITIONS) * 9 * 2


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """real/ with 24 clips that end early, foreign/ with 12, few/ with 3; encoder.keras."""
    home = tmp_path_factory.mktemp("detection")
    rng = np.random.default_rng(0)
    for folder, clips, length, level in (("real", 24, 900, 0.1), ("foreign", 12, 1024, 0.3), ("few", 3, 1024, 0.1)):
        for i in range(clips):
            write_wav(home / folder / f"{i}.wav", rng.normal(0, level, (length, 1)).clip(-1, 1), 8000)
    keras.utils.set_random_seed(0)
    Encoder(latent_dim=6, width=4, num_samples=1024, sample_rate=8000, bounded=False).save(home / "encoder.keras")
    return home


def arguments(home, output, *more):
    named = {"data": home / "real", "encoder": home / "encoder.keras", "cache": home / "cache", "output": output}
    named |= {"generator": "tests.tiny:generator", "split": "all", "n": 10, "repeats": 1}
    named |= dict(zip(more[::2], more[1::2], strict=True))
    return [text for name, value in named.items() for text in (f"--{name}", str(value))]


def call(monkeypatch, *args):
    """main() in this process, which saves TensorFlow's start; returns what `options.run` would exit with."""
    monkeypatch.setattr("sys.argv", ["deepfake_detection.py", *args])
    with pytest.raises(SystemExit) as exited:
        detection_script.options.run(detection_script.main)
    return exited.value.code


def numbers(folder):
    """The measured numbers of a run, by what they are of."""
    return {
        (r["seed"], r["condition"], r["feature"], r["classifier"]): (r["own"], r.get("foreign"))
        for r in read_jsonl(folder / "table3.jsonl")
    }


@pytest.fixture(scope="module")
def first(home, run_script):
    done = run_script("deepfake_detection.py", *arguments(home, home / "first", "seed", 3), timeout=1200)
    assert done.returncode == 0, done.stderr
    return done


def test_the_command_line_writes_table_and_figure(home, first):
    folder = home / "first"
    assert "**Clips: both rounded to 16 bit**" in first.stdout and "table3.md" in first.stdout.splitlines()[-1]
    records = read_jsonl(folder / "table3.jsonl")
    assert len(records) == CELLS_A_REPEAT
    record = records[0]
    assert record["settings"]["n"] == 10 and record["settings"]["folds"] == 10 and record["seed"] == 3
    assert {"commit", "versions", "hardware", "seconds", "settings"} <= set(record)
    whole = read_json(folder / "table3.json")
    assert whole["seeds"] == [3] and len(whole["cells"]) == CELLS_A_REPEAT
    for cell, record in zip(whole["cells"], records, strict=True):
        assert cell["accuracy"] == record["own"]["accuracy"] and cell["feature"] == record["feature"]
    with open(folder / "table3.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == CELLS_A_REPEAT and rows[0]["paper"] == "0.515"
    tails = [r for r in rows if r["feature"] == "tail level" and r["classifier"] == "logistic regression"]
    assert [float(r["accuracy"]) for r in tails][:2] == [1, 1], "real clips end in digital silence"
    answers = {
        name: [(r["accuracy"], r["auc"], r["eer"]) for r in rows if r["feature"] == name]
        for name in (LATENTS, UNTRAINED_LATENTS)
    }
    assert answers[LATENTS] == answers[UNTRAINED_LATENTS], "home's encoder has its first weights still"
    markdown = (folder / "table3.md").read_text()
    assert "| spectrograms | 51.5 % |" in markdown and "10 real clips (real, all split of 24" in markdown
    assert (folder / "figure4.png").read_bytes()[:4] == b"\x89PNG"
    svg = (folder / "figure4.svg").read_text()
    for text in ("real (n = 10)", "synthetic (n = 10)", "predicted latents", "spectrograms (log_magnitude)"):
        assert text in svg


def test_a_second_run_adds_only_what_is_missing(home, first, monkeypatch, capsys):
    """As after a kill: of the first run the last lines are missing and one is torn."""
    folder = home / "continued"
    folder.mkdir()
    before = (home / "first" / "table3.jsonl").read_bytes()
    (folder / "table3.jsonl").write_bytes(before[: len(before) * 2 // 3])
    whole_lines = before[: len(before) * 2 // 3].rpartition(b"\n")[0]
    assert call(monkeypatch, *arguments(home, folder, "seed", 3, "repeats", 2), "--quiet") == 0
    assert (folder / "table3.jsonl").read_bytes().startswith(whole_lines + b"\n")
    assert len(read_jsonl(folder / "table3.jsonl")) == 2 * CELLS_A_REPEAT
    found = numbers(folder)
    assert {key: value for key, value in found.items() if key[0] == 3} == numbers(home / "first")
    assert {key[0] for key in found} == {3, 4} and read_json(folder / "table3.json")["cells"][0]["repeats"] == 2
    assert (folder / "figure4.svg").read_bytes() == (home / "first" / "figure4.svg").read_bytes()
    assert capsys.readouterr().out.count("\n") == 1


def test_foreign_clips_are_for_testing_only(home, first, monkeypatch, capsys):
    folder = home / "with_foreign"
    more = ("seed", 3, "fakes", home / "foreign")
    assert call(monkeypatch, *arguments(home, folder, *more)) == 0
    found, without = numbers(folder), numbers(home / "first")
    assert {key: own for key, (own, _) in found.items()} == {key: own for key, (own, _) in without.items()}
    assert {foreign["decisions"] for _, foreign in found.values()} == {20}
    assert f"tested on the clips of {home / 'foreign'}" in capsys.readouterr().out
    assert "foreign (n = 10)" in (folder / "figure4.svg").read_text()


def test_the_papers_preset(home, monkeypatch):
    more = ("preset", "paper", "precision", "mixed_bfloat16")
    assert call(monkeypatch, *arguments(home, home / "paper", *more), "--quiet") == 0
    options = read_json(home / "paper" / "table3.json")["options"]
    assert (options["alignment"], options["front_end"], options["condition"]) == ("paper", "stft_real", "as_is")
    assert "spectrograms (stft_real)" in (home / "paper" / "figure4.svg").read_text()


@pytest.mark.parametrize(
    "more, message",
    [
        (("n", 9), "--n: must be at least 10"),
        (("n", 30), "--n 30: --data {home}/real has only 24 clips"),
        (("data", "{home}/nowhere"), "nowhere: no such folder"),
        (("fakes", "{home}/few"), "few: must hold at least 10 clips. Found: 3"),
        (("encoder", "{home}/nowhere"), "{home}/nowhere: no such encoder"),
        (("encoder", "{home}/wide.keras"), "--encoder: must give latents [B, 6]"),
        (("encoder", "{home}/nan.keras"), "nan.keras: gives NaN or infinite values"),
        (("seed", 2**31 - 1, "repeats", 2), "--seed: must be at most 2147483646"),
        (("condition", "loud"), "--condition: invalid choice"),
    ],
)
def test_mistakes_end_in_one_line(home, monkeypatch, capsys, more, message):
    if not (home / "wide.keras").exists():
        Encoder(latent_dim=7, width=4, num_samples=1024, bounded=False).save(home / "wide.keras")
        broken = Encoder(latent_dim=6, width=4, num_samples=1024, bounded=False)
        broken.network.get_layer("latent").bias.assign(np.full(6, np.nan))
        broken.save(home / "nan.keras")
    more = [part.format(home=home) if isinstance(part, str) else part for part in more]
    assert call(monkeypatch, *arguments(home, home / "bad", *more), "--quiet") == EXIT_USAGE
    error = capsys.readouterr().err.strip()
    assert message.format(home=home) in error and error.startswith("error: ") and "\n" not in error
    assert not (home / "bad" / "table3.json").exists()


def test_an_encoder_of_other_clips_is_announced(home, monkeypatch, capsys):
    other = Encoder(latent_dim=6, width=4, num_samples=1024, alignment="paper", generator="abc")
    other.save(home / "other.keras")
    more = ("encoder", home / "other.keras", "n", 30)  # ends early, by too many clips
    assert call(monkeypatch, *arguments(home, home / "other", *more), "--quiet") == EXIT_USAGE
    error = capsys.readouterr().err
    assert "trained with another alignment, paper" in error and "trained with another generator, abc" in error


def test_any_keras_model_serves_as_encoder(home, monkeypatch, capsys):
    layers = [keras.Input((1024, 1)), keras.layers.Flatten(), keras.layers.Dense(6)]
    keras.Sequential(layers).save(home / "plain.keras")
    more = ("encoder", home / "plain.keras", "precision", "mixed_bfloat16")
    assert call(monkeypatch, *arguments(home, home / "plain", *more), "--quiet") == 0
    assert "computes as saved, not in mixed_bfloat16" in capsys.readouterr().err
    assert len(read_json(home / "plain" / "table3.json")["cells"]) == CELLS_A_REPEAT


def test_dry_run_writes_nothing(home, monkeypatch, capsys):
    assert call(monkeypatch, *arguments(home, home / "dry"), "--dry_run") == 0
    assert "Would write table3.md" in capsys.readouterr().out and not (home / "dry").exists()


def test_a_line_of_another_protocol_is_not_taken(home, first, monkeypatch):
    folder = home / "stale"
    folder.mkdir()
    records = read_jsonl(home / "first" / "table3.jsonl")
    for record in records:
        record["settings"]["encoder_sha256"] = "another"
        record["own"]["accuracy"] = 0.123
    (folder / "table3.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert call(monkeypatch, *arguments(home, folder, "seed", 3), "--quiet") == 0
    assert all(cell["accuracy"] != 0.123 for cell in read_json(folder / "table3.json")["cells"])
