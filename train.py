"""Train the encoder (the paper's inverse mapping model) of a generator, on real clips and the generator's own samples.

Examples:
    # The bundled generator and classifier, on the Speech Commands digits; the judge only scores
    python train.py --data ../shared/data/speech_commands_digits --judge classifier_checkpoint/judge.keras

    # As published: ResNet-18 of full width on the real part of the STFT, alternating updates
    python train.py --data datasets/sc09 --generator wavegan/ --preset paper

    # On all GPUs of a workstation, in bfloat16
    python train.py --data datasets/sc09 --width 64 --batch_size 256 --precision mixed_bfloat16 --distribute mirrored

    # Another generator and other sounds: any folder, no labels, no classifier
    python train.py --data my_birds --generator package.module:factory --feature_weight 0 --spectral_weight 1

    # The encoder of one generator trained on for another one, which has changed a little: a few epochs do
    python train.py --data ... --generator new/ --init_from encoder.keras --epochs 8 --learning_rate 5e-4

    # Go on after an interruption: the same command with the run's folder
    python train.py --data ... --output logs/00000-encoder

The run's folder holds options.json, log.txt, steps.jsonl (the losses of every step), epochs.jsonl (means, and the
measures on validation clips and fresh samples), tensorboard/, waves/ (fixed clips and their reconstructions),
last.keras (to resume) and encoder.keras (to use), both as of the last save. At the end come losses.png and losses.svg,
and the measures go to --results as well. Of synthetic clips, "latent" is the mean squared error of z: always answering
0 scores 0.333 under U(-1, 1).

With --distribute multi_worker give every worker the same command, a shared --output, and its own TF_CONFIG.
"""

import argparse
import contextlib
import math
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from models.checkpoints import require_same_clips, write_in_half_precision
from models.classifier import Classifier, load_classifier
from models.encoder import FILE_NAME, Encoder, load_encoder
from models.encoder_training import EncoderTrainer, LossWeights, Measured, distribute, encoder_batches, measure
from models.generator import Generator, load_generator
from utils import options
from utils.audio.datasets import Dataset, batch_indices, load_dataset
from utils.audio.files import ALIGNMENTS, write_wav
from utils.losses import DISTANCES
from utils.options import UserError
from utils.report.figures import save_figure, training_figure
from utils.report.thumbnails import spectrogram_db, spectrogram_png
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl, atomic_path, read_jsonl
from utils.runs.folders import keep_options, output_folder, tee_log
from utils.spectrograms import KINDS

PRESETS = {
    "aligned": {},
    "paper": {
        "width": 64,
        "front_end": "stft_real",
        "clip_to_prior": False,
        "alignment": "paper",
        "augment_real": False,
        "augment_synthetic": False,
        "synthetic_steps": 1,
        "latent_weight": 1.0,
        "feature_weight": 1.0,
        "feature_distance": "mse",
        "spectral_weight": 0.0,
        "synthetic_audio_weight": 1.0,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "epochs": 250,
    },
}
# What a run may be continued with another value of; with a constant learning rate that holds for --epochs too.
CHANGEABLE = (
    "output",
    "results",
    "export",
    "export_dtype",
    "dry_run",
    "quiet",
    "preset",
    "cache",
    "judge",
    "save_minutes",
)
LATENT_PANEL = "z of samples: squared error"
PANELS = {
    LATENT_PANEL: ["synthetic_latent"],
    "real clips: classifier features": ["real_feature"],
    "real clips: log-magnitude spectra": ["real_spectral"],
    "digits heard right by the judge": ["real_judge_accuracy", "synthetic_judge_accuracy"],
}
SHOWN_CLIPS = 2  # of either kind, in pictures and as audio


