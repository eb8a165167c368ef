"""Train the encoder (the paper's inverse mapping model) of a generator, on real clips and the generator's own samples.

Examples:
    # The bundled generator and classifier, on the Speech Commands digits; the judges only score
    python train.py ../shared/data/speech_commands_digits \\
        --judge classifier_checkpoint/judge_mel.keras,classifier_checkpoint/judge_wave.keras

    # As published: ResNet-18 of full width on the real part of the STFT, alternating updates
    python train.py datasets/sc09 --generator wavegan/ --preset paper

    # On all GPUs of a workstation, in bfloat16
    python train.py datasets/sc09 --width 64 --batch_size 256 --precision mixed_bfloat16 --distribute mirrored

    # Another generator and other sounds: any folder, no labels, no classifier
    python train.py my_birds --generator package.module:factory --trust --feature_weight 0 --spectral_weight 1

    # The bundled encoder, trained on for another checkpoint of its generator: minutes make it much better
    python train.py ... --generator logs/digits/export --init_from inverse_mapping_checkpoint/ --latent_weight 8 \\
        --spectral_weight 0.5 --synthetic_audio_weight 0 --synthetic_steps 1 --batch_size 32 --learning_rate 3e-4 \\
        --epochs 4 --steps_per_epoch 200

    # Resume after an interruption: the same command with the run's folder
    python train.py ... --output logs/00000-encoder

The run's folder holds options.json, log.txt, steps.jsonl (the losses of every step), epochs.jsonl (means, and the
measures on validation clips and fresh samples), tensorboard/, waves/ (fixed clips and their reconstructions of every
epoch), last.keras (to resume) and encoder.keras (to use), both as of the last save, best.keras (of the epoch with the
lowest loss on validation clips and samples) and, with --keep_epochs, epochs/ with the encoder of each. At the end come
losses.png and losses.svg, and the measures go to --results as well. Of synthetic clips, "latent" is the mean squared
error of z: always answering 0 scores 0.333 under U(-1, 1).

With --distribute multi_worker give every worker the same command, a shared --output, and its own TF_CONFIG.
"""

import argparse
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
        "classifier": options.PAPER_RECOVERY["classifier"],
        "front_end": "stft_real",
        "clip_to_prior": False,
        "domain_statistics": False,
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
        "keep_epochs": True,
    },
}
# What a run may be continued with another value of; with a constant learning rate that holds for --epochs too.
CHANGEABLE = ("output", "results", "export", "export_dtype", "dry_run", "quiet", "preset", "cache", "judge", "trust")
CHANGEABLE += ("save_minutes", "minutes", "keep_epochs")


