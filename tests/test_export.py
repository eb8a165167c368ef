"""export.py: what it writes answers like what it was made from, in TensorFlow and in onnxruntime."""

import math
import subprocess
import sys

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

from models.encoder import Encoder
from models.export import exportable, freeze, write_onnx, write_saved_model
from models.generator import load_generator
from models.resnet import BatchNormalization
from tests.wavegan_checkpoints import build
from utils.choices import FRONT_ENDS
from utils.errors import UserError
from utils.inversion.latents import load_latents
from utils.runs.files import read_json, read_jsonl

RNG = np.random.default_rng(0)
SHAPE = {"width": 2, "num_samples": 1024, "sample_rate": 8000}


def test_a_highway_is_exported():
    keras.utils.set_random_seed(0)
    facts = {name: value for name, value in SHAPE.items() if name != "width"}
    encoder = Encoder(latent_dim=5, architecture="highway", **facts)
    audio = RNG.uniform(-0.5, 0.5, (3, 1024, 1)).astype(np.float32)
    np.testing.assert_allclose(exportable(encoder, (1024, 1))(audio), encoder(audio, training=False), atol=1e-5)


def test_the_bundled_networks_are_exported(run_main, tmp_path):
    done = run_main("export.py", "saved_model", "--output", tmp_path / "out")
    assert done.returncode == 0 and done.stdout.count("equal to it within") == 2, done.stderr


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_resnet_is_exported_as_it_encodes_real_clips(front_end):
    encoder = Encoder(latent_dim=5, front_end=front_end, domain_statistics=True, **SHAPE)
    for layer in encoder.network.layers:
        if isinstance(layer, BatchNormalization):  # else both domains' are equal
            layer.moving_mean.assign(RNG.normal(0, 0.1, layer.moving_mean.shape))
    audio = RNG.uniform(-0.5, 0.5, (3, 1024, 1)).astype(np.float32)
    expected = encoder(audio, training=False, domain="real")
    assert np.abs(expected - encoder(audio, training=False, domain="synthetic")).max() > 1e-3
    np.testing.assert_allclose(exportable(encoder, (1024, 1))(audio), expected, atol=1e-5)


def test_a_saved_model_is_a_generator_again(tmp_path):
    """In a process without this project's gradients."""
    native = load_generator(build(tmp_path / "tf1"))
    z = native.sample_prior(0, 3)
    assert write_saved_model(freeze(native, z, "z"), tmp_path / "saved") < 1e-5
    code = f"""
import numpy as np, tensorflow as tf
serve = tf.saved_model.load({str(tmp_path / "saved")!r}).signatures["serving_default"]
z = tf.constant(np.load({str(tmp_path / "z.npy")!r}))
with tf.GradientTape() as tape:
    tape.watch(z)
    (audio,) = serve(z=z).values()
np.savez({str(tmp_path / "found.npz")!r}, audio=audio, gradient=tape.gradient(audio, z))
"""
    np.save(tmp_path / "z.npy", z)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    found, x = np.load(tmp_path / "found.npz"), tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(x)
        audio = native(x)
    np.testing.assert_allclose(found["audio"], audio, atol=1e-5)
    gradient = tape.gradient(audio, x)
    np.testing.assert_allclose(found["gradient"], gradient, atol=1e-4 * np.abs(gradient).max())


def test_a_network_that_is_not_what_it_was_made_from_is_not_written(tmp_path):
    frozen = freeze(lambda x: 2 * x, np.ones((2, 3), np.float32), "x")._replace(answer=np.ones((2, 3), np.float32))
    with pytest.raises(UserError, match="differs by 1.0e.00 from the network"):
        write_saved_model(frozen, tmp_path / "m")


def test_wrong_usage_is_one_line(run_main, tmp_path):
    for given, told in (
        (["dataset"], "--recovery: names the run"),
        (["onnx", "--recovery", "x"], "--recovery: names the run"),
        (["pickle"], "invalid choice: 'pickle'"),
        (["saved_model", "--generator", "nowhere"], "--generator nowhere: no such file"),
    ):
        done = run_main("export.py", *given, "--output", tmp_path / "out")
        assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed: make setup-export")


