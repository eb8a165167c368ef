"""From clips to a row of Tables 1 and 2: clips -> latents -> reconstructions -> classifiers' answers -> numbers.

A row is one method applied to n clips. Methods are the paper's three and, to compare with, the clips themselves
and baselines that search nothing: silence, random samples of the generator, other clips of the same kind.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils import metrics, numpy_spectrograms
from utils.audio.datasets import UNLABELLED
from utils.domains import REAL
from utils.errors import UserError
from utils.evaluation.clips import Clips
from utils.evaluation.comparison import compare
from utils.evaluation.names import BASELINES, CLASS_SAMPLE, CLIPS, FROM_ENCODER, SEARCHES, SILENCE
from utils.inversion.methods import Recovery
from utils.inversion.store import Record, ResultStore, array_sha256, key_sha256
from utils.losses import Objective
from utils.metrics import Predictions, Row
from utils.priors import PRIORS, Prior
from utils.runs.batches import render
from utils.runs.progress import progress_bar

UNSEARCHED = {"solver": None, "precision": "float32"}  # of a row without a search


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


def recover(
    recovery: Recovery,
    method: str,
    clips: Clips,
    *,
    generator: Any,
    batch_size: int,
    store: ResultStore,
    quiet: bool = False,
) -> Reconstruction:
    """Inverts clips, batch by batch; a batch that was recovered before is read from the store.

    Args:
        recovery: by which networks and settings.
        method: one of its methods.
        clips: to invert.
        generator: in float32; gives the reconstructions.
        batch_size: clips computed together, which round each other's sums: a batch is the unit of work.
        store: a record for each batch of clips and method.
        quiet: no progress bar.

    Raises:
        UserError: when the generator or the objective is not finite for a clip.
    """
    records = []
    with progress_bar(f"{method}, {clips.kind}", len(clips), quiet=quiet) as bar:
        for first in range(0, len(clips), batch_size):
            batch = slice(first, first + batch_size)
            audio, identities = clips.audio[batch], clips.identities[batch]
            key = recovery.settings(method) | {"clips": list(map(str, identities)), "audio": array_sha256(audio)}
            name = f"{method}-{key_sha256(key)[:24]}"
            record = store.read(name, key)
            if record is None:
                started = time.monotonic()
                recovered = recovery(method, audio, identities, clips.kind)
                if not recovered.finite.all():
                    culprit = clips.names[batch][int(np.argmin(recovered.finite))]
                    raise UserError(f"--objective: it, or the generator, is not finite for {culprit}; try another one")
                arrays = {field: getattr(recovered, field) for field in ("z", "objective", "evaluations")}
                record = Record({"seconds": time.monotonic() - started}, arrays)
                store.write(name, key, record)
            elif not bar.disable:
                bar.initial += len(audio)
            records.append(record)
            bar.update(len(audio))
    z = np.concatenate([record.arrays["z"] for record in records])
    seconds = sum(record.facts["seconds"] for record in records) / len(clips)
    evaluations = sum(int(record.arrays["evaluations"].sum()) for record in records) / len(clips)
    return Reconstruction(np.stack(list(render(generator, z, batch_size))), z, seconds, evaluations)


def baseline(method: str, clips: Clips, others: Mapping[str, Clips]) -> Reconstruction:
    """`CLIPS`: the clips themselves; `SILENCE`; `SAMPLE` or `OTHER`: clip i of those in `others`, whatever clip i is.

    Raises:
        UserError: where there are no such others.
    """
    if method == CLIPS:
        return Reconstruction(clips.audio, clips.z)
    if method == SILENCE:
        return Reconstruction(np.zeros_like(clips.audio))
    if method not in others:
        raise UserError(f"--method {method}: there are no {len(clips)} {clips.kind} clips besides the row's")
    return Reconstruction(others[method].audio, others[method].z)


def protocol(
    settings: Mapping[str, Any], method: str, clips: Clips, networks: Any, objective: Objective
) -> dict[str, Any]:
    """What a row's numbers depend on; JSON-able.

    Args:
        settings: the options of calculate_metrics.py.
        method: the row's.
        clips: of the row.
        networks: the run's, `models.networks.Networks`.
        objective: that searches minimise.
    """
    given = ["seed", "batch_size", "splits", "resamples", "generator"]
    facts: dict[str, Any] = {"n": len(clips)}
    if settings["reconstructions"]:
        given += ["originals", "reconstructions"]
    else:
        facts["objective"] = str(objective)
        given += ["clip_to_prior", "max_iter", "hybrid_max_iter", "restarts"]
        given += ["input", "split", "draw", "alignment"] if clips.kind == REAL else []
        given += ["changed"]
    facts |= {name: settings[name] for name in given}
    facts["prior_variance"] = PRIORS[networks.generator.prior].variance
    # An encoder's answer and what is compared with it are computed in float32, whatever the searches are.
    searched = method in SEARCHES
    facts |= {name: settings[name] if searched else default for name, default in UNSEARCHED.items()}
    facts |= {f"{name}_sha256": networks.sha256(name) for name in ("generator", "classifier", *networks.judges)}
    return facts | {"encoder_sha256": networks.sha256("encoder") if method in FROM_ENCODER else None}


class Scorer:
    """All metrics of what methods make of clips; attribute `of_clips`: each classifier's predictions for the clips.

    Args:
        clips: the originals.
        classify: audio float32 `[N, T, C]` to each classifier's predictions, by name.
        sample_rate: of the clips, in Hz.
        prior: of the generator.
        z_reference: float `[N, latent_dim]`, what the latents should be distributed like.
        splits: of the inception score.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        clips: Clips,
        classify: Callable[[np.ndarray], Mapping[str, Predictions]],
        *,
        sample_rate: int,
        prior: Prior,
        z_reference: np.ndarray | None,
        splits: int,
        resamples: int,
        seed: int,
    ):
        self.clips, self.classify, self._prior, self._z_reference = clips, classify, prior, z_reference
        self._splits, self._resamples, self._seed = min(splits, len(clips)), resamples, seed
        self.of_clips = classify(clips.audio)
        self._sample_rate, self._f0_of = sample_rate, {}
        self._scored: dict[str, dict[str, np.ndarray]] = {}  # by row, then by metric: each clip's value
        # The digit of an unlabelled clip is what the first classifier takes it for, as in `class_baseline`.
        answers = next(iter(self.of_clips.values())).probabilities.argmax(axis=1) if self.of_clips else UNLABELLED
        digits = np.where(clips.labels == UNLABELLED, answers, clips.labels)
        log_mel = self._log_mel(clips.audio)
        means = {digit: log_mel[digits == digit].mean(axis=0) for digit in np.unique(digits)}
        self._originals = {
            "original_log_mel": log_mel,
            "digit_log_mel": np.stack([means[digit] for digit in digits]),
            "original_f0": self._f0(clips.audio),
        }

    def __call__(self, method: str, reconstruction: Reconstruction) -> dict[str, Any]:
        """A row, JSON-able.

        Args:
            method: the row's name; `CLIPS` are not compared with themselves.
            reconstruction: of the clips.

        Returns:
            `row`, `kind`, `metrics`: by name what `utils.metrics.measure` gives, those of a classifier as
            `metric/classifier`; `against`: what `compare` says, by row that was scored before and by metric (of
            baselines nothing); `seconds_a_clip` and `evaluations_a_clip` of recovery; `seconds_to_score`.
        """
        started, clips, is_clips = time.monotonic(), self.clips, method == CLIPS
        predictions = self.classify(reconstruction.audio)
        plain = Row(
            original=None if is_clips else clips.audio,
            reconstruction=reconstruction.audio,
            z=None if is_clips else reconstruction.z,
            z_true=clips.z,
            z_reference=self._z_reference,
            bound=self._prior.high if self._prior.bounded else None,
            splits=self._splits,
        )
        if not is_clips:
            found = {"log_mel": self._log_mel(reconstruction.audio), "f0": self._f0(reconstruction.audio)}
            found = {f"reconstruction_{name}": value for name, value in found.items()}
            plain = plain._replace(**self._originals, **found)
        numbers, values = {}, {}
        for name, metric in metrics.METRICS.items():
            rows = {name: plain}
            if metric.by_classifier:
                rows = {
                    f"{name}/{who}": self._classified(plain, is_clips, self.of_clips[who], answers)
                    for who, answers in predictions.items()
                }
            for key, row in rows.items():
                of_clips = metrics.clip_values(name, row)
                if of_clips is not None:
                    values[key] = of_clips
                settings = {"resamples": self._resamples, "seed": self._seed}
                numbers[key] = metrics.measure(name, row, values=of_clips, **settings)
        against = {} if method in BASELINES else {other: self._compare(values, other) for other in self._scored}
        self._scored[method] = values
        return {
            "row": method,
            "kind": clips.kind,
            "metrics": numbers,
            "against": against,
            "seconds_a_clip": reconstruction.seconds,
            "evaluations_a_clip": reconstruction.evaluations,
            "seconds_to_score": time.monotonic() - started,
        }

    def _compare(self, values: Mapping[str, np.ndarray], other: str) -> dict[str, Any]:
        """By metric, the values of a row's clips compared with those of another row."""
        said = {}
        for key, theirs in self._scored[other].items():
            if key in values:
                better = metrics.METRICS[key.partition("/")[0]].higher_is_better
                said[key] = compare(values[key], theirs, higher_is_better=better, seed=self._seed)
        return {key: facts for key, facts in said.items() if facts}

    def _log_mel(self, audio: np.ndarray) -> np.ndarray:
        return np.stack([numpy_spectrograms.log_mel(clip, self._sample_rate) for clip in audio])

    def _f0(self, audio: np.ndarray) -> np.ndarray:
        """Never twice for one sound: pyin takes most of the time of scoring."""
        sounds = {array_sha256(clip): clip for clip in audio}
        new = [key for key in sounds if key not in self._f0_of]
        if new:
            tracks = metrics.f0(np.stack([sounds[key] for key in new]), self._sample_rate)
            self._f0_of |= dict(zip(new, tracks, strict=True))
        return np.stack([self._f0_of[array_sha256(clip)] for clip in audio])

    def _classified(self, row: Row, is_clips: bool, of_clips: Predictions, of_reconstructions: Predictions) -> Row:
        """A row with one classifier's answers; an unlabelled clip's digit is what it takes the clip itself for."""
        unlabelled = self.clips.labels == UNLABELLED
        labels = np.where(unlabelled, of_clips.probabilities.argmax(axis=1), self.clips.labels)
        return row._replace(
            probabilities=of_reconstructions.probabilities,
            features=of_reconstructions.features,
            reference_features=None if is_clips else of_clips.features,
            labels=None if is_clips and unlabelled.any() else labels,
        )


