"""latent_vector_recovery.py as a user runs it: folders in, folders out."""

import csv
import os
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

import latent_vector_recovery
from models.classifier import Classifier
from tests.tiny import Tiny
from utils.inversion.latents import load_latents
from utils.options import UserError
from utils.runs.files import read_json, read_jsonl

JUDGE = str(Path(__file__).parents[1] / "classifier_checkpoint" / "judge.keras")  # of other clips
TINY = ("--generator", "tests.tiny:generator")
QUICK = (*TINY, "--max_iter", "5", "--own_samples", "0")


def run(monkeypatch, *args) -> int:
    """The script in this process: a second's work less than a subprocess."""
    monkeypatch.setattr(sys, "argv", ["latent_vector_recovery.py", *map(str, args)])
    return latent_vector_recovery.main()


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
    found = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        name = path.relative_to(output).as_posix()
        if path.suffix in (".wav", ".npz"):
            found[name] = path.read_bytes()
        elif path.name == "results.jsonl":
            found[name] = [{k: v for k, v in line.items() if k != "seconds"} for line in read_jsonl(path)]
        elif path.name == "summary.csv":
            with open(path, newline="") as file:
                found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
        elif path.name not in ("log.txt", "options.json", "record.json", "index.html"):
            found[name] = path.read_bytes()
    return found


def test_all_methods_on_a_folder(monkeypatch, capsys, tmp_path, clips, encoder):
    output = tmp_path / "out"
    args = (clips, *TINY, "--method", "all", "--encoder", encoder.parent, "--max_iter", 60, "--restarts", 2)
    assert run(monkeypatch, *args, "--output", output, "--batch_size", 2, "--own_samples", 3) == 0
    printed = capsys.readouterr().out
    assert printed.count("on its own samples the generator is recovered to median SNR") == 3
    assert printed.count("on your files to median SNR") == 3
    assert str(output / "index.html") in printed
    assert f"<dt>encoder</dt><dd>{encoder.parent} (" in (output / "index.html").read_text()

    results = read_jsonl(output / "results.jsonl")
    sources = [f"own sample {i}" for i in range(3)] + [f"{i:02}.wav" for i in range(5)]
    methods = ["encoder", "gradient", "hybrid"]
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
    with open(output / "summary.csv", newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == [r["source"] for r in results]
    assert "on your files to" in (output / "log.txt").read_text()
    assert read_json(output / "options.json")["max_iter"] == 60


def test_long_files_are_inverted_window_by_window_and_joined(monkeypatch, tmp_path):
    folder = write_clips(tmp_path / "clips", 2, length=2500)
    output = tmp_path / "out"
    assert run(monkeypatch, folder, *QUICK, "--window", "all", "--batch_size", 2, "--output", output) == 0
    for result in read_jsonl(output / "results.jsonl"):
        audio, _ = soundfile.read(output / result["reconstruction"], dtype="float32")
        saved = load_latents(output / result["latents"])
        assert result["windows"] == 3 and saved.z.shape == (3, 6) and len(audio) == 2500
        np.testing.assert_allclose(audio, np.ravel(Tiny()(saved.z))[:2500], atol=1e-6)
        assert saved.provenance["window_starts"] == [0, 1024, 2048]


def test_one_file_scipy_and_the_paper_preset(monkeypatch, capsys, tmp_path, clips, classifier):
    output = tmp_path / "out"
    args = (clips / "03.wav", *QUICK, "--preset", "paper", "--output", output)
    assert run(monkeypatch, *args, "--classifier", classifier) == 0
    settings = read_json(output / "options.json")
    assert settings["objective"] == "stft_real=1,waveform=1,feature=1"
    assert settings["solver"] == "scipy" and settings["clip_to_prior"] is False and settings["treat_as_rate"] == 16384
    assert settings["max_iter"] == 5  # given explicitly
    (result,) = read_jsonl(output / "results.jsonl")
    assert result["source"] == "03.wav" and result["sample_rate"] == 16384
    assert len(load_latents(output / result["latents"]).options["classifier_sha256"]) == 64
    other = tmp_path / "other.keras"
    trained = keras.saving.load_model(classifier / "classifier.keras")
    trained.set_weights([1.1 * weights for weights in trained.get_weights()])
    trained.save(other)
    with pytest.raises(UserError, match="--classifier: .* began with sha256"):
        run(monkeypatch, *args, "--classifier", other)


def test_dry_run_writes_nothing(monkeypatch, capsys, tmp_path, clips):
    assert run(monkeypatch, clips, *QUICK, "--output", tmp_path / "out", "--limit", 3, "--dry_run") == 0
    assert "Would invert 3 files" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_quiet_prints_the_results_and_where_they_are(monkeypatch, capfd, tmp_path, clips):
    assert run(monkeypatch, clips, *QUICK, "--output", tmp_path / "out", "--limit", 2, "--quiet") == 0
    captured = capfd.readouterr()
    assert len(captured.out.strip().splitlines()) == 2 and "clip/s" not in captured.err


@pytest.mark.parametrize(
    "args, said",
    [
        (["{tmp}/absent"], "no such file or folder"),
        (["{tmp}/empty"], "no audio"),
        (["{clips}", "--objective", "loudness=1"], "stft_real"),
        (["{clips}", "--method", "hybrid", "--encoder", "{tmp}/none"], "no such encoder; train.py --export"),
        (["{clips}", "--method", "all", "--encoder", "{clips}/00.wav"], "not a readable .keras"),
        (["{clips}", "--objective", "feature=1", "--classifier", "{tmp}/none"], "no such classifier"),
        (["{clips}", "--objective", "feature=1", "--classifier", JUDGE], "--classifier .*16384 samples"),
        (["{clips}", "--generator", "{tmp}/absent"], "--generator"),
        (["{clips}", "--output", "{clips}/out"], "inside INPUT"),
        (["{clips}", "--output", "{clips}/00.wav"], "--output"),
        (["{clips}/00.wav", "--output", "{tmp}"], "no options.json"),
    ],
)
def test_wrong_usage_is_one_error_that_names_the_flag(monkeypatch, tmp_path, clips, args, said):
    (tmp_path / "empty").mkdir()
    args = [text.format(tmp=tmp_path, clips=clips) for text in args]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=said):
        run(monkeypatch, *QUICK, *["--output", tmp_path / "out"][: 2 * ("--output" not in args)], *args)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_folder_is_continued_with_the_same_settings_only(monkeypatch, tmp_path, clips):
    output = tmp_path / "out"
    args = (clips, *QUICK, "--output", output, "--batch_size", 2)
    assert run(monkeypatch, *args, "--limit", 2) == 0
    first = (output / "clips/01.wav/record.json").stat().st_mtime_ns
    assert run(monkeypatch, *args) == 0
    assert (output / "clips/01.wav/record.json").stat().st_mtime_ns == first
    assert len(read_jsonl(output / "results.jsonl")) == 5
    other = ("--generator", "tests.tiny:stereo_normal")
    for change, flag in (
        (("--seed", 1), "--seed"),
        (("--no_clip_to_prior",), "--clip_to_prior"),
        (other, "--generator"),
    ):
        with pytest.raises(UserError, match=flag):
            run(monkeypatch, *args, *change)
    with pytest.raises(UserError, match="INPUT"):
        run(monkeypatch, clips / "00.wav", *args[1:])


