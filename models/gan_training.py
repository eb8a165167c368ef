"""One training step of a WaveGAN generator, by either of two recipes.

`GuidedTrainer` is the default on small machines: the generator begins as a decoder of given latents, then critics on
log-spectrograms take over. `WassersteinTrainer` is WaveGAN's published recipe. Both are functions of the step's seed
and batch alone, so that a resumed run repeats an uninterrupted one.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from models.critic import Guide, PatchCritic, WaveformCritic, critic_image
from models.wavegan import Architecture, WaveGANGenerator, initial_weights
from utils.spectrograms import magnitude, stft

NORM_DECAY = 0.99
ISOTROPY_DECAY = 0.9


class TrainerBase(tf.Module):
    """Generator weights, their moving average and the generator's optimiser.

    Args:
        architecture: of the generator.
        start: the weights to begin with, TF1 name to float32 array.
        precision: of the generator's convolutions, as in `WaveGANGenerator`.
        learning_rate: of the generator's Adam.
        betas: of the generator's Adam.
        ema: decay of the moving average of the weights.
        trained: names of the weights that the optimiser changes. Defaults to all.
    """

    def __init__(
        self,
        architecture: Architecture,
        start: Mapping[str, np.ndarray],
        precision: str,
        learning_rate,
        betas: tuple[float, float],
        ema: float,
        trained: Sequence[str] | None = None,
    ):
        super().__init__()
        self.variables_by_name = {name: tf.Variable(value, name=name) for name, value in start.items()}
        self.averages = {name: tf.Variable(value, name=f"{name}/ema") for name, value in start.items()}
        self.generator = WaveGANGenerator(architecture, self.variables_by_name, precision, trainable=True)
        self.generator_variables = [self.variables_by_name[name] for name in trained or start]
        self.generator_optimizer = keras.optimizers.Adam(learning_rate, *betas, name="generator_adam")
        self.generator_optimizer.build(self.generator_variables)
        self.ema = ema

    def averaged_weights(self) -> dict[str, np.ndarray]:
        """The moving average of the generator's weights by TF1 name: what is exported and listened to."""
        return {name: value.numpy() for name, value in self.averages.items()}

    def _apply_to_generator(self, gradients):
        self.generator_optimizer.apply_gradients(zip(gradients, self.generator_variables, strict=True))
        # the average starts as a plain mean, so that early exports are not the random start
        steps = tf.cast(self.generator_optimizer.iterations, tf.float32)
        decay = tf.minimum(self.ema, steps / (steps + 10))
        for name, average in self.averages.items():
            average.assign(decay * average + (1 - decay) * self.variables_by_name[name])


def _state(*critics: keras.Model) -> list[tf.Variable]:
    """All variables of the critics, as `tf.train.Checkpoint` finds them (it does not look into lists of layers)."""
    return [variable.value for critic in critics for variable in critic.variables]


@dataclasses.dataclass(frozen=True)
class GuidedOptions:
    """Weights and rates of the guided recipe.

    The audio losses are balanced as in EnCodec (Defossez et al., 2022, section 3.4): each one's gradient at the
    waveform is divided by its running norm, then weighted.

    Attributes:
        adversarial: weight of the critics' loss (hinge).
        classification: weight of the critics' class loss beside their score.
        paired: weight of the distance between a clip and what its paired latent gives.
        features: weight of the same distance in the critics' activations (Larsen et al., 2016).
        level: weight of the distance between generated and real levels.
        isotropy: norm of the isotropy gradient, which raises the participation ratio of dG/dz, relative to the norm
            of all others (0: off).
        participation: the ratio aimed at; nearer to it than a factor e the gradient fades.
        isotropy_every: steps between two isotropy gradients.
        isotropy_latents: latents at which one isotropy gradient is taken.
        directions: latent directions at each of them.
        r1: weight of the gradient penalty on real spectrograms (Mescheder et al., 2018).
        r1_every: critic updates between two gradient penalties.
        critic_every: generator steps between two critic updates.
    """

    adversarial: float = 1.0
    classification: float = 0.7
    paired: float = 0.3
    features: float = 0.3
    level: float = 0.1
    isotropy: float = 0.7
    participation: float = 30.0
    isotropy_every: int = 2
    isotropy_latents: int = 4
    directions: int = 8
    r1: float = 2.0
    r1_every: int = 8
    critic_every: int = 2


