"""Clips a second of the encoder's training step, of a plain loop as published, and of the input pipeline alone.

The plain loop is written from what the paper says: a Python generator reads, scales and resamples each clip every time
(16000 -> 16384 Hz), the generator is its frozen TF1 graph, the networks have Keras's own layers, real and synthetic
update are in one `tf.function` with Keras's defaults, and Keras metrics are updated eagerly after each step. Both sides
have the same shapes, batches and losses, and random weights, since speed does not depend on them.

The two run in turn, each in its own process, so that other load on the machine slows both alike. The last rows are the
time that a step's operations would take at the rate of a large matrix product.

Examples:

    # the paper's sizes in float32 (minutes)
    python -m benchmarks.training ../shared/data/speech_commands_digits

    # the bundled sizes, with the project's side in bfloat16
    python -m benchmarks.training ../shared/data/speech_commands_digits --dim 32 --width 32 \\
        --precision mixed_bfloat16

    # the input pipeline alone (seconds)
    python -m benchmarks.training ../shared/data/speech_commands_digits --rounds 0
"""

import argparse
import contextlib
import itertools
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

from utils import options
from utils.runs.cache import cache_folder


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09, or any folder of audio")
    add = parser.add_argument
    add("--dim", type=options.positive_int, default=64, metavar="N", help="WaveGAN's channel multiplier")
    add("--width", type=options.positive_int, default=64, metavar="N", help="of encoder and classifier")
    options.add_shared(parser, "precision", "batch_size", batch_size=64)
    add("--rounds", type=options.non_negative_int, default=5, metavar="N", help="steps of which medians are taken")
    add("--cache", type=Path, default=cache_folder(), metavar="DIR", help="where decoded clips are kept")
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import keras
import librosa
import numpy as np
import soundfile
import tensorflow as tf

from benchmarks.timing import PRODUCT_SIZE, frozen_graph, interleaved_medians, matrix_product, multiply_adds
from models import resnet, tf1
from models.classifier import Classifier, classifier_features
from models.encoder import Encoder
from models.encoder_training import EncoderTrainer, LossWeights, encoder_batches
from models.generator import Generator, load_generator
from models.wavegan import Architecture, initial_weights
from utils.audio.datasets import DIGITS, Dataset, load_dataset

PIPELINE_BATCHES = 50


def networks(width: int, precision: str, latent_dim: int, plain: bool = False) -> tuple[Encoder, Classifier]:
    """The paper's two networks with random weights, of the project's layers, or of Keras's own where `plain`."""
    stock = {name: getattr(keras.layers, name) for name in ("Conv2D", "BatchNormalization")}
    with mock.patch.multiple(resnet, **stock) if plain else contextlib.nullcontext():
        encoder = Encoder(latent_dim=latent_dim, width=width, front_end="stft_real", bounded=False, precision=precision)
        classifier = Classifier(
            architecture="resnet18", width=width, front_end="stft_real", class_names=DIGITS, precision=precision
        )
    return encoder, classifier


def step_operations(encoder: Encoder, architecture: Architecture, batch_size: int) -> float:
    """Floating-point operations of a step's convolutions and matrix products, two for each multiply-add.

    Each of the two updates takes the encoder forward and backward to its weights and its input (3 passes), the
    classifier, whose trunk is the encoder's, over target and reconstruction and back to its input (3), the generator
    forward and back to z (2); the synthetic clips are one more generator pass.
    """
    trunk = 0
    for layer in encoder.network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            trunk += math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
    return 2 * batch_size * (12 * trunk + 5 * multiply_adds(architecture))


# ---- the plain loop -----------------------------------------------------------------


def plain_clips(dataset: Dataset, root: Path, batch_size: int) -> Iterator[np.ndarray]:
    """Endless batches float32 `[B, 16384, 1]`; every clip is read, scaled and resampled each time."""
    names = itertools.cycle(dataset.names)
    while True:
        batch = np.zeros((batch_size, 16384, 1), np.float32)
        for row, name in zip(batch, names, strict=False):
            samples, rate = soundfile.read(root / name, dtype="int16")
            audio = samples.astype(np.float32) / 32767 * 1.414
            audio = librosa.resample(audio, orig_sr=rate, target_sr=16384)[:16384]
            row[: len(audio), 0] = audio
        yield batch


