"""From clips to a row of Tables 1 and 2: clips -> latents -> reconstructions -> what classifiers hear -> numbers.

A row is what one method makes of n clips. Methods are the paper's three and, to compare with, the clips themselves
and three that do no work: silence, random samples of the generator, other clips of the same kind.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from utils import metrics
from utils.audio import files as audio_files
from utils.audio.datasets import DIGITS, UNLABELLED, Dataset
from utils.inversion import invert as recovery
from utils.metrics import Estimate, Row
from utils.options import UserError
from utils.runs.files import atomic_path, to_json

ENCODER, GRADIENT, HYBRID = "encoder", "gradient", "hybrid"
RECOVERY_METHODS = (GRADIENT, ENCODER, HYBRID)
CLIPS, SILENCE, SAMPLE, OTHER = "clips", "silence", "sample", "other"
SYNTHETIC, REAL = "synthetic", "real"

# A classifier: audio float32 [B, T, C] to probabilities [B, K] and pooled features [B, D].
Listener = Callable[[np.ndarray], tuple[Any, Any]]


@dataclass(frozen=True)
class Clips:
    """Clips to invert.

    Attributes:
        audio: float32 `[N, T, C]` in [-1, 1].
        labels: int32 `[N]`, the digit, -1 where unknown.
        names: N relative paths without `.wav`; a labelled clip's folder is its digit.
        kind: `SYNTHETIC` or `REAL`.
        z: float32 `[N, latent_dim]` that synthetic clips were made from.
    """

    audio: np.ndarray
    labels: np.ndarray
    names: list[str]
    kind: str
    z: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, some: slice | np.ndarray) -> "Clips":
        names = [self.names[i] for i in np.arange(len(self))[some]]
        return Clips(self.audio[some], self.labels[some], names, self.kind, None if self.z is None else self.z[some])


@dataclass(frozen=True)
class Reconstruction:
    """What a method made of N clips.

    Attributes:
        audio: float32 `[N, T, C]`.
        z: float32 `[N, latent_dim]`; None for what was not made by the generator.
        seconds: of recovery, a clip, as measured when it was computed; None where nothing was recovered.
        evaluations: of the generator, a clip.
    """

    audio: np.ndarray
    z: np.ndarray | None = None
    seconds: float | None = None
    evaluations: float | None = None


class Heard(NamedTuple):
    """A classifier's probabilities `[N, K]` and pooled features `[N, D]` of N clips."""

    probabilities: np.ndarray
    features: np.ndarray


# ---- clips ----------------------------------------------------------------------


def synthetic_clips(generator: Any, n: int, seed: int, *, start: int = 0, batch_size: int = 32) -> Clips:
    """The generator's samples `start` to `start + n` of a seed."""
    z = generator.sample_prior(seed, n, start=start)
    names = [f"synthetic-{start + i:05}" for i in range(n)]
    return Clips(render(generator, z, batch_size), np.full(n, UNLABELLED, np.int32), names, SYNTHETIC, z)


def real_clips(dataset: Dataset, n: int, seed: int) -> tuple[Clips, Clips | None]:
    """n clips of a dataset by a seed, in random order, and n others; None where there are not so many.

    Raises:
        UserError: for fewer than n clips.
    """
    if len(dataset) < n:
        raise UserError(f"--n {n}: the {dataset.split} split has only {len(dataset)} clips")
    order = np.random.default_rng(seed).permutation(len(dataset))

    def take(some: np.ndarray) -> Clips:
        labels = dataset.labels[some]
        names = [dataset.names[i] for i in some]
        names = [
            name if label == UNLABELLED else f"{DIGITS[label]}/{Path(name).stem}"
            for name, label in zip(names, labels, strict=True)
        ]
        return Clips(dataset.to_float(some), labels, names, REAL)

    return take(order[:n]), take(order[n : 2 * n]) if len(order) >= 2 * n else None


