"""Train a digit classifier on SC09: the one whose features serve as a loss, or the judge that scores results.

Examples:
    # The classifier, on the Speech Commands digits or on Donahue's SC09
    python train_sc09_classifier.py --data ../shared/data/speech_commands_digits

    # As published: ResNet-18 of full width on the real part of the STFT, no augmentation
    python train_sc09_classifier.py --data datasets/sc09 --preset paper

    # The independent judge: another architecture and seed, never used in a loss
    python train_sc09_classifier.py --data ../shared/data/speech_commands_digits --architecture mel_cnn \\
        --width 32 --seed 7 --export classifier_checkpoint/judge.keras

    # Go on after an interruption
    python train_sc09_classifier.py --data ... --output logs/00000-classifier-resnet18

The run's folder holds options.json, log.txt, epochs.jsonl, tensorboard/, last.keras (to resume), best.keras
(by validation accuracy) and, at the end, classifier.keras. The accuracy, per digit and as a confusion matrix,
goes to --results as well.
"""

import argparse
import csv
import functools
import math
import os
import time
from pathlib import Path

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from models.classifier import ARCHITECTURES, Classifier
from utils import options
from utils.audio.augment import AUGMENTATIONS
from utils.audio.datasets import Dataset, evaluation_batches, load_dataset, training_batches
from utils.audio.files import ALIGNMENTS
from utils.options import UserError
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl, atomic_path, read_jsonl
from utils.runs.folders import keep_options, output_folder, tee_log
from utils.spectrograms import KINDS

PRESETS = {
    "aligned": {},
    "paper": {
        "architecture": "resnet18",
        "width": 64,
        "front_end": "stft_real",
        "alignment": "paper",
        "augment": "none",
        "label_smoothing": 0.0,
        "schedule": "constant",
        "epochs": 250,
    },
}
# What a run may be continued with another value of.
CHANGEABLE = ("output", "results", "export", "dry_run", "quiet", "preset", "cache")
MISHEARD_CLIPS = 8


def parse_options() -> argparse.Namespace:
    parser = options.make_parser(__doc__)

    data = parser.add_argument_group("data")
    add = data.add_argument
    add("--data", type=Path, default="datasets/sc09", metavar="DIR", help="SC09, in either published layout")
    add("--alignment", choices=ALIGNMENTS, default="aligned", help="level and time base of the clips")
    add("--num_samples", type=options.positive_int, default=16384, metavar="N", help="clip length in samples")
    add("--sample_rate", type=options.positive_int, default=16000, metavar="HZ", help="sample rate in Hz")
    add(
        "--augment",
        choices=AUGMENTATIONS,
        default="light",
        help="light: random time shift, gain, noise, silenced stretches and removed bands; heavy (for the judges): "
        "other speeds, rooms, spectral tilts, band limits, coloured noise and codecs too",
    )
    add("--cache", type=Path, default="cache", metavar="DIR", help="where decoded clips are kept")

    model = parser.add_argument_group("model")
    add = model.add_argument
    options.add_shared(model, "preset", "precision")
    add("--architecture", choices=ARCHITECTURES, default="resnet18", help="mel_cnn and waveform_cnn are the judges'")
    add(
        "--width",
        type=options.positive_int,
        default=32,
        metavar="N",
        help="channels of the first stage; the paper's ResNet-18 has 64",
    )
    add("--front_end", choices=KINDS, default="log_magnitude", help="of resnet18; mel_cnn has its own")

    optimisation = parser.add_argument_group("optimisation")
    add = optimisation.add_argument
    add("--epochs", type=options.positive_int, default=40, metavar="N", help="times over the training clips")
    options.add_shared(optimisation, "batch_size", "seed", batch_size=64)
    add(
        "--learning_rate",
        type=options.positive_float,
        default=1e-3,
        metavar="X",
        help="of Adam, at the start",
    )
    add(
        "--schedule",
        choices=("cosine", "constant"),
        default="cosine",
        help="of the learning rate; cosine reaches 0 at the last step",
    )
    add(
        "--label_smoothing",
        type=float,
        default=0.0,
        metavar="X",
        help="share of the target spread over all digits, in [0, 1); 0 keeps the answers calibrated, as scores by "
        "confidence (inception score) need them",
    )
    add(
        "--patience",
        type=options.positive_int,
        metavar="N",
        help="stop after N epochs without a better one (default: never)",
    )

    output = parser.add_argument_group("output")
    add = output.add_argument
    options.add_shared(output, "output", "dry_run", "quiet")
    add(
        "--export",
        type=Path,
        metavar="FILE",
        help="write the finished classifier here too (default: only into the run's folder)",
    )
    add(
        "--results",
        type=Path,
        default="results",
        metavar="DIR",
        help="where the accuracy and the confusion matrix go",
    )

    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    if not 0 <= args.label_smoothing < 1:
        parser.error(f"--label_smoothing: must lie in [0, 1). Received: {args.label_smoothing}")
    if args.export and args.export.suffix != ".keras":
        parser.error(f"--export: must end in .keras. Received: {args.export}")
    return args


