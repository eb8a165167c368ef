"""Telling real audio from synthetic audio: features, cross-validated classifiers, and the table of results.

The labels are `REAL` and `SYNTHETIC`; a score is a classifier's decision value, above 0 for synthetic. Nothing
but the training clips of a fold reaches the classifier of that fold, scaling included.
"""

import csv
import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from scipy import ndimage, stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from utils.audio.datasets import to_float, to_int16
from utils.spectrograms import spectrogram

REAL, SYNTHETIC = 0, 1
FOLDS = 10
SPECTROGRAMS, LATENTS = "spectrograms", "predicted latents"
CLIPPED_LATENTS = "predicted latents, clipped into the box"
UNTRAINED_LATENTS = "answers of an untrained encoder"
TAIL_LEVEL = "tail level"
CONDITIONS = {
    "as_is": "as they are",
    "pcm16": "both rounded to 16 bit",
    "matched": "real silence and level as the synthetic clips', then both rounded to 16 bit",
}
SHORTEST_SILENCE = 32  # samples, 2 ms at 16 kHz: a quiet recording has shorter runs of zeros by chance
TAIL_SHARE = 64  # the tail is the last 1/64 of a clip: 256 of 16384 samples, inside a one-second clip's padding
SILENCE_POWER = 1e-12  # -120 dB

# The paper's Table 3, accuracy by (feature, classifier).
PAPER = {
    (SPECTROGRAMS, "logistic regression"): 0.515,
    (SPECTROGRAMS, "SVM"): 0.6749,
    (LATENTS, "logistic regression"): 0.9199,
    (LATENTS, "SVM"): 0.915,
}


# ---- clips ----------------------------------------------------------------------


def pcm_round_trip(audio: np.ndarray) -> np.ndarray:
    """float audio in [-1, 1] through 16-bit PCM and back: float32, same shape."""
    return to_float(to_int16(audio))


def digital_silence(audio: np.ndarray) -> np.ndarray:
    """Which samples lie in a run of at least `SHORTEST_SILENCE` exact zeros, in all channels.

    Args:
        audio: `[B, T, C]`.

    Returns:
        bool `[B, T]`.
    """
    return ndimage.binary_opening((audio == 0).all(axis=-1), np.ones((1, SHORTEST_SILENCE)))


def match_silence_and_level(clips: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """Gives each clip the digital silence and the level of a synthetic donor.

    Where a clip is digitally silent (`digital_silence`: padding, mostly) it takes its donor's samples at the same
    places; the rest is scaled to the donor's RMS over the rest. So the result has the donor's RMS, and its former
    silence is distributed as those places of a synthetic clip are. Samples beyond full scale are cut to -1 or 1.
    Of a clip that is silence throughout, the donor remains.

    Args:
        clips: float32 `[B, T, C]` in [-1, 1].
        donors: likewise; clips that are used for nothing else, so that no sample stands in both classes.

    Returns:
        float32 `[B, T, C]` in [-1, 1].
    """
    silent = digital_silence(clips)[..., np.newaxis]
    power, wanted = (np.sum(np.square(x, dtype=np.float64), axis=(1, 2), where=~silent) for x in (clips, donors))
    gain = np.sqrt(wanted / np.where(power > 0, power, 1))[:, np.newaxis, np.newaxis]
    return np.clip(np.where(silent, donors, clips * gain), -1, 1).astype(np.float32)


def prepare(condition: str, clips: np.ndarray, donors: np.ndarray | None) -> np.ndarray:
    """Clips `[B, T, C]` under one of `CONDITIONS`. Donors are for clips read from files, None for synthetic ones."""
    if condition not in CONDITIONS:
        raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}. Received: {condition!r}")
    if condition == "matched" and donors is not None:
        clips = match_silence_and_level(clips, donors)
    return clips if condition == "as_is" else pcm_round_trip(clips)


# ---- features -------------------------------------------------------------------


