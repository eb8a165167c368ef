"""deepfake_detection.py as a user runs it, on a tiny generator, a tiny untrained encoder and a few noises."""

import csv
import functools
import shutil

import keras
import numpy as np
import pytest

from models.encoder import Encoder
from models.generator import load_generator
from models.networks import Networks
from utils.audio.datasets import to_float, to_int16
from utils.audio.files import ALIGNMENTS, load_clip, write_wav
from utils.evaluation import detection_features
from utils.evaluation.detection import cross_validate, measure
from utils.evaluation.detection_features import FEATURES
from utils.evaluation.names import CONDITIONS, LATENTS, LOGISTIC_REGRESSION, SPECTROGRAMS, SVM, UNTRAINED_LATENTS
from utils.options import EXIT_USAGE
from utils.runs.files import read_jsonl
from utils.spectrograms import spectrogram

ALL_CELLS, FEW_CELLS = len(CONDITIONS) * len(FEATURES) * 2, 2 * 2


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
    named = {"encoder": home / "encoder.keras", "cache": home / "cache", "output": output}
    named |= {"generator": "tests.tiny:generator", "split": "all", "n": 10, "repeats": 1}
    named |= dict(zip(more[::2], more[1::2], strict=True))
    return [named.pop("input", home / "real"), *(f"--{name}={value}" for name, value in named.items()), "--trust"]


@pytest.fixture(scope="module")
def shared_networks():
    return functools.cache(Networks)


@pytest.fixture
def few(monkeypatch, shared_networks):
    """Two features and one condition, networks loaded once, no t-SNE: runs of a second."""
    whole = [(table, dict(table)) for table in (FEATURES, CONDITIONS)]

    def keep(condition="matched"):
        monkeypatch.setattr("deepfake_detection.Networks", shared_networks)
        monkeypatch.setattr("deepfake_detection.tsne", lambda x, seed: x[:, :2])
        for table, names in ((FEATURES, {SPECTROGRAMS, LATENTS}), (CONDITIONS, {condition})):
            for name in set(table) - names:
                del table[name]

    yield keep
    for table, entries in whole:  # in their order, which the tables of other tests follow
        table.clear()
        table.update(entries)


def part(folder, preset="aligned"):
    return {line["preset"]: line for line in read_jsonl(folder / "table3.jsonl")}[preset]


def numbers(folder, preset="aligned"):
    """Of each cell, by what it is of."""
    names = ("condition", "tested_on", "feature", "classifier")
    return {tuple(cell[name] for name in names): cell for cell in part(folder, preset)["cells"]}


def test_the_command_line_writes_table_and_figure(home, run_script):
    """The whole table, as a process."""
    folder = home / "whole"
    done = run_script("deepfake_detection.py", *arguments(home, folder, "seed", 3), timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "**Clips: both rounded to 16 bit**" in done.stdout and "table3.md" in done.stdout.splitlines()[-1]
    assert len(list(folder.rglob("detection/*/*/*/*.npz"))) == ALL_CELLS == len(numbers(folder))
    whole = part(folder)
    assert whole["protocol"]["n"] == 10 and whole["protocol"]["folds"] == 10 and whole["protocol"]["seed"] == 3
    assert {"commit", "versions", "hardware"} <= set(whole["environment"]) and whole["seconds"] > 0
    with open(folder / "table3.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == ALL_CELLS and rows[0]["paper"] == "0.515" and rows[0]["source"] == "preset aligned"
    assert all(float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) for row in rows)
    tails = [r for r in rows if r["feature"] == "tail level" and r["classifier"] == LOGISTIC_REGRESSION]
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


@pytest.fixture
def first(home, few, run_main):
    """A folder with a finished run of few cells, seed 3."""
    few()
    folder = home / "first"
    if not folder.exists():
        done = run_main("deepfake_detection.py", *arguments(home, folder, "seed", 3))
        assert done.returncode == 0, done.stderr
    return folder


def test_a_second_run_adds_only_what_is_missing(home, first, run_main):
    """As after a kill: of the first run the last records are missing and one is torn."""
    folder = home / "continued"
    shutil.copytree(first, folder)
    for name in ("table3.jsonl", "table3.md", "table3.csv", "figure4.svg"):
        (folder / name).unlink()
    gone, torn, *kept = sorted(folder.rglob("*.npz"))
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:100])
    before = {path: path.read_bytes() for path in kept}
    done = run_main("deepfake_detection.py", *arguments(home, folder, "seed", 3))
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in kept} == before
    assert (folder / "table3.csv").read_bytes() == (first / "table3.csv").read_bytes()
    assert (folder / "figure4.svg").read_bytes() == (first / "figure4.svg").read_bytes()

    done = run_main("deepfake_detection.py", *arguments(home, folder, "seed", 3, "repeats", 2), "--quiet")
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    assert {path: path.read_bytes() for path in kept} == before
    assert len(list(folder.rglob("*.npz"))) == 2 * FEW_CELLS
    assert all(cell["repeats"] == 2 for cell in numbers(folder).values())


