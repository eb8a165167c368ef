"""Training a classifier: a step, its checkpoint, and its answers on clips that it was not trained on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from models.classifier import Classifier
from utils.audio.datasets import Dataset, evaluation_batches
from utils.runs.files import atomic_path
from utils.runs.training_run import InOrder

LAST = "last.keras"  # in the folder of a run


class ClassifierTrainer:
    """A compiled classifier and what its steps take.

    Args:
        model: whose weights a step changes by its optimizer.
        label_smoothing: share of the target that is spread over all classes.
        batches_from: an iterator of the batches of `training_batches` from a step on.
    """

    def __init__(self, model: Classifier, label_smoothing: float, batches_from: Callable[[int], Iterator]):
        self.model, self.label_smoothing, self.batches = model, label_smoothing, InOrder(batches_from)
        model.optimizer.build(model.trainable_variables)

    def step(self, number: int) -> dict[str, tf.Tensor]:
        """Trains on the batch of step `number`: loss and accuracy."""
        return self._update(*next(self.batches.from_step(number)))

    @tf.function(autograph=False)
    def _update(self, audio: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Audio float32 `[B, T, C]` and labels int32 `[B]` to loss and accuracy."""
        model = self.model
        with tf.GradientTape() as tape:
            probabilities = model(audio, training=True)
            loss = tf.reduce_mean(_cross_entropy(probabilities, labels, self.label_smoothing))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return {"loss": loss, "accuracy": tf.reduce_mean(_correct(probabilities, labels))}

    def save(self, folder: Path, step: int) -> None:
        """Writes last.keras, with the optimizer."""
        with atomic_path(folder / LAST) as temporary:
            self.model.save(temporary)

    def restore(self, folder: Path) -> int:
        """Restores the classifier and its optimizer from last.keras, if there is one; the steps done, or 0."""
        if not (folder / LAST).is_file():
            return 0
        self.model.load_weights(folder / LAST)
        return int(self.model.optimizer.iterations)


def write_classifier(model: Classifier, path: Path) -> None:
    """Writes a classifier to a .keras file as it is used: in float32, without its optimizer."""
    with atomic_path(path) as temporary:
        model.with_precision("float32").save(temporary)


def make_evaluation(model: Classifier, dataset: Dataset, batch_size: int, label_smoothing: float):
    """A function without arguments that gives loss and accuracy of the model, as it then is, on all clips."""
    batches = evaluation_batches(dataset, batch_size).cache()

    @tf.function(autograph=False, reduce_retracing=True)
    def measure(audio: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        probabilities = model(audio, training=False)
        return _cross_entropy(probabilities, labels, label_smoothing), _correct(probabilities, labels)

    def evaluate() -> dict[str, float]:
        losses, correct = zip(*(measure(*batch) for batch in batches), strict=True)
        return {"loss": float(np.concatenate(losses).mean()), "accuracy": float(np.concatenate(correct).mean())}

    return evaluate


def _cross_entropy(probabilities: tf.Tensor, labels: tf.Tensor, label_smoothing: float) -> tf.Tensor:
    one_hot = tf.one_hot(labels, probabilities.shape[1])
    return keras.losses.categorical_crossentropy(one_hot, probabilities, label_smoothing=label_smoothing)


def _correct(probabilities: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(probabilities, axis=1, output_type=tf.int32) == labels, tf.float32)
