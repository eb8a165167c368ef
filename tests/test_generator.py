"""models/tf1.py and models/generator.py: every kind of generator file; native and frozen held together."""

import importlib
import json
import shutil
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from wavegan_checkpoints import build

from models import tf1
from models.generator import Generator, load_generator
from models.wavegan import POST_FILTER, Architecture, WaveGANGenerator, initial_weights
from utils.errors import UserError

VARIANTS = {
    "plain": dict(),
    "kernel 9, dim 2": dict(kernel_len=9, dim=2),
    "even kernel": dict(kernel_len=24),
    "32768, stereo": dict(num_samples=32768, channels=2),
    "65536": dict(num_samples=65536, kernel_len=9),
    "post filter": dict(post_filter=512),
    "stereo post filter": dict(post_filter=7, channels=2, dim=2),
    "batch norm": dict(batch_norm="before", dim=2),
    "nearest": dict(upsample="nn"),
    "nearest, batch norm, 32768": dict(upsample="nn", batch_norm="before", num_samples=32768, kernel_len=9),
    "other variables, latent 17": dict(extra_variables=True, latent_dim=17),
}


def frozen(folder, latent_dim=5):
    graph_path, prefix = tf1.find_checkpoint(folder)
    with tf1.restored(graph_path, prefix) as graph:
        function, found = tf1.as_function(graph.freeze(), graph_path)
    assert found == latent_dim
    return function


