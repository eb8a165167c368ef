"""Inverting many clips into a folder: WAVs and latents of each, written as they are found, so that a run goes on.

A result is a record of `utils.inversion.store` (`clips/NAME/METHOD.npz`, which `utils.inversion.latents` reads too): of
one clip by one method. A run that is started again computes what it lacks, with the bytes of an uninterrupted run.
"""

import copy
import csv
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils import metrics
from utils.audio import files as audio
from utils.domains import REAL, SYNTHETIC
from utils.errors import UserError
from utils.inversion.align import move_back, place
from utils.inversion.exactness import match
from utils.inversion.latents import Latents, latent_arrays, stack_curves
from utils.inversion.methods import Recovered, Recovery
from utils.inversion.store import Record, ResultStore, read_npz
from utils.runs.files import (
    append_jsonl,
    atomic_path,
    file_sha256,
    is_local,
    read_jsonl,
    remove_torn,
    to_json,
)
from utils.runs.folders import require_folder
from utils.runs.interrupts import Interrupt

RESULTS, SUMMARY, FAILURES = "results.jsonl", "summary.csv", "failures.jsonl"
FILE, OWN_SAMPLE = "file", "own sample"
READERS, READ_TOGETHER = 16, 1000  # an object store answers each slowly, and many at once
OVERLAP = 16  # consecutive windows share this part of their length
Placement = tuple[np.ndarray, np.ndarray]  # offset and gain_db [W], as `place` takes them


@dataclass(frozen=True)
class Source:
    """A clip to invert: a file, or the generator's own sample number `index`.

    Attributes:
        name: in results.
        folder: of its results, relative to the run's.
    """

    name: str
    folder: str
    path: Path | None = None
    index: int | None = None

    @property
    def kind(self) -> str:
        return OWN_SAMPLE if self.path is None else FILE


def own_samples(n: int) -> list[Source]:
    """The first n samples of the generator's prior, by the run's seed."""
    return [Source(f"own sample {i}", f"own_samples/{i:03}", index=i) for i in range(n)]


def files_below(base: Path, files: Iterable[Path]) -> list[Source]:
    """Files, named as from the folder `base`."""
    names = [file.relative_to(base).as_posix() for file in files]
    return [Source(name, f"clips/{name}", path=base / name) for name in names]