class GuidedTrainer(TrainerBase):
    """Decoder warm start, then spectrogram critics with a class head.

    Args:
        architecture: of the generator.
        num_classes: 0 for unlabelled sound.
        options: weights of the losses.
        generator_rate: learning rate, a number or a Keras schedule.
        critic_rate: learning rate of the critics.
        seed: of every initial weight.
        precision: of all convolutions.
        ema: decay of the moving average of the generator's weights.
        start: weights to begin with, TF1 name to float32 array. Defaults to random ones.
        guide: a trained classifier: critics look at its activations too, and its answer joins their class losses.
    """

    SPECTRA = ((256, 128, (4, 4)), (512, 128, (4, 8)))
    ON_SPECTRA = ((64, 1), (96, 2), (128, 2), (128, 1))
    ON_GUIDE = ((128, 1),)

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int,
        options: GuidedOptions,
        generator_rate,
        critic_rate,
        seed: int,
        precision: str = "float32",
        ema: float = 0.999,
        start: Mapping[str, np.ndarray] | None = None,
        guide: Guide | None = None,
    ):
        keras.utils.set_random_seed(seed)
        start = start or initial_weights(architecture, seed)
        super().__init__(architecture, start, precision, generator_rate, (0.5, 0.99), ema)
        self.options = options
        self.guide = guide
        images, _ = self._look(tf.zeros([1, architecture.num_samples, architecture.num_channels]))
        widths = [self.ON_SPECTRA] * len(self.SPECTRA) + [self.ON_GUIDE] * (len(images) - len(self.SPECTRA))
        self.critics = [PatchCritic(num_classes, width, dtype=precision) for width in widths]
        for critic, image in zip(self.critics, images, strict=True):
            critic(image, tf.zeros([1], tf.int32))
        self.critic_variables = [v for critic in self.critics for v in critic.trainable_variables]
        self.critic_optimizer = keras.optimizers.Adam(critic_rate, 0.5, 0.99, name="critic_adam")
        self.critic_optimizer.build(self.critic_variables)
        self.critic_state = _state(*self.critics)
        # Of few latents and directions, one isotropy gradient is mostly noise; what is applied is a running mean.
        self.isotropy_gradient = [tf.Variable(tf.zeros_like(v), name="isotropy") for v in self.generator_variables]
        self.norms = {
            name: tf.Variable(0.0, name=f"norm_{name}") for name in ("adversarial", "paired", "features", "level")
        }

    @tf.function(autograph=False)
    def warm_step(self, seed, clips, latents, isotropy: bool):
        """One decoder update: paired and level losses only. Arguments as in `step`."""
        with tf.GradientTape() as tape:
            audio = self.generator(latents)
        with tf.GradientTape(persistent=True) as losses:
            losses.watch(audio)
            paired = paired_loss(audio, clips)
            level = level_loss(audio, clips)
        terms = {"paired": (paired, 1.0), "level": (level, self.options.level)}
        return self._update_generator(tape, losses, audio, terms, latents, seed, isotropy)

    @tf.function(autograph=False)
    def critic_step(self, seed, clips, classes, latents, code, r1: bool):
        """One update of the critics alone, which the generator's first need. Arguments as in `step`."""
        augment = augmentation(seed)
        return self._update_critics(augment(clips), classes, augment(self.generator(latents)), code, r1)

    @tf.function(autograph=False)
    def step(self, seed, progress, clips, classes, latents, code, targets, critic: bool, r1: bool, isotropy: bool):
        """One update of the generator and, where `critic`, of the critics on the same batch.

        Args:
            seed: int32 `[2]`, all randomness of this step.
            progress: float32 scalar in [0, 1], of the adversarial stage: the weights of what is paired fall to a
                fifth over it.
            clips: float32 `[B, T, C]`, real.
            classes: int32 `[B]`, theirs.
            latents: float32 `[B, L]`.
            code: int32 `[B]`, the classes that the latents stand for.
            targets: float32 `[P, T, C]`, what the first P latents should sound like, or None.
            critic: whether the critics are updated too.
            r1: whether that update carries the gradient penalty.
            isotropy: whether the generator's update carries the isotropy gradient.

        Returns:
            Name to scalar: the losses.
        """
        opt = self.options
        augment = augmentation(seed)
        paired = 0 if targets is None else targets.shape[0]
        if paired:
            aims = self._criticise(self._look(augment(targets))[0], code[:paired])[2]
        with tf.GradientTape() as tape:
            audio = self.generator(latents)
        with tf.GradientTape(persistent=True) as losses:
            losses.watch(audio)
            images, answer = self._look(augment(audio))
            scores, logits, activations = self._criticise(images, code)
            class_loss = _class_loss(logits, code)
            if answer:
                class_loss = (class_loss + _class_loss(answer, code)) / 2
            adversarial = -tf.add_n([tf.reduce_mean(s) for s in scores]) / len(scores)
            total = adversarial + opt.classification * class_loss
            level = level_loss(audio, clips)
            if paired:
                features = feature_loss([a[:paired] for a in activations], aims)
                spectral = paired_loss(audio[:paired], targets)
        terms = {"adversarial": (total, opt.adversarial), "level": (level, opt.level)}
        if paired:
            fade = 1 - 0.8 * progress
            terms |= {"paired": (spectral, opt.paired * fade), "features": (features, opt.features * fade)}
        report = self._update_generator(tape, losses, audio, terms, latents, seed, isotropy)
        report |= {"class_fake": class_loss}
        if critic:
            report |= self._update_critics(augment(clips), classes, augment(audio), code, r1)
        return report

    def _update_generator(self, tape, losses, audio, terms, z, seed, isotropy):
        upstream, report = tf.zeros_like(audio), {}
        for name, (loss, weight) in terms.items():
            gradient = losses.gradient(loss, audio)
            norm, running = tf.norm(gradient), self.norms[name]
            running.assign(tf.where(running > 0, NORM_DECAY * running + (1 - NORM_DECAY) * norm, norm))
            upstream += weight / (running + 1e-12) * gradient
            report[name] = loss
        gradients = tape.gradient(audio, self.generator_variables, output_gradients=upstream)
        if isotropy:
            gradients, report["participation"] = self._add_isotropy(gradients, z, seed)
        self._apply_to_generator(gradients)
        return report

    def _add_isotropy(self, gradients, z, seed):
        k = self.options.directions
        z = z[-self.options.isotropy_latents :]
        directions = tf.random.stateless_normal([z.shape[0], k, z.shape[1]], seed)
        with tf.GradientTape() as tape:
            ratios = participation_ratio(self.generator.jacobian_product(z, directions)[1])
            loss = -tf.reduce_mean(tf.math.log(ratios))
        fresh = tape.gradient(loss, self.generator_variables, unconnected_gradients="zero")
        for mean, gradient in zip(self.isotropy_gradient, fresh, strict=True):
            mean.assign(ISOTROPY_DECAY * mean + (1 - ISOTROPY_DECAY) * gradient)
        extra = self.isotropy_gradient
        lacking = tf.clip_by_value(tf.math.log(self.options.participation) + loss, 0.0, 1.0)
        share = self.options.isotropy * lacking
        scale = share * tf.linalg.global_norm(gradients) / (tf.linalg.global_norm(extra) + 1e-12)
        return [g + scale * e for g, e in zip(gradients, extra, strict=True)], tf.exp(-loss)

    def _update_critics(self, clips, classes, audio, code, r1):
        real, fake = self._look(clips)[0], self._look(tf.stop_gradient(audio))[0]
        with tf.GradientTape() as tape:
            penalty = 0.0
            with tf.GradientTape() as inner:
                inner.watch(real)
                images = [tf.concat(pair, axis=0) for pair in zip(real, fake, strict=True)]
                scores, logits, _ = self._criticise(images, tf.concat([classes, code], axis=0), training=True)
                n = tf.shape(clips)[0]
                real_total = tf.add_n([tf.reduce_sum(tf.reduce_mean(s[:n], axis=[1, 2])) for s in scores])
            if r1:
                slopes = inner.gradient(real_total, real)
                squares = [tf.reduce_mean(tf.reduce_sum(tf.square(g), axis=[1, 2, 3])) for g in slopes]
                penalty = self.options.r1 / 2 * tf.add_n(squares)
            hinge = tf.add_n(
                [tf.reduce_mean(tf.nn.relu(1 - s[:n])) + tf.reduce_mean(tf.nn.relu(1 + s[n:])) for s in scores]
            ) / len(scores)
            class_loss = _class_loss([logit[:n] for logit in logits], classes)
            loss = hinge + class_loss + penalty * self.options.r1_every
        gradients = tape.gradient(loss, self.critic_variables)
        self.critic_optimizer.apply_gradients(zip(gradients, self.critic_variables, strict=True))
        report = {"hinge": hinge, "class_real": class_loss}
        if r1:
            report["r1"] = penalty
        return report

    def _look(self, audio):
        """One image for each critic, and a list of the guide's logits, if there is one."""
        spectra = [critic_image(audio, *front_end) for front_end in self.SPECTRA]
        if self.guide is None:
            return spectra, []
        features, logits = self.guide(audio)
        return spectra + features, [logits]

    def _criticise(self, images, classes, training=False):
        """Scores, class logits and activations, each a list over the critics (activations: over their layers too)."""
        outputs = [c(i, classes, training=training) for c, i in zip(self.critics, images, strict=True)]
        activations = [activation for _, _, layers in outputs for activation in layers]
        return [score for score, _, _ in outputs], [logits for _, logits, _ in outputs], activations


