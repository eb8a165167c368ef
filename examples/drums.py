"""A generator that is not a WaveGAN, from nothing: drum sounds made with NumPy, and a small Keras GAN trained on them.

Kicks, snares and hats of 8192 samples at 22050 Hz; 16 latents with a normal prior; a decoder that adds up
overlapping frames of a learned dictionary. Everything else in this project takes it as it comes (README, "Your own
generator").

Examples:
    # sounds, then training: half an hour on two CPU cores busy with other work; resumes after an interruption
    python -m examples.drums --output results/drums

    # the sounds only, for the generator that comes with the project (examples/drums.keras)
    python -m examples.drums --output results/drums --sounds_only

Writes into the output folder: sounds/ (to train on), fresh/ (others, which no training sees), drums.keras and
drums.json (the generator; its sample rate, its prior, and how it was made), losses.jsonl.
"""

import argparse
import time
from pathlib import Path

from utils import options


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    add = parser.add_argument_group("training").add_argument
    add("--n", type=options.positive_int, default=700, metavar="N", help="sounds of each kind to train on")
    add(
        "--warm_steps",
        type=options.non_negative_int,
        default=2500,
        metavar="N",
        help="updates of the generator as a decoder of the sounds' principal components",
    )
    add(
        "--steps",
        type=options.non_negative_int,
        default=750,
        metavar="N",
        help="updates of generator and critic after that",
    )
    add("--sounds_only", action=argparse.BooleanOptionalAction, default=False, help="write the sounds, then stop")
    group = parser.add_argument_group("run")
    options.add_shared(group, "output", "batch_size", "seed", "quiet", output=Path("results/drums"), batch_size=32)
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import keras
import numpy as np
import scipy.signal
import tensorflow as tf
from keras import layers
from sklearn.decomposition import PCA
from sklearn.preprocessing import QuantileTransformer
from tqdm import tqdm

from utils import losses
from utils.audio.datasets import batch_indices, load_dataset
from utils.audio.files import write_wav
from utils.errors import UserError
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl, atomic_path, literal_path, read_json, write_json
from utils.runs.folders import output_folder
from utils.spectrograms import magnitude, stft

SAMPLE_RATE, NUM_SAMPLES, LATENT_DIM = 22050, 8192, 16
KINDS = ("kick", "snare", "hat")
FRESH = 32  # sounds of each kind
HAT_PARTIALS = (205.3, 304.4, 369.6, 522.7, 540.0, 800.0)  # Hz, the oscillators of a TR-808's cymbals
FRAME, HOP = 512, 256
SAVE_EVERY = 250


# ---- sounds ---------------------------------------------------------------------------


