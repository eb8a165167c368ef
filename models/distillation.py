"""Recipe `flow`: a WaveGAN generator taught by a map from the prior and a vocoder, finished by critics.

Its stages, each a stretch of the training's steps (`STAGES`):
    vocoder   the generator's later half, with an adaptor, from clips' features to clips; by spectra.
    front     the generator's first half by regression: to the adaptor's output at T(z), T being the map from the prior
              to the clips' code (`models.class_map`); its start is in closed form (`models.front`).
    joined    the vocoder goes on, now with critics, on clips' codes and on T of draws, and the first half follows it.
The first half never meets a gradient of audio: by regression it comes close enough that a generator is as good as its
vocoder, and audio's gradients, noisier, take it away from there.
No classifier takes part in any loss. A classifier of the recipe's own decides which weights are exported.
"""

import functools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import Ridge

from models.class_map import ClassMap
from models.critics import Critics
from models.features import BANDS, FRAMES, VARIANTS, Clips, PrincipalCode, features_of, pitch_components
from models.front import dense_start, upsampling_start
from models.gan_training import PRIOR, Batches, GeneratorTrainer, apply_and_average
from models.selection import train_selection_classifier
from models.vocoder import Adaptor, SpeechLosses
from models.wavegan import FIRST_FRAMES, Architecture, WaveGANGenerator
from utils.audio.datasets import Dataset, batch_indices
from utils.errors import UserError
from utils.evaluation.generator_statistics import hum, level_statistics
from utils.metrics import inception_score
from utils.runs.batches import in_batches
from utils.runs.files import atomic_path