def main() -> None:
    args = parse_options()
    if args.dry_run:
        for name, value in sorted(vars(args).items()):
            print(f"{name:16} {value}")
        print(f"would train on {args.data} and write a folder {args.output or 'logs/NNNNN-classifier-...'}")
        return
    train_clips, validation_clips = (
        load_dataset(
            args.data,
            args.num_samples,
            1,
            args.sample_rate,
            split,
            args.alignment,
            args.cache,
            quiet=args.quiet,
        )
        for split in ("train", "selection")
    )
    if not train_clips.class_names:
        raise UserError(f"--data {args.data}: no digit labels; SC09 has zero/ ... nine/ or train/Zero_*.wav")
    folder = output_folder(args.output, Path("logs"), f"classifier-{args.architecture}")
    keep_options(folder, vars(args), changeable=CHANGEABLE)
    with tee_log(folder / "log.txt"):
        if not args.quiet:
            print(f"{folder}\n{train_clips.describe()}\n{validation_clips.describe()}")
        train(args, folder, train_clips, validation_clips)
        report(args, folder, validation_clips)


def train(args: argparse.Namespace, folder: Path, train_clips: Dataset, validation_clips: Dataset) -> None:
    """Fit with Keras from wherever `folder` stands; afterwards it holds best.keras and last.keras."""
    steps_per_epoch = -(-len(train_clips) // args.batch_size)
    if (folder / "last.keras").is_file():
        model = keras.saving.load_model(folder / "last.keras")
    else:
        model = _new_model(args, train_clips, steps_per_epoch)
    first_epoch = int(model.optimizer.iterations) // steps_per_epoch
    if first_epoch >= args.epochs:
        return
    if not args.quiet:
        resumed = f", resumed after epoch {first_epoch}" if first_epoch else ""
        size = f"{model.count_params():,} weights, {steps_per_epoch} steps an epoch"
        print(f"{args.architecture}: {size}{resumed}")

    def one_hot(audio: tf.Tensor, labels: tf.Tensor):
        return audio, tf.one_hot(labels, len(train_clips.class_names))

    augmentation = AUGMENTATIONS[args.augment]
    training = training_batches(
        train_clips,
        args.batch_size,
        seed=args.seed,
        first_step=first_epoch * steps_per_epoch,
        augmentation=augmentation and functools.partial(augmentation, sample_rate=args.sample_rate),
    )
    validation = evaluation_batches(validation_clips, args.batch_size).cache()
    callbacks = [
        keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
        _Epochs(folder, args.epochs, first_epoch, len(train_clips), args.quiet),
    ]
    if args.patience:
        callbacks.append(keras.callbacks.EarlyStopping("val_accuracy", patience=args.patience, mode="max"))
    model.fit(
        training.map(one_hot),
        validation_data=validation.map(one_hot),
        epochs=args.epochs,
        initial_epoch=first_epoch,
        steps_per_epoch=steps_per_epoch,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )


def report(args: argparse.Namespace, folder: Path, validation_clips: Dataset) -> None:
    """Write the best classifier in float32, score it, and leave the numbers where people look for them."""
    model = keras.saving.load_model(folder / "best.keras", compile=False).with_precision("float32")
    exports = [folder / "classifier.keras"] + ([args.export] if args.export else [])
    for path in exports:
        with atomic_path(path) as temporary:
            model.save(temporary)

    batches = evaluation_batches(validation_clips, args.batch_size)
    probabilities = model.predict(batches, verbose=0)
    heard, names, n = probabilities.argmax(axis=1), validation_clips.class_names, len(validation_clips)
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (validation_clips.labels, heard), 1)
    correct = int(confusion.trace())
    low, high = wilson_interval(correct, n)
    per_digit = {name: confusion[i, i] / max(confusion[i].sum(), 1) for i, name in enumerate(names)}
    epochs = _epochs_so_far(folder)

    stem = args.results / f"{folder.name}-confusion"
    args.results.mkdir(parents=True, exist_ok=True)
    with atomic_path(stem.with_suffix(".csv")) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["said \\ heard", *names])
        writer.writerows([name, *row] for name, row in zip(names, confusion.tolist(), strict=True))
    figure = confusion_figure(confusion, names, f"{correct / n:.2%} of {n:,} clips")
    with atomic_path(stem.with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
    _to_tensorboard(folder, stem.with_suffix(".png"), validation_clips, probabilities)
    append_jsonl(
        args.results / "classifier.jsonl",
        {
            "run": folder.name,
            "accuracy": correct / n,
            "accuracy_95": [low, high],
            "per_digit": per_digit,
            "n": n,
            "protocol": "selection half of the validation clips, epoch chosen on the same clips",
            "last_epoch_accuracy": epochs[-1]["val_accuracy"],
            "options": vars(args),
            "environment": describe_environment(),
        },
    )
    print(f"accuracy {correct / n:.2%} ({correct:,} of {n:,}; 95 % interval {low:.2%} to {high:.2%})")
    print(f"last epoch {epochs[-1]['val_accuracy']:.2%}; the best of {len(epochs)} was chosen on these clips")
    if not args.quiet:
        print("  ".join(f"{name} {share:.1%}" for name, share in per_digit.items()))
    print(f"classifier: {exports[-1]}\nconfusion:  {stem}.csv, .png")


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % by default (Wilson 1927)."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def confusion_figure(confusion: np.ndarray, names: tuple[str, ...], title: str) -> plt.Figure:
    """Counts `[said, heard]` as a picture."""
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    axes.imshow(np.log1p(confusion), cmap="Blues")
    for said, row in enumerate(confusion):
        for heard, count in enumerate(row):
            dark = np.log1p(count) > 0.6 * np.log1p(confusion.max())
            axes.text(heard, said, str(count), ha="center", va="center", color="white" if dark else "black")
    axes.set(title=title, xlabel="heard", ylabel="said")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    return figure


class _Epochs(keras.callbacks.Callback):
    """After each epoch: best.keras, a line in epochs.jsonl, last.keras, a line on the terminal.

    In this order, so that a run killed in between repeats the epoch and nothing is lost.
    """

    def __init__(self, folder: Path, epochs: int, first_epoch: int, num_clips: int, quiet: bool):
        super().__init__()
        self.folder, self.epochs, self.first_epoch = folder, epochs, first_epoch
        self.num_clips, self.quiet = num_clips, quiet
        self.best = max((e["val_accuracy"] for e in _epochs_so_far(folder)[:first_epoch]), default=-1.0)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.began = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch_began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        self.trained = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        if not math.isfinite(logs["loss"]):
            raise UserError(
                f"the loss is not finite in epoch {epoch + 1}; lower --learning_rate. "
                f"{self.folder}/last.keras holds the epoch before"
            )
        better = logs["val_accuracy"] > self.best
        if better:
            self.best = logs["val_accuracy"]
            self._save("best.keras")
        append_jsonl(self.folder / "epochs.jsonl", {"epoch": epoch + 1, **logs})
        self._save("last.keras")
        if not self.quiet:
            remaining = (time.monotonic() - self.began) / (epoch + 1 - self.first_epoch) * (self.epochs - epoch - 1)
            rate = self.num_clips / (self.trained - self.epoch_began)
            print(
                f"epoch {epoch + 1:3}/{self.epochs}  "
                f"loss {logs['loss']:.4f}  accuracy {logs['accuracy']:7.2%}  "
                f"validation loss {logs['val_loss']:.4f}  accuracy {logs['val_accuracy']:7.2%} "
                f"{'*' if better else ' '}  {rate:,.0f} clips/s  {remaining / 60:.1f} min left",
                flush=True,
            )

    def _save(self, name: str) -> None:
        with atomic_path(self.folder / name) as temporary:
            self.model.save(temporary)


def _new_model(args: argparse.Namespace, clips: Dataset, steps_per_epoch: int) -> Classifier:
    keras.utils.set_random_seed(args.seed)
    model = Classifier(
        architecture=args.architecture,
        width=args.width,
        front_end=args.front_end,
        num_samples=args.num_samples,
        sample_rate=args.sample_rate,
        class_names=clips.class_names,
        alignment=args.alignment,
        precision=args.precision,
    )
    rate = args.learning_rate
    if args.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, args.epochs * steps_per_epoch)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.CategoricalCrossentropy(label_smoothing=args.label_smoothing),
        metrics=["accuracy"],
    )
    return model


def _epochs_so_far(folder: Path) -> list[dict]:
    """One record an epoch, in order; of an epoch that was repeated, the latest."""
    by_epoch = {record["epoch"]: record for record in read_jsonl(folder / "epochs.jsonl")}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _to_tensorboard(folder: Path, picture: Path, clips: Dataset, probabilities: np.ndarray) -> None:
    """The confusion matrix, and the surest of the misheard clips as audio."""
    heard = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(heard != clips.labels)
    wrong = wrong[np.argsort(-probabilities[wrong, heard[wrong]])][:MISHEARD_CLIPS]
    writer = tf.summary.create_file_writer(str(folder / "tensorboard" / "report"))
    with writer.as_default(step=0):
        tf.summary.image("confusion", tf.io.decode_png(picture.read_bytes(), channels=3)[tf.newaxis])
        for i in wrong:
            said, as_heard = clips.class_names[clips.labels[i]], clips.class_names[heard[i]]
            tf.summary.audio(f"misheard/{said}_as_{as_heard}", clips.to_float([i]), clips.sample_rate)
    writer.close()


if __name__ == "__main__":
    options.run(main)