def drum(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One synthetic drum sound, `[8192, 1]` at 22050 Hz, beginning at its first sample; peak 0.4 to 0.9."""
    t = np.arange(NUM_SAMPLES) / SAMPLE_RATE
    if kind == "kick":  # a sine that falls in pitch
        pitch = rng.uniform(42, 65) + rng.uniform(80, 250) * np.exp(-t / rng.uniform(0.01, 0.04))
        sound = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.exp(-t / rng.uniform(0.06, 0.18))
    elif kind == "snare":  # two modes of the skin, and noise: the wires
        skin = sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(160, 240) * np.array([1, 1.6]))
        band = scipy.signal.butter(2, (900, 7000), "bandpass", fs=SAMPLE_RATE, output="sos")
        wires = scipy.signal.sosfilt(band, rng.normal(size=NUM_SAMPLES))
        sound = skin * np.exp(-t / rng.uniform(0.02, 0.08))
        sound = sound + rng.uniform(0.5, 2) * wires * np.exp(-t / rng.uniform(0.04, 0.12))
    else:  # six square waves, of which only the top is left
        squares = sum(np.sign(np.sin(2 * np.pi * f * rng.uniform(0.98, 1.02) * t)) for f in HAT_PARTIALS)
        top = scipy.signal.butter(4, 6000, "highpass", fs=SAMPLE_RATE, output="sos")
        sound = scipy.signal.sosfilt(top, squares) * np.exp(-t / rng.uniform(0.01, 0.12))
    fade = np.minimum(1, np.arange(NUM_SAMPLES)[::-1] / 1000)
    sound = sound * fade
    return (sound * rng.uniform(0.4, 0.9) / np.abs(sound).max())[:, None].astype(np.float32)


def write_sounds(folder: Path, n: int, seed: int, stream: int) -> None:
    """n sounds of each kind, KIND_NNNN.wav; which ones, seed and stream decide. What is there already stays."""
    for i in range(n):
        for number, kind in enumerate(KINDS):
            path = folder / f"{kind}_{i:04}.wav"
            if not path.exists():
                write_wav(path, drum(kind, np.random.default_rng([seed, stream, number, i])), SAMPLE_RATE)


# ---- networks -------------------------------------------------------------------------


def make_generator() -> keras.Model:
    """z float32 `[B, 16]` -> audio float32 `[B, 8192, 1]`: what to play when, then frames of a learned dictionary."""

    def relu():
        return layers.LeakyReLU(0.2)

    return keras.Sequential(
        [
            keras.Input([LATENT_DIM]),
            layers.Dense(8 * 96),
            relu(),
            layers.Reshape([8, 96]),
            layers.UpSampling1D(2),
            layers.Conv1D(96, 5, padding="same"),
            relu(),  # [16, 96]
            layers.UpSampling1D(2),
            layers.Conv1D(96, 5, padding="same"),
            relu(),  # [32, 96]
            layers.Conv1D(128, 1),
            relu(),  # [32, 128]: how much of each entry of the dictionary
            layers.Conv1DTranspose(1, FRAME, HOP, padding="same", activation="tanh"),  # [8192, 1]
        ],
        name="drums",
    )


def make_critic() -> keras.Model:
    """(audio `[B, 8192, 1]`, log spectrogram `[B, 32, 257, 1]`) -> scores `[B, 2]`; Lipschitz by spectral norms."""

    def normed(layer):
        return layers.SpectralNormalization(layer)

    def score(x):
        return normed(layers.Dense(1))(layers.Flatten()(x))

    audio, image = keras.Input([NUM_SAMPLES, 1]), keras.Input([NUM_SAMPLES // HOP, FRAME // 2 + 1, 1])
    wave = audio
    for channels, kernel, stride in ((64, 256, 64), (96, 5, 2), (96, 5, 2), (96, 5, 2)):
        wave = layers.LeakyReLU(0.2)(normed(layers.Conv1D(channels, kernel, stride, padding="same"))(wave))
    picture = image
    for channels in (16, 32, 64, 64):
        picture = layers.LeakyReLU(0.2)(normed(layers.Conv2D(channels, 4, 2, padding="same"))(picture))
    return keras.Model([audio, image], layers.Concatenate()([score(wave), score(picture)]))


def log_spectrogram(audio: tf.Tensor) -> tf.Tensor:
    """Audio `[B, T, 1]` -> `[B, T / 256, 257, 1]`, about unit variance."""
    return tf.math.log(magnitude(stft(audio, FRAME, HOP)) + 1e-2) / 2 + 1


# ---- training -------------------------------------------------------------------------


def paired_latents(clips: np.ndarray, seed: int) -> np.ndarray:
    """Clips `[N, 8192, 1]` -> latents float32 `[N, 16]`, each entry distributed as the prior: principal components."""
    spectrograms = np.concatenate([log_spectrogram(clips[i : i + 64]) for i in range(0, len(clips), 64)])
    components = PCA(LATENT_DIM, random_state=seed).fit_transform(spectrograms.reshape(len(clips), -1))
    quantiles = QuantileTransformer(n_quantiles=len(clips), output_distribution="normal")
    return np.clip(quantiles.fit_transform(components), -3, 3).astype(np.float32)


class Trainer:
    """First a decoder of paired latents, then a GAN as well: hinge loss, spectral norms (Miyato et al., 2018).

    Without the first part, 2,000 steps of a similar GAN had collapsed to one sound at different levels.
    """

    def __init__(self, seed: int):
        keras.utils.set_random_seed(seed)
        self.seed = seed
        self.generator, self.critic = make_generator(), make_critic()
        self.distance = losses.parse_objective("waveform=10,mr_stft=1")
        # The generator that is saved has the mean of the weights over the last few hundred steps.
        self.generator_adam = keras.optimizers.Adam(
            5e-4, 0.5, 0.99, use_ema=True, ema_momentum=0.995, ema_overwrite_frequency=None
        )
        self.critic_adam = keras.optimizers.Adam(5e-4, 0.5, 0.99)
        self.generator_adam.build(self.generator.trainable_variables)
        self.critic_adam.build(self.critic.trainable_variables)

    def state(self) -> list[tf.Variable]:
        """All that a checkpoint must hold."""
        owners = self.generator, self.critic, self.generator_adam, self.critic_adam
        return [variable.value for owner in owners for variable in owner.variables]

    @tf.function
    def step(self, clips: tf.Tensor, z: tf.Tensor, number: tf.Tensor, adversarial: bool) -> dict[str, tf.Tensor]:
        """One update of the generator on clips `[B, 8192, 1]` and their z; if adversarial, one of the critic before.

        The latents of the adversarial part come from the prior, by seed and number.
        """
        terms = {}
        drawn = tf.random.stateless_normal([2, *z.shape], [self.seed, number])
        if adversarial:
            both = tf.concat([clips, self.generator(drawn[0])], 0)
            with tf.GradientTape() as tape:
                on_real, on_fake = tf.split(self.critic([both, log_spectrogram(both)], training=True), 2)
                terms["critic"] = tf.reduce_mean(tf.nn.relu(1 - on_real) + tf.nn.relu(1 + on_fake))
            self._apply(self.critic_adam, tape, terms["critic"], self.critic)
        with tf.GradientTape() as tape:
            audio = self.generator(z)
            terms["paired"] = loss = tf.reduce_mean(self.distance(losses.Point(audio, clips, z, "normal")))
            if adversarial:
                fake = self.generator(drawn[1])
                terms["adversarial"] = -tf.reduce_mean(self.critic([fake, log_spectrogram(fake)], training=False))
                loss += 0.5 * terms["adversarial"]
        self._apply(self.generator_adam, tape, loss, self.generator)
        return terms

    @staticmethod
    def _apply(adam: keras.optimizers.Adam, tape: tf.GradientTape, loss: tf.Tensor, model: keras.Model) -> None:
        variables = model.trainable_variables
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))


def train(folder: Path, *, warm_steps: int, steps: int, batch_size: int, seed: int, quiet: bool) -> keras.Model:
    """The generator after training on `folder/sounds`; an interrupted training resumes from its last save."""
    sounds = load_dataset(
        folder / "sounds", NUM_SAMPLES, 1, SAMPLE_RATE, "all", cache_dir=folder / "cache", quiet=quiet
    )
    clips = sounds.to_float()
    z = paired_latents(clips, seed)
    trainer = Trainer(seed)
    done = tf.Variable(0, dtype=tf.int32)
    checkpoint = tf.train.Checkpoint(state=trainer.state(), done=done)
    manager = tf.train.CheckpointManager(checkpoint, f"{literal_path(folder)}/checkpoints", max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    first, last = int(done), warm_steps + steps
    for number in tqdm(range(first, last), initial=first, total=last, desc="training", unit="step", disable=quiet):
        rows = batch_indices(len(clips), batch_size, number, seed)
        terms = trainer.step(clips[rows], z[rows], tf.constant(number), number >= warm_steps)
        terms = {name: float(value) for name, value in terms.items()}
        if not np.isfinite(list(terms.values())).all():
            raise UserError(f"step {number}: a loss is not finite ({terms}); try another --seed")
        done.assign(number + 1)
        if (number + 1) % SAVE_EVERY == 0 or number + 1 == last:
            manager.save()
            append_jsonl(folder / "losses.jsonl", {"step": number + 1, **terms})
    trainer.generator_adam.finalize_variable_values(trainer.generator.trainable_variables)
    return trainer.generator


def main() -> None:
    args = parse_arguments()
    started = time.monotonic()
    folder = output_folder(args.output, Path("results"), "drums")
    settings = {name: getattr(args, name) for name in ("n", "warm_steps", "steps", "batch_size", "seed")}
    options_file = folder / "options.json"
    if options_file.exists() and (before := read_json(options_file)) != settings:
        raise UserError(
            f"--output {folder}: was started with {before}. Received: {settings}. Give the same, or another"
        )
    write_json(options_file, settings)
    write_sounds(folder / "sounds", args.n, args.seed, stream=0)
    write_sounds(folder / "fresh", FRESH, args.seed, stream=1)
    print(f"{args.n * len(KINDS)} sounds to train on, {FRESH * len(KINDS)} others: {folder}/sounds, {folder}/fresh")
    if args.sounds_only:
        return
    generator = train(
        folder,
        warm_steps=args.warm_steps,
        steps=args.steps,
        batch_size=args.batch_size,
        seed=args.seed,
        quiet=args.quiet,
    )
    # What a .keras file does not say is in NAME.json in the same folder.
    with atomic_path(folder / "drums.keras") as temporary:
        generator.save(temporary)
    made = {"by": "examples/drums.py", "licence": "MIT", **settings, "environment": describe_environment()}
    write_json(folder / "drums.json", {"sample_rate": SAMPLE_RATE, "prior": "normal", "made": made})
    print(f"{folder}/drums.keras: {generator.count_params():,} weights, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    options.run(main)
