"""utils/inversion/search.py and exactness.py, on a generator that can be inverted exactly."""

import numpy as np
import pytest
import tensorflow as tf

from models.generator import load_generator
from utils.inversion.bank import OFFSET, LatentBank
from utils.inversion.exactness import match, noise_floor
from utils.inversion.methods import Inverter, Recovery
from utils.inversion.search import ROUNDS, SEARCH_VERSION, LatentSearch
from utils.losses import parse_objective

OBJECTIVE = parse_objective("waveform=1")


@pytest.fixture(scope="module")
def tiny():
    return load_generator("tests.tiny:generator", trust=True)


@pytest.fixture(scope="module")
def search(tiny):
    return LatentSearch(tiny, bank_size=100)


def rounded(audio: np.ndarray, bits: int) -> np.ndarray:
    """As a PCM file of so many bits gives it back; 0 means float."""
    if not bits:
        return audio
    scale = 2.0 ** (bits - 1)
    return (np.clip(np.round(audio * scale), -scale, scale - 1) / scale).astype(np.float32)


def starts(tiny, z, restarts=3):
    """The last one near enough, the others anywhere."""
    others = tiny.sample_prior(9, len(z) * (restarts - 1)).reshape(len(z), restarts - 1, -1)
    return np.concatenate([others, np.clip(z + 0.05, -1, 1)[:, None]], axis=1).astype(np.float32)


def test_the_nearest_of_a_bank_sound_nearest(tiny):
    bank = LatentBank(tiny, 50)
    z = tiny.sample_prior(0, 50, OFFSET)
    targets = tiny(z[[7, 30]]).numpy()
    nearest = bank.nearest(targets, 4)
    assert nearest.shape == (2, 4, 6)
    np.testing.assert_array_equal(nearest[:, 0], z[[7, 30]])
    features = np.asarray(bank._describe(tiny(z)))
    distances = np.square(features - features[7]).sum(axis=1)
    np.testing.assert_array_equal(nearest[0], z[distances.argsort()[:4]])


def test_a_bank_is_kept_for_the_next_process(tiny, tmp_path, monkeypatch, capsys):
    folder, z = tmp_path / "cache", tiny.sample_prior(0, 50, OFFSET)
    targets = tiny(z[[7, 30]]).numpy()
    nearest = LatentBank(tiny, 50, folder).nearest(targets, 4)
    (file,) = folder.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(LatentBank, "_computed", lambda _: pytest.fail("computed again"))
        np.testing.assert_array_equal(LatentBank(tiny, 50, folder).nearest(targets, 4), nearest)
    file.write_bytes(file.read_bytes()[:-1])
    np.testing.assert_array_equal(LatentBank(tiny, 50, folder).nearest(targets, 4), nearest)
    assert f"{file}: computed again" in capsys.readouterr().err
    LatentBank(tiny, 20, folder).nearest(targets, 4)
    assert len(list(folder.iterdir())) == 2


def test_a_bank_that_cannot_be_kept_still_answers(tiny, tmp_path, capsys):
    folder = tmp_path / "cache"
    folder.write_text("a file")
    z = tiny.sample_prior(0, 50, OFFSET)
    np.testing.assert_array_equal(LatentBank(tiny, 50, folder).nearest(tiny(z[[7]]).numpy(), 1)[0], z[[7]])
    assert "not kept" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [0, 16])
def test_own_samples_are_found_exactly_also_from_rounded_samples(tiny, search, bits):
    z = tiny.sample_prior(0, 4)
    targets = rounded(tiny(z).numpy(), bits)
    found = search(targets, starts(tiny, z))
    assert found.exact.all() and found.in_range.all()
    assert np.square(found.z - z).mean(axis=1).max() < 1e-6
    audio = tiny(found.z).numpy()
    assert [match(target, one) for target, one in zip(targets, audio, strict=True)] == ["exact"] * 4
    assert match(targets[0], audio[1]) == match(targets[0], 1.001 * audio[0]) == "approximate"


@pytest.fixture(scope="module")
def encode(tiny):
    """A linear encoder fitted to samples, whose answers are too small by 0.3 of themselves."""
    z = tiny.sample_prior(5, 3000)
    x = np.asarray(tiny(z), np.float64)[..., 0]
    weights = tf.constant(0.7 * np.linalg.lstsq(x, z, rcond=1e-3)[0], tf.float32)
    return lambda audio: tf.convert_to_tensor(audio)[..., 0] @ weights


def test_with_an_encoder_its_rounds_lead_there_and_the_bank_is_not_asked(tiny, encode, monkeypatch):
    search = LatentSearch(tiny, encode=encode)
    monkeypatch.setattr(search._bank, "nearest", lambda *_: pytest.fail("asked the bank"))
    z = tiny.sample_prior(0, 3)
    targets = tiny(z).numpy()
    first = np.clip(np.asarray(encode(targets)), -1, 1)
    ends, evaluations = search._approach(targets, None, None)
    assert np.square(ends[:, 0] - z).mean() < 0.01 * np.square(first - z).mean()
    assert evaluations.tolist() == [ROUNDS] * 3
    found = search(targets)
    assert found.exact.all() and np.square(found.z - z).mean(axis=1).max() < 1e-6
    from_elsewhere = search(targets, tiny.sample_prior(3, 3)[:, None])
    assert from_elsewhere.exact.all()


