"""models/networks.py: networks of a run, found, loaded and checked against each other."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from wavegan_checkpoints import build

from models.classifier import Classifier, classifier_features
from models.encoder import Encoder
from models.networks import Networks, check_fit
from models.recovery import choose_objective, make_inverter, make_recovery
from utils.domains import DOMAINS
from utils.errors import UserError
from utils.inversion.methods import from_prior
from utils.losses import parse_objective
from utils.options import OWN_OBJECTIVE, REAL_OBJECTIVE
from utils.runs.files import file_sha256

TINY = "tests.tiny:generator"
CLIPS = {"num_samples": 1024, "sample_rate": 8000}


def classifier(**options) -> Classifier:
    return Classifier(**{"architecture": "mel_cnn", "width": 4, "class_names": ("a", "b", "c"), **CLIPS, **options})


def encoder(**options) -> Encoder:
    return Encoder(**{"latent_dim": 6, "width": 2, **CLIPS, **options})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with an encoder, any other Keras model that encodes, a classifier and a judge."""
    folder = tmp_path_factory.mktemp("networks")
    keras.utils.set_random_seed(0)
    encoder(generator="abc", alignment="paper").save(folder / "encoder.keras")
    layers = [keras.Input([1024, 1]), keras.layers.Flatten(), keras.layers.Dense(6, activation="tanh")]
    keras.Sequential(layers).save(folder / "own.keras")
    classifier(alignment="aligned").save(folder / "classifier.keras")
    classifier(alignment="paper", width=6).save(folder / "judge.keras")
    return folder


def test_missing_files_are_an_error_before_anything_is_loaded(files):
    missing = files / "none.keras"
    for named, kind in (
        ({"encoder": missing}, "encoder"),
        ({"classifier": missing}, "classifier"),
        ({"judges": [missing]}, "classifier"),
    ):
        with pytest.raises(UserError, match=f"none.keras: no such {kind}; .* trains one"):
            Networks("no such generator either", **named)
    with pytest.raises(UserError, match="--generator no such"):
        Networks("no such generator", encoder=files, classifier=None).generator  # noqa: B018


def test_the_generators_error_is_no_warning_of_the_classifiers(files, capsys):
    with pytest.raises(UserError, match="--generator nowhere: no such file"):
        Networks("nowhere", classifier=files).fitting_features  # noqa: B018
    assert capsys.readouterr().err == ""


def test_what_networks_were_trained_with_is_compared_and_said_once(files, capsys):
    networks = Networks(
        TINY,
        trust=True,
        alignment="aligned",
        encoder=files / "encoder.keras",
        classifier=files,
        judges=[files / "judge.keras"],
    )
    assert networks.encoder is networks.encoder and list(networks.classifiers) == ["classifier", "judge"]
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.splitlines() == [
        f"warning: --encoder {files}/encoder.keras: was trained with another generator, abc",
        f"warning: --encoder {files}/encoder.keras: was trained with another alignment, paper",
        f"warning: --judge {files}/judge.keras: was trained with another alignment, paper",
    ]


def test_networks_of_other_clips_or_latents_are_refused():
    generator = Networks(TINY, trust=True).generator
    assert check_fit("--encoder x", encoder(generator=generator.fingerprint), generator, "aligned") == []
    assert check_fit("--judge x", classifier(), generator, None) == []
    for change in ({"num_samples": 2048}, {"num_channels": 2}, {"sample_rate": 16000}):
        for flag in ("--encoder x", "--classifier x"):
            other = SimpleNamespace(**({"num_channels": 1} | CLIPS | change), options={})
            with pytest.raises(UserError, match=f"{flag}: takes .* the generator gives 1024 of 1 at 8000 Hz"):
                check_fit(flag, other, generator, None)
    with pytest.raises(UserError, match="--encoder x: gives 7 latents, the generator takes 6"):
        check_fit("--encoder x", encoder(latent_dim=7), generator, None)


def test_any_keras_model_may_encode_if_its_answers_fit(files, tmp_path):
    networks = Networks(TINY, trust=True, encoder=files / "own.keras")
    audio = np.random.default_rng(0).normal(0, 0.1, (3, 1024, 1)).astype(np.float32)
    for domain in DOMAINS:
        np.testing.assert_allclose(networks.encode(audio, domain), networks.encoder(audio), atol=1e-6)
    with pytest.raises(UserError, match=r"--encoder: must give latents \[B, 16\]|--encoder: does not take"):
        Networks("examples/drums.keras", encoder=files / "own.keras").encode  # noqa: B018
    layers = [keras.Input([1024, 1]), keras.layers.Flatten(), keras.layers.Dense(7)]
    keras.Sequential(layers).save(tmp_path / "wide.keras")
    with pytest.raises(UserError, match=r"--encoder: must give latents \[B, 6\]"):
        Networks(TINY, trust=True, encoder=tmp_path / "wide.keras").encode  # noqa: B018


