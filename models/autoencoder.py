"""Recipe `autoencoder`: an encoder and a WaveGAN generator trained together, from random weights.

Each clip has a fixed latent (`principal_latents`); together they look like the prior. At first the generator learns
alone to decode them, by spectra and by what a linear map finds of them in its sound. That is where it learns to speak,
and to say each word in one way; then, with encoder and critics, it gives up the latter, slowly: losses that come in at
once, or at the first rate, take it away from the clips for good (benchmarks/README.md).

Generator: real clips reconstructed (log-spectra, critics' activations), most of them from what the encoder answers, a
quarter from their fixed latents; critics of reconstructions and of samples of the prior; the latent round trip
E(G(z)) = z on those samples; samples unlike each other; dG/dz even. Encoder: reconstruction, the round trip, the fixed
latents; a part of it is a linear map that comes near them. No trained classifier takes part; labels, where there are
any, go into the fixed latents and to the critics.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from scipy.special import ndtri
from sklearn.linear_model import Ridge

from models.critic import PatchCritic, augmentation, critic_image
from models.encoder import Encoder
from models.gan_training import Batches, GeneratorTrainer, all_variables
from models.highway import log_mel, squash, unsquash
from models.wavegan import Architecture
from utils.audio.augment import augment
from utils.audio.datasets import Dataset
from utils.audio.principal_latents import class_code, principal_latents
from utils.runs.batches import in_batches
from utils.spectrograms import magnitude, mel_filters, stft

DECODER_STEPS = 1000  # at first, in which the generator learns alone
LINEAR_ROUND_TRIP = 1.5  # weight of the latents that the linear map finds in what it says, beside the spectra's 1
RISING = 2000  # steps after these in which all losses but the spectral one come in, see `generator_step`
JOINT_RATES = (0.25, 0.75, 0.375)  # of generator, encoder, critics in these: shares of the generator's rate at first
COOLING = 0.25  # share of all steps in which the learning rates fall
CRITIC_EVERY, PENALTY_EVERY = 4, 8  # generator steps a critic update, critic updates a gradient penalty
FRONT_ENDS = ((256, 128, (4, 4)), (1024, 256, (4, 8)))  # of the critics, see `critic_image`
CRITIC_LAYERS = ((64, 1), (96, 2), (128, 2), (128, 1))

# Weights of the generator's losses, whose gradients at the waveform are first brought to norm 1 (EnCodec's balancer,
# Defossez et al., 2022, section 3.4)
WEIGHTS = {
    "spectral": 1.0,
    "level": 0.1,
    "similarity": 0.25,
    "round_trip": 0.5,
    "adversarial": 0.35,
    "prior": 0.35,
    "features": 0.3,
}
CLASSIFICATION = 1.0  # of the critics' class loss in "adversarial" and "prior", beside their score
CERTAIN = 0.5  # difference between a code's two largest block sums, over their deviation, from which a class is certain
EVENNESS = 1.2  # norm of the gradient of `participation_ratio` as a share of all others'
AIMS = {"level": 0.5, "similarity": 0.02, "round_trip": 0.12, "participation": 22.0}  # beyond them a term fades
EVENNESS_EVERY = 3  # steps
SLOPE_LATENTS, SLOPE_DIRECTIONS = 4, 6  # dG/dz is taken at so many latents along so many directions
R1 = 4.0  # gradient penalty on real spectrograms (Mescheder et al., 2018)
LATENT_ERRORS = {"fixed_latents": 8.0, "round_trip": 20.0}  # mean squared errors of z in the encoder's loss
ENCODER_RECONSTRUCTION = 0.3  # norm of the reconstruction's gradient at z
ENCODER_CLASS = 1.0
TAUGHT_EVERY = 4  # every so many clips one is decoded from its fixed latent in place of the encoder's answer
POSTERIOR_NOISE = 0.1  # deviation, in standard normal units, of what the encoder answers for a real clip
AUDIO_NOISE = 5e-4  # deviation of noise on what the encoder hears
NORM_DECAY = 0.99
LEAK = 0.02  # Adam's first steps silence most channels of the first upsampling, and all for good without it
LARGEST_SHIFT, GAIN_DB = 400, (-2.0, 2.0)  # by which real clips are varied
RIDGE = 200.0  # of the encoder's linear map


class AutoencoderTrainer(GeneratorTrainer):
    """Generator, encoder and critics, and their updates.

    Args:
        architecture: of the generator.
        dataset: real clips, with labels or without.
        seed: of every initial weight.
        learning_rate: of the generator alone; together all have `JOINT_RATES` of it.
        precision: of the convolutions of generator, encoder and critics.
        ema: decay of the moving averages of the weights of generator and encoder.
        steps: in all; over the last quarter the learning rates fall to 0. None: they stay.
    """

    def __init__(
        self,
        architecture: Architecture,
        dataset: Dataset,
        seed: int,
        learning_rate: float = 2e-4,
        precision: str = "float32",
        ema: float = 0.998,
        steps: int | None = None,
    ):
        keras.utils.set_random_seed(seed)
        super().__init__(architecture, seed, learning_rate, (0.5, 0.99), precision, ema, LEAK)
        self.num_classes = len(dataset.class_names)
        self.latent_dim = architecture.latent_dim
        self.sample_rate = dataset.sample_rate
        features = log_mel_features(dataset)
        latents = principal_latents(features, dataset.labels, self.num_classes, self.latent_dim, seed)
        self.fixed_latents = tf.Variable(latents, trainable=False)
        self.encoder = Encoder(
            latent_dim=self.latent_dim,
            architecture="highway",
            num_samples=architecture.num_samples,
            num_channels=architecture.num_channels,
            sample_rate=dataset.sample_rate,
            precision=precision,
        )
        nearest = Ridge(RIDGE).fit(features, ndtri((np.float64(latents) + 1) / 2))
        self.encoder.network.get_layer("linear").set_weights([nearest.coef_.T, nearest.intercept_])
        self._encode = keras.Model(self.encoder.network.input, self.encoder.network.get_layer("normal").output)
        self._linear_map = keras.Model(self.encoder.network.input, self.encoder.network.get_layer("bounded").output)
        self.encoder_average = self.encoder.with_options(precision="float32")
        self.encoder_variables = all_trainable(self.encoder)
        self.steps, self.learning_rate = steps, learning_rate
        self.encoder_optimizer = keras.optimizers.Adam(learning_rate, 0.5, 0.99, name="encoder_adam")
        self.encoder_optimizer.build(self.encoder_variables)
        self.critics = [PatchCritic(self.num_classes, CRITIC_LAYERS, precision) for _ in FRONT_ENDS]
        silence = tf.zeros([1, architecture.num_samples, architecture.num_channels])
        self._critics_on(silence, tf.zeros([1], tf.int32))
        self.critic_variables = [variable for critic in self.critics for variable in all_trainable(critic)]
        self.critic_optimizer = keras.optimizers.Adam(learning_rate, 0.5, 0.99, name="critic_adam")
        self.critic_optimizer.build(self.critic_variables)
        networks = (self.encoder, self.encoder_average, *self.critics)
        self.network_state = [variable for network in networks for variable in all_variables(network)]
        self.participation = tf.Variable(0.0, name="participation")  # of the last time that it was taken
        self.norms = {
            name: tf.Variable(0.0, name=f"norm_{name}") for name in (*WEIGHTS, "reconstruction", "linear_round_trip")
        }

    def train_step(self, batches: Batches, step: int) -> dict[str, tf.Tensor]:
        """One update: of the generator alone at first, then with the encoder, every `CRITIC_EVERY` steps with the
        critics; the losses."""
        self._set_rates(step)
        indices, clips = batches.indices(step), tf.constant(batches.clips(step))
        fixed = tf.gather(self.fixed_latents, indices)
        if step < DECODER_STEPS:
            return self.decoder_step(clips, fixed)
        z = batches.latents(step)
        codes = class_code(z, self.num_classes) if self.num_classes else np.zeros(len(z), np.int32)
        labels = batches.dataset.labels[indices] if self.num_classes else np.zeros(len(indices), np.int32)
        classes = tf.constant(np.concatenate([labels, codes]).astype(np.int32))
        seed = tf.constant([batches.seed, step])
        clips, fixed = self._varied(clips, fixed, seed)
        share = tf.constant(min(1.0, (step - DECODER_STEPS) / RISING))
        losses, audio = self.generator_step(seed, clips, classes, fixed, tf.constant(z), share)
        if step % CRITIC_EVERY == 0:
            penalized = step // CRITIC_EVERY % PENALTY_EVERY == 0
            losses |= self.critic_step(seed, clips, audio, classes, penalized)
        return losses

    @staticmethod
    def clips_of(batches: Batches, step: int) -> list[str]:
        """The files that `train_step` takes."""
        return batches.names(step)

    def encode(self, audio: tf.Tensor) -> tf.Tensor:
        """Audio float32 `[B, T, C]` to z float32 `[B, L]` by the moving average of the encoder's weights."""
        return self.encoder_average(audio, training=False)

    @tf.function(autograph=False)
    def generator_step(self, seed, clips, classes, fixed, z_prior, share):
        """One update of generator and encoder.

        Args:
            seed: int32 `[2]`, all randomness of this step.
            clips: float32 `[B, T, C]`, real.
            classes: int32 `[2 B]`, of the clips and of what `z_prior` stands for.
            fixed: float32 `[B, L]`, the clips' fixed latents.
            z_prior: float32 `[B, L]`, draws from the prior.
            share: float32 scalar in [0, 1], of their weights that all losses but the spectral one have.

        Returns:
            The losses, and the audio `[2 B, T, C]`: reconstructions, then samples of the prior.
        """
        posterior_seed, clip_seed, audio_seed, slope_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
        disguise, b = augmentation(seed), clips.shape[0]
        with tf.GradientTape() as posterior:
            u = self._encode(clips + AUDIO_NOISE * tf.random.stateless_normal(clips.shape, clip_seed), training=True)
            noise = POSTERIOR_NOISE * tf.random.stateless_normal(u.shape, posterior_seed)
            taught = tf.range(b)[:, tf.newaxis] % TAUGHT_EVERY == 0
            z_clips = squash(tf.where(taught, unsquash(fixed), u) + noise)
            errors = {"fixed_latents": tf.reduce_mean(tf.square(squash(u) - fixed))}
            encoder_loss = LATENT_ERRORS["fixed_latents"] * errors["fixed_latents"]
            if self.num_classes:
                errors["class_code"] = _class_loss([self._code_logits(u)], classes[:b])
                encoder_loss += ENCODER_CLASS * errors["class_code"]
        with tf.GradientTape() as generation:
            z = tf.concat([z_clips, z_prior], 0)
            generation.watch(z)
            audio = self.generator(z)
        targets = self._critics_on(disguise(clips), classes[:b])[2]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(audio)
            losses = {
                "spectral": spectral_loss(audio[:b], clips, self.sample_rate),
                "level": level_loss(audio, tf.concat([clips, clips], 0)),
                "similarity": similarity(audio),
            }
            heard = audio[b:] + AUDIO_NOISE * tf.random.stateless_normal(clips.shape, audio_seed)
            losses["round_trip"] = tf.reduce_mean(tf.square(self.encoder(heard, training=True) - z_prior))
            criticised, activations = disguise(audio), {}
            certainty = self._certainty(z_prior)
            for name, half, weights in (("adversarial", slice(b), 1.0), ("prior", slice(b, None), certainty)):
                scores, logits, activations[name] = self._critics_on(criticised[half], classes[half])
                errors[f"{name}_class"] = _class_loss(logits, classes[half], weights)
                losses[name] = CLASSIFICATION * errors[f"{name}_class"] - _mean_score(scores)
            losses["features"] = feature_loss(activations["adversarial"], targets)
        upstream = tf.zeros_like(audio)
        for name, loss in losses.items():
            fade = tf.minimum(1.0, loss / AIMS[name]) if name in AIMS else 1.0
            if name == "round_trip":
                gradient, *round_trip = tape.gradient(loss, [audio, *self.encoder_variables])
            else:
                gradient = tape.gradient(loss, audio)
            weight = WEIGHTS[name] * (1.0 if name == "spectral" else share)
            upstream += weight * fade * self._unit(name, gradient)
        del tape
        *gradients, at_z = generation.gradient(audio, [*self.generator_variables, z], output_gradients=upstream)
        gradients = tf.cond(
            seed[1] % EVENNESS_EVERY == 0,
            lambda: self._with_evenness(gradients, slope_seed, z_prior, share),
            lambda: gradients,
        )
        self.apply_to_generator(gradients)

        at_z = ENCODER_RECONSTRUCTION * self._unit("reconstruction", at_z[:b])
        gradients = posterior.gradient(
            [z_clips, encoder_loss], self.encoder_variables, output_gradients=[at_z, tf.ones([])]
        )
        gradients = [g + LATENT_ERRORS["round_trip"] * r for g, r in zip(gradients, round_trip, strict=True)]
        self.encoder_optimizer.apply_gradients(zip(gradients, self.encoder_variables, strict=True))
        self._average_encoder()
        return losses | errors | {"participation": tf.identity(self.participation)}, audio

    @tf.function(autograph=False)
    def decoder_step(self, clips, fixed):
        """One update of the generator alone, as a decoder of the fixed latents `[B, L]` of clips `[B, T, C]`, which the
        encoder's linear map is to find again."""
        with tf.GradientTape() as generation:
            audio = self.generator(fixed)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(audio)
            losses = {
                "spectral": spectral_loss(audio, clips, self.sample_rate),
                "linear_round_trip": tf.reduce_mean(tf.square(squash(self._linear_map(audio)) - fixed)),
            }
        spectral, linear = (self._unit(name, tape.gradient(loss, audio)) for name, loss in losses.items())
        upstream = spectral + LINEAR_ROUND_TRIP * linear
        self.apply_to_generator(generation.gradient(audio, self.generator_variables, output_gradients=upstream))
        return losses

    @tf.function(autograph=False)
    def critic_step(self, seed, clips, audio, classes, penalized: bool) -> dict[str, tf.Tensor]:
        """One update of the critics on `generator_step`'s clips, audio and classes; with R1 where `penalized`."""
        disguise, b = augmentation(seed), clips.shape[0]
        real, fake = (self._images(disguise(x)) for x in (clips, audio))
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(real)
                images = [tf.concat(pair, axis=0) for pair in zip(real, fake, strict=True)]
                scores, logits, _ = self._criticise(images, tf.concat([classes[:b], classes], axis=0))
                total = tf.add_n([tf.reduce_sum(tf.reduce_mean(s[:b], axis=[1, 2])) for s in scores])
            hinge = tf.add_n(
                [tf.reduce_mean(tf.nn.relu(1 - s[:b])) + tf.reduce_mean(tf.nn.relu(1 + s[b:])) for s in scores]
            ) / len(scores)
            class_loss = _class_loss([x[:b] for x in logits], classes[:b])
            loss = hinge + class_loss
            if penalized:
                slopes = inner.gradient(total, real)
                squares = [tf.reduce_mean(tf.reduce_sum(tf.square(g), axis=[1, 2, 3])) for g in slopes]
                loss += PENALTY_EVERY * R1 / 2 * tf.add_n(squares)
        gradients = tape.gradient(loss, self.critic_variables)
        self.critic_optimizer.apply_gradients(zip(gradients, self.critic_variables, strict=True))
        return {"hinge": hinge, "critics_class_real": class_loss}

    def _with_evenness(self, gradients, seed, z, share):
        """The generator's gradients and that of -log `participation_ratio`, which is brought to its share."""
        directions = tf.random.stateless_normal([SLOPE_LATENTS, SLOPE_DIRECTIONS, self.latent_dim], seed)
        with tf.GradientTape() as tape:
            ratio = participation_ratio(self.generator.jacobian_product(z[:SLOPE_LATENTS], directions)[1])
            loss = -tf.math.log(ratio)
        self.participation.assign(ratio)
        even = tape.gradient(loss, self.generator_variables, unconnected_gradients="zero")
        lacking = tf.clip_by_value(tf.math.log(AIMS["participation"]) + loss, 0.0, 1.0)
        scale = share * EVENNESS * lacking * tf.linalg.global_norm(gradients) / (tf.linalg.global_norm(even) + 1e-12)
        return [g + scale * e for g, e in zip(gradients, even, strict=True)]

    def _unit(self, name, gradient):
        """A gradient divided by the running mean of its norm."""
        norm, running = tf.norm(gradient), self.norms[name]
        running.assign(tf.where(running > 0, NORM_DECAY * running + (1 - NORM_DECAY) * norm, norm))
        return gradient / (running + 1e-12)

    def _set_rates(self, step):
        rate = self.learning_rate * (min(1.0, (self.steps - step) / (COOLING * self.steps)) if self.steps else 1.0)
        shares = (1.0, 1.0, 1.0) if step < DECODER_STEPS else JOINT_RATES
        optimizers = (self.generator_optimizer, self.encoder_optimizer, self.critic_optimizer)
        for optimizer, share in zip(optimizers, shares, strict=True):
            optimizer.learning_rate.assign(share * rate)

    @tf.function(autograph=False)
    def _varied(self, clips, fixed, seed):
        """Clips as they might have been, earlier or later, louder or softer, and their latents, which move as the
        linear map says."""
        varied = augment(
            clips,
            seed,
            sample_rate=self.sample_rate,
            max_shift=LARGEST_SHIFT,
            gain_db=GAIN_DB,
            snr_db=(60.0, 60.0),
            max_time_mask=0.0,
            max_band_mask=0.0,
        )
        moved = self._linear_map(varied) - self._linear_map(clips)
        return varied, squash(unsquash(fixed) + moved)

    def _average_encoder(self):
        steps = tf.cast(self.encoder_optimizer.iterations, tf.float32)
        decay = tf.minimum(self.ema, steps / (steps + 10))
        for average, variable in zip(all_variables(self.encoder_average), all_variables(self.encoder), strict=True):
            if variable.dtype == tf.float32:
                average.assign(decay * average + (1 - decay) * variable)

    def _code_logits(self, u):
        """The block sums that `class_code` compares, divided by their deviation: `[B, num_classes]`."""
        width = self.latent_dim // self.num_classes
        blocks = tf.reshape(u[:, : self.num_classes * width], [-1, self.num_classes, width])
        return tf.reduce_sum(blocks, axis=2) / width**0.5

    def _certainty(self, z_prior):
        """How much a class is asked for, `[B]` in [0, 1]: less where a sample's code is close to another class's, so
        that one class may turn into another gradually."""
        if not self.num_classes:
            return tf.ones([z_prior.shape[0]])
        best = tf.math.top_k(self._code_logits(unsquash(z_prior)), 2).values
        return tf.minimum(1.0, (best[:, 0] - best[:, 1]) / CERTAIN)

    @staticmethod
    def _images(audio):
        return [critic_image(audio, *front_end) for front_end in FRONT_ENDS]

    def _critics_on(self, audio, classes):
        return self._criticise(self._images(audio), classes)

    def _criticise(self, images, classes):
        """Scores, class logits and activations, each a list over the critics (activations: over their layers too)."""
        outputs = [c(i, classes) for c, i in zip(self.critics, images, strict=True)]
        activations = [activation for _, _, layers_of in outputs for activation in layers_of]
        return [score for score, _, _ in outputs], [logits for _, logits, _ in outputs], activations