def test_a_mended_or_changed_file_is_inverted_anew(monkeypatch, tmp_path, clips):
    output, good = tmp_path / "out", (clips / "02.wav").read_bytes()
    args = (clips, *QUICK, "--output", output, "--batch_size", 3)
    (clips / "02.wav").write_bytes(b"")
    assert run(monkeypatch, *args) == 3
    assert [line["source"] for line in read_jsonl(output / "failures.jsonl")] == ["02.wav"]
    (clips / "02.wav").write_bytes(good)
    shutil.copy(clips / "03.wav", clips / "00.wav")
    assert run(monkeypatch, *args) == 0
    assert not (output / "failures.jsonl").exists()
    results = {r["source"]: r for r in read_jsonl(output / "results.jsonl")}
    assert list(results) == [f"{i:02}.wav" for i in range(5)]
    assert load_latents(output / results["00.wav"]["latents"]).source_sha256 == (
        load_latents(output / results["03.wav"]["latents"]).source_sha256
    )


def test_a_hostile_folder(run_script, tmp_path):
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
    done = run_script("latent_vector_recovery.py", folder, *QUICK, "--output", output)
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
    assert results["silence.wav"]["snr_db"] is None
    assert all((output / r["reconstruction"]).is_file() for r in results.values())
    assert f"{len(bad)} failed" in done.stdout


STOPPED = (
    *("latent_vector_recovery.py", *TINY, "--max_iter", "60", "--restarts", "2"),
    *("--batch_size", "2", "--own_samples", "2"),
)


@pytest.fixture(scope="module")
def uninterrupted(run_script, tmp_path_factory) -> tuple[Path, Path]:
    """A folder, one of whose files is empty, and what a whole run made of it."""
    tmp_path = tmp_path_factory.mktemp("uninterrupted")
    folder = write_clips(tmp_path / "in", 24)
    (folder / "05.wav").write_bytes(b"")
    done = run_script(*STOPPED, folder, "--output", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    return folder, tmp_path / "out"


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_and_ends_like_an_uninterrupted_one(tmp_path, run_script, repo_root, uninterrupted, stop):
    folder, whole = uninterrupted
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, *STOPPED, str(folder), "--output", str(output)],
        cwd=repo_root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(output.glob("clips/*/record.json")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(stop)
    _, stderr = process.communicate()
    assert 0 < len(list(output.glob("clips/*/record.json"))) < 23
    if stop == signal.SIGINT:
        assert process.returncode == 130 and "This goes on where it was" in stderr
        assert "Traceback" not in stderr
    # As if it had been killed while it wrote a clip.
    torn = output / "clips/23.wav"
    torn.mkdir(parents=True, exist_ok=True)
    (torn / ".tmp-0123.wav").write_bytes(b"half")
    (torn / "gradient.wav").write_bytes(b"half")
    (output / ".tmp-4567.jsonl").write_text("half")
    (output / "results.jsonl").write_text('{"source": "00.wav", "meth')

    assert run_script(*STOPPED, folder, "--output", output).returncode == 3
    expected, found = compared(whole), compared(output)
    assert list(found) == list(expected) and len(found["results.jsonl"]) == 25
    for name, value in expected.items():
        assert found[name] == value, name