def features(
    audio: np.ndarray, z: np.ndarray, reconstruction: np.ndarray, *, front_end: str, clip_to_prior: bool
) -> dict[str, np.ndarray]:
    """Everything that a classifier is tried on, by name: the paper's two, clipped latents, one-number baselines.

    Args:
        audio: float32 `[B, T, C]` in [-1, 1].
        z: float32 `[B, latent_dim]`, the encoder's answer to it.
        reconstruction: float32 `[B, T, C]`, the generator's output at z.
        front_end: of `utils.spectrograms`. The reconstruction error is the mean absolute difference of these.
        clip_to_prior: whether the prior is the box [-1, 1], into which latents can be clipped.

    Returns:
        float32 `[B, D]` each.
    """
    seen, made = (spectrogram(tf.constant(x), front_end).numpy() for x in (audio, reconstruction))
    tail = audio[:, -max(1, audio.shape[1] // TAIL_SHARE) :]
    numbers = {
        TAIL_LEVEL: _level_db(tail),
        "RMS level": _level_db(audio),
        "norm of z": np.linalg.norm(z, axis=1),
        "largest |z|": np.abs(z).max(axis=1),
        "reconstruction error": np.abs(seen - made).mean(axis=(1, 2, 3)),
    }
    wide = {SPECTROGRAMS: seen.reshape(len(seen), -1), LATENTS: z}
    if clip_to_prior:
        wide[CLIPPED_LATENTS] = np.clip(z, -1, 1)
    return wide | {name: values[:, np.newaxis].astype(np.float32) for name, values in numbers.items()}


def _level_db(audio: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.mean(np.square(audio, dtype=np.float64), axis=(1, 2)) + SILENCE_POWER)


# ---- classifiers ----------------------------------------------------------------


def _logistic_regression() -> Pipeline:
    # The rotation onto principal components loses nothing and, as the penalty is rotation invariant, changes no
    # answer; it makes the problem as small as the number of clips where a spectrogram has 16,512 values.
    return make_pipeline(StandardScaler(), PCA(svd_solver="full"), LogisticRegression(max_iter=1000))


def _svm() -> Pipeline:
    return make_pipeline(StandardScaler(), SVC())


CLASSIFIERS: dict[str, Callable[[], Pipeline]] = {"logistic regression": _logistic_regression, "SVM": _svm}


class HeldOut(NamedTuple):
    """Decision values of clips that their classifier was not trained on.

    scores: float `[N]`, above 0 for synthetic.
    labels: int `[N]`, the truth.
    folds: int `[N]`, which classifier gave the score.
    """

    scores: np.ndarray
    labels: np.ndarray
    folds: np.ndarray


def cross_validate(
    x: np.ndarray,
    labels: np.ndarray,
    classifier: str,
    *,
    seed: int,
    folds: int = FOLDS,
    foreign: np.ndarray | None = None,
) -> tuple[HeldOut, HeldOut | None]:
    """Stratified, shuffled cross-validation: each clip is scored by the classifier trained without its fold.

    Args:
        x: `[N, D]`.
        labels: `[N]`, `REAL` or `SYNTHETIC`, at least `folds` of each.
        classifier: a name in `CLASSIFIERS`.
        seed: of the folds.
        folds: their number.
        foreign: `[M, D]`, M >= folds: synthetic clips for testing only. Each is scored by one of the classifiers.

    Returns:
        The N scores; and, with `foreign`, its M scores beside the real clips' of the same folds.
    """
    scores, fold_of = np.zeros(len(x)), np.zeros(len(x), int)
    dealt = np.zeros(0, int) if foreign is None else np.random.default_rng(seed).permutation(len(foreign)) % folds
    foreign_scores = np.zeros(len(dealt))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, labels)
    for fold, (train, test) in enumerate(splits):
        model = CLASSIFIERS[classifier]().fit(x[train], labels[train])
        scores[test], fold_of[test] = model.decision_function(x[test]), fold
        if foreign is not None:
            foreign_scores[dealt == fold] = model.decision_function(foreign[dealt == fold])
    own = HeldOut(scores, labels, fold_of)
    if foreign is None:
        return own, None
    real = HeldOut(*(column[labels == REAL] for column in own))
    theirs = HeldOut(foreign_scores, np.full(len(dealt), SYNTHETIC), dealt)
    return own, HeldOut(*map(np.concatenate, zip(real, theirs, strict=True)))


def equal_error_rate(labels: np.ndarray, scores: np.ndarray) -> float:
    """The error rate at the threshold where as large a share of real as of synthetic clips is misjudged.

    The ROC is interpolated linearly between its points: constant scores have 0.5.
    """
    false_positives, true_positives, _ = roc_curve(labels, scores, drop_intermediate=False)
    false_negatives = 1 - true_positives
    return float(np.interp(0, false_positives - false_negatives, false_positives))


def measure(held_out: HeldOut) -> dict[str, float]:
    """Accuracy, area under the ROC, equal error rate: each of every fold, then the mean over folds.

    Not of all scores together: those of different classifiers have no common scale, and mixing them pushes an
    uninformative feature's AUC away from 0.5. Accuracy is the mean over the two classes (for classes of one size,
    the usual one).
    """
    by_fold = []
    for fold in np.unique(held_out.folds):
        scores, labels, _ = (column[held_out.folds == fold] for column in held_out)
        by_fold.append(
            (
                balanced_accuracy_score(labels, scores > 0),
                roc_auc_score(labels, scores),
                equal_error_rate(labels, scores),
            )
        )
    return dict(zip(("accuracy", "auc", "eer"), np.mean(by_fold, axis=0).tolist(), strict=True))


# ---- the table ------------------------------------------------------------------


def confidence_interval(accuracies: Iterable[float], decisions: int) -> tuple[float, float]:
    """95 % interval of the mean accuracy over repeats with fresh clips.

    Student's t over the repeats. One repeat, or repeats that agree wholly, tell nothing of their spread: then
    Wilson's interval over all decisions.

    Args:
        accuracies: one per repeat, in [0, 1].
        decisions: clips judged in each repeat.
    """
    values = np.asarray(list(accuracies), np.float64)
    if len(values) > 1 and values.std() > 0:
        half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
        return max(0.0, float(values.mean() - half)), min(1.0, float(values.mean() + half))
    total = decisions * len(values)
    low, high = stats.binomtest(round(values.mean() * total), total).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def summarise(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table's cells, in the order of the records' first appearance.

    Args:
        records: one for each repeat and cell: `condition`, `tested_on`, `feature`, `classifier`, `decisions` (clips
            judged), `accuracy`, `auc`, `eer`.

    Returns:
        For each cell the first four, the means over repeats of the last three, `low` and `high` (95 % interval of
        the accuracy), `repeats`, and `paper`, the paper's accuracy or None.
    """
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        key = tuple(record[name] for name in ("condition", "tested_on", "feature", "classifier"))
        cells.setdefault(key, []).append(record)
    summary = []
    for (condition, tested_on, feature, classifier), repeats in cells.items():
        low, high = confidence_interval([r["accuracy"] for r in repeats], repeats[0]["decisions"])
        summary.append(
            {"condition": condition, "tested_on": tested_on, "feature": feature, "classifier": classifier}
            | {name: float(np.mean([r[name] for r in repeats])) for name in ("accuracy", "auc", "eer")}
            | {"low": low, "high": high, "repeats": len(repeats)}
            | {"paper": PAPER.get((feature, classifier)) if tested_on == "own" else None}
        )
    return summary


def to_markdown(summary: list[dict[str, Any]]) -> str:
    """One table for each condition and test set: a row per feature, accuracies in percent with their interval."""
    cells = {(c["condition"], c["tested_on"], c["feature"], c["classifier"]): c for c in summary}
    lines = []
    for condition, tested_on in dict.fromkeys(key[:2] for key in cells):
        test = "" if tested_on == "own" else f"; tested on the clips of {tested_on}"
        lines += ["", f"**Clips: {CONDITIONS[condition]}{test}**", ""]
        header = ["feature"]
        for name in CLASSIFIERS:
            header += [f"{name}: paper", "ours (95 % interval)", "AUC", "EER"]
        lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        for feature in dict.fromkeys(key[2] for key in cells if key[:2] == (condition, tested_on)):
            row = [feature]
            for name in CLASSIFIERS:
                cell = cells[condition, tested_on, feature, name]
                row += [
                    "" if cell["paper"] is None else f"{cell['paper']:.1%}",
                    f"{cell['accuracy']:.1%} ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})",
                    f"{cell['auc']:.3f}",
                    f"{cell['eer']:.1%}",
                ]
            lines.append("| " + " | ".join(row).replace("|z|", r"\|z\|").replace("%", " %") + " |")
    return "\n".join(lines[1:]) + "\n"


def to_csv(summary: list[dict[str, Any]]) -> str:
    """The cells as CSV, one a line, shares in [0, 1]; an empty field where the paper has no number."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(summary[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary)
    return text.getvalue()
