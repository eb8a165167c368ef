"""An invertible map between the prior and a code, by conditional flow matching (Lipman et al., 2023).

z ~ U(-1, 1) is taken as a standard normal u. Where there are classes, u's class is the block of entries with the
largest sum (`class_code`), and the map is one for each class: first the affine map that gives the class's u the mean
and the covariance of the class's codes, then a flow, trained on pairs by optimal transport within the class (minibatch
transport: Tong et al., 2024). The affine map leaves the flow little to do, which keeps the whole easy to learn for a
generator; for the same reason transport weighs components by their share in the features.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from utils.audio.class_code import class_code_of_normal, class_moments, with_class
from utils.latents import squash, unsquash
from utils.priors import PRIORS

TIME_FREQUENCIES = np.exp(np.linspace(0, 5, 32)).astype(np.float32)
STEPS = 12  # of the flow; short ones, so that the iteration of their inverse contracts
ITERATIONS = 8
SHRINKAGE = 0.1  # of a class's covariance towards that of all codes within classes
PAIRED = 1024  # most codes paired at once
JITTER = 0.05  # standard deviation of noise on codes in training
LARGEST_BATCH, WARM_UP, DECAY_POWER = 256, 100, 0.5
MARGIN = 0.5  # of the sum of a clip's class over the others, where `inverse` has to restore it


class Velocity(keras.Model):
    """Velocity of a point x `[B, L]` at time t `[B]`, of a class int32 `[B]`: `[B, L]`.

    Residual blocks of a perceptron, conditioned on sines of t and on an embedding of the class.
    """

    def __init__(self, latent_dim: int, num_classes: int, width: int = 512, blocks: int = 3):
        super().__init__()
        self.first, self.time = layers.Dense(width), layers.Dense(width)
        self.embedding = layers.Embedding(num_classes, width)
        self.blocks = [
            keras.Sequential([layers.LayerNormalization(), layers.Dense(width, "silu"), layers.Dense(width)])
            for _ in range(blocks)
        ]
        self.norm = layers.LayerNormalization()
        self.last = layers.Dense(latent_dim, kernel_initializer="zeros")

    def call(self, x: tf.Tensor, t: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        angles = t[:, None] * TIME_FREQUENCIES
        waves = tf.concat([tf.sin(angles), tf.cos(angles)], axis=1)
        h = self.first(x) + self.time(waves) + self.embedding(labels)
        for block in self.blocks:
            h = h + block(h)
        return self.last(tf.nn.silu(self.norm(h)))


class Flow(tf.Module):
    """T and its inverse, and their training.

    Args:
        codes: float32 `[N, L]`, what T(z) is to be distributed as.
        labels: int `[N]` in `[0, num_classes)`.
        num_classes: 1 where there are no labels: then z is not restricted.
        importance: float `[L]`, the weight of each component of the code in the transport.
        seed: of the initial weights.
        total: optimizer updates, over which the learning rate falls.
    """

    def __init__(
        self,
        codes: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        *,
        importance: np.ndarray,
        seed: int,
        total: int,
        learning_rate: float = 1e-3,
        ema: float = 0.997,
    ):
        super().__init__()
        keras.utils.set_random_seed(seed)
        self.num_classes, self.latent_dim = num_classes, codes.shape[1]
        self.importance = np.float64(importance)
        self.slopes, self.offsets = self._affine_maps(codes, labels)
        self.inverse_slopes = np.linalg.inv(self.slopes).astype(np.float32)
        self.velocity, self.average = (Velocity(self.latent_dim, num_classes) for _ in range(2))
        one = tf.zeros([1, self.latent_dim]), tf.zeros([1]), tf.zeros([1], tf.int32)
        self.velocity(*one), self.average(*one)
        self.average.set_weights(self.velocity.get_weights())
        rate = keras.optimizers.schedules.PolynomialDecay(learning_rate, total, 0.0, DECAY_POWER)
        self.optimizer = keras.optimizers.AdamW(_WarmUp(rate, WARM_UP), weight_decay=1e-4, name="flow_adam")
        self.optimizer.build(self.velocity.trainable_variables)
        self.ema = ema
        networks = self.velocity, self.average
        self.network_state = [variable.value for network in networks for variable in network.variables]

    def _affine_maps(self, codes, labels):
        """Per class A `[L, L]` and b `[L]` such that A u + b has the mean and covariance of the class's codes."""
        codes = np.float64(codes)
        counts = np.bincount(labels, minlength=self.num_classes)
        means = np.stack(
            [codes[labels == k].mean(axis=0) if counts[k] else codes.mean(axis=0) for k in range(self.num_classes)]
        )
        centred = codes - means[labels]
        within = centred.T @ centred / len(codes)
        self.rotation = _rotation(means, self.num_classes, self.latent_dim)
        slopes, offsets = [], []
        for k in range(self.num_classes):
            rows = centred[labels == k]
            share = len(rows) / (len(rows) + SHRINKAGE * len(codes) / self.num_classes + 2 * self.latent_dim)
            covariance = share * rows.T @ rows / max(1, len(rows)) + (1 - share) * within
            start, spread = class_moments(self.latent_dim, self.num_classes, k)
            a = _root(covariance) @ self.rotation @ np.linalg.inv(_root(spread))
            slopes.append(a)
            offsets.append(means[k] - a @ start)
        return np.float32(slopes), np.float32(offsets)

    def directions(self, count: int, seed: int) -> np.ndarray:
        """Random directions of u, float32 `[L, count]` of norm 1, along which T changes what matters in the code.

        A generator whose dense layer begins with them learns T faster than with directions of no preference.
        """
        random = np.random.default_rng([seed, 0xD1])
        drawn = self.importance * random.standard_normal((count, self.latent_dim))
        slopes = self.slopes[np.arange(count) % self.num_classes]
        rows = np.einsum("ni,nij->nj", drawn, slopes)
        return np.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True)).T

    def base(self, u: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The affine map of each class: u `[B, L]` to where the flow starts."""
        return tf.linalg.matvec(tf.gather(self.slopes, labels), u) + tf.gather(self.offsets, labels)

    @tf.function(autograph=False, reduce_retracing=True)
    def forward(self, z: tf.Tensor) -> tf.Tensor:
        """T: z float32 `[B, L]` in (-1, 1) to codes float32 `[B, L]`."""
        u = unsquash(z)
        labels = class_code_of_normal(u, self.num_classes)
        x = self.base(u, labels)
        for number in range(STEPS):
            x = x + self._slope(x, number, labels) / STEPS
        return x

    @tf.function(autograph=False, reduce_retracing=True)
    def inverse(self, w: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The inverse of T: codes float32 `[B, L]` of classes int32 `[B]` to z in (-1, 1), whose `class_code` they are.

        A code that no z of the class reaches is given the nearest such z along two block sums.
        """
        x = w
        for number in reversed(range(STEPS)):
            x = self._step_back(x, number, labels)
        u = tf.linalg.matvec(tf.gather(self.inverse_slopes, labels), x - tf.gather(self.offsets, labels))
        return squash(with_class(u, labels, self.num_classes, MARGIN))

    def _slope(self, x, number, labels):
        """Slope of step `number` from x by the midpoint method."""
        t = tf.fill(tf.shape(labels), tf.constant(number / STEPS, tf.float32))
        half = 0.5 / STEPS
        return self.average(x + half * self.average(x, t, labels), t + half, labels)

    def _step_back(self, y, number, labels):
        """What step `number` brings to y, by fixed-point iteration: exact, where a step of -h would be off by 0.06."""
        x = y
        for _ in range(ITERATIONS):
            x = y - self._slope(x, number, labels) / STEPS
        return x

    def epoch(self, codes: np.ndarray, labels: np.ndarray, seed: int, number: int) -> tf.Tensor:
        """One update for each 256 codes, which are paired with fresh draws of z; the mean loss.

        Args:
            codes: float32 `[N, L]`.
            labels: int `[N]`.
            seed: of all draws, with `number`.
            number: of the epoch.
        """
        starts, codes, labels = self.pairs(codes, labels, np.random.default_rng([seed, number]))
        batch, losses = min(LARGEST_BATCH, len(codes)), []
        for first in range(0, len(codes) - batch + 1, batch):
            rows = (tf.constant(x[first : first + batch]) for x in (starts, codes, labels))
            losses.append(self._update(*rows, tf.constant([seed + first, number])))
        return tf.reduce_mean(losses)

    def pairs(
        self, codes: np.ndarray, labels: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes in random order and as many start points of their class, assigned by least weighted distance."""
        order = random.permutation(len(codes))
        codes, labels = np.float32(codes[order]), np.int32(labels[order])
        u = with_drawn_class(random.standard_normal(codes.shape), labels, self.num_classes)
        starts = self.base(tf.constant(u, tf.float32), tf.constant(labels)).numpy()
        for k in range(self.num_classes):
            members = np.flatnonzero(labels == k)
            for first in range(0, len(members), PAIRED):
                rows = members[first : first + PAIRED]
                scale = np.sqrt(self.importance)
                _, assigned = linear_sum_assignment(cdist(codes[rows] * scale, starts[rows] * scale, "sqeuclidean"))
                starts[rows] = starts[rows][assigned]
        return starts, codes, labels

    @tf.function(autograph=False, reduce_retracing=True)
    def _update(self, starts, codes, labels, seed):
        loss, gradients = self._loss_and_gradients(starts, codes, labels, seed)
        variables = self.velocity.trainable_variables
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        steps = tf.cast(self.optimizer.iterations, tf.float32)
        decay = tf.minimum(self.ema, steps / (steps + 10))
        for average, variable in zip(self.average.variables, self.velocity.variables, strict=True):
            average.assign(decay * average + (1 - decay) * variable)
        return loss

    def _loss_and_gradients(self, starts, codes, labels, seed):
        with tf.GradientTape() as tape:
            loss = self._loss(self.velocity, starts, codes, labels, seed)
        return loss, tape.gradient(loss, self.velocity.trainable_variables)

    @staticmethod
    def _loss(velocity, starts, codes, labels, seed):
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        codes = codes + JITTER * tf.random.stateless_normal(tf.shape(codes), seeds[0])
        t = tf.random.stateless_uniform(tf.shape(labels), seeds[1])
        between = starts + t[:, None] * (codes - starts)
        return tf.reduce_mean(tf.square(velocity(between, t, labels) - (codes - starts)))

    def measures(self, codes: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
        """How good T is, on codes `[n, L]` that it was not trained on.

        val_flow: the loss. displacement: root mean square of T(z) less its affine start. round_trip: largest error of
        z after T and its inverse. linear_residual: share of T(z)'s variance, in importance, that the best affine map
        of u leaves, and the same for one affine map a class.
        """
        random = np.random.default_rng([seed, 0xF10])
        starts, paired, paired_labels = self.pairs(codes, labels, random)
        loss = self._loss(self.average, *map(tf.constant, (starts, paired, paired_labels)), tf.constant([seed, 0]))
        z = PRIORS["uniform"].draw(random, (4000, self.latent_dim)).astype(np.float32)
        u = unsquash(tf.constant(z))
        drawn = class_code_of_normal(u, self.num_classes)
        w = self.forward(tf.constant(z))
        back = self.inverse(w[:256], drawn[:256])
        displacement = tf.sqrt(tf.reduce_mean(tf.square(w - self.base(u, drawn))))
        weighted, u, drawn = w.numpy() * np.sqrt(self.importance), u.numpy(), drawn.numpy()
        facts = {"val_flow": float(loss), "displacement": float(displacement)}
        facts["round_trip"] = float(tf.reduce_max(tf.abs(back - z[:256])))
        facts["linear_residual"] = _residual(u, weighted) / np.var(weighted, axis=0).sum()
        by_class = sum(
            _residual(u[drawn == k], weighted[drawn == k]) * np.mean(drawn == k) for k in range(self.num_classes)
        )
        return facts | {"class_linear_residual": by_class / np.var(weighted, axis=0).sum()}


def with_drawn_class(u: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Standard normal rows `[N, L]` restricted to their class, by exchanging two blocks."""
    width = u.shape[1] // num_classes
    u, rows = u.copy(), np.arange(len(u))
    blocks = u[:, : width * num_classes].reshape(len(u), num_classes, width)
    largest = blocks.sum(axis=2).argmax(axis=1)
    blocks[rows, largest], blocks[rows, labels] = blocks[rows, labels].copy(), blocks[rows, largest].copy()
    u[:, : width * num_classes] = blocks.reshape(len(u), -1)
    return u


class _WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose first steps rise from 0."""

    def __init__(self, schedule, steps):
        self.schedule, self.steps = schedule, steps

    def __call__(self, step):
        return self.schedule(step) * tf.minimum(1.0, (tf.cast(step, tf.float32) + 1) / self.steps)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 1e-6))) @ vectors.T


def _rotation(means: np.ndarray, num_classes: int, latent_dim: int) -> np.ndarray:
    """The orthogonal matrix `[L, L]` that turns the means of u's classes most nearly to those of the codes."""
    if num_classes == 1:
        return np.eye(latent_dim)
    starts = np.stack([class_moments(latent_dim, num_classes, k)[0] for k in range(num_classes)])
    # A small multiple of the identity decides where the classes' means leave a choice.
    left, _, right = np.linalg.svd(means.T @ starts + 1e-3 * np.eye(latent_dim))
    return left @ right


def _residual(u: np.ndarray, w: np.ndarray) -> float:
    """Variance of w that the best affine map of u leaves."""
    x = np.concatenate([u, np.ones((len(u), 1), u.dtype)], axis=1)
    return float(np.square(w - x @ np.linalg.lstsq(x, w, rcond=None)[0]).mean(axis=0).sum())
