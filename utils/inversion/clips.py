"""What is computed of a clip: it is read or generated, placed, inverted by each method, and measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from utils import metrics
from utils.audio import files as audio
from utils.domains import REAL, SYNTHETIC
from utils.inversion.align import Placements, move_back
from utils.inversion.exactness import is_found, match
from utils.inversion.methods import Progress, Recovered, Recovery
from utils.inversion.sources import FILE, Source
from utils.numpy_spectrograms import log_mel
from utils.runs.batches import in_batches
from utils.runs.files import file_sha256

OVERLAP = 16  # consecutive windows share this part of their length
PIECE = 2**20  # samples of a long clip that are compared together

Align = Callable[[np.ndarray], Placements]  # of windows [W, T, C]
Judge = Callable[[np.ndarray], list[dict[str, str]]]  # audio [N, T, C] to class and confidence by judge


@dataclass(frozen=True)
class Loaded:
    """A clip as it is to be inverted.

    Attributes:
        source: of it.
        clip: float32 windows `[W, T, C]`, and what was done to get them.
        z_true: float32 `[1, latent_dim]` that an own sample was generated from; None for a file.
        placements: of the W windows; None: inverted as they are.
        judged: what judges answer for it, by the name of a row's field; empty where there are none.
    """

    source: Source
    clip: audio.Clip
    z_true: np.ndarray | None = None
    placements: Placements | None = None
    judged: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def original(self) -> np.ndarray:
        """The windows joined, float32 `[N, C]`."""
        return audio.join_windows(self.clip.windows, self.clip.provenance)

    @cached_property
    def windows(self) -> np.ndarray:
        """What is inverted, float32 `[W, T, C]`."""
        return self.clip.windows if self.placements is None else self.placements.place(self.clip.windows)


@dataclass(frozen=True)
class Inverted:
    """The result of a method for a clip.

    Attributes:
        recovered: latents of its W windows.
        windows: float32 `[W, T, C]`, their reconstructions, where the clip's windows lie.
        reconstruction: the same joined, float32 `[N, C]`.
        seconds: that it took.
    """

    recovered: Recovered
    windows: np.ndarray
    reconstruction: np.ndarray
    seconds: float


@dataclass(frozen=True)
class ClipRecovery:
    """How clips become results: all that a result depends on but the clip.

    Attributes:
        generator: in float32; its own samples are made by it.
        recoveries: how latents are found, of sources of each kind.
        window: as in `utils.audio.files.load_clip`; consecutive windows overlap by a sixteenth.
        alignment: a name in `utils.audio.files.ALIGNMENTS`.
        batch_size: windows computed together.
        align: offset and gain of files (`models.recovery.make_aligner`); None: files as they are.
        judge: what classifiers answer for clips of one window; None where there are none.
    """

    generator: Any
    recoveries: Mapping[str, Recovery]
    window: str
    alignment: str
    batch_size: int
    align: Align | None = None
    judge: Judge | None = None

    def recovery(self, source: Source) -> Recovery:
        return self.recoveries[source.kind]

    def sha256(self, source: Source) -> str:
        """Of the file, or what stands for it.

        Raises:
            UserError: if the file cannot be read.
        """
        if source.path is not None:
            return file_sha256(source.path)
        return audio.own_sample_sha256(self.generator.fingerprint, self.recovery(source).seed, source.index)

    def key(self, source: Source, method: str, sha256: str) -> dict[str, Any]:
        """All that the latents depend on; JSON-able."""
        clip = {"clip_sha256": sha256, "window": self.window, "alignment": self.alignment}
        clip["align"] = self.align is not None and source.kind == FILE
        return clip | self.recovery(source).settings(method)

    def load(self, source: Source) -> Loaded:
        """Reads a file, or generates an own sample.

        Raises:
            UserError, OSError: if the file cannot be read.
        """
        num_samples, num_channels, rate = self.generator.clip_shape
        if source.path is not None:
            overlap = num_samples // OVERLAP if self.window == "all" else 0
            alignment = audio.ALIGNMENTS[self.alignment]
            shape = num_samples, num_channels, rate
            return Loaded(source, audio.load_clip(source.path, *shape, self.window, alignment, overlap))
        z = self.generator.sample_prior(self.recovery(source).seed, 1, start=source.index)
        provenance = {"source": source.name, "sha256": self.sha256(source), "resampled_to": rate}
        provenance |= {"window_starts": [0], "valid_length": num_samples}
        return Loaded(source, audio.Clip(self.generator(z).numpy(), provenance), z_true=z)

    def prepare(self, clips: Sequence[Loaded]) -> list[Loaded]:
        """The same clips, all of one kind, with what is to be known of them before they are inverted."""
        if self.align and clips and clips[0].source.kind == FILE:
            placements = self.align(np.concatenate([loaded.clip.windows for loaded in clips]))
            ends = np.cumsum([len(loaded.clip.windows) for loaded in clips])
            clips = [
                replace(loaded, placements=placements.some(slice(end - len(loaded.clip.windows), end)))
                for loaded, end in zip(clips, ends, strict=True)
            ]
        answers = self._judge([loaded.clip.windows for loaded in clips], "clip")
        return [replace(loaded, judged=judged) for loaded, judged in zip(clips, answers, strict=True)]

    def invert(self, clips: Sequence[Loaded], method: str, progress: Progress | None) -> list[Inverted]:
        """Clips of one kind by one method; the first windows of all together, then the next ones, which may start from
        the latents of those before them."""
        found: list[list[tuple[Recovered, float]]] = [[] for _ in clips]
        for k in range(max(len(loaded.windows) for loaded in clips)):
            some = [i for i, loaded in enumerate(clips) if k < len(loaded.windows)]
            source = clips[some[0]].source
            recovered, seconds = self.recovery(source).in_batches(
                method,
                np.stack([clips[i].windows[k] for i in some]),
                [clips[i].clip.identities[k] for i in some],
                REAL if source.kind == FILE else SYNTHETIC,
                batch_size=self.batch_size,
                progress=progress,
                neighbours=np.concatenate([found[i][-1][0].z for i in some]) if k else None,
            )
            for row, i in enumerate(some):
                found[i].append((recovered[row : row + 1], float(seconds[row])))
        return [self._joined(loaded, *zip(*parts, strict=True)) for loaded, parts in zip(clips, found, strict=True)]

    def _joined(self, loaded: Loaded, recovered: Sequence[Recovered], seconds: Sequence[float]) -> Inverted:
        whole = Recovered.concatenate(recovered)
        windows = whole.audio
        if loaded.placements is not None:
            windows = move_back(windows, loaded.placements.offset, loaded.placements.gain_db)
        return Inverted(whole, windows, audio.join_windows(windows, loaded.clip.provenance), sum(seconds))

    def measure(self, clips: Sequence[Loaded], inverted: Sequence[Inverted]) -> list[dict[str, Any]]:
        """Per clip the numbers of its row, see `utils.inversion.folder`, of the audio as it is written; an empty dict
        where the generator or the objective was not finite."""
        finite = [bool(found.recovered.finite.all()) for found in inverted]
        judged = self._judge(
            [found.windows if ok else [] for found, ok in zip(inverted, finite, strict=True)], "reconstruction"
        )
        return [
            self._numbers(loaded, found) | loaded.judged | answers if ok else {}
            for loaded, found, answers, ok in zip(clips, inverted, judged, finite, strict=True)
        ]

    def _numbers(self, loaded: Loaded, found: Inverted) -> dict[str, Any]:
        original, reconstruction, recovered = loaded.original, found.reconstruction, found.recovered
        rate, source = loaded.clip.provenance["resampled_to"], loaded.source
        prior_distance = self.recovery(source).inverter.prior_distance(recovered.z)
        in_prior, placed = prior_distance is None, loaded.placements
        z_mse = metrics.latent_mse(recovered.z, loaded.z_true) if in_prior and loaded.z_true is not None else None
        return {
            "space": "z" if in_prior else "projected",
            "windows": len(recovered.z),
            "sample_rate": rate,
            "objective": float(recovered.objective.mean()),
            "log_mel_distance": log_mel_distance(original, reconstruction, rate),
            "log_mel_distance_silence": log_mel_distance(original, np.zeros_like(original), rate),
            "f0_error": f0_error(loaded.clip.windows, found.windows, rate) if source.kind == FILE else None,
            "waveform_mse": metrics.waveform_mse(original, reconstruction),
            "ssim": metrics.ssim(original, reconstruction),
            "snr_db": metrics.snr_db(original, reconstruction),
            "match": match(original, reconstruction) if in_prior else "",
            "z_mse": z_mse,
            "found": None if z_mse is None else is_found(z_mse),
            "prior_distance": None if in_prior else float(prior_distance.mean()),
            "offset_ms": placed and float(placed.offset.mean() * 1000 / rate),
            "gain_db": placed and float(placed.gain_db.mean()),
            "evaluations": int(recovered.evaluations.sum()),
            "status": recovered.status[0] if len(set(recovered.status)) == 1 else "mixed",
            "notes": "; ".join(loaded.clip.notes),
        }

    def _judge(self, clips: Sequence[np.ndarray], suffix: str) -> list[dict[str, Any]]:
        """Fields of each clip's row; of those of several windows none."""
        fields: list[dict[str, Any]] = [{} for _ in clips]
        single = [i for i, windows in enumerate(clips) if len(windows) == 1]
        if self.judge and single:
            answers = self.judge(np.concatenate([clips[i] for i in single]))
            for i, answer in zip(single, answers, strict=True):
                fields[i] = {f"{name}_{suffix}": text for name, text in answer.items()}
        return fields


def log_mel_distance(original: np.ndarray, reconstruction: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference of the log-mel spectrograms of `[N, C]` audio, in nepers."""
    total = 0.0
    for first in range(0, len(original), PIECE):
        pieces = original[first : first + PIECE], reconstruction[first : first + PIECE]
        a, b = (log_mel(piece, sample_rate) for piece in pieces)
        total += np.abs(a - b).mean() * len(pieces[0])
    return float(total / len(original))


def f0_error(original: np.ndarray, reconstruction: np.ndarray, sample_rate: int) -> float | None:
    """`utils.metrics.f0_error` of windows `[W, T, C]`, in semitones; None where too few frames are voiced."""
    tracks = (in_batches(lambda w: metrics.f0(w, sample_rate), x, OVERLAP) for x in (original, reconstruction))
    return metrics.f0_error(*(track.ravel() for track in tracks))