@pytest.mark.slow
def test_onnx_of_the_bundled_networks(run_main, tmp_path):
    needs("tf2onnx", "onnxruntime")
    import onnxruntime

    done = run_main("export.py", "saved_model", "onnx", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal to it within") == 4
    generator = load_generator("checkpoint/")
    z = generator.sample_prior(1, 5)  # another number of clips than in the export's own check
    session = onnxruntime.InferenceSession(str(tmp_path / "out/generator.onnx"), providers=["CPUExecutionProvider"])
    (audio,) = session.run(None, {session.get_inputs()[0].name: z})
    np.testing.assert_allclose(audio, generator(z), atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["sample_rate"] == "16000"
    session = onnxruntime.InferenceSession(str(tmp_path / "out/encoder.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: audio})
    encoder = keras.saving.load_model("inverse_mapping_checkpoint/encoder.keras", compile=False)
    np.testing.assert_allclose(found, encoder(audio, training=False), atol=1e-4)
    again = load_generator(tmp_path / "out/generator")
    assert (again.sample_rate, again.prior) == (16000, "uniform")
    np.testing.assert_allclose(again(z), generator(z), atol=1e-4)
    assert read_json(tmp_path / "out/generator/generator.json")["made_from"] == generator.fingerprint


@pytest.mark.slow
def test_onnx_of_other_networks(tmp_path):
    needs("tf2onnx", "onnxruntime")
    dense = keras.Sequential([keras.Input((5,)), keras.layers.Dense(40, "tanh"), keras.layers.Reshape((20, 2))])
    z = RNG.normal(size=(3, 5)).astype(np.float32)
    assert write_onnx(freeze(lambda z: dense(z), z, "z"), tmp_path / "g.onnx", {"prior": "normal"}) < 1e-5
    encoder = Encoder(latent_dim=5, front_end="stft_real", **SHAPE)
    audio = RNG.uniform(-0.5, 0.5, (3, 1024, 1)).astype(np.float32)
    frozen = freeze(exportable(encoder, (1024, 1)), audio, "audio")
    assert write_onnx(frozen, tmp_path / "e.onnx", {}) < 1e-5


@pytest.mark.slow
def test_the_data_set_is_read_by_hugging_face_s_datasets(run_main, tmp_path, monkeypatch):
    needs("datasets", "pyarrow")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tiny = ("--generator", "tests.tiny:generator", "--trust")
    for seed in (1, 2):
        soundfile.write(tmp_path / f"in_{seed}.wav", RNG.uniform(-0.5, 0.5, 1500), 8000)
    (tmp_path / "clips").mkdir()
    for path in tmp_path.glob("in_*.wav"):
        path.rename(tmp_path / "clips" / path.name)
    run, output = tmp_path / "run", tmp_path / "out"
    short = (
        "--method",
        "gradient",
        "--max_iter",
        2,
        "--own_samples",
        1,
        "--window",
        "all",
        "--objective",
        "waveform=1",
    )
    done = run_main("latent_vector_recovery.py", tmp_path / "clips", *tiny, *short, "--output", run)
    assert done.returncode == 0, done.stderr
    done = run_main("export.py", "dataset", "--recovery", run, "--output", output)
    assert done.returncode == 0 and "dataset: 3 rows" in done.stdout, done.stderr

    results = {row["source"]: row for row in read_jsonl(run / "results.jsonl")}
    data = output / "dataset"
    table = read_data_set(tmp_path, "parquet", data_files=str(data / "metadata.parquet"))
    assert sorted(table["source"]) == sorted(results)
    for row in table:
        result, latents = results[row["source"]], load_latents(run / results[row["source"]]["latents"])
        np.testing.assert_array_equal(np.array(row["z"], np.float32), latents.z)
        assert (row["z_true"] is None) == (result["kind"] == "file")
        assert row["file_name"] == result["reconstruction"] and row["original_file_name"] == result["original"]
        assert math.isclose(row["snr_db"], result["snr_db"]) and row["method"] == "gradient"
        for name in (row["file_name"], row["original_file_name"]):
            assert (data / name).read_bytes() == (run / name).read_bytes()

    pytest.importorskip("torchcodec", reason="datasets lists a folder of audio only where torchcodec and torch are")
    import datasets

    listed = read_data_set(tmp_path, "audiofolder", data_dir=str(data))
    assert set(listed.column_names) >= {"audio", "original", "z", "z_true", "snr_db"}
    for name in ("audio", "original"):
        listed = listed.cast_column(name, datasets.Audio(decode=False))
    for row in listed:
        result = results[row["source"]]
        assert row["audio"]["path"].endswith(result["reconstruction"])
        assert row["original"]["path"].endswith(result["original"])


def read_data_set(folder, *given, **options):
    import datasets

    return datasets.load_dataset(*given, cache_dir=str(folder / "cache"), split="train", **options)