def parse_options() -> argparse.Namespace:
    parser = options.make_parser(__doc__)

    data = parser.add_argument_group("data")
    add = data.add_argument
    add(
        "--data",
        type=Path,
        default=Path("datasets/sc09"),
        metavar="DIR",
        help="SC09 in either published layout, or any folder of audio",
    )
    add("--alignment", choices=ALIGNMENTS, default="aligned", help="level and time base of the clips")
    add(
        "--augment_real",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="move real clips in time, change their level, add a little noise",
    )
    add(
        "--augment_synthetic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let the encoder hear samples with what real clips have: noise, and an end of zeros",
    )
    add("--cache", type=Path, default=Path("cache"), metavar="DIR", help="where decoded clips are kept")

    model = parser.add_argument_group("model")
    add = model.add_argument
    options.add_shared(model, "preset", "generator", "classifier", "judge", "precision", "clip_to_prior")
    add(
        "--width",
        type=options.positive_int,
        default=32,
        metavar="N",
        help="channels of the encoder's first stage; the paper's ResNet-18 has 64",
    )
    add("--front_end", choices=KINDS, default="log_magnitude", help="what the encoder sees of a clip")
    add(
        "--init_from",
        type=Path,
        metavar="FILE",
        help="begin with the weights of this encoder, a .keras file or its folder, of the same --width and --front_end "
        "(default: random ones)",
    )

    losses = parser.add_argument_group("losses")
    add = losses.add_argument
    add("--latent_weight", type=_weight, default=1.0, metavar="X", help="of the squared error of z (synthetic clips)")
    add(
        "--feature_weight",
        type=_weight,
        default=1.0,
        metavar="X",
        help="of the difference of the classifier's activations; 0 needs no classifier",
    )
    add("--feature_distance", choices=DISTANCES, default="mse", help="squared (the paper) or absolute (its supplement)")
    add(
        "--spectral_weight",
        type=_weight,
        default=0.1,
        metavar="X",
        help="of the absolute difference of log-magnitude spectrograms",
    )
    add(
        "--synthetic_audio_weight",
        type=_weight,
        default=1.0,
        metavar="X",
        help="factor on the other terms of synthetic clips; 0 leaves the error of z, at half the cost",
    )

    optimisation = parser.add_argument_group("optimisation")
    add = optimisation.add_argument
    add(
        "--epochs",
        type=options.positive_int,
        default=60,
        metavar="N",
        help="stretches of training, each followed by validation",
    )
    add(
        "--steps_per_epoch",
        type=options.positive_int,
        metavar="N",
        help="real batches an epoch (default: once over the training clips)",
    )
    add(
        "--synthetic_steps",
        type=options.positive_int,
        default=2,
        metavar="N",
        help="updates on synthetic batches after each on a real one",
    )
    options.add_shared(optimisation, "batch_size", "seed", batch_size=64)
    add("--learning_rate", type=options.positive_float, default=1e-3, metavar="X", help="of Adam, at the start")
    add(
        "--schedule",
        choices=("cosine", "constant"),
        default="cosine",
        help="of the learning rate; cosine reaches 0 at the last step",
    )
    add(
        "--distribute",
        choices=("none", "mirrored", "multi_worker"),
        default="none",
        help="over all devices of this machine, or of the machines in TF_CONFIG; batches are divided",
    )

    output = parser.add_argument_group("output")
    add = output.add_argument
    options.add_shared(output, "output", "dry_run", "quiet")
    add(
        "--validation_clips",
        type=options.positive_int,
        default=500,
        metavar="N",
        help="real clips, spread over the selection half, and samples to measure on after each epoch",
    )
    add(
        "--save_minutes",
        type=options.positive_float,
        default=10.0,
        metavar="X",
        help="save within an epoch after X minutes",
    )
    add(
        "--export",
        type=Path,
        metavar="FILE",
        help="write the encoder here too, at the end (default: only into the run's folder)",
    )
    add(
        "--export_dtype",
        choices=("float32", "float16"),
        default="float32",
        help="precision of the weights in --export; float16 takes little more than half the space",
    )
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="where the final measures go")

    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    if args.export and args.export.suffix != ".keras":
        parser.error(f"--export: must end in .keras. Received: {args.export}")
    if "export_dtype" in parser.explicit and not args.export:
        parser.error("--export_dtype: goes with --export")
    if args.distribute == "multi_worker" and args.output is None:
        parser.error("--distribute multi_worker: needs an --output that all workers share")
    if not _loss_weights(args).synthetic:
        parser.error("--latent_weight: synthetic clips need a term; it, or the terms of audio, must be above 0")
    return args