def load_pairs(
    originals: Path, reconstructions: Path, num_samples: int, num_channels: int, sample_rate: int
) -> tuple[Clips, Reconstruction]:
    """Clips and somebody's reconstructions of them, from two folders of audio with the same relative names.

    A clip in a folder named after a digit (`seven/...`) has that label. Suffixes may differ; what has no partner
    is an error, since a method must not choose its clips.

    Raises:
        UserError: for folders that do not match, and for files that cannot be read.
    """
    found = []
    for option, folder in (("--originals", originals), ("--reconstructions", reconstructions)):
        files, problems = audio_files.find_audio(folder)
        if problems or not files or not folder.is_dir():
            reason = f"{problems[0][0]}: {problems[0][1]}" if problems else "no audio in it"
            raise UserError(f"{option} {folder}: must be a folder of audio ({reason})")
        found.append({file.relative_to(folder).with_suffix("").as_posix(): file for file in files})
    unpaired = sorted(found[0].keys() ^ found[1].keys())
    if unpaired:
        raise UserError(
            f"--reconstructions {reconstructions}: must have the same names as --originals. "
            f"{len(unpaired)} have no partner, the first is {unpaired[0]}"
        )
    names = sorted(found[0])
    clips, theirs = (
        np.stack(
            [
                audio_files.load_clip(files[name], num_samples, num_channels, sample_rate).windows[0]
                for name in tqdm(names, desc="reading", unit="clip", delay=2)
            ]
        )
        for files in found
    )
    folders = [Path(name).parent.name for name in names]
    labels = [DIGITS.index(folder) if folder in DIGITS else UNLABELLED for folder in folders]
    return Clips(clips, np.array(labels, np.int32), names, REAL), Reconstruction(theirs)


