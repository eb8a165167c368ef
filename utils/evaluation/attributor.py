"""The score of attribution for many clips: each is inverted as exactly as can be, once, into a keyed store."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.domains import SYNTHETIC
from utils.errors import UserError, one_line
from utils.evaluation.attribution import residual_score
from utils.inversion.methods import from_encoder
from utils.inversion.search import NEIGHBOURS, LatentSearch
from utils.inversion.store import Record, ResultStore, array_sha256

PROTOCOL = "attribution 4"  # counts up whenever the same clip begins to get another score
# Own samples are found by at most a dozen Jacobians; under noise of 10 dB they begin at 0.35, where speech does.
NEAR, JACOBIANS = 0.5, (20, 10)


class Attributor:
    """Scores clips by what is left of them when their best reconstruction is taken away.

    By the search for the latent itself (`utils.inversion.search`), from the encoder's answer, or without an encoder
    from the nearest of a bank of samples.

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
        self._generator, self._encode, self.settings = generator, encode, settings
        exact = None if fast is generator else generator
        self._search = LatentSearch(
            fast, exact=exact, neighbours=0 if encode else NEIGHBOURS, near=NEAR, jacobians=JACOBIANS, cache=cache
        )
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
            than the rounding of the clip's samples), `evaluations` of the generator, `seconds`.
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
        return [record.facts for record in records]

    def _records(self, audio: np.ndarray) -> list[Record]:
        started_at = time.monotonic()
        starts = np.empty((len(audio), 0, self._generator.latent_dim), np.float32)
        if self._encode is not None:
            starts = from_encoder(self._generator, lambda clips: self._encode(clips, SYNTHETIC), audio)
        found = self._search(audio, starts)
        reconstructions = np.asarray(self._generator(found.z))
        seconds = (time.monotonic() - started_at) / len(audio)
        records = []
        for i, clip in enumerate(audio):
            facts = {
                "score": residual_score(clip, reconstructions[i]),
                "exact": bool(found.exact[i] and clip.any()),
                "evaluations": int(found.evaluations[i]),
                "seconds": seconds,
            }
            records.append(Record(facts, {"z": found.z[i]}))
        return records


def score_settings(**networks: Any) -> dict[str, Any]:
    """All that a score depends on besides the clip, of the networks what the caller tells; JSON-able."""
    return {"protocol": PROTOCOL, **networks}