class RecoveryFolder:
    """The results of a run, in memory and on disk: `begin` it, then `recover` its clips, or `add` what workers did.

    Args:
        folder: of the run.
        recoveries: how latents are found, of sources of each kind.
        methods: names in `utils.inversion.methods.METHODS`, in the order in which they are applied and reported.
        sources: all clips of the run.
        generator: in float32; its own samples are made by it.
        options: JSON-able, kept with the latents.
        window: as in `utils.audio.files.load_clip`; consecutive windows overlap by a sixteenth.
        alignment: a name in `utils.audio.files.ALIGNMENTS`.
        batch_size: windows computed together.
        store: of the clips' WAVs and latents, if not `folder`; also of an object store.
        align: float32 `[W, T, C]` windows to offset and gain (`utils.inversion.align.align`); None: files as they are.

    Attributes:
        failures: reason by source's name.
    """

    def __init__(
        self,
        folder: Path,
        recoveries: Mapping[str, Recovery],
        methods: Sequence[str],
        sources: Sequence[Source],
        *,
        generator: Any,
        options: dict[str, Any],
        window: str,
        alignment: str,
        batch_size: int,
        store: Path | None = None,
        align: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    ):
        self.folder, self.recoveries, self.methods, self.sources = folder, recoveries, methods, sources
        self.generator, self.options, self.window, self.alignment = generator, options, window, alignment
        self.batch_size, self.align = batch_size, align
        self.failures: dict[str, str] = {}
        self._store = ResultStore(store or folder)
        self._results: dict[tuple[Source, str], dict[str, Any]] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        self._apart = False

    def results(self) -> list[dict[str, Any]]:
        """The lines of results.jsonl, one a clip and method: what `write_page` of `utils.report.page` takes, and
        `latents` (the npz), `sample_rate` (Hz); `seconds` is None where a run was killed before it was noted."""
        keys = [(source, method) for source in self.sources for method in self.methods]
        return [self._results[key] for key in keys if key in self._results]

    def write_tables(self) -> None:
        """results.jsonl and summary.csv."""
        rows = self.results()
        with atomic_path(self.folder / RESULTS) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(to_json(row) + "\n" for row in rows)
        with atomic_path(self.folder / SUMMARY) as temporary:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]) if rows else ["source"])
                writer.writeheader()
                writer.writerows(rows)

    def begin(self, *, read: bool = True) -> None:
        """Forgets what failed before, which is tried again, and reads what was done before an interruption.

        Args:
            read: False where others recover the clips (`recover_apart`), and read themselves.
        """
        (self.folder / FAILURES).unlink(missing_ok=True)
        self._seconds = {(row["source"], row["method"]): row["seconds"] for row in read_jsonl(self.folder / RESULTS)}
        if read:
            self._read(self.sources)

    def recover_apart(self, group: Sequence[Source], scratch: Path | None = None) -> tuple[list[dict], dict[str, str]]:
        """For a worker: results and failures (reason by name) of one group, to be taken by `add` of the run's process.

        Only the clips' own files are written. What the store has is read, not computed again.

        Args:
            group: as `groups` cuts them.
            scratch: a folder in place of the store, for a trial that leaves no results.
        """
        self._require_folder()
        apart = copy.copy(self)
        apart.failures, apart._results, apart._apart = {}, {}, True
        apart._store = ResultStore(scratch) if scratch else self._store
        apart._read(group)
        apart._recover_group(group, tqdm(disable=True))
        return list(apart._results.values()), apart.failures

    def add(self, group: Sequence[Source], results: Iterable[dict[str, Any]], failures: Mapping[str, str]) -> None:
        """Takes what a worker's `recover_apart` gave for a group."""
        require_folder(self.folder)
        by_name = {source.name: source for source in group}
        for row in results:
            key = row["source"], row["method"]
            seconds = self._seconds.get(key) if row["seconds"] is None else row["seconds"]
            row = {sys.intern(name): value for name, value in row.items()}  # a million rows share their names
            self._results[by_name[row["source"]], row["method"]] = row | {"seconds": seconds}
        for name, reason in failures.items():
            self.fail(name, reason)

    def manifest_rows(self) -> Iterator[dict[str, Any]]:
        """Rows of `utils.report.manifest`: one a clip and method, with the latents of those that have a result."""

        def row(source: Source, method: str) -> dict[str, Any]:
            result = self._results.get((source, method))
            if result is None:
                error = self.failures.get(source.name)
                missing = {"status": "failed" if error else "not done", "error": error}
                return {"source": source.name, "method": method, "kind": source.kind} | missing
            arrays = read_npz(self._store.folder / result["latents"])
            lists = {"z": arrays["z"], "z_true": arrays.get("z_true"), "window_objective": arrays["objective"]}
            lists = {name: value if value is None else value.tolist() for name, value in lists.items()}
            return result | lists | {"source_sha256": str(arrays["source_sha256"])}

        keys = [(source, method) for source in self.sources for method in self.methods]
        with ThreadPoolExecutor(READERS) as pool:
            for first in range(0, len(keys), READ_TOGETHER):
                yield from pool.map(lambda key: row(*key), keys[first : first + READ_TOGETHER])

    def fail(self, name: str, reason: str) -> None:
        """Notes in failures.jsonl, and says, that a clip has no result."""
        self.failures[name] = reason
        if not self._apart:
            append_jsonl(self.folder / FAILURES, {"source": name, "reason": reason})
            tqdm.write(f"failed: {name}: {reason}", file=sys.stderr)

    def recover(self, sources: Sequence[Source], bar: tqdm, interrupt: Interrupt) -> None:
        """Inverts the clips among `sources`, all of one kind, that have no result yet; what fails is noted.

        Raises:
            KeyboardInterrupt: as `interrupt` says.
        """
        for group in self.groups(sources):
            if interrupt.asked:
                raise KeyboardInterrupt
            self._require_folder()
            self._recover_group(group, bar)

    def groups(self, sources: Sequence[Source]) -> list[Sequence[Source]]:
        """The clips that are computed together, always: rounding depends on the clips beside."""
        return [sources[first : first + self.batch_size] for first in range(0, len(sources), self.batch_size)]

    def _require_folder(self) -> None:
        if is_local(self._store.folder):
            require_folder(self._store.folder)

    def _read(self, sources: Iterable[Source]) -> None:
        for source in sources:
            methods = [method for method in self.methods if self._store.path(_record_name(source, method)).exists()]
            try:
                sha256 = self._sha256(source) if methods else ""
            except UserError:
                continue  # it will fail when it is loaded
            for method in methods:
                record = self._store.read(_record_name(source, method), self._key(source, method, sha256))
                if record:
                    self._results[source, method] = record.facts | {"seconds": self._seconds.get((source.name, method))}

    def _sha256(self, source: Source) -> str:
        if source.path is not None:
            return file_sha256(source.path)
        return audio.own_sample_sha256(self.generator.fingerprint, self._recovery(source).seed, source.index)

    def _recovery(self, source: Source) -> Recovery:
        return self.recoveries[source.kind]

    def _key(self, source: Source, method: str, sha256: str) -> dict[str, Any]:
        """All that a result depends on."""
        clip = {"clip_sha256": sha256, "window": self.window, "alignment": self.alignment}
        clip["align"] = self.align is not None and source.kind == FILE
        return clip | self._recovery(source).settings(method)

    def _recover_group(self, group: Sequence[Source], bar: tqdm) -> None:
        """Computes and writes what a group lacks."""
        lacking = {source: [m for m in self.methods if (source, m) not in self._results] for source in group}
        clips = self._load(group, lacking) if any(lacking.values()) else {}
        placements = self._align(clips)
        for method in self.methods:
            if any(method in lacking[source] for source in clips):
                found = self._search(clips, placements, method, _postfix(bar, method))
                for source, parts in found.items():
                    if method in lacking[source]:
                        recovered, seconds = zip(*parts, strict=True)
                        recovered = Recovered.concatenate(recovered)
                        self._write(source, clips[source], method, recovered, placements.get(source), sum(seconds))
        if not bar.disable:
            bar.initial += sum(not methods for methods in lacking.values())  # done before: no part of the speed
        bar.update(len(group))

    def _align(self, clips: dict[Source, audio.Clip]) -> dict[Source, Placement]:
        """Offset and gain of the windows of each file, where they are wanted."""
        files = {source: clip for source, clip in clips.items() if source.kind == FILE}
        if not (self.align and files):
            return {}
        offset, gain_db = self.align(np.concatenate([clip.windows for clip in files.values()]))
        ends = np.cumsum([len(clip.windows) for clip in files.values()])[:-1]
        return dict(zip(files, zip(np.split(offset, ends), np.split(gain_db, ends), strict=True), strict=True))

    def _search(
        self, clips: dict[Source, audio.Clip], placements: dict[Source, Placement], method: str, progress: Any
    ) -> dict[Source, list[tuple[Recovered, float]]]:
        """Each clip's windows and their seconds; the first windows of all clips together, then the next ones, which may
        start from the latents of those before them."""
        windows = {
            source: place(clip.windows, *placements[source]) if source in placements else clip.windows
            for source, clip in clips.items()
        }
        found: dict[Source, list[tuple[Recovered, float]]] = {source: [] for source in clips}
        for k in range(max(map(len, windows.values()))):
            some = [source for source in clips if k < len(windows[source])]
            recovered, seconds = self._recovery(some[0]).in_batches(
                method,
                np.stack([windows[source][k] for source in some]),
                [clips[source].identities[k] for source in some],
                REAL if some[0].kind == FILE else SYNTHETIC,
                batch_size=self.batch_size,
                progress=progress,
                neighbours=np.concatenate([found[source][-1][0].z for source in some]) if k else None,
            )
            for i, source in enumerate(some):
                found[source].append((recovered[i : i + 1], float(seconds[i])))
        return found

    def _load(self, group: Sequence[Source], lacking: dict[Source, list[str]]) -> dict[Source, audio.Clip]:
        """The clips of a group that can be read, by source; originals of those that lack a result are written."""
        clips = {}
        for source in group:
            try:
                clip = clips[source] = self._render(source) if source.path is None else self._decode(source)
            except (UserError, OSError) as error:
                self.fail(source.name, str(error).removeprefix(f"{source.path}: "))
                continue
            if lacking[source]:
                folder = self._store.folder / source.folder
                remove_torn(folder)
                original = audio.join_windows(clip.windows, clip.provenance)
                audio.write_wav(folder / "original.wav", original, clip.provenance["resampled_to"])
        return clips

    def _decode(self, source: Source) -> audio.Clip:
        shape = self.generator.num_samples, self.generator.num_channels, self.generator.sample_rate
        overlap = self.generator.num_samples // OVERLAP if self.window == "all" else 0
        return audio.load_clip(source.path, *shape, self.window, audio.ALIGNMENTS[self.alignment], overlap)

    def _render(self, source: Source) -> audio.Clip:
        provenance = {
            "source": source.name,
            "sha256": self._sha256(source),
            "resampled_to": self.generator.sample_rate,
            "window_starts": [0],
            "valid_length": self.generator.num_samples,
        }
        return audio.Clip(self.generator(self._true_latent(source)).numpy(), provenance)

    def _true_latent(self, source: Source) -> np.ndarray | None:
        """The z `[1, latent_dim]` that an own sample was made from."""
        if source.index is None:
            return None
        return self.generator.sample_prior(self._recovery(source).seed, 1, start=source.index)

    def _write(
        self,
        source: Source,
        clip: audio.Clip,
        method: str,
        recovered: Recovered,
        placement: Placement | None,
        seconds: float,
    ) -> None:
        """Writes a reconstruction, and then the record that makes it done."""
        if not recovered.finite.all():
            self.fail(source.name, f"{method}: the generator or the objective is not finite for it")
            return
        rate, z_true = clip.provenance["resampled_to"], self._true_latent(source)
        original = audio.join_windows(clip.windows, clip.provenance)
        offset, gain_db = placement or (None, None)
        windows = move_back(recovered.audio, *placement) if placement else recovered.audio
        reconstruction = audio.join_windows(windows, clip.provenance)
        folder = self._store.folder / source.folder
        audio.write_wav(folder / f"{method}.wav", reconstruction, rate)
        for i, window in enumerate(windows if len(windows) > 1 else ()):
            audio.write_wav(folder / f"{method}_windows" / f"{i:03}.wav", window, rate)
        recovery = self._recovery(source)
        prior_distance = recovery.inverter.prior_distance(recovered.z)
        space = "z" if prior_distance is None else "projected"
        z_true = z_true if space == "z" else None
        latents = Latents(
            z=recovered.z,
            z_true=z_true,
            generator=self.generator.fingerprint,
            method=method,
            seed=recovery.seed,
            source=clip.provenance["source"],
            source_sha256="" if source.path is None else clip.provenance["sha256"],
            options=self.options,
            provenance=clip.provenance,
            objective=recovered.objective,
            evaluations=recovered.evaluations,
            status=np.array(recovered.status),
            curve=stack_curves(recovered.curve),
            match=match(original, reconstruction) if space == "z" else "",
            space=space,
            prior_distance=prior_distance,
            offset=offset,
            gain_db=gain_db,
        )
        name = _record_name(source, method)
        facts = {
            "source": source.name,
            "method": method,
            "kind": source.kind,
            "space": space,
            "original": f"{source.folder}/original.wav",
            "reconstruction": f"{source.folder}/{method}.wav",
            "latents": f"{name}.npz",
            "windows": len(recovered.z),
            "sample_rate": rate,
            "objective": float(recovered.objective.mean()),
            "waveform_mse": metrics.waveform_mse(original, reconstruction),
            "ssim": metrics.ssim(original, reconstruction),
            "snr_db": metrics.snr_db(original, reconstruction),
            "z_mse": None if z_true is None else metrics.latent_mse(recovered.z, z_true),
            "match": latents.match,
            "prior_distance": None if prior_distance is None else float(prior_distance.mean()),
            "offset_ms": None if offset is None else float(offset.mean() * 1000 / rate),
            "gain_db": None if gain_db is None else float(gain_db.mean()),
            "evaluations": int(recovered.evaluations.sum()),
            "status": recovered.status[0] if len(set(recovered.status)) == 1 else "mixed",
        }
        key = self._key(source, method, clip.provenance["sha256"])
        self._store.write(name, key, Record(facts, latent_arrays(latents)))
        self._results[source, method] = facts | {"seconds": round(seconds, 3)}


def _record_name(source: Source, method: str) -> str:
    return f"{source.folder}/{method}"


def _postfix(bar: tqdm, method: str):
    """Shows on a bar how a search goes, as often as the bar is drawn; None where it is not drawn."""
    shown_at = time.monotonic()

    def show(running: int, objective: float) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > bar.mininterval:
            shown_at = time.monotonic()
            bar.set_postfix_str(f"{method}: {running} starts run, objective {objective:.4f}")

    return None if bar.disable else show
