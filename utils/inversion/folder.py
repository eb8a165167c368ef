"""What is kept of a recovery: WAVs and latents of each clip, written as they are found, so that a run resumes.

A result is a record of `utils.inversion.store` (`clips/NAME/METHOD.npz`, which `utils.inversion.latents` reads too): of
one clip by one method. A run that is started again computes what it lacks, with the bytes of an uninterrupted run.
"""

import copy
import errno
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.audio.files import write_wav
from utils.errors import UserError
from utils.inversion.clips import ClipRecovery, Inverted, Loaded
from utils.inversion.latents import Latents, latent_arrays, stack_curves
from utils.inversion.methods import Progress
from utils.inversion.sources import Source
from utils.inversion.store import Record, ResultStore, read_npz
from utils.report.manifest import latent_columns
from utils.runs.files import append_jsonl, atomic_path, is_local, read_jsonl, remove_torn, to_json, write_csv
from utils.runs.folders import require_folder
from utils.runs.interrupts import Interrupt
from utils.runs.progress import MovingBar

RESULTS, SUMMARY, FAILURES = "results.jsonl", "summary.csv", "failures.jsonl"
# What a file system says of a name that it cannot hold, or of a file that is too large for it.
REFUSED = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EFBIG, errno.ENOTDIR, errno.ELOOP)
READERS, READ_TOGETHER = 16, 1000  # an object store answers each slowly, and many at once


