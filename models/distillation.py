"""Recipe `flow`: a WaveGAN generator taught by a flow and a vocoder, finished by critics.

Its stages, each a stretch of the training's steps (`STAGES`):
    flow      the invertible map T from the prior to the clips' code (`models.flow`).
    vocoder   the generator's later half, with an adaptor, from clips' features to clips; by spectra.
    front     the generator's first half by regression: to the adaptor's output at T(z).
    joined    all weights: on clips at T^-1 of their code, and on draws z towards the vocoder's audio of T(z).
    finish    the same with critics of clips and draws, conditional on the class.
No classifier takes part in any loss. A classifier of the recipe's own decides which weights are exported.
"""

import functools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from models.critics import Critics
from models.features import BANDS, FRAMES, VARIANTS, Clips, PrincipalCode, features_of
from models.flow import Flow
from models.gan_training import PRIOR, Batches, GeneratorTrainer
from models.selection import train_selection_classifier
from models.vocoder import Adaptor, SpeechLosses, without_hum
from models.wavegan import Architecture, WaveGANGenerator
from utils.audio.class_code import class_code, class_code_of_normal
from utils.audio.datasets import Dataset, batch_indices
from utils.errors import UserError
from utils.evaluation.generator_statistics import hum, level_statistics
from utils.latents import unsquash
from utils.metrics import inception_score
from utils.runs.batches import in_batches
from utils.runs.files import atomic_path

STAGES = {"flow": 150, "vocoder": 900, "front": 1450, "joined": 6000}  # steps; then finish
VOCODER_TERMS = ("spectral", "log_mel", "voice", "level", "hum", "similarity")
FRONT_UPDATES = 4  # a step
DENSE_SCALE = 0.2  # norm of the dense layer's directions at first
FRONT_CODE = 2.0  # weight of the code's error beside the hidden layer's
READOUT_CLIPS = 500  # by which the code is read from the hidden layer
VOCODER_BATCH, FRONT_BATCH = 1.5, 6  # of --batch_size
VOCODER_RATE, FRONT_RATE, JOINED_RATE = 2.5, 5.0, 2.0  # of --learning_rate
CRITICS_EVERY = 2  # steps to an update of the critics
CRITICS_WARM_UP = 100  # steps of a stage in which the critics learn alone
CRITICS_WEIGHT = 0.6  # of the critics' gradient, whose terms have norm 1 each
LEAK = 0.02  # of the ReLUs backward: Adam's first steps silence channels for good without it
PERIODIC = 0.5  # autocorrelation from which a frame counts as voiced
MEASURED = 500  # clips, and samples, of `measures`


