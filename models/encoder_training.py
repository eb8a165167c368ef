"""Training an encoder against a frozen generator: the batches and the two kinds of update.

Each step follows the paper (section on the inverse mapping model): one update on a batch of real clips, by how far
their reconstructions lie from them; then updates on fresh synthetic clips, by the error of z too. Everything random
in a step is drawn in the input pipeline from the seed and the step's number, so that the step itself is a function
of its batch: resumed or spread over several devices, training goes the same way.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from models.classifier import Classifier, block_features
from models.encoder import FILE_NAME, Encoder, encoder_from
from models.generator import Generator
from utils.audio.augment import augment
from utils.audio.datasets import Dataset, training_batches
from utils.domains import REAL, SYNTHETIC
from utils.losses import Objective, Point
from utils.priors import PRIORS
from utils.runs.files import atomic_path
from utils.runs.training_run import InOrder

# What a real clip may be turned into and still be one: moved, louder or softer, with a little noise.
augment_real = functools.partial(
    augment, max_shift=800, gain_db=(-6.0, 6.0), snr_db=(30.0, 60.0), max_time_mask=0.0, max_band_mask=0.0
)
FEATURE_TERMS = {"mse": "feature_squared", "mae": "features"}
SYNTHETIC_SNR_DB = (15.0, 60.0)
LONGEST_TAIL = 0.1  # share of a clip
LAST = "last.keras"  # in the folder of a run
PURPOSES = ("z", "noise", "snr_db", "tail")


@dataclass(frozen=True)
class LossWeights:
    """What an update minimises: a weighted sum of the terms of `utils.losses`, each a mean over the batch.

    Attributes:
        latent: of `latent`; synthetic clips only.
        feature: of `feature_squared` or `features`; 0 needs no classifier.
        spectral: of `spectral`.
        synthetic_audio: factor on `feature` and `spectral` for synthetic clips (1: the paper; 0: z alone).
        feature_distance: "mse" (the paper) or "mae" (its supplement).
    """

    latent: float = 1.0
    feature: float = 1.0
    spectral: float = 0.0
    synthetic_audio: float = 1.0
    feature_distance: str = "mse"

    @property
    def real(self) -> Objective:
        """The terms of real clips whose weight is not 0."""
        return _objective({FEATURE_TERMS[self.feature_distance]: self.feature, "spectral": self.spectral})

    @property
    def synthetic(self) -> Objective:
        """The terms of synthetic clips whose weight is not 0."""
        audio = {name: weight * self.synthetic_audio for name, weight in self.real.weights.items()}
        return _objective({"latent": self.latent, **audio})


def _objective(weights: dict[str, float]) -> Objective:
    return Objective({name: weight for name, weight in weights.items() if weight})


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
        batch_size: clips per real batch and per synthetic batch.
        seed: of everything random.
        first_step: the step to begin at.
        synthetic_steps: S, synthetic batches per step.
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
        batch = {"z": PRIORS[generator.prior].stateless(shape, seeds["z"])}
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


def write_encoder(encoder: Encoder, path: Path) -> None:
    """Writes an encoder to a .keras file as it is used: in float32, without its optimizer."""
    with atomic_path(path) as temporary:
        encoder.with_options(precision="float32").save(temporary)


def new_encoder(
    generator: Generator,
    *,
    seed: int,
    learning_rate: float,
    decay_updates: int | None,
    init_from: str | Path | None,
    bounded: bool,
    architecture: str = "resnet18",
    **options,
) -> Encoder:
    """An encoder for a generator's clips as its training begins, compiled with Adam.

    Args:
        generator: that it is to invert.
        seed: of its random weights.
        learning_rate: of Adam, at the start.
        decay_updates: updates after which the rate is 0, on a cosine; None: it is constant.
        init_from: begin with the weights of this encoder and its architecture (`encoder_from`).
        bounded: keep its answers in the prior's box, where there is one.
        architecture: of the encoder, where `init_from` gives none.
        options: the others of `Encoder`.
    """
    keras.utils.set_random_seed(seed)
    options |= {
        "latent_dim": generator.latent_dim,
        "num_samples": generator.num_samples,
        "num_channels": generator.num_channels,
        "sample_rate": generator.sample_rate,
        "generator": generator.fingerprint,
        "bounded": bounded and PRIORS[generator.prior].bounded,
    }
    encoder = encoder_from(init_from, options, flag="--init_from") if init_from else None
    encoder = encoder or Encoder(architecture=architecture, **options)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, decay_updates) if decay_updates else learning_rate
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(encoder.trainable_variables)
    encoder.compile(optimizer, jit_compile=False)
    return encoder


# ---- the step -----------------------------------------------------------------------


class EncoderTrainer(keras.Model):
    """An encoder and the frozen networks of its losses: after `compile(optimizer)`, `step` trains it.

    Make it in the scope of the `tf.distribute` strategy in which the encoder was made. A step gives every term,
    `real_...` and `synthetic_...`, and the weighted sums `real_loss` and `synthetic_loss`.

    Args:
        encoder: what is trained.
        generator: differentiable; stays as it is.
        classifier: whose activations make the feature loss; stays as it is. None where `weights.feature` is 0.
        weights: of the terms.
        batches_from: an iterator of the batches of `encoder_batches` from a step on, distributed or not.
        synthetic_steps: S, synthetic batches per step.

    Raises:
        ValueError: for a feature loss without a classifier.
    """

    def __init__(
        self,
        encoder: Encoder,
        generator: Generator,
        classifier: Classifier | None,
        weights: LossWeights,
        batches_from: Callable[[int], Iterator[Mapping[str, tf.Tensor]]] = lambda number: iter(()),
        synthetic_steps: int = 1,
    ):
        if weights.feature and classifier is None:
            raise ValueError("a feature loss needs a classifier. Received: None")
        super().__init__(name="encoder_trainer")
        self.encoder = encoder
        self.generator = generator
        self.batches = InOrder(batches_from)
        self.updates = bool(weights.real.weights) + synthetic_steps  # of a step
        self.objectives = {REAL: weights.real, SYNTHETIC: weights.synthetic}
        # As a function, so that Keras does not take the classifier for a part of what is trained.
        self._features = functools.partial(block_features, classifier)
        self.built = True
        if self.distribute_strategy.num_replicas_in_sync > 1:
            for layer in encoder.network.layers:  # a batch's statistics are those of all of its rows
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        # XLA makes transposed convolutions many times slower on a CPU.
        super().compile(optimizer=optimizer, jit_compile=False)
        self.make_train_function()

    def step(self, number: int) -> dict[str, tf.Tensor]:
        """Trains on the batch of step `number` on all devices: the losses."""
        return self.train_function(self.batches.from_step(number))

    def save(self, folder: Path, step: int) -> None:
        """Writes last.keras, with the optimizer, and encoder.keras, as it is used."""
        write_encoder(self.encoder, folder / FILE_NAME)
        with atomic_path(folder / LAST) as temporary:
            self.encoder.save(temporary)

    def restore(self, folder: Path) -> int:
        """Restores the encoder and its optimizer from last.keras, if there is one; the steps done, or 0."""
        if not (folder / LAST).is_file():
            return 0
        self.encoder.load_weights(folder / LAST)
        return int(keras.ops.convert_to_numpy(self.encoder.optimizer.iterations)) // self.updates

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One update on real clips, then one on each of S batches of synthetic clips."""
        report = {}
        if self.objectives[REAL].weights:
            report |= self._update(REAL, batch["audio"], batch["audio"], None)
        updates = []
        for i in range(batch["z"].shape[1]):
            z = batch["z"][:, i]
            target = inputs = self.generator(z)
            if "noise" in batch:
                inputs = degrade(target, batch["noise"][:, i], batch["snr_db"][:, i], batch["tail"][:, i])
            updates.append(self._update(SYNTHETIC, inputs, target, z))
        for name in updates[0]:
            report[name] = tf.add_n([update[name] for update in updates]) / len(updates)
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Keras takes the workers' mean along the first dimension
            report = {name: value[None] for name, value in report.items()}
        return report

    def _update(self, kind: str, inputs: tf.Tensor, target: tf.Tensor, z: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """One optimizer step: encode `inputs`, of the domain `kind`, compare with `target` and z."""
        objective, variables = self.objectives[kind], self.encoder.trainable_variables
        with tf.GradientTape() as tape:
            encoded = self.encoder(inputs, training=True, domain=kind)
            terms = objective.terms(self._point(objective, encoded, target, z))
            terms = {name: tf.reduce_mean(value) for name, value in terms.items()}
            loss = objective.sum(terms)
            # The optimizer sums the replicas' gradients.
            share = loss / self.distribute_strategy.num_replicas_in_sync
        gradients = tape.gradient(share, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        # A gradient that is not finite shows at once, as a loss that is not, before the next step's loss would.
        loss = tf.where(tf.math.is_finite(tf.linalg.global_norm(gradients)), loss, float("nan"))
        return {f"{kind}_{name}": value for name, value in {"loss": loss, **_logged(terms)}.items()}

    def _point(
        self,
        objective: Objective,
        encoded: tf.Tensor,
        target: tf.Tensor,
        true_z: tf.Tensor | None,
        audio: tf.Tensor | None = None,
    ) -> Point:
        """What the terms of an objective look at; `audio`, the sample at `encoded`, is made where they need it."""
        if audio is None and objective.needs_audio:
            audio = self.generator(encoded)
        features = [self._features(x) for x in (audio, target)] if objective.needs_features else [{}, {}]
        return Point(audio, target, encoded, self.generator.prior, *features, true_z)

    @tf.function(reduce_retracing=True, autograph=False)
    def reconstruct(self, audio: tf.Tensor, domain: str) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """The encoder's z, the generator's samples there, and the terms of real clips, float32 `[B]` each."""
        objective, z = self.objectives[REAL], self.encoder(audio, training=False, domain=domain)
        samples = self.generator(z)
        return z, samples, _logged(objective.terms(self._point(objective, z, audio, None, samples)))


def _logged(terms: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The same terms by the names of `LossWeights`."""
    return {"feature" if name in FEATURE_TERMS.values() else name: value for name, value in terms.items()}