def value_and_gradient(function, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        audio = function(z)
        loss = tf.reduce_sum(audio * tf.sin(tf.range(audio.shape[1], dtype=tf.float32))[:, None])
    return audio, tape.gradient(loss, z)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tf1") / "plain")


FAST_VARIANTS = {"plain", "even kernel", "32768, stereo", "stereo post filter", "nearest"}


@pytest.mark.parametrize(
    "name", [name if name in FAST_VARIANTS else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_native_network_equals_the_frozen_graph_with_its_gradient(tmp_path, name):
    options = VARIANTS[name]
    folder = build(tmp_path, **options)
    generator = load_generator(folder)
    assert isinstance(generator.network, WaveGANGenerator), generator.notes
    assert "native WaveGAN, equal to its graph within" in generator.notes[0]
    assert generator.latent_dim == options.get("latent_dim", 5)
    assert generator.num_samples == options.get("num_samples", 16384)
    assert generator.num_channels == options.get("channels", 1)
    assert (generator.sample_rate, generator.prior) == (16000, "uniform")
    z = tf.constant(generator.sample_prior(1, 3))
    audio, gradient = value_and_gradient(generator, z)
    expected, expected_gradient = value_and_gradient(frozen(folder, generator.latent_dim), z)
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(audio, expected, atol=2e-5)
    scale = np.abs(expected_gradient).max()
    assert scale > 0.1
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-3 * scale)


def test_batch_norm_after_the_relu_falls_back_to_the_frozen_graph(tmp_path):
    folder = build(tmp_path, batch_norm="after")
    generator = load_generator(folder)
    assert generator.network is None
    assert "differs from its graph by" in generator.notes[0]
    assert "the frozen graph is used" in generator.notes[0]
    z = tf.constant(generator.sample_prior(1, 2))
    np.testing.assert_array_equal(generator(z), frozen(folder)(z))


def save_other_graph(folder, z_name="z", audio_name="G_z", length=48):
    """A TF1 checkpoint that is no WaveGAN: audio [B, T] of unknown static length."""
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        z = v1.placeholder(tf.float32, [None, 3], name=z_name)
        kernel = v1.get_variable("other/kernel", [3, length], initializer=v1.ones_initializer())
        audio = tf.tanh(tf.matmul(z, kernel))
        tf.identity(v1.placeholder_with_default(audio, [None, None]), name=audio_name)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(folder / "other.ckpt-7"), write_meta_graph=False)
        v1.train.export_meta_graph(str(folder / "infer.meta"))
    return folder


def test_any_other_tf1_graph_runs_frozen(tmp_path):
    generator = load_generator(save_other_graph(tmp_path))
    assert (generator.latent_dim, generator.num_samples, generator.num_channels) == (3, 48, 1)
    assert "not a WaveGAN's" in generator.notes[0]
    z = np.array([[0.1, 0.2, 0.3]], np.float32)
    np.testing.assert_allclose(generator(z), np.full((1, 48, 1), np.tanh(0.6)), rtol=1e-5)
    with pytest.raises(UserError, match=r"no tensor 'z:0' .*placeholders are latent.* give a SavedModel or a factory"):
        load_generator(save_other_graph(tmp_path, z_name="latent"))
    with pytest.raises(UserError, match="no tensor 'G_z:0' "):
        load_generator(save_other_graph(tmp_path, audio_name="out"))


def test_float32_has_all_its_bits():
    """Also on a GPU, whose matrix products TensorFlow else computes in TF32."""
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_mixed_bfloat16_is_native_and_near(plain):
    exact, mixed = load_generator(plain), load_generator(plain, "mixed_bfloat16")
    assert mixed.network.compute_dtype == tf.bfloat16
    assert mixed.fingerprint == exact.fingerprint
    z = exact.sample_prior(0, 2)
    assert 0 < np.abs(mixed(z) - exact(z)).mean() < 0.02


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(upsample="nn", kernel_len=9),
        dict(num_samples=32768, num_channels=2),
        dict(num_samples=65536),
    ],
)
def test_written_folders_read_back_like_the_official_ones(tmp_path, options):
    architecture = Architecture(latent_dim=6, dim=1, **options)
    weights = {name: 3 * value for name, value in initial_weights(architecture, 0).items()}
    channels = architecture.num_channels
    weights[POST_FILTER] = np.random.default_rng(0).normal(size=(9, channels, channels)).astype(np.float32)
    for name in ("a", "b"):
        tf1.write_tf1(tmp_path / name, weights, architecture, 1234, sample_rate=22050, prior="normal")
    names = [
        "checkpoint",
        "generator.json",
        "infer.meta",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
    ]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    generator = load_generator(tmp_path / "a")
    assert (generator.sample_rate, generator.prior) == (22050, "normal")
    assert load_generator(tmp_path / "a", sample_rate=8000, prior="uniform").sample_rate == 8000
    reader = tf.train.load_checkpoint(str(tmp_path / "a" / "model.ckpt"))
    assert reader.get_tensor("global_step") == 1234
    for name, value in weights.items():
        np.testing.assert_array_equal(reader.get_tensor(name), value)
    z = generator.sample_prior(0, 2)
    expected = WaveGANGenerator(architecture, weights)(tf.constant(z))
    np.testing.assert_array_equal(generator(z), expected)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        saver = tf.compat.v1.train.import_meta_graph(str(tmp_path / "a" / "infer.meta"))
        saver.restore(session, str(tmp_path / "a" / "model.ckpt"))
        audio, int16 = session.run(["G_z:0", "G_z_int16:0"], {"z:0": z})
        np.testing.assert_allclose(audio, expected, atol=1e-4)
        np.testing.assert_array_equal(int16, np.clip(audio * 32767, -32767, 32767).astype(np.int16))
        assert session.run("samp_z:0", {"samp_z_n:0": 3}).shape == (3, 6)
        assert graph.get_tensor_by_name("z:0").shape.as_list() == [None, 6]


def test_weights_stored_in_half_precision(tmp_path):
    architecture = Architecture(latent_dim=6, dim=2)
    weights = {name: 3 * value.astype(np.float16) for name, value in initial_weights(architecture, 0).items()}
    full = {name: value.astype(np.float32) for name, value in weights.items()}
    tf1.write_tf1(tmp_path / "half", weights, architecture)
    tf1.write_tf1(tmp_path / "full", full, architecture)
    half_size, full_size = (
        (tmp_path / name / "model.ckpt.data-00000-of-00001").stat().st_size for name in ("half", "full")
    )
    assert half_size < 0.51 * full_size
    half = load_generator(tmp_path / "half")
    z = half.sample_prior(0, 2)
    np.testing.assert_array_equal(half(z), load_generator(tmp_path / "full")(z))
    np.testing.assert_allclose(frozen(tmp_path / "half", 6)(tf.constant(z)), half(z), atol=1e-4)