def log_mel_features(dataset: Dataset) -> np.ndarray:
    """Flattened `log_mel` of every clip, float32 `[N, T / 256 * 64 * C]`."""

    @tf.function(autograph=False, reduce_retracing=True)
    def features(audio):
        return tf.reshape(log_mel(audio, dataset.sample_rate), [tf.shape(audio)[0], -1])

    return in_batches(lambda rows: features(dataset.to_float(rows)), np.arange(len(dataset)), 64)


def spectral_loss(audio: tf.Tensor, clips: tf.Tensor, sample_rate: int) -> tf.Tensor:
    """L1 of log-spectrograms of three windows and of log-mel, and of log-mel bands sorted in time; a scalar.

    A plain L1 answers an uncertain moment with its median, which is quiet and smeared; sorted in time, each band must
    still have its loud moments.

    Args:
        audio: float32 `[B, T, C]`, generated.
        clips: float32 `[B, T, C]`, real.
    """
    losses = []
    for frame_length in (256, 1024, 512):  # of the last also log-mel
        a, b = (magnitude(stft(x, frame_length, max(128, frame_length // 4))) for x in (audio, clips))
        losses.append(tf.reduce_mean(tf.abs(tf.math.log(a + 1e-2) - tf.math.log(b + 1e-2))))
    mel = mel_filters(40, 512, sample_rate)
    a, b = (tf.math.log(tf.einsum("btfc,fm->bmct", x, mel) + 1e-2) for x in (a, b))
    losses.append(tf.reduce_mean(tf.abs(a - b)))
    losses.append(tf.reduce_mean(tf.abs(tf.sort(a, axis=-1) - tf.sort(b, axis=-1))))
    return tf.add_n(losses)


def feature_loss(activations: Sequence[tf.Tensor], targets: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mean over layers of mean |activation - target| / mean |target| (Larsen et al., 2016): float32 scalar."""
    distances = [
        tf.reduce_mean(tf.abs(activation - target)) / (tf.reduce_mean(tf.abs(target)) + 1e-6)
        for activation, target in zip(activations, targets, strict=True)
    ]
    return tf.add_n(distances) / len(distances)


def level_loss(audio: tf.Tensor, clips: tf.Tensor) -> tf.Tensor:
    """Distance between two batches' distributions of level, in nepers: mean |sorted - sorted| of log RMS.

    Clips need not correspond. The one-dimensional Wasserstein distance of the two empirical distributions.
    """
    a, b = (tf.sort(0.5 * tf.math.log(tf.reduce_mean(tf.square(x), axis=[1, 2]) + 1e-7)) for x in (audio, clips))
    return tf.reduce_mean(tf.abs(a - b))


def similarity(audio: tf.Tensor) -> tf.Tensor:
    """Mean squared cosine between the waveforms of different clips `[B, T, C]`; float32 scalar in [0, 1]."""
    b = audio.shape[0]
    rows = tf.reshape(audio, [b, -1])
    rows = rows / (tf.norm(rows, axis=1, keepdims=True) + 1e-6)
    cosines = tf.linalg.set_diag(tf.matmul(rows, rows, transpose_b=True), tf.zeros([b]))
    return tf.reduce_sum(tf.square(cosines)) / (b * (b - 1))


def participation_ratio(tangents: tf.Tensor) -> tf.Tensor:
    """Estimate of (sum s^2)^2 / sum s^4 over the singular values s of dG/dz: how many directions matter.

    With A = J^T J and u, v independent standard normal directions, E[u^T A u] = tr A and E[(u^T A v)^2] = tr A^2.

    Args:
        tangents: float32 `[B, K, T, C]`: dG/dz at B latents, along K standard normal directions each.

    Returns:
        float32 scalar, the latents' geometric mean; between 1 and the latent dimension but for the estimate's noise.
    """
    b, k = tangents.shape[:2]
    rows = tf.reshape(tangents, [b, k, -1])
    products = tf.matmul(rows, rows, transpose_b=True)
    diagonal = tf.linalg.diag_part(products)
    squares = tf.reduce_sum(tf.square(products), axis=[1, 2]) - tf.reduce_sum(tf.square(diagonal), axis=1)
    ratios = tf.square(tf.reduce_mean(diagonal, axis=1)) / (squares / (k * (k - 1)) + 1e-12)
    return tf.exp(tf.reduce_mean(tf.math.log(tf.maximum(ratios, 1e-6))))  # of a silent generator it is 0


def all_trainable(network: keras.Model) -> list[tf.Variable]:
    """What an optimizer moves, as TensorFlow's variables."""
    return [variable.value for variable in network.trainable_variables]


def _mean_score(scores):
    return tf.add_n([tf.reduce_mean(score) for score in scores]) / len(scores)


def _class_loss(logits, classes, weights=1.0):
    """Mean cross-entropy over the logits `[B, K]` of each critic and over the clips; 0 where there are no classes."""
    if not logits[0].shape[1]:
        return tf.constant(0.0)
    losses = tf.add_n([tf.nn.sparse_softmax_cross_entropy_with_logits(classes, x) for x in logits]) / len(logits)
    return tf.reduce_mean(losses * weights)
