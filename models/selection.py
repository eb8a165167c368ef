"""The recipe's own classifier, by which weights are chosen: small, and trained from the training clips alone."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from models.features import BANDS, FRAMES, Clips

EPOCHS, BATCH, LEARNING_RATE = 6, 64, 2e-3
LARGEST_MOVE = 6  # frames by which training clips are moved
NOISE = 0.1  # standard deviation of noise on log-mel in training


def train_selection_classifier(clips: Clips, num_classes: int, seed: int, *, quiet: bool = False) -> keras.Model:
    """A convolutional network from log-mel `[B, 64, 64]` to probabilities `[B, num_classes]`; a minute."""
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([keras.Input((FRAMES, BANDS)), layers.Reshape((FRAMES, BANDS, 1))])
    for channels in (24, 48, 72, 96):
        network.add(layers.Conv2D(channels, 3, 2, padding="same"))
        network.add(layers.BatchNormalization())
        network.add(layers.ReLU())
    network.add(layers.GlobalAveragePooling2D())
    network.add(layers.Dropout(0.3))
    network.add(layers.Dense(num_classes, "softmax"))
    steps = -(-len(clips.dataset) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCHS * steps)
    network.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    log_mel = tf.function(clips.front_end.log_mel, autograph=False, reduce_retracing=True)
    random = np.random.default_rng([seed, 0x5E1])
    for epoch in range(EPOCHS):
        order, losses = random.permutation(len(clips.dataset)), []
        for first in range(0, len(order), BATCH):
            index = order[first : first + BATCH]
            x = log_mel(clips.audio(np.full(len(index), epoch % clips.variants), index)).numpy()
            x = np.roll(x, random.integers(-LARGEST_MOVE, LARGEST_MOVE + 1), axis=1)
            x += NOISE * random.standard_normal(x.shape).astype(np.float32)
            losses.append(network.train_on_batch(x, clips.labels[index]))
        if not quiet:
            print(f"selection classifier: epoch {epoch + 1}/{EPOCHS}, loss {np.mean(losses):.3f}")
    return network