def render(generator: Any, z: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Samples float32 `[N, T, C]` of latents `[N, latent_dim]`."""
    sample = tf.function(generator.__call__, autograph=False)
    spec = tf.TensorSpec([None, generator.latent_dim], tf.float32)
    sample = sample.get_concrete_function(spec)
    return np.concatenate([sample(tf.constant(z[i : i + batch_size])).numpy() for i in range(0, len(z), batch_size)])


# ---- recovery -------------------------------------------------------------------


@dataclass
class Recovery:
    """How clips are inverted: what all recovered rows of a run share.

    Attributes:
        generator: in float32; gives the reconstructions.
        inverter: the search.
        encoder: audio `[B, T, C]` to z; None where only `GRADIENT` is wanted.
        encoder_sha256: of its file.
        max_iter: iterations of each start, by method.
        restarts: starts from the prior.
        clip_to_prior: an encoder's answer is clipped into the prior's box.
        batch_size: clips computed together.
        seed: of the starts.
        settings: JSON-able: what else changes the result of a search.
        store: folder of what has been recovered.
        quiet: no progress bar.
    """

    generator: Any
    inverter: recovery.Inverter
    encoder: Callable[[np.ndarray], Any] | None
    encoder_sha256: str | None
    max_iter: Mapping[str, int]
    restarts: int
    clip_to_prior: bool
    batch_size: int
    seed: int
    settings: dict[str, Any]
    store: Path
    quiet: bool = False

    def __call__(self, method: str, clips: Clips) -> Reconstruction:
        """Inverts clips, batch by batch; a batch that was recovered before is read from the store.

        Raises:
            UserError: when the generator or the objective is not finite for a clip.
        """
        parts = []
        interval = 0.5 if sys.stderr.isatty() else 30
        with tqdm(
            total=len(clips),
            desc=f"{method}, {clips.kind}",
            unit="clip",
            smoothing=0,
            mininterval=interval,
            disable=self.quiet,
        ) as bar:
            for first in range(0, len(clips), self.batch_size):
                batch = clips[first : first + self.batch_size]
                path = self._path(method, batch)
                if not path.exists():
                    self._recover(method, batch, path)
                elif not self.quiet:
                    bar.initial += len(batch)  # what was there does not count as speed
                with np.load(path, allow_pickle=False) as file:
                    parts.append({name: file[name] for name in file.files})
                bar.update(len(batch))
        z = np.concatenate([part["z"] for part in parts])
        seconds = sum(float(part["seconds"]) for part in parts)
        evaluations = sum(int(part["evaluations"].sum()) for part in parts)
        audio = render(self.generator, z, self.batch_size)
        return Reconstruction(audio, z, seconds / len(clips), evaluations / len(clips))

    def _path(self, method: str, batch: Clips) -> Path:
        """Named by all that its content depends on."""
        facts = self.settings | {"method": method, "max_iter": self.max_iter.get(method)}
        if method == GRADIENT:
            facts |= {"seed": self.seed, "restarts": self.restarts}
        else:
            facts |= {"encoder": self.encoder_sha256, "clip_to_prior": self.clip_to_prior}
        digest = hashlib.sha256(to_json(facts).encode())
        digest.update(to_json(batch.names).encode())
        digest.update(np.ascontiguousarray(batch.audio))
        return self.store / f"{method}-{digest.hexdigest()[:24]}.npz"

    def _recover(self, method: str, batch: Clips, path: Path) -> None:
        begun = time.monotonic()
        found = recovery.recover(
            self.inverter,
            method,
            batch.audio,
            batch.names,
            encoder=self.encoder,
            max_iter=self.max_iter,
            restarts=self.restarts,
            clip_to_prior=self.clip_to_prior,
            seed=self.seed,
        )
        finite = np.isfinite(found.objective) & np.isfinite(found.z).all(axis=1)
        finite &= np.isfinite(found.audio).all(axis=(1, 2))
        if not finite.all():
            name = batch.names[int(np.argmin(finite))]
            raise UserError(f"{method}: the generator or --objective is not finite for {name}; try another objective")
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                z=found.z,
                objective=found.objective,
                evaluations=found.evaluations,
                seconds=time.monotonic() - begun,
            )


def without_work(method: str, clips: Clips, others: Clips) -> Reconstruction:
    """`CLIPS`: the clips themselves; `SILENCE`; `SAMPLE` or `OTHER`: clip i of `others`, whatever clip i is."""
    if method == CLIPS:
        return Reconstruction(clips.audio, clips.z)
    if method == SILENCE:
        return Reconstruction(np.zeros_like(clips.audio))
    return Reconstruction(others.audio, others.z)


# ---- numbers --------------------------------------------------------------------


def listen(listener: Listener, audio: np.ndarray, batch_size: int = 32) -> Heard:
    """A classifier's answers for clips `[N, T, C]`, in batches."""
    parts = [listener(audio[i : i + batch_size]) for i in range(0, len(audio), batch_size)]
    probabilities, features = (np.concatenate([np.asarray(x) for x in column]) for column in zip(*parts, strict=True))
    return Heard(probabilities, features)


def score(
    method: str,
    clips: Clips,
    found: Reconstruction,
    heard: Mapping[str, tuple[Heard, Heard]],
    *,
    z_reference: np.ndarray | None = None,
    bound: float | None = None,
    splits: int = 1,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Estimate | None]:
    """All metrics of a row.

    Args:
        method: of the row; the clips themselves are not compared with themselves.
        clips: the originals.
        found: the reconstructions.
        heard: what each classifier, by name, hears in the clips and in the reconstructions.
        z_reference: float `[N, latent_dim]`, what the latents should be distributed like.
        bound: of a uniform prior.
        splits: of the inception score.
        resamples: of the bootstrap.
        seed: of splits and bootstrap.

    Returns:
        By name, those of a classifier as `metric/classifier`; None where there is no such number.
    """
    is_clips = method == CLIPS
    plain = Row(
        original=None if is_clips else clips.audio,
        reconstruction=found.audio,
        z=None if is_clips else found.z,
        z_true=clips.z,
        z_reference=z_reference,
        bound=bound,
        splits=splits,
    )
    numbers = {}
    for name, metric in metrics.METRICS.items():
        rows = {name: plain}
        if metric.judged:
            rows = {f"{name}/{who}": _judged(plain, is_clips, clips, *both) for who, both in heard.items()}
        for key, row in rows.items():
            numbers[key] = metrics.measure(name, row, resamples=resamples, seed=seed)
    return numbers


def _judged(row: Row, is_clips: bool, clips: Clips, of_clips: Heard, of_found: Heard) -> Row:
    """A row with what one classifier hears; an unlabelled clip's digit is what it hears in the clip itself."""
    labels = np.where(clips.labels == UNLABELLED, of_clips.probabilities.argmax(axis=1), clips.labels)
    if is_clips and (clips.labels == UNLABELLED).any():
        labels = None
    return row._replace(
        probabilities=of_found.probabilities,
        features=of_found.features,
        reference_features=None if is_clips else of_clips.features,
        labels=labels,
    )


def keep(folder: Path, names: Sequence[str], audio: np.ndarray, sample_rate: int) -> None:
    """Writes clips `[N, T, C]` as WAV files `folder/NAME.wav`."""
    for name, clip in zip(names, audio, strict=True):
        audio_files.write_wav(folder / f"{name}.wav", clip, sample_rate)
