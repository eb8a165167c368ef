"""Files that others made: no code of theirs runs unless it is trusted, and damage is one clear line.

The fuzzed loaders: bytes made by hypothesis, and real files with flipped bits, cut off or with bytes put in. Each case
ends in a result or in a `UserError` of one line, within 5 s, and writes nothing.
"""

import io
import json
import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.classifier import Classifier, load_classifier
from models.encoder import Encoder, load_encoder
from models.generator import load_generator
from tests.wavegan_checkpoints import build
from utils.audio import datasets
from utils.audio.files import load_clip
from utils.errors import UserError
from utils.inversion.latents import Latents, load_latents, save_latents
from utils.inversion.store import Record, ResultStore
from utils.runs.files import read_json, read_jsonl


def test_a_factory_is_not_even_imported(tmp_path, monkeypatch, run_main):
    (tmp_path / "with_a_trace.py").write_text(
        f"from tests.tiny import generator\nopen({str(tmp_path / 'ran')!r}, 'w').close()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    refused = run_main("generate.py", "--generator", "with_a_trace:generator", "--n", 1, "--output", tmp_path / "out")
    assert refused.returncode == 2 and "a factory is Python code, which is run only with --trust" in refused.stderr
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()
    done = run_main(
        *("generate.py", "--generator", "with_a_trace:generator", "--trust", "--n", 1, "--output", tmp_path / "out")
    )
    assert done.returncode == 0 and (tmp_path / "ran").exists()


def test_a_lambda_layer_runs_only_when_trusted(tmp_path, monkeypatch):
    scale = keras.layers.Lambda(lambda z: (__import__("os").environ.update(RAN="1"), z * 0.5)[1], output_shape=(8,))
    keras.Sequential([keras.Input((8,)), scale]).save(tmp_path / "g.keras")
    monkeypatch.setenv("RAN", "")
    for load in (load_generator, load_encoder):
        with pytest.raises(UserError, match="g.keras: holds Python code .a Lambda layer., .* only with --trust"):
            load(tmp_path / "g.keras")
    assert os.environ["RAN"] == ""
    assert load_generator(tmp_path / "g.keras", trust=True).num_samples == 8
    assert os.environ["RAN"] == "1"


@pytest.mark.parametrize("module", ["os", "subprocess", "tests.tiny", "keras.src.utils.file_utils"])
def test_a_keras_file_names_no_other_class(tmp_path, module):
    """What deserialization would import (CVE-2024-3660, CVE-2025-1550) Keras refuses; this holds it to that."""
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)]).save(tmp_path / "g.keras")
    with zipfile.ZipFile(tmp_path / "g.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    layer = {"module": module, "class_name": "function", "config": "system", "registered_name": "system"}
    config["config"]["layers"].append(layer)
    parts["config.json"] = json.dumps(config)
    with zipfile.ZipFile(tmp_path / "g.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="g.keras: not a readable .keras file"):
        load_generator(tmp_path / "g.keras")


class Writes(tf.Module):
    """A generator whose graph writes a file."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = str(path)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    def __call__(self, z):
        with tf.control_dependencies([tf.io.write_file(self.path, "ran")]):
            return tf.identity(tf.tile(z, [1, 4]))


def test_a_graph_that_writes_files_runs_only_when_trusted(tmp_path):
    ran, model = tmp_path / "ran", Writes(tmp_path / "ran")
    tf.saved_model.save(model, str(tmp_path / "m"))
    frozen = model.__call__.get_concrete_function().graph.as_graph_def()
    frozen.node.add(name="G_z", op="Identity", input=["Identity"]).attr["T"].type = tf.float32.as_datatype_enum
    tf.io.write_graph(frozen, str(tmp_path), "g.pb", as_text=False)
    for path in (tmp_path / "m", tmp_path / "g.pb"):
        with pytest.raises(
            UserError, match="may reach outside of TensorFlow, WriteFile; they are run only with --trust"
        ):
            load_generator(path)
    assert not ran.exists()
    assert load_generator(tmp_path / "m", trust=True).num_samples == 16
    assert ran.exists()


OUTSIDE = {
    "ReadFile": lambda z: z + tf.strings.to_number(tf.io.read_file("/etc/hostname")),
    "MatchingFiles": lambda z: z + tf.cast(tf.size(tf.io.matching_files("/*")), tf.float32),
    "EagerPyFunc": lambda z: tf.py_function(lambda z: z, [z], tf.float32),
    "PyFunc": lambda z: tf.numpy_function(lambda z: z, [z], tf.float32),
    "PyFuncStateless": lambda z: tf.numpy_function(lambda z: z, [z], tf.float32, stateful=False),
}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("inside_a_function", [False, True])
def test_operations_that_reach_outside_are_refused(tmp_path, name, inside_a_function):
    change = tf.function(OUTSIDE[name], autograph=False) if inside_a_function else OUTSIDE[name]
    with tf.Graph().as_default() as graph:
        z = tf.compat.v1.placeholder(tf.float32, [None, 4], name="z")
        tf.identity(change(z), name="G_z")
    (tmp_path / "g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(UserError, match=f"g.pb: .* may reach outside of TensorFlow, {name}[;,] .* only with --trust"):
        load_generator(tmp_path / "g.pb")


@pytest.mark.slow
def test_layers_and_signals_are_trusted(tmp_path):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(64, "gelu"),
            layers.Reshape((8, 8)),
            layers.GRU(8, return_sequences=True),
            layers.BatchNormalization(),
            layers.Conv1DTranspose(8, 5, 4, padding="same"),
            layers.LayerNormalization(),
            layers.LeakyReLU(),
            layers.UpSampling1D(2),
            layers.Dropout(0.1),
            layers.Conv1D(4, 3, padding="same", activation="tanh"),
        ]
    )

    class Sound(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)], autograph=False)
        def __call__(self, z):
            spectra = tf.signal.stft(tf.reduce_mean(model(z), -1), 32, 8)
            _, spectra = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x * 0.9), [0, spectra])
            return tf.clip_by_value(tf.signal.inverse_stft(spectra, 32, 8), -1, 1)

    sound = Sound()
    sound.model = model
    tf.saved_model.save(sound, str(tmp_path / "m"))
    assert load_generator(tmp_path / "m").num_samples == 64


def test_a_checkpoint_whose_restoring_writes_files_is_refused(tmp_path):
    ran = tmp_path / "ran"
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        z = tf.compat.v1.placeholder(tf.float32, [None, 4], "z")
        weight = tf.compat.v1.get_variable("w", [4, 16])
        tf.identity(z @ weight, name="G_z")
        saver = tf.compat.v1.train.Saver()
        session.run(tf.compat.v1.global_variables_initializer())
        saver.save(session, str(tmp_path / "t/model.ckpt"), 1, write_meta_graph=False)
        restore = graph.get_operation_by_name(saver.as_saver_def().restore_op_name)
        restore._add_control_input(tf.io.write_file(str(ran), "ran"))
        tf.compat.v1.train.export_meta_graph(str(tmp_path / "t/infer.meta"), saver_def=saver.as_saver_def())
    with pytest.raises(UserError, match="infer.meta: .* WriteFile; they are run only with --trust"):
        load_generator(tmp_path / "t")
    assert not ran.exists()
    assert load_generator(tmp_path / "t", trust=True).num_samples == 16
    assert ran.exists()


# ---- fuzzing

SECONDS = 5
SOUNDS = ("wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64", "rf64")


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """A file with flipped bits, bytes put in, or its end cut off; or bytes that are no such file at all."""

    @st.composite
    def changed(draw) -> bytes:
        result = bytearray(content)
        # Half of the places lie in the first 512 bytes and the last 512, where headers and directories are.
        edges = st.sampled_from([*range(min(512, len(content))), *range(max(0, len(content) - 512), len(content))])
        place = edges | st.integers(0, len(content) - 1)
        kind = draw(st.sampled_from(["flip", "flip", "flip", "cut", "insert", "overwrite"]))
        if kind == "cut":
            return bytes(result[: draw(place)])
        for at in draw(st.lists(place, min_size=1, max_size=8)):
            if kind == "flip":
                result[at] ^= 1 << draw(st.integers(0, 7))
            elif kind == "overwrite":
                result[at : at + 4] = draw(
                    st.sampled_from([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"])
                )
            else:
                result[at:at] = draw(st.binary(min_size=1, max_size=16))
        return bytes(result)

    return changed() | st.binary(max_size=300)


def check(load, path: Path, content: bytes) -> None:
    """Writes the file, loads it, and holds the loader to a result or one clear line, in time, with nothing written."""
    path.write_bytes(content)
    before = {other: other.stat().st_mtime_ns for other in path.parent.rglob("*")}
    started_at = time.process_time()  # the processor's: other work on the machine is no hang
    try:
        load(path)
    except UserError as error:
        message = str(error)
        assert path.name in message or path.parent.name in message, message
        assert len(message) < 1000, message
    assert time.process_time() - started_at < SECONDS
    assert {other: other.stat().st_mtime_ns for other in path.parent.rglob("*")} == before


def zipped(parts: dict[str, bytes]) -> bytes:
    """An archive whose checksums are right, so that a reader gets as far as the damaged part."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def unzipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def part_damaged(path: Path) -> st.SearchStrategy[bytes]:
    """An archive with one damaged part, or itself damaged."""
    parts = unzipped(path)
    inside = [damaged(parts[name]).map(lambda content, name=name: zipped(parts | {name: content})) for name in parts]
    return st.one_of(*inside, damaged(path.read_bytes()))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
DESCRIPTIONS = st.dictionaries(st.sampled_from(["sample_rate", "prior", "x"]), JSON_VALUES, max_size=3) | JSON_VALUES


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """One real file of each kind."""
    folder = tmp_path_factory.mktemp("real")
    tone = 0.5 * np.sin(np.arange(2000) / 10)
    for suffix in SOUNDS:
        soundfile.write(folder / f"a.{suffix}", tone, 16000)
        (folder / f"joined.{suffix}").write_bytes(2 * (folder / f"a.{suffix}").read_bytes())
    if shutil.which("ffmpeg"):
        subprocess.run(["ffmpeg", "-v", "error", "-i", folder / "a.wav", folder / "a.m4a"], check=True)
    else:
        (folder / "a.m4a").write_bytes(bytes(1000))
    for digit in ("zero", "one"):
        for take in range(4):
            (folder / "speech" / digit).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / "speech" / digit / f"ab_nohash_{take}.wav", tone[:64], 16000)
    names = [f"{digit}/ab_nohash_{take}.wav" for digit in ("zero", "one") for take in range(2)]
    (folder / "speech" / "validation_list.txt").write_text("\n".join(names))
    z = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    save_latents(folder / "latents.npz", Latents(z, "abc", "hybrid", 0, options={"a": 1}, status=np.array(["x", "y"])))
    ResultStore(folder).write("record", {"k": 1}, Record({"a": 1}, {"z": z}))
    (folder / "options.json").write_text(json.dumps({"a": [1, 2.5, None], "b": {"c": "text"}}))
    (folder / "results.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(16)]).save(folder / "g.keras")
    keras.utils.set_random_seed(0)
    shape = {"width": 1, "num_samples": 512, "sample_rate": 8000}
    Encoder(latent_dim=3, **shape).save(folder / "encoder.keras")
    Classifier(architecture="mel_cnn", class_names=("a", "b"), **shape | {"width": 2}).save(folder / "classifier.keras")
    build(folder / "tf1")
    return folder


def load_audio(path: Path) -> None:
    for window in ("start", "loudest", "all"):
        load_clip(path, 1024, 1, 16000, window)


def load_listed(path: Path) -> None:
    """Every clip is in one split, or the list is refused."""
    splits = [datasets._scan(path.parent, split)[1] for split in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 8


def load_described(path: Path) -> None:
    load_generator(path.with_suffix(".keras"))


def of_folder(name: str):
    """A TF1 folder one file of which is damaged."""
    return f"tf1/{name}", lambda path: load_generator(path.parent)


# kind: file, what loads it, cases of the slow suite. Networks take 50 ms to 300 ms a case, the rest less than one.
LOADERS = {
    **{suffix: (f"a.{suffix}", load_audio, 300) for suffix in SOUNDS},
    **{f"joined {suffix}": (f"joined.{suffix}", load_audio, 60) for suffix in SOUNDS},
    "m4a": ("a.m4a", load_audio, 20),
    "list": ("speech/validation_list.txt", load_listed, 300),
    "latents": ("latents.npz", load_latents, 2000),
    "record": ("record.npz", lambda path: ResultStore(path.parent).read("record", {"k": 1}), 1000),
    "json": ("options.json", read_json, 1000),
    "jsonl": ("results.jsonl", read_jsonl, 1000),
    "description": ("g.json", load_described, 200),
    "generator": ("g.keras", load_generator, 500),
    "encoder": ("encoder.keras", load_encoder, 250),
    "classifier": ("classifier.keras", load_classifier, 250),
    "graph": (*of_folder("infer.meta"), 200),
    "index": (*of_folder("model.ckpt.index"), 200),
    "weights": (*of_folder("model.ckpt.data-00000-of-00001"), 100),
    "state": (*of_folder("checkpoint"), 100),
}


def fuzz(kind: str, real: Path, folder: Path, cases: int) -> None:
    name, load, _ = LOADERS[kind]
    shutil.copytree(real, folder, dirs_exist_ok=True)
    if kind == "description":
        contents = DESCRIPTIONS.map(lambda value: json.dumps(value).encode()) | damaged(b'{"sample_rate": 8000}')
    elif name.endswith((".npz", ".keras")):
        contents = part_damaged(real / name)
    else:
        contents = damaged((real / name).read_bytes())

    @settings(max_examples=cases, suppress_health_check=list(HealthCheck))
    @given(contents)
    def run(content):
        nonlocal seen
        check(load, folder / name, content)
        seen += 1

    seen = 0
    run()
    assert seen >= cases


@pytest.mark.parametrize("kind", LOADERS)
def test_damage_is_one_clear_line(real, tmp_path, kind):
    fuzz(kind, real, tmp_path, max(3, LOADERS[kind][2] // 100))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
def test_much_damage_is_one_clear_line_each(real, tmp_path, kind):
    fuzz(kind, real, tmp_path, LOADERS[kind][2])


def test_the_slow_suite_has_ten_thousand_cases():
    assert sum(cases for _, _, cases in LOADERS.values()) >= 10_000
