"""calculate_metrics.py and utils/evaluation.py on a tiny generator, encoder and classifiers."""

import csv
import functools
import hashlib
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import scipy.optimize
import soundfile
import tensorflow as tf
from wavegan_checkpoints import build

from models.classifier import Classifier, block_features, load_classifier
from models.encoder import Encoder
from models.generator import load_generator
from models.networks import Networks
from studies.results_md import STUDIES
from utils import losses
from utils.audio.datasets import DIGITS, Dataset
from utils.audio.files import ALIGNMENTS, Identity, load_clip
from utils.audio.splits import HALVES, half_of
from utils.evaluation.clips import real_clips, synthetic_clips
from utils.evaluation.names import BASELINES, FROM_ENCODER, PROJECTED, ROWS, SEARCHES
from utils.inversion.latents import load_latents
from utils.inversion.methods import Inverter
from utils.options import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from utils.report import tables
from utils.report.origin import FACTS, origin_of
from utils.runs.files import read_jsonl

# The tiny generator is no WaveGAN: a row of Table 2 is left out.
MADE = {number: [name for name in rows if name != PROJECTED] for number, rows in ROWS.items()}
GENERATOR, RATE, LENGTH, LATENT_DIM = "tests.tiny:generator", 8000, 1024, 6
N = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with networks of the tiny generator's shape and 12 clips of three digits."""
    folder = tmp_path_factory.mktemp("metrics")
    keras.utils.set_random_seed(0)
    shape = {"num_samples": LENGTH, "sample_rate": RATE}
    Encoder(latent_dim=LATENT_DIM, width=2, **shape).save(folder / "encoder.keras")
    for name, architecture in (("classifier", "resnet18"), ("judge", "mel_cnn")):
        Classifier(architecture=architecture, width=2, class_names=DIGITS, **shape).save(folder / f"{name}.keras")
    rng = np.random.default_rng(0)
    for digit in DIGITS[:3]:
        (folder / "clips" / digit).mkdir(parents=True)
        for i in range(4):
            clip = rng.normal(0, 0.1, LENGTH) * np.hanning(LENGTH)
            soundfile.write(folder / "clips" / digit / f"speaker{i}.wav", clip, RATE, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def shared_networks():
    return functools.cache(Networks)


@pytest.fixture
def call(run_main, place, shared_networks, monkeypatch):
    """A function of the output folder and more arguments: calculate_metrics.py on the place's networks and clips.

    Networks are loaded and traced once for all tests.
    """
    monkeypatch.setattr("calculate_metrics.Networks", shared_networks)

    def run(output, *args, data="clips"):
        given = [place / data, "--generator", GENERATOR, "--trust", "--split", "all", "--cache", place / "cache"]
        given += [f"--{name}={place / f'{name}.keras'}" for name in ("encoder", "classifier", "judge")]
        given += ["--n", N, "--batch_size", 3, "--max_iter", 3, "--hybrid_max_iter", 2, "--resamples", 5]
        return run_main("calculate_metrics.py", *given, "--output", output, "--quiet", *args)

    return run


@pytest.fixture
def whole(call, place, tmp_path):
    """A folder of both tables, made once for all tests, of which each has a copy."""
    folder = place / "whole"
    if not folder.exists():
        done = call(folder, "--all", "--keep")
        assert done.returncode == EXIT_OK, done.stderr
        (folder / "stdout.txt").write_text(done.stdout)
    return shutil.copytree(folder, tmp_path / "whole")


def numbers(output, row, number=1):
    return next(r for r in read_jsonl(output / f"table{number}.jsonl") if r["row"] == row)


def test_all_makes_both_tables(whole):
    printed = (whole / "stdout.txt").read_text()
    assert f"note: no row {PROJECTED}: there is no WaveGAN" in printed
    for number, names in MADE.items():
        with open(whole / f"table{number}.csv", newline="") as file:
            found = [line for line in csv.DictReader(file) if line["source"] == "preset aligned"]
        assert {line["row"] for line in found} == set(names)
        assert all(np.isfinite(float(line["value"])) for line in found)
        assert all((line["low"], line["high"]) == ("", "") for line in found)  # of so few clips
        assert all(line["n"] == str(N) for line in found if line["metric"] != "f0_error")
        assert {line["n"] for line in found if line["metric"] == "f0_frame_error"} == {str(N)}
        for name in names:
            assert tables.ROW_TITLES[name] in printed
    lines = read_jsonl(whole / "metrics.jsonl")
    assert [line["row"] for line in lines] == [
        name for names in MADE.values() for name in sorted(names, key=lambda name: name not in BASELINES)
    ]
    assert all(line["protocol"]["seed"] == 0 and line["environment"]["hardware"]["cores"] for line in lines)

    # What a method must be better than: it starts from a random sample and its objective only falls.
    gradient, sample = (numbers(whole, row)["metrics"] for row in ("gradient", "sample"))
    assert gradient["waveform_mse"]["value"] < sample["waveform_mse"]["value"]
    assert numbers(whole, "clips")["metrics"]["waveform_mse"] is None
    assert numbers(whole, "hybrid", 2)["metrics"]["latent_mse"] is None
    assert numbers(whole, "hybrid", 2)["evaluations_a_clip"] >= 3
    # Ours finds latents of own samples, where so few iterations of the paper's do not.
    search, hybrid = (numbers(whole, row)["metrics"]["latent_mse"]["value"] for row in ("search", "hybrid"))
    assert search < 0.1 * hybrid
    assert numbers(whole, "search")["against"]["hybrid"]["latent_mse"]["difference"] == pytest.approx(search - hybrid)


def test_every_row_says_how_it_was_made(whole, place):
    encoder = hashlib.sha256((place / "encoder.keras").read_bytes()).hexdigest()
    for number in MADE:
        for row in read_jsonl(whole / f"table{number}.jsonl"):
            origin = origin_of(row)
            assert origin.keys() == set(FACTS) and len(origin["generator_sha256"]) == 64, row["row"]
            assert origin["encoder_sha256"] == (encoder if row["row"] in FROM_ENCODER else None), row["row"]
            assert origin["solver"] == ("batched" if row["row"] in SEARCHES else None), row["row"]
            assert origin["precision"] == "float32" and origin["commit"] == row["environment"]["commit"]


def test_what_was_recovered_is_read_not_computed(call, whole, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("searched again")

    before = sorted(whole.glob("recovered/*"))
    monkeypatch.setattr(Inverter, "refine", refuse)
    monkeypatch.setattr(Inverter, "evaluate", refuse)
    done = call(whole, "--synth", "--gradient")
    assert done.returncode == EXIT_OK, done.stderr
    again = read_jsonl(whole / "metrics.jsonl")[-1]
    assert again["metrics"] == numbers(whole, "gradient")["metrics"]
    assert again["seconds_a_clip"] == numbers(whole, "gradient")["seconds_a_clip"]
    for figure in (2, 3):
        done = call(whole, "--figure", figure)
        assert done.returncode == EXIT_OK, done.stderr
        assert (whole / f"figure{figure}.png").stat().st_size > 10_000 and (whole / f"figure{figure}.svg").exists()
    assert sorted(whole.glob("recovered/*")) == before


def test_rows_by_the_papers_flags(call, whole):
    """Rows whose batches are missing end with what they ended with before; --method names the same ones."""
    gone = sorted(whole.glob("recovered/encoder-*"))
    for path in gone:
        path.unlink()
    rows = {
        ("--inverse_mapping",): ("encoder", "real"),
        ("--synth",): ("clips", "synthetic"),
        ("--method", "silence", "--synth"): ("silence", "synthetic"),
        ("--method", "other"): ("other", "real"),
    }
    for flags, (name, kind) in rows.items():
        done = call(whole, *flags)
        assert done.returncode == EXIT_OK, done.stderr
        row = read_jsonl(whole / "metrics.jsonl")[-1]
        assert (row["row"], row["kind"], row["preset"]) == (name, kind, "aligned")
        assert row["metrics"] == numbers(whole, name, 1 if kind == "synthetic" else 2)["metrics"]
    assert len(list(whole.glob("recovered/encoder-*"))) == len(gone) / 2


def test_kept_clips_read_back_give_the_same_row(call, whole):
    kept = whole / "kept" / "real-aligned"
    assert len(list(kept.glob("originals/*/*.wav"))) == N
    (kept / "hybrid").rename(kept / "theirs")
    folders = ("--originals", kept / "originals", "--reconstructions", kept / "theirs")
    done = call(whole, *folders, "--table", 2)
    assert done.returncode == EXIT_OK, done.stderr
    theirs, ours = (numbers(whole, row, 2)["metrics"] for row in ("theirs", "hybrid"))
    for name in ("waveform_mse", "ssim", "stft_distance", "accuracy/judge", "frechet_distance/judge"):
        assert theirs[name]["value"] == pytest.approx(ours[name]["value"], rel=1e-5)  # the order of clips is another
    assert theirs["latent_frechet_distance"] is None
    assert "| theirs | preset aligned |" in (whole / "table2.md").read_text()


def test_the_paper_preset_reads_clips_and_searches_as_published(call, run_main, place, tmp_path, monkeypatch):
    """By what is done: the samples read, the solver run, the objective minimised, the latents left free."""
    searches = []
    minimize = scipy.optimize.minimize
    monkeypatch.setattr(scipy.optimize, "minimize", lambda *a, **named: searches.append(named) or minimize(*a, **named))
    done = call(tmp_path, "--gradient", "--preset", "paper", "--n", 2, "--keep")
    assert done.returncode == EXIT_OK, done.stderr
    protocol = read_jsonl(tmp_path / "metrics.jsonl")[-1]["protocol"]
    assert protocol["objective"] == "stft_real=1,waveform=1,feature=0.002"
    assert (protocol["alignment"], protocol["solver"], protocol["clip_to_prior"]) == ("paper", "scipy", False)
    assert (protocol["max_iter"], protocol["n"]) == (3, 2)  # given on the command line

    assert [(x["method"], x["bounds"], x["options"]["maxiter"]) for x in searches] == [("L-BFGS-B", None, 3)] * 2

    sources = sorted((place / "clips").rglob("*.wav"), key=lambda path: (path.stem, path.parent.name))[:2]
    kept = tmp_path / "kept" / "real-paper" / "originals"
    clips = [load_clip(kept / path.relative_to(place / "clips"), LENGTH, 1, RATE).windows[0] for path in sources]
    for path, clip in zip(sources, clips, strict=True):
        expected = load_clip(path, LENGTH, 1, RATE, alignment=ALIGNMENTS["paper"]).windows[0]
        np.testing.assert_allclose(clip, expected, atol=1 / 32768)
        assert np.abs(clip - load_clip(path, LENGTH, 1, RATE).windows[0]).max() > 0.05

    (record,) = (np.load(path) for path in (tmp_path / "recovered").iterdir())
    features = functools.partial(block_features, load_classifier(place / "classifier.keras"))
    audio, target = load_generator(GENERATOR, trust=True)(record["z"]), tf.constant(np.stack(clips))
    point = losses.Point(audio, target, tf.constant(record["z"]), "uniform", features(audio), features(target))
    expected = losses.parse_objective("stft_real=1,waveform=1,feature=0.002")(point)
    np.testing.assert_allclose(record["objective"], expected, rtol=1e-4)

    # The published choice of clips, but for the split that was given.
    assert list(protocol["changed"]) == ["encoder"] and (protocol["split"], protocol["draw"]) == ("all", "first")
    done = run_main("calculate_metrics.py", "--dry_run", "--all", "--preset", "paper")
    assert done.returncode == EXIT_OK and f"Would make {sum(map(len, ROWS.values()))} row(s)" in done.stdout
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)
    assert (shown["split"], shown["draw"]) == ("validation", "first")


@pytest.mark.parametrize(
    "args, complaint",
    [
        (("--gradient", "--objective", "feature=1", "--classifier", "none"), "--classifier"),
        (("--inverse_mapping", "--encoder", "nowhere.keras"), "nowhere.keras"),
        (
            ("--judge", "classifier_checkpoint/judge_mel.keras"),
            "--judge classifier_checkpoint/judge_mel.keras: takes 16384",
        ),
        (("--n", "1"), "--n"),
        (("--splits", "6"), "--splits"),
        (("--n", "500"), "--n 500"),
        (("--table", "1", "--synth"), "--synth"),
        (("--all", "--method", "hybrid"), "--method"),
        (("--method", "hybrid", "--gradient"), "--method hybrid"),
        (("--method", "other", "--n", "7"), "--method other"),
        (("--reconstructions", "here"), "--originals"),
        (("--originals", "datasets/demo", "--reconstructions", "tests"), "--reconstructions"),
    ],
)
def test_mistakes_are_one_line(call, tmp_path, args, complaint):
    done = call(tmp_path, *args)
    assert done.returncode == EXIT_USAGE
    assert done.stderr.startswith("error:") and complaint in done.stderr and "Traceback" not in done.stderr


def test_a_users_first_run(run_script, place, tmp_path):
    """As a process; a generator with no classifiers of its own has the other numbers."""
    given = ("--generator", GENERATOR, "--trust", "--classifier", "none", "--judge", "none", "--n", 3, "--resamples", 5)
    done = run_script("calculate_metrics.py", *given, "--synth", "--gradient", "--max_iter", 2, "--output", tmp_path)
    assert done.returncode == EXIT_OK, done.stderr
    assert "gradient, synthetic clips, preset aligned, n = 3, seed 0" in done.stdout and "latent_mse" in done.stdout
    assert "inception" not in done.stdout


def test_clips_do_not_depend_on_n_and_other_clips_are_others():
    generator = load_generator(GENERATOR, trust=True)
    few, many = (synthetic_clips(generator, n, 3, batch_size=2) for n in (3, 7))
    np.testing.assert_allclose(few.audio, many.audio[:3], atol=1e-6)  # batches of other sizes round otherwise
    np.testing.assert_array_equal(few.z, many.z[:3])
    later = synthetic_clips(generator, 3, 3, start=4)
    np.testing.assert_allclose(later.audio, many.audio[4:], atol=1e-6)
    assert set(later.names).isdisjoint(few.names)


def test_the_first_clips_are_by_speaker_whatever_the_layout():
    speakers = ["b", "a", "c"]
    names = [f"{digit}/{speaker}_nohash_0.wav" for digit in DIGITS[:2] for speaker in speakers]
    others = [f"train/{digit.title()}_{speaker}_nohash_0.wav" for digit in DIGITS[:2] for speaker in speakers]
    for layout in (names, others):
        audio = np.zeros((6, 4, 1), np.int16)
        labels = np.repeat([0, 1], 3).astype(np.int32)
        identities = [Identity(str(i)) for i in range(6)]
        dataset = Dataset(audio, labels, layout, identities, DIGITS, RATE, "speech commands", "validation")
        clips, other = real_clips(dataset, 3, seed=5, draw="first")
        assert [name.rpartition("/")[2].removeprefix("Zero_").removeprefix("One_")[0] for name in clips.names] == [
            *"aab"
        ]
        assert len(other) == 3 and {str(i) for i in other.identities}.isdisjoint(map(str, clips.identities))
        again, _ = real_clips(dataset, 2, seed=6, draw="first")
        assert again.names == clips.names[:2]


@pytest.fixture(scope="module")
def wavegan(tmp_path_factory):
    """A small WaveGAN, which computes in bfloat16 too, and an encoder for it."""
    folder = tmp_path_factory.mktemp("wavegan")
    generator = load_generator(build(folder / "generator"))
    keras.utils.set_random_seed(0)
    Encoder(latent_dim=5, width=2, generator=generator.fingerprint).save(folder / "encoder.keras")
    return folder


@pytest.mark.parametrize(
    "method, precision",
    [
        ("hybrid", "float32"),
        pytest.param("gradient", "float32", marks=pytest.mark.slow),
        pytest.param("hybrid", "mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_recovery_and_tables_find_the_same_latents_for_the_same_clip(
    run_main, wavegan, place, tmp_path, method, precision
):
    """16-bit files in the same order: equal bit by bit; own samples, which are rendered in other batches: nearly."""
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(0, 0.1, 16384), 16000, subtype="PCM_16")
    seed = next(seed for seed in range(100) if np.random.default_rng(seed).permutation(2)[0] == 0)
    shared = (tmp_path, "--generator", wavegan / "generator", "--encoder", wavegan / "encoder.keras", "--seed", seed)
    shared += ("--max_iter", 5, "--hybrid_max_iter", 5, "--batch_size", 2, "--quiet", "--objective", "stft_real=1")
    shared += ("--method", method, "--precision", precision)
    out = tmp_path.parent / f"out-{method}-{precision}"
    done = run_main("latent_vector_recovery.py", *shared, "--own_samples=2", "--output", out)
    assert done.returncode == EXIT_OK, done.stderr
    named = ("--split", "all", "--n", 2, "--resamples", 2, "--cache", place / "cache")
    named += ("--classifier", "none", "--judge", "none", "--output")
    nearly = 1e-4 if precision == "float32" else 0.02  # of latents; bfloat16 has 8 bits
    for kind, flags, tolerance in (("clips", (), 0), ("own_samples", ("--synth",), nearly)):
        done = run_main("calculate_metrics.py", *shared, *named, out / "tables" / kind, *flags)
        assert done.returncode == EXIT_OK, done.stderr
        (record,) = (np.load(path) for path in (out / "tables" / kind / "recovered").iterdir())
        recovered = [load_latents(path) for path in sorted(out.glob(f"{kind}/*/{method}.npz"))]
        z = np.concatenate([latents.z for latents in recovered])
        np.testing.assert_allclose(record["z"], z, rtol=0, atol=tolerance)
        assert record["evaluations"].min() > 1


@pytest.mark.slow
def test_a_killed_and_an_interrupted_run_go_on_and_end_like_an_uninterrupted_one(repo_root, run_script, tmp_path):
    given = (
        "--generator",
        GENERATOR,
        "--trust",
        "--classifier",
        "none",
        "--judge",
        "none",
        "--table",
        1,
        "--resamples",
        5,
    )
    given += ("--encoder", tmp_path / "encoder.keras", "--n", 16, "--batch_size", 2, "--max_iter", 60, "--output")
    Encoder(latent_dim=LATENT_DIM, width=2, num_samples=LENGTH, sample_rate=RATE).save(tmp_path / "encoder.keras")
    whole = run_script("calculate_metrics.py", *given, tmp_path / "whole")
    assert whole.returncode == EXIT_OK, whole.stderr
    for number, stop in enumerate((signal.SIGKILL, signal.SIGINT), start=1):
        folder = tmp_path / "stopped"
        command = [sys.executable, "calculate_metrics.py", *map(str, given), str(folder)]
        process = subprocess.Popen(command, cwd=repo_root, stderr=subprocess.PIPE, text=True)
        while len(list(folder.glob("recovered/*.npz"))) < 4 * number and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None and not (folder / "table1.csv").exists()
        process.send_signal(stop)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == EXIT_INTERRUPTED and "To resume: python calculate" in errors
    done = run_script("calculate_metrics.py", *given, folder)
    assert done.returncode == EXIT_OK, done.stderr
    assert (folder / "table1.csv").read_bytes() == (tmp_path / "whole" / "table1.csv").read_bytes()
    records = sorted(path.name for path in folder.glob("recovered/*.npz"))
    assert records == sorted(path.name for path in (tmp_path / "whole" / "recovered").iterdir())
    for name in records:
        a, b = (np.load(home / "recovered" / name) for home in (folder, tmp_path / "whole"))
        for array in ("z", "objective", "evaluations"):
            np.testing.assert_array_equal(a[array], b[array])


@pytest.mark.slow
def test_make_results(repo_root, tmp_path):
    """Every target of `make results` on the bundled generator, an untrained encoder and clips of noise."""
    generator = load_generator("checkpoint/")
    Encoder(latent_dim=generator.latent_dim, width=2, generator=generator.fingerprint).save(tmp_path / "encoder.keras")
    rng = np.random.default_rng(0)
    listed = []
    speakers = {half: [name for name in map(str, range(20)) if half_of(name) == half][:2] for half in HALVES}
    for digit in DIGITS:
        (tmp_path / "data" / digit).mkdir(parents=True)
        for speaker in sum(speakers.values(), []):
            listed.append(f"{digit}/{speaker}_nohash_0.wav")
            for name in (listed[-1], f"{digit}/of-training-{speaker}.wav"):
                soundfile.write(tmp_path / "data" / name, rng.normal(0, 0.1, 16000), 16000)
    (tmp_path / "data" / "validation_list.txt").write_text("\n".join(listed))
    values = {"N": 10, "SAMPLES": 12, "MAX_ITER": 2, "DATA": tmp_path / "data", "ENCODER": tmp_path / "encoder.keras"}
    values["OUTPUT"] = tmp_path / "out"
    command = ["make", "-o", ".venv/.installed", "results", *(f"{name}={value}" for name, value in values.items())]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "Not made yet" not in page and "judge_mel" in page and "judge_wave" in page
    assert "All lines are of commit" in page
    for study in STUDIES:
        lines = read_jsonl(tmp_path / "out" / f"{study}.jsonl")
        assert lines and all(origin_of(line).keys() == set(FACTS) for line in lines), study
        assert study == "samples" or f"(figures/{study}.png)" in page
    assert all(f"Table {number}" in page and f"(figures/figure{number + 1}.png)" in page for number in (1, 2, 3))