class FlowTrainer(GeneratorTrainer):
    """All networks of the recipe, and their updates.

    Args:
        architecture: of the generator.
        dataset: clips to learn from, with labels or without.
        held_out: clips to choose by; None: nothing is measured on clips.
        seed: of all weights and draws.
        learning_rate: of Adam, to which each stage has its own ratio.
        precision: of the generator's convolutions.
        folder: of the run, where the features are kept.
        cache_dir: where pitch is kept.
        quiet: no progress bars.

    Raises:
        UserError: for fewer clips than `latent_dim`, a class without clips, or fewer entries in z than classes.
    """

    def __init__(
        self,
        architecture: Architecture,
        dataset: Dataset,
        held_out: Dataset | None,
        *,
        seed: int,
        learning_rate: float,
        precision: str,
        folder: Path,
        cache_dir: Path | None = None,
        quiet: bool = False,
    ):
        _require(architecture, dataset)
        keras.utils.set_random_seed(seed)
        super().__init__(architecture, seed, learning_rate, (0.5, 0.99), precision, 0.998, LEAK)
        self.learning_rate = learning_rate
        self.seed, self.latent_dim, self.num_classes = seed, architecture.latent_dim, max(1, len(dataset.class_names))
        self.clips = Clips(dataset, seed, cache_dir, quiet=quiet)
        self._read_codes(folder / "codes.npz", quiet)
        self.labels = np.int32(self.clips.labels)
        self.held_out = held_out and Clips(held_out, None, cache_dir, self.clips.absent, quiet=quiet)
        self.classifier = None
        if self.num_classes > 1:
            self.classifier = self._read_classifier(folder / "selection.keras", quiet)
        updates = STAGES["flow"] * (len(dataset) // min(256, len(dataset)))
        labels = np.tile(self.labels, VARIANTS)
        self.flow = Flow(
            self.codes.reshape(-1, architecture.latent_dim),
            labels,
            self.num_classes,
            importance=np.square(self.code.deviation) / np.mean(np.square(self.code.deviation)),
            seed=seed,
            total=updates,
        )
        dense = self.variables_by_name["G/z_project/dense/kernel"]
        dense.assign(DENSE_SCALE * self.flow.directions(dense.shape[1], seed))
        channels = architecture.upsamplings[0].channels_out
        self.adaptor, self.adaptor_average = Adaptor(channels), Adaptor(channels)
        silence = tf.zeros([1, self.code.mean.shape[0]])
        self.adaptor(silence), self.adaptor_average(silence)
        self.adaptor_average.set_weights(self.adaptor.get_weights())
        self.network_state = [v.value for network in (self.adaptor, self.adaptor_average) for v in network.variables]
        self.teacher_by_name = {
            name: tf.Variable(value, name=f"{name}/teacher", trainable=False)
            for name, value in self.variables_by_name.items()
        }
        self.teacher = WaveGANGenerator(architecture, self.teacher_by_name, precision, trainable=True)
        front = ("G/z_project", "G/upconv_0")
        self.front_names = [name for name in self.variables_by_name if name.startswith(front)]
        self.back_names = [name for name in self.variables_by_name if not name.startswith(front)]
        self.adaptor_variables = [v.value for v in self.adaptor.trainable_variables]
        self.back_optimizer = keras.optimizers.Adam(VOCODER_RATE * learning_rate, 0.6, 0.99, name="back_adam")
        self.back_optimizer.build([self.variables_by_name[n] for n in self.back_names] + self.adaptor_variables)
        self.front_optimizer = keras.optimizers.Adam(FRONT_RATE * learning_rate, 0.9, 0.99, name="front_adam")
        self.front_optimizer.build([self.variables_by_name[n] for n in self.front_names])
        self.generator_optimizer.learning_rate.assign(JOINED_RATE * learning_rate)
        self.critics = Critics(architecture.num_samples, architecture.num_channels, self.num_classes)
        self.losses = SpeechLosses(self.clips.front_end, self.code)
        self.best = tf.Variable(-1.0, trainable=False, name="best_score")

    def train_step(self, batches: Batches, step: int) -> dict[str, tf.Tensor]:
        """One step of the stage that it belongs to; its losses."""
        stage, first = stage_of(step)
        if step == first:
            self._begin(stage)
        seed = tf.constant([self.seed, step])
        if stage == "flow":
            codes = self.codes[step % VARIANTS]
            return {"flow": self.flow.epoch(codes, self.labels, self.seed, step)}
        if stage == "front":
            rng, shape = np.random.default_rng([self.seed, step]), (FRONT_BATCH * batches.batch_size, self.latent_dim)
            draws = [tf.constant(PRIOR.draw(rng, shape).astype(np.float32)) for _ in range(FRONT_UPDATES)]
            share = 1 - (step - first) / STAGES["front"]
            self.front_optimizer.learning_rate.assign(FRONT_RATE * self.learning_rate * max(share, 0.02))
            losses = [self._front_step(z, self._fitted_readout) for z in draws]
            return tf.nest.map_structure(lambda *values: tf.reduce_mean(values), *losses)
        if stage == "vocoder":
            return self._vocoder_step(*self._real(batches, step, VOCODER_BATCH)[:2])
        with_critics = stage == "finish" and step - first >= CRITICS_WARM_UP
        clips, codes, labels = self._real(batches, step, 1)
        z = tf.constant(batches.latents(step))
        losses, audio, labels = self._joined_step(clips, codes, labels, z, seed, with_critics)
        if stage == "finish" and (step % CRITICS_EVERY == 0 or not with_critics):
            losses |= self._critics_step(clips, labels, audio, seed)
        return losses

    def clips_of(self, batches: Batches, step: int) -> list[str]:
        """The files that `train_step` takes."""
        if stage_of(step)[0] in ("flow", "front"):
            return []
        return batches.names(step)

    def decode(self, w: tf.Tensor) -> tf.Tensor:
        """The vocoder's audio `[B, T, C]` of codes `[B, L]`, by its averaged weights."""
        return self.teacher.from_hidden(self.adaptor_average(self.code.decode(w)))

    # ---- updates --------------------------------------------------------------------

    @tf.function(autograph=False)
    def _vocoder_step(self, clips, codes):
        """One update of adaptor and later half on clips `[B, T, C]` from their codes `[B, L]`."""
        variables = [self.variables_by_name[name] for name in self.back_names] + self.adaptor_variables
        features = self.code.decode(codes)
        with tf.GradientTape() as tape:
            audio = self.generator.from_hidden(self.adaptor(features))
        losses, upstream = self.losses.gradient(audio, clips, features, VOCODER_TERMS)
        gradients = tape.gradient(audio, variables, output_gradients=upstream)
        self._apply(self.back_optimizer, gradients, variables, self._back_averages(), 0.995)
        return losses | {"gradient": tf.linalg.global_norm(gradients)}

    @tf.function(autograph=False)
    def _front_step(self, z, readout):
        """One update of the first half on draws `[B, L]`, by the squared error of the hidden layer, as a share of its
        variance, and by that of the code which the layer's linear readout holds."""
        variables = [self.variables_by_name[name] for name in self.front_names]
        target = self.adaptor_average(self.code.decode(self.flow.forward(z)))
        positive = tf.nn.relu(target)
        with tf.GradientTape() as tape:
            hidden = self.generator.hidden(z)
            difference = tf.nn.relu(hidden) - positive
            scale = tf.reduce_mean(tf.math.reduce_variance(positive, axis=0))
            error = tf.reduce_mean(tf.square(difference)) / scale
            code = tf.reduce_mean(tf.square(self.code.log_mel_difference(tf.nn.conv1d(difference, readout, 1, "SAME"))))
            loss = error + 0.1 * tf.reduce_mean(tf.square(hidden - target)) / scale + FRONT_CODE * code
        gradients = tape.gradient(loss, variables)
        averages = [self.averages[name] for name in self.front_names]
        self._apply(self.front_optimizer, gradients, variables, averages, 0.995)
        return {"front": error, "front_code": code}

    @functools.cached_property
    def _fitted_readout(self):
        """The convolution of three taps `[3, channels, 64]` from the hidden layer to log-mel, by least squares."""
        features = self.code.decode(tf.constant(self.codes[0, :READOUT_CLIPS]))
        hidden = np.pad(tf.nn.relu(self.adaptor_average(features)).numpy(), [(0, 0), (1, 1), (0, 0)])
        rows = np.concatenate([hidden[:, k : k + FRAMES] for k in range(3)], axis=2).reshape(-1, 3 * hidden.shape[2])
        wanted = features[:, : FRAMES * BANDS].numpy().reshape(-1, BANDS)
        fit = Ridge(1e-2).fit(rows, wanted)
        return tf.constant(fit.coef_.T.reshape(3, hidden.shape[2], BANDS), tf.float32)

    @tf.function(autograph=False)
    def _joined_step(self, clips, codes, labels, z, seed, with_critics: bool):
        """One update of the generator on clips `[B, T, C]` at T^-1 of their codes and on draws z `[B, L]`."""
        z_clips, drawn = self.flow.inverse(codes, labels), self.flow.forward(z)
        targets = tf.concat([clips, without_hum(self.decode(drawn), seed)], axis=0)
        features = self.code.decode(tf.concat([codes, drawn], axis=0))
        with tf.GradientTape() as tape:
            audio = self.generator(tf.concat([z_clips, z], axis=0))
        losses, upstream = self.losses.gradient(audio, targets, features)
        classes = tf.concat([labels, self._classes(z)], axis=0)
        if with_critics:
            more, gradient = self.critics.gradient(audio, classes, clips, seed)
            losses, upstream = losses | more, upstream + CRITICS_WEIGHT * gradient
        gradients = tape.gradient(audio, self.generator_variables, output_gradients=upstream)
        self.apply_to_generator(gradients)
        return losses | {"gradient": tf.linalg.global_norm(gradients)}, audio, classes

    @tf.function(autograph=False)
    def _critics_step(self, clips, classes, audio, seed):
        """One update of the critics; audio may be of more rows than the clips, the first of the clips' own classes."""
        return self.critics.update(clips, classes[: clips.shape[0]], audio, classes, seed)

    def _apply(self, optimizer, gradients, variables, averages, ema):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        steps = tf.cast(optimizer.iterations, tf.float32)
        decay = tf.minimum(ema, steps / (steps + 10))
        for average, variable in zip(averages, variables, strict=True):
            average.assign(decay * average + (1 - decay) * variable)

    def _begin(self, stage):
        """What a stage starts from: the averages of the one before."""
        if stage == "front":
            for name in self.back_names:
                self.teacher_by_name[name].assign(self.averages[name])
        if stage == "joined":
            for name in self.back_names:
                self.averages[name].assign(self.teacher_by_name[name])
            for name, variable in self.variables_by_name.items():
                variable.assign(self.averages[name])

    def _back_averages(self):
        return [self.averages[name] for name in self.back_names] + [v.value for v in self.adaptor_average.variables]

    def _classes(self, z):
        return class_code_of_normal(unsquash(z), self.num_classes)

    # ---- data --------------------------------------------------------------------

    def _real(self, batches, step, ratio):
        """Audio, codes and labels of a step's clips, each in a variant of its own."""
        count = int(ratio * batches.batch_size)
        index = batch_indices(len(self.labels), count, step, self.seed)
        variant = np.random.default_rng([self.seed, step]).integers(0, VARIANTS, count)
        clips, codes = self.clips.audio(variant, index), self.codes[variant, index]
        return tf.constant(clips), tf.constant(codes), tf.constant(self.labels[index])

    def _read_codes(self, path, quiet):
        """The principal components and every clip's codes `[VARIANTS, N, L]`, read from `path`, or made and kept."""
        if not path.is_file():
            features, latent_dim = features_of(self.clips, VARIANTS), self.generator.architecture.latent_dim
            code = PrincipalCode.fit(features[: 2 * len(self.clips.dataset)], latent_dim, self.seed)
            codes = in_batches(code.encode, features, 1024).reshape(VARIANTS, -1, latent_dim)
            with atomic_path(path) as temporary:
                np.savez(temporary, mean=code.mean, components=code.components, deviation=code.deviation, codes=codes)
            if not quiet:
                facts = {"voiced frames": self.clips.voiced_share} | code.explained(features[: len(self.clips.dataset)])
                print("features: " + "  ".join(f"{name} {value:.3g}" for name, value in facts.items()))
        with np.load(path) as arrays:
            self.code = PrincipalCode(arrays["mean"], arrays["components"], arrays["deviation"])
            self.codes = arrays["codes"]

    def _read_classifier(self, path, quiet):
        if not path.is_file():
            network = train_selection_classifier(self.clips, self.num_classes, self.seed, quiet=quiet)
            with atomic_path(path) as temporary:
                network.save(temporary)
        return keras.saving.load_model(path, compile=False)

    # ---- measures --------------------------------------------------------------------

    def measures(self, step: int) -> dict[str, float]:
        """How good the generator is after so many steps, in what the last step's stage is judged by.

        Up to the vocoder's stages audio is the vocoder's, later the generator's; in either case of the held-out clips'
        codes and of draws of the prior. log_mel, voice, ...: losses on held-out clips. accuracy: share of them that the
        recipe's classifier judges correct, of the clips themselves. inception_score, class_code: of draws, by the same
        classifier; share judged as their class code says. periodic: share of frames with a period, of draws; of the
        clips' own periodic frames, those in the reconstruction. level_db: of draws against clips. hum_db: at the
        generator's frame rates in pauses of draws.
        """
        stage = stage_of(max(0, step - 1))[0]
        if stage == "flow":
            return self._flow_measures()
        z = PRIOR.draw(np.random.default_rng([self.seed, 0xE7A1]), (MEASURED, self.codes.shape[2])).astype(np.float32)
        generator = WaveGANGenerator(self.generator.architecture, self.averaged_weights())
        if stage == "vocoder":
            adapted = lambda w: generator.from_hidden(self.adaptor_average(self.code.decode(w)))  # noqa: E731
            of_prior, of_code = (lambda z: adapted(self.flow.forward(z))), (lambda w, labels: adapted(w))
        else:
            of_prior, of_code = generator, lambda w, labels: generator(self.flow.inverse(w, labels))
        drawn = in_batches(tf.function(of_prior, autograph=False), z, 50)
        facts = {"hum_db": hum(drawn, self.clips.dataset.sample_rate)}
        if self.held_out is not None:
            facts |= self._clip_measures(tf.function(of_code, autograph=False), drawn)
        facts["periodic"] = float(np.mean(self._periodic(drawn)))
        if self.classifier is not None:
            probabilities = self._classify(drawn)
            facts["inception_score"] = inception_score(probabilities)[0]
            facts["class_code"] = float(np.mean(probabilities.argmax(axis=1) == class_code(z, self.num_classes)))
        if stage == "front":
            facts["front_error"] = float(self._front_error(tf.constant(z)))
        return facts

    def is_worth_exporting(self, step: int, facts: dict[str, float]) -> bool:
        """Whether the generator with these measures is the best so far; without measures on clips, whether it is whole.

        The score is the mean of accuracy on held-out clips and of the draws judged as their class code says.
        """
        if stage_of(max(0, step - 1))[0] not in ("front", "joined", "finish"):
            return False
        if "val_accuracy" not in facts:
            return True
        score = (facts["val_accuracy"] + facts["class_code"]) / 2
        if score < self.best:
            return False
        self.best.assign(score)
        return True

    def _clip_measures(self, of_code, drawn):
        rows = np.arange(min(MEASURED, len(self.held_out.dataset)))
        rows = np.int64(np.linspace(0, len(self.held_out.dataset) - 1, len(rows)))
        clips, labels = self.held_out.audio(np.zeros_like(rows), rows), np.int32(self.held_out.labels[rows])
        codes = self.code.encode(self.held_out.features(np.zeros_like(rows), rows))
        made = in_batches(lambda i: of_code(tf.constant(codes[i]), tf.constant(labels[i])), np.arange(len(rows)), 50)
        losses = tf.function(self.losses, autograph=False)
        facts = in_batches(
            lambda i: {
                name: x[None]
                for name, x in losses(*map(tf.constant, (made[i], clips[i])), self.code.decode(codes[i])).items()
            },
            np.arange(len(rows)),
            50,
        )
        facts = {f"val_{name}": float(np.mean(values)) for name, values in facts.items()}
        facts["level_db"] = level_statistics(drawn, clips)["rms_db"]
        facts["val_level_db"] = level_statistics(made, clips)["rms_db"]
        voiced = self._periodic(clips)
        facts["val_periodic"] = float(np.mean(self._periodic(made)[voiced])) if voiced.any() else 0.0
        if self.classifier is not None:
            for name, audio in (("val_accuracy", made), ("val_accuracy_of_clips", clips)):
                facts[name] = float(np.mean(self._classify(audio).argmax(axis=1) == labels))
        return facts

    def _flow_measures(self):
        if self.held_out is None:
            codes, labels = self.codes[0], self.labels
        else:
            rows = np.arange(len(self.held_out.dataset))
            codes = self.code.encode(in_batches(lambda i: self.held_out.features(np.zeros_like(i), i), rows, 128))
            labels = np.int32(self.held_out.labels)
        facts = self.flow.measures(codes, labels, self.seed)
        z = PRIOR.draw(np.random.default_rng([self.seed, 0xE7A1]), (MEASURED, codes.shape[1])).astype(np.float32)
        drawn = np.asarray(self.flow.forward(tf.constant(z)))
        facts["nearest"], facts["val_nearest"] = (
            float(np.median(cdist(rows, self.codes[0]).min(axis=1))) for rows in (drawn, codes)
        )
        if self.classifier is not None:
            log_mel = np.asarray(self.code.decode(drawn))[:, : FRAMES * BANDS].reshape(-1, FRAMES, BANDS)
            probabilities = in_batches(self.classifier, log_mel, 100)
            facts["inception_score"] = inception_score(probabilities)[0]
            facts["class_code"] = float(np.mean(probabilities.argmax(axis=1) == class_code(z, self.num_classes)))
        return facts

    def _front_error(self, z):
        target = tf.nn.relu(self.adaptor_average(self.code.decode(self.flow.forward(z))))
        generator = WaveGANGenerator(self.generator.architecture, self.averaged_weights())
        error = tf.reduce_mean(tf.square(tf.nn.relu(generator.hidden(z)) - target))
        return error / tf.reduce_mean(tf.math.reduce_variance(target, axis=0))

    def _classify(self, audio):
        log_mel = tf.function(self.clips.front_end.log_mel, autograph=False)
        return in_batches(lambda rows: self.classifier(log_mel(rows)), audio, 100)

    def _periodic(self, audio):
        """Which frames have a period at a lag of voices, bool `[N, 64]`."""
        correlation = tf.function(self.clips.front_end.autocorrelation, autograph=False)
        return in_batches(lambda rows: tf.reduce_max(correlation(rows), axis=2) > PERIODIC, audio, 100)


def stage_of(step: int) -> tuple[str, int]:
    """Name and first step of the stage that a step belongs to."""
    first = 0
    for name, length in STAGES.items():
        if step < first + length:
            return name, first
        first += length
    return "finish", first


def _require(architecture, dataset):
    num_classes = len(dataset.class_names)
    if len(dataset) <= architecture.latent_dim:
        raise UserError(
            f"recipe flow needs more training clips than --latent_dim, {architecture.latent_dim}; "
            f"the folder has {len(dataset)}: add clips, or give a smaller --latent_dim"
        )
    if num_classes > architecture.latent_dim:
        raise UserError(f"recipe flow needs a --latent_dim of at least the {num_classes} classes")
    lacking = [name for k, name in enumerate(dataset.class_names) if not np.any(dataset.labels == k)]
    if lacking:
        raise UserError(f"recipe flow needs clips of every class; there are none of: {', '.join(lacking)}")