STAGES = {"vocoder": 2000, "front": 150}  # steps; then joined
FRONT_UPDATES = 4  # a step
SLACK = 1.5  # below 0, as low as the hidden layer is asked to be at first
FRONT_CODE = 2.0  # weight of the code's error beside the hidden layer's
READOUT_CLIPS = 500  # by which the code is read from the hidden layer
VOCODER_BATCH, FRONT_BATCH, JOINED_BATCH = 1.5, 6, 0.5  # of --batch_size; joined: clips, and as many draws
VOCODER_RATE, FRONT_RATE = 2.5, 0.5  # of --learning_rate
JOINED_VOCODER_RATE, JOINED_FRONT_RATE = 1.0, 0.1
FRONT_WARM_UP = 20  # steps; Adam's first ones are as large as the rate, in any direction
CRITICS_EVERY = 2  # steps to an update of the critics
CRITICS_WARM_UP = 100  # steps in which the critics learn alone
AVERAGE = 0.995  # decay of the moving averages until the last stage
CRITICS_WEIGHT = 0.6  # of the critics' gradient, whose terms have norm 1 each
LEAK = 0.02  # of the ReLUs backward: Adam's first steps silence channels for good without it
DECIDED = 0.9  # probability of a class from which a sample counts as decided
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
        UserError: for fewer clips than `latent_dim`, or a class without clips.
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
        super().__init__(architecture, seed, precision, 0.998, LEAK)
        self.learning_rate = learning_rate
        self.seed, self.latent_dim, self.num_classes = seed, architecture.latent_dim, max(1, len(dataset.class_names))
        self.clips = Clips(dataset, seed, cache_dir, quiet=quiet)
        self._read_codes(folder / "codes.npz", quiet)
        self.labels = np.int32(self.clips.labels)
        self.held_out = held_out and Clips(held_out, None, cache_dir, self.clips.absent, quiet=quiet)
        self.classifier = None
        if self.num_classes > 1:
            self.classifier = self._read_classifier(folder / "selection.keras", quiet)
        self.class_map = ClassMap(
            self.codes.reshape(-1, architecture.latent_dim),
            np.tile(self.labels, VARIANTS),
            self.num_classes,
            importance=np.square(self.code.deviation) / np.mean(np.square(self.code.deviation)),
            shared=pitch_components(architecture.latent_dim),
            seed=seed,
        )
        channels = architecture.upsamplings[0].channels_out
        self.adaptor, self.adaptor_average = (Adaptor(self.clips.front_end, self.code, channels) for _ in range(2))
        mean = tf.zeros([1, architecture.latent_dim])
        self.adaptor(mean, mean), self.adaptor_average(mean, mean)
        self.adaptor_average.set_weights(self.adaptor.get_weights())
        self.network_state = [v.value for network in (self.adaptor, self.adaptor_average) for v in network.variables]
        front = ("G/z_project", "G/upconv_0")
        self.front_names = [name for name in self.variables_by_name if name.startswith(front)]
        self.back_names = [name for name in self.variables_by_name if not name.startswith(front)]
        self.adaptor_variables = [v.value for v in self.adaptor.trainable_variables]
        self.back_optimizer = keras.optimizers.Adam(VOCODER_RATE * learning_rate, 0.6, 0.99, name="back_adam")
        self.back_optimizer.build([self.variables_by_name[n] for n in self.back_names] + self.adaptor_variables)
        self.front_optimizer = keras.optimizers.Adam(FRONT_RATE * learning_rate, 0.9, 0.99, name="front_adam")
        self.front_optimizer.build([self.variables_by_name[n] for n in self.front_names])
        self.critics = Critics(architecture.num_samples, architecture.num_channels)
        self.losses = SpeechLosses(self.clips.front_end, self.code)
        self.best = tf.Variable(-1.0, trainable=False, name="best_score")

    def train_step(self, batches: Batches, step: int) -> dict[str, tf.Tensor]:
        """One step of the stage that it belongs to; its losses."""
        stage, first = stage_of(step)
        if step == first:
            self._begin(stage)
        if stage == "vocoder":
            return self._vocoder_step(*self._real(batches, step, VOCODER_BATCH))
        rng, shape = np.random.default_rng([self.seed, step]), (FRONT_BATCH * batches.batch_size, self.latent_dim)
        draws = [tf.constant(PRIOR.draw(rng, shape).astype(np.float32)) for _ in range(FRONT_UPDATES)]
        if stage == "front":
            share = min((step - first + 1) / FRONT_WARM_UP, 1 - (step - first) / STAGES["front"])
            self.front_optimizer.learning_rate.assign(FRONT_RATE * self.learning_rate * share)
            losses = [self._front_step(z, self._readout) for z in draws]
            return tf.nest.map_structure(lambda *values: tf.reduce_mean(values), *losses)
        seed, with_critics = tf.constant([self.seed, step]), step - first >= CRITICS_WARM_UP
        clips, codes, labels = self._real(batches, step, JOINED_BATCH)
        z = tf.constant(batches.latents(step)[: len(clips)])
        losses, audio = self._joined_step(clips, codes, labels, z, seed, with_critics)
        if step % CRITICS_EVERY == 0 or not with_critics:
            losses |= self._critics_step(clips, audio, seed)
        return losses | self._front_step(draws[0], self._readout)

    def clips_of(self, batches: Batches, step: int) -> list[str]:
        """The files that `train_step` takes."""
        if stage_of(step)[0] == "front":
            return []
        return batches.names(step)

    def wanted(self, z: tf.Tensor) -> tf.Tensor:
        """What the generator's later half is to be given at z `[B, L]`: `[B, 64, channels]`, before the ReLU."""
        return self.adaptor_average(self.class_map.forward(z), z)

    # ---- updates --------------------------------------------------------------------

    @tf.function(autograph=False)
    def _vocoder_step(self, clips, codes, labels):
        """One update of adaptor and later half on clips `[B, T, C]` from their codes `[B, L]`."""
        variables = [self.variables_by_name[name] for name in self.back_names] + self.adaptor_variables
        z = self.class_map.inverse(codes, labels)
        with tf.GradientTape() as tape:
            audio = self.generator.from_hidden(self.adaptor(codes, z))
        losses, upstream = self.losses.gradient(audio, clips, self.code.decode(codes))
        gradients = tape.gradient(audio, variables, output_gradients=upstream)
        apply_and_average(self.back_optimizer, gradients, variables, self._back_averages(), AVERAGE)
        return losses | {"gradient": tf.linalg.global_norm(gradients)}

    @tf.function(autograph=False)
    def _front_step(self, z, readout):
        """One update of the first half on draws `[B, L]`, by the squared error of the hidden layer, as a share of its
        variance, and by that of the code which the layer's linear readout holds."""
        variables = [self.variables_by_name[name] for name in self.front_names]
        target = self.wanted(z)
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
        apply_and_average(self.front_optimizer, gradients, variables, averages, AVERAGE)
        return {"front": error, "front_code": code}

    @functools.cached_property
    def _readout(self):
        """The convolution of three taps `[3, channels, 64]` from the hidden layer to log-mel, by least squares."""
        codes, labels = tf.constant(self.codes[0, :READOUT_CLIPS]), tf.constant(self.labels[:READOUT_CLIPS])
        hidden = tf.nn.relu(self.adaptor_average(codes, self.class_map.inverse(codes, labels)))
        hidden = np.pad(hidden.numpy(), [(0, 0), (1, 1), (0, 0)])
        rows = np.concatenate([hidden[:, k : k + FRAMES] for k in range(3)], axis=2).reshape(-1, 3 * hidden.shape[2])
        wanted = self.code.decode(codes)[:, : FRAMES * BANDS].numpy().reshape(-1, BANDS)
        fit = Ridge(1e-2).fit(rows, wanted)
        return tf.constant(fit.coef_.T.reshape(3, hidden.shape[2], BANDS), tf.float32)

    @tf.function(autograph=False)
    def _joined_step(self, clips, codes, labels, z, seed, with_critics: bool):
        """One update of adaptor and later half on clips `[B, T, C]` from their codes and on T of draws z `[B, L]`."""
        variables = [self.variables_by_name[name] for name in self.back_names] + self.adaptor_variables
        codes = tf.concat([codes, self.class_map.forward(z)], axis=0)
        z = tf.concat([self.class_map.inverse(codes[: clips.shape[0]], labels), z], axis=0)
        with tf.GradientTape() as tape:
            audio = self.generator.from_hidden(self.adaptor(codes, z))
        losses, upstream = self.losses.gradient(audio, clips, self.code.decode(codes))
        if with_critics:
            more, gradient = self.critics.gradient(audio, clips, seed)
            losses, upstream = losses | more, upstream + CRITICS_WEIGHT * gradient
        gradients = tape.gradient(audio, variables, output_gradients=upstream)
        apply_and_average(self.back_optimizer, gradients, variables, self._back_averages(), self.ema)
        return losses | {"gradient": tf.linalg.global_norm(gradients)}, audio

    @tf.function(autograph=False)
    def _critics_step(self, clips, audio, seed):
        """One update of the critics; audio may be of more rows than the clips."""
        return self.critics.update(clips, audio, seed)

    def _begin(self, stage):
        """What a stage starts from: the averages of the one before."""
        if stage == "front":
            for name in self.back_names:
                self.variables_by_name[name].assign(self.averages[name])
            self.adaptor.set_weights(self.adaptor_average.get_weights())
            self._start_front()
        if stage == "joined":
            for name in self.front_names:
                self.variables_by_name[name].assign(self.averages[name])
            self.front_optimizer.learning_rate.assign(JOINED_FRONT_RATE * self.learning_rate)
            self.back_optimizer.learning_rate.assign(JOINED_VOCODER_RATE * self.learning_rate)

    def _start_front(self):
        """The first half's weights in closed form, and their averages."""
        architecture = self.generator.architecture
        names = "G/z_project/dense/kernel", "G/z_project/dense/bias"
        for name, value in zip(
            names, dense_start(architecture, self.class_map, self.code, self.adaptor.mixing), strict=True
        ):
            self.variables_by_name[name].assign(value)
        if architecture.upsample == "zeros":
            shape = [-1, FIRST_FRAMES, architecture.first_channels]
            kernel = upsampling_start(
                architecture.upsamplings[0],
                lambda z: tf.reshape(self.generator.first_activations(z), shape),
                lambda z: tf.maximum(self.wanted(z), -SLACK),
                self.seed,
                architecture.latent_dim,
            )
            self.variables_by_name[f"{architecture.layer_names[0]}/kernel"].assign(kernel)
        for name in self.front_names:
            self.averages[name].assign(self.variables_by_name[name])

    def _back_averages(self):
        return [self.averages[name] for name in self.back_names] + [v.value for v in self.adaptor_average.variables]

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

        In the vocoder's stage audio is the vocoder's, later the generator's; in either case of the held-out clips'
        codes and of draws of the prior. val_log_mel, ...: losses on held-out clips. val_accuracy: share of them that
        the recipe's classifier judges correct, of the clips themselves. accuracy, inception_score, decided: of draws,
        by the same classifier; share of draws with a class of probability 0.9 or more. periodic: share of frames with
        a period, of draws; val_periodic: of the clips' own periodic frames, those in the reconstruction. level_db: of
        draws against clips. hum_db: at the generator's frame rates in pauses of draws. The first half's error is
        among the steps' losses.
        """
        stage = stage_of(max(0, step - 1))[0]
        z = PRIOR.draw(np.random.default_rng([self.seed, 0xE7A1]), (MEASURED, self.codes.shape[2])).astype(np.float32)
        generator = WaveGANGenerator(self.generator.architecture, self.averaged_weights())
        if stage == "vocoder":
            of_prior = lambda z: generator.from_hidden(self.wanted(z))  # noqa: E731
            of_code = lambda w, labels: generator.from_hidden(  # noqa: E731
                self.adaptor_average(w, self.class_map.inverse(w, labels))
            )
        else:
            of_prior, of_code = generator, lambda w, labels: generator(self.class_map.inverse(w, labels))
        drawn = in_batches(tf.function(of_prior, autograph=False), z, 50)
        facts = {"hum_db": hum(drawn, self.clips.dataset.sample_rate)}
        if self.held_out is not None:
            facts |= self._clip_measures(tf.function(of_code, autograph=False), drawn)
        facts["periodic"] = float(np.mean(self._periodic(drawn)))
        if self.classifier is not None:
            probabilities = self._classify(drawn)
            facts["inception_score"] = inception_score(probabilities)[0]
            facts["decided"] = float(np.mean(probabilities.max(axis=1) >= DECIDED))
            wanted = self.class_map.labels(tf.constant(z)).numpy()
            facts["accuracy"] = float(np.mean(probabilities.argmax(axis=1) == wanted))
        return facts

    def is_worth_exporting(self, step: int, facts: dict[str, float]) -> bool:
        """Whether the generator with these measures is the best so far; without measures on clips, whether it is whole.

        The score is the mean of accuracy on held-out clips and on draws.
        """
        if stage_of(max(0, step - 1))[0] not in ("front", "joined"):
            return False
        if "val_accuracy" not in facts:
            return True
        score = (facts["val_accuracy"] + facts["accuracy"]) / 2
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
    return "joined", first


def _require(architecture, dataset):
    if len(dataset) <= architecture.latent_dim:
        raise UserError(
            f"recipe flow needs more training clips than --latent_dim, {architecture.latent_dim}; "
            f"the folder has {len(dataset)}: add clips, or give a smaller --latent_dim"
        )
    lacking = [name for k, name in enumerate(dataset.class_names) if not np.any(dataset.labels == k)]
    if lacking:
        raise UserError(f"recipe flow needs clips of every class; there are none of: {', '.join(lacking)}")
