"""Train a WaveGAN generator on a folder of audio and export it in the original TF1 checkpoint format.

Recipes:
  flow      in stages, each printing what it is judged by: features of the clips (log-mel, pitch, periodicity) and their
            code; an invertible map from the prior to the code; the later half of the generator as a vocoder; the first
            half to follow the map, from a start in closed form; all joined, with critics. Batch 16, dim 32, for a CPU:
            the first whole generator is there after half an hour on two free cores. Labels help where there are any.
            Needs more clips than --latent_dim; pitch takes 0.1 s a clip and processor, once. --minutes stops it, the
            same command resumes.
  wgan_gp   the published one: waveform critic with phase shuffle, gradient penalty, five critic updates for each of the
            generator, batch 64. For a GPU and days.

Examples:
  # the paper's generator, on SC09, and the run continued after an interruption
  python train_wavegan.py datasets/sc09 --output logs/digits
  python train_wavegan.py datasets/sc09 --output logs/digits

  # any other sound, stereo, 44.1 kHz, four times as long; a smaller generator
  python train_wavegan.py drums/ --sample_rate 44100 --num_channels 2 --num_samples 65536 --dim 32

The run's folder holds options.json, log.txt, steps.jsonl (the losses of every step), statistics.jsonl (measures of
samples), tensorboard/, waves/ (samples of fixed latents), checkpoints/ (to resume) and export/ (to use, in float16: a
--generator). Recipe flow exports the best so far, by a classifier of its own on held-out clips.
"""

import argparse
from pathlib import Path

from utils import choices, options
from utils.runs.environment import gpus

RECIPES = {
    "wgan_gp": {"batch_size": 64, "learning_rate": 1e-4, "steps": 200_000, "dim": 64},
    "flow": {"batch_size": 16, "learning_rate": 2e-4, "steps": 40_000, "dim": 32},
}
CHANGEABLE = ("input", "steps", "minutes", "output", "dry_run", "quiet", "evaluate_every", "save_minutes")
EVALUATED, JACOBIANS, SHOWN = 500, 9, 20  # samples measured, latents at which dG/dz is taken, samples written
MEASURED_SEED = 1  # of the samples' latents, the same every time


def parse_options() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "folder of audio to learn from")
    add = parser.add_argument_group("data").add_argument
    add("--sample_rate", type=options.positive_int, default=16000, metavar="HZ", help="of the generator")
    add("--num_samples", type=int, choices=choices.LENGTHS, default=16384, help="of one clip")
    add("--num_channels", type=options.positive_int, default=1, metavar="C", help="of one clip")

    add = parser.add_argument_group("model").add_argument
    add("--dim", type=options.positive_int, default=64, metavar="N", help="channel multiplier; published: 64")
    add("--latent_dim", type=options.positive_int, default=100, metavar="L", help="size of z")
    add("--upsample", choices=("zeros", "nn"), default="zeros", help="as in WaveGAN's code")

    training = parser.add_argument_group("training")
    add = training.add_argument
    add(
        "--recipe",
        choices=tuple(RECIPES),
        default="wgan_gp" if gpus() else "flow",
        help="how it is trained, see above; sets other options too, of which one given by itself wins; "
        "flow where there is no GPU",
    )
    add("--steps", type=options.positive_int, default=200_000, metavar="N", help="generator updates in all")
    add("--learning_rate", type=options.positive_float, default=1e-4, metavar="X", help="of Adam, generator and critic")
    options.add_shared(training, "batch_size", "precision", "seed", batch_size=64)

    output = parser.add_argument_group("output")
    options.add_shared(output, "output", "save_minutes", "minutes", "dry_run", "quiet", save_minutes=4.0)
    output.add_argument(
        "--evaluate_every",
        type=options.positive_int,
        default=500,
        metavar="N",
        help="steps between two rounds of statistics, samples and exports",
    )
    args = options.apply_preset(parser.parse_args(), parser, RECIPES, option="recipe")
    options.end_dry_run(args, f"Would train on {args.input}, in {args.output or 'logs/NNNNN-wavegan-...'}")
    return args


if __name__ == "__main__":
    options.parse_early(parse_options)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import tensorflow as tf

from models.distillation import FlowTrainer
from models.front_ends import LogMel
from models.gan_training import Batches, GeneratorTrainer
from models.generator import Generator, load_generator
from models.tf1 import write_tf1
from models.wavegan import Architecture
from models.wgan_gp import WassersteinTrainer
from utils.audio.datasets import Dataset, load_dataset
from utils.audio.files import write_wav
from utils.errors import UserError
from utils.evaluation.generator_statistics import jacobian_statistics, level_statistics
from utils.evaluation.honesty import fixed_waveform_share, mean_squared_cosine, variance
from utils.runs.batches import in_batches
from utils.runs.training_run import TrainingRun