def _weight(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0. Received: {text!r}")
    return value


def _loss_weights(args: argparse.Namespace) -> LossWeights:
    return LossWeights(
        latent=args.latent_weight,
        feature=args.feature_weight,
        spectral=args.spectral_weight,
        synthetic_audio=args.synthetic_audio_weight,
        feature_distance=args.feature_distance,
    )


def main() -> int:
    args = parse_options()
    if args.dry_run:
        for name, value in sorted(vars(args).items()):
            print(f"{name:22} {value}")
        print(f"would train on {args.data} and write a folder {args.output or 'logs/NNNNN-encoder-...'}")
        return options.EXIT_OK
    strategy = make_strategy(args.distribute)
    if args.batch_size % strategy.num_replicas_in_sync:
        raise UserError(
            f"--batch_size: must be divisible by the {strategy.num_replicas_in_sync} devices. "
            f"Received: {args.batch_size}"
        )
    with strategy.scope():
        generator = load_generator(args.generator, args.precision)
        classifier, judges = load_classifiers(args, generator)
    shape = generator.num_samples, generator.num_channels, generator.sample_rate
    clips, validation_clips = (
        load_dataset(args.data, *shape, split, args.alignment, args.cache, quiet=args.quiet)
        for split in ("train", "selection")
    )
    is_chief = _is_chief(strategy)
    folder = args.output
    if is_chief:  # the other workers write nothing
        folder = output_folder(args.output, Path("logs"), f"encoder-{args.data.resolve().name}")
    changeable = (*CHANGEABLE, "epochs") if args.schedule == "constant" else CHANGEABLE
    begun = vars(args) | {"generator_sha256": generator.fingerprint}
    keep_options(folder, begun, changeable=changeable, write=is_chief)
    with tee_log(folder / "log.txt") if is_chief else contextlib.nullcontext():
        if not args.quiet:
            print(folder, *generator.notes, clips.describe(), validation_clips.describe(), sep="\n")
        with strategy.scope():
            last = folder / "last.keras"
            encoder = keras.saving.load_model(last) if last.is_file() else new_encoder(args, generator, clips)
            trainer = EncoderTrainer(encoder, generator, classifier, _loss_weights(args))
            trainer.compile(encoder.optimizer)
        validation = Validation(args, folder, generator, judges, validation_clips)
        try:
            with deferred_interrupt() as interrupt:
                train(args, folder, trainer, clips, validation, interrupt, is_chief)
        except KeyboardInterrupt:
            command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
            more = "" if args.output else f" --output {shlex.quote(str(folder))}"
            print(f"Interrupted. This goes on from {folder}/last.keras: {command}{more}", file=sys.stderr)
            return options.EXIT_INTERRUPTED
        except tf.errors.ResourceExhaustedError as error:
            raise UserError(f"--batch_size {args.batch_size}: out of memory; try a smaller one") from error
        if is_chief:
            report(args, folder, generator, validation.clips)
    return options.EXIT_OK


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy of `--distribute`; "mirrored" takes all GPUs, without any all CPU devices."""
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes files: the only worker, the chief, or the first of the workers."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return (resolver.task_type, resolver.task_id) == ("chief" if has_chief else "worker", 0)


def steps_per_epoch(args: argparse.Namespace, clips: Dataset) -> int:
    return args.steps_per_epoch or -(-len(clips) // args.batch_size)


def load_classifiers(args: argparse.Namespace, generator: Generator) -> tuple[Classifier | None, dict[str, Classifier]]:
    """The classifier of the feature loss in the run's precision, and all that count right answers, by measure."""
    classifier, judges = None, {}
    if args.feature_weight:
        classifier = judges["accuracy"] = load_classifier(args.classifier)
        require_same_clips(f"--classifier {args.classifier}", classifier, generator, "--feature_weight 0 needs none")
        if args.precision != classifier.options["precision"]:
            classifier = classifier.with_precision(args.precision)
    if args.judge:
        judges["judge_accuracy"] = load_classifier(args.judge)
        require_same_clips(f"--judge {args.judge}", judges["judge_accuracy"], generator, "leave it out")
    return classifier, judges


def new_encoder(args: argparse.Namespace, generator: Generator, clips: Dataset) -> Encoder:
    """The encoder as it begins, with its optimizer."""
    keras.utils.set_random_seed(args.seed)
    encoder = Encoder(
        latent_dim=generator.latent_dim,
        width=args.width,
        front_end=args.front_end,
        bounded=args.clip_to_prior and generator.prior == "uniform",
        num_samples=generator.num_samples,
        num_channels=generator.num_channels,
        sample_rate=generator.sample_rate,
        alignment=args.alignment,
        generator=generator.fingerprint,
        precision=args.precision,
    )
    if args.init_from:
        encoder.set_weights(first_weights(args.init_from, encoder))
    rate = args.learning_rate
    if args.schedule == "cosine":
        updates = args.epochs * steps_per_epoch(args, clips) * updates_per_step(args)
        rate = keras.optimizers.schedules.CosineDecay(rate, updates)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(encoder.trainable_variables)
    encoder.compile(optimizer, jit_compile=False)
    return encoder


def first_weights(path: Path, encoder: Encoder) -> list[np.ndarray]:
    """Those of the encoder of `--init_from`, which must be built alike."""
    given = load_encoder(path)
    if not isinstance(given, Encoder):
        raise UserError(f"--init_from {path}: must be an encoder of train.py. Received: a {type(given).__name__}")
    for option in ("latent_dim", "width", "front_end", "bounded", "num_samples", "num_channels", "sample_rate"):
        theirs, ours = given.options[option], encoder.options[option]
        if theirs != ours:
            raise UserError(f"--init_from {path}: must have {option} {ours}. Received: {theirs}")
    return given.get_weights()


def updates_per_step(args: argparse.Namespace) -> int:
    return bool(_loss_weights(args).real) + args.synthetic_steps


def train(
    args: argparse.Namespace,
    folder: Path,
    trainer: EncoderTrainer,
    clips: Dataset,
    validation: "Validation",
    interrupt: "Interrupt",
    is_chief: bool,
) -> None:
    """Fit with Keras from wherever `folder` stands; afterwards it holds last.keras and encoder.keras."""
    epoch_steps = steps_per_epoch(args, clips)
    step = int(keras.ops.convert_to_numpy(trainer.optimizer.iterations)) // updates_per_step(args)
    if not args.quiet:
        resumed = f"; resumed at step {step}" if step else ""
        print(
            f"encoder: {trainer.encoder.count_params():,} weights; an epoch: {epoch_steps} steps, each of "
            f"{args.batch_size} real and {args.synthetic_steps} x {args.batch_size} synthetic clips{resumed}"
        )
    while step < args.epochs * epoch_steps:
        epoch, done = divmod(step, epoch_steps)
        batches = encoder_batches(
            clips,
            trainer.generator,
            args.batch_size,
            seed=args.seed,
            first_step=step,
            synthetic_steps=args.synthetic_steps,
            augment_clips=args.augment_real,
            augment_samples=args.augment_synthetic,
        )
        losses = Losses(folder, clips, args, epoch_steps, step, is_chief)
        callbacks = [losses]
        if is_chief:
            board = keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)
            callbacks += [validation, board, Saving(folder, args, losses, interrupt)]
        # An epoch that was interrupted is finished first, by itself: Keras's epochs have one length.
        last = epoch + 1 if done else args.epochs
        trainer.fit(
            distribute(trainer.distribute_strategy, batches, args.batch_size),
            initial_epoch=epoch,
            epochs=last,
            steps_per_epoch=epoch_steps - done,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
        step = last * epoch_steps


class Interrupt:
    """Whether Ctrl-C was pressed."""

    asked = False


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Within the block the first Ctrl-C only makes a note; a second one interrupts at once."""
    interrupt = Interrupt()

    def note(number: int, frame: object) -> None:
        if interrupt.asked:
            raise KeyboardInterrupt
        interrupt.asked = True
        tqdm.write("saving after this step; Ctrl-C once more stops at once", file=sys.stderr)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


class Losses(keras.callbacks.Callback):
    """Writes the losses of each step to steps.jsonl, stops at one that is not finite, and averages over epochs.

    It comes first: what it puts into an epoch's logs, the callbacks after it see.
    """

    def __init__(
        self, folder: Path, clips: Dataset, args: argparse.Namespace, epoch_steps: int, step: int, is_chief: bool
    ):
        super().__init__()
        self.folder, self.clips, self.args, self.is_chief = folder, clips, args, is_chief
        self.epoch_steps, self.step = epoch_steps, step
        before = losses_by_step(folder)
        self.of_epoch = [before[s] for s in range(step - step % epoch_steps, step) if s in before]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.times = [time.monotonic()]
        self.bar = tqdm(
            total=self.epoch_steps,
            initial=self.step % self.epoch_steps,
            desc=f"epoch {epoch + 1}",
            unit="step",
            leave=False,
            mininterval=0.5 if sys.stderr.isatty() else 60,
            disable=self.args.quiet or not self.is_chief,
        )

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        losses = {name: float(value) for name, value in logs.items()}
        if not all(math.isfinite(value) for value in losses.values()):
            self.bar.close()
            indices = batch_indices(len(self.clips), self.args.batch_size, self.step, self.args.seed)
            names = ", ".join(dict.fromkeys(self.clips.names[i] for i in indices))
            last = self.folder / "last.keras"
            kept = f"{last} is as it was saved before" if last.exists() else "nothing had been saved"
            raise UserError(
                f"step {self.step}: a loss or its gradient is not finite ({losses}); {kept}; try a lower "
                f"--learning_rate in another --output. The real clips of this batch: {names}"
            )
        if self.is_chief:
            append_jsonl(self.folder / "steps.jsonl", {"step": self.step, **losses})
        self.of_epoch.append(losses)
        self.times.append(time.monotonic())
        self.step += 1
        self.bar.update()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        self.bar.close()
        logs.update({name: float(np.mean([row[name] for row in self.of_epoch])) for name in self.of_epoch[0]})
        self.of_epoch = []

    @property
    def seconds_a_step(self) -> float:
        """Of this epoch, without its first step where there are others: that one waits for the graph to be built."""
        times = self.times[1:] if len(self.times) > 2 else self.times
        return (times[-1] - times[0]) / (len(times) - 1)


def losses_by_step(folder: Path) -> dict[int, dict[str, float]]:
    """What a run's steps.jsonl says of each step; of one that was repeated after a resume, the later."""
    rows = read_jsonl(folder / "steps.jsonl")
    return {row["step"]: {name: value for name, value in row.items() if name != "step"} for row in rows}


class Validation(keras.callbacks.Callback):
    """After each epoch: measures on held-out clips into the logs; fixed clips to TensorBoard and waves/."""

    def __init__(
        self,
        args: argparse.Namespace,
        folder: Path,
        generator: Generator,
        judges: dict[str, Classifier],
        clips: Dataset,
    ):
        super().__init__()
        self.folder, self.rate, self.batch_size = folder, generator.sample_rate, args.batch_size
        self.judges = judges
        # Spread over the split, which is sorted: its first clips would be of a few classes only.
        n = min(args.validation_clips, len(clips))
        chosen = np.linspace(0, len(clips) - 1, n).astype(int)
        self.audio = clips.to_float(chosen)
        self.labels = clips.labels[chosen] if clips.class_names else None
        self.z = generator.sample_prior(args.seed, args.validation_clips)
        self.samples = np.concatenate(
            [generator(self.z[i : i + self.batch_size]) for i in range(0, len(self.z), self.batch_size)]
        )
        self.latest: dict[str, float] = {}

    @property
    def clips(self) -> dict[str, int]:
        return {"real": len(self.audio), "synthetic": len(self.samples)}

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        real, synthetic = self.measure(self.model)
        for kind, found in (("real", real), ("synthetic", synthetic)):
            logs.update({f"val_{kind}_{name}": value for name, value in found.numbers.items()})
        broken = [name for name, value in logs.items() if not math.isfinite(value)]
        if broken:
            raise UserError(f"epoch {epoch + 1}: not finite: {', '.join(broken)}; try a lower --learning_rate")
        self.show(epoch + 1, {"real": (self.audio, real), "synthetic": (self.samples, synthetic)})

    def measure(self, trainer: EncoderTrainer) -> tuple[Measured, Measured]:
        """On real and on synthetic clips."""
        shared = dict(judges=self.judges, batch_size=self.batch_size)
        judges = self.judges if self.labels is not None else {}
        real = measure(trainer, self.audio, labels=self.labels, **shared | dict(judges=judges))
        return real, measure(trainer, self.samples, z=self.z, **shared)

    def show(self, epoch: int, kinds: dict[str, tuple[np.ndarray, Measured]]) -> None:
        """The fixed clips: originals once, reconstructions every epoch."""
        writer = tf.summary.create_file_writer(str(self.folder / "tensorboard" / "clips"))
        with writer.as_default(step=epoch - 1):
            for kind, (originals, found) in kinds.items():
                for i in np.unique(np.linspace(0, len(originals) - 1, SHOWN_CLIPS).astype(int)):
                    original, reconstruction = originals[i], found.reconstructions[i]
                    stem = self.folder / "waves" / f"{kind}_{i:04}"
                    if not Path(f"{stem}_original.wav").exists():
                        write_wav(Path(f"{stem}_original.wav"), original, self.rate)
                        tf.summary.audio(f"{kind}_{i:04}/original", original[None], self.rate)
                    write_wav(Path(f"{stem}_epoch_{epoch:04}.wav"), reconstruction, self.rate)
                    tf.summary.audio(f"{kind}_{i:04}/reconstruction", reconstruction[None], self.rate)
                    picture = side_by_side(original, reconstruction)
                    tf.summary.image(f"{kind}_{i:04}/original and reconstruction", picture[None])
        writer.close()


def side_by_side(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Spectrograms of two clips `[T, C]` on one colour scale, uint8 `[129, columns, 3]`."""
    pictures = [spectrogram_db(audio) for audio in (original, reconstruction)]
    top = max(picture.max() for picture in pictures)
    gap = np.full((len(pictures[0]), 4), top, np.float32)
    png = spectrogram_png(np.concatenate([pictures[0], gap, pictures[1]], axis=1), top)
    return tf.io.decode_png(png, channels=3).numpy()


class Saving(keras.callbacks.Callback):
    """last.keras and encoder.keras: after each epoch, every `--save_minutes` and on Ctrl-C; a line an epoch.

    It comes last: a run that is killed before the save repeats what was not saved, and nothing is lost.
    """

    def __init__(self, folder: Path, args: argparse.Namespace, losses: Losses, interrupt: Interrupt):
        super().__init__()
        self.folder, self.args, self.losses, self.interrupt = folder, args, losses, interrupt
        self.saved = time.monotonic()
        self.export: Encoder | None = None  # the encoder in float32, without its optimizer

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        if self.losses.step % self.losses.epoch_steps == 0:
            return  # an epoch is saved after its validation
        if self.interrupt.asked or time.monotonic() - self.saved > 60 * self.args.save_minutes:
            self.save()
        if self.interrupt.asked:
            self.losses.bar.close()
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        args, losses = self.args, self.losses
        append_jsonl(self.folder / "epochs.jsonl", {"epoch": epoch + 1, "step": losses.step, **logs})
        self.save()
        steps_left = args.epochs * losses.epoch_steps - losses.step
        if not args.quiet:
            measured = time.monotonic() - losses.times[-1]
            left = steps_left * losses.seconds_a_step + (args.epochs - epoch - 1) * measured
            pace = args.batch_size * updates_per_step(args) / losses.seconds_a_step
            end = f"{pace:,.0f} clips/s, {left / 60:.1f} min left"
            print(f"epoch {epoch + 1:3}/{args.epochs} | {describe(logs)} | {end}", flush=True)
        if self.interrupt.asked and steps_left:
            raise KeyboardInterrupt

    def save(self) -> None:
        encoder = self.model.encoder
        self.export = self.export or encoder.with_precision("float32")
        self.export.set_weights(encoder.get_weights())
        with atomic_path(self.folder / FILE_NAME) as temporary:
            self.export.save(temporary)
        with atomic_path(self.folder / "last.keras") as temporary:
            encoder.save(temporary)
        self.saved = time.monotonic()


def describe(logs: dict[str, float]) -> str:
    """An epoch's numbers on one line; of a loss the training mean, then in brackets that of the validation clips."""
    parts = []
    for kind, names in (("real", ("feature", "spectral")), ("synthetic", ("latent",))):
        numbers = []
        for name in names:
            trained, held_out = logs.get(f"{kind}_{name}"), logs.get(f"val_{kind}_{name}")
            if held_out is not None:
                numbers.append(f"{name} " + ("-" if trained is None else f"{trained:.4f}") + f" ({held_out:.4f})")
        numbers.append(f"SSIM {logs[f'val_{kind}_ssim']:.3f}")
        for name in ("accuracy", "judge_accuracy"):
            if f"val_{kind}_{name}" in logs:
                numbers.append(f"{name.replace('_', ' ')} {logs[f'val_{kind}_{name}']:.1%}")
        parts.append(f"{kind}: " + ", ".join(numbers))
    return " | ".join(parts)


def report(args: argparse.Namespace, folder: Path, generator: Generator, clips: dict[str, int]) -> None:
    """Export, and leave the last epoch's measures where people look for them."""
    encoder = folder / FILE_NAME
    if args.export:
        if args.export_dtype == "float16":
            write_in_half_precision(load_encoder(encoder), args.export)
        else:
            with atomic_path(args.export) as temporary:
                temporary.write_bytes(encoder.read_bytes())
        encoder = args.export
    epochs = read_jsonl(folder / "epochs.jsonl")
    always_zero = {"uniform": 1 / 3, "normal": 1.0}[generator.prior]
    curves = training_figure(epochs, PANELS, {LATENT_PANEL: (always_zero, "always answering 0")})
    save_figure(curves, folder / "losses")
    last = epochs[-1]
    measures = {name.removeprefix("val_"): value for name, value in last.items() if name.startswith("val_")}
    append_jsonl(
        args.results / "encoder.jsonl",
        {
            "run": folder.name,
            "protocol": f"{clips['real']} clips spread over the selection half, {clips['synthetic']} fresh samples; "
            "answers on samples are compared with the answer on the sample itself",
            "n": clips,
            "seed": args.seed,
            "epoch": last["epoch"],
            "step": last["step"],
            "measures": measures,
            "generator_sha256": generator.fingerprint,
            "options": vars(args),
            "environment": describe_environment(),
        },
    )
    for name, value in measures.items():
        print(f"{name:28} {value:.5f}")
    print(f"n: {clips['real']} real, {clips['synthetic']} synthetic clips\nencoder: {encoder}")


if __name__ == "__main__":
    options.run(main)
