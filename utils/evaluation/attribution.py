"""Was this clip made by this generator? The score, the verdict and its thresholds.

The score of a clip is the decimal logarithm of what is left of its energy when the best reconstruction that the search
for its latent found is taken away: 0 where silence does as well or better, -3 where a thousandth is left, about -7
where a 16-bit clip is matched to the rounding of its samples. A generator reaches its own samples and little else
(Albright & McCloskey 2019, arXiv 1905.02259). A low score alone does not say that it was this one: an earlier
checkpoint of the same training comes as low. Only a clip matched to the rounding of its samples does.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.audio.files import Clip
from utils.domains import SYNTHETIC
from utils.errors import UserError, one_line
from utils.inversion.placed import PlacedSearch
from utils.inversion.problem import in_float32
from utils.inversion.search import LatentSearch
from utils.inversion.store import Record, ResultStore, array_sha256

MADE, RELATED, NOT, ABSTAINS = "made by this generator", "related", "not", "abstains"
VERDICTS = (MADE, RELATED, ABSTAINS, NOT)
# What a verdict leaves open, as users read it.
NOT_EXACT = "not exact: altered since, or made by a related generator"
LOSSY = "lossy file: a related generator cannot be excluded"
LOWEST_SCORE = -16.0  # below float32 arithmetic: what an energy of zero is left at
FALSE_MADE, FALSE_NOT = 0.01, 0.05  # rates that the thresholds hold to, where there are clips enough
MARGIN = 1.0  # a tenth of the energy that clips of other origin leave
PROTOCOL = "attribution 5"  # counts up whenever the same clip begins to get another score


def residual_score(original: np.ndarray, reconstruction: np.ndarray) -> float | None:
    """log10 of the residual's energy over the clip's, `[T, C]` both, at most 0, which silence in place of the
    reconstruction has; None for a silent clip, or where it is not finite."""
    original = np.asarray(original, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        energy, residual = np.sum(original**2), np.sum((original - reconstruction) ** 2)
    if energy == 0 or not np.isfinite(residual):
        return None
    return float(np.log10(np.clip(residual / energy, 10**LOWEST_SCORE, 1.0)))


class Attributor:
    """Scores clips by what is left of them when their best reconstruction is taken away.

    By the search for the latent itself (`utils.inversion.search`), from the encoder's answer, or without an encoder
    from the nearest of a bank of samples. With an encoder, clips whose latent is not found are searched again for
    latent, offset and gain (`utils.inversion.placed`), and the better of both answers counts.

    Args:
        generator: in float32, as in `utils.inversion.methods`, with `name`.
        fast: the same generator in the run's precision.
        encode: audio `[B, T, C]` and its domain to z; None: without.
        settings: see `score_settings`.
        cache: folder in which the bank is kept between processes.

    Raises:
        UserError: for a generator without forward-mode derivatives.
    """

    def __init__(
        self,
        generator: Any,
        fast: Any,
        encode: Callable | None,
        *,
        settings: dict[str, Any],
        cache: Path | None = None,
    ):
        self._generator, self.settings = generator, settings
        self._search = LatentSearch(fast, encode=encode and partial(encode, domain=SYNTHETIC), cache=cache)
        self._placed = encode and PlacedSearch(fast, encode=partial(encode, domain=SYNTHETIC))
        try:
            self._search.check()
        except Exception as error:  # whatever a foreign network may raise
            raise UserError(
                f"--generator: {generator.name} has no forward-mode derivatives, which exact inversion needs: "
                f"{type(error).__name__}: {one_line(error)}"
            ) from error

    def __call__(
        self, audio: np.ndarray, store: ResultStore, *, batch_size: int, bar: tqdm | None = None
    ) -> list[dict[str, Any]]:
        """Scores float32 `[N, T, C]`, `batch_size` together; what is in the store is not computed again.

        Returns:
            Per clip `score` (None for silence, or where the generator was not finite), `exact` (whether no more is left
            than the rounding of the clip's samples), `offset_ms` and `gain_db` that bring the clip to where the
            generator has it, `evaluations` of the generator, `seconds`, and `z` `[latent_dim]`.
        """
        keys = [{"audio_sha256": array_sha256(clip), **self.settings} for clip in audio]
        names = [f"scores/{key['audio_sha256']}" for key in keys]
        records = [store.read(name, key) for name, key in zip(names, keys, strict=True)]
        pending = [i for i, record in enumerate(records) if record is None]
        if bar is not None:
            bar.update(len(audio) - len(pending))
        for first in range(0, len(pending), batch_size):
            batch = pending[first : first + batch_size]
            for i, record in zip(batch, self._records(audio[batch]), strict=True):
                store.write(names[i], keys[i], record)
                records[i] = record
            if bar is not None:
                bar.update(len(batch))
        return [record.facts | {"z": record.arrays["z"]} for record in records]

    def _records(self, audio: np.ndarray) -> list[Record]:
        started_at = time.monotonic()
        found = self._search(audio)
        z, exact, evaluations = found.z, found.exact, found.evaluations
        reconstructions = np.array(self._generator(z))
        offset_ms, gain_db = np.zeros(len(audio)), np.zeros(len(audio))
        lost = np.flatnonzero(~exact & audio.any(axis=(1, 2)))
        if self._placed and lost.size:
            moved = self._placed(audio[lost])
            placed_z, offset, gain = self._placed.generator.split(moved.z)
            elsewhere = np.asarray(in_float32(self._placed.generator)(moved.z))
            errors = (np.square(x - audio[lost]).mean(axis=(1, 2)) for x in (elsewhere, reconstructions[lost]))
            better = moved.exact | (moved.in_range & np.less(*errors))
            evaluations[lost] += moved.evaluations
            which = lost[better]
            z[which], exact[which], reconstructions[which] = placed_z[better], moved.exact[better], elsewhere[better]
            offset_ms[which] = 1000 * offset[better] / self._generator.sample_rate
            gain_db[which] = gain[better]
        seconds = (time.monotonic() - started_at) / len(audio)
        records = []
        for i, clip in enumerate(audio):
            facts = {
                "score": residual_score(clip, reconstructions[i]),
                "exact": bool(exact[i] and clip.any()),
                "offset_ms": float(offset_ms[i]),
                "gain_db": float(gain_db[i]),
                "evaluations": int(evaluations[i]),
                "seconds": seconds,
            }
            records.append(Record(facts, {"z": z[i]}))
        return records


def is_lossless(clip: Clip) -> bool:
    """Whether a clip's samples are those of its file, whose format keeps what was written: neither a lossy codec, nor
    another rate, nor a mix of channels stands between the generator's samples and these."""
    facts = clip.provenance
    kept = str(facts["original_subtype"]).startswith(("PCM", "FLOAT", "DOUBLE", "ALAC"))
    same_rate = facts["original_rate"] == facts["resampled_to"]
    return kept and same_rate and facts["original_channels"] == clip.windows.shape[-1]


def score_settings(**networks: Any) -> dict[str, Any]:
    """All that a score depends on besides the clip: protocol, and what the caller says of the networks; JSON-able."""
    return {"protocol": PROTOCOL, **networks}


# ---- verdicts -------------------------------------------------------------------


@dataclass(frozen=True)
class Thresholds:
    """Where the verdicts begin; between the two is abstained.

    Attributes:
        made_below: of a clip of other origin, like those of the calibration, the score is lower with a probability of
            at most `false_made`.
        not_above: of an own sample the score is as high or higher with a probability of at most `false_not`.
        false_made, false_not: those probabilities.
        own, others: how many scores of each the thresholds rest on.
    """

    made_below: float
    not_above: float
    false_made: float
    false_not: float
    own: int
    others: int

    def verdict(self, score: float | None, *, exact: bool, lossless: bool = True) -> tuple[str, str]:
        """The verdict on a clip, and what it leaves open.

        Args:
            score: None where there is none.
            exact: whether the reconstruction is the clip up to the rounding of its samples.
            lossless: whether the clip could be that, see `is_lossless`.

        Returns:
            MADE, RELATED (as near as own samples, but neither exact nor, for a reason that is known, unable to be),
            NOT, or ABSTAINS (between the thresholds, and where there is no score); and `NOT_EXACT`, `LOSSY` or "".
        """
        if score is None:
            return ABSTAINS, ""
        if score < self.made_below:
            return (MADE, "") if exact else (RELATED, NOT_EXACT) if lossless else (MADE, LOSSY)
        return (NOT if score >= self.not_above else ABSTAINS), ""


def calibrate(own: Sequence[float], others: Sequence[float]) -> Thresholds:
    """Thresholds from scores of own samples and of clips of other origin, at least one of each.

    The k-th lowest of n scores is above a further one of their kind with a probability of at most k / (n + 1) (split
    conformal prediction; Vovk et al. 2005): k is the largest that keeps the wanted rate, but at least 1. So are found
    the lowest score of others and the highest of own samples that count. Where searches stall the two overlap, and are
    the thresholds. Where they leave a gap, NOT begins at its upper end, and MADE halfway down, but at most `MARGIN`
    below that end: related generators score lower than the clips of the calibration, and altered own samples
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
        raise UserError(f"{path}: not a calibration that attribute.py --calibrate wrote; make it again") from None
    for name, value in settings.items():
        if calibrated.get(name) != value:
            raise UserError(
                f"{path}: was calibrated with {name} {calibrated.get(name)}, this run has {value}; give the same, or "
                "calibrate again: attribute.py --calibrate DATA"
            )
    return thresholds
