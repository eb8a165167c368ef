"""The encoder network and its file."""

import keras
import numpy as np
import pytest

from models.encoder import Encoder, load_encoder
from utils.options import UserError

TINY = {"latent_dim": 5, "width": 4, "num_samples": 2048, "num_channels": 2, "sample_rate": 8000}


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
    half = exact.with_precision("mixed_bfloat16")
    found, expected = half(clips, training=False), exact(clips, training=False)
    assert found.dtype == "float32" and not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    np.testing.assert_array_equal(half.with_precision("float32")(clips, training=False), expected)


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
