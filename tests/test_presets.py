"""Preset `paper`: one protocol in every script, by networks that were trained for it. A judge is no loss in any."""

import pytest

from models.classifier import find_classifier
from models.encoder import find_encoder
from utils.options import JUDGES, PAPER_RECOVERY


def plan(done) -> dict[str, str]:
    """The options that --dry_run prints."""
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()[:-1]]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def test_the_published_protocol_is_the_same_in_every_script(run_main):
    recovery = plan(run_main("latent_vector_recovery.py", "datasets/demo", "--preset", "paper", "--dry_run"))
    tables = plan(run_main("calculate_metrics.py", "--all", "--preset", "paper", "--dry_run"))
    for name, value in PAPER_RECOVERY.items():
        assert recovery[name] == tables[name] == str(value)
    detection = plan(run_main("deepfake_detection.py", "--preset", "paper", "--dry_run"))
    encoder, classifier = (
        plan(run_main(script, "--preset", "paper", "--dry_run")) for script in ("train.py", "train_sc09_classifier.py")
    )
    assert detection["encoder"] == PAPER_RECOVERY["encoder"] and encoder["classifier"] == PAPER_RECOVERY["classifier"]
    for trained in (encoder, classifier):
        assert (trained["front_end"], trained["alignment"], trained["width"]) == ("stft_real", "paper", "64")
    assert detection["alignment"] == "paper" and encoder["domain_statistics"] == "False"


def test_where_the_papers_networks_are_not_there_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for find, name, script in (
        (find_encoder, "encoder", "train.py"),
        (find_classifier, "classifier", "train_sc09_classifier.py"),
    ):
        path = PAPER_RECOVERY[name]
        with pytest.raises(Exception, match=f"^{path}: no such {name}; {script} --preset paper --export {path} trains"):
            find(path)
        with pytest.raises(Exception, match=f"{script} --export .*/{name}.keras trains one"):
            find("elsewhere.keras")


@pytest.mark.parametrize("judge", JUDGES)
def test_a_judge_is_refused_as_a_loss(run_main, tmp_path, judge):
    for script, *more in (
        ("latent_vector_recovery.py", "datasets/demo", "--objective", "feature=1"),
        ("calculate_metrics.py", "datasets/demo", "--method", "gradient"),
        ("train.py", "datasets/demo"),
    ):
        done = run_main(script, *more, "--classifier", f"./{judge}", "--output", tmp_path / "out")
        assert done.returncode == 2, done.stdout
        assert done.stderr.startswith(f"error: --classifier ./{judge}: is a judge, which must take part in no loss")
    done = run_main("train_wavegan.py", "datasets/demo", "--judge", judge)
    assert done.returncode == 2 and "unrecognized arguments: --judge" in done.stderr