def parse_options() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09 in either published layout, or any folder of audio", *options.DATA)
    add = parser.add_argument_group("data").add_argument
    add("--alignment", choices=choices.ALIGNMENTS, default="aligned", help="level and time base of the clips")
    moved = "move real clips in time, change their level, add a little noise"
    add("--augment_real", action=options.Switch, default=True, help=moved)
    degraded = "give the samples that are encoded what real clips have: noise, and an end of zeros"
    add("--augment_synthetic", action=options.Switch, default=True, help=degraded)
    add("--cache", type=Path, default=cache_folder(), metavar="DIR", help="where decoded clips are kept")

    model = parser.add_argument_group("model")
    add = model.add_argument
    options.add_shared(model, "preset", "generator", "trust", "classifier", "judge", "precision", "clip_to_prior")
    kinds = "the paper's ResNet-18, or a linear map of log-mel with convolutions beside it, for which --width and "
    kinds += "--front_end say nothing"
    add("--architecture", choices=choices.ENCODERS, default="resnet18", help=kinds)
    channels = "channels of the encoder's first stage; the paper's ResNet-18 has 64"
    add("--width", type=options.positive_int, default=32, metavar="N", help=channels)
    add("--front_end", choices=choices.FRONT_ENDS, default="log_magnitude", help="what the encoder sees of a clip")
    apart = "moving statistics of batch normalisation for real and for synthetic clips each; the paper mixes them"
    add("--domain_statistics", action=options.Switch, default=True, help=apart)
    first = "begin with this encoder, a .keras file or its folder: train.py's, of the same --width and --front_end, or "
    first += "of another architecture"
    add("--init_from", type=Path, metavar="FILE", help=first + " (default: random weights)")

    add = parser.add_argument_group("losses").add_argument
    weight = dict(type=options.non_negative_float, metavar="X")
    add("--latent_weight", **weight, default=1.0, help="of the squared error of z (synthetic clips)")
    of_features = "of the difference of the classifier's activations; 0 needs no classifier"
    add("--feature_weight", **weight, default=1.0, help=of_features)
    kinds = "squared (the paper) or absolute (its supplement)"
    add("--feature_distance", choices=choices.FEATURE_DISTANCES, default="mse", help=kinds)
    of_spectra = "of the absolute difference of log-magnitude spectrograms"
    add("--spectral_weight", **weight, default=0.1, help=of_spectra)
    factor = "factor on the other terms of synthetic clips; 0 leaves the error of z, at half the cost"
    add("--synthetic_audio_weight", **weight, default=1.0, help=factor)

    optimisation = parser.add_argument_group("optimisation")
    add = optimisation.add_argument
    count = dict(type=options.positive_int, metavar="N")
    add("--epochs", **count, default=60, help="stretches of training, each followed by validation")
    add("--steps_per_epoch", **count, help="real batches an epoch (default: once over the training clips)")
    add("--synthetic_steps", **count, default=2, help="updates on synthetic batches after each on a real one")
    options.add_shared(optimisation, "batch_size", "seed", batch_size=64)
    add("--learning_rate", type=options.positive_float, default=1e-3, metavar="X", help="of Adam, at the start")
    schedules = "of the learning rate; cosine reaches 0 at the last step"
    add("--schedule", choices=("cosine", "constant"), default="cosine", help=schedules)
    over = "over all devices of this machine, or of the machines in TF_CONFIG; batches are divided"
    add("--distribute", choices=choices.STRATEGIES, default="none", help=over)

    output = parser.add_argument_group("output")
    add = output.add_argument
    options.add_shared(output, "output", "save_minutes", "minutes", "dry_run", "quiet")
    measured = "real clips, spread over the selection half, and samples to measure on after each epoch"
    add("--validation_clips", **count, default=500, help=measured)
    options.add_shared(output, "keep_epochs")
    export = "write the encoder here too, at the end (default: only into the run's folder)"
    add("--export", type=Path, metavar="FILE", help=export)
    dtypes = "precision of the weights in --export; float16 takes little more than half the space"
    add("--export_dtype", choices=("float32", "float16"), default="float32", help=dtypes)
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="where the final measures go")

    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    if args.export and args.export.suffix != ".keras":
        parser.error(f"--export: must end in .keras. Received: {args.export}")
    if "export_dtype" in parser.explicit and not args.export:
        parser.error("--export_dtype: goes with --export")
    if args.distribute == "multi_worker" and args.output is None:
        parser.error("--distribute multi_worker: needs an --output that all workers share")
    if args.distribute == "multi_worker" and args.minutes is not None:
        parser.error("--minutes: not with --distribute multi_worker, whose workers must stop at the same step")
    of_audio = (args.feature_weight or args.spectral_weight) and args.synthetic_audio_weight
    if not (args.latent_weight or of_audio):
        parser.error("--latent_weight: synthetic clips need a term; it, or the terms of audio, must be above 0")
    options.end_dry_run(args, f"Would train on {args.input}, in {args.output or 'logs/NNNNN-encoder-...'}")
    return args


if __name__ == "__main__":
    options.parse_early(parse_options)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import keras
import tensorflow as tf

from models.checkpoints import write_in_half_precision
from models.encoder import FILE_NAME, load_encoder
from models.encoder_training import LAST, EncoderTrainer, LossWeights, encoder_batches, new_encoder, write_encoder
from models.encoder_validation import Validation, describe, losses_figure
from models.generator import Generator
from models.networks import Networks
from utils.audio.datasets import Dataset, batch_indices, load_dataset
from utils.errors import UserError
from utils.report.figures import save_figure
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl, atomic_path
from utils.runs.strategies import distribute, is_chief, make_strategy
from utils.runs.training_run import TrainingRun, rows_by_step


def main() -> int:
    args = parse_options()
    strategy = make_strategy(args.distribute)
    count = strategy.num_replicas_in_sync
    if args.batch_size % count:
        raise UserError(f"--batch_size: must be divisible by the {count} devices. Received: {args.batch_size}")
    classifier = args.classifier if args.feature_weight else None
    numerics = dict(trust=args.trust, precision=args.precision, alignment=args.alignment)
    networks = Networks(args.generator, **numerics, classifier=classifier, judges=args.judge)
    with strategy.scope():
        generator, classifiers = networks.fast_generator, networks.classifiers
    shape = generator.num_samples, generator.num_channels, generator.sample_rate
    clips, selection = (
        load_dataset(args.input, *shape, split, args.alignment, args.cache, quiet=args.quiet)
        for split in ("train", "selection")
    )
    with TrainingRun(
        args.output,
        f"encoder-{args.input.resolve().name}",
        vars(args) | {"generator_sha256": generator.fingerprint},
        changeable=(*CHANGEABLE, "epochs") if args.schedule == "constant" else CHANGEABLE,
        quiet=args.quiet,
        is_chief=is_chief(strategy),
    ) as run:
        run.say("\n".join([*generator.notes, clips.describe(), selection.describe()]))
        judges = {"accuracy" if name == "classifier" else f"{name}_accuracy": classifiers[name] for name in classifiers}
        numbers = {"batch_size": args.batch_size, "seed": args.seed}
        validation = Validation(generator, judges, selection, args.validation_clips, **numbers)
        train(args, run, strategy, generator, classifiers.get("classifier"), clips, validation)
        if run.finished and run.is_chief:
            report(args, run, generator, validation.counts)
    return options.EXIT_OK