def test_frozen_graph_file(tmp_path, plain):
    with tf1.restored(*tf1.find_checkpoint(plain)) as graph:
        graph_def = graph.freeze()
    path = tmp_path / "g.pb"
    path.write_bytes(graph_def.SerializeToString())
    (tmp_path / "g.json").write_text('{"sample_rate": 44100}')
    generator = load_generator(path, "mixed_bfloat16")
    z = generator.sample_prior(0, 2)
    np.testing.assert_array_equal(generator(z), frozen(plain)(tf.constant(z)))
    assert generator.sample_rate == 44100
    assert "not in mixed_bfloat16" in generator.notes[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="g.pb: damaged, or no frozen graph"):
        load_generator(path)
    unfrozen = tf.compat.v1.MetaGraphDef.FromString((plain / "infer.meta").read_bytes()).graph_def
    path.write_bytes(unfrozen.SerializeToString())
    with pytest.raises(UserError, match="its variables have no values"):
        load_generator(path)


class Toy(tf.Module):
    """z [B, 4] -> audio [B, 32, 2]."""

    def __init__(self):
        self.kernel = tf.Variable(np.random.default_rng(0).normal(size=(4, 64)), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    def __call__(self, z):
        return tf.reshape(tf.tanh(z @ self.kernel), [-1, 32, 2])


@pytest.mark.parametrize("signature", [True, False])
def test_saved_model(tmp_path, signature):
    toy = Toy()
    tf.saved_model.save(toy, str(tmp_path / "m"), signatures=toy.__call__ if signature else None)
    generator = load_generator(tmp_path / "m")
    z = tf.constant(generator.sample_prior(0, 3))
    audio, gradient = value_and_gradient(tf.function(generator), z)
    expected, expected_gradient = value_and_gradient(toy, z)
    np.testing.assert_allclose(audio, expected, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
    first = generator.fingerprint
    toy.kernel.assign(toy.kernel * 2)
    tf.saved_model.save(toy, str(tmp_path / "n"), signatures=toy.__call__ if signature else None)
    assert load_generator(tmp_path / "n").fingerprint != first
    data = next((tmp_path / "m" / "variables").glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:10])
    with pytest.raises(UserError, match="damaged, or no SavedModel"):
        load_generator(tmp_path / "m")


def test_keras_file(tmp_path):
    model = keras.Sequential(
        [keras.Input((7,)), keras.layers.Dense(60, activation="tanh"), keras.layers.Reshape((20, 3))]
    )
    path = tmp_path / "g.keras"
    model.save(path)
    generator = load_generator(path, sample_rate=24000, prior="normal")
    assert (generator.latent_dim, generator.num_samples, generator.num_channels) == (7, 20, 3)
    z = generator.sample_prior(0, 4)
    np.testing.assert_allclose(tf.function(generator)(tf.constant(z)), model(z), atol=1e-6)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="g.keras: not a readable .keras file"):
        load_generator(path)


