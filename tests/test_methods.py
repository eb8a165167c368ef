"""utils/inversion/methods.py and latents.py on generators small enough to be inverted exactly."""

import numpy as np
import pytest
import tensorflow as tf

from models.generator import load_generator
from models.wavegan import Architecture, WaveGANGenerator, initial_weights
from utils.errors import UserError
from utils.inversion import methods as recovery
from utils.inversion.latents import Latents, load_latents, save_latents, stack_curves
from utils.inversion.methods import Inverter, from_encoder, from_prior
from utils.inversion.names import METHODS
from utils.losses import parse_objective

OBJECTIVE = parse_objective("stft_real=1,waveform=1")


@pytest.fixture(scope="module")
def tiny():
    return load_generator("tests.tiny:generator", trust=True)


@pytest.fixture(scope="module")
def inverters(tiny):
    """Of the tiny generator by solver, traced once."""
    return {solver: Inverter(tiny, OBJECTIVE, solver=solver) for solver in ("batched", "scipy")}


@pytest.fixture(scope="module")
def noise():
    """Targets `[6, 1024, 1]` that the generator cannot reach."""
    return np.random.default_rng(1).normal(0, 0.2, (6, 1024, 1)).astype(np.float32)


def identities(n):
    return [f"clip {i}" for i in range(n)]


class WaveGAN:
    """A WaveGAN of random weights behind the generator contract."""

    latent_dim, num_samples, num_channels, sample_rate, prior = 20, 16384, 1, 16000, "uniform"
    sample_prior = None

    def __init__(self, precision="float32"):
        architecture = Architecture(latent_dim=20, dim=2)
        weights = {name: 3 * w for name, w in initial_weights(architecture, seed=0).items()}
        self.network = WaveGANGenerator(architecture, weights, precision)

    def __call__(self, z):
        return self.network(z)


def test_starts_depend_on_seed_clip_and_restart_only(tiny):
    starts = from_prior(tiny, 0, identities(4), restarts=3)
    assert starts.shape == (4, 3, tiny.latent_dim) and starts.dtype == np.float32
    np.testing.assert_array_equal(from_prior(tiny, 0, identities(4)[2:], restarts=2), starts[2:, :2])
    assert len(np.unique(starts)) == starts.size
    assert not np.isin(from_prior(tiny, 1, identities(4), 3), starts).any()
    assert np.abs(starts).max() <= 1


@pytest.mark.parametrize("solver", ["batched", "scipy"])
def test_the_generators_own_samples_are_recovered_exactly(tiny, inverters, solver):
    n = {"batched": 6, "scipy": 1}[solver]  # one after another: slower
    z = tiny.sample_prior(5, n)
    targets = tiny(z).numpy()
    found = inverters[solver].refine(targets, from_prior(tiny, 0, identities(n), 8), max_iter=300)
    np.testing.assert_allclose(found.z, z, atol=1e-3)
    np.testing.assert_allclose(found.audio, targets, atol=1e-3)
    assert (found.objective < 1e-3).all()


def test_a_random_wavegan_is_inverted():
    generator = WaveGAN()
    z = np.random.default_rng(0).uniform(-1, 1, (2, 3, 20)).astype(np.float32)
    found = Inverter(generator, OBJECTIVE).refine(generator(z[0]).numpy(), z[1][:, None], max_iter=150)
    np.testing.assert_allclose(found.z, z[0], atol=1e-2)


def test_batched_and_scipy_reach_comparable_objectives(tiny, inverters, noise):
    starts = from_prior(tiny, 0, identities(6))
    batched, scipy = (inverters[solver].refine(noise, starts, max_iter=200) for solver in ("batched", "scipy"))
    assert np.median(batched.objective) <= 1.02 * np.median(scipy.objective)
    assert np.median(batched.evaluations) <= 2.5 * np.median(scipy.evaluations)


def test_more_restarts_never_end_higher(tiny, inverters):
    inverter, targets = inverters["batched"], tiny(tiny.sample_prior(5, 6)).numpy()
    one, four = (inverter.refine(targets, from_prior(tiny, 0, identities(6), k), max_iter=8) for k in (1, 4))
    assert (four.objective <= one.objective + 1e-5).all()
    assert (four.objective < one.objective - 1e-5).any()
    assert (four.evaluations > one.evaluations).all()


