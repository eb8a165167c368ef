"""Training an encoder against a frozen generator: the batches, the two kinds of update, the measures.

Each step follows the paper (section on the inverse mapping model): one update on a batch of real clips, by how far
their reconstructions lie from them; then updates on fresh synthetic clips, by the error of z too. Everything random
in a step is drawn in the input pipeline from the seed and the step's number, so that the step itself is a function
of its batch: resumed or spread over several devices, training goes the same way.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from models.classifier import Classifier, classifier_features
from models.encoder import Encoder
from models.generator import Generator
from utils import metrics
from utils.audio.augment import augment
from utils.audio.datasets import Dataset, training_batches
from utils.losses import feature_distance
from utils.spectrograms import log_magnitude

# What a real clip may be turned into and still be one: moved, louder or softer, with a little noise.
augment_real = functools.partial(
    augment, max_shift=800, gain_db=(-6.0, 6.0), snr_db=(30.0, 60.0), max_time_mask=0.0, max_band_mask=0.0
)
SYNTHETIC_SNR_DB = (15.0, 60.0)
LONGEST_TAIL = 0.1  # share of a clip
PURPOSES = ("z", "noise", "snr_db", "tail")


@dataclass(frozen=True)
class LossWeights:
    """What an update minimises: a weighted sum of terms, each a mean over the batch.

    Attributes:
        latent: of the mean squared error of z; synthetic clips only.
        feature: of `utils.losses.feature_distance`; 0 needs no classifier.
        spectral: of the mean absolute difference of the log-magnitude spectrograms.
        synthetic_audio: factor on `feature` and `spectral` for synthetic clips (1: the paper; 0: z alone).
        feature_distance: "mse" or "mae".
    """

    latent: float = 1.0
    feature: float = 1.0
    spectral: float = 0.0
    synthetic_audio: float = 1.0
    feature_distance: str = "mse"

    @property
    def real(self) -> dict[str, float]:
        """The terms of real clips whose weight is not 0."""
        return _without_zeros({"feature": self.feature, "spectral": self.spectral})

    @property
    def synthetic(self) -> dict[str, float]:
        """The terms of synthetic clips whose weight is not 0."""
        audio = {name: weight * self.synthetic_audio for name, weight in self.real.items()}
        return _without_zeros({"latent": self.latent, **audio})


def _without_zeros(weights: dict[str, float]) -> dict[str, float]:
    return {name: weight for name, weight in weights.items() if weight}


# ---- batches ----------------------------------------------------------------------


def encoder_batches(
    dataset: Dataset,
    generator: Generator,
    batch_size: int,
    *,
    seed: int,
    first_step: int = 0,
    synthetic_steps: int = 1,
    augment_clips: bool = False,
    augment_samples: bool = False,
) -> tf.data.Dataset:
    """Endless batches of real clips and of all that makes the synthetic ones; step t depends on seed and t alone.

    Args:
        dataset: real clips.
        generator: whose prior z is drawn from.
        batch_size: B, real clips a step, and synthetic ones an update.
        seed: of everything random.
        first_step: the step to begin at.
        synthetic_steps: S, synthetic updates a step.
        augment_clips: pass real clips through `augment_real`.
        augment_samples: also draw what `degrade` does to synthetic clips.

    Returns:
        Yields a dictionary of float32: "audio" `[B, T, C]`, "z" `[B, S, latent_dim]`, and where `augment_samples`
        "noise" `[B, S, T, C]`, "snr_db" and "tail" `[B, S]`.
    """
    real = training_batches(
        dataset,
        batch_size,
        seed=seed,
        first_step=first_step,
        augmentation=augment_real if augment_clips else None,
    )
    rows = [batch_size, synthetic_steps]

    def draw(step: tf.Tensor) -> dict[str, tf.Tensor]:
        # fold_in keeps these streams apart from those of the real clips' augmentation.
        seeds = tf.random.fold_in(tf.stack([tf.constant(seed, tf.int32), step]), 1)
        seeds = dict(zip(PURPOSES, tf.unstack(tf.random.split(seeds, len(PURPOSES))), strict=True))
        uniform = tf.random.stateless_uniform
        shape = [*rows, generator.latent_dim]
        if generator.prior == "uniform":
            batch = {"z": uniform(shape, seeds["z"], -1.0, 1.0)}
        else:
            batch = {"z": tf.random.stateless_normal(shape, seeds["z"])}
        if augment_samples:
            shape = [*rows, generator.num_samples, generator.num_channels]
            batch["noise"] = uniform(shape, seeds["noise"], -(3.0**0.5), 3.0**0.5)
            batch["snr_db"] = uniform(rows, seeds["snr_db"], *SYNTHETIC_SNR_DB)
            batch["tail"] = uniform(rows, seeds["tail"], 0.0, LONGEST_TAIL)
        return batch

    draws = tf.data.Dataset.counter(first_step, dtype=tf.int32)
    draws = draws.map(draw, num_parallel_calls=2, deterministic=True)
    steps = tf.data.Dataset.zip(real, draws)
    return steps.map(lambda clips, batch: {"audio": clips[0], **batch}).prefetch(2)


def distribute(strategy: tf.distribute.Strategy, batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Give each replica its rows of every batch, in order, on one machine or several."""
    if strategy.num_replicas_in_sync == 1:
        return batches

    def rows_of(context: tf.distribute.InputContext) -> tf.data.Dataset:
        rows = batch_size // context.num_input_pipelines
        first = rows * context.input_pipeline_id
        here = batches.map(lambda batch: tf.nest.map_structure(lambda x: x[first : first + rows], batch))
        return here.rebatch(batch_size // context.num_replicas_in_sync)

    return strategy.distribute_datasets_from_function(rows_of)


def degrade(audio: tf.Tensor, noise: tf.Tensor, snr_db: tf.Tensor, tail: tf.Tensor) -> tf.Tensor:
    """Give synthetic clips what only real ones have: background noise, and an end of exact zeros.

    Args:
        audio: float32 `[B, T, C]` in [-1, 1].
        noise: float32 `[B, T, C]` of unit variance.
        snr_db: float32 `[B]`, signal-to-noise ratio.
        tail: float32 `[B]`, share of the clip that is silent at its end.

    Returns:
        float32 `[B, T, C]`.
    """
    level = tf.sqrt(tf.reduce_mean(tf.square(audio), axis=[1, 2]))
    audio += noise * (level * tf.pow(10.0, -snr_db / 20.0))[:, None, None]
    time = tf.range(audio.shape[1], dtype=tf.float32) / audio.shape[1]
    return audio * tf.cast(time < 1.0 - tail[:, None], tf.float32)[..., None]


# ---- the step -----------------------------------------------------------------------


class EncoderTrainer(keras.Model):
    """An encoder beside the frozen networks that teach it, for `compile(optimizer)` and `fit`.

    Make it in the scope of the `tf.distribute` strategy in which the encoder was made. `fit` takes the batches of
    `encoder_batches`; of each step it logs every term, `real_...` and `synthetic_...`, and the weighted sums
    `real_loss` and `synthetic_loss`.

    Args:
        encoder: what is trained.
        generator: differentiable; stays as it is.
        classifier: whose activations make the feature loss; stays as it is. None where `weights.feature` is 0.
        weights: of the terms.

    Raises:
        ValueError: for a feature loss without a classifier.
    """

    def __init__(self, encoder: Encoder, generator: Generator, classifier: Classifier | None, weights: LossWeights):
        if weights.feature and classifier is None:
            raise ValueError("a feature loss needs a classifier. Received: None")
        super().__init__(name="encoder_trainer")
        self.encoder = encoder
        self.generator = generator
        self.weights_of = {"real": weights.real, "synthetic": weights.synthetic}
        # As functions, so that Keras does not take the classifier for a part of what is trained.
        self._features = None if classifier is None else functools.partial(classifier_features, classifier)
        self._feature_distance = functools.partial(
            feature_distance, blocks=classifier.block_names if classifier else (), distance=weights.feature_distance
        )
        self.built = True
        if self.distribute_strategy.num_replicas_in_sync > 1:
            for layer in encoder.network.layers:  # a batch's statistics are those of all of its rows
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        # XLA makes transposed convolutions many times slower on a CPU.
        super().compile(optimizer=optimizer, jit_compile=False)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        """Nothing is left to build. Keras's own takes a first batch apart, and fails where workers share it."""

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One update on real clips, then one on each of S batches of synthetic clips."""
        report = {}
        if self.weights_of["real"]:
            report |= self._update("real", batch["audio"], batch["audio"], None)
        updates = []
        for i in range(batch["z"].shape[1]):
            z = batch["z"][:, i]
            target = heard = self.generator(z)
            if "noise" in batch:
                heard = degrade(target, batch["noise"][:, i], batch["snr_db"][:, i], batch["tail"][:, i])
            updates.append(self._update("synthetic", heard, target, z))
        for name in updates[0]:
            report[name] = tf.add_n([update[name] for update in updates]) / len(updates)
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Keras takes the workers' mean along the first dimension
            report = {name: value[None] for name, value in report.items()}
        return report

    def _update(self, kind: str, heard: tf.Tensor, target: tf.Tensor, z: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Move the encoder, which hears `heard`, to where it finds z and the generator gives `target`."""
        weights, variables = self.weights_of[kind], self.encoder.trainable_variables
        with tf.GradientTape() as tape:
            found = self.encoder(heard, training=True)
            audio = self.generator(found) if set(weights) - {"latent"} else None
            terms = self.terms(weights, audio, target, found, z)
            terms = {name: tf.reduce_mean(value) for name, value in terms.items()}
            loss = tf.add_n([weight * terms[name] for name, weight in weights.items()])
            # The optimizer sums the replicas' gradients.
            share = loss / self.distribute_strategy.num_replicas_in_sync
        gradients = tape.gradient(share, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        # A gradient that is not finite shows at once, as a loss that is not, before the next step's loss would.
        loss = tf.where(tf.math.is_finite(tf.linalg.global_norm(gradients)), loss, float("nan"))
        return {f"{kind}_{name}": value for name, value in {"loss": loss, **terms}.items()}

    def terms(
        self,
        names: Sequence[str],
        audio: tf.Tensor | None,
        target: tf.Tensor,
        found: tf.Tensor,
        z: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        """Loss terms, one value a clip.

        Args:
            names: which, out of "latent", "feature" and "spectral".
            audio: float32 `[B, T, C]`, the reconstructions; None where only "latent" is asked for.
            target: float32 `[B, T, C]`, the clips.
            found: float32 `[B, latent_dim]`, the encoder's answers.
            z: float32 `[B, latent_dim]`, the truth; None without "latent".

        Returns:
            Name to float32 `[B]`.
        """
        terms = {}
        if "latent" in names:
            terms["latent"] = tf.reduce_mean(tf.square(found - z), axis=1)
        if "feature" in names:
            terms["feature"] = self._feature_distance(self._features(audio), self._features(target))
        if "spectral" in names:
            difference = log_magnitude(audio) - log_magnitude(target)
            terms["spectral"] = tf.reduce_mean(tf.abs(difference), axis=[1, 2, 3])
        return terms

    @tf.function(reduce_retracing=True, autograph=False)
    def reconstruct(self, audio: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """The encoder's answers, what the generator makes of them, and the terms of a real clip, `[B]` each."""
        found = self.encoder(audio, training=False)
        reconstruction = self.generator(found)
        return found, reconstruction, self.terms(list(self.weights_of["real"]), reconstruction, audio, found, None)


# ---- measures -------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What `measure` finds out.

    numbers: measure to its mean over the clips.
    z: float32 `[N, latent_dim]`, the encoder's answers.
    reconstructions: float32 `[N, T, C]`.
    """

    numbers: dict[str, float]
    z: np.ndarray
    reconstructions: np.ndarray


def measure(
    trainer: EncoderTrainer,
    audio: np.ndarray,
    *,
    z: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    judges: Mapping[str, Classifier],
    batch_size: int,
) -> Measured:
    """How well an encoder does on clips it was not trained on.

    Args:
        trainer: holds the encoder.
        audio: float32 `[N, T, C]` in [-1, 1].
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
    parts = [trainer.reconstruct(tf.constant(audio[i : i + batch_size])) for i in range(0, len(audio), batch_size)]
    found = np.concatenate([part[0] for part in parts])
    reconstructions = np.concatenate([part[1] for part in parts])
    numbers = {name: np.concatenate([part[2][name] for part in parts]).mean() for name in parts[0][2]}
    pairs = list(zip(audio, reconstructions, strict=True))
    numbers["waveform_mse"] = np.mean([metrics.waveform_mse(*pair) for pair in pairs])
    numbers["ssim"] = np.mean([metrics.ssim(*pair) for pair in pairs])
    if z is not None:
        numbers["latent"] = metrics.latent_mse(found, z)
    for name, judge in judges.items():
        said = _answers(judge, audio, batch_size) if labels is None else labels
        numbers[name] = np.mean(_answers(judge, reconstructions, batch_size) == said)
    return Measured({name: float(value) for name, value in numbers.items()}, found, reconstructions)


def _answers(judge: Classifier, audio: np.ndarray, batch_size: int) -> np.ndarray:
    batches = [audio[i : i + batch_size] for i in range(0, len(audio), batch_size)]
    return np.concatenate([np.argmax(judge(batch, training=False), axis=1) for batch in batches])
