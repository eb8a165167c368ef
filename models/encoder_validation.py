"""What a training of the encoder measures after each epoch on clips it is not trained on, and what it shows of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from models.classifier import Classifier
from models.encoder_training import FEATURE_TERMS, EncoderTrainer
from models.generator import Generator
from utils import metrics
from utils.audio.datasets import Dataset
from utils.audio.files import write_wav
from utils.domains import DOMAINS, REAL, SYNTHETIC
from utils.priors import PRIORS
from utils.report.figures import training_figure
from utils.report.thumbnails import spectrogram_db, spectrogram_png
from utils.runs.batches import in_batches
from utils.runs.training_run import TrainingRun

SHOWN_CLIPS = 2  # of either kind, in pictures and as audio
LATENT_PANEL = "z of samples: squared error"
PANELS = {
    LATENT_PANEL: ["synthetic_latent"],
    "real clips: classifier features": ["real_feature"],
    "real clips: log-magnitude spectra": ["real_spectral"],
}
JUDGES_PANEL = "digits classified right by the judges"


@dataclass(frozen=True)
class Measures:
    """What `measure` gives.

    numbers: measure to its mean over the clips.
    z: float32 `[N, latent_dim]`, the encoder's.
    reconstructions: float32 `[N, T, C]`.
    """

    numbers: dict[str, float]
    z: np.ndarray
    reconstructions: np.ndarray


class Validation:
    """Fixed clips of a dataset and fixed samples of a generator, on which an encoder is measured.

    Args:
        generator: whose samples it takes.
        judges: classifiers by the name under which their answers on the reconstructions are counted.
        dataset: clips that the encoder is not trained on.
        count: clips, if there are as many, and samples.
        batch_size: clips computed together.
        seed: of the samples.
    """

    def __init__(
        self,
        generator: Generator,
        judges: Mapping[str, Classifier],
        dataset: Dataset,
        count: int,
        *,
        batch_size: int,
        seed: int,
    ):
        self.judges, self.batch_size, self.rate = judges, batch_size, generator.sample_rate
        # Spread over the dataset, which is sorted: its first clips would be of a few classes only.
        chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
        self.labels = dataset.labels[chosen] if dataset.class_names else None
        self.z = generator.sample_prior(seed, count)
        samples = in_batches(generator, self.z, batch_size)
        self.clips = {REAL: dataset.to_float(chosen), SYNTHETIC: samples}

    @property
    def counts(self) -> dict[str, int]:
        """How many clips there are, by kind."""
        return {kind: len(clips) for kind, clips in self.clips.items()}

    def measure(self, trainer: EncoderTrainer) -> dict[str, Measures]:
        """Of the real and of the synthetic clips. Without labels no right answers are counted on real clips."""
        judges = self.judges if self.labels is not None else {}
        facts = {REAL: {"labels": self.labels, "judges": judges}, SYNTHETIC: {"z": self.z, "judges": self.judges}}
        return {
            kind: measure(trainer, clips, kind, batch_size=self.batch_size, **facts[kind])
            for kind, clips in self.clips.items()
        }

    def log(self, run: TrainingRun, trainer: EncoderTrainer, epoch: int) -> dict[str, float]:
        """Measures, logs and shows an epoch: its mean losses, the measures as `val_KIND_NAME`, both losses' sum as
        `val_loss`."""
        facts, measures = run.mean_losses(), self.measure(trainer)
        for kind, of_kind in measures.items():
            facts |= {f"val_{kind}_{name}": value for name, value in of_kind.numbers.items()}
        facts["val_loss"] = sum(
            weight * measures[kind].numbers["feature" if name in FEATURE_TERMS.values() else name]
            for kind, objective in trainer.objectives.items()
            for name, weight in objective.weights.items()
        )
        facts = run.log("epochs", {"epoch": epoch, **facts})
        self.show(run, epoch, measures)
        return facts

    def show(self, run: TrainingRun, epoch: int, measures: Mapping[str, Measures]) -> None:
        """A few fixed clips, in waves/ and TensorBoard: originals once, reconstructions every epoch."""
        with run.board("clips"):
            for kind, originals in self.clips.items():
                for i in np.unique(np.linspace(0, len(originals) - 1, SHOWN_CLIPS).astype(int)):
                    original, reconstruction = originals[i], measures[kind].reconstructions[i]
                    stem = run.folder / "waves" / f"{kind}_{i:04}"
                    if not Path(f"{stem}_original.wav").exists():
                        write_wav(Path(f"{stem}_original.wav"), original, self.rate)
                        tf.summary.audio(f"{kind}_{i:04}/original", original[None], self.rate)
                    write_wav(Path(f"{stem}_epoch_{epoch:04}.wav"), reconstruction, self.rate)
                    tf.summary.audio(f"{kind}_{i:04}/reconstruction", reconstruction[None], self.rate)
                    picture = side_by_side(original, reconstruction)
                    tf.summary.image(f"{kind}_{i:04}/original and reconstruction", picture[None])


def side_by_side(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Spectrograms of two clips `[T, C]` on one colour scale, uint8 `[129, columns, 3]`."""
    pictures = [spectrogram_db(audio) for audio in (original, reconstruction)]
    top = max(picture.max() for picture in pictures)
    gap = np.full((len(pictures[0]), 4), top, np.float32)
    png = spectrogram_png(np.concatenate([pictures[0], gap, pictures[1]], axis=1), top)
    return tf.io.decode_png(png, channels=3).numpy()