class RecoveryFolder:
    """The results of a run, in memory and on disk: `begin` it, then `recover` its clips, or `add` what workers did.

    Args:
        folder: of the run.
        computation: how clips become results.
        methods: names in `utils.inversion.names.METHODS`, in the order in which they are applied and reported.
        sources: all clips of the run.
        options: JSON-able, kept with the latents.
        store: of the clips' WAVs and latents, if not `folder`; also of an object store.

    Attributes:
        failures: reason by source's name.
    """

    def __init__(
        self,
        folder: Path,
        computation: ClipRecovery,
        methods: Sequence[str],
        sources: Sequence[Source],
        *,
        options: dict[str, Any],
        store: Path | None = None,
    ):
        self.folder, self.computation, self.methods, self.sources = folder, computation, methods, sources
        self.options = options
        self.failures: dict[str, str] = {}
        self._store = ResultStore(store or folder)
        self._results: dict[tuple[Source, str], dict[str, Any]] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        self._apart = False

    def results(self) -> list[dict[str, Any]]:
        """The lines of results.jsonl, one a clip and method.

        Each has `source`, `method`, `kind`, the paths `original`, `reconstruction` and `latents` relative to the store,
        the numbers of `ClipRecovery.measure`, and `seconds`, None where a run was killed before it was noted:
        `windows`, `sample_rate` (Hz), `space`, `objective` (mean over windows), `log_mel_distance` and
        `log_mel_distance_silence` (of silence in the reconstruction's place; nepers), `f0_error` (semitones; of files,
        None where no pitch is detected), `waveform_mse`, `ssim`, `snr_db` (None for silence), `match` ("exact" or
        "approximate", empty in another space than z), `z_mse` and `found` (None where the latent is not known),
        `prior_distance`, `offset_ms`, `gain_db` (None where they do not apply), `evaluations`, `status`, `notes`
        (about the clip, joined by "; "). Where judges take part also `judge_NAME_clip` and `judge_NAME_reconstruction`
        (the class and its probability), of clips of one window.
        """
        keys = [(source, method) for source in self.sources for method in self.methods]
        return [self._results[key] for key in keys if key in self._results]

    def write_tables(self) -> None:
        """results.jsonl and summary.csv."""
        rows = self.results()
        with atomic_path(self.folder / RESULTS) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(to_json(row) + "\n" for row in rows)
        write_csv(self.folder / SUMMARY, rows, columns=["source"])

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
            named = (arrays["z"], arrays.get("z_true"), arrays["objective"], str(arrays["source_sha256"]))
            return result | latent_columns(*named)

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

    def recover_all(
        self, own: Sequence[Source], files: Sequence[Source], interrupt: Interrupt, *, quiet: bool = False
    ) -> None:
        """Inverts own samples and files, each with a bar of progress.

        All files are read first, so that what cannot be read is said before a search begins; where that is all there
        is, none begins.

        Raises:
            KeyboardInterrupt: as `interrupt` says.
        """
        with MovingBar("reading", len(files), quiet=quiet) as bar:
            readable = self.check(files, bar, interrupt)
        for title, sources in (("own samples", own), ("files", files)) if readable else ():
            with MovingBar(title, len(sources), quiet=quiet or not sources) as bar:
                self.recover(sources, bar, interrupt)

    def check(self, sources: Sequence[Source], bar: tqdm, interrupt: Interrupt) -> int:
        """How many of `sources` can be inverted; the others fail here, before a search begins."""
        for source in sources:
            if interrupt.asked:
                raise KeyboardInterrupt
            if any((source, method) not in self._results for method in self.methods):
                self._loaded(source)
            bar.update()
        return sum(source.name not in self.failures for source in sources)

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
        """The clips that are computed together, always: on a GPU rounding depends on the clips beside."""
        size = self.computation.batch_size
        return [sources[first : first + size] for first in range(0, len(sources), size)]

    def _require_folder(self) -> None:
        if is_local(self._store.folder):
            require_folder(self._store.folder)

    def _read(self, sources: Iterable[Source]) -> None:
        for source in sources:
            try:
                methods = [method for method in self.methods if self._store.path(_record_name(source, method)).exists()]
                sha256 = self.computation.sha256(source) if methods else ""
            except (UserError, OSError):
                continue  # it will fail when it is loaded, or when a folder is made for it
            for method in methods:
                key = self.computation.key(source, method, sha256)
                record = self._store.read(_record_name(source, method), key)
                if record:
                    self._results[source, method] = record.facts | {"seconds": self._seconds.get((source.name, method))}

    def _recover_group(self, group: Sequence[Source], bar: tqdm) -> None:
        """Computes and writes what a group lacks."""
        lacking = {source: [m for m in self.methods if (source, m) not in self._results] for source in group}
        clips: list[Loaded] = []
        if any(lacking.values()):
            clips = [
                loaded for source in group if source.name not in self.failures and (loaded := self._loaded(source))
            ]
            clips = self.computation.prepare(clips)
        for loaded in clips:
            if lacking[loaded.source]:
                self._write_original(loaded)
        for method in self.methods:
            if any(method in lacking[loaded.source] for loaded in clips):
                inverted = self.computation.invert(clips, method, _postfix(bar, method))
                numbers = self.computation.measure(clips, inverted)
                for loaded, found, measured in zip(clips, inverted, numbers, strict=True):
                    if method in lacking[loaded.source]:
                        self._keep(loaded, method, found, measured)
        if not bar.disable:
            bar.initial += sum(not methods for methods in lacking.values())  # done before: no part of the speed
        bar.update(len(group))

    def _loaded(self, source: Source) -> Loaded | None:
        """A clip that has a folder for its results; None where it fails for want of either."""
        try:
            loaded = self.computation.load(source)
        except (UserError, OSError) as error:
            self.fail(source.name, str(error).removeprefix(f"{source.path}: "))
            return None
        return loaded if self._written(source, _make_folder) else None

    def _written(self, source: Source, write: Callable[[Path], None]) -> bool:
        """Whether `write` could write into a clip's folder; a clip whose own fault it is, by its name or size, fails
        alone."""
        try:
            write(self._store.folder / source.folder)
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            if source.name not in self.failures:
                self.fail(source.name, f"its results cannot be written to {self._store.folder}: {error.strerror}")
            return False
        return True

    def _write_original(self, loaded: Loaded) -> None:
        def write(folder: Path) -> None:
            remove_torn(folder)
            write_wav(folder / "original.wav", loaded.original, loaded.clip.provenance["resampled_to"])

        self._written(loaded.source, write)

    def _keep(self, loaded: Loaded, method: str, found: Inverted, measured: dict[str, Any]) -> None:
        """Writes a reconstruction, and then the record that makes it done."""
        source, provenance, recovered = loaded.source, loaded.clip.provenance, found.recovered
        if not measured:
            self.fail(source.name, f"{method}: the generator or the objective is not finite for it")
            return
        recovery, in_prior = self.computation.recovery(source), measured["space"] == "z"
        latents = Latents(
            z=recovered.z,
            z_true=loaded.z_true if in_prior else None,
            generator=self.computation.generator.fingerprint,
            method=method,
            seed=recovery.seed,
            source=provenance["source"],
            source_sha256="" if source.path is None else provenance["sha256"],
            options=self.options,
            provenance=provenance,
            objective=recovered.objective,
            evaluations=recovered.evaluations,
            status=np.array(recovered.status),
            curve=stack_curves(recovered.curve),
            match=measured["match"],
            space=measured["space"],
            prior_distance=recovery.inverter.prior_distance(recovered.z),
            offset=loaded.placements and loaded.placements.offset,
            gain_db=loaded.placements and loaded.placements.gain_db,
        )
        name = _record_name(source, method)
        facts = {
            "source": source.name,
            "method": method,
            "kind": source.kind,
            "original": f"{source.folder}/original.wav",
            "reconstruction": f"{source.folder}/{method}.wav",
            "latents": f"{name}.npz",
            **measured,
        }

        def write(folder: Path) -> None:
            write_wav(folder / f"{method}.wav", found.reconstruction, measured["sample_rate"])
            for i, window in enumerate(found.windows if len(found.windows) > 1 else ()):
                write_wav(folder / f"{method}_windows" / f"{i:03}.wav", window, measured["sample_rate"])
            key = self.computation.key(source, method, provenance["sha256"])
            self._store.write(name, key, Record(facts, latent_arrays(latents)))

        if self._written(source, write):
            self._results[source, method] = facts | {"seconds": round(found.seconds, 3)}


def _record_name(source: Source, method: str) -> str:
    return f"{source.folder}/{method}"


def _make_folder(folder: Path) -> None:
    if is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _postfix(bar: tqdm, method: str) -> Progress | None:
    """Shows on a bar how a search goes, as often as the bar is drawn; None where it is not drawn."""
    shown_at = began_at = time.monotonic()

    def show(stage: str, running: int, step: int, most: int, objective: float) -> None:
        nonlocal shown_at, began_at
        now = time.monotonic()
        if step == 1:
            began_at = now
        elif now - shown_at > bar.mininterval:
            shown_at = now
            left = (now - began_at) / (step - 1) * max(most - step, 0)
            text = f"{method}, {stage}: {running} starts running, step {step} of about {most}"
            bar.set_postfix_str(f"{text} ({left:.0f} s), value {objective:.4g}")

    return None if bar.disable else show
