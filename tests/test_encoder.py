"""The encoder network and its file."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.encoder import Encoder, encoder_from, load_encoder
from models.resnet import BatchNormalization
from utils.domains import DOMAINS, REAL, SYNTHETIC
from utils.errors import UserError

TINY = {"latent_dim": 5, "width": 4, "num_samples": 2048, "num_channels": 2, "sample_rate": 8000}


def normalizations(encoder):
    return [layer for layer in encoder.network.layers if isinstance(layer, BatchNormalization)]


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(0).uniform(-1, 1, (3, 2048, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    return Encoder(**TINY, alignment="paper", generator="abc")


def test_shape_and_box(encoder, clips):
    z = encoder(clips, training=False).numpy()
    assert z.shape == (3, 5) and z.dtype == np.float32
    encoder.network.get_layer("latent").kernel.assign(np.full((32, 5), 1e3))
    z = encoder(clips, training=False).numpy()
    assert np.abs(z).max() <= 1 and np.abs(z).max() > 0.99


def test_the_papers_output_is_linear_and_its_image_is_stacked():
    paper = Encoder(**TINY, front_end="stft_real", bounded=False)
    latent = paper.network.get_layer("latent")
    latent.bias.assign(np.full(5, 3.0))
    assert np.allclose(paper(np.zeros((1, 2048, 2), np.float32), training=False), 3.0, atol=1e-3)
    assert paper.network.get_layer("stem_conv").kernel.shape == (7, 7, 3 * 2, 4)
    aligned = Encoder(**TINY)
    assert aligned.network.get_layer("stem_conv").kernel.shape == (7, 7, 2, 4)


def test_full_width_is_the_papers_resnet():
    network = Encoder(latent_dim=100, front_end="stft_real", bounded=False).network
    assert network.get_layer("stage4_block2").output.shape == (None, 4, 5, 512)
    assert 11.1e6 < network.count_params() < 11.4e6


@pytest.mark.parametrize("as_folder", [True, False])
def test_the_file_holds_everything(encoder, clips, tmp_path, as_folder):
    encoder.save(tmp_path / "encoder.keras")
    read = load_encoder(tmp_path if as_folder else tmp_path / "encoder.keras")
    assert read.options == encoder.options and read.options["alignment"] == "paper"
    np.testing.assert_array_equal(read(clips, training=False), encoder(clips, training=False))


def test_other_precision_same_weights(clips):
    # The untrained output lies near 0; in bfloat16 eight bits of it must remain.
    exact = Encoder(**TINY)
    half = exact.with_options(precision="mixed_bfloat16")
    found, expected = half(clips, training=False), exact(clips, training=False)
    assert found.dtype == "float32" and not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    np.testing.assert_array_equal(half.with_options(precision="float32")(clips, training=False), expected)


def test_a_highway_is_kept_with_its_architecture(clips, tmp_path):
    facts = {name: TINY[name] for name in ("latent_dim", "num_samples", "num_channels", "sample_rate")}
    highway = Encoder(**facts, architecture="highway", generator="abc")
    highway.save(tmp_path / "encoder.keras")
    z = load_encoder(tmp_path)(clips, training=False).numpy()
    np.testing.assert_array_equal(z, highway(clips, training=False))
    assert 0 < np.abs(z).max() < 1
    options = {**TINY, "bounded": True, "generator": "def", "precision": "mixed_bfloat16"}
    taken = encoder_from(tmp_path, options, flag="--init_from")
    assert {"architecture": "highway", **options}.items() <= taken.options.items()
    np.testing.assert_allclose(taken(clips, training=False), z, atol=0.05 * np.abs(z).max())
    with pytest.raises(UserError, match="--init_from .*latent_dim 9. Received: 5"):
        encoder_from(tmp_path, {**options, "latent_dim": 9}, flag="--init_from")


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match="architecture must be .* Received: 'unet'"):
        Encoder(**TINY, architecture="unet")


@pytest.mark.parametrize("synchronized", [False, True])
def test_each_domain_has_its_own_moving_statistics(clips, tmp_path, synchronized):
    keras.utils.set_random_seed(0)
    encoder = Encoder(**TINY, domain_statistics=True)
    for layer in normalizations(encoder):
        layer.synchronized = synchronized

    def statistics(domain):
        return [[variable.numpy() for variable in layer.moving_statistics(domain)] for layer in normalizations(encoder)]

    before = {domain: statistics(domain) for domain in DOMAINS}
    encoder(clips, training=True, domain=SYNTHETIC)
    tf.nest.map_structure(np.testing.assert_array_equal, statistics(REAL), before[REAL])
    for old, new in zip(before[SYNTHETIC], statistics(SYNTHETIC), strict=True):
        assert all(not np.array_equal(*pair) for pair in zip(old, new, strict=True))
    encoder(0.1 * clips, training=True, domain=REAL)
    for layer in normalizations(encoder):
        layer.synchronized = False

    encoder.save(tmp_path / "encoder.keras")
    read = load_encoder(tmp_path)
    answers = {domain: read(clips, training=False, domain=domain).numpy() for domain in DOMAINS}
    assert not np.allclose(answers[REAL], answers[SYNTHETIC])
    np.testing.assert_array_equal(read(clips, training=False), answers[REAL])
    for domain in DOMAINS:  # as a network of one set of statistics, these, answers
        plain = Encoder(**TINY)
        for ours, theirs in zip(plain.network.layers, read.network.layers, strict=True):
            ours.set_weights(theirs.get_weights()[: len(ours.weights)])
        for ours, theirs in zip(normalizations(plain), normalizations(read), strict=True):
            for variable, value in zip(ours.moving_statistics(), theirs.moving_statistics(domain), strict=True):
                variable.assign(value)
        np.testing.assert_allclose(plain(clips, training=False), answers[domain], atol=1e-6)
    with pytest.raises(ValueError, match="domain must be one of real, synthetic. Received: 'birds'"):
        read(clips, training=False, domain="birds")


def test_mixed_statistics_serve_either_domain(encoder, clips):
    """As in files that were written before domains were told apart: their options do not name the choice."""
    config = encoder.get_config()
    assert config.pop("domain_statistics") is False
    old = Encoder.from_config(config)
    old.set_weights(encoder.get_weights())
    expected = encoder(clips, training=False)
    apart = old.with_options(domain_statistics=True)
    for domain in DOMAINS:
        for network in (old, apart):
            np.testing.assert_array_equal(network(clips, training=False, domain=domain), expected)
    apart(clips, training=True, domain=SYNTHETIC)
    mixed_again = apart.with_options(domain_statistics=False)
    np.testing.assert_array_equal(mixed_again(clips, training=False), expected)


def test_what_is_no_encoder_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no such encoder"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.keras").write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="not a readable .keras file"):
        load_encoder(tmp_path)


def test_any_keras_model_is_read_by_name_or_alone_in_a_folder(tmp_path):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save(tmp_path / "mine.keras")
    for path in (tmp_path, tmp_path / "mine.keras"):
        found = load_encoder(path)
        np.testing.assert_array_equal(found(np.ones((1, 3))), other(np.ones((1, 3))))
    other.save(tmp_path / "last.keras")
    with pytest.raises(UserError, match="encoder.keras: no such encoder; train.py"):
        load_encoder(tmp_path)
    Encoder(**TINY).save(tmp_path / "encoder.keras")
    assert isinstance(load_encoder(tmp_path), Encoder)
