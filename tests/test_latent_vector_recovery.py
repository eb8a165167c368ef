"""latent_vector_recovery.py as a user runs it: folders in, folders out."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile

from models.classifier import Classifier
from models.encoder import Encoder
from models.generator import load_generator
from models.networks import Networks
from models.recovery import make_inverter, make_recovery, make_search
from tests.tiny import Tiny
from tests.wavegan_checkpoints import build
from utils.audio.files import Identity, join_windows
from utils.inversion.align import move_back
from utils.inversion.exactness import is_found, match
from utils.inversion.latents import load_latents
from utils.inversion.methods import Inverter, from_prior
from utils.losses import parse_objective
from utils.numpy_spectrograms import log_mel
from utils.runs.files import read_json, read_jsonl

BUNDLED = str(Path(__file__).parents[1] / "classifier_checkpoint")  # of other clips
TINY = ("--generator", "tests.tiny:generator", "--trust", "--method", "gradient")
SIMPLE = ("--objective", "stft_real=1,waveform=1")  # traced in a fifth of the default's time
QUICK = (*TINY, *SIMPLE, "--max_iter", "5", "--own_samples", "0")


SCRIPT = "latent_vector_recovery.py"


@pytest.fixture(scope="module")
def run(run_main):
    """The script in this process."""
    return lambda *args: run_main(SCRIPT, *args)


def write_clips(folder: Path, n: int, length: int = 1024) -> Path:
    """Noise, which no search ends early on."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        soundfile.write(folder / f"{i:02}.wav", rng.uniform(-0.5, 0.5, length), 8000)
    return folder


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path / "clips", 5)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A Keras file, audio [B, 1024, 1] to 6 latents."""
    layers = [keras.Input([1024, 1]), keras.layers.Flatten(), keras.layers.Dense(6, activation="tanh")]
    path = tmp_path_factory.mktemp("encoder") / "encoder.keras"
    keras.Sequential(layers).save(path)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """A folder with an untrained classifier of the tiny generator's clips."""
    folder = tmp_path_factory.mktemp("classifier")
    keras.utils.set_random_seed(0)
    facts = {"num_samples": 1024, "sample_rate": 8000, "class_names": ("a", "b")}
    Classifier(architecture="resnet18", width=2, **facts).save(folder / "classifier.keras")
    return folder