def test_the_range_is_decided_before_the_first_jacobian(tiny, encode):
    search = LatentSearch(tiny, encode=encode)
    z = tiny.sample_prior(0, 2)
    noise = np.random.default_rng(1).normal(0, 0.2, (2, 1024, 1)).astype(np.float32)
    found = search(np.concatenate([noise, tiny(z).numpy(), np.zeros((1, 1024, 1), np.float32)]))
    assert found.in_range.tolist() == [False, False, True, True, False]
    assert (found.share[:2] > 0.9).all() and (found.share[2:4] < 0.1).all() and np.isinf(found.share[4])
    assert found.exact.tolist() == [False, False, True, True, False]
    assert found.evaluations[[0, 1, 4]].tolist() == [ROUNDS + 1] * 3
    assert (found.evaluations[2:4] > ROUNDS + 1).all()


def test_samples_of_eight_bits_are_met_as_closely_as_by_their_own_latents(tiny, encode):
    z = tiny.sample_prior(0, 4)
    targets = rounded(tiny(z).numpy(), 8)
    found = LatentSearch(tiny, encode=encode)(targets)
    left, at_most = (np.square(tiny(x).numpy() - targets).mean(axis=(1, 2)) for x in (found.z, z))
    went_on = found.evaluations > ROUNDS + 2  # the others' rounds ended below the noise floor
    assert found.exact.all() and went_on.sum() >= 3 and (left[went_on] <= at_most[went_on] * 1.001).all()


def test_without_an_encoder_the_bank_is_asked(tiny, search, monkeypatch):
    asked, nearest = [], search._bank.nearest
    monkeypatch.setattr(search._bank, "nearest", lambda targets, k: asked.append(len(targets)) or nearest(targets, k))
    z = tiny.sample_prior(0, 3)
    assert search(tiny(z).numpy()).exact.any() and asked == [3]


def test_a_clip_without_a_latent_keeps_the_lower_of_both_answers(tiny, encode):
    search, inverter = LatentSearch(tiny, encode=encode), Inverter(tiny, OBJECTIVE)
    noise = np.random.default_rng(2).normal(0, 0.005, (4, 1024, 1))
    targets = (tiny(tiny.sample_prior(0, 4)).numpy() + noise).astype(np.float32)
    recovery = Recovery(inverter, lambda audio, domain: encode(audio), {"hybrid": 3}, 1, 0, {}, search=search)
    found, refined = (recovery(method, targets, ["a", "b", "c", "d"], "real") for method in ("search", "hybrid"))
    alone = inverter.evaluate(targets, search(targets).z)
    np.testing.assert_allclose(found.objective, np.minimum(alone.objective, refined.objective), rtol=1e-5)
    assert (alone.objective < refined.objective).any() and (found.evaluations > refined.evaluations).all()


def test_clips_out_of_range_get_what_the_hybrid_gives_them(tiny, encode):
    search, inverter = LatentSearch(tiny, encode=encode), Inverter(tiny, OBJECTIVE)
    noise = np.random.default_rng(1).normal(0, 0.2, (2, 1024, 1)).astype(np.float32)
    z = tiny.sample_prior(0, 2)
    targets = np.concatenate([noise[:1], tiny(z).numpy(), noise[1:]])
    recovery = Recovery(inverter, lambda audio, domain: encode(audio), {"hybrid": 8}, 1, 0, {}, search=search)
    found, refined = (recovery(method, targets, ["a", "b", "c", "d"], "real") for method in ("search", "hybrid"))
    np.testing.assert_array_equal(found.z[[0, 3]], refined.z[[0, 3]])
    np.testing.assert_array_equal(found.objective[[0, 3]], refined.objective[[0, 3]])
    assert [found.status[i] for i in (0, 3)] == [refined.status[i] for i in (0, 3)]
    assert (found.evaluations - refined.evaluations)[[0, 3]].tolist() == [ROUNDS + 2] * 2
    assert found.status[1:3] == ["converged_value"] * 2
    np.testing.assert_allclose(found.z[1:3], z, atol=1e-3)
    np.testing.assert_allclose(found.audio, tiny(found.z), atol=1e-6)
    assert len(found.curve) == 4
    settings = recovery.settings("search")
    assert settings.pop("search_version") == SEARCH_VERSION
    assert settings | {"method": "hybrid"} == recovery.settings("hybrid")


@pytest.mark.parametrize(("bits", "step"), [(8, 2**-7), (16, 2**-15), (24, 2**-23)])
def test_the_noise_floor_is_that_of_rounding_to_the_format(bits, step):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 4096, 2)).astype(np.float32)
    as_read = rounded(audio, bits)
    error = np.square(as_read.astype(np.float64) - audio).mean(axis=(1, 2))
    if bits < 24:  # whose step float32 does not resolve
        np.testing.assert_allclose(error, step**2 / 12, rtol=0.1)
        np.testing.assert_allclose(noise_floor(as_read), 1.25 * step**2 / 12, rtol=1e-4)
    assert [match(a, b) for a, b in zip(as_read, audio, strict=True)] == ["exact"] * 3
    assert match(audio[0], as_read[0]) == ("exact" if bits == 24 else "approximate")


def test_silence_is_never_exact():
    silence = np.zeros((64, 1), np.float32)
    assert match(silence, silence) == "approximate"
