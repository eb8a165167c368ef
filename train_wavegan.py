"""Train a WaveGAN generator on a folder of audio and export it in the original TF1 checkpoint format.

Presets:
  guided    (default) the generator begins as a decoder of latents that are computed from the clips, or with given
            weights (--init_from); then critics take over, on log-spectrograms and on what a trained classifier
            (--guide) sees. A gradient of its own raises the participation ratio of dG/dz: a latent that the generator
            ignores cannot be recovered.
  distilled the generator of --init_from learns to answer every latent as it answered the one whose class code is moved
            towards one class: fewer samples lie between two digits. Only its first layers change, and no clip is heard.
            Twenty minutes on two CPU cores.
  wgan_gp   the published recipe: waveform critic with phase shuffle, gradient penalty, five critic updates per
            generator update, batch 64. For a GPU and days.

How far each got is told in checkpoint/README.md.

A folder with digit names (Speech Commands, SC09) is labelled; any other folder is not, and the critics then judge
sound alone. The same command continues an interrupted run (--output): same step, same random stream.

Examples:
  # go on from the bundled generator: sharper digits; or more of the critics
  python train_wavegan.py ../shared/data/speech_commands_digits --preset distilled --init_from checkpoint \
      --judge classifier_checkpoint/judge.keras
  python train_wavegan.py ../shared/data/speech_commands_digits --init_from checkpoint \
      --guide classifier_checkpoint/classifier.keras --judge classifier_checkpoint/judge.keras \
      --precision mixed_bfloat16

  # digits from nothing, and the run continued after an interruption
  python train_wavegan.py ../shared/data/speech_commands_digits --output logs/digits
  python train_wavegan.py ../shared/data/speech_commands_digits --output logs/digits

  # the paper's generator, at its size, on a GPU
  python train_wavegan.py datasets/sc09 --preset wgan_gp --dim 64 --steps 200000

  # any other sound, stereo, 44.1 kHz, four times as long
  python train_wavegan.py drums/ --sample_rate 44100 --num_channels 2 --num_samples 65536
"""

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import functools
import signal
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from models.classifier import load_classifier
from models.critic import Guide
from models.gan_training import GuidedOptions, GuidedTrainer, WassersteinTrainer
from models.self_distillation import SelfDistillationTrainer
from models.tf1 import find_checkpoint, read_wavegan, write_tf1
from models.wavegan import Architecture, WaveGANGenerator, even_latents, match_level, revive
from utils import options
from utils.audio.datasets import Dataset, batch_indices, load_dataset
from utils.audio.files import write_wav
from utils.evaluation.generator_statistics import jacobian_statistics, judged_statistics, level_statistics
from utils.paired_latents import class_code, class_directions, decided_latents, paired_latents
from utils.runs.files import append_jsonl, to_json
from utils.runs.folders import keep_options, output_folder, tee_log

PRESETS = {
    "guided": {},
    "distilled": {"batch_size": 64, "learning_rate": 1e-3, "steps": 1500},
    "wgan_gp": {"batch_size": 64, "learning_rate": 1e-4, "steps": 200_000, "dim": 64},
}
CRITIC_UPDATES = 5
CHANGEABLE = (
    "steps",
    "minutes",
    "output",
    "dry_run",
    "quiet",
    "data",
    "judge",
    "evaluate_every",
    "save_minutes",
    "export_dtype",
    "isotropy",
    "learning_rate",
)
EVALUATED = 500
RISE = 500
DISTILLED_RISE = 50
JACOBIANS = 9


