"""Train a digit classifier on SC09: the one whose features serve as a loss, or a judge that scores results.

Examples:
    # The classifier, on the Speech Commands digits or on Donahue's SC09
    python train_sc09_classifier.py ../shared/data/speech_commands_digits

    # As published: ResNet-18 of full width on the real part of the STFT, no augmentation
    python train_sc09_classifier.py datasets/sc09 --preset paper

    # The two judges, which take part in no loss: other clips, front ends and architectures, heavy augmentation
    python train_sc09_classifier.py ../shared/data/speech_commands_digits_judges --architecture mel_cnn \\
        --width 40 --augment heavy --seed 7 --output logs/judge_mel
    python train_sc09_classifier.py ../shared/data/speech_commands_digits_judges --architecture waveform_cnn \\
        --augment heavy --batch_size 32 --epochs 28 --seed 8 --output logs/judge_wave

    # Resume after an interruption
    python train_sc09_classifier.py ... --output logs/00000-classifier-resnet18

The run's folder holds options.json, log.txt, steps.jsonl (the losses of every step), epochs.jsonl, tensorboard/,
last.keras (to resume), best.keras (of the epoch with the best accuracy on the selection half of the validation clips),
with --keep_epochs epochs/ and, at the end, classifier.keras. The accuracy on the report half, per digit and as a
confusion matrix, goes to --results as well.
"""

import argparse
import functools
import math
from collections.abc import Iterator
from pathlib import Path

from utils import choices, options
from utils.runs.cache import cache_folder

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
        "keep_epochs": True,
    },
}
# What a run may be continued with another value of.
CHANGEABLE = ("output", "results", "export", "export_dtype", "dry_run", "quiet", "preset", "cache")
CHANGEABLE += ("save_minutes", "minutes", "keep_epochs")
MISCLASSIFIED_CLIPS = 8  # for TensorBoard


def parse_options() -> argparse.Namespace:
    parser = options.make_parser(__doc__)

    options.add_input(parser, "SC09, in either published layout", *options.DATA)
    add = parser.add_argument_group("data").add_argument
    add("--alignment", choices=choices.ALIGNMENTS, default="aligned", help="level and time base of the clips")
    add("--num_samples", type=options.positive_int, default=16384, metavar="N", help="clip length in samples")
    add("--sample_rate", type=options.positive_int, default=16000, metavar="HZ", help="sample rate in Hz")
    add(
        "--augment",
        choices=choices.AUGMENTATIONS,
        default="light",
        help="light: random time shift, gain, noise, silenced stretches and removed bands; heavy (for the judges): "
        "other speeds, rooms, spectral tilts, band limits, coloured noise and codecs too",
    )
    add("--cache", type=Path, default=cache_folder(), metavar="DIR", help="where decoded clips are kept")

    model = parser.add_argument_group("model")
    add = model.add_argument
    options.add_shared(model, "preset", "precision")
    add(
        "--architecture",
        choices=choices.ARCHITECTURES,
        default="resnet18",
        help="mel_cnn and waveform_cnn are the judges'",
    )
    width = "channels of the first stage; the paper's ResNet-18 has 64"
    add("--width", type=options.positive_int, default=32, metavar="N", help=width)
    add("--front_end", choices=choices.FRONT_ENDS, default="log_magnitude", help="of resnet18; mel_cnn has its own")

    optimisation = parser.add_argument_group("optimisation")
    add = optimisation.add_argument
    add("--epochs", type=options.positive_int, default=40, metavar="N", help="times over the training clips")
    options.add_shared(optimisation, "batch_size", "seed", batch_size=64)
    add("--learning_rate", type=options.positive_float, default=1e-3, metavar="X", help="of Adam, at the start")
    schedules = "of the learning rate; cosine reaches 0 at the last step"
    add("--schedule", choices=("cosine", "constant"), default="cosine", help=schedules)
    add(
        "--label_smoothing",
        type=float,
        default=0.0,
        metavar="X",
        help="share of the target spread over all digits, in [0, 1); 0 keeps the answers calibrated, as scores by "
        "confidence (inception score) need them",
    )
    patience = "stop after N epochs without a better one (default: never)"
    add("--patience", type=options.positive_int, metavar="N", help=patience)

    output = parser.add_argument_group("output")
    add = output.add_argument
    options.add_shared(output, "output", "save_minutes", "minutes", "dry_run", "quiet")
    options.add_shared(output, "keep_epochs")
    export = "write the finished classifier here too (default: only into the run's folder)"
    add("--export", type=Path, metavar="FILE", help=export)
    dtypes = "precision of the weights in --export; float16 takes little more than half the space"
    add("--export_dtype", choices=("float32", "float16"), default="float32", help=dtypes)
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="where accuracy and confusion matrix go")

    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    if not 0 <= args.label_smoothing < 1:
        parser.error(f"--label_smoothing: must lie in [0, 1). Received: {args.label_smoothing}")
    if args.export and args.export.suffix != ".keras":
        parser.error(f"--export: must end in .keras. Received: {args.export}")
    if "export_dtype" in parser.explicit and not args.export:
        parser.error("--export_dtype: goes with --export")
    options.end_dry_run(args, f"Would train on {args.input}, in {args.output or 'logs/NNNNN-classifier-...'}")
    return args