def compared(output: Path) -> dict[str, object]:
    """All that must be equal between two runs of the same settings: files' bytes, records without times."""
    contents = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        name = path.relative_to(output).as_posix()
        if path.name == "results.jsonl":
            contents[name] = [{k: v for k, v in line.items() if k != "seconds"} for line in read_jsonl(path)]
        elif path.name == "summary.csv":
            with open(path, newline="") as file:
                contents[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
        elif path.name not in ("log.txt", "options.json", "index.html"):
            contents[name] = path.read_bytes()
    return contents


def test_all_methods_on_a_folder(run, tmp_path, clips, encoder):
    output = tmp_path / "out"
    args = (clips, *TINY, "--method", "all", "--encoder", encoder.parent, "--max_iter", 60, "--restarts", 2)
    done = run(*args, "--output", output, "--batch_size", 2, "--own_samples", 3)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    for method in ("encoder", "gradient", "hybrid", "search"):
        assert re.search(rf"^{method}, 5 files: log-mel distance [\d.]+, .*\d exact$", printed, re.M)
        assert re.search(
            rf"^{method}, 3 own samples: SNR .* dB, SSIM .*, latent found in \d of 3, \d exact$", printed, re.M
        )
    assert re.search(r"^silence, in place of your files: log-mel distance [\d.]+$", printed, re.M)
    assert str(output / "index.html") in printed
    assert f"<dt>encoder</dt><dd>{encoder.parent} (" in (output / "index.html").read_text()

    results = read_jsonl(output / "results.jsonl")
    sources = [f"own sample {i}" for i in range(3)] + [f"{i:02}.wav" for i in range(5)]
    methods = ["encoder", "gradient", "hybrid", "search"]
    assert [(r["source"], r["method"]) for r in results] == [(s, m) for s in sources for m in methods]
    for result in results:
        original, rate = soundfile.read(output / result["original"], always_2d=True)
        reconstruction, _ = soundfile.read(output / result["reconstruction"], always_2d=True)
        assert rate == result["sample_rate"] == 8000
        saved = load_latents(output / result["latents"])
        np.testing.assert_allclose(reconstruction, Tiny()(saved.z)[0], atol=1e-6)
        assert np.mean((original - reconstruction) ** 2) == pytest.approx(result["waveform_mse"], rel=1e-5)
        assert saved.objective.mean() == pytest.approx(result["objective"])
        assert saved.method == result["method"] and saved.options["restarts"] == 2
        if result["kind"] == "own sample":
            assert np.mean((saved.z - saved.z_true) ** 2) == pytest.approx(result["z_mse"], rel=1e-5)
            assert saved.source_sha256 == ""
        else:
            assert result["z_mse"] is None and saved.z_true is None
            assert saved.source == str(clips / result["source"])
    by = {(r["source"], r["method"]): r for r in results}
    assert all(by[s, "hybrid"]["objective"] <= by[s, "encoder"]["objective"] for s in sources)
    assert by["own sample 0", "encoder"]["status"] == "encoded"
    assert all(by[f"own sample {i}", "search"]["found"] for i in range(3))
    with open(output / "summary.csv", newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == [r["source"] for r in results]
    assert "search, 5 files: " in (output / "log.txt").read_text()
    assert read_json(output / "options.json")["max_iter"] == 60


def test_files_are_encoded_as_real_clips_and_own_samples_as_synthetic(run, tmp_path, clips):
    keras.utils.set_random_seed(0)
    encoder = Encoder(latent_dim=6, width=2, num_samples=1024, sample_rate=8000, domain_statistics=True)
    encoder(np.random.default_rng(0).uniform(-0.1, 0.1, (4, 1024, 1)), training=True, domain="synthetic")
    encoder.save(tmp_path / "encoder.keras")
    args = (clips, *TINY, *SIMPLE, "--method", "encoder", "--encoder", tmp_path / "encoder.keras", "--own_samples", 2)
    assert run(*args, "--output", tmp_path / "out").returncode == 0
    domains = {"own sample": "synthetic", "file": "real"}
    for result in read_jsonl(tmp_path / "out" / "results.jsonl"):
        original, _ = soundfile.read(tmp_path / "out" / result["original"], dtype="float32", always_2d=True)
        expected = {domain: encoder(original[None], training=False, domain=domain) for domain in domains.values()}
        assert not np.allclose(expected["real"], expected["synthetic"], atol=1e-3)
        z = load_latents(tmp_path / "out" / result["latents"]).z
        np.testing.assert_allclose(z, expected[domains[result["kind"]]], atol=1e-5)


def test_long_files_are_inverted_window_by_window_and_joined(run, tmp_path):
    folder = write_clips(tmp_path / "clips", 2, length=2500)
    output = tmp_path / "out"
    assert run(folder, *QUICK, "--window", "all", "--batch_size", 2, "--output", output).returncode == 0
    for result in read_jsonl(output / "results.jsonl"):
        audio, _ = soundfile.read(output / result["reconstruction"], dtype="float32")
        saved = load_latents(output / result["latents"])
        assert result["windows"] == 3 and saved.z.shape == (3, 6) and len(audio) == 2500
        assert saved.provenance["window_starts"] == [0, 960, 1920] and saved.provenance["overlap"] == 64
        windows = Tiny()(saved.z).numpy()[..., 0]
        whole = np.concatenate([windows[0, :960], windows[1, 64:960], windows[2, 64:580]])
        inside = np.r_[0:960, 1024:1920, 1984:2500]
        np.testing.assert_allclose(audio[inside], whole, atol=1e-6)
        for i, window in enumerate(windows):
            path = output / result["reconstruction"].replace("gradient.wav", f"gradient_windows/{i:03}.wav")
            np.testing.assert_allclose(soundfile.read(path)[0], window, atol=1e-6)
        original, _ = soundfile.read(output / result["original"], dtype="float32")
        np.testing.assert_array_equal(original, soundfile.read(folder / result["source"], dtype="float32")[0])


def test_windows_join_without_clicks():
    """Where windows of unlike phase and level meet no step is much larger than the signal's own; end to end it is."""
    rng, time = np.random.default_rng(0), np.arange(1024) / 8000
    phase, level = rng.uniform(0, 2 * np.pi, (9, 1)), rng.uniform(0.3, 0.9, (9, 1))
    windows = (level * np.sin(2 * np.pi * 110 * time + phase)).astype(np.float32)[..., None]
    starts = [960 * i for i in range(9)]
    audio = join_windows(windows, {"window_starts": starts, "overlap": 64, "valid_length": 8704})[:, 0]
    own = np.abs(np.diff(windows[..., 0], axis=1)).max(axis=1)
    own = np.maximum(own[1:], own[:-1])  # of the two that meet
    joined = np.array([np.abs(np.diff(audio[start - 1 : start + 66])).max() for start in starts[1:]])
    end_to_end = np.abs(windows[1:, 0, 0] - windows[:-1, 959, 0])
    assert len(audio) == 8704 and (joined < 1.5 * own).all()
    assert (end_to_end > 3 * own).sum() >= 4


@pytest.fixture(scope="module")
def wavegan(tmp_path_factory):
    """A WaveGAN's folder, and a Keras file that answers its audio with latents."""
    folder = tmp_path_factory.mktemp("wavegan")
    build(folder / "generator")
    latent_dim = load_generator(folder / "generator").latent_dim
    layers = [keras.Input([16384, 1]), keras.layers.AveragePooling1D(512), keras.layers.Flatten()]
    keras.Sequential([*layers, keras.layers.Dense(latent_dim, activation="tanh")]).save(folder / "encoder.keras")
    return folder


def test_the_projected_space_comes_nearer_is_labelled_and_replays(run, run_main, tmp_path, wavegan):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16384), 16000)
    shared = (tmp_path / "a.wav", "--generator", wavegan / "generator", "--encoder", wavegan / "encoder.keras")
    shared += ("--own_samples", 1, "--method", "hybrid", "--hybrid_max_iter", 15, *SIMPLE)
    found = {}
    for space in ("z", "projected"):
        done = run(*shared, "--space", space, "--output", tmp_path / space)
        assert done.returncode == 0, done.stderr
        found[space] = {r["kind"]: r for r in read_jsonl(tmp_path / space / "results.jsonl")}
    assert found["projected"]["file"]["objective"] < found["z"]["file"]["objective"]
    result = found["projected"]["file"]
    assert result["space"] == "projected" and result["prior_distance"] > 0 and result["z_mse"] is None
    assert found["z"]["file"]["space"] == "z" and found["z"]["file"]["prior_distance"] is None
    page = (tmp_path / "projected/index.html").read_text()
    assert "projected, not a latent of the prior" in page and "off the prior" in page
    assert "not a latent of the prior" not in (tmp_path / "z/index.html").read_text()
    latents = tmp_path / "projected" / result["latents"]
    saved = load_latents(latents)
    assert saved.space == "projected" and saved.z_true is None
    assert saved.prior_distance.mean() == pytest.approx(result["prior_distance"])
    generate = ("--generator", wavegan / "generator", "--quiet")
    done = run_main("generate.py", *generate, "--latents", latents, "--output", tmp_path / "replay")
    assert done.returncode == 0, done.stderr
    replayed, kept = (
        soundfile.read(p)[0]
        for p in (tmp_path / "replay/hybrid.wav", tmp_path / "projected" / result["reconstruction"])
    )
    np.testing.assert_allclose(replayed, kept, atol=1e-5)
    assert load_latents(tmp_path / "replay/latents.npz").space == "projected"
    other = tmp_path / "z" / found["z"]["file"]["latents"]
    done = run_main("generate.py", *generate, "--latents", latents, other, "--output", tmp_path / "both")
    assert done.returncode == 2 and "must be of one space" in done.stderr
    done = run_main("generate.py", *generate, "--interpolate", latents, 0, "--output", tmp_path / "both")
    assert done.returncode == 2 and "must be of one space" in done.stderr