def train(
    args: argparse.Namespace,
    run: TrainingRun,
    strategy: tf.distribute.Strategy,
    generator: Generator,
    classifier: keras.Model | None,
    clips: Dataset,
    validation: Validation,
) -> None:
    """Trains from wherever the run stands; afterwards its folder holds last.keras, encoder.keras and best.keras."""
    epoch_steps = args.steps_per_epoch or -(-len(clips) // args.batch_size)
    total = args.epochs * epoch_steps
    weights = args.latent_weight, args.feature_weight, args.spectral_weight, args.synthetic_audio_weight
    weights = LossWeights(*weights, feature_distance=args.feature_distance)
    updates = bool(weights.real.weights) + args.synthetic_steps  # of a step
    augment = dict(augment_clips=args.augment_real, augment_samples=args.augment_synthetic)

    def batches_from(step: int) -> Iterator[dict[str, tf.Tensor]]:
        steps = dict(seed=args.seed, first_step=step, synthetic_steps=args.synthetic_steps)
        batches = encoder_batches(clips, generator, args.batch_size, **steps, **augment)
        return iter(distribute(strategy, batches, args.batch_size))

    last = run.folder / LAST  # whose architecture --init_from may have given
    with strategy.scope():  # but not the rest: what the chief alone does must not wait for the others
        encoder = new_encoder(
            generator,
            seed=args.seed,
            learning_rate=args.learning_rate,
            decay_updates=total * updates if args.schedule == "cosine" else None,
            init_from=last if last.is_file() else args.init_from,
            architecture=args.architecture,
            width=args.width,
            front_end=args.front_end,
            bounded=args.clip_to_prior,
            alignment=args.alignment,
            domain_statistics=args.domain_statistics,
            precision=args.precision,
        )
        if classifier is not None and args.precision != classifier.options["precision"]:
            classifier = classifier.with_precision(args.precision)
        trainer = EncoderTrainer(encoder, generator, classifier, weights, batches_from, args.synthetic_steps)
        trainer.compile(encoder.optimizer)
    batch = f"{args.batch_size} real and {args.synthetic_steps} x {args.batch_size} synthetic clips"
    run.say(f"encoder: {encoder.count_params():,} weights; an epoch: {epoch_steps} steps, each of {batch}")
    for _ in run.train(
        trainer,
        total,
        evaluate_every=epoch_steps,
        save_minutes=args.save_minutes,
        minutes=args.minutes,
        clips_of=lambda step: [clips.names[i] for i in batch_indices(len(clips), args.batch_size, step, args.seed)],
        clips_per_step=args.batch_size * updates,
    ):
        epoch = run.done // epoch_steps
        facts = validation.log(run, trainer, epoch)
        if facts["val_loss"] < min(run.earlier("val_loss"), default=math.inf):
            write_encoder(encoder, run.folder / "best.keras")
        if args.keep_epochs:
            write_encoder(encoder, run.folder / "epochs" / f"{epoch:04}.keras")
        run.say(f"epoch {epoch:3}/{args.epochs} | {describe(facts)} | {run.pace()}")


def report(args: argparse.Namespace, run: TrainingRun, generator: Generator, counts: dict[str, int]) -> None:
    """Exports, and leaves the last epoch's measures where people look for them."""
    encoder = run.folder / FILE_NAME
    if args.export and args.export_dtype == "float16":
        write_in_half_precision(load_encoder(encoder), args.export)
    elif args.export:
        with atomic_path(args.export) as temporary:
            temporary.write_bytes(encoder.read_bytes())
    epochs = list(rows_by_step(run.folder / "epochs.jsonl").values())
    save_figure(losses_figure(epochs, generator.prior), run.folder / "losses")
    last = epochs[-1]
    measures = {name.removeprefix("val_"): value for name, value in last.items() if name.startswith("val_")}
    append_jsonl(
        args.results / "encoder.jsonl",
        {
            "run": run.folder.name,
            "protocol": f"{counts['real']} clips spread over the selection half, {counts['synthetic']} fresh samples; "
            "answers on samples are compared with the answer on the sample itself",
            "n": counts,
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
    print(f"n: {counts['real']} real, {counts['synthetic']} synthetic clips\nencoder: {args.export or encoder}")


if __name__ == "__main__":
    options.run(main)