def plain_step(
    encoder: Encoder, function: Callable[[tf.Tensor], tf.Tensor], classifier: Classifier, clips: Iterator[np.ndarray]
) -> Callable[[], object]:
    """One step of the plain loop, ready to call."""
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(encoder.trainable_variables)
    means = [keras.metrics.Mean() for _ in range(4)]

    def generate(z: tf.Tensor) -> tf.Tensor:
        audio = tf.ensure_shape(function(z), [None, 16384, 1])
        return audio

    def feature_loss(audio: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
        a, b = classifier_features(classifier, audio), classifier_features(classifier, reconstruction)
        losses = [tf.reduce_mean(tf.square(tf.cast(a[name] - b[name], tf.float32))) for name in classifier.block_names]
        return tf.add_n(losses) / len(losses)

    def apply(tape: tf.GradientTape, loss: tf.Tensor) -> None:
        variables = encoder.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    @tf.function
    def step(audio, z):
        with tf.GradientTape() as tape:
            real = feature_loss(audio, generate(encoder(audio, training=True)))
        apply(tape, real)
        samples = generate(z)
        with tf.GradientTape() as tape:
            encoded = encoder(samples, training=True)
            latent = tf.reduce_mean(tf.square(encoded - z))
            feature = feature_loss(samples, generate(encoded))
            loss = latent + feature
        apply(tape, loss)
        return real, latent, feature, loss

    def run() -> None:
        audio = next(clips)
        z = np.random.uniform(-1, 1, (len(audio), encoder.latent_dim)).astype(np.float32)
        for mean, value in zip(means, step(tf.constant(audio), tf.constant(z)), strict=True):
            mean.update_state(value)
            mean.result().numpy()

    return run


# ---- the project's step ----------------------------------------------------------------


def trainer_step(
    encoder: Encoder, generator: Generator, classifier: Classifier, batches: tf.data.Dataset
) -> Callable[[], object]:
    """One step of `EncoderTrainer`, as `train.py` calls it; one synthetic update, as in the paper."""
    trainer = EncoderTrainer(encoder, generator, classifier, LossWeights(), lambda number: iter(batches))
    trainer.compile(keras.optimizers.Adam(1e-3))
    trainer.optimizer.build(encoder.trainable_variables)
    numbers = itertools.count()
    return lambda: [float(loss) for loss in trainer.step(next(numbers)).values()]


# ---- measuring -------------------------------------------------------------------------


def random_wavegan(dim: int, read: Callable[[Path], object]):
    """`read` applied to the TF1 folder of a WaveGAN with random weights."""
    architecture = Architecture(dim=dim)
    with tempfile.TemporaryDirectory() as folder:
        tf1.write_tf1(Path(folder), initial_weights(architecture, 0), architecture)
        return read(Path(folder))


def pipeline_rate(batches: tf.data.Dataset, batch_size: int) -> float:
    """Real clips a second that a pipeline delivers (with z and noise of the synthetic clips) when nothing else runs."""
    iterator = iter(batches)
    for _ in range(5):
        next(iterator)
    started = time.perf_counter()
    for _ in range(PIPELINE_BATCHES):
        next(iterator)
    return PIPELINE_BATCHES * batch_size / (time.perf_counter() - started)


class Side:
    """One of the two steps in its own process, so that one's memory does not slow the other.

    Calling it runs a step.
    """

    def __init__(self, make: Callable[[argparse.Namespace], Callable[[], object]], args: argparse.Namespace):
        spawn = multiprocessing.get_context("spawn")
        self.process = ProcessPoolExecutor(1, mp_context=spawn, initializer=self.prepare, initargs=(make, args))

    @classmethod
    def prepare(cls, make: Callable[[argparse.Namespace], Callable[[], object]], args: argparse.Namespace) -> None:
        keras.utils.set_random_seed(0)
        cls.step = staticmethod(make(args))

    @classmethod
    def run(cls) -> None:
        cls.step()

    def __call__(self) -> None:
        self.process.submit(self.run).result()


def plain_side(args: argparse.Namespace) -> Callable[[], object]:
    """The plain loop's step at the sizes of the command line."""
    clips = plain_clips(load_dataset(args.input, cache_dir=args.cache), args.input, args.batch_size)
    encoder, classifier = networks(args.width, "float32", Architecture().latent_dim, plain=True)
    return plain_step(encoder, random_wavegan(args.dim, frozen_graph), classifier, clips)


def trainer_side(args: argparse.Namespace) -> Callable[[], object]:
    """The project's, on clips as they are."""
    native = random_wavegan(args.dim, lambda folder: load_generator(folder, args.precision))
    dataset = load_dataset(args.input, cache_dir=args.cache)
    encoder, classifier = networks(args.width, args.precision, native.latent_dim)
    return trainer_step(encoder, native, classifier, encoder_batches(dataset, native, args.batch_size, seed=0))


def main() -> None:
    args = parse_arguments()

    native = random_wavegan(args.dim, load_generator)
    dataset = load_dataset(args.input, cache_dir=args.cache)
    print("| input pipeline alone | clips/s |\n|---|---|")
    for title, augmented in (("paper: as they are", False), ("aligned: augmented, with noise", True)):
        batches = encoder_batches(
            dataset, native, args.batch_size, seed=0, augment_clips=augmented, augment_samples=augmented
        )
        print(f"| {title} | {pipeline_rate(batches, args.batch_size):,.0f} |", flush=True)
    if not args.rounds:
        return

    dtypes = {"float32": tf.float32, "mixed_bfloat16": tf.bfloat16}
    products = {
        f"matrix product, {name}": matrix_product(dtypes[name]) for name in dict.fromkeys(["float32", args.precision])
    }
    sides = {"plain loop, float32": Side(plain_side, args), f"train.py, {args.precision}": Side(trainer_side, args)}
    seconds = interleaved_medians({**sides, **products}, args.rounds)
    encoder, _ = networks(args.width, "float32", native.latent_dim)
    operations = step_operations(encoder, native.network.architecture, args.batch_size)
    for name in products:  # as long as a step's operations take at the product's rate
        seconds[name] *= operations / (2 * PRODUCT_SIZE**3)
    plain = seconds["plain loop, float32"]
    print(f"\n| step: {args.batch_size} real + {args.batch_size} synthetic clips | s a step | clips/s | GFLOP/s | x |")
    print("|---|---|---|---|---|")
    for name, value in seconds.items():
        rates = f"{2 * args.batch_size / value:.1f} | {1e-9 * operations / value:.0f}"
        print(f"| {name} | {value:.2f} | {rates} | {plain / value:.2f} |")


if __name__ == "__main__":
    options.run(main)
