"""Clips a second of the encoder's training step, beside a plain published-style loop, and of the input pipeline alone.

The plain loop is written from the paper's facts: a Python generator that reads, scales and resamples each clip anew
(16000 -> 16384 Hz), the generator as its frozen TF1 graph, real and synthetic update in one `tf.function` with Keras's
defaults, and Keras metrics updated eagerly after each step. Networks, batch and losses are the same on both sides, with
random weights, since speed does not depend on them. The two are run in turn, so that a loaded machine slows both alike.

Examples:

    # the paper's sizes in float32 (minutes)
    python -m benchmarks.training --data ../shared/data/speech_commands_digits

    # the bundled sizes, with the project's side in bfloat16
    python -m benchmarks.training --data ../shared/data/speech_commands_digits --dim 32 --width 32 \\
        --precision mixed_bfloat16

    # the input pipeline alone (seconds)
    python -m benchmarks.training --data ../shared/data/speech_commands_digits --rounds 0
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import utils  # noqa: F401  (before NumPy and TensorFlow)

# isort: split
import keras
import librosa
import numpy as np
import soundfile
import tensorflow as tf

from models import tf1
from models.classifier import Classifier, classifier_features
from models.encoder import Encoder
from models.encoder_training import EncoderTrainer, LossWeights, encoder_batches
from models.generator import Generator, load_generator
from models.wavegan import Architecture, initial_weights
from utils import options
from utils.datasets import DIGITS, Dataset, load_dataset

PIPELINE_BATCHES = 50


def networks(width: int, precision: str, generator: Generator) -> tuple[Encoder, Classifier]:
    """The paper's two networks with random weights."""
    keras.utils.set_random_seed(0)
    encoder = Encoder(
        latent_dim=generator.latent_dim, width=width, front_end="stft_real", box=False, precision=precision
    )
    classifier = Classifier(
        architecture="resnet18", width=width, front_end="stft_real", class_names=DIGITS, precision=precision
    )
    return encoder, classifier


# ---- the plain loop -----------------------------------------------------------------


def plain_clips(dataset: Dataset, root: Path, batch_size: int) -> Iterator[np.ndarray]:
    """Batches float32 `[B, 16384, 1]`: every clip read, scaled and resampled each time it is met."""
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
        losses = [tf.reduce_mean(tf.square(tf.cast(a[tap] - b[tap], tf.float32))) for tap in classifier.taps]
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
            found = encoder(samples, training=True)
            latent = tf.reduce_mean(tf.square(found - z))
            feature = feature_loss(samples, generate(found))
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
    """One step of `EncoderTrainer`, as Keras's `fit` calls it; one synthetic update, as in the paper."""
    trainer = EncoderTrainer(encoder, generator, classifier, LossWeights())
    trainer.compile(keras.optimizers.Adam(1e-3))
    trainer.optimizer.build(encoder.trainable_variables)
    trainer.make_train_function()
    iterator = iter(batches)
    return lambda: {name: float(value) for name, value in trainer.train_function(iterator).items()}


def seconds_in_turn(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function over rounds; one round before them builds the graphs."""
    seconds = {name: [] for name in functions}
    for i in range(rounds + 1):
        for name, function in functions.items():
            begun = time.perf_counter()
            function()
            if i:
                seconds[name].append(time.perf_counter() - begun)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def pipeline_rate(batches: tf.data.Dataset, batch_size: int) -> float:
    """Real clips a second that a pipeline delivers (with the synthetic clips' z and noise), nothing else running."""
    iterator = iter(batches)
    for _ in range(5):
        next(iterator)
    begun = time.perf_counter()
    for _ in range(PIPELINE_BATCHES):
        next(iterator)
    return PIPELINE_BATCHES * batch_size / (time.perf_counter() - begun)


def main() -> None:
    parser = options.make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="SC09, or any folder of audio")
    add = parser.add_argument
    add("--dim", type=options.positive_int, default=64, metavar="N", help="WaveGAN's channel multiplier")
    add("--width", type=options.positive_int, default=64, metavar="N", help="of encoder and classifier")
    options.add_shared(parser, "precision", "batch_size", batch_size=64)
    add("--rounds", type=options.non_negative_int, default=5, metavar="N", help="steps of which medians are taken")
    add("--cache", type=Path, default=Path("cache"), metavar="DIR", help="where decoded clips are kept")
    args = parser.parse_args()

    architecture = Architecture(dim=args.dim)
    with tempfile.TemporaryDirectory() as folder:
        tf1.write_tf1(Path(folder), initial_weights(architecture, 0), architecture)
        native = load_generator(folder, args.precision)
        graph_path, prefix = tf1.find_checkpoint(Path(folder))
        frozen, _ = tf1.as_function(tf1.freeze(graph_path, prefix), graph_path)

    dataset = load_dataset(args.data, cache_dir=args.cache)

    def batches(augmented: bool) -> tf.data.Dataset:
        return encoder_batches(
            dataset, native, args.batch_size, seed=0, augment_clips=augmented, augment_samples=augmented
        )

    print("| input pipeline alone | clips/s |\n|---|---|")
    for title, augmented in (("paper: as they are", False), ("aligned: augmented, with noise", True)):
        print(f"| {title} | {pipeline_rate(batches(augmented), args.batch_size):,.0f} |", flush=True)
    if not args.rounds:
        return
    clips = plain_clips(dataset, args.data, args.batch_size)
    encoder, classifier = networks(args.width, "float32", native)
    functions = {"plain loop, float32": plain_step(encoder, frozen, classifier, clips)}
    encoder, classifier = networks(args.width, args.precision, native)
    functions[f"train.py, {args.precision}"] = trainer_step(encoder, native, classifier, batches(False))
    seconds = seconds_in_turn(functions, args.rounds)
    plain = next(iter(seconds.values()))
    print(f"\n| step: {args.batch_size} real + {args.batch_size} synthetic clips | s a step | clips/s | x |")
    print("|---|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.2f} | {2 * args.batch_size / value:.1f} | {plain / value:.2f} |")


if __name__ == "__main__":
    options.run(main)