def test_clips_are_encoded_by_the_statistics_of_their_domain(tmp_path):
    keras.utils.set_random_seed(0)
    model, audio = encoder(domain_statistics=True), np.random.default_rng(0).normal(0, 0.1, (4, 1024, 1))
    for domain, gain in (("real", 1), ("synthetic", 3)):
        model(gain * audio, training=True, domain=domain)
    model.save(tmp_path / "encoder.keras")
    networks = Networks(TINY, trust=True, encoder=tmp_path)
    answers = {domain: networks.encode(audio.astype(np.float32), domain).numpy() for domain in DOMAINS}
    assert not np.allclose(*answers.values())
    recovery = make_recovery(
        networks,
        make_inverter(networks, parse_objective("waveform=1")),
        max_iter=1,
        hybrid_max_iter=1,
        restarts=1,
        seed=0,
    )
    for domain, z in answers.items():
        found = recovery("encoder", audio.astype(np.float32), list("abcd"), domain)
        np.testing.assert_allclose(found.z, z, atol=1e-6)


def test_classifiers_answer_in_batches(files):
    networks = Networks(TINY, trust=True, classifier=files / "classifier.keras", judges=[files / "judge.keras"])
    audio = np.random.default_rng(0).normal(0, 0.1, (5, 1024, 1)).astype(np.float32)
    answers = networks.classify(audio, batch_size=2)
    assert list(answers) == ["classifier", "judge"]
    for name, (probabilities, pooled) in answers.items():
        expected = classifier_features(networks.classifiers[name], audio)
        np.testing.assert_allclose(probabilities, expected["probabilities"], atol=1e-5)
        np.testing.assert_allclose(pooled, expected["pooled"], atol=1e-5)


def test_the_inverter_compares_features_of_the_classifier_named(files):
    objective = parse_objective("feature=1")
    networks = Networks(TINY, trust=True, classifier=files / "classifier.keras")
    targets = networks.generator(networks.generator.sample_prior(0, 2)).numpy()
    starts = from_prior(networks.generator, 0, ["a", "b"])
    inverter = make_inverter(networks, objective)
    before = inverter.evaluate(targets, starts[:, 0]).objective
    assert (inverter.refine(targets, starts, max_iter=5).objective < before).all()
    with pytest.raises(UserError, match="--objective: its terms of features need a --classifier"):
        make_inverter(Networks(TINY, trust=True), objective)


def test_the_default_objective_is_of_the_kind_of_clip_and_of_what_classifier_there_is(files, capsys):
    fitting = Networks(TINY, trust=True, classifier=files / "classifier.keras")
    assert str(choose_objective(fitting, None, own=True)) == OWN_OBJECTIVE
    assert str(choose_objective(fitting, None, own=False)) == REAL_OBJECTIVE
    assert (
        str(choose_objective(fitting, "waveform=1", own=False))
        == str(choose_objective(fitting, "waveform=1", own=True))
        == "waveform=1"
    )
    assert "features" not in str(choose_objective(Networks(TINY, trust=True), None, own=False))
    foreign = Networks(TINY, trust=True, classifier="classifier_checkpoint/")
    capsys.readouterr()
    assert "features" not in str(choose_objective(foreign, None, own=False))
    assert "takes 16384 samples" in (said := capsys.readouterr().err) and "goes without features" in said
    assert "features" not in str(choose_objective(foreign, None, own=False)) and not capsys.readouterr().err
    with pytest.raises(UserError, match="takes 16384 samples"):
        make_inverter(foreign, choose_objective(foreign, "features=1", own=False))


def test_a_fast_search_ends_in_float32(tmp_path):
    folder = build(tmp_path / "generator")
    networks = Networks(folder, precision="mixed_bfloat16")
    z = networks.generator.sample_prior(0, 2)
    exact, fast = networks.generator(z).numpy(), networks.fast_generator(z).numpy()
    assert 1e-5 < np.abs(exact - fast).max() < 0.1
    assert networks.fast_generator.fingerprint == networks.generator.fingerprint
    start = networks.generator.sample_prior(1, 2)[:, None]
    found = make_inverter(networks, parse_objective("waveform=1")).refine(exact, start, max_iter=3)
    np.testing.assert_allclose(found.audio, networks.generator(found.z), atol=1e-6)
    in_float32 = Networks(folder)
    assert in_float32.fast_generator is in_float32.generator
    foreign = Networks(TINY, trust=True, precision="mixed_bfloat16")
    assert foreign.fast_generator is foreign.generator
    assert "computes as saved, not in mixed_bfloat16" in foreign.generator.notes[0]


def test_hashes_are_of_the_weights(files):
    networks = Networks(TINY, trust=True, encoder=files / "encoder.keras", classifier=None)
    assert networks.sha256("generator") == networks.generator.fingerprint
    assert networks.sha256("encoder") == file_sha256(files / "encoder.keras")
    assert networks.sha256("classifier") is None


def test_two_classifiers_of_one_name_are_refused(files):
    with pytest.raises(UserError, match="must not have the name of another network, judge"):
        Networks(TINY, trust=True, judges=[files / "judge.keras", files / "judge.keras"])
