"""A generator that is no WaveGAN goes through the scripts as it is; and the example of one, examples/drums.py."""

import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import soundfile
from keras import layers

from examples import drums
from models.encoder import load_encoder
from models.generator import load_generator
from utils.inversion.latents import load_latents
from utils.runs.files import read_jsonl

SHAPE, RATE, LATENT_DIM = (1000, 2), 11025, 5
OWN, FILES = 3, 2


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A Keras file with what it does not tell beside it: recurrent, stereo, a length that is no multiple of a hop."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([LATENT_DIM]),
            layers.Dense(100, "tanh"),
            layers.Reshape([10, 10]),
            layers.GRU(24, return_sequences=True),
            layers.Dense(200, "tanh", kernel_initializer="he_normal"),
            layers.Reshape(SHAPE),
        ]
    )
    path = tmp_path_factory.mktemp("own") / "mine.keras"
    model.save(path)
    path.with_suffix(".json").write_text(json.dumps({"sample_rate": RATE, "prior": "normal"}))
    return path


@pytest.fixture(scope="module")
def clips(run_main, generator):
    """What generate.py writes: clips to train on and to invert."""
    output = generator.parent / "clips"
    done = run_main("generate.py", "--generator", generator, "--n", 24, "--seed", 3, "--output", output)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def encoder(run_main, generator, clips):
    """What two steps of train.py leave."""
    folder = generator.parent
    given = (clips, "--feature_weight", 0, "--spectral_weight", 1, "--width", 4, "--validation_clips", 2)
    given += ("--epochs", 1, "--steps_per_epoch", 2, "--batch_size", 4, "--output", folder / "run")
    given += ("--cache", folder / "cache", "--results", folder / "results")
    done = run_main("train.py", "--generator", generator, *given)
    assert done.returncode == 0, done.stderr
    return folder / "run" / "encoder.keras"


def test_generate(generator, clips):
    model, latents = load_generator(generator), load_latents(clips / "latents.npz")
    np.testing.assert_array_equal(latents.z, model.sample_prior(3, 24))
    assert np.abs(latents.z).max() > 1.5  # a normal prior's, in no box
    written = [soundfile.read(path, dtype="float32", always_2d=True) for path in sorted(clips.glob("*.wav"))]
    assert {(audio.shape, rate) for audio, rate in written} == {(SHAPE, RATE)}
    np.testing.assert_allclose([audio for audio, _ in written], model(latents.z), atol=1e-5)


@pytest.mark.slow
def test_train(generator, encoder):
    trained = load_encoder(encoder)
    shape = trained.num_samples, trained.num_channels
    assert (shape, trained.sample_rate, trained.latent_dim) == (SHAPE, RATE, LATENT_DIM)
    assert trained.options["bounded"] is False and trained.options["generator"] == load_generator(generator).fingerprint
    steps = read_jsonl(encoder.parent / "steps.jsonl")
    assert [row["step"] for row in steps] == [0, 1]
    assert all(np.isfinite(row[name]) for row in steps for name in ("real_spectral", "synthetic_latent"))


@pytest.mark.slow
def test_recover(run_main, generator, clips, encoder):
    output = generator.parent / "found"
    given = ("--method", "all", "--encoder", encoder, "--limit", FILES, "--own_samples", OWN, "--max_iter", 300)
    given += ("--restarts", 4, "--output", output)
    done = run_main("latent_vector_recovery.py", clips, "--generator", generator, *given)
    assert done.returncode == 0, done.stderr
    assert "latent size 5, 1000 samples at 11025 Hz, 2 channel(s), normal prior" in done.stdout
    assert (output / "index.html").stat().st_size > 0
    results = read_jsonl(output / "results.jsonl")
    assert len(results) == 4 * (FILES + OWN)
    assert all(np.isfinite(row[name]) for row in results for name in ("snr_db", "ssim", "waveform_mse", "objective"))
    model = load_generator(generator)
    for row in results:
        audio, rate = soundfile.read(output / row["reconstruction"], dtype="float32", always_2d=True)
        assert (audio.shape, rate) == (SHAPE, RATE)
        np.testing.assert_allclose(audio, model(load_latents(output / row["latents"]).z)[0], atol=1e-5)

    def median(method, key):
        return np.median([row[key] for row in results if row["method"] == method and row["kind"] == "own sample"])

    # The files are the generator's own samples as well, so every one of them can be reached.
    gradient = [row["snr_db"] for row in results if row["method"] == "gradient"]
    assert np.median(gradient) > 40 and median("gradient", "z_mse") < 1e-4
    assert median("encoder", "z_mse") > 0.01  # two steps teach an encoder little,
    assert median("hybrid", "snr_db") > median("encoder", "snr_db") + 10  # and its answer is only a start