def parse_arguments():
    parser = options.make_parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument("data", type=Path, metavar="FOLDER", help="audio to learn from")
    data.add_argument("--sample_rate", type=options.positive_int, default=16000, metavar="HZ", help="of the generator")
    data.add_argument("--num_samples", type=int, choices=(16384, 32768, 65536), default=16384, help="of one clip")
    data.add_argument("--num_channels", type=options.positive_int, default=1, metavar="C", help="of one clip")
    model = parser.add_argument_group("model")
    model.add_argument("--dim", type=options.positive_int, default=32, help="channel multiplier; published: 64")
    model.add_argument("--latent_dim", type=options.positive_int, default=100, help="size of z")
    model.add_argument("--upsample", choices=("zeros", "nn"), default="zeros", help="as in WaveGAN's code")
    training = parser.add_argument_group("training")
    training.add_argument("--preset", choices=tuple(PRESETS), default="guided", help="the recipe, see above")
    training.add_argument("--steps", type=options.positive_int, default=10_000, help="generator updates in all")
    training.add_argument(
        "--minutes", type=options.positive_float, metavar="M", help="stop after so long, ready to continue"
    )
    training.add_argument("--warm_steps", type=options.non_negative_int, default=1500, help="guided: decoder updates")
    training.add_argument("--warm_rate", type=options.positive_float, default=8e-4, help="guided: rate of those")
    training.add_argument(
        "--critic_steps",
        type=options.non_negative_int,
        default=300,
        help="guided: critic updates before the generator's",
    )
    training.add_argument(
        "--init_from",
        type=Path,
        metavar="PATH",
        help="begin with these weights (an .npz by TF1 names, or a TF1 folder) in place of random ones; dead channels "
        "are drawn anew; guided: there is no decoder stage then, and no clip is paired with a latent; distilled: "
        "required",
    )
    training.add_argument(
        "--even_latents",
        type=options.positive_float,
        metavar="P",
        help="with --init_from: first strengthen the directions of z, but for the class code's, that the sound hardly "
        "depends on; at 1 all would matter alike, were dG/dz the same everywhere. 0.25 costs some intelligibility, "
        "which preset distilled gives back. Default: leave them",
    )
    training.add_argument(
        "--temperature",
        type=options.positive_float,
        default=0.05,
        metavar="T",
        help="distilled: of the softmax that moves a class code towards one class; lower: nearer",
    )
    training.add_argument(
        "--guide",
        type=Path,
        metavar="FILE",
        help="guided: a classifier of train_sc09_classifier.py for the same classes, which the generator is to "
        "convince; the critics look at its activations too. Not the --judge",
    )
    training.add_argument("--learning_rate", type=options.positive_float, default=1.5e-4, help="Adam, generator")
    training.add_argument(
        "--isotropy", type=float, default=0.7, help="guided: share of the penalty that evens dG/dz, 0 for none"
    )
    options.add_shared(training, "batch_size", "precision", "seed", batch_size=32)
    output = parser.add_argument_group("output")
    options.add_shared(output, "judge", "output", "dry_run", "quiet")
    output.add_argument(
        "--evaluate_every", type=options.positive_int, default=500, metavar="STEPS", help="statistics, audio, export"
    )
    output.add_argument(
        "--export_dtype",
        choices=("float32", "float16"),
        default="float32",
        help="how the exported weights are stored; float16 takes half the space, the export still computes in float32",
    )
    output.add_argument(
        "--save_minutes", type=options.positive_float, default=4.0, metavar="M", help="between two checkpoints"
    )
    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
    if args.preset == "distilled" and not args.init_from:
        raise options.UserError("--preset distilled: needs the generator to begin with, --init_from")
    for flag, preset in (("guide", "guided"), ("temperature", "distilled")):
        if flag in parser.explicit and args.preset != preset:
            raise options.UserError(f"--{flag}: goes with --preset {preset}. Received: --preset {args.preset}")
    if args.even_latents and not args.init_from:
        raise options.UserError("--even_latents: goes with --init_from, the generator whose latents it evens")
    if args.init_from:
        args.warm_steps = 0
    return args