def drawn_latents(n):
    return load_generator("tests.tiny:generator", trust=True).sample_prior(0, n)


def test_foreign_clips_are_for_testing_only(home, first, run_main, monkeypatch):
    """The generator's own are detected, real ones are not; the rest is as without them."""
    for i, clip in enumerate(load_generator("tests.tiny:generator", trust=True)(drawn_latents(12)).numpy()):
        write_wav(home / "own" / f"{i}.wav", clip, 8000)
    drawn = []
    draw = detection_features.Extractor.draw
    monkeypatch.setattr(detection_features.Extractor, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    accuracy = {}
    for name in ("own", "real"):
        folder = home / f"with_{name}"
        done = run_main("deepfake_detection.py", *arguments(home, folder, "seed", 3, "fakes", home / name))
        assert done.returncode == 0, done.stderr
        cells = numbers(folder)
        assert {key: cell for key, cell in cells.items() if key[1] == "own"} == numbers(first)
        foreign = {key: cell for key, cell in cells.items() if key[1] == "foreign"}
        assert len(foreign) == FEW_CELLS
        accuracy[name] = foreign["matched", "foreign", SPECTROGRAMS, LOGISTIC_REGRESSION]["accuracy"]
        assert f"tested on the clips of {home / name}" in done.stdout
        assert "foreign (n = 10)" in (folder / "figure4.svg").read_text()
        files = [to_float(to_int16(load_clip(p, 1024, 1, 8000).windows[0])) for p in (home / name).glob("*.wav")]
        taken = drawn[-1][2][0]
        assert len(taken) == 10 and all(any(np.array_equal(clip, file) for file in files) for clip in taken)
    assert accuracy["own"] > 0.9 and accuracy["real"] < 0.6


def test_the_papers_preset(home, few, run_main, monkeypatch):
    """By what is done: how clips are read, which spectrograms are classified, in which condition they are drawn."""
    few("as_is")
    drawn, conditions = [], []
    draw, call = detection_features.Extractor.draw, detection_features.Extractor.__call__
    monkeypatch.setattr(detection_features.Extractor, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    monkeypatch.setattr(
        detection_features.Extractor, "__call__", lambda *args: conditions.append(args[1]) or call(*args)
    )
    more = ("preset", "paper", "precision", "mixed_bfloat16")
    done = run_main("deepfake_detection.py", *arguments(home, home / "paper", *more), "--quiet")
    assert done.returncode == 0, done.stderr
    protocol = part(home / "paper", "paper")["protocol"]
    assert (protocol["alignment"], protocol["front_end"], protocol["condition"]) == ("paper", "stft_real", "as_is")
    assert "spectrograms (stft_real)" in (home / "paper" / "figure4.svg").read_text()

    (real, _), (synthetic, _) = drawn[0]
    files = [load_clip(p, 1024, 1, 8000, alignment=ALIGNMENTS["paper"]).windows[0] for p in home.glob("real/*.wav")]
    assert all(min(np.abs(clip - file).max() for file in files) < 1 / 32768 for clip in real)
    assert conditions == ["as_is", "as_is"]  # the table's and the figure's
    np.testing.assert_array_equal(synthetic, load_generator("tests.tiny:generator", trust=True)(drawn_latents(30)[:10]))
    x = spectrogram(np.concatenate([real, synthetic]), "stft_real").numpy().reshape(20, -1)
    for classifier in (LOGISTIC_REGRESSION, SVM):
        held_out, _ = cross_validate(x, np.repeat([0, 1], 10), classifier, seed=0)
        cell = numbers(home / "paper", "paper")["as_is", "own", SPECTROGRAMS, classifier]
        assert {name: cell[name] for name in ("accuracy", "auc", "eer")} == pytest.approx(measure(held_out))


def test_every_clip_is_encoded_by_the_same_statistics(home, few, run_main, monkeypatch):
    """Those of real clips: chosen by what a clip is, they would tell it."""
    few()
    keras.utils.set_random_seed(0)
    encoder = Encoder(latent_dim=6, width=2, num_samples=1024, sample_rate=8000, domain_statistics=True)
    encoder(np.random.default_rng(0).uniform(-0.1, 0.1, (4, 1024, 1)), training=True, domain="synthetic")
    encoder.save(home / "apart.keras")
    seen = []
    encode = detection_features.Extractor._encode
    monkeypatch.setattr(detection_features.Extractor, "_encode", lambda *args: seen.append(encode(*args)) or seen[-1])
    done = run_main("deepfake_detection.py", *arguments(home, home / "apart", "encoder", home / "apart.keras"))
    assert done.returncode == 0, done.stderr
    for clips in seen:
        np.testing.assert_allclose(clips.z, encoder(clips.audio, training=False, domain="real"), atol=1e-5)
        assert not np.allclose(clips.z, encoder(clips.audio, training=False, domain="synthetic"), atol=1e-3)


def test_both_presets_share_a_table(home, first, few, run_main):
    folder = home / "both"
    shutil.copytree(first, folder)
    done = run_main("deepfake_detection.py", *arguments(home, folder, "preset", "paper"), "--condition", "matched")
    assert done.returncode == 0, done.stderr
    assert numbers(folder) == numbers(first) and numbers(folder, "paper") != numbers(first)
    assert len(list(folder.rglob("*.npz"))) == 2 * FEW_CELLS
    text = (folder / "table3.md").read_text()
    assert 0 < text.index("### Preset paper") < text.index("### Preset aligned")


@pytest.mark.parametrize(
    "more, message",
    [
        (("n", 9), "--n: must be at least 10"),
        (("n", 30), "--n 30: {home}/real has only 24 clips"),
        (("input", "{home}/nowhere"), "nowhere: no such folder"),
        (("fakes", "{home}/few"), "few: must hold at least 10 clips. Received: 3"),
        (("encoder", "{home}/nowhere"), "{home}/nowhere: no such encoder"),
        (("encoder", "{home}/wide.keras"), "--encoder {home}/wide.keras: gives 7 latents, the generator takes 6"),
        (("encoder", "{home}/nan.keras"), "--encoder: gives NaN or infinite values"),
        (("seed", 2**31 - 1, "repeats", 2), "--seed: must be at most 2147483646"),
        (("condition", "loud"), "--condition: invalid choice"),
    ],
)
def test_mistakes_end_in_one_line(home, run_main, more, message):
    if not (home / "wide.keras").exists():
        shape = {"width": 2, "num_samples": 1024, "sample_rate": 8000, "bounded": False}
        Encoder(latent_dim=7, **shape).save(home / "wide.keras")
        broken = Encoder(latent_dim=6, **shape)
        broken.network.get_layer("latent").bias.assign(np.full(6, np.nan))
        broken.save(home / "nan.keras")
    more = [part.format(home=home) if isinstance(part, str) else part for part in more]
    done = run_main("deepfake_detection.py", *arguments(home, home / "bad", *more), "--quiet")
    assert done.returncode == EXIT_USAGE
    error = done.stderr.strip()
    assert message.format(home=home) in error and error.startswith("error: ") and "\n" not in error
    assert not (home / "bad" / "table3.jsonl").exists()


def test_an_encoder_of_other_clips_is_announced(home, few, run_main):
    few()
    shape = {"latent_dim": 6, "width": 2, "num_samples": 1024, "sample_rate": 8000}
    Encoder(**shape, alignment="paper", generator="abc").save(home / "other.keras")
    done = run_main("deepfake_detection.py", *arguments(home, home / "other", "encoder", home / "other.keras"))
    assert done.returncode == 0
    for fact in ("trained with another alignment, paper", "trained with another generator, abc"):
        assert fact in done.stderr


def test_any_keras_model_serves_as_encoder(home, few, run_main):
    few()
    layers = [keras.Input((1024, 1)), keras.layers.Flatten(), keras.layers.Dense(6)]
    keras.Sequential(layers).save(home / "plain.keras")
    more = ("encoder", home / "plain.keras", "precision", "mixed_bfloat16")
    done = run_main("deepfake_detection.py", *arguments(home, home / "plain", *more), "--quiet")
    assert done.returncode == 0, done.stderr
    assert "computes as saved, not in mixed_bfloat16" in done.stderr
    assert len(numbers(home / "plain")) == FEW_CELLS


def test_dry_run_writes_nothing(home, run_main):
    done = run_main("deepfake_detection.py", *arguments(home, home / "dry"), "--dry_run")
    assert done.returncode == 0 and "Would write table3.md" in done.stdout and not (home / "dry").exists()


def test_a_record_of_another_protocol_is_not_taken(home, first, run_main):
    """Nor is one that was put where another one belongs."""
    folder = home / "stale"
    (protocol,) = (first / "detection").iterdir()
    shutil.copytree(protocol, folder / "detection" / protocol.name)
    records = sorted(folder.rglob("*.npz"))
    shutil.copyfile(records[0], records[1])
    done = run_main("deepfake_detection.py", *arguments(home, folder, "seed", 3, "n", 11), "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "detection").iterdir())) == 2
    done = run_main("deepfake_detection.py", *arguments(home, folder, "seed", 3), "--quiet")
    assert done.returncode == 0 and numbers(folder) == numbers(first)