def main() -> int:
    args = parse_options()
    dataset = load_dataset(args.input, args.num_samples, args.num_channels, args.sample_rate, quiet=args.quiet)
    held_out = load_held_out(args) if args.recipe == "flow" else None
    architecture = Architecture(
        args.latent_dim, args.dim, num_samples=args.num_samples, num_channels=args.num_channels, upsample=args.upsample
    )
    name = f"wavegan-{args.recipe}-{args.input.resolve().name}"
    with TrainingRun(args.output, name, vars(args), changeable=CHANGEABLE, quiet=args.quiet) as run:
        numbers = {"seed": args.seed, "learning_rate": args.learning_rate, "precision": args.precision}
        if args.recipe == "flow":
            trainer = FlowTrainer(architecture, dataset, held_out, **numbers, folder=run.folder, quiet=args.quiet)
        else:
            trainer = WassersteinTrainer(architecture, **numbers)
        trainer.batches = Batches(dataset, args.latent_dim, args.batch_size, args.seed)
        weights = sum(int(np.prod(shape)) for shape in architecture.weight_shapes.values())
        run.say(f"{dataset.describe()}\ngenerator: {weights:,} weights")
        for _ in run.train(
            trainer,
            args.steps,
            evaluate_every=args.evaluate_every,
            save_minutes=args.save_minutes,
            minutes=args.minutes,
            clips_of=lambda step: trainer.clips_of(trainer.batches, step),
            evaluations="statistics",
        ):
            facts = trainer.measures(run.done)
            if trainer.is_worth_exporting(run.done, facts):
                trainer.save(run.folder, run.done)  # which score that takes is part of it
                generator = export(run.folder / "export", trainer, architecture, run.done, args.sample_rate)
                more, audio = evaluate(generator, dataset)
                facts |= more
                write_wavs(run, audio, args.sample_rate)
            publish(run, facts)
        if run.finished:
            print(f"done; samples: python generate.py --generator {run.folder / 'export'} --n 10")
    return options.EXIT_OK


def export(
    folder: Path, trainer: GeneratorTrainer, architecture: Architecture, step: int, sample_rate: int
) -> Generator:
    """Writes the generator in float16; the generator as its file has it."""
    halves = {name: value.astype(np.float16) for name, value in trainer.averaged_weights().items()}
    write_tf1(folder, halves, architecture, step, sample_rate=sample_rate)
    return load_generator(folder)


def load_held_out(args: argparse.Namespace) -> Dataset | None:
    """The clips by which weights are chosen; None, and a line that says so, where a small folder has fewer than two."""
    shape = args.num_samples, args.num_channels, args.sample_rate
    try:
        held_out = load_dataset(args.input, *shape, "selection", quiet=args.quiet)
        if len(held_out) < 2:
            raise UserError(f"{args.input}: its selection half is one clip, and the measures compare clips")
        return held_out
    except UserError as error:
        print(f"note: nothing is measured on clips that are not learned from: {error}")
        return None


def evaluate(generator: Generator, dataset: Dataset) -> tuple[dict[str, float], np.ndarray]:
    """Statistics of 500 samples from fixed latents, and the samples, float32 `[500, T, C]`."""
    z = generator.sample_prior(MEASURED_SEED, EVALUATED)
    audio = in_batches(tf.function(generator, autograph=False), z, 50)
    real = some_clips(dataset)
    spread = variance(log_mels(real, dataset)) if len(real) > 1 else 0.0
    facts = level_statistics(audio, real) | {
        "fixed_share": fixed_waveform_share(audio),
        "squared_cosine": mean_squared_cosine(audio),
        "log_mel_variance": variance(log_mels(audio, dataset)) / spread if spread > 0 else np.nan,
    }
    spectra = np.median([generator.network.singular_values(row) for row in z[:JACOBIANS]], axis=0)
    facts |= {"singular_1": spectra[0], "singular_10": spectra[min(9, len(spectra) - 1)], "singular_last": spectra[-1]}
    return facts | jacobian_statistics(spectra), audio


def some_clips(dataset: Dataset) -> np.ndarray:
    """500 clips, or all of fewer, float32 `[N, T, C]`."""
    return dataset.to_float(np.linspace(0, len(dataset) - 1, min(EVALUATED, len(dataset))).astype(int))


def log_mels(audio: np.ndarray, dataset: Dataset) -> np.ndarray:
    """`LogMel` of clips `[N, T, C]`."""
    return in_batches(tf.function(LogMel(dataset.sample_rate), autograph=False), audio, 50)


def write_wavs(run: TrainingRun, audio: np.ndarray, sample_rate: int) -> None:
    """Some samples `[N, T, C]` to waves/ and TensorBoard."""
    write_wav(run.folder / "waves" / f"{run.done:07}.wav", audio[:SHOWN].reshape(-1, audio.shape[2]), sample_rate)
    with run.board("train"):
        tf.summary.audio("fixed latents", audio[:8], sample_rate, max_outputs=8)


def publish(run: TrainingRun, facts: dict[str, float]) -> None:
    """Losses and measures to the terminal, statistics.jsonl and TensorBoard."""
    facts = run.mean_losses() | facts
    run.log("statistics", facts)
    numbers = "  ".join(f"{name} {value:.3g}" for name, value in facts.items())
    run.say(f"step {run.done}/{run.total}  {numbers}  {run.pace()}")


if __name__ == "__main__":
    options.run(main)
