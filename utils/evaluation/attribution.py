"""Was this clip made by this generator? The score, the verdict and its thresholds, and how good they are.

The score of a clip is the decimal logarithm of what is left of its energy when the best reconstruction that the search
for its latent found is taken away: 0 where silence does as well or better, -3 where a thousandth is left, about -7
where a 16-bit clip is matched to the rounding of its samples. A generator reaches its own samples and little else
(Albright & McCloskey 2019, arXiv 1905.02259).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.signal
from sklearn.metrics import roc_auc_score, roc_curve

from utils.errors import UserError
from utils.numpy_spectrograms import stft

MADE, NOT, ABSTAINS = "made by this generator", "not", "abstains"
LOWEST_SCORE = -16.0  # below float32 arithmetic: what an energy of zero is left at
FALSE_MADE, FALSE_NOT = 0.01, 0.05  # rates that the thresholds hold to, where there are clips enough
MARGIN = 1.0  # a tenth of the energy that clips of other origin leave
RESAMPLES = 200  # of the bootstrap


def residual_score(original: np.ndarray, reconstruction: np.ndarray) -> float | None:
    """log10 of the residual's energy over the clip's, `[T, C]` both, at most 0, which silence in place of the
    reconstruction has; None for a silent clip, or where it is not finite."""
    original = np.asarray(original, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        energy, residual = np.sum(original**2), np.sum((original - reconstruction) ** 2)
    if energy == 0 or not np.isfinite(residual):
        return None
    return float(np.log10(np.clip(residual / energy, 10**LOWEST_SCORE, 1.0)))


@dataclass(frozen=True)
class Thresholds:
    """Where the verdicts begin; between the two is abstained.

    Attributes:
        made_below: of a clip of other origin, like those of the calibration, the score is lower with a probability of
            at most `false_made`.
        not_above: of an own sample the score is higher with a probability of at most `false_not`.
        false_made, false_not: those probabilities.
        own, others: how many scores of each the thresholds rest on.
    """

    made_below: float
    not_above: float
    false_made: float
    false_not: float
    own: int
    others: int

    def verdict(self, score: float | None) -> str:
        """MADE, NOT, or ABSTAINS: between the thresholds, and where there is no score."""
        if score is None:
            return ABSTAINS
        if score < self.made_below:
            return MADE
        return NOT if score > self.not_above else ABSTAINS


def calibrate(own: Sequence[float], others: Sequence[float]) -> Thresholds:
    """Thresholds from scores of own samples and of clips of other origin, at least one of each.

    The k-th lowest of n scores is above a further one of their kind with a probability of at most k / (n + 1) (split
    conformal prediction; Vovk et al. 2005): k is the largest that keeps the wanted rate, but at least 1. So are found
    the lowest score of others and the highest of own samples that count. Where searches stall the two overlap, and are
    the thresholds. Where they leave a gap, NOT begins at its upper end, and MADE halfway down, but at most `MARGIN`
    below that end: generators that are kin come nearer than the clips of the calibration, and altered own samples
    should still be found.
    """
    ranks = [max(1, int(rate * (len(x) + 1))) for rate, x in ((FALSE_MADE, others), (FALSE_NOT, own))]
    lowest, highest = float(np.sort(others)[ranks[0] - 1]), float(np.sort(own)[-ranks[1]])
    gap = max(0.0, lowest - highest)
    return Thresholds(
        made_below=lowest - min(MARGIN, gap / 2),
        not_above=max(lowest, highest),
        false_made=ranks[0] / (len(others) + 1),
        false_not=ranks[1] / (len(own) + 1),
        own=len(own),
        others=len(others),
    )


def calibration_record(own: Sequence[float], others: Sequence[float], **facts: Any) -> dict[str, Any]:
    """What is kept of a calibration, JSON-able: the thresholds, the scores behind them, and `facts`."""
    return {"thresholds": asdict(calibrate(own, others)), **facts, "scores": {"own": own, "others": others}}


def read_thresholds(record: Any, path: Any, settings: dict[str, Any]) -> Thresholds:
    """The thresholds in a calibration's record.

    Args:
        record: as `calibration_record` gave it.
        path: of its file, for messages.
        settings: of the search whose scores are to be judged.

    Raises:
        UserError: for another generator or another search, whose scores mean something else, or another file.
    """
    try:
        thresholds, calibrated = Thresholds(**record["thresholds"]), record["settings"]
    except (TypeError, KeyError):
        raise UserError(f"{path}: not a calibration that attribute.py --calibrate wrote; make it anew") from None
    for name, value in settings.items():
        if calibrated.get(name) != value:
            raise UserError(
                f"{path}: was calibrated with {name} {calibrated.get(name)}, this run has {value}; give the same, or "
                "calibrate anew: attribute.py --calibrate DATA"
            )
    return thresholds


# ---- the cheap baseline ---------------------------------------------------------------


class Fingerprint:
    """Attribution without inversion, after Pizarro et al. 2024 (arXiv 2411.14013): the mean residual of own samples.

    A clip's residual is what a low-pass filter takes away (fourth-order Butterworth at an eighth of the rate, forwards
    and backwards); its mark is the residual's log power spectrum, mean over frames, over the clip's own level. The
    score is the correlation of a clip's mark with the mean mark.

    Args:
        own: float32 `[N, T, C]`, N of at least 2.
        sample_rate: in Hz.
    """

    FRAME = 512

    def __init__(self, own: np.ndarray, sample_rate: int):
        self._filter = scipy.signal.butter(4, sample_rate / 8, fs=sample_rate, output="sos")
        marks = self._marks(own)
        self._mean = marks.mean(axis=0)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Correlations in [-1, 1] of clips `[N, T, C]`, higher for the generator's own; 0 for silence."""
        marks = self._marks(audio)
        marks, mean = marks - marks.mean(axis=1, keepdims=True), self._mean - self._mean.mean()
        norms = np.linalg.norm(marks, axis=1) * np.linalg.norm(mean)
        return np.divide(marks @ mean, norms, out=np.zeros(len(marks)), where=norms > 1e-9)

    def _marks(self, audio: np.ndarray) -> np.ndarray:
        audio = np.asarray(audio, np.float64)
        residual = audio - scipy.signal.sosfiltfilt(self._filter, audio, axis=1)
        spectra = stft(np.pad(residual, [(0, 0), (self.FRAME // 2, 0), (0, 0)]), self.FRAME, self.FRAME // 2)
        power = np.square(np.abs(spectra) / (self.FRAME / 2)).mean(axis=(1, 3))
        level = np.mean(np.square(residual), axis=(1, 2))[:, None]
        return np.log(power + 1e-6 * level + 1e-20)


# ---- how good a score is --------------------------------------------------------------


def auroc(own: np.ndarray, others: np.ndarray) -> float:
    """Probability that an own sample scores lower than another clip; ties count half."""
    return float(roc_auc_score(*_labelled(own, others)))


def tpr_at_fpr(own: np.ndarray, others: np.ndarray, rate: float = 0.01) -> float:
    """Largest share of own samples found by a threshold that finds at most `rate` of the others."""
    false, true, _ = roc_curve(*_labelled(own, others), drop_intermediate=False)
    return float(true[false <= rate].max())


def equal_error_rate(own: np.ndarray, others: np.ndarray) -> float:
    """Where the ROC curve, its points joined by lines, has as many misses as false alarms (shares)."""
    false, true, _ = roc_curve(*_labelled(own, others), drop_intermediate=False)
    surplus = false + true - 1  # grows along the curve, from -1 to 1
    after = int(np.argmax(surplus >= 0))
    share = -surplus[after - 1] / (surplus[after] - surplus[after - 1])
    return float(false[after - 1] + share * (false[after] - false[after - 1]))


MEASURES = {"auroc": auroc, "tpr_at_1_fpr": tpr_at_fpr, "eer": equal_error_rate}


def separation(own: np.ndarray, others: np.ndarray, *, seed: int) -> dict[str, Any]:
    """`MEASURES` of scores that are lower for own samples, each with its 95 % bootstrap interval.

    Args:
        own: float `[N]`.
        others: float `[M]`.
        seed: of the bootstrap, which draws from either class by itself.

    Returns:
        By measure `[value, low, high]`.
    """
    own, others, random = np.asarray(own), np.asarray(others), np.random.default_rng(seed)
    drawn = [[random.choice(x, len(x)) for x in (own, others)] for _ in range(RESAMPLES)]
    facts = {}
    for name, measure in MEASURES.items():
        low, high = np.percentile([measure(*pair) for pair in drawn], [2.5, 97.5])
        facts[name] = [measure(own, others), float(low), float(high)]
    return facts


def _labelled(own: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As scikit-learn takes them: 1 for own samples, and scores that are higher for them."""
    return np.repeat([1, 0], [len(own), len(others)]), -np.concatenate([own, others])