def test_aligned_files_are_moved_back_and_replay(run, run_main, tmp_path, wavegan):
    noise = np.random.default_rng(0).normal(0, 0.02, 16384) * np.roll(np.hanning(16384), 3000)
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    networks = ("--generator", wavegan / "generator", "--encoder", wavegan / "encoder.keras")
    args = (
        tmp_path / "a.wav",
        *networks,
        "--own_samples",
        1,
        "--method",
        "hybrid",
        "--hybrid_max_iter",
        2,
        *SIMPLE,
        "--output",
        tmp_path / "out",
    )
    done = run(*args, "--align")
    assert done.returncode == 0, done.stderr
    own, result = read_jsonl(tmp_path / "out/results.jsonl")
    assert own["offset_ms"] is own["gain_db"] is None
    saved = load_latents(tmp_path / "out" / result["latents"])
    assert result["offset_ms"] == pytest.approx(saved.offset[0] / 16) and result["gain_db"] == saved.gain_db[0] != 0
    kept, _ = soundfile.read(tmp_path / "out" / result["reconstruction"], dtype="float32")
    plain = load_generator(wavegan / "generator")(saved.z).numpy()
    np.testing.assert_allclose(kept, move_back(plain, saved.offset, saved.gain_db)[0, :, 0], atol=1e-6)
    assert "<dt>gain</dt>" in (tmp_path / "out/index.html").read_text()
    replay = ("--latents", tmp_path / "out" / result["latents"], "--output", tmp_path / "replay", "--quiet")
    assert run_main("generate.py", *networks[:2], *replay).returncode == 0
    np.testing.assert_allclose(soundfile.read(tmp_path / "replay/hybrid.wav")[0], kept, atol=1e-5)
    assert run(*args).returncode == 2  # other settings


