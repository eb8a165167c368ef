"""The paper's feature loss: how differently a classifier's residual blocks respond to two clips."""

from collections.abc import Iterable, Mapping

import tensorflow as tf

DISTANCES = {"mse": tf.square, "mae": tf.abs}


def feature_distance(
    features: Mapping[str, tf.Tensor], target: Mapping[str, tf.Tensor], taps: Iterable[str], distance: str = "mse"
) -> tf.Tensor:
    """Mean over taps of the mean squared (the paper) or absolute (its supplement) difference of activations.

    Args:
        features: activations by tap, each float `[B, ...]`, such as `models.classifier.classifier_features` gives.
        target: the same of the other clips.
        taps: which of them count, each as much as any other whatever its size.
        distance: "mse" or "mae".

    Returns:
        float32 `[B]`.

    Raises:
        ValueError: for another distance.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}. Received: {distance!r}")
    per_tap = []
    for tap in taps:
        difference = tf.cast(features[tap], tf.float32) - tf.cast(target[tap], tf.float32)
        axes = list(range(1, difference.shape.rank))
        per_tap.append(tf.reduce_mean(DISTANCES[distance](difference), axis=axes))
    return tf.add_n(per_tap) / len(per_tap)