def test_the_factory_of_the_page(run_main, repo_root, monkeypatch, tmp_path):
    section = (repo_root / "docs/own_generator.md").read_text()
    (code,) = re.findall(r"~~~python\n(.*?)~~~", section, re.DOTALL)
    (tmp_path / "my_generator.py").write_text(code)
    (name,) = re.findall(r"--generator (my_generator:\w+)", section)[:1]
    given = ("--generator", name, "--trust", "--n", 2, "--output", tmp_path / "out")
    monkeypatch.syspath_prepend(tmp_path)
    done = run_main("generate.py", *given)
    assert done.returncode == 0, done.stderr
    drums = load_generator(repo_root / "examples" / "drums.keras")
    assert (drums.num_samples, drums.latent_dim, drums.sample_rate, drums.prior) == (8192, 16, 22050, "normal")
    for i, expected in enumerate(drums(drums.sample_prior(0, 2))):
        audio, rate = soundfile.read(tmp_path / "out" / f"{i:04}.wav", dtype="float32", always_2d=True)
        assert rate == drums.sample_rate
        np.testing.assert_allclose(audio, expected, atol=1e-5)


# ---- examples/drums.py ------------------------------------------------------------------


def test_drums_are_what_they_are_called():
    for kind, low, high in (("kick", 30, 300), ("snare", 300, 5000), ("hat", 6000, 11025)):
        sounds = np.stack([drums.drum(kind, np.random.default_rng(i)) for i in range(5)])
        assert sounds.shape == (5, drums.NUM_SAMPLES, 1) and sounds.dtype == np.float32
        peaks = np.abs(sounds).max(axis=(1, 2))
        assert ((peaks > 0.4 - 1e-6) & (peaks < 0.9 + 1e-6)).all() and np.ptp(peaks) > 0.1
        power = np.abs(np.fft.rfft(sounds[..., 0])) ** 2
        centroid = power @ np.fft.rfftfreq(drums.NUM_SAMPLES, 1 / drums.SAMPLE_RATE) / power.sum(axis=1)
        assert ((centroid > low) & (centroid < high)).all()
        np.testing.assert_array_equal(drums.drum(kind, np.random.default_rng(3)), sounds[3])


def test_paired_latents_look_like_the_prior():
    rng = np.random.default_rng(0)
    clips = np.stack([drums.drum(drums.KINDS[i % 3], rng) for i in range(90)])
    z = drums.paired_latents(clips, seed=0)
    assert z.shape == (90, drums.LATENT_DIM) and z.dtype == np.float32
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.1)


@pytest.mark.slow
def test_training_of_the_drums_goes_on_where_it_was(monkeypatch, tmp_path):
    monkeypatch.setattr(drums, "SAVE_EVERY", 3)
    options = dict(warm_steps=4, steps=4, batch_size=8, seed=1, quiet=True)
    for name in ("whole", "stopped"):
        drums.write_sounds(tmp_path / name / "sounds", 8, seed=1, stream=0)
    whole = drums.train(tmp_path / "whole", **options)

    class Stopped(drums.Trainer):
        def step(self, clips, z, number, adversarial):
            if number == 5:
                raise KeyboardInterrupt
            return super().step(clips, z, number, adversarial)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(drums, "Trainer", Stopped)
        drums.train(tmp_path / "stopped", **options)
    assert [row["step"] for row in read_jsonl(tmp_path / "stopped" / "losses.jsonl")] == [3]
    resumed = drums.train(tmp_path / "stopped", **options)
    untrained = drums.Trainer(1).generator
    for one, other, before in zip(whole.weights, resumed.weights, untrained.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
        assert np.abs(np.array(one) - np.array(before)).max() > 1e-4


@pytest.mark.slow
def test_the_drums_are_learnt(repo_root, tmp_path):
    command = [sys.executable, "-m", "examples.drums", "--output", tmp_path, "--n", "60", "--warm_steps", "500"]
    command += ["--steps", "250"]
    done = subprocess.run(list(map(str, command)), cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = read_jsonl(tmp_path / "losses.jsonl")
    assert [row["step"] for row in losses] == [250, 500, 750] and "critic" in losses[-1]
    assert losses[1]["paired"] < losses[0]["paired"]
    generator = load_generator(tmp_path / "drums.keras")
    assert (generator.sample_rate, generator.prior, generator.num_samples) == (22050, "normal", 8192)
    other = subprocess.run([*map(str, command), "--seed", "1"], cwd=repo_root, capture_output=True, text=True)
    assert other.returncode == 2 and "was started with" in other.stderr and "Traceback" not in other.stderr