def test_files_are_aligned_for_a_generator_that_is_no_wavegan_too(run, tmp_path, clips, encoder):
    args = (clips / "00.wav", *TINY, *SIMPLE, "--method", "encoder", "--encoder", encoder, "--own_samples", 0)
    done = run(*args, "--align", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (row,) = read_jsonl(tmp_path / "out/results.jsonl")
    assert row["offset_ms"] is not None and row["gain_db"] is not None


def test_one_file_scipy_and_the_paper_preset(run, tmp_path, clips, classifier):
    output = tmp_path / "out"
    args = (clips / "03.wav", *TINY, "--max_iter", 5, "--own_samples", 0, "--preset", "paper", "--output", output)
    done = run(*args, "--classifier", classifier)
    assert done.returncode == 0, done.stderr
    assert f"--classifier {classifier}: was trained with another alignment, aligned" in done.stderr
    settings = read_json(output / "options.json")
    assert settings["objective"] == "stft_real=1,waveform=1,feature=0.002"
    assert settings["solver"] == "scipy" and settings["clip_to_prior"] is False and settings["alignment"] == "paper"
    assert settings["max_iter"] == 5  # given explicitly
    (result,) = read_jsonl(output / "results.jsonl")
    assert result["source"] == "03.wav" and result["sample_rate"] == 16384
    saved = load_latents(output / result["latents"])
    assert len(saved.options["classifier_sha256"]) == 64
    assert saved.provenance["gain"] == pytest.approx(1.414, rel=1e-4)
    other = tmp_path / "other.keras"
    trained = keras.saving.load_model(classifier / "classifier.keras")
    trained.set_weights([1.1 * weights for weights in trained.get_weights()])
    trained.save(other)
    done = run(*args, "--classifier", other)
    assert done.returncode == 2 and re.search("--classifier: .* began with sha256", done.stderr)


def test_dry_run_writes_nothing(run, tmp_path, clips):
    done = run(clips, *QUICK, "--output", tmp_path / "out", "--limit", 3, "--dry_run")
    assert done.returncode == 0 and "Would invert 3 files (0 of them are done)" in done.stdout
    assert not (tmp_path / "out").exists()


def test_dry_run_reads_the_files_of_all_inputs(run, tmp_path, clips):
    (clips / "02.wav").write_bytes(b"")
    done = run(clips, tmp_path / "clips/03.wav", *QUICK, "--output", tmp_path / "out", "--dry_run")
    assert done.returncode == 0 and "Would invert 5 files" in done.stdout and "1 cannot be read" in done.stdout
    assert "cannot be read: 02.wav: empty file (0 bytes)" in done.stderr


def test_without_an_input_it_is_the_demo_clips(run):
    done = run("--dry_run")
    demo = len(list(Path("datasets/demo").glob("*.flac")))
    assert demo and f"Would invert {demo} files" in done.stdout


def test_several_inputs_are_named_from_the_folder_they_have_in_common(run, tmp_path, clips):
    shutil.copytree(clips, tmp_path / "more/clips")
    (tmp_path / "more/alone.wav").write_bytes((clips / "00.wav").read_bytes())
    inputs = (tmp_path / "more/alone.wav", clips, tmp_path / "more/clips/01.wav", clips / "01.wav")
    assert run(*inputs, *QUICK, "--max_iter", 1, "--output", tmp_path / "out").returncode == 0
    names = [row["source"] for row in read_jsonl(tmp_path / "out/results.jsonl")]
    assert names == ["more/alone.wav", *(f"clips/{i:02}.wav" for i in range(5)), "more/clips/01.wav"]
    assert "Recovery of alone.wav and 3 more" in (tmp_path / "out/index.html").read_text()


def test_where_nothing_can_be_read_no_own_sample_is_searched(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.wav").write_text("no audio")
    args = (*TINY, *SIMPLE, "--own_samples", 3, "--output", tmp_path / "out")
    done = run(tmp_path / "in", *args)
    assert done.returncode == 3 and "failed: a.wav: " in done.stderr
    assert not (tmp_path / "out/own_samples").exists()


def test_a_name_that_the_output_cannot_hold_fails_alone(run, tmp_path, clips):
    """Each part of the path is short enough, and so is the whole below INPUT, but not below --output."""
    deep = clips / ("d" * 200) / ("d" * 200)
    deep.mkdir(parents=True)
    os.link(clips / "00.wav", deep / "x.wav")
    room = 3750 - len(str(tmp_path))
    output = tmp_path.joinpath(*["o" * 200] * (room // 201))
    done = run(clips, *QUICK, "--max_iter", 1, "--output", output)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    (failure,) = read_jsonl(output / "failures.jsonl")
    assert failure["source"].endswith("x.wav") and "File name too long" in failure["reason"]
    assert len(read_jsonl(output / "results.jsonl")) == 5


def test_text_that_a_spreadsheet_would_compute_is_quoted(run, tmp_path, clips):
    names = ["=1+1.wav", "@a.wav", "+b.wav", "-c.wav", "plain.wav"]
    for i, name in enumerate(names):
        (clips / f"{i:02}.wav").rename(clips / name)
    assert run(clips, *QUICK, "--max_iter", 1, "--output", tmp_path / "out").returncode == 0
    with open(tmp_path / "out/summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["source"] for row in rows) == sorted([*("'" + name for name in names[:4]), "plain.wav"])
    assert {row["source"] for row in read_jsonl(tmp_path / "out/results.jsonl")} == set(names)
    assert all(float(row["snr_db"]) < 5 for row in rows)  # numbers stay numbers, below zero, too


def test_results_do_not_depend_on_the_batch(run, tmp_path, clips, encoder):
    found = []
    for size in (1, 3):
        args = (clips, *TINY, "--method", "all", "--encoder", encoder, "--objective", "log_mel=1", "--max_iter", 20)
        done = run(*args, "--own_samples", 0, "--batch_size", size, "--output", tmp_path / str(size))
        assert done.returncode == 0, done.stderr
        found.append(
            {
                path.relative_to(tmp_path / str(size)): load_latents(path).z
                for path in (tmp_path / str(size)).rglob("*.npz")
            }
        )
    np.testing.assert_equal(*found)


def test_what_another_version_of_the_search_found_is_computed_again(run, tmp_path, clips, encoder, monkeypatch):
    args = (clips, *TINY, *SIMPLE, "--encoder", encoder, "--own_samples", 0, "--hybrid_max_iter", 1, "--limit", 1)
    times = {}
    for version in (1, 1, 2):
        monkeypatch.setattr("utils.inversion.methods.SEARCH_VERSION", version)
        for method in ("search", "hybrid"):
            output = tmp_path / method
            assert run(*args, "--method", method, "--output", output).returncode == 0
            time = (output / f"clips/00.wav/{method}.npz").stat().st_mtime_ns
            times.setdefault(method, []).append(time)
    assert times["search"][0] == times["search"][1] < times["search"][2]
    assert len(set(times["hybrid"])) == 1


def test_a_search_without_an_encoder_starts_from_samples(run, tmp_path, clips):
    args = (clips / "00.wav", *TINY, *SIMPLE, "--encoder", "none", "--own_samples", 2, "--hybrid_max_iter", 3)
    done = run(*args, "--method", "search", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    own = [row for row in read_jsonl(tmp_path / "out/results.jsonl") if row["kind"] == "own sample"]
    assert [row["match"] for row in own] == ["exact"] * 2 and all(row["found"] for row in own)
    done = run(*args, "--method", "hybrid", "--output", tmp_path / "no")
    assert done.returncode == 2 and "--encoder none: the method hybrid starts from an encoder" in done.stderr


def test_judges_answer_for_clips_and_reconstructions(run, tmp_path, clips, classifier):
    shutil.copy(classifier / "classifier.keras", tmp_path / "judge_x.keras")
    args = (clips, *QUICK, "--max_iter", 1, "--limit", 2)
    done = run(*args, "--judge", tmp_path / "judge_x.keras", "--output", tmp_path / "out")
    assert done.returncode == 0 and re.search(r"same digit by judge_x \d of 2", done.stdout)
    for row in read_jsonl(tmp_path / "out/results.jsonl"):
        assert all(re.fullmatch(r"[ab] [01]\.\d\d", row[f"judge_x_{what}"]) for what in ("clip", "reconstruction"))
        pair = [
            soundfile.read(tmp_path / "out" / row[name], always_2d=True)[0] for name in ("original", "reconstruction")
        ]
        for name, (a, b) in (("", pair), ("_silence", (pair[0], 0 * pair[0]))):
            expected = np.abs(log_mel(a, 8000) - log_mel(b, 8000)).mean()
            assert row[f"log_mel_distance{name}"] == pytest.approx(expected, rel=1e-5)
    other = run(*args, "--judge", BUNDLED + "/judge_mel.keras", "--output", tmp_path / "other")
    assert other.returncode == 2 and "takes 16384 samples" in other.stderr
    assert run(*args, "--output", tmp_path / "none").returncode == 0  # the bundled judges are of other clips
    assert not any("judge" in name for name in read_jsonl(tmp_path / "none/results.jsonl")[0])


def test_the_bundled_networks_find_their_own_samples():
    networks = Networks("checkpoint/", encoder="inverse_mapping_checkpoint/")
    z = networks.generator.sample_prior(0, 4)
    targets = networks.generator(z).numpy()
    recovery = make_recovery(
        networks,
        make_inverter(networks, parse_objective("waveform=1")),
        max_iter=1,
        hybrid_max_iter=1,
        restarts=1,
        seed=0,
        search=make_search(networks),
    )
    found = recovery("search", targets, [Identity(str(i)) for i in range(4)], "synthetic")
    assert [match(*pair) for pair in zip(targets, found.audio, strict=True)] == ["exact"] * 4
    assert all(is_found(z_mse) for z_mse in np.square(found.z - z).mean(axis=1))


def test_a_bfloat16_run_reports_float32(run, tmp_path, wavegan):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16384), 16000)
    networks = ("--generator", wavegan / "generator", "--encoder", wavegan / "encoder.keras")
    args = ("--precision", "mixed_bfloat16", "--own_samples", 1, "--method", "hybrid", "--hybrid_max_iter", 3, *SIMPLE)
    assert run(tmp_path / "a.wav", *networks, *args, "--output", tmp_path / "out").returncode == 0
    generator = load_generator(wavegan / "generator")
    for row in read_jsonl(tmp_path / "out/results.jsonl"):
        saved = load_latents(tmp_path / "out" / row["latents"])
        written, _ = soundfile.read(tmp_path / "out" / row["reconstruction"], always_2d=True)
        np.testing.assert_allclose(written, generator(saved.z)[0], atol=1e-5)
        assert saved.generator == generator.fingerprint and saved.options["precision"] == "mixed_bfloat16"


def test_quiet_prints_the_results_and_where_they_are(run, tmp_path, clips):
    done = run(clips, *QUICK, "--output", tmp_path / "out", "--limit", 2, "--quiet")
    assert done.returncode == 0
    assert len(done.stdout.strip().splitlines()) == 3 and "clip/s" not in done.stderr


@pytest.mark.parametrize(
    "args, said",
    [
        (["{tmp}/absent"], "no such file or folder"),
        (["{tmp}/empty"], "no audio"),
        (["{clips}", "--objective", "loudness=1"], "stft_real"),
        (["{clips}", "--method", "hybrid", "--encoder", "{tmp}/none"], "no such encoder; train.py --export"),
        (["{clips}", "--method", "all", "--encoder", "{clips}/00.wav"], "not a readable .keras"),
        (["{clips}", "--objective", "feature=1", "--classifier", "{tmp}/none"], "no such classifier"),
        (["{clips}", "--objective", "feature=1", "--classifier", BUNDLED], "--classifier .*16384 samples"),
        (["{clips}", "--generator", "{tmp}/absent"], "--generator"),
        (["{clips}", "--output", "{clips}/out"], "inside INPUT"),
        (["{clips}", "--output", "{clips}/00.wav"], "--output"),
        (["{clips}/00.wav", "--output", "{tmp}"], "no options.json"),
        (["{clips}", "--align", "--window", "all"], "--align: .* cannot stand with --window all"),
        (["{clips}", "--space", "projected"], "--space projected: .* is no WaveGAN"),
        (["{clips}", "--space", "projected", "--method", "search"], "--method search: .* take hybrid"),
        (["{clips}", "--solver", "gauss_newton"], "--solver"),
    ],
)
def test_wrong_usage_is_one_error_that_names_the_flag(run, tmp_path, clips, args, said):
    (tmp_path / "empty").mkdir()
    args = [text.format(tmp=tmp_path, clips=clips) for text in args]
    before = sorted(tmp_path.rglob("*"))
    done = run(*QUICK, *["--output", tmp_path / "out"][: 2 * ("--output" not in args)], *args)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and re.search(f"^error: .*{said}", line)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_folder_is_continued_with_the_same_settings_only(run, tmp_path, clips):
    output = tmp_path / "out"
    args = (clips, *QUICK, "--output", output, "--batch_size", 2)
    assert run(*args, "--limit", 2).returncode == 0
    first = (output / "clips/01.wav/gradient.npz").stat().st_mtime_ns
    seconds = read_jsonl(output / "results.jsonl")[1]["seconds"]
    assert "Would invert 5 files (2 of them are done)" in run(*args, "--dry_run").stdout
    assert run(*args).returncode == 0
    assert (output / "clips/01.wav/gradient.npz").stat().st_mtime_ns == first
    results = read_jsonl(output / "results.jsonl")
    assert len(results) == 5 and results[1]["seconds"] == seconds > 0
    other = ("--generator", "tests.tiny:stereo_normal", "--trust")
    for change, flag in (
        (("--seed", 1), "--seed"),
        (("--no_clip_to_prior",), "--clip_to_prior"),
        (("--alignment", "paper"), "--alignment"),
        (other, "--generator"),
    ):
        done = run(*args, *change)
        assert done.returncode == 2 and f"error: {flag}: " in done.stderr
    done = run(clips / "00.wav", *args[1:])
    assert done.returncode == 2 and "error: INPUT: " in done.stderr


def test_a_mended_or_changed_file_is_inverted_anew(run, tmp_path, clips):
    output, good = tmp_path / "out", (clips / "02.wav").read_bytes()
    args = (clips, *QUICK, "--output", output, "--batch_size", 3)
    (clips / "02.wav").write_bytes(b"")
    assert run(*args).returncode == 3
    assert [line["source"] for line in read_jsonl(output / "failures.jsonl")] == ["02.wav"]
    (clips / "02.wav").write_bytes(good)
    shutil.copy(clips / "03.wav", clips / "00.wav")
    assert run(*args).returncode == 0
    assert not (output / "failures.jsonl").exists()
    results = {r["source"]: r for r in read_jsonl(output / "results.jsonl")}
    assert list(results) == [f"{i:02}.wav" for i in range(5)]
    saved = {name: load_latents(output / result["latents"]) for name, result in results.items()}
    assert saved["00.wav"].source_sha256 == saved["03.wav"].source_sha256
    np.testing.assert_allclose(saved["00.wav"].z, saved["03.wav"].z, atol=1e-3)


def test_starts_are_of_the_clip_not_of_its_name_or_place(run, tmp_path, clips):
    shutil.copy(clips / "03.wav", tmp_path / "alone.wav")
    assert run(clips, *QUICK, "--output", tmp_path / "many", "--max_iter", 1).returncode == 0
    assert run(tmp_path / "alone.wav", *QUICK, "--output", tmp_path / "one", "--max_iter", 1).returncode == 0
    many, one = (
        load_latents(tmp_path / path / "gradient.npz") for path in ("many/clips/03.wav", "one/clips/alone.wav")
    )
    np.testing.assert_allclose(many.curve[0, 0], one.curve[0, 0], rtol=1e-5)
    identity = Identity(one.source_sha256, 0)
    start = from_prior(load_generator("tests.tiny:generator", trust=True), 0, [identity])[:, 0]
    target, _ = soundfile.read(tmp_path / "one/clips/alone.wav/original.wav", dtype="float32")
    inverter = Inverter(load_generator("tests.tiny:generator", trust=True), parse_objective(one.options["objective"]))
    first = inverter.evaluate(target[None, :, None], start).objective[0]
    assert one.curve[0, 0] == pytest.approx(first, rel=1e-4)


def test_a_hostile_folder(run, tmp_path):
    folder = write_clips(tmp_path / "in", 1)
    good = (folder / "00.wav").read_bytes()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is no audio\n" * 100)
    (folder / "cut header.wav").write_bytes(good[:20])
    (folder / "cut data.wav").write_bytes(good[:1000])
    (folder / "notes.txt").write_text("ignored")
    soundfile.write(folder / "nothing.wav", noise[:0], 8000)
    soundfile.write(folder / "silence.wav", 0 * noise, 8000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(3000) == 5, np.nan, noise), 8000, "FLOAT")
    soundfile.write(folder / "inf.wav", np.where(np.arange(3000) == 5, np.inf, noise), 8000, "FLOAT")
    soundfile.write(folder / "eight channels.wav", np.tile(noise[:, None], 8), 8000)
    soundfile.write(folder / "192 kHz.wav", noise, 192_000)
    soundfile.write(folder / "8 bit.wav", noise, 8000, "PCM_U8")
    soundfile.write(folder / "three minutes.flac", np.tile(noise, 480), 8000)
    soundfile.write(folder / "ünï ☃ 'quoted' & <b>.ogg", noise, 8000)
    (folder / "x.wav").mkdir()
    soundfile.write(folder / "x.wav/inside.wav", noise, 8000)
    (folder / "loop").symlink_to(folder)
    (folder / "gone.wav").symlink_to(folder / "nowhere")
    bad = {"empty.wav", "text.wav", "cut header.wav", "nothing.wav", "nan.wav", "inf.wav", "gone.wav"}
    if os.geteuid():  # root may read everything
        (folder / "forbidden.wav").write_bytes(good)
        (folder / "forbidden.wav").chmod(0)
        bad.add("forbidden.wav")

    output = tmp_path / "out"
    done = run(folder, *QUICK, "--output", output)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr and "Traceback" not in done.stdout
    failures = read_jsonl(output / "failures.jsonl")
    assert {line["source"] for line in failures} == bad and len(failures) == len(bad)
    for line in failures:
        assert done.stderr.count(f"failed: {line['source']}: {line['reason']}\n") == 1
        assert line["reason"] and "\n" not in line["reason"]
    results = {r["source"]: r for r in read_jsonl(output / "results.jsonl")}
    assert set(results) == {
        *("00.wav", "cut data.wav", "silence.wav", "eight channels.wav", "192 kHz.wav", "8 bit.wav"),
        *("three minutes.flac", "ünï ☃ 'quoted' & <b>.ogg", "x.wav/inside.wav"),
    }
    assert results["silence.wav"]["snr_db"] is None and results["silence.wav"]["f0_error"] is None
    assert results["silence.wav"]["notes"].split("; ") == ["silent", "excerpt"]
    noted = sum(bool(row["notes"]) for row in results.values())
    assert 1 <= noted < len(results) and f"{noted} of {len(results)} files have notes" in done.stdout
    with open(output / "summary.csv", newline="", encoding="utf-8") as file:
        assert {row["source"]: row["notes"] for row in csv.DictReader(file)} == {
            n: r["notes"] for n, r in results.items()
        }
    assert all((output / r["reconstruction"]).is_file() for r in results.values())
    assert f"{len(bad)} failed" in done.stdout


def test_a_manifest_has_a_row_for_each_clip_and_method(run, tmp_path, clips, encoder):
    pq = pytest.importorskip("pyarrow.parquet")
    (clips / "02.wav").write_bytes(b"")
    output = tmp_path / "out"
    args = (clips, *QUICK, "--own_samples", 1, "--method", "all", "--encoder", encoder, "--window", "all")
    assert run(*args, "--manifest", "--output", output).returncode == 3
    rows = pq.read_table(output / "manifest.parquet").to_pylist()
    methods = ["encoder", "gradient", "hybrid", "search"]
    sources = ["own sample 0", *(f"{i:02}.wav" for i in range(5))]
    assert [(row["source"], row["method"]) for row in rows] == [(s, m) for s in sources for m in methods]
    results = {(row["source"], row["method"]): row for row in read_jsonl(output / "results.jsonl")}
    for row in rows:
        if row["source"] == "02.wav":
            assert (row["status"], row["error"], row["z"]) == ("failed", "empty file (0 bytes)", None)
            continue
        result, saved = results[row["source"], row["method"]], load_latents(output / row["latents"])
        assert {name: row[name] for name in result if name in row} == {k: v for k, v in result.items() if k in row}
        np.testing.assert_array_equal(np.float32(row["z"]), saved.z)
        assert row["window_objective"] == saved.objective.tolist() and row["source_sha256"] == saved.source_sha256
        assert (row["z_true"] is None) == (row["kind"] == "file") and row["error"] is None


@pytest.mark.parametrize(
    "option, module", [(("--engine", "ray"), "ray"), (("--manifest",), "pyarrow"), (("--store", "s3://a/b"), "upath")]
)
def test_what_needs_more_packages_says_so(run, tmp_path, clips, monkeypatch, option, module):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    done = run(clips, *QUICK, *option, "--output", tmp_path / "out")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"error: {option[-1] if module == 'upath' else option[0]}")
    assert "make setup-ray" in line and not (tmp_path / "out").exists()


def test_options_of_the_ray_engine_need_it(run, tmp_path, clips):
    done = run(clips, *QUICK, "--actors", 2, "--output", tmp_path / "out")
    assert done.returncode == 2 and "--engine ray" in done.stderr


def stopped(repo_root: Path, args: tuple, output: Path, stop: signal.Signals) -> subprocess.CompletedProcess:
    """The script in its own process, which gets a signal after a further record of a file's."""

    def records() -> int:
        return len(list(output.glob("clips/*/gradient.npz")))

    before = records()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, SCRIPT, *map(str, args)], cwd=repo_root, **pipes)
    while records() == before and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(stop)
    out, err = process.communicate()
    assert before < records() < 15
    return subprocess.CompletedProcess(args, process.returncode, out, err)