if __name__ == "__main__":
    options.parse_early(parse_options)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from scipy.stats import binomtest

from models.checkpoints import write_in_half_precision
from models.classifier import Classifier, load_classifier
from models.classifier_training import ClassifierTrainer, make_evaluation, write_classifier
from utils.audio.augment import AUGMENTATIONS
from utils.audio.datasets import Dataset, batch_indices, evaluation_batches, load_dataset, training_batches
from utils.errors import UserError
from utils.report.figures import confusion_figure, save_figure
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl, atomic_path, write_csv
from utils.runs.training_run import TrainingRun, rows_by_step


def main() -> int:
    args = parse_options()
    shape = args.num_samples, 1, args.sample_rate
    clips, validation_clips, test_clips = (
        load_dataset(args.input, *shape, split, args.alignment, args.cache, quiet=args.quiet)
        for split in ("train", "selection", "report")
    )
    if not clips.class_names:
        raise UserError(f"{args.input}: no digit labels; SC09 has zero/ ... nine/ or train/Zero_*.wav")
    name = f"classifier-{args.architecture}"
    with TrainingRun(args.output, name, vars(args), changeable=CHANGEABLE, quiet=args.quiet) as run:
        run.say(f"{clips.describe()}\n{validation_clips.describe()}\n{test_clips.describe()}")
        train(args, run, clips, validation_clips)
        if run.finished:
            report(args, run, test_clips)
    return options.EXIT_OK