FACTORY = """
import tensorflow as tf

class G:
    latent_dim, num_samples, num_channels, sample_rate, prior = 2, 8, 1, 8000, "normal"
    def __call__(self, z):
        return tf.sin(tf.tile(z[:, :1], [1, self.length]))
    length = 8

def good(): return G()
def raises(): raise OSError("weights are away")
def without_rate(): g = G(); g.sample_rate = None; return g
def wrong_length(): g = G(); g.length = 9; return g
def wrong_prior(): g = G(); g.prior = "box"; return g
def constant():
    g = G()
    class C(G):
        def __call__(self, z): return tf.zeros([tf.shape(z)[0], 8])
    return C()
def not_finite():
    class C(G):
        def __call__(self, z): return tf.math.log(-tf.square(tf.tile(z[:, :1], [1, 8])))
    return C()
def wrong_rank():
    class C(G):
        def __call__(self, z): return z[:, 0]
    return C()
def fails():
    class C(G):
        def __call__(self, z): return tf.matmul(z, tf.zeros([3, 3]))
    return C()
def not_callable():
    import types
    return types.SimpleNamespace(**{n: getattr(G, n) for n in
        ("latent_dim", "num_samples", "num_channels", "sample_rate", "prior")})
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "factories_for_test.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    return "factories_for_test"


def test_factory(factories):
    generator = load_generator(f"{factories}:good", trust=True)
    assert (generator.latent_dim, generator.num_samples, generator.num_channels) == (2, 8, 1)
    assert (generator.sample_rate, generator.prior) == (8000, "normal")
    assert generator(np.zeros((5, 2), np.float32)).shape == (5, 8, 1)
    assert load_generator(f"{factories}:good", trust=True).fingerprint == generator.fingerprint
    assert load_generator(f"{factories}:without_rate", sample_rate=11025, trust=True).sample_rate == 11025


@pytest.mark.parametrize(
    "factory, message",
    [
        ("raises", "OSError: weights are away"),
        ("absent", "factories_for_test.py has no absent"),
        ("without_rate", "without sample_rate"),
        ("wrong_length", r"says num_samples, num_channels = \(8, 1\); its audio has \(9, 1\)"),
        ("wrong_prior", "prior must be one of uniform, normal. Received: 'box'"),
        ("constant", "not differentiable in z, or does not depend on it"),
        ("not_finite", "NaN or infinite"),
        ("wrong_rank", r"must give audio \[B, T, C\] or \[B, T\]"),
        (
            "fails",
            r"of any batch size B; it fails at B = 1, 2, 3: .*Error: Matrix size-incompatible: In.0.: .1,2.",
        ),
        ("not_callable", "not callable"),
    ],
)
def test_factories_that_break_the_contract(factories, factory, message):
    with pytest.raises(UserError, match=message):
        load_generator(f"{factories}:{factory}", trust=True)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder; a generator is a TF1 folder"):
        load_generator(tmp_path / "nowhere")
    with pytest.raises(UserError, match="xxx: no such file or folder"):
        load_generator(tmp_path / ("x" * 300))
    with pytest.raises(UserError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        load_generator("no_such_module:make", trust=True)
    with pytest.raises(UserError, match=r"looked for infer.meta .*; found an empty folder"):
        load_generator(tmp_path)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(UserError, match=r"looked for infer.meta .*; found weights.bin"):
        load_generator(tmp_path)
    with pytest.raises(UserError, match="found a file with suffix '.bin'"):
        load_generator(tmp_path / "weights.bin")


def copy(folder, target):
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


@pytest.mark.parametrize("file", ["infer.meta", "model.ckpt.index", "model.ckpt.data-00000-of-00001"])
@pytest.mark.parametrize("keep", [0, 0.5, None])
def test_damaged_tf1_folders_end_in_one_clear_line(tmp_path, plain, file, keep):
    folder = copy(plain, tmp_path / "g")
    if keep is None:
        (folder / file).unlink()
    else:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError) as caught:
        load_generator(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "found" in message if keep is None else "damaged" in message
    assert str(folder) in message


def test_flipped_bits_in_the_weights_are_noticed(tmp_path, plain):
    folder = copy(plain, tmp_path / "g")
    file = folder / "model.ckpt.data-00000-of-00001"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        load_generator(folder)


def test_which_checkpoint_is_chosen(tmp_path):
    (tmp_path / "sc09_infer.meta").touch()
    for name in ("sc09.ckpt", "model.ckpt-900", "model.ckpt-1000"):
        (tmp_path / f"{name}.index").touch()
        (tmp_path / f"{name}.data-00000-of-00001").touch()
    assert tf1.find_checkpoint(tmp_path) == (tmp_path / "sc09_infer.meta", tmp_path / "model.ckpt-1000")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/who/train/model.ckpt-900"\n')
    assert tf1.find_checkpoint(tmp_path)[1].name == "model.ckpt-900"
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "gone"\n')
    assert tf1.find_checkpoint(tmp_path)[1].name == "model.ckpt-1000"
    for path in tmp_path.glob("model.ckpt*"):
        path.unlink()
    assert tf1.find_checkpoint(tmp_path)[1].name == "sc09.ckpt"
    (tmp_path / "other.index").touch()
    with pytest.raises(UserError, match="no TF1 generator here"):
        tf1.find_checkpoint(tmp_path)


def test_the_published_layout(tmp_path):
    """train/infer/infer.meta beside train/model.ckpt-N, named by the folder, by infer or by a checkpoint's prefix."""
    build(tmp_path / "train")
    (tmp_path / "train/infer").mkdir()
    graph = (tmp_path / "train/infer.meta").rename(tmp_path / "train/infer/infer.meta")
    (tmp_path / "train/checkpoint").unlink()
    for suffix in ("index", "data-00000-of-00001"):
        shutil.copy(tmp_path / f"train/model.ckpt.{suffix}", tmp_path / f"train/model.ckpt-200.{suffix}")
        (tmp_path / f"train/model.ckpt.{suffix}").rename(tmp_path / f"train/model.ckpt-1000.{suffix}")
    for name, prefix in {
        "train": "model.ckpt-1000",
        "train/infer": "model.ckpt-1000",
        "train/model.ckpt-200": "model.ckpt-200",
        "train/model.ckpt-200.index": "model.ckpt-200",
    }.items():
        assert tf1.find_checkpoint(tmp_path / name) == (graph, tmp_path / "train" / prefix)
        (tmp_path / "train/generator.json").write_text('{"sample_rate": 8000}')
        if name != "train/infer":
            assert load_generator(tmp_path / name).sample_rate == 8000
    assert load_generator(tmp_path / "train/infer").network is not None
    with pytest.raises(UserError, match="--generator .*model.ckpt-300: no such file or folder"):
        load_generator(tmp_path / "train/model.ckpt-300")
    shutil.rmtree(tmp_path / "train/infer")
    with pytest.raises(UserError, match=r"looked for infer.meta \(also in infer/\)"):
        load_generator(tmp_path / "train/model.ckpt-200")