def test_results_do_not_depend_on_the_clips_beside(tiny, inverters, noise):
    inverter, starts = inverters["batched"], from_prior(tiny, 0, identities(6), 2)
    together = inverter.refine(noise, starts, max_iter=20)
    alone = inverter.refine(noise[4:5], starts[4:5], max_iter=20)
    np.testing.assert_allclose(together.objective[4:5], alone.objective, rtol=1e-3)


@pytest.mark.parametrize("solver", ["batched", "scipy"])
def test_reports_belong_to_the_latents_given(tiny, inverters, noise, solver):
    found = inverters[solver].refine(noise, from_prior(tiny, 0, identities(6)), max_iter=7)
    np.testing.assert_allclose(found.audio, tiny(found.z), atol=1e-6)
    np.testing.assert_allclose([curve[-1] for curve in found.curve], found.objective, rtol=1e-5)
    assert [len(curve) for curve in found.curve] == found.evaluations.tolist()
    assert all((np.diff(curve) <= 0).all() for curve in found.curve)
    assert set(found.status) == {"max_iter"}


@pytest.mark.parametrize("solver", ["batched", "scipy"])
def test_the_box_holds_only_where_it_is_wanted_and_there_is_one(tiny, inverters, solver):
    loud = tiny(np.full((1, 6), 1.5, np.float32)).numpy()
    starts = from_prior(tiny, 0, identities(1), 4)
    without_box = Inverter(tiny, OBJECTIVE, solver=solver, clip_to_prior=False)
    boxed, free = (x.refine(loud, starts, max_iter=50) for x in (inverters[solver], without_box))
    assert np.abs(boxed.z).max() <= 1
    assert np.abs(free.z).max() > 1 and free.objective[0] < boxed.objective[0]

    normal = load_generator("tests.tiny:stereo_normal", trust=True)
    far = np.full((1, 6), 1.5, np.float32)
    found = Inverter(normal, OBJECTIVE, solver=solver).refine(normal(far).numpy(), far[:, None], max_iter=5)
    np.testing.assert_allclose(found.z, far, atol=1e-4)


@pytest.mark.parametrize("solver", ["batched", "scipy"])
def test_a_target_that_is_not_finite_stops_no_other(tiny, inverters, noise, solver):
    targets = noise[:3].copy()
    targets[1, 7] = np.nan
    found = inverters[solver].refine(targets, from_prior(tiny, 0, identities(3)), max_iter=5)
    assert found.status == ["max_iter", "nonfinite_start", "max_iter"]
    assert np.isfinite(found.objective).tolist() == found.finite.tolist() == [True, False, True]
    assert np.isfinite(found.z).all()


def test_a_bfloat16_search_ends_with_float32():
    fast, float32 = WaveGAN("mixed_bfloat16"), WaveGAN()
    z = np.random.default_rng(0).uniform(-1, 1, (2, 2, 20)).astype(np.float32)
    targets, starts = float32(z[0]).numpy(), z[1][:, None]
    rough = Inverter(fast, OBJECTIVE).refine(targets, starts, max_iter=40)
    fast.float32 = float32
    found = Inverter(fast, OBJECTIVE).refine(targets, starts, max_iter=40)
    np.testing.assert_allclose(found.audio, float32(found.z), atol=1e-6)
    assert (found.objective < 0.5 * rough.objective).all()
    assert [len(curve) for curve in found.curve] == found.evaluations.tolist()


def test_an_encoders_answer_is_taken_clipped_and_refined(tiny, inverters):
    z = tiny.sample_prior(3, 4)
    targets = tiny(z).numpy()
    starts = from_encoder(tiny, lambda audio: z + 0.02, targets)
    assert starts.shape == (4, 1, 6) and np.abs(starts).max() <= 1
    assert np.abs(from_encoder(tiny, lambda audio: z + 9, targets, clip_to_prior=False)).min() > 7
    inverter = inverters["batched"]
    encoded = inverter.evaluate(targets, starts[:, 0])
    hybrid = inverter.refine(targets, starts, max_iter=100)
    np.testing.assert_array_equal(encoded.z, starts[:, 0])
    assert encoded.evaluations.tolist() == [1] * 4
    assert (hybrid.objective < 0.1 * encoded.objective).all()
    np.testing.assert_allclose(hybrid.z, z, atol=1e-3)