def train(args: argparse.Namespace, run: TrainingRun, clips: Dataset, validation_clips: Dataset) -> None:
    """Trains from wherever the run stands; afterwards its folder holds best.keras and last.keras."""
    epoch_steps = math.ceil(len(clips) / args.batch_size)
    augmentation = AUGMENTATIONS[args.augment]
    if augmentation is not None:
        augmentation = functools.partial(augmentation, sample_rate=args.sample_rate)

    def batches_from(step: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        return iter(
            training_batches(clips, args.batch_size, seed=args.seed, first_step=step, augmentation=augmentation)
        )

    model = new_model(args, clips, args.epochs * epoch_steps)
    trainer = ClassifierTrainer(model, args.label_smoothing, batches_from)
    evaluate = make_evaluation(model, validation_clips, args.batch_size, args.label_smoothing)
    run.say(f"{args.architecture}: {model.count_params():,} weights; an epoch: {epoch_steps} steps")
    done, rows = trainer.restore(run.folder), rows_by_step(run.folder / "epochs.jsonl")
    stopped = out_of_patience([row["val_accuracy"] for step, row in rows.items() if step <= done], args.patience)
    for _ in run.train(
        trainer,
        done if stopped else args.epochs * epoch_steps,
        evaluate_every=epoch_steps,
        save_minutes=args.save_minutes,
        minutes=args.minutes,
        clips_of=lambda step: [clips.names[i] for i in batch_indices(len(clips), args.batch_size, step, args.seed)],
        clips_per_step=args.batch_size,
    ):
        earlier = run.earlier("val_accuracy")
        epoch = {"epoch": run.done // epoch_steps, **run.mean_losses()}
        epoch |= {f"val_{name}": value for name, value in evaluate().items()}
        better = epoch["val_accuracy"] > max(earlier, default=-1.0)
        if better:
            write_classifier(model, run.folder / "best.keras")
        if args.keep_epochs:
            write_classifier(model, run.folder / "epochs" / f"{epoch['epoch']:04}.keras")
        run.log("epochs", epoch)
        run.say(
            f"epoch {epoch['epoch']:3}/{args.epochs}  loss {epoch['loss']:.4f}  accuracy {epoch['accuracy']:7.2%}  "
            f"validation loss {epoch['val_loss']:.4f}  accuracy {epoch['val_accuracy']:7.2%} "
            f"{'*' if better else ' '}  {run.pace()}"
        )
        if out_of_patience([*earlier, epoch["val_accuracy"]], args.patience):
            run.stop()


def out_of_patience(accuracies: list[float], patience: int | None) -> bool:
    """Whether none of the last `patience` epochs was better than the best before them."""
    best = accuracies.index(max(accuracies)) if accuracies else 0
    return patience is not None and len(accuracies) - best > patience


def new_model(args: argparse.Namespace, clips: Dataset, total_steps: int) -> Classifier:
    """The classifier as it begins, with its optimizer."""
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
        rate = keras.optimizers.schedules.CosineDecay(rate, total_steps)
    model.compile(keras.optimizers.Adam(rate), jit_compile=False)
    return model


def report(args: argparse.Namespace, run: TrainingRun, clips: Dataset) -> None:
    """Writes the best classifier in float32, exports and scores it, leaves the numbers where people look for them."""
    model = load_classifier(run.folder / "best.keras")
    exports = [run.folder / "classifier.keras"] + ([args.export] if args.export else [])
    for path in exports:
        if path == args.export and args.export_dtype == "float16":
            write_in_half_precision(model, path)
        else:
            with atomic_path(path) as temporary:
                model.save(temporary)

    probabilities = model.predict(evaluation_batches(clips, args.batch_size), verbose=0)
    names, n = clips.class_names, len(clips)
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (clips.labels, probabilities.argmax(axis=1)), 1)
    correct = int(confusion.trace())
    interval = binomtest(correct, n).proportion_ci(method="wilson")
    per_digit = {name: confusion[i, i] / max(confusion[i].sum(), 1) for i, name in enumerate(names)}
    epochs = list(rows_by_step(run.folder / "epochs.jsonl").values())

    stem = args.results / f"{run.folder.name}-confusion"
    rows = [dict(zip(names, row, strict=True)) for row in confusion.tolist()]
    write_csv(stem.with_suffix(".csv"), ({r"digit \ predicted": names[i]} | row for i, row in enumerate(rows)))
    save_figure(confusion_figure(confusion, names, f"{correct / n:.2%} of {n:,} clips"), stem, suffixes=(".png",))
    show(run, stem.with_suffix(".png"), clips, probabilities)
    append_jsonl(
        args.results / "classifier.jsonl",
        {
            "run": run.folder.name,
            "accuracy": correct / n,
            "accuracy_95": [interval.low, interval.high],
            "per_digit": per_digit,
            "n": n,
            "protocol": "report half of the validation clips, epoch chosen on the selection half",
            "selection_accuracy": max(row["val_accuracy"] for row in epochs),
            "options": vars(args),
            "environment": describe_environment(),
        },
    )
    print(
        f"accuracy {correct / n:.2%} ({correct:,} of {n:,}; 95 % interval {interval.low:.2%} to {interval.high:.2%})\n"
        f"of the report half; the best of {len(epochs)} epochs was chosen on the selection half"
    )
    run.say("  ".join(f"{name} {share:.1%}" for name, share in per_digit.items()))
    print(f"classifier: {exports[-1]}\nconfusion:  {stem}.csv, .png")


def show(run: TrainingRun, picture: Path, clips: Dataset, probabilities: np.ndarray) -> None:
    """The confusion matrix, and the surest of the misclassified clips as audio, in TensorBoard."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != clips.labels)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:MISCLASSIFIED_CLIPS]
    with run.board("report"):
        tf.summary.image("confusion", tf.io.decode_png(picture.read_bytes(), channels=3)[tf.newaxis])
        for i in wrong:
            digit, answer = clips.class_names[clips.labels[i]], clips.class_names[predicted[i]]
            tf.summary.audio(f"misclassified/{digit}_as_{answer}", clips.to_float([i]), clips.sample_rate)


if __name__ == "__main__":
    options.run(main)
