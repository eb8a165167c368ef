"""Training the encoder: what a step computes, and the script as a user runs it, interrupts it and breaks it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

import train
from models.classifier import Classifier, classifier_features
from models.encoder import Encoder, load_encoder
from models.encoder_training import EncoderTrainer, LossWeights, degrade, encoder_batches, new_encoder
from models.encoder_validation import measure
from models.generator import load_generator
from tests.tiny import Tiny
from utils import losses, metrics, options
from utils.audio.datasets import DIGITS, batch_indices, load_dataset
from utils.errors import UserError
from utils.runs.files import read_jsonl
from utils.runs.training_run import read_steps
from utils.spectrograms import log_magnitude

ROOT = Path(__file__).parents[1]
EPOCHS, STEPS = 2, 4


def write_tone(path, frequency, phase):
    time_axis = np.arange(1024) / 8000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * time_axis + phase), 8000)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Digits as tones, one of four a digit for validation, and a classifier with random weights."""
    root = tmp_path_factory.mktemp("train")
    for label, digit in enumerate(DIGITS):
        (root / "data" / digit).mkdir(parents=True)
        for take in range(4):
            write_tone(root / "data" / digit / f"{take}_nohash_0.wav", 200 + 300 * label, take)
    (root / "data" / "validation_list.txt").write_text("\n".join(f"{d}/1_nohash_0.wav" for d in DIGITS))
    keras.utils.set_random_seed(0)
    classifier = Classifier(architecture="resnet18", width=4, num_samples=1024, sample_rate=8000, class_names=DIGITS)
    classifier.save(root / "classifier.keras")
    classifier.save(root / "judge.keras")
    return root


def arguments(place, folder, *more, data=None):
    given = f"""{data or place / "data"} --generator tests.tiny:generator --trust --classifier {place}/classifier.keras
        --cache {place}/cache --output {folder}/run --results {folder}/results --width 4 --batch_size 8
        --epochs {EPOCHS} --steps_per_epoch {STEPS} --synthetic_steps 1 --validation_clips 6"""
    return [*given.split(), *map(str, more)]


@pytest.fixture
def call(place, monkeypatch):
    """The script's main in this process: `call(folder, option, ...)` gives its exit code."""

    def run(folder, *more, **other):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments(place, folder, *more, **other)])
        return train.main()

    return run


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        judge = ("--judge", place / "judge.keras", "--keep_epochs")
        patch.setattr(sys, "argv", ["train.py", *arguments(place, folder, *judge, "--export", folder / "my.keras")])
        assert train.main() == options.EXIT_OK
    return folder


def losses_of(folder):
    steps = read_steps(folder / "run")[1]
    assert list(steps) == list(range(EPOCHS * STEPS))
    return np.array([[row[name] for name in sorted(row)] for row in steps.values()])


def same_training(one, other):
    np.testing.assert_allclose(losses_of(one), losses_of(other), rtol=2e-3)


# ---- the step ---------------------------------------------------------------------


def test_a_step_is_a_function_of_seed_and_number(place):
    generator = load_generator("tests.tiny:generator", trust=True)
    dataset = load_dataset(place / "data", 1024, 1, 8000, cache_dir=place / "cache", quiet=True)

    def steps(first, seed=5, n=1):
        stream = encoder_batches(
            dataset,
            generator,
            8,
            seed=seed,
            first_step=first,
            synthetic_steps=2,
            augment_clips=True,
            augment_samples=True,
        )
        return [{name: x.numpy() for name, x in batch.items()} for batch in stream.take(n)]

    from_start, (third,), (other_seed,) = steps(0, n=3), steps(2), steps(2, seed=6)
    shapes = {"audio": (8, 1024, 1), "z": (8, 2, 6), "noise": (8, 2, 1024, 1), "snr_db": (8, 2), "tail": (8, 2)}
    for name, shape in shapes.items():
        assert third[name].shape == shape
        np.testing.assert_array_equal(from_start[2][name], third[name])
        for different in (from_start[1], other_seed):
            assert not np.array_equal(different[name], third[name])
    z = np.concatenate([batch["z"].ravel() for batch in from_start])
    assert np.abs(z).max() <= 1 and abs(z.mean()) < 0.15 and 0.25 < z.var() < 0.42
    assert len(np.unique(z)) == z.size  # no latent twice, in no step and in no synthetic batch


