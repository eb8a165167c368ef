"""generate.py as a user runs it."""

import json
import re

import numpy as np
import pytest
import soundfile
from wavegan_checkpoints import build

from models.generator import load_generator
from utils.inversion.latents import Latents, load_latents, save_latents
from utils.options import EXIT_USAGE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("generate") / "generator")


def wavs(output):
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.wav"))}


@pytest.fixture(scope="module")
def call(run_main):
    """The script in this process."""
    return lambda *args: run_main("generate.py", *args)


def test_prior_then_replay_by_the_command_line(run_script, call, folder, tmp_path):
    done = run_script("generate.py", "--generator", folder, "--n", 3, "--seed", 5, "--output", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert "equal to its graph within" in done.stdout
    assert f"3 clips at 16000 Hz written to {tmp_path / 'a'}" in done.stdout
    generator = load_generator(folder)
    latents = load_latents(tmp_path / "a" / "latents.npz")
    np.testing.assert_array_equal(latents.z, generator.sample_prior(5, 3))
    assert (latents.generator, latents.method, latents.seed) == (generator.fingerprint, "prior", 5)
    assert json.loads((tmp_path / "a" / "options.json").read_text())["n"] == 3
    audio, rate = soundfile.read(tmp_path / "a" / "0002.wav", dtype="float32", always_2d=True)
    assert rate == 16000
    np.testing.assert_allclose(audio, generator(latents.z)[2], atol=1e-5)

    replay = ["--latents", tmp_path / "a" / "latents.npz", "--output", tmp_path / "b", "--quiet"]
    done = call("--generator", folder, *replay)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"3 clips at 16000 Hz written to {tmp_path / 'b'}\n"
    assert list(wavs(tmp_path / "b")) == [f"latents_{i:04d}.wav" for i in range(3)]
    assert list(wavs(tmp_path / "b").values()) == list(wavs(tmp_path / "a").values())


def test_a_seed_gives_the_same_clip_in_any_company(call, folder, tmp_path):
    common = ["--generator", folder, "--quiet"]
    assert call(*common, "--seeds", "0-20,3,40", "--output", tmp_path / "many").returncode == 0
    assert call(*common, "--seeds", "19", "--output", tmp_path / "one").returncode == 0
    assert call(*common, "--interpolate", 19, 40, "--steps", 3, "--output", tmp_path / "line").returncode == 0
    many, one, line = (wavs(tmp_path / name) for name in ("many", "one", "line"))
    assert len(many) == 22
    assert one["seed_0019.wav"] == many["seed_0019.wav"] == line["step_0000.wav"]
    assert line["step_0002.wav"] == many["seed_0040.wav"]
    generator = load_generator(folder)
    middle = (generator.sample_prior(19, 1) + generator.sample_prior(40, 1)) / 2
    audio, _ = soundfile.read(tmp_path / "line" / "step_0001.wav", dtype="float32", always_2d=True)
    np.testing.assert_allclose(audio, generator(middle)[0], atol=1e-5)


def test_latents_of_a_long_clip_become_one_wav_and_foreign_latents_need_only_z(call, folder, tmp_path):
    generator = load_generator(folder)
    z = generator.sample_prior(0, 2)
    provenance = {"window_starts": [0, 16384], "valid_length": 20000}
    save_latents(tmp_path / "long.npz", Latents(z=z, generator="x", method="gradient", seed=0, provenance=provenance))
    np.savez(tmp_path / "single.npz", z=z[1])
    files = [tmp_path / "long.npz", tmp_path / "single.npz"]
    done = call("--generator", folder, "--latents", *files, "--output", tmp_path / "o", "--quiet")
    assert done.returncode == 0 and done.stderr.count("latents belong to another generator") == 1
    assert list(wavs(tmp_path / "o")) == ["0000_long.wav", "0001_single.wav"]
    long, _ = soundfile.read(tmp_path / "o" / "0000_long.wav")
    single, _ = soundfile.read(tmp_path / "o" / "0001_single.wav")
    assert len(long) == 20000
    np.testing.assert_array_equal(long[16384:], single[: 20000 - 16384])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--seeds", "3-1"], "ranges must rise"),
        (["--seeds", "a"], "must be like 0-35,40"),
        (["--n", "0"], "at least 1"),
        (["--n", "2", "--seeds", "1"], "not allowed with"),
        (["--interpolate", "0", "1", "--steps", "1"], "--steps: must be at least 2"),
        (["--interpolate", "0", "nowhere.npz"], "nowhere.npz: cannot be read: No such file"),
        (["--interpolate", "0", "99999999999"], "a seed is at most"),
        (["--latents", "{tmp}/text.npz"], "text.npz: damaged, or no latents file (.npz)"),
        (["--latents", "{tmp}/wide.npz"], r"z must be [W, 5]"),
        (["--latents", "{tmp}/nan.npz"], "z must be finite"),
        (["--latents", "{tmp}/other.npz"], "other.npz: no z"),
        (["--generator", "nowhere"], "--generator nowhere: no such file or folder"),
    ],
)
def test_mistakes_end_in_one_line(call, folder, tmp_path, arguments, message):
    np.savez(tmp_path / "wide.npz", z=np.zeros((2, 6)))
    np.savez(tmp_path / "nan.npz", z=np.full((2, 5), np.nan))
    np.savez(tmp_path / "other.npz", y=np.zeros(5))
    (tmp_path / "text.npz").write_text("not an archive")
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    if "--generator" not in arguments:
        arguments += ["--generator", folder]
    done = call(*arguments, "--output", tmp_path / "o", "--quiet")
    error = done.stderr.strip()
    assert done.returncode == EXIT_USAGE
    assert message in error and error.startswith("error: ") and "\n" not in error
    assert not (tmp_path / "o").exists()


def test_the_folder_of_an_earlier_run_takes_the_same_run_only(call, folder, tmp_path):
    common = ("--generator", folder, "--quiet", "--output", tmp_path / "a")
    assert call(*common, "--n", 3).returncode == 0
    before = wavs(tmp_path / "a")
    done = call(*common, "--n", 2)
    assert done.returncode == EXIT_USAGE and done.stderr.startswith(f"error: --n: {tmp_path / 'a'} began with 3.")
    assert wavs(tmp_path / "a") == before and len(load_latents(tmp_path / "a/latents.npz").z) == 3
    assert call(*common, "--n", 3).returncode == 0 and wavs(tmp_path / "a") == before


def test_dry_run_writes_nothing(call, folder, tmp_path):
    done = call("--generator", folder, "--output", tmp_path / "o", "--dry_run")
    assert done.returncode == 0 and re.search(r"^n +16$", done.stdout, re.MULTILINE)
    assert not (tmp_path / "o").exists()