def envelope(audio) -> dict[str, tf.Tensor]:
    """In place of a classifier: the energy of 64 frames."""
    return {"energy": tf.reduce_mean(tf.reshape(tf.square(audio), [-1, 64, 16]), axis=2)}


@pytest.mark.parametrize("solver", ["batched", "scipy"])
def test_the_term_feature_compares_the_features_of_each_clip(tiny, noise, solver):
    calls = []

    def features(audio):
        calls.append(audio)
        return envelope(audio)

    inverter = Inverter(tiny, parse_objective("feature=2"), solver=solver, features=features)
    starts = from_prior(tiny, 0, identities(3), 2)
    found = inverter.refine(noise[:3], starts, max_iter=20)
    expected = 2 * np.abs(envelope(found.audio)["energy"] - envelope(noise[:3])["energy"]).mean(axis=1)
    np.testing.assert_allclose(found.objective, expected, rtol=1e-4)
    np.testing.assert_allclose([curve[-1] for curve in found.curve], expected, rtol=1e-4)
    np.testing.assert_allclose(inverter.evaluate(noise[:3], found.z).objective, expected, rtol=1e-4)
    first = inverter.evaluate(noise[:3], starts[:, 0]).objective
    assert (found.objective < 0.9 * first).all()
    assert len(calls) == 3  # traced for the targets, the search and the result, never again


def test_an_objective_with_feature_needs_features(tiny):
    with pytest.raises(UserError, match="--objective: its terms of features need a --classifier"):
        Inverter(tiny, parse_objective("waveform=1,feature=1"))


@pytest.mark.parametrize("encoder", [lambda audio: audio[:, :7, 0], lambda audio: tf.matmul(audio, tf.zeros([3, 3]))])
def test_an_encoder_that_does_not_fit_is_named(tiny, noise, encoder):
    with pytest.raises(UserError, match="--encoder"):
        from_encoder(tiny, encoder, noise)


def test_an_unknown_solver_is_refused(tiny):
    with pytest.raises(ValueError, match="batched, scipy"):
        Inverter(tiny, OBJECTIVE, solver="adam")


def test_parts_join_to_what_slices_cut(tiny, inverters, noise):
    found = inverters["batched"].refine(noise, from_prior(tiny, 0, identities(6)), max_iter=3)
    joined = recovery.Recovered.concatenate([found[:2], found[2:]])
    for name, value in vars(found).items():
        np.testing.assert_equal(vars(joined)[name], value)


@pytest.fixture(scope="module")
def methods(tiny, inverters):
    """The paper's three, with an encoder that is a little wrong and unbounded."""
    gain = {"real": 1.3, "synthetic": 1.2}
    encoder = lambda audio, domain: gain[domain] * 5 * np.asarray(audio)[:, : tiny.latent_dim, 0]  # noqa: E731
    networks = {"generator_sha256": "ab", "encoder_sha256": "cd"}
    return recovery.Recovery(inverters["batched"], encoder, {"gradient": 9, "hybrid": 4}, 2, 7, networks)


def test_the_methods_are_the_paper_s_three(tiny, methods, noise):
    inverter, targets, names = methods.inverter, noise[:5], identities(5)
    for domain in ("real", "synthetic"):
        encoded = from_encoder(tiny, lambda audio, domain=domain: methods.encoder(audio, domain), targets)
        np.testing.assert_array_equal(methods("encoder", targets, names, domain).z, encoded[:, 0])
    expected = inverter.refine(targets, encoded, max_iter=4)
    np.testing.assert_array_equal(methods("hybrid", targets, names, domain).z, expected.z)
    expected = inverter.refine(targets, from_prior(tiny, 7, names, 2), max_iter=9)
    np.testing.assert_array_equal(methods("gradient", targets, names, domain).z, expected.z)


