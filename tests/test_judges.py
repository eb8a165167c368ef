"""studies/judges.py: accuracy and agreement by hand, and the table as a user makes it."""

import numpy as np
import pytest
import soundfile

from models.classifier import Classifier
from models.encoder import Encoder, load_encoder
from models.generator import load_generator
from studies.judges import describe, f0_kept
from utils.audio.datasets import DIGITS
from utils.evaluation.comparison import share_interval
from utils.report.origin import FACTS, origin_of
from utils.runs.files import read_jsonl


def test_accuracy_and_agreement_by_hand():
    labels = np.array([0, 1, 2, 2])
    answers = {"a": np.eye(3)[[0, 1, 2, 1]], "b": np.eye(3)[[0, 1, 1, 1]], "c": np.eye(3)[[2, 2, 1, 0]]}
    facts = describe(answers, dict.fromkeys(answers, labels))
    assert [facts[name]["accuracy"] for name in "abc"] == [0.75, 0.5, 0]
    assert [facts[pair]["agreement"] for pair in ("a, b", "a, c", "b, c")] == [0.75, 0, 0.25]
    assert facts["a"]["from"] < 0.75 < facts["a"]["to"]


def test_the_table(run_main, tmp_path):
    for digit in DIGITS:
        (tmp_path / "data" / digit).mkdir(parents=True)
        soundfile.write(tmp_path / "data" / digit / "060cd039_nohash_0.wav", np.zeros(1024), 8000)
    (tmp_path / "data" / "validation_list.txt").write_text("\n".join(f"{d}/060cd039_nohash_0.wav" for d in DIGITS))
    shape = dict(width=4, num_samples=1024, sample_rate=8000)
    for name, architecture in (("classifier", "resnet18"), ("one", "mel_cnn"), ("other", "waveform_cnn")):
        Classifier(architecture=architecture, class_names=DIGITS, **shape).save(tmp_path / f"{name}.keras")
    Encoder(latent_dim=6, domain_statistics=True, **shape).save(tmp_path / "encoder.keras")
    result = run_main(
        *("studies/judges.py", tmp_path / "data", "--generator", "tests.tiny:generator", "--trust"),
        *("--encoder", tmp_path / "encoder.keras", "--classifier", tmp_path / "classifier.keras", "--n", 5),
        *("--judge", f"{tmp_path}/one.keras,{tmp_path}/other.keras", "--results", tmp_path, "--cache", tmp_path),
    )
    assert result.returncode == 0, result.stderr
    records = read_jsonl(tmp_path / "judges.jsonl")
    assert [(record["set"], record["n"]) for record in records] == [
        ("real", 10),
        ("real, reconstructed", 10),
        ("synthetic", 5),
        ("synthetic, reconstructed", 5),
    ]
    for record in records:
        assert {"classifier", "one", "other", "one, other", "classifier, one"} <= set(record)
    assert records[0]["one"]["accuracy"] == pytest.approx(0.1)  # silence in every class
    assert records[2]["one"]["accuracy"] == 1  # by its own answers on the samples
    generator = load_generator("tests.tiny:generator", trust=True)
    encoder, z = load_encoder(tmp_path), generator.sample_prior(0, 5)
    found = encoder(generator(z), training=False, domain="synthetic")
    expected = {
        "z_mse": np.mean((found - z) ** 2),
        "waveform_mse": np.mean((generator(found).numpy() - generator(z).numpy()) ** 2),
    }
    assert {name: records[3]["errors"][name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert all(origin_of(record).keys() == set(FACTS) for record in records)
    interval = [records[0]["one"][end] for end in ("from", "to")]
    assert interval == pytest.approx(share_interval(1, 10))


def test_f0_that_is_kept_by_hand():
    original = np.array([[100.0, 100, 100, 0], [0, 200, 0, 0]])
    made = np.array([[104.0, 120, 0, 90], [0, 200, 0, 0]])  # within a semitone, three semitones off, lost
    assert f0_kept(original, made) == {"voiced_kept": 3 / 4, "f0_within_semitone": 2 / 3}
    assert f0_kept(original, np.zeros_like(original)) == {"voiced_kept": 0}
    assert f0_kept(np.zeros_like(original), made) == {}