def test_latents_are_drawn_from_the_generators_prior(place):
    dataset = load_dataset(place / "data", 1024, 1, 8000, cache_dir=place / "cache", quiet=True)
    generator = load_generator("tests.tiny:stereo_normal", trust=True)
    (batch,) = encoder_batches(dataset, generator, 8, seed=5, synthetic_steps=40).take(1)
    assert np.abs(batch["z"]).max() > 2 and np.var(batch["z"]) == pytest.approx(1, rel=0.1)


def test_degrade_adds_the_noise_and_the_silence_it_is_told():
    rng = np.random.default_rng(0)
    audio, noise = rng.normal(0, 0.1, (2, 1000, 1)), rng.normal(0, 1, (2, 1000, 1))
    degraded = degrade(*(tf.constant(x, tf.float32) for x in (audio, noise, [20.0, 40.0], [0.25, 0.0]))).numpy()
    assert np.all(degraded[0, 750:] == 0) and np.all(degraded[0, :750] != 0) and np.all(degraded[1] != 0)
    added = (degraded - audio)[:, :750]
    snr = 10 * np.log10(np.square(audio).mean((1, 2)) / np.square(added).mean((1, 2)))
    np.testing.assert_allclose(snr, [20, 40], atol=0.5)


class Counted(Tiny):
    """A generator that counts its calls."""

    calls = 0

    def __call__(self, z):
        self.calls += 1
        return super().__call__(z)


class Told(keras.Sequential):
    """A network that takes the domain of its clips, as an `Encoder` does."""

    domains: tuple = ()

    def call(self, inputs, training=None, domain=None):
        self.domains += (domain,)
        return super().call(inputs, training=training)


@pytest.fixture
def small(place):
    """A function from loss weights to a trainer of a small encoder with batch normalisation, its rate 0."""

    def make(weights):
        keras.utils.set_random_seed(1)
        network = [keras.layers.AveragePooling1D(8), keras.layers.Flatten(), keras.layers.Dense(16)]
        network += [keras.layers.BatchNormalization(), keras.layers.Dense(6)]
        encoder = Told([keras.Input((1024, 1)), *network])
        classifier = keras.saving.load_model(place / "classifier.keras", compile=False)
        trainer = EncoderTrainer(encoder, Counted(), classifier if weights.feature else None, weights)
        optimizer = keras.optimizers.Adam(0.0)
        optimizer.build(encoder.trainable_variables)
        trainer.compile(optimizer)
        return trainer, classifier

    return make


@pytest.fixture(scope="module")
def batch():
    """Random clips, latents of two synthetic batches, and what `degrade` does to those."""
    rng = np.random.default_rng(3)
    batch = {
        "audio": rng.uniform(-0.5, 0.5, (8, 1024, 1)),
        "z": rng.uniform(-1, 1, (8, 2, 6)),
        "noise": rng.normal(size=(8, 2, 1024, 1)),
        "snr_db": rng.uniform(0, 10, (8, 2)),
        "tail": rng.uniform(0.1, 0.4, (8, 2)),
    }
    return {name: tf.constant(value, tf.float32) for name, value in batch.items()}