@pytest.mark.slow
def test_a_killed_and_an_interrupted_run_go_on_and_end_like_an_uninterrupted_one(run, repo_root, tmp_path):
    folder = write_clips(tmp_path / "in", 16)
    (folder / "05.wav").write_bytes(b"")
    args = (folder, *TINY, *SIMPLE, "--max_iter", 60, "--restarts", 2, "--batch_size", 2, "--own_samples", 2)
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert run(*args, "--output", whole).returncode == 3

    args = (*args, "--output", output)
    assert stopped(repo_root, args, output, signal.SIGKILL).returncode == -signal.SIGKILL
    assert not (output / "results.jsonl").exists()
    # As if it had been killed while it wrote a clip.
    torn = output / "clips/15.wav"
    torn.mkdir(parents=True, exist_ok=True)
    (torn / ".tmp-0123.wav").write_bytes(b"half")
    (torn / "gradient.wav").write_bytes(b"half")
    (torn / "gradient.npz").write_bytes((output / "own_samples/000/gradient.npz").read_bytes()[:-40])
    (output / ".tmp-4567.jsonl").write_text("half")
    (output / "results.jsonl").write_text('{"source": "00.wav", "meth')

    done = stopped(repo_root, args, output, signal.SIGINT)
    assert done.returncode == 130 and "To resume: python" in done.stderr and "Traceback" not in done.stderr
    clips = [row["source"] for row in read_jsonl(output / "results.jsonl")]
    written = {path.parent.name for path in output.glob("clips/*/gradient.npz")} - {"15.wav"}
    assert set(clips) == written | {"own sample 0", "own sample 1"}
    assert all(f'data-source="{name}"' in (output / "index.html").read_text() for name in clips)

    assert run(*args).returncode == 3
    expected, result = compared(whole), compared(output)
    assert list(result) == list(expected) and len(result["results.jsonl"]) == 17
    for name, value in expected.items():
        assert result[name] == value, name
