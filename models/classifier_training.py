"""One training step of a classifier, and its answers on clips that it was not trained on."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from models.classifier import Classifier
from utils.audio.datasets import Dataset, evaluation_batches


def make_step(model: Classifier, label_smoothing: float) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """A compiled classifier's step: audio float32 `[B, T, C]` and labels int32 `[B]` to loss and accuracy.

    Args:
        model: whose weights a step changes by its optimizer.
        label_smoothing: share of the target that is spread over all classes.
    """
    model.optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step(audio: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            probabilities = model(audio, training=True)
            loss = tf.reduce_mean(_cross_entropy(probabilities, labels, label_smoothing))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return {"loss": loss, "accuracy": tf.reduce_mean(_correct(probabilities, labels))}

    return step


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