@pytest.mark.parametrize("feature_distance, error", [("mse", tf.square), ("mae", tf.abs)])
def test_a_step_computes_the_papers_losses_and_moves_only_the_encoder(small, batch, feature_distance, error):
    """Against plain code. At a rate of 0 every update meets the same encoder."""
    weights = LossWeights(2.0, 3.0, 0.5, synthetic_audio=0.25, feature_distance=feature_distance)
    trainer, classifier = small(weights)
    encoder, generator = trainer.encoder, trainer.generator

    def expect(inputs, target, z=None):
        encoded = encoder(inputs, training=True)
        made = generator(encoded)
        a, b = classifier_features(classifier, made), classifier_features(classifier, target)
        terms = {"feature": np.mean([tf.reduce_mean(error(a[block] - b[block])) for block in classifier.block_names])}
        terms["spectral"] = tf.reduce_mean(tf.abs(log_magnitude(made) - log_magnitude(target)))
        terms["loss"] = 3 * terms["feature"] + 0.5 * terms["spectral"]
        if z is not None:
            terms["latent"] = tf.reduce_mean(tf.square(encoded - z))
            terms["loss"] = 2 * terms["latent"] + 0.25 * terms["loss"]
        return {name: float(value) for name, value in terms.items()}

    expected = {f"real_{name}": value for name, value in expect(batch["audio"], batch["audio"]).items()}
    synthetic = []
    for i in range(2):
        z, target = batch["z"][:, i], generator(batch["z"][:, i])
        degraded = degrade(target, *(batch[name][:, i] for name in ("noise", "snr_db", "tail")))
        synthetic.append(expect(degraded, target, z))
    expected |= {f"synthetic_{name}": np.mean([terms[name] for terms in synthetic]) for name in synthetic[0]}
    moving = [w.numpy() for w in encoder.non_trainable_variables]

    encoder.domains = ()
    report = {name: float(value) for name, value in trainer.train_step(batch).items()}
    assert report == pytest.approx(expected, rel=1e-4) and encoder.domains == ("real", "synthetic", "synthetic")
    for before, after in zip(moving, encoder.non_trainable_variables, strict=True):
        assert not np.array_equal(before, after)

    assert trainer.trainable_variables == encoder.trainable_variables
    frozen, before = classifier.get_weights(), [v.numpy() for v in encoder.trainable_variables]
    trainer.optimizer.learning_rate = 1e-3
    trainer.train_step(batch)
    assert int(trainer.optimizer.iterations) == 6  # two steps of a real and two synthetic batches
    for one, other in zip(before, encoder.trainable_variables, strict=True):
        assert not np.array_equal(one, other)
    for one, other in zip(frozen, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_takes_no_audio_term_does_not_run_the_generator_twice(small, batch):
    one = {"audio": batch["audio"], "z": batch["z"][:, :1]}
    for weights, calls in (
        (LossWeights(feature=0.0, spectral=2.0), 1 + 2),
        (LossWeights(feature=0.0, spectral=2.0, synthetic_audio=0.0), 1 + 1),
        (LossWeights(feature=0.0), 1),
    ):
        trainer, _ = small(weights)
        report = trainer.train_step(one)
        assert trainer.generator.calls == calls
        assert ("real_loss" in report) == bool(weights.real.weights)
    assert weights.real.weights == {} and weights.synthetic.weights == {"latent": 1.0}
    with pytest.raises(ValueError, match="needs a classifier"):
        EncoderTrainer(None, None, None, LossWeights())


def test_a_gradient_that_is_not_finite_shows_in_its_own_step(small, batch, monkeypatch):
    monkeypatch.setitem(losses.TERMS, "latent", lambda point: tf.sqrt(tf.reduce_sum(point.z * 0.0, axis=1)))
    trainer, _ = small(LossWeights(feature=0.0))
    report = trainer.train_step({"audio": batch["audio"], "z": batch["z"][:, :1]})
    assert float(report["synthetic_latent"]) == 0 and np.isnan(report["synthetic_loss"])


def make_trainer(weights, rate, **encoder_options):
    """A trainer of a small ResNet-18."""
    keras.utils.set_random_seed(1)
    generator = load_generator("tests.tiny:generator", trust=True)
    encoder = Encoder(latent_dim=6, width=4, num_samples=1024, sample_rate=8000, **encoder_options)
    trainer = EncoderTrainer(encoder, generator, None, weights)
    trainer.compile(keras.optimizers.Adam(rate))
    return trainer, generator


def test_it_learns_to_invert_its_generator():
    # Tiny is odd in z, and magnitudes cannot tell z from -z: the real part must do.
    weights = LossWeights(feature=0.0)
    trainer, generator = make_trainer(weights, rate=1e-2, bounded=True, front_end="stft_real")
    for layer in trainer.encoder.network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # a short training needs a short memory
    step = tf.function(trainer.train_step)
    for t in range(80):
        z = generator.sample_prior(0, 16, start=16 * t)
        step({"audio": tf.zeros([1, 1024, 1]), "z": tf.constant(z[:, None])})
    z = generator.sample_prior(99, 32)
    found = measure(trainer, generator(z).numpy(), "synthetic", z=z, judges={}, batch_size=20)
    assert found.numbers["latent"] == pytest.approx(metrics.latent_mse(found.z, z)) and found.z.shape == z.shape
    assert found.numbers["latent"] < 0.2  # always answering 0 scores 1/3


# ---- the script -----------------------------------------------------------------------


def test_what_a_run_leaves(whole, place):
    folder = whole / "run"
    files = ["options.json", "log.txt", "steps.jsonl", "epochs.jsonl", "last.keras", "encoder.keras", "best.keras"]
    assert {*files} <= {path.name for path in folder.iterdir()}
    epochs = read_jsonl(folder / "epochs.jsonl")
    kept = [load_encoder(folder / "epochs" / f"{epoch:04}.keras").get_weights() for epoch in (1, 2)]
    best = int(np.argmin([row["val_loss"] for row in epochs]))
    for name, number in (("encoder", 1), ("best", best)):
        for one, other in zip(load_encoder(folder / f"{name}.keras").get_weights(), kept[number], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(kept[0][0], kept[1][0])
    assert [row["step"] for row in epochs] == [STEPS, 2 * STEPS]
    terms = [epochs[1][f"val_{name}"] for name in ("real_feature", "synthetic_feature", "synthetic_latent")]
    spectra = [epochs[1][f"val_{name}_spectral"] for name in ("real", "synthetic")]
    assert epochs[1]["val_loss"] == pytest.approx(sum(terms) + 0.1 * sum(spectra))
    steps = read_steps(folder)[1]
    assert epochs[1]["real_feature"] == pytest.approx(np.mean([steps[t]["real_feature"] for t in range(4, 8)]))
    for name in ("ssim", "waveform_mse", "accuracy", "judge_accuracy", "feature"):
        assert f"val_real_{name}" in epochs[0] and f"val_synthetic_{name}" in epochs[0]
    assert epochs[0]["val_real_judge_accuracy"] == epochs[0]["val_real_accuracy"]

    encoder = load_encoder(folder)
    generator = load_generator("tests.tiny:generator", trust=True)
    assert encoder.options["generator"] == generator.fingerprint and encoder.options["bounded"]
    z = generator.sample_prior(0, 6)
    latent = metrics.latent_mse(encoder(generator(z), training=False, domain="synthetic").numpy(), z)
    other = metrics.latent_mse(encoder(generator(z), training=False, domain="real").numpy(), z)
    assert encoder.options["domain_statistics"] and abs(other - latent) > 1e-3 * latent
    assert epochs[1]["val_synthetic_latent"] == pytest.approx(latent, rel=1e-4)
    assert (whole / "my.keras").read_bytes() == (folder / "encoder.keras").read_bytes()
    (line,) = read_jsonl(whole / "results" / "encoder.jsonl")
    assert line["n"] == {"real": 6, "synthetic": 6} and line["measures"]["synthetic_latent"] == pytest.approx(latent)

    wave, rate = soundfile.read(folder / "waves" / "synthetic_0005_epoch_0002.wav")
    expected = generator(encoder(generator(z[5:]), training=False, domain="synthetic")).numpy()[0, :, 0]
    assert rate == 8000 and np.allclose(wave, expected, atol=1e-4)
    assert len(list((folder / "waves").glob("*.wav"))) == 4 * (1 + EPOCHS)
    log = (folder / "log.txt").read_text()
    assert re.search(r"epoch   2/2 \| real: feature .* clips/s, 0\.0 min left", log)


@pytest.mark.slow
def test_begins_with_a_given_encoder(whole, call, tmp_path):
    given = ("--init_from", whole / "my.keras")
    half = ("--export", tmp_path / "half.keras", "--export_dtype", "float16")
    short = ("--learning_rate", 1e-9, "--epochs", 1, "--steps_per_epoch", 1)
    assert call(tmp_path, *given, *short, *half) == options.EXIT_OK
    before, after = load_encoder(whole / "my.keras"), load_encoder(tmp_path / "run")
    for one, other in zip(before.trainable_variables, after.trainable_variables, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)
    for one, other in zip(after.weights, load_encoder(tmp_path / "half.keras").weights, strict=True):
        np.testing.assert_array_equal(np.float16(one), other)
    sizes = [(tmp_path / name).stat().st_size for name in ("run/encoder.keras", "half.keras")]
    assert sizes[1] < 0.7 * sizes[0]


def test_initial_weights_are_those_of_the_encoder_given(whole):
    generator = load_generator("tests.tiny:generator", trust=True)
    given = dict(seed=0, learning_rate=1e-3, decay_updates=None, bounded=True, init_from=whole / "my.keras")
    shape = dict(front_end="log_magnitude", alignment="aligned", precision="float32")
    encoder = new_encoder(generator, **given, **shape, width=4, domain_statistics=True)
    for one, other in zip(encoder.get_weights(), load_encoder(whole / "my.keras").get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="--init_from .*width 8. Received: 4"):
        new_encoder(generator, **given, **shape, width=8)


def test_tensorboard_holds_losses_measures_pictures_and_sounds(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = {}
    for name in ("train", "validation", "clips"):
        events = EventAccumulator(str(whole / "run" / "tensorboard" / name), size_guidance={"tensors": 0})
        events.Reload()
        tags[name] = {tag: len(events.Tensors(tag)) for tag in events.Tags()["tensors"]}
    for name in ("real_feature", "real_spectral", "synthetic_latent", "synthetic_feature"):
        assert tags["train"][name] == tags["validation"][name] == EPOCHS
    assert tags["validation"]["real_ssim"] == tags["validation"]["real_judge_accuracy"] == EPOCHS
    for clip in ("real_0000", "real_0005", "synthetic_0000", "synthetic_0005"):
        assert tags["clips"][f"{clip}/original"] == 1
        assert tags["clips"][f"{clip}/reconstruction"] == EPOCHS
        assert tags["clips"][f"{clip}/original and reconstruction"] == EPOCHS


@pytest.mark.slow
@pytest.mark.parametrize("at_step", [2, STEPS])
def test_interrupted_and_started_again_it_ends_as_if_uninterrupted(call, whole, tmp_path, monkeypatch, capsys, at_step):
    step = EncoderTrainer.step

    def press_in(self, number):
        if number + 1 == at_step:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "step", press_in)
        with pytest.raises(KeyboardInterrupt, match="To resume: python train.py"):
            call(tmp_path)
    assert len(read_steps(tmp_path / "run")[1]) == at_step
    capsys.readouterr()
    assert call(tmp_path) == options.EXIT_OK
    assert f"resumed at step {at_step}" in capsys.readouterr().out
    same_training(tmp_path, whole)
    ends = [read_jsonl(folder / "run" / "epochs.jsonl") for folder in (tmp_path, whole)]
    assert [row["epoch"] for row in ends[0]] == [1, 2]
    assert ends[0][0]["real_feature"] == pytest.approx(ends[1][0]["real_feature"], rel=2e-3)
    with pytest.raises(UserError, match="--seed: .* began with 0"):
        call(tmp_path, "--seed", 4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_clips_and_keeps_the_checkpoint(place, call, tmp_path, monkeypatch):
    assert call(tmp_path, "--schedule", "constant", "--epochs", 1) == options.EXIT_OK
    before = (tmp_path / "run" / "last.keras").read_bytes()
    monkeypatch.setitem(losses.TERMS, "spectral", lambda point: tf.sqrt(-1 - tf.abs(point.audio[:, 0, 0])))
    with pytest.raises(UserError, match=rf"step {STEPS}: .*nan.* is as it was saved before") as error:
        call(tmp_path, "--schedule", "constant", "--epochs", 2)  # a constant rate does not depend on the last epoch
    assert (tmp_path / "run" / "last.keras").read_bytes() == before
    dataset = load_dataset(place / "data", 1024, 1, 8000, cache_dir=place / "cache", quiet=True)
    names = [dataset.names[i] for i in batch_indices(len(dataset), 8, STEPS, 0)]
    assert re.findall(r"\w+/\d_nohash_0.wav", str(error.value)) == list(dict.fromkeys(names))


@pytest.mark.slow
def test_other_sounds_without_labels_or_a_classifier(place, call, tmp_path):
    (tmp_path / "birds").mkdir()
    for i in range(40):
        write_tone(tmp_path / "birds" / f"song {i}.wav", 150 + 20 * i, i)
    sounds = ("--generator", "tests.tiny:stereo_normal", "--classifier", "nowhere")
    weights = ("--feature_weight", 0, "--synthetic_audio_weight", 0)
    short = ("--epochs", 1, "--steps_per_epoch", 1)
    assert call(tmp_path, *sounds, *weights, *short, data=tmp_path / "birds") == options.EXIT_OK
    encoder = load_encoder(tmp_path / "run")
    assert not encoder.options["bounded"] and encoder.num_channels == 2  # a normal prior has no box
    (epoch,) = read_jsonl(tmp_path / "run" / "epochs.jsonl")
    assert "val_real_spectral" in epoch and not [name for name in epoch if "accuracy" in name or "feature" in name]


def test_mistakes_are_told_in_a_line(call, place, tmp_path, capsys):
    for more, told in (
        (("--generator", "tests.tiny:stereo_normal"), "takes 1024 samples of 1 channel.* gives 1024 of 2"),
        (("--classifier", tmp_path / "none.keras"), "no such classifier"),
    ):
        with pytest.raises(UserError, match=told):
            call(tmp_path, *more)
    with pytest.raises(UserError, match="none: no such folder"):
        call(tmp_path, data=tmp_path / "none")
    assert not (tmp_path / "run").exists()
    for more, told in (
        (("--latent_weight", -1), "at least 0"),
        (("--latent_weight", 0, "--synthetic_audio_weight", 0), "--latent_weight"),
        (("--export", "encoder.h5"), "must end in .keras"),
        (("--export_dtype", "float16"), "goes with --export"),
    ):
        with pytest.raises(SystemExit) as end:
            call(tmp_path, *more)
        assert end.value.code == options.EXIT_USAGE and told in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        call(tmp_path, "--preset", "paper", "--dry_run")
    assert end.value.code == options.EXIT_OK
    plan = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1])
    assert (plan["front_end"], plan["clip_to_prior"], plan["spectral_weight"]) == ("stft_real", "False", "0.0")
    assert plan["width"] == "4"  # given by itself, an option wins over the preset


TWO_DEVICES = """
import sys, utils, tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import train
from utils.runs.strategies import make_strategy
assert make_strategy("mirrored").num_replicas_in_sync == 2
sys.exit(train.main())
"""


@pytest.mark.slow
def test_two_devices_train_as_one(call, place, tmp_path):
    # Adam's first steps follow the sign even of gradients that are rounding errors: at a low rate that does not show.
    slow = ("--learning_rate", 1e-5)
    assert call(tmp_path / "one", *slow) == options.EXIT_OK
    options_of_two = arguments(place, tmp_path / "two", "--distribute", "mirrored", *slow)
    command = [sys.executable, "-c", TWO_DEVICES, *options_of_two]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    same_training(tmp_path / "two", tmp_path / "one")


# Runs train.py until its third step; there the worker whose index DIES says is killed, or the only process.
DIES = """
import json, os, signal, sys
import train
from models.encoder_training import EncoderTrainer
mine = str(json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"])
step = EncoderTrainer.step
def step_or_die(self, number):
    if number == 2 and mine == os.environ.get("DIES", "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number)
EncoderTrainer.step = step_or_die
sys.exit(train.main())
"""


def start_workers(command: list[str], **environment: str) -> list[subprocess.Popen]:
    """The same command on two workers of this machine, told apart by TF_CONFIG."""
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("localhost", 0))
        workers = [f"localhost:{one.getsockname()[1]}" for one in (first, second)]
    processes = []
    for index in range(2):
        setting = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
        own = os.environ | environment | {"TF_CONFIG": setting}
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, cwd=ROOT, env=own, stdout=pipe, stderr=pipe, text=True))
    return processes


