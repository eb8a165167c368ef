"""A generator that is not a WaveGAN, from nothing: drum sounds made with NumPy, and a small Keras GAN trained on them.

Kicks, snares and hats of 8192 samples at 22050 Hz; 16 latents with a normal prior; a decoder that adds up
overlapping frames of a learned dictionary. Everything else in this project takes it as it comes (README, "Your own
generator").

Examples:
    # sounds, then training: some minutes on two CPU cores; the same command goes on after an interruption
    python -m examples.drums --output results/drums

    # the sounds only, for the generator that comes with the project (examples/drums.keras)
    python -m examples.drums --output results/drums --steps 0

Writes into the output folder: sounds/ (to train on), fresh/ (others, which no training sees), drums.keras and
drums.json (the generator; its sample rate, its prior, and how it was made), losses.jsonl.
"""

import time
from pathlib import Path

import utils  # noqa: F401  (its environment variables must stand before NumPy and TensorFlow are imported)

# isort: split
import keras
import numpy as np
import scipy.signal
import tensorflow as tf
from keras import layers
from tqdm import tqdm

from utils import options, runs
from utils.audio import write_wav
from utils.datasets import load_dataset, training_batches
from utils.options import UserError
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
    """n sounds of each kind, KIND_NNNN.wav; which ones, seed and stream decide."""
    for i in range(n):
        for number, kind in enumerate(KINDS):
            sound = drum(kind, np.random.default_rng([seed, stream, number, i]))
            write_wav(folder / f"{kind}_{i:04}.wav", sound, SAMPLE_RATE)


# ---- networks -------------------------------------------------------------------------


def make_generator() -> keras.Model:
    """z float32 `[B, 16]` -> audio float32 `[B, 8192, 1]`: what to play when, then frames of a learned dictionary."""

    def relu():
        return layers.LeakyReLU(0.2)

    return keras.Sequential(
        [
            keras.Input([LATENT_DIM]),
            layers.Dense(8 * 96), relu(), layers.Reshape([8, 96]),
            layers.UpSampling1D(2), layers.Conv1D(96, 5, padding="same"), relu(),  # [16, 96]
            layers.UpSampling1D(2), layers.Conv1D(96, 5, padding="same"), relu(),  # [32, 96]
            layers.Conv1D(128, 1), relu(),  # [32, 128]: how much of each entry of the dictionary
            layers.Conv1DTranspose(1, FRAME, HOP, padding="same", activation="tanh"),  # [8192, 1]
        ],
        name="drums",
    )  # fmt: skip


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