class Batches:
    """What step t is trained on: a function of the seed and t alone."""

    def __init__(self, dataset: Dataset, latent_dim: int, batch_size: int, seed: int, paired: bool):
        self.dataset, self.batch_size, self.seed, self.latent_dim = dataset, batch_size, seed, latent_dim
        self.num_classes = len(dataset.class_names)
        self.classes = np.maximum(dataset.labels, 0).astype(np.int32)
        self.paired = None
        if paired:
            self.paired = paired_latents(
                dataset.audio, self.classes, latent_dim, self.num_classes, dataset.sample_rate, seed
            )

    @functools.cached_property
    def rms(self) -> float:
        """The clips' level: root mean square over some 500 of them."""
        some = self.dataset.to_float(slice(0, None, max(1, len(self.dataset) // EVALUATED)))
        return float(np.sqrt(np.mean(np.square(some))))

    def clips(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(indices `[B]`, clips float32 `[B, T, C]`) of a step."""
        index = batch_indices(len(self.dataset), self.batch_size, step, self.seed)
        return index, self.dataset.to_float(index)

    def prior(self, step: int, n: int) -> np.ndarray:
        """n draws from U(-1, 1), float32 `[n, latent_dim]`."""
        return np.random.default_rng([self.seed, step]).uniform(-1, 1, (n, self.latent_dim)).astype(np.float32)

    def mixed(self, step: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(latents, their classes): half paired with the step's clips, if any are; the rest from the prior."""
        latents = self.prior(step, self.batch_size)
        code = class_code(latents, self.num_classes) if self.num_classes else np.zeros(len(latents), np.int32)
        if self.paired is not None:
            half = self.batch_size // 2
            latents[:half], code[:half] = self.paired[index[:half]], self.classes[index[:half]]
        return latents, code


def guided_step(trainer: GuidedTrainer, batches: Batches, step: int, args) -> dict:
    seed = tf.constant([args.seed, step])
    index, clips = batches.clips(step)
    clips, opt = tf.constant(clips), trainer.options
    isotropy = opt.isotropy > 0 and step % opt.isotropy_every == 0
    generator_rate, critic_rate = learning_rates(step, args)
    trainer.generator_optimizer.learning_rate.assign(generator_rate)
    trainer.critic_optimizer.learning_rate.assign(critic_rate)
    if step < args.warm_steps:
        return trainer.warm_step(seed, clips, tf.constant(batches.paired[index]), isotropy)
    since = step - args.warm_steps
    latents, code = batches.mixed(step, index)
    latents, code, classes = tf.constant(latents), tf.constant(code), tf.constant(batches.classes[index])
    if since < args.critic_steps:
        return trainer.critic_step(seed, clips, classes, latents, code, since % opt.r1_every == 0)
    targets = None if batches.paired is None else clips[: args.batch_size // 2]
    progress = tf.constant(since / max(args.steps - args.warm_steps, 1), tf.float32)
    critic = since % opt.critic_every == 0
    r1 = critic and since // opt.critic_every % opt.r1_every == 0
    return trainer.step(seed, progress, clips, classes, latents, code, targets, critic, r1, isotropy)


def distilled_step(trainer: SelfDistillationTrainer, batches: Batches, step: int, args) -> dict:
    """One update at a rate that rises over 50 steps and falls on a cosine."""
    fade = 0.5 + 0.5 * np.cos(np.pi * step / args.steps)
    trainer.generator_optimizer.learning_rate.assign(args.learning_rate * fade * min(1.0, (step + 1) / DISTILLED_RISE))
    latents = batches.prior(step, args.batch_size)
    decided = decided_latents(latents, batches.num_classes, args.temperature)
    return trainer.step(tf.constant(latents), tf.constant(decided))


def wasserstein_step(trainer: WassersteinTrainer, batches: Batches, step: int, args) -> dict:
    report = {}
    for i in range(CRITIC_UPDATES):
        inner = step * (CRITIC_UPDATES + 1) + i
        clips = tf.constant(batches.clips(step * CRITIC_UPDATES + i)[1])
        report = trainer.critic_step(tf.constant([args.seed, inner]), clips, batches.prior(inner, args.batch_size))
    inner = step * (CRITIC_UPDATES + 1) + CRITIC_UPDATES
    latents = tf.constant(batches.prior(inner, args.batch_size))
    return report | trainer.generator_step(tf.constant([args.seed, inner]), latents)


def learning_rates(step: int, args) -> tuple[float, float]:
    """Guided: rates of the generator and of the critics.

    Generator: a cosine fall in the decoder stage; then a rise over 500 steps, so that the critics keep pace, level, and
    a linear fall to a tenth over the last two fifths. Critics: 4/3 of that without the rise, 3 times while alone.
    """
    if step < args.warm_steps:
        fade = 0.5 + 0.5 * np.cos(np.pi * step / args.warm_steps)
        return args.learning_rate + fade * (args.warm_rate - args.learning_rate), 0.0
    since = step - args.warm_steps
    if since < args.critic_steps:
        return 0.0, 3 * args.learning_rate
    progress = since / (args.steps - args.warm_steps)
    level = args.learning_rate * min(1.0, max(0.1, 1 - 0.9 * (progress - 0.6) / 0.4))
    return level * min(1.0, (since - args.critic_steps + 1) / RISE), 4 / 3 * level


def evaluate(weights, architecture: Architecture, dataset: Dataset, judge) -> tuple[dict, np.ndarray]:
    """Statistics of 500 samples from fixed latents, and the samples, float32 `[500, T, C]`."""
    generator = WaveGANGenerator(architecture, weights)
    z = np.random.default_rng(1).uniform(-1, 1, (EVALUATED, architecture.latent_dim)).astype(np.float32)
    sample = tf.function(generator, autograph=False)
    audio = np.concatenate([sample(tf.constant(z[i : i + 50])).numpy() for i in range(0, EVALUATED, 50)])
    real = dataset.to_float(np.linspace(0, len(dataset) - 1, min(EVALUATED, len(dataset))).astype(int))
    facts = level_statistics(audio, real)
    if judge is not None:
        facts |= judged_statistics(judge.predict(audio, batch_size=50, verbose=0))
    spectra = [generator.singular_values(row) for row in z[:JACOBIANS]]
    return facts | jacobian_statistics(np.median(spectra, axis=0)), audio


def main() -> int:
    args = parse_arguments()
    if args.dry_run:
        print(to_json(vars(args), indent=2))
        return options.EXIT_OK
    dataset = load_dataset(args.data, args.num_samples, args.num_channels, args.sample_rate, quiet=args.quiet)
    if len(dataset) <= args.latent_dim:
        raise options.UserError(f"{args.data}: more than {args.latent_dim} clips are needed, found {len(dataset)}")
    if dataset.class_names and args.latent_dim <= len(dataset.class_names) + 2:
        least = len(dataset.class_names) + 3
        raise options.UserError(
            f"--latent_dim: must be at least {least} for labelled clips. Received: {args.latent_dim}"
        )
    judge = load_classifier(args.judge) if args.judge else None
    architecture = Architecture(
        args.latent_dim, args.dim, num_samples=args.num_samples, num_channels=args.num_channels, upsample=args.upsample
    )
    folder = output_folder(args.output, Path("logs"), f"wavegan-{args.preset}-{args.data.resolve().name}")
    keep_options(folder, vars(args), changeable=CHANGEABLE)

    with tee_log(folder / "log.txt"):
        print(dataset.describe())
        batches = Batches(
            dataset, args.latent_dim, args.batch_size, args.seed, paired=args.preset == "guided" and not args.init_from
        )
        trainer, train_step = make_trainer(architecture, batches, args)
        run = Run(folder, trainer, args)
        weights = sum(int(np.prod(shape)) for shape in architecture.weight_shapes.values())
        print(f"generator: {weights:,} weights; run: {folder}; from step {run.done}", flush=True)
        while not run.finished:
            losses = {name: float(value) for name, value in train_step(trainer, batches, run.done, args).items()}
            if not all(np.isfinite(value) for value in losses.values()):
                clips = ", ".join(dataset.names[i] for i in batches.clips(run.done)[0])
                raise options.UserError(
                    f"step {run.done}: a loss is not finite ({losses}); the last checkpoint is intact; lower "
                    f"--learning_rate in a new run. The step's clips: {clips}"
                )
            run.count(losses)
            if run.done % args.evaluate_every == 0 or run.done == args.steps:
                averaged = trainer.averaged_weights()
                if args.preset == "distilled":  # decided samples are louder
                    averaged = match_level(architecture, averaged, batches.rms, args.seed)
                stored = {name: w.astype(args.export_dtype) for name, w in averaged.items()}
                write_tf1(folder / "export", stored, architecture, run.done, sample_rate=args.sample_rate)
                exported = {name: w.astype(np.float32) for name, w in stored.items()}
                run.publish(*evaluate(exported, architecture, dataset, judge))
            run.save_if_due()
        if run.done < args.steps:
            print(f"stopped at step {run.done}, saved; continue with: python {' '.join(sys.argv)} --output {folder}")
            return options.EXIT_INTERRUPTED if run.interrupted else options.EXIT_OK
        print(f"done; listen: python generate.py --generator {folder / 'export'} --n 10")
    return options.EXIT_OK


def make_trainer(architecture: Architecture, batches: Batches, args):
    """The preset's trainer and its step function."""
    start = None
    if args.init_from:
        start = revive(architecture, read_weights(args.init_from, architecture), args.seed)
        if args.even_latents:
            kept = class_directions(args.latent_dim, batches.num_classes)
            start = even_latents(architecture, start, args.even_latents, kept, args.seed)
        start = match_level(architecture, start, batches.rms, args.seed)
    rate, seed, precision = args.learning_rate, args.seed, args.precision
    if args.preset == "distilled":
        if not batches.num_classes:
            raise options.UserError(f"{args.data}: --preset distilled needs clips in folders named after digits")
        return SelfDistillationTrainer(architecture, start, rate, precision), distilled_step
    if args.preset == "guided":
        guide = read_guide(args.guide, batches.dataset) if args.guide else None
        weights = GuidedOptions(isotropy=args.isotropy)
        trainer = GuidedTrainer(
            architecture, batches.num_classes, weights, rate, rate, seed, precision, start=start, guide=guide
        )
        return trainer, guided_step
    return WassersteinTrainer(architecture, seed, rate, precision, start=start), wasserstein_step


def read_guide(path: Path, dataset: Dataset) -> Guide:
    """The classifier of `--guide`, which must know the dataset's classes and hear its format."""
    classifier = load_classifier(path)
    heard = (classifier.class_names, classifier.num_samples, classifier.num_channels, classifier.sample_rate)
    given = (dataset.class_names, *dataset.audio.shape[1:], dataset.sample_rate)
    if heard != given:
        names = "classes, samples, channels and Hz"
        raise options.UserError(f"--guide {path}: {names} must be the data's, {given}; found {heard}")
    some = np.linspace(0, len(dataset) - 1, min(EVALUATED, len(dataset))).astype(int)
    return Guide(classifier, dataset.to_float(some))


def read_weights(path: Path, architecture: Architecture) -> dict[str, np.ndarray]:
    """Weights by TF1 name, of `--init_from`."""
    if path.is_dir():
        found = read_wavegan(find_checkpoint(path)[1], architecture.num_samples)
        weights = found[1] if found else {}
    elif path.suffix == ".npz" and path.is_file():
        with np.load(path) as arrays:
            weights = {name: arrays[name] for name in arrays}
    else:
        raise options.UserError(f"--init_from {path}: must be an .npz file or a TF1 folder")
    for name, shape in architecture.weight_shapes.items():
        if name not in weights or weights[name].shape != shape:
            got = weights[name].shape if name in weights else "none"
            raise options.UserError(f"--init_from {path}: {name} must have shape {shape}, found {got}; see --dim")
    return weights


class Run:
    """A training run's folder: where it stands, its checkpoints, its log lines and its TensorBoard events."""

    def __init__(self, folder: Path, trainer, args):
        self.folder, self.args, self.interrupted, self.losses = folder, args, False, {}
        self.step, self.seconds = tf.Variable(0, dtype=tf.int64), tf.Variable(0.0, dtype=tf.float64)
        checkpoint = tf.train.Checkpoint(trainer=trainer, step=self.step, seconds=self.seconds)
        self.manager = tf.train.CheckpointManager(checkpoint, str(folder / "checkpoints"), max_to_keep=2)
        if self.manager.latest_checkpoint:
            checkpoint.restore(self.manager.latest_checkpoint).assert_existing_objects_matched()
        self.board = tf.summary.create_file_writer(str(folder / "tensorboard"))
        self.started = self.saved = self.said = time.monotonic()
        self.first_step, self.first_seconds = self.done, float(self.seconds)
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_):
        self.interrupted = True

    @property
    def done(self) -> int:
        """Steps done."""
        return int(self.step)

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def finished(self) -> bool:
        """All steps done, out of time, or interrupted."""
        out_of_time = self.args.minutes is not None and self._elapsed > 60 * self.args.minutes
        return self.done >= self.args.steps or out_of_time or self.interrupted

    def count(self, losses: dict[str, float]) -> None:
        """One more step; prints a line every 20 seconds."""
        self.step.assign_add(1)
        self.seconds.assign(self.first_seconds + self._elapsed)
        for name, value in losses.items():
            self.losses[name] = 0.98 * self.losses.get(name, value) + 0.02 * value
        if time.monotonic() - self.said < 20:
            return
        self.said = time.monotonic()
        pace = self._elapsed / (self.done - self.first_step)
        left = (self.args.steps - self.done) * pace / 60
        if not self.args.quiet:
            line = f"step {self.done}/{self.args.steps}  {_numbers(self.losses)}"
            print(f"{line}  {pace:.2f} s/step  {left:.0f} min left", flush=True)
        self._scalars("loss", self.losses)

    def publish(self, facts: dict[str, float], audio: np.ndarray) -> None:
        """Statistics of samples to the terminal, `statistics.jsonl` and TensorBoard; 20 samples to `waves/`."""
        hours, rate = float(self.seconds) / 3600, self.args.sample_rate
        record = {"step": self.done, "hours": hours, **facts, "losses": self.losses}
        append_jsonl(self.folder / "statistics.jsonl", record)
        write_wav(self.folder / "waves" / f"{self.done:07d}.wav", audio[:20].reshape(-1, audio.shape[2]), rate)
        self._scalars("samples", facts)
        with self.board.as_default(step=self.done):
            tf.summary.audio("fixed latents", audio[:8], rate, max_outputs=8)
        print(f"step {self.done}  {hours:.2f} h  samples: {_numbers(facts)}", flush=True)

    def save_if_due(self) -> None:
        """A checkpoint every `--save_minutes`, and when the run ends."""
        if self.finished or time.monotonic() - self.saved > 60 * self.args.save_minutes:
            self.manager.save(checkpoint_number=self.done)
            self.saved = time.monotonic()

    def _scalars(self, group: str, values: dict[str, float]) -> None:
        with self.board.as_default(step=self.done):
            for name, value in values.items():
                tf.summary.scalar(f"{group}/{name}", value)


def _numbers(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in values.items())


if __name__ == "__main__":
    options.run(main)
