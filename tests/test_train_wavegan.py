import json

import numpy as np
import pytest

from models.generator import load_generator
from models.tf1 import write_tf1
from models.wavegan import Architecture, initial_weights
from utils.audio.datasets import DIGITS
from utils.audio.files import write_wav

TINY = ("--dim", 1, "--latent_dim", 6, "--batch_size", 4, "--warm_steps", 1, "--evaluate_every", 3)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for i in range(12):
        write_wav(folder / f"{i}.wav", rng.normal(size=(3000, 1)).astype(np.float32) * 0.1, 16000)
    return folder


def test_trains_exports_and_resumes(run_script, sounds, tmp_path):
    out = tmp_path / "run"
    done = run_script("train_wavegan.py", sounds, *TINY, "--steps", 3, "--output", out, "--seed", 5)
    assert done.returncode == 0, done.stderr
    generator = load_generator(out / "export")
    assert (generator.latent_dim, generator.num_samples, generator.sample_rate) == (6, 16384, 16000)
    record = json.loads((out / "statistics.jsonl").read_text())
    assert record["step"] == 3 and record["participation_ratio"] > 1
    assert (out / "waves" / "0000003.wav").exists()
    other = run_script("train_wavegan.py", sounds, *TINY, "--steps", 4, "--output", out, "--seed", 6)
    assert other.returncode == 2 and "--seed" in other.stderr and "Traceback" not in other.stderr
    more = run_script("train_wavegan.py", sounds, *TINY, "--steps", 4, "--output", out, "--seed", 5)
    assert more.returncode == 0 and "from step 3" in more.stdout, more.stderr


@pytest.mark.slow
def test_published_recipe(run_script, sounds, tmp_path):
    out = tmp_path / "run"
    flags = ("--preset", "wgan_gp", "--steps", 2, "--output", out)
    done = run_script("train_wavegan.py", sounds, *TINY, *flags)
    assert done.returncode == 0, done.stderr
    assert load_generator(out / "export").latent_dim == 6


@pytest.mark.slow
def test_goes_on_from_given_weights(run_script, sounds, tmp_path):
    architecture = Architecture(latent_dim=6, dim=1)
    write_tf1(tmp_path / "given", initial_weights(architecture, 0), architecture)
    flags = ("--steps", 3, "--critic_steps", 1, "--init_from", tmp_path / "given", "--output", tmp_path / "run")
    done = run_script("train_wavegan.py", sounds, *TINY, *flags, "--even_latents", 0.5)
    assert done.returncode == 0, done.stderr
    wrong = run_script("train_wavegan.py", sounds, *TINY, "--init_from", sounds / "0.wav")
    assert wrong.returncode == 2 and "--init_from" in wrong.stderr and "Traceback" not in wrong.stderr


def test_too_few_clips_is_one_line(run_script, sounds):
    done = run_script("train_wavegan.py", sounds, "--latent_dim", 100)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error:") and "100" in done.stderr


def test_a_guide_of_other_classes_is_one_line(run_script, sounds, repo_root, tmp_path):
    guide = repo_root / "classifier_checkpoint/classifier.keras"
    done = run_script("train_wavegan.py", sounds, *TINY, "--guide", guide, "--output", tmp_path / "run")
    assert done.returncode == 2 and "--guide" in done.stderr and "Traceback" not in done.stderr


def test_distilled_needs_a_start_and_classes(run_script, sounds, tmp_path):
    none = run_script("train_wavegan.py", sounds, *TINY, "--preset", "distilled")
    assert none.returncode == 2 and "--init_from" in none.stderr and "Traceback" not in none.stderr
    architecture = Architecture(latent_dim=6, dim=1)
    write_tf1(tmp_path / "given", initial_weights(architecture, 0), architecture)
    flags = ("--preset", "distilled", "--init_from", tmp_path / "given", "--output", tmp_path / "run")
    unlabelled = run_script("train_wavegan.py", sounds, *TINY, *flags)
    assert unlabelled.returncode == 2 and "digits" in unlabelled.stderr and "Traceback" not in unlabelled.stderr


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for digit in DIGITS:
        for i in range(2):
            write_wav(folder / digit / f"{i}_nohash_0.wav", rng.normal(size=(3000, 1)).astype(np.float32) * 0.1, 16000)
    (folder / "validation_list.txt").write_text("zero/0_nohash_0.wav")
    (folder / "testing_list.txt").write_text("one/0_nohash_0.wav")
    return folder


@pytest.mark.slow
def test_distilled(run_script, digits, tmp_path):
    architecture = Architecture(latent_dim=13, dim=1)
    write_tf1(tmp_path / "given", initial_weights(architecture, 0), architecture)
    flags = ("--preset", "distilled", "--init_from", tmp_path / "given", "--latent_dim", 13, "--steps", 4)
    flags += ("--even_latents", 0.25, "--export_dtype", "float16")
    done = run_script("train_wavegan.py", digits, *TINY[:2], *flags, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/statistics.jsonl").read_text())
    assert {"layer_0", "layer_2"} <= set(record["losses"])
    assert abs(record["rms_db"]) < 1
    assert load_generator(tmp_path / "run/export").latent_dim == 13


def test_too_small_a_latent_for_the_classes_is_one_line(run_script, digits):
    done = run_script("train_wavegan.py", digits, "--dim", 1, "--latent_dim", 12)
    assert done.returncode == 2 and "--latent_dim" in done.stderr and "13" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_option_of_another_preset_is_refused(run_script, sounds, repo_root):
    guide = repo_root / "classifier_checkpoint/classifier.keras"
    done = run_script("train_wavegan.py", sounds, *TINY, "--preset", "wgan_gp", "--guide", guide)
    assert done.returncode == 2 and "--guide" in done.stderr and "--preset guided" in done.stderr


def test_even_latents_need_a_start(run_script, sounds):
    done = run_script("train_wavegan.py", sounds, *TINY, "--even_latents", 0.5)
    assert done.returncode == 2 and "--init_from" in done.stderr and "Traceback" not in done.stderr