def class_baseline(method: str, generator: Any, samples: Clips, scorer: Scorer, seed: int) -> Reconstruction:
    """Answers by the class that a classifier assigns to a clip: what a method must beat to have inverted anything.

    `TEMPLATE`: the generator's output at the mean latent of the samples of that class, one fixed waveform each.
    `CLASS_SAMPLE`: a random sample of that class. For a class that no sample is of: any sample, or the mean of all.

    Args:
        method: one of `CLASS_BASELINES`.
        generator: in float32.
        samples: of the generator, other than the clips.
        scorer: of the clips; its first classifier assigns the classes.
        seed: of the choice among samples.

    Raises:
        UserError: where the scorer has no classifier.
    """
    if not scorer.of_clips:
        raise UserError(f"--method {method}: answers by the class that a classifier assigns; name a --classifier")
    who, of_clips = next(iter(scorer.of_clips.items()))
    wanted, held = (p.probabilities.argmax(axis=1) for p in (of_clips, scorer.classify(samples.audio)[who]))
    members = {k: np.flatnonzero((held == k) | (k not in held)) for k in np.unique(wanted)}
    if method == CLASS_SAMPLE:
        rng = np.random.default_rng(seed)
        chosen = np.array([rng.choice(members[k]) for k in wanted])
        return Reconstruction(samples.audio[chosen], samples.z[chosen])
    means = np.stack([samples.z[some].mean(axis=0) for some in members.values()])
    waveforms, which = np.stack(list(render(generator, means, len(means)))), np.searchsorted(list(members), wanted)
    return Reconstruction(waveforms[which], means[which])
