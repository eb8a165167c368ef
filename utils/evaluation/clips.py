"""The clips of a row of Tables 1 and 2: the generator's own samples, real ones, or somebody's with reconstructions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.audio import files as audio_files
from utils.audio.datasets import DIGITS, UNLABELLED, Dataset
from utils.audio.files import Identity, own_sample_sha256
from utils.domains import REAL, SYNTHETIC
from utils.errors import UserError
from utils.evaluation.names import CLIPS, OTHER, SAMPLE
from utils.metrics import Predictions
from utils.runs.batches import render
from utils.runs.progress import progress_bar


@dataclass(frozen=True)
class Clips:
    """Clips to invert.

    Attributes:
        audio: float32 `[N, T, C]` in [-1, 1].
        labels: int32 `[N]`, the digit, -1 where unknown.
        names: N relative paths without `.wav`; a labelled clip's folder is its digit.
        identities: N, all different.
        kind: `SYNTHETIC` or `REAL`.
        z: float32 `[N, latent_dim]` that synthetic clips were made from.
    """

    audio: np.ndarray
    labels: np.ndarray
    names: list[str]
    identities: list[Identity]
    kind: str
    z: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.audio)


def synthetic_clips(generator: Any, n: int, seed: int, *, start: int = 0, batch_size: int = 32) -> Clips:
    """The generator's samples `start` to `start + n` of a seed."""
    z = generator.sample_prior(seed, n, start=start)
    indices = range(start, start + n)
    return Clips(
        audio=np.stack(list(render(generator, z, batch_size))),
        labels=np.full(n, UNLABELLED, np.int32),
        names=[f"synthetic-{i:05}" for i in indices],
        identities=[Identity(own_sample_sha256(generator.fingerprint, seed, i)) for i in indices],
        kind=SYNTHETIC,
        z=z,
    )


def real_clips(
    dataset: Dataset, n: int, seed: int, besides: Dataset | None = None, draw: str = "random"
) -> tuple[Clips, Clips | None]:
    """n clips of a dataset and n others: of the same dataset or, where it has not so many, those of `besides` that it
    has not; None where neither has.

    `draw` "random" takes them by the seed, in random order; "first" takes the first n in the order of the file names
    without their digit, so by speaker. The published scripts take the first 501 in the order in which their file system
    lists sc09/valid, which is not published; this one mixes the digits, too, and is the same everywhere.

    Raises:
        UserError: for fewer than n clips.
    """
    if len(dataset) < n:
        raise UserError(f"--n {n}: the {dataset.split} split has only {len(dataset)} clips")
    random = np.random.default_rng(seed)
    order = random.permutation(len(dataset))
    if draw == "first":
        order = np.array(sorted(range(len(dataset)), key=lambda i: _without_digit(dataset.names[i])))

    def take(dataset: Dataset, some: np.ndarray) -> Clips:
        labels = dataset.labels[some]
        names = [dataset.names[i] for i in some]
        names = [
            name if label == UNLABELLED else f"{DIGITS[label]}/{Path(name).stem}"
            for name, label in zip(names, labels, strict=True)
        ]
        return Clips(dataset.to_float(some), labels, names, [dataset.identities[i] for i in some], REAL)

    others, rest = dataset, order[n : 2 * n]
    if len(rest) < n and besides is not None:
        others, names = besides, set(dataset.names)
        rest = random.permutation([i for i, name in enumerate(besides.names) if name not in names])[:n]
    return take(dataset, order[:n]), take(others, rest) if len(rest) == n else None


def _without_digit(name: str) -> tuple[str, str]:
    """What sorts `zero/0ab3b47d_nohash_0.wav` and `Zero_0ab3b47d_nohash_0.wav` by speaker, then by digit."""
    stem = Path(name).stem
    word, _, rest = stem.partition("_")
    return rest if word.lower() in DIGITS else stem, name


def table_clips(
    generator: Any,
    n: int,
    seed: int,
    *,
    batch_size: int = 32,
    dataset: Dataset | None = None,
    besides: Dataset | None = None,
    draw: str = "random",
) -> tuple[Clips, dict[str, Clips], np.ndarray]:
    """The clips of Table 2, out of a dataset, or without one those of Table 1, the generator's samples.

    `besides` and `draw` are as in `real_clips`.

    Returns:
        The clips; those of `SAMPLE` and, where there are as many, of `OTHER`; float32 `[n, latent_dim]`, what recovered
        latents should be distributed like.
    """
    others = {SAMPLE: synthetic_clips(generator, n, seed, start=n, batch_size=batch_size)}
    if dataset is None:
        clips = synthetic_clips(generator, n, seed, batch_size=batch_size)
        return clips, others, clips.z
    clips, other = real_clips(dataset, n, seed, besides, draw)
    return clips, others | ({OTHER: other} if other else {}), generator.sample_prior(seed, n)


def pair_to_show(
    clips: Clips, predictions: Mapping[str, Predictions], class_names: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, list[str]]:
    """The first clip and the next of another digit, where there is one: their indices and what they say.

    Args:
        clips: at least two.
        predictions: of classifiers for the clips; the last one assigns unlabelled clips their digits.
        class_names: of the same classifiers.
    """
    digits, titles = clips.labels, DIGITS
    if predictions and (digits == UNLABELLED).all():
        who = list(predictions)[-1]
        digits, titles = predictions[who].probabilities.argmax(axis=1), class_names[who]
    shown = np.array([0, int(np.argmax(digits != digits[0])) or 1])
    return shown, ["a clip" if digit == UNLABELLED else f"“{titles[digit]}”" for digit in digits[shown]]


def load_pairs(
    originals: Path, reconstructions: Path, num_samples: int, num_channels: int, sample_rate: int, quiet: bool = False
) -> tuple[Clips, np.ndarray]:
    """Clips and somebody's reconstructions of them, from two folders of audio with the same relative names.

    A clip in a folder named after a digit (`seven/...`) has that label. Suffixes may differ; what has no partner
    is an error, since a method must not choose its clips.

    Returns:
        The clips, and float32 `[N, T, C]`.

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
    with progress_bar("reading", 2 * len(names), quiet=quiet, delay=2) as bar:

        def load(files: dict[str, Path]) -> list[audio_files.Clip]:
            clips = []
            for name in names:
                clips.append(audio_files.load_clip(files[name], num_samples, num_channels, sample_rate))
                bar.update()
            return clips

        theirs, ours = load(found[1]), load(found[0])
    folders = [Path(name).parent.name for name in names]
    labels = [DIGITS.index(folder) if folder in DIGITS else UNLABELLED for folder in folders]
    audio, reconstruction = (np.stack([clip.windows[0] for clip in clips]) for clips in (ours, theirs))
    identities = [clip.identities[0] for clip in ours]
    return Clips(audio, np.array(labels, np.int32), names, identities, REAL), reconstruction


def keep(folder: Path, method: str, clips: Clips, reconstruction: np.ndarray, sample_rate: int) -> None:
    """Writes the clips as `folder/originals/NAME.wav` and what a method made of them as `folder/METHOD/NAME.wav`."""
    for part, audio in {"originals": clips.audio, method: reconstruction}.items():
        if part != CLIPS:
            for name, samples in zip(clips.names, audio, strict=True):
                audio_files.write_wav(folder / part / f"{name}.wav", samples, sample_rate)
