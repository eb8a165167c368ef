"""Attribution: scores and verdicts of a generator that can be inverted, metrics against plain counting, the baseline,
attribute.py and studies/attribution.py as a user runs them."""

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from models.generator import load_generator
from models.networks import Networks
from studies.attribution import RATE, Fingerprint, auroc, eer, figure, separation, tpr_at_fpr
from utils.audio.datasets import DIGITS
from utils.audio.files import load_clip
from utils.audio.splits import HALVES, half_of
from utils.audio.transformations import TRANSFORMATIONS, round_to_bits, transform
from utils.bundled import bundled
from utils.errors import UserError
from utils.evaluation import attribution
from utils.evaluation.attribution import (
    ABSTAINS,
    LOSSY,
    MADE,
    NOT,
    NOT_EXACT,
    RELATED,
    Attributor,
    calibrate,
    is_lossless,
    residual_score,
    score_settings,
)
from utils.evaluation.comparison import share_interval
from utils.inversion.store import ResultStore
from utils.runs.files import read_json, read_jsonl, write_json

SHAPE = (1024, 1)
scores = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=12)


def samples(spec: str, seed: int, n: int) -> np.ndarray:
    generator = load_generator(spec, trust=True)
    return round_to_bits(generator(generator.sample_prior(seed, n)).numpy(), 16)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (n, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def attributor():
    tiny = load_generator("tests.tiny:generator", trust=True)
    return Attributor(tiny, tiny, None, settings={"generator_sha256": tiny.fingerprint})


# ---- scores and verdicts --------------------------------------------------------------


def test_the_score_by_hand():
    clip = np.full(SHAPE, 0.5)
    assert residual_score(clip, np.zeros(SHAPE)) == residual_score(clip, -clip) == 0
    assert residual_score(clip, 0.9 * clip) == pytest.approx(-2)
    assert residual_score(clip, clip) == attribution.LOWEST_SCORE
    assert residual_score(np.zeros(SHAPE), clip) is None and residual_score(clip, clip * np.nan) is None


def test_own_samples_are_attributed_and_what_is_not_is_not(attributor, tmp_path):
    store, spec = ResultStore(tmp_path), "tests.tiny:generator"

    def of(audio):
        return attributor(audio, store, batch_size=8)

    def values(results):
        return [result["score"] for result in results]

    own, others = of(samples(spec, 0, 8)), of(np.concatenate([samples("tests.tiny:other_seed", 0, 4), noise(4)]))
    assert max(values(own)) < -6 and all(result["exact"] for result in own)
    assert -1 < min(values(others)) and max(values(others)) <= 0 and not any(result["exact"] for result in others)
    thresholds = calibrate(values(own), values(others))
    fresh = samples(spec, 1, 3)
    strangers = np.concatenate([samples("tests.tiny:other_seed", 1, 2), noise(2, seed=9), np.zeros((1, *SHAPE), "f4")])
    # Noise 30 dB below leaves a thousandth of the energy, far less than clips of other origin leave.
    noisy = transform("noise 30 dB", fresh, 8000, 0)
    found = of(np.concatenate([fresh, noisy, strangers]))
    verdicts = [thresholds.verdict(result["score"], exact=result["exact"])[0] for result in found]
    assert verdicts[:6] == [MADE] * 3 + [RELATED] * 3 and max(values(found[:6])) < -2.5
    assert min(values(found[6:10])) > -1
    assert verdicts[8:] == [NOT, NOT, ABSTAINS] and found[-1]["score"] is None

    again = of(fresh)  # out of the store, with the seconds of then
    for ours, theirs in zip(again, found[:3], strict=True):
        np.testing.assert_array_equal(ours.pop("z"), theirs.pop("z"))
        assert ours == theirs


def verdict(thresholds, score, exact=True, **facts):
    return thresholds.verdict(score, exact=exact, **facts)[0]


def test_a_low_score_that_is_not_exact_may_be_a_related_generators():
    thresholds = calibrate([-8.0, -7.0], [-1.0])
    assert thresholds.verdict(-6, exact=True) == (MADE, "")
    assert thresholds.verdict(-6, exact=False) == (RELATED, NOT_EXACT)
    assert thresholds.verdict(-6, exact=False, lossless=False) == (MADE, LOSSY)
    for score, expected in ((0, NOT), (None, ABSTAINS)):
        for lossless in (True, False):
            assert thresholds.verdict(score, exact=False, lossless=lossless) == (expected, "")


@pytest.mark.parametrize(
    ("name", "kind", "rate", "channels", "expected"),
    [
        ("a.wav", {"subtype": "PCM_16"}, 8000, 1, True),
        ("a.flac", {"subtype": "PCM_24"}, 8000, 1, True),
        ("a.wav", {"subtype": "FLOAT"}, 8000, 1, True),
        ("a.mp3", {}, 8000, 1, False),
        ("a.ogg", {"subtype": "VORBIS"}, 8000, 1, False),
        ("a.wav", {"subtype": "ULAW"}, 8000, 1, False),
        ("a.wav", {"subtype": "PCM_16"}, 16000, 1, False),
        ("a.wav", {"subtype": "PCM_16"}, 8000, 2, False),
    ],
)
def test_which_files_keep_what_was_written(name, kind, rate, channels, expected, tmp_path):
    soundfile.write(tmp_path / name, np.tile(noise(1)[0], (1, channels)), rate, **kind)
    assert is_lossless(load_clip(tmp_path / name, 1024, 1, 8000)) == expected


def test_thresholds_keep_their_rates_and_say_them():
    random = np.random.default_rng(0)
    own, others = random.normal(-6, 1, 300), random.normal(-1, 0.5, 300)
    thresholds = calibrate(own, others)
    assert thresholds.false_made <= 0.01 and thresholds.false_not <= 0.05
    assert np.mean(others < thresholds.made_below) <= 0.01 and np.mean(own > thresholds.not_above) <= 0.05
    assert [verdict(thresholds, score) for score in (-9, 0, None)] == [MADE, NOT, ABSTAINS]
    stalled = calibrate(np.append(own, [-0.5] * 60), others)  # a fifth of the searches
    assert stalled.made_below == np.sort(others)[2] > thresholds.made_below and stalled.not_above == -0.5
    assert [verdict(stalled, score) for score in (-9, -0.6, 0)] == [MADE, ABSTAINS, NOT]
    few = calibrate(own[:4], others[:9])
    assert few.false_made == 0.1 and few.false_not == 0.2 and few.made_below < others[:9].min() == few.not_above


def test_the_rates_hold_on_average():
    """Split conformal prediction: of scores of the same kind, k / (n + 1) are beyond the threshold."""
    random = np.random.default_rng(1)
    beyond = [
        np.mean(random.normal(size=200) < calibrate([0.0], random.normal(size=99)).made_below) for _ in range(400)
    ]
    assert np.mean(beyond) == pytest.approx(0.01, abs=0.002)


def test_a_calibration_serves_its_own_networks_only():
    record = json.loads(json.dumps(attribution.calibration_record([-8.0, -7.0], [-1.0], settings={"a": 1})))
    assert attribution.read_thresholds(record, "x.json", {"a": 1}) == calibrate([-8.0, -7.0], [-1.0])
    with pytest.raises(UserError, match="x.json: was calibrated with a 1, this run has 2"):
        attribution.read_thresholds(record, "x.json", {"a": 2})
    for damaged in ([], {}, {"thresholds": {"made_below": 1}, "settings": {}}):
        with pytest.raises(UserError, match="x.json: not a calibration"):
            attribution.read_thresholds(damaged, "x.json", {})


# ---- measures -------------------------------------------------------------------------


@given(scores, scores)
def test_measures_against_counting(own, others):
    own, others = np.array(own), np.array(others)
    wins = own[:, None] < others
    assert auroc(own, others) == pytest.approx(np.mean(wins + 0.5 * (own[:, None] == others)))
    points = [(np.mean(others <= t), np.mean(own <= t)) for t in [-np.inf, *np.unique([*own, *others])]]
    for rate in (0.01, 0.3):
        best = max(true for false, true in points if false <= rate)
        assert tpr_at_fpr(own, others, rate) == pytest.approx(best)
    # The equal error rate lies on a segment between the last point with more misses and the first with fewer.
    error = eer(own, others)
    before = [p for p in points if p[0] <= 1 - p[1]][-1]
    after = [p for p in points if p[0] >= 1 - p[1]][0]
    assert before[0] - 1e-9 <= error <= after[0] + 1e-9
    assert 1 - after[1] - 1e-9 <= error <= 1 - before[1] + 1e-9


def test_separation_has_intervals_that_hold_the_value():
    random = np.random.default_rng(0)
    own, others = random.normal(0, 1, 60), random.normal(1.5, 1, 300)
    facts = separation(own, others)
    assert facts.keys() == {"auroc", "eer", RATE}
    for value, low, high in facts.values():
        assert low < value < high and high - low > 0.1  # as of 60 clips
    perfect = separation(own, others + 100)
    assert [perfect[name][0] for name in ("auroc", "tpr_at_1_fpr", "eer")] == pytest.approx([1, 1, 0])
    for name in ("auroc", "tpr_at_1_fpr"):  # all of 60
        assert perfect[name] == pytest.approx([1, *share_interval(60, 60)])


def test_a_rate_at_1_percent_false_alarms_needs_300_negatives():
    own, others = np.zeros(60), np.ones(299)
    assert "tpr_at_1_fpr" not in separation(own, others) and "tpr_at_1_fpr" in separation(own, np.ones(300))


def test_the_area_varies_less_than_the_interval_says():
    """Of a hundred draws of scores whose area is known, the interval holds it in at least 95."""
    random, known = np.random.default_rng(1), 0.856  # of unit normals 1.5 apart: Phi(1.5 / sqrt 2)
    held = 0
    for _ in range(100):
        low, high = separation(random.normal(0, 1, 40), random.normal(1.5, 1, 80))["auroc"][1:]
        held += low <= known <= high
    assert held >= 95


def test_the_fingerprint_knows_a_filter_by_what_it_leaves():
    white = np.random.default_rng(0).normal(0, 0.1, (40, *SHAPE)).astype(np.float32)
    coloured = white - 0.9 * np.roll(white, 3, axis=1)
    fingerprint = Fingerprint(coloured[:20], 8000)
    own, others = fingerprint(coloured[20:]), fingerprint(white[20:])
    assert own.min() > others.max() + 0.05 and np.abs(np.concatenate([own, others])).max() <= 1
    np.testing.assert_allclose(fingerprint(0.1 * coloured[20:]), own, atol=1e-3)  # whatever the level
    assert fingerprint(np.zeros((1, *SHAPE))).tolist() == [0]


# ---- transformations ------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name):
    time = np.arange(16384) / 16000
    tone = (0.4 * np.sin(2 * np.pi * 440 * time) * np.exp(-(((time - 0.5) / 0.2) ** 2)))[None, :, None].astype("f4")
    both = np.concatenate([tone, 0.5 * tone])
    changed = transform(name, both, 16000, 0)
    assert changed.shape == both.shape and changed.dtype == np.float32
    np.testing.assert_array_equal(changed, transform(name, both, 16000, 0))
    np.testing.assert_array_equal(changed[:1], transform(name, both[:1], 16000, 0))  # alone or among others
    assert transform(name, np.repeat(both, 2, axis=2), 16000, 0).shape == (2, 16384, 2)
    lag = 80 if name == "shift 5 ms" else 0  # no codec's delay is left
    gain = 10 ** (-6 / 20) if "gain" in name else 1.0
    expected = gain * np.pad(both, [(0, 0), (lag, 0), (0, 0)])[:, :16384]
    snr = 10 * np.log10(np.mean(expected**2) / np.mean((changed - expected) ** 2 + 1e-20))
    low, high = {"16 bit": (75, 110), "8 bit": (25, 45), "noise 30 dB": (29.8, 30.2), "noise 10 dB": (9.8, 10.2)}.get(
        name, (10, 250)
    )
    assert low < snr < high
    if name == "8 bit":
        assert set(np.unique(changed * 128 % 1)) == {0}


# ---- the scripts ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Real clips: a buzz at a pitch of its own, 2 of each digit in either half."""
    root, listed = tmp_path_factory.mktemp("data"), []
    names = [f"{i:08x}" for i in range(99)]
    speakers = sum(([name for name in names if half_of(name) == half][:2] for half in HALVES), [])
    random, time = np.random.default_rng(0), np.arange(1024) / 8000
    for digit in DIGITS:
        (root / digit).mkdir()
        for speaker in speakers:
            buzz = 0.3 * np.sign(np.sin(2 * np.pi * random.uniform(80, 400) * time))
            listed.append(f"{digit}/{speaker}_nohash_0.wav")
            soundfile.write(root / listed[-1], buzz, 8000)
    (root / "validation_list.txt").write_text("\n".join(listed))
    (root / "testing_list.txt").write_text("")
    return root


GENERATOR = ("--generator", "tests.tiny:generator", "--trust", "--encoder", "none")


@pytest.fixture(scope="module")
def calibration(data, run_script, tmp_path_factory):
    """Made in a process of its own."""
    folder = tmp_path_factory.mktemp("calibration")
    done = run_script(
        *("attribute.py", "--calibrate", data, "--n", 12, *GENERATOR, "--calibration", folder / "tiny.json"),
        *("--cache", folder, "--output", folder / "run", "--quiet"),
    )
    assert done.returncode == 0, done.stderr
    assert "tiny.json: made below -" in done.stdout and not (folder / "run" / "results.jsonl").exists()
    return folder / "tiny.json"


def test_a_calibration_tells_what_it_rests_on(calibration):
    record = read_json(calibration)
    assert record["n"] == 12 and record["seed"] == 0 and record["split"] == "selection"
    assert len(record["scores"]["own"]) == len(record["scores"]["others"]) == 12
    assert record["settings"]["generator_sha256"] == load_generator("tests.tiny:generator", trust=True).fingerprint
    assert record["environment"]["commit"] and record["thresholds"]["false_made"] == pytest.approx(1 / 13)


def test_a_calibration_is_of_the_selection_half(data, run_main, tmp_path):
    """Published figures are of the report half: here its clips are silent, and of those there is no score."""
    shutil.copytree(data, tmp_path / "data")
    for path in (tmp_path / "data").glob("*/*.wav"):
        if half_of(path.stem.partition("_")[0]) == "report":
            soundfile.write(path, np.zeros(1024), 8000)
    where = ("--calibration", tmp_path / "tiny.json", "--cache", tmp_path, "--output", tmp_path / "run", "--quiet")
    done = run_main("attribute.py", "--calibrate", tmp_path / "data", "--n", 4, *GENERATOR, *where)
    assert done.returncode == 0, done.stderr
    assert len(read_json(tmp_path / "tiny.json")["scores"]["others"]) == 4


def test_attribute(calibration, run_main, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    own, other = samples("tests.tiny:generator", 5, 2), samples("tests.tiny:other_seed", 5, 1)
    altered = transform("noise 30 dB", own[1:], 8000, 0)[0]
    wavs = {"a own.wav": own[0], "b other.wav": other[0], "c silent.wav": np.zeros(SHAPE), "=altered.wav": altered}
    for name, audio in wavs.items():
        soundfile.write(clips / name, audio, 8000, subtype="PCM_16")
    soundfile.write(tmp_path / "own.flac", own[1], 8000, subtype="PCM_16")
    (clips / "torn.wav").write_bytes(b"RIFF")
    arguments = ("attribute.py", clips, tmp_path / "own.flac", *GENERATOR, "--calibration", calibration)
    output = tmp_path / "output"
    done = run_main(*arguments, "--output", output)
    assert done.returncode == 3, done.stderr
    assert f"{clips}/a own.wav: made by this generator (score -" in done.stdout and ", exact)" in done.stdout
    assert f"{clips}/torn.wav: failed: " in done.stdout
    results = {result["source"].rpartition("/")[2]: result for result in read_jsonl(output / "results.jsonl")}
    verdicts = {name: result["verdict"] for name, result in results.items()}
    assert verdicts.pop("b other.wav") != MADE
    assert verdicts == {"a own.wav": MADE, "c silent.wav": ABSTAINS, "own.flac": MADE, "=altered.wav": RELATED}
    assert results["=altered.wav"]["notes"].endswith(NOT_EXACT) and NOT_EXACT not in results["a own.wav"]["notes"]
    assert "5 clips: made by this generator 2, related 1, abstains" in done.stdout
    with open(output / "summary.csv", newline="") as file:
        rows = {row["source"].rpartition("/")[2]: row for row in csv.DictReader(file)}
    assert rows.keys() == results.keys() and rows["=altered.wav"]["verdict"] == RELATED
    page = (output / "index.html").read_text()
    assert page.count("<audio") == 10 and "torn.wav" in page and RELATED in page
    made, _ = soundfile.read(output / results["a own.wav"]["reconstruction"], dtype="float32")
    np.testing.assert_allclose(made, own[0][:, 0], atol=2**-15)
    assert results["c silent.wav"]["score"] is None and results["own.flac"]["made_below"] < -0.01

    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
    before = (output / "results.jsonl").read_bytes()
    assert len(times) == 5 and run_main(*arguments, "--output", output, "--quiet").returncode == 3
    assert times == {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
    assert before == (output / "results.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "CLIP: name audio files or folders, or --calibrate DATA"),
        (["nowhere.wav", "--calibration", "x.json"], "nowhere.wav: no such file or folder"),
        (["datasets/demo", *GENERATOR, "--calibration", "x.json"], "--calibration x.json: no such file"),
        (["datasets/demo", *GENERATOR, "--calibration", "{other}"], "was calibrated with generator_sha256"),
        (["--calibrate", "{data}", *GENERATOR, "--calibration", "x.json", "--n", "21"], "has only 20 clips"),
    ],
)
def test_mistakes_in_one_line(arguments, message, calibration, data, run_main, tmp_path):
    record = read_json(calibration)
    record["settings"]["generator_sha256"] = "0" * 64
    write_json(tmp_path / "other.json", record)
    words = [word.format(other=tmp_path / "other.json", data=data) for word in arguments]
    done = run_main("attribute.py", *words, "--output", tmp_path / "output", "--cache", tmp_path / "cache", "--quiet")
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert done.stderr.count("error: ") == 1


def test_the_bundled_networks_come_with_their_thresholds():
    networks = Networks(
        "checkpoint/", trust=False, precision="float32", alignment="aligned", encoder="inverse_mapping_checkpoint/"
    )
    hashes = {f"{name}_sha256": networks.sha256(name) for name in ("generator", "encoder")}
    path = bundled("checkpoint/attribution.json")
    thresholds = attribution.read_thresholds(read_json(path), path, score_settings(precision="float32", **hashes))
    assert verdict(thresholds, -7.0) == MADE and verdict(thresholds, 0.0) == NOT


def test_dry_run_writes_nothing(run_main, tmp_path):
    arguments = ("attribute.py", "datasets/demo", *GENERATOR, "--calibration", tmp_path / "x.json")
    done = run_main(*arguments, "--calibrate", "datasets/demo", "--output", tmp_path / "output", "--dry_run")
    assert done.returncode == 0 and "Would attribute 24 files" in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_study_and_its_figure(calibration, data, run_main, tmp_path):
    arguments = ("studies/attribution.py", data, *GENERATOR, "--calibration", calibration, "--n", 6, "--robust_n", 2)
    where = ("--output", tmp_path / "scores", "--results", tmp_path, "--cache", tmp_path / "cache", "--quiet")
    done = run_main(*arguments, *where, "--other_seed", "tests.tiny:other_seed")
    assert done.returncode == 0, done.stderr
    assert "earlier checkpoint: left out, no --earlier" in done.stdout
    records = read_jsonl(tmp_path / "attribution.jsonl")
    plain = {record["set"]: record for record in records if record["transformation"] == "none"}
    spoken = ["espeak-ng"] if shutil.which("espeak-ng") else []
    assert list(plain) == ["own samples", "another seed", "real clips", *spoken, "Griffin-Lim"]
    assert plain["own samples"]["verdicts"] == {MADE: 6, RELATED: 0, ABSTAINS: 0, NOT: 0}
    for name in plain.keys() - {"own samples"}:
        assert (
            plain[name]["inversion"]["auroc"] == pytest.approx([1, *share_interval(6, 6)]) and plain[name]["n"] == 6
        ), name
    assert {record["transformation"] for record in records} == {"none", *TRANSFORMATIONS}
    assert plain["real clips"]["commit"] and plain["real clips"]["thresholds"]["own"] == 12

    others = [record | {"generator_sha256": "0", "generator": "related"} for record in records[:2]]
    verdicts, _ = figure(records + others).axes
    labels = [label.get_text() for label in verdicts.get_yticklabels()]
    assert labels[0] == "own samples, n = 6" and "own samples, MP3, n = 2" in labels
    assert labels[-2] == "own samples (generator: related), n = 6"

    done = run_main(*arguments, *where, "--negatives", "earlier checkpoint")
    assert done.returncode == 2 and "--robust_n 2: needs 'real clips' among --negatives" in done.stderr
    done = run_main(*arguments, *where, "--seed", 0)
    assert done.returncode == 2 and "--seed 0: is the calibration's" in done.stderr
    done = run_main(*arguments, *where, "--other_seed", "tests.tiny:generator")
    assert done.returncode == 2 and "--other_seed tests.tiny:generator: is --generator itself" in done.stderr