def measure(
    trainer: EncoderTrainer,
    audio: np.ndarray,
    domain: str,
    *,
    z: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    judges: Mapping[str, Classifier],
    batch_size: int,
) -> Measures:
    """How well an encoder does on clips it was not trained on.

    Args:
        trainer: holds the encoder.
        audio: float32 `[N, T, C]` in [-1, 1].
        domain: of these clips, one of `utils.domains.DOMAINS`.
        z: float32 `[N, latent_dim]`, of the generator's own samples.
        labels: int `[N]`, classes, of clips that have them. Where there are none, a judge's answer on the clip
            itself stands for them.
        judges: classifiers by the name under which their answers on the reconstructions are counted.
        batch_size: clips computed together.

    Returns:
        Numbers: "feature" and "spectral" where the trainer weighs them; "waveform_mse" and "ssim"
        (`utils.metrics`); "latent", the mean squared error of z, where z is given; the share of right answers under
        each judge's name.
    """
    encoded, reconstructions, terms = in_batches(
        lambda x: trainer.reconstruct(tf.constant(x), domain), audio, batch_size
    )
    numbers = {name: values.mean() for name, values in terms.items()}
    pairs = list(zip(audio, reconstructions, strict=True))
    numbers["waveform_mse"] = np.mean([metrics.waveform_mse(*pair) for pair in pairs])
    numbers["ssim"] = np.mean([metrics.ssim(*pair) for pair in pairs])
    if z is not None:
        numbers["latent"] = metrics.latent_mse(encoded, z)
    for name, judge in judges.items():
        truth = _answers(judge, audio, batch_size) if labels is None else labels
        numbers[name] = np.mean(_answers(judge, reconstructions, batch_size) == truth)
    return Measures({name: float(value) for name, value in numbers.items()}, encoded, reconstructions)


def _answers(judge: Classifier, audio: np.ndarray, batch_size: int) -> np.ndarray:
    return in_batches(lambda x: np.argmax(judge(x, training=False), axis=1), audio, batch_size)


def describe(logs: dict[str, float]) -> str:
    """An epoch's numbers on one line; of a loss the training mean, then in brackets that of the validation clips."""
    parts = []
    for kind, names in (("real", ("feature", "spectral")), ("synthetic", ("latent",))):
        numbers = []
        for name in names:
            trained, held_out = logs.get(f"{kind}_{name}"), logs.get(f"val_{kind}_{name}")
            if held_out is not None:
                numbers.append(f"{name} " + ("-" if trained is None else f"{trained:.4f}") + f" ({held_out:.4f})")
        numbers.append(f"SSIM {logs[f'val_{kind}_ssim']:.3f}")
        for name in accuracies(logs, kind):
            numbers.append(f"{name.replace('_', ' ')} {logs[f'val_{kind}_{name}']:.1%}")
        parts.append(f"{kind}: " + ", ".join(numbers))
    return " | ".join(parts)


def accuracies(logs: Mapping[str, float], kind: str) -> list[str]:
    """The measures of right answers on clips of a kind: "accuracy", by the classifier, and each judge's."""
    named = [name.removeprefix(f"val_{kind}_") for name in logs if name.startswith(f"val_{kind}_")]
    return [name for name in named if name.endswith("accuracy")]


def losses_figure(epochs: Sequence[Mapping[str, Any]], prior: str) -> Figure:
    """Curves of a training's epochs, and the error of always answering z = 0 under the generator's prior."""
    by_judges = [f"{kind}_{name}" for kind in DOMAINS for name in accuracies(epochs[-1], kind) if name != "accuracy"]
    return training_figure(
        epochs, PANELS | {JUDGES_PANEL: by_judges}, {LATENT_PANEL: (PRIORS[prior].variance, "always answering 0")}
    )