def test_a_search_starts_from_the_window_before_where_that_is_nearer(tiny, methods, noise):
    targets = tiny(tiny.sample_prior(3, 5)).numpy()
    neighbours = tiny.sample_prior(3, 5)
    neighbours[:2] = 1  # far from these targets
    found = methods("gradient", targets, identities(5), "real", neighbours=neighbours)
    np.testing.assert_allclose(found.z[2:], neighbours[2:], atol=1e-3)
    alone = methods("gradient", targets, identities(5), "real")
    starts = from_prior(tiny, 7, identities(5), 2)[:, 0]
    nearer = (
        methods.inverter.evaluate(targets, neighbours).objective < methods.inverter.evaluate(targets, starts).objective
    )
    assert nearer[2:].all() and not nearer[:2].all()
    np.testing.assert_allclose(found.objective[~nearer], alone.objective[~nearer], rtol=1e-4)


def test_batches_are_computed_apart_and_joined(methods, noise):
    names, seen = identities(5), []
    whole, seconds = methods.in_batches(
        "gradient", noise[:5], names, "real", batch_size=2, progress=lambda stage, running, *rest: seen.append(running)
    )
    parts = [methods("gradient", noise[i:j], names[i:j], "real") for i, j in ((0, 2), (2, 4), (4, 5))]
    for name, value in vars(recovery.Recovered.concatenate(parts)).items():
        np.testing.assert_equal(vars(whole)[name], value)
    assert seconds.shape == (5,) and (seconds > 0).all() and seconds[0] == seconds[1]
    assert max(seen) == 4  # two clips, two starts


def test_settings_hold_what_a_method_uses_and_nothing_else(methods):
    all_settings = {name: methods.settings(name) for name in METHODS}
    shared = {"objective": str(OBJECTIVE), "clip_to_prior": True, "generator_sha256": "ab"}
    search = {"solver": "batched", "float32_iterations": 0}
    assert all_settings == {
        "encoder": shared | {"method": "encoder", "encoder_sha256": "cd"},
        "gradient": shared
        | search
        | {"method": "gradient", "max_iter": 9, "restarts": 2, "seed": 7, "encoder_sha256": None},
        "hybrid": shared | search | {"method": "hybrid", "max_iter": 4, "encoder_sha256": "cd"},
        "search": shared | search | {"method": "search", "max_iter": 4, "encoder_sha256": "cd", "search_version": None},
    }


def example() -> Latents:
    return Latents(
        z=np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32),
        z_true=np.zeros((2, 6), np.float32),
        generator="ab12",
        method="gradient",
        seed=7,
        source="clips/ein Klang ä.wav",
        source_sha256="cd34",
        options={"objective": "waveform=1", "clip_to_prior": True, "treat_as_rate": None},
        provenance={"gain": 1.0, "window_starts": [0, 1024]},
        objective=np.array([0.1, 0.2]),
        evaluations=np.array([3, 2]),
        status=np.array(["max_iter", "converged_change"]),
        curve=stack_curves([np.array([3.0, 2.0, 0.1]), np.array([1.0, 0.2])]),
    )


def test_latents_survive_the_disk_and_equal_ones_give_equal_bytes(tmp_path):
    save_latents(tmp_path / "a.npz", example())
    save_latents(tmp_path / "b.npz", example())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = load_latents(tmp_path / "a.npz")
    for name, value in vars(example()).items():
        np.testing.assert_equal(vars(loaded)[name], value)
    np.testing.assert_array_equal(loaded.curve[1], np.float32([1, 0.2, 0.2]))


def test_latents_that_make_no_sense_are_not_written(tmp_path):
    for change in ({"z": np.zeros((2, 6))}, {"z": np.full((2, 6), np.nan, np.float32)}, {"status": ["x"]}):
        with pytest.raises(ValueError, match="|".join(change)):
            save_latents(tmp_path / "x.npz", Latents(**(vars(example()) | change)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["absent", "text", "cut", "npy", "other", "float64", "folder"])
def test_damaged_latents_are_one_clear_error(tmp_path, damage):
    path = tmp_path / "x.npz"
    if damage == "text":
        path.write_text("hello")
    elif damage == "cut":
        save_latents(path, example())
        path.write_bytes(path.read_bytes()[:400])
    elif damage == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "other":
        np.savez(path, a=np.zeros(3))
    elif damage == "float64":
        np.savez(path, z=np.zeros((1, 3)), generator="", method="", seed=0)
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(UserError, match=r"x\.npz"):
        load_latents(path)