def _class_loss(logits: Sequence[tf.Tensor], classes: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy over critics and clips; 0 where there are no classes."""
    if not logits[0].shape[1]:
        return tf.constant(0.0)
    losses = [tf.nn.sparse_softmax_cross_entropy_with_logits(classes, x) for x in logits]
    return tf.reduce_mean(tf.stack(losses))


def augmentation(seed):
    """One random shift and noise level for the step, applied alike to real and generated clips.

    It hides what gives real clips away but cannot be heard: exact digital zeros and where a clip was cut.
    """
    shift_seed, level_seed, noise_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
    shift = tf.random.stateless_uniform([], shift_seed, -1024, 1025, tf.int32)
    deviation = 10 ** tf.random.stateless_uniform([], level_seed, -3.7, -2.7)

    def augment(audio):
        padded = tf.pad(audio, [[0, 0], [1024, 1024], [0, 0]])
        shifted = tf.ensure_shape(padded[:, 1024 + shift : 1024 + shift + audio.shape[1]], audio.shape)
        return shifted + deviation * tf.random.stateless_normal(tf.shape(audio), noise_seed)

    return augment


def paired_loss(audio: tf.Tensor, clips: tf.Tensor) -> tf.Tensor:
    """L1 of log-spectrograms, and of log-mel bands sorted in time: the content of the first, the energy of the second.

    A plain L1 answers an uncertain moment with its median, which is quiet and smeared; sorted in time, each band must
    still have its loud moments.

    Args:
        audio: float32 `[B, T, C]`, generated.
        clips: float32 `[B, T, C]`, real.

    Returns:
        float32 scalar.
    """
    losses = []
    for frame_length in (256, 512):
        a, b = (magnitude(stft(x, frame_length, 128)) for x in (audio, clips))
        losses.append(tf.reduce_mean(tf.abs(tf.math.log(a + 1e-2) - tf.math.log(b + 1e-2))))
    mel = tf.signal.linear_to_mel_weight_matrix(40, 257, 16000, 60, 7600)
    a, b = (tf.sort(tf.math.log(tf.einsum("btfc,fm->bmct", x, mel) + 1e-2), axis=-1) for x in (a, b))
    losses.append(tf.reduce_mean(tf.abs(a - b)))
    return tf.add_n(losses)


def feature_loss(activations: Sequence[tf.Tensor], targets: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mean over layers of mean |activation - target| / mean |target|: float32 scalar."""
    distances = []
    for activation, target in zip(activations, targets, strict=True):
        activation, target = tf.cast(activation, tf.float32), tf.cast(target, tf.float32)
        distances.append(tf.reduce_mean(tf.abs(activation - target)) / (tf.reduce_mean(tf.abs(target)) + 1e-6))
    return tf.add_n(distances) / len(distances)


def level_loss(audio: tf.Tensor, clips: tf.Tensor) -> tf.Tensor:
    """Distance between two batches' distributions of level, in nepers: mean |sorted - sorted| of log RMS.

    Clips need not correspond. The one-dimensional Wasserstein distance of the two empirical distributions.
    """
    a, b = (tf.sort(0.5 * tf.math.log(tf.reduce_mean(tf.square(x), axis=[1, 2]) + 1e-7)) for x in (audio, clips))
    return tf.reduce_mean(tf.abs(a - b))


def participation_ratio(tangents: tf.Tensor) -> tf.Tensor:
    """Estimate of (sum s^2)^2 / sum s^4 over the singular values s of dG/dz: how many directions matter.

    With A = J^T J and u, v independent standard normal directions, E[u^T A u] = tr A and E[(u^T A v)^2] = tr A^2.

    Args:
        tangents: float32 `[B, K, T, C]`: dG/dz at B latents, along K standard normal directions each.

    Returns:
        float32 `[B]`, between 1 and the latent dimension but for the estimate's noise.
    """
    b, k = tangents.shape[:2]
    rows = tf.reshape(tangents, [b, k, -1])
    products = tf.matmul(rows, rows, transpose_b=True)
    diagonal = tf.linalg.diag_part(products)
    squares = tf.reduce_sum(tf.square(products), axis=[1, 2]) - tf.reduce_sum(tf.square(diagonal), axis=1)
    return tf.square(tf.reduce_mean(diagonal, axis=1)) / (squares / (k * (k - 1)))


class WassersteinTrainer(TrainerBase):
    """WaveGAN's published recipe: WGAN-GP (Gulrajani et al., 2017) with a waveform critic and phase shuffle.

    Args:
        architecture: of the generator.
        seed: of every initial weight.
        learning_rate: of both Adams (published: 1e-4).
        precision: of the generator's convolutions.
        phase_shuffle: as in `WaveformCritic`.
        penalty: weight of the gradient penalty.
        ema: decay of the moving average of the generator's weights.
        start: weights to begin with, TF1 name to float32 array. Defaults to random ones.
    """

    def __init__(
        self,
        architecture: Architecture,
        seed: int,
        learning_rate=1e-4,
        precision: str = "float32",
        phase_shuffle: int = 2,
        penalty: float = 10.0,
        ema: float = 0.999,
        start: Mapping[str, np.ndarray] | None = None,
    ):
        keras.utils.set_random_seed(seed)
        start = start or initial_weights(architecture, seed)
        super().__init__(architecture, start, precision, learning_rate, (0.5, 0.9), ema)
        self.penalty = penalty
        self.critic = WaveformCritic(architecture.num_samples, architecture.dim, phase_shuffle)
        self.critic(tf.zeros([1, architecture.num_samples, architecture.num_channels]), tf.zeros([2], tf.int32))
        self.critic_optimizer = keras.optimizers.Adam(learning_rate, 0.5, 0.9, name="critic_adam")
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.critic_state = _state(self.critic)

    @tf.function(autograph=False)
    def critic_step(self, seed, clips, latents):
        """One critic update. Clips float32 `[B, T, C]`, latents `[B, L]`, seed int32 `[2]`; returns the losses."""
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
        audio = self.generator(latents)
        mix = tf.random.stateless_uniform([tf.shape(clips)[0], 1, 1], seeds[0])
        between = clips + mix * (audio - clips)
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(between)
                scores = self.critic(between, seeds[1])
            slopes = tf.sqrt(tf.reduce_sum(tf.square(inner.gradient(scores, between)), axis=[1, 2]) + 1e-12)
            distance = tf.reduce_mean(self.critic(clips, seeds[2])) - tf.reduce_mean(self.critic(audio, seeds[3]))
            gradient_penalty = tf.reduce_mean(tf.square(slopes - 1))
            loss = self.penalty * gradient_penalty - distance
        gradients = tape.gradient(loss, self.critic.trainable_variables)
        self.critic_optimizer.apply_gradients(zip(gradients, self.critic.trainable_variables, strict=True))
        return {"wasserstein": distance, "gradient_penalty": gradient_penalty}

    @tf.function(autograph=False)
    def generator_step(self, seed, latents):
        """One generator update. Latents float32 `[B, L]`, seed int32 `[2]`; returns the losses."""
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.critic(self.generator(latents), seed))
        self._apply_to_generator(tape.gradient(loss, self.generator_variables))
        return {"adversarial": loss}