def test_a_wavegan_is_not_frozen(plain, monkeypatch):
    """Its weights would be held three times over."""

    def freeze(self):
        raise AssertionError

    monkeypatch.setattr(tf1.Restored, "freeze", freeze)
    assert load_generator(plain).network is not None


def test_a_factory_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "of_this_folder.py").write_text("from beside_it import make")
    (tmp_path / "beside_it.py").write_text(FACTORY + "def make():\n    import later_beside_it\n    return G()")
    (tmp_path / "later_beside_it.py").touch()
    with pytest.raises(UserError, match="No module named 'of_this_folder'"):
        load_generator("of_this_folder:make", trust=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    importlib.invalidate_caches()
    assert load_generator("of_this_folder:make", trust=True).num_samples == 8
    with pytest.raises(UserError, match=r"--generator utils:make: .*/utils/__init__.py has no make"):
        load_generator("utils:make", trust=True)


def test_description_must_be_sound(tmp_path, plain):
    folder = copy(plain, tmp_path / "g")
    for text, message in [
        ("{", "not a valid JSON"),
        ("[]", "must hold a JSON object"),
        (json.dumps({"prior": "box"}), "prior must be one of"),
        (json.dumps({"sample_rate": "16k"}), "sample_rate must be a whole number"),
    ]:
        (folder / "generator.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load_generator(folder)


@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_prior_samples_depend_on_seed_and_position_only(prior):
    generator = Generator(
        lambda z: tf.tanh(z @ tf.ones([50, 9])), latent_dim=50, sample_rate=1, prior=prior, name="toy"
    )
    z = generator.sample_prior(3, 400)
    assert z.dtype == np.float32 and z.shape == (400, 50)
    np.testing.assert_array_equal(generator.sample_prior(3, 5, start=17), z[17:22])
    assert generator.sample_prior(3, 0).shape == (0, 50)
    assert len(np.unique(np.concatenate([z, generator.sample_prior(4, 400)]), axis=0)) == 800
    std = 3**-0.5 if prior == "uniform" else 1
    assert abs(z.mean()) < 0.02 and abs(z.std() - std) < 0.02
    assert (np.abs(z).max() <= 1) == (prior == "uniform")