@pytest.mark.slow
def test_one_worker_trains_as_one_machine(call, whole, tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert call(tmp_path, "--distribute", "multi_worker") == options.EXIT_OK
    same_training(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [None, 0, 1], ids=["uninterrupted", "chief killed", "other killed"])
def test_two_workers_train_as_one(call, place, tmp_path, killed):
    slow = ("--learning_rate", 1e-5)
    assert call(tmp_path / "one", *slow) == options.EXIT_OK
    two = arguments(place, tmp_path / "two", "--distribute", "multi_worker", "--save_minutes", 1e-9, *slow)
    command = [sys.executable, "train.py", *two]
    run = tmp_path / "two" / "run"
    if killed is not None:
        processes = start_workers([sys.executable, "-c", DIES, *two], DIES=str(killed))
        try:
            assert processes[killed].wait(500) == -signal.SIGKILL
        finally:
            for process in processes:  # the other one waits for its peer, or has given up
                process.kill()
                process.communicate()
        assert processes[1 - killed].returncode != 0 and (run / "last.keras").exists()
        assert len(read_steps(run)[1]) < EPOCHS * STEPS
    processes = start_workers(command)
    try:
        for process in processes:
            _, stderr = process.communicate(timeout=500)
            assert process.returncode == 0, stderr[-3000:]
    finally:
        for process in processes:
            process.kill()
    assert ("resumed at step" in (run / "log.txt").read_text()) == (killed is not None)
    same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_uninterrupted(place, whole, tmp_path):
    given = arguments(place, tmp_path, "--save_minutes", 1e-9)
    killed = subprocess.run([sys.executable, "-c", DIES, *given], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    command = [sys.executable, "train.py", *given]
    assert len(read_steps(tmp_path / "run")[1]) < EPOCHS * STEPS
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "resumed at step" in done.stdout, done.stderr
    same_training(tmp_path, whole)
    for one, other in zip(*(load_encoder(folder / "run").get_weights() for folder in (tmp_path, whole)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_starts_as_a_script(run_script, tmp_path):
    done = run_script("train.py", tmp_path / "none", "--steps_per_epoch", 0)
    assert done.returncode == 2 and done.stderr.startswith("error: argument --steps_per_epoch")
    assert len(done.stderr.splitlines()) == 1
