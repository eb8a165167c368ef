"""Telling real audio from synthetic audio: cross-validated classifiers, and the cells of Table 3.

The labels are `REAL_LABEL` and `SYNTHETIC_LABEL`; a score is a classifier's decision value, above 0 for synthetic.
Nothing but the training clips of a fold reaches the classifier of that fold, scaling included.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from utils.evaluation.comparison import compare_repeats, share_interval
from utils.evaluation.detection_features import Extractor
from utils.evaluation.names import CONDITIONS, FOLDS, LATENTS, LOGISTIC_REGRESSION, SPECTROGRAMS, SVM
from utils.inversion.store import Record, ResultStore, key_sha256
from utils.runs.progress import progress_bar

REAL_LABEL, SYNTHETIC_LABEL = 0, 1
REFERENCES = (SPECTROGRAMS, LATENTS)  # that every feature is compared with


# ---- classifiers ----------------------------------------------------------------


def _logistic_regression() -> Pipeline:
    # The rotation onto principal components loses nothing and, as the penalty is rotation invariant, changes no
    # answer; it makes the problem as small as the number of clips where a spectrogram has 16,512 values.
    return make_pipeline(StandardScaler(), PCA(svd_solver="full"), LogisticRegression(max_iter=1000))


def _svm() -> Pipeline:
    return make_pipeline(StandardScaler(), SVC())


CLASSIFIERS: dict[str, Callable[[], Pipeline]] = {LOGISTIC_REGRESSION: _logistic_regression, SVM: _svm}


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
        labels: `[N]`, `REAL_LABEL` or `SYNTHETIC_LABEL`, at least `folds` of each.
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
    real = HeldOut(*(column[labels == REAL_LABEL] for column in own))
    theirs = HeldOut(foreign_scores, np.full(len(dealt), SYNTHETIC_LABEL), dealt)
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


def detect(
    extractor: Extractor, seeds: Iterable[int], store: ResultStore, settings: Mapping[str, Any], *, quiet: bool = False
) -> list[dict[str, Any]]:
    """Every seed, condition, feature and classifier; what the store has is not computed again.

    Args:
        extractor: gives clips and features.
        seeds: one a repeat, of clips and folds.
        store: a record for each of them.
        settings: JSON-able: all else that a number depends on.
        quiet: no progress bar.

    Returns:
        For each `seed`, `condition`, `feature`, `classifier`; `own`, and with foreign clips `foreign`: `decisions`
        (clips judged), `accuracy`, `auc`, `eer`; `seconds` since the one before, so that they add up to the wall time.
    """
    seeds, results = list(seeds), []
    folder = key_sha256(settings)[:16]
    with progress_bar("detection", len(seeds) * len(CONDITIONS), unit="table", quiet=quiet) as bar:
        for seed in seeds:
            drawn, started = None, time.monotonic()
            for condition in CONDITIONS:
                groups = None
                for feature in extractor.names:
                    for classifier in CLASSIFIERS:
                        cell = {"seed": seed, "condition": condition, "feature": feature, "classifier": classifier}
                        name = f"{folder}/{seed}/{condition}/{_file_name(f'{feature} {classifier}')}"
                        key = {**settings, **cell}
                        record = store.read(name, key)
                        if record is None:
                            drawn = drawn or extractor.draw(seed)
                            groups = groups or extractor(condition, drawn)
                            numbers = _measure_groups([group[feature] for group in groups], classifier, seed)
                            record = Record(numbers | {"seconds": round(time.monotonic() - started, 3)})
                            store.write(name, key, record)
                            started = time.monotonic()
                        results.append(cell | record.facts)
                bar.update()
    return results


def _file_name(text: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in text)


def _measure_groups(groups: list[np.ndarray], classifier: str, seed: int) -> dict[str, dict[str, float]]:
    """Cross-validation of one feature, `[B, D]` for real, synthetic and perhaps foreign clips."""
    labels = np.repeat([REAL_LABEL, SYNTHETIC_LABEL], [len(group) for group in groups[:2]])
    foreign = groups[2] if len(groups) > 2 else None
    own, theirs = cross_validate(np.concatenate(groups[:2]), labels, classifier, seed=seed, foreign=foreign)
    tests = {"own": own} | ({} if theirs is None else {"foreign": theirs})
    return {test: {"decisions": len(held_out.labels), **measure(held_out)} for test, held_out in tests.items()}


def confidence_interval(accuracies: Iterable[float], decisions: int) -> tuple[float, float]:
    """95 % interval of the mean accuracy over repeats with fresh clips.

    Student's t over the repeats. One repeat, or repeats that agree wholly, tell nothing of their spread: then
    the interval of a share of all decisions.

    Args:
        accuracies: one per repeat, in [0, 1].
        decisions: clips judged in each repeat.
    """
    values = np.asarray(list(accuracies), np.float64)
    if len(values) > 1 and values.std() > 0:
        half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
        return max(0.0, float(values.mean() - half)), min(1.0, float(values.mean() + half))
    total = decisions * len(values)
    return share_interval(round(values.mean() * total), total)


def summarise(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cells of Table 3, those of the own test clips first.

    Args:
        results: as `detect` gives them.

    Returns:
        For each cell `condition`, `tested_on` ("own" or "foreign"), `feature`, `classifier`; the means over repeats of
        `accuracy`, `auc` and `eer`; `low` and `high` (95 % interval of the accuracy); `repeats`; `against`, by feature
        of `REFERENCES`, what `compare_repeats` says of the accuracies.
    """
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for tested_on in ("own", "foreign"):
        for result in results:
            if tested_on in result:
                key = (result["condition"], tested_on, result["feature"], result["classifier"])
                cells.setdefault(key, []).append(result[tested_on])
    summary = []
    for (condition, tested_on, feature, classifier), repeats in cells.items():
        accuracies = [r["accuracy"] for r in repeats]
        low, high = confidence_interval(accuracies, repeats[0]["decisions"])
        against = {}
        for other in REFERENCES:
            theirs = cells.get((condition, tested_on, other, classifier))
            if theirs and other != feature:
                against[other] = compare_repeats(accuracies, [r["accuracy"] for r in theirs])
        summary.append(
            {"condition": condition, "tested_on": tested_on, "feature": feature, "classifier": classifier}
            | {name: float(np.mean([r[name] for r in repeats])) for name in ("accuracy", "auc", "eer")}
            | {"low": low, "high": high, "repeats": len(repeats), "against": against}
        )
    return summary