class Trainer:
    """Hinge GAN with a spectrally normalised critic (Miyato et al., 2018); the generator's weights are averaged."""

    def __init__(self, seed: int, learning_rate: float = 2e-4):
        keras.utils.set_random_seed(seed)
        self.seed = seed
        self.generator, self.critic = make_generator(), make_critic()
        self.generator_adam = keras.optimizers.Adam(
            learning_rate, 0.0, 0.9, use_ema=True, ema_momentum=0.998, ema_overwrite_frequency=None
        )
        self.critic_adam = keras.optimizers.Adam(2 * learning_rate, 0.0, 0.9)
        self.generator_adam.build(self.generator.trainable_variables)
        self.critic_adam.build(self.critic.trainable_variables)

    def state(self) -> list[tf.Variable]:
        """All that a checkpoint must hold."""
        owners = self.generator, self.critic, self.generator_adam, self.critic_adam
        return [variable.value for owner in owners for variable in owner.variables]

    @tf.function
    def step(self, real: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update of the critic on clips `[B, 8192, 1]`, one of the generator; its z depend on seed and number."""
        z = tf.random.stateless_normal([2, real.shape[0], LATENT_DIM], [self.seed, number])
        fake = self.generator(z[0])
        with tf.GradientTape() as tape:
            both = tf.concat([real, fake], 0)
            on_real, on_fake = tf.split(self.critic([both, log_spectrogram(both)], training=True), 2)
            critic_loss = tf.reduce_mean(tf.nn.relu(1 - on_real)) + tf.reduce_mean(tf.nn.relu(1 + on_fake))
        self._apply(self.critic_adam, tape, critic_loss, self.critic)
        with tf.GradientTape() as tape:
            fake = self.generator(z[1])
            generator_loss = -tf.reduce_mean(self.critic([fake, log_spectrogram(fake)], training=False))
        self._apply(self.generator_adam, tape, generator_loss, self.generator)
        return {"critic": critic_loss, "generator": generator_loss}

    @staticmethod
    def _apply(adam: keras.optimizers.Adam, tape: tf.GradientTape, loss: tf.Tensor, model: keras.Model) -> None:
        variables = model.trainable_variables
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))


def train(folder: Path, *, steps: int, batch_size: int, seed: int, quiet: bool) -> keras.Model:
    """The generator after training on `folder/sounds`; an interrupted training goes on from its last save."""
    sounds = load_dataset(
        folder / "sounds", NUM_SAMPLES, 1, SAMPLE_RATE, "all", cache_dir=folder / "cache", quiet=quiet
    )
    trainer = Trainer(seed)
    done = tf.Variable(0, dtype=tf.int32)
    checkpoint = tf.train.Checkpoint(state=trainer.state(), done=done)
    manager = tf.train.CheckpointManager(checkpoint, str(folder / "checkpoints"), max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    first = int(done)
    batches = training_batches(sounds, batch_size, seed=seed, first_step=first)
    bar = tqdm(total=steps, initial=first, desc="training", unit="step", mininterval=1, disable=quiet)
    for number, (real, _) in zip(range(first, steps), batches, strict=False):
        losses = {name: float(loss) for name, loss in trainer.step(real, tf.constant(number)).items()}
        if not np.isfinite(list(losses.values())).all():
            raise UserError(f"step {number}: a loss is not finite ({losses}); try another --seed")
        bar.set_postfix(losses, refresh=False)
        bar.update()
        done.assign(number + 1)
        if (number + 1) % SAVE_EVERY == 0 or number + 1 == steps:
            manager.save()
            runs.append_jsonl(folder / "losses.jsonl", {"step": number + 1, **losses})
    bar.close()
    trainer.generator_adam.finalize_variable_values(trainer.generator.trainable_variables)
    return trainer.generator


def main() -> None:
    parser = options.make_parser(__doc__)
    add = parser.add_argument_group("training").add_argument
    add("--n", type=options.positive_int, default=700, metavar="N", help="sounds of each kind to train on")
    add("--steps", type=options.non_negative_int, default=3000, metavar="N",
        help="updates of the generator; 0: only the sounds")  # fmt: skip
    group = parser.add_argument_group("run")
    options.add_shared(group, "output", "batch_size", "seed", "quiet", output=Path("results/drums"), batch_size=32)
    args = parser.parse_args()
    started = time.monotonic()
    folder = runs.output_folder(args.output, Path("results"), "drums")
    settings = {name: getattr(args, name) for name in ("n", "batch_size", "seed")}
    begun = folder / "options.json"
    if begun.exists() and (before := runs.read_json(begun)) != settings:
        raise UserError(f"--output {folder}: was begun with {before}. Received: {settings}. Give the same, or another")
    runs.write_json(begun, settings)
    write_sounds(folder / "sounds", args.n, args.seed, stream=0)
    write_sounds(folder / "fresh", FRESH, args.seed, stream=1)
    print(f"{args.n * len(KINDS)} sounds to train on, {FRESH * len(KINDS)} others: {folder}/sounds, {folder}/fresh")
    if not args.steps:
        return
    generator = train(folder, steps=args.steps, batch_size=args.batch_size, seed=args.seed, quiet=args.quiet)
    # What a .keras file does not tell of itself stands beside it, in NAME.json.
    with runs.atomic_path(folder / "drums.keras") as temporary:
        generator.save(temporary)
    seconds = round(time.monotonic() - started)
    made = {"by": "examples/drums.py", "licence": "MIT", "steps": args.steps, **settings, "seconds": seconds}
    made["environment"] = runs.environment()
    runs.write_json(folder / "drums.json", {"sample_rate": SAMPLE_RATE, "prior": "normal", "made": made})
    print(f"{folder}/drums.keras: {generator.count_params():,} weights, {seconds} s")


if __name__ == "__main__":
    options.run(main)
