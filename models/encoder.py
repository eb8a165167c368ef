"""The encoder (the paper's inverse mapping model): one forward pass from audio to the latent behind it.

There are two architectures. `resnet18` is the paper's: a spectrogram and ResNet-18 (`models.resnet`). `highway`
(`models.highway`) is this project's: a linear map of log-mel, and convolutions on log-mel and on the waveform. An
encoder's file tells which it is (`Encoder.options`); inverse_mapping_checkpoint/README.md tells it of the bundled ones.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf
from keras import layers

from models.checkpoints import existing_file, load_keras
from models.front_ends import Spectrogram
from models.highway import highway
from models.resnet import BatchNormalization, resnet18
from utils.choices import ENCODERS
from utils.domains import DOMAINS, REAL
from utils.errors import UserError
from utils.latents import squash
from utils.options import PAPER_RECOVERY

FILE_NAME = "encoder.keras"


@keras.saving.register_keras_serializable("audio_gan_inversion")
class Encoder(keras.Model):
    """Audio float32 `[B, num_samples, num_channels]` in [-1, 1] -> z float32 `[B, latent_dim]`.

    A spectrogram, ResNet-18 and one dense layer, or the network of `models.highway`. The `.keras` file holds every
    option. Real clips and a generator's samples are two domains, whose activations differ in mean and variance; the
    caller says which domain the clips are of.

    Args:
        latent_dim: size of z.
        architecture: "resnet18", or "highway", which ignores width and front_end.
        width: channels of the first stage; the paper's ResNet-18 has 64.
        front_end: "log_magnitude", or "stft_real" (the paper's, stacked to three channels).
        bounded: end in tanh, a highway in erf, which keeps z in the box (-1, 1) of a uniform prior. The paper's
            output is linear.
        num_samples: T.
        num_channels: C.
        sample_rate: in Hz.
        alignment: the name in `utils.audio.files.ALIGNMENTS` with which its training clips were read.
        generator: fingerprint of the generator that it inverts.
        domain_statistics: batch normalisation keeps the moving statistics of the two domains apart. If not, as in the
            paper and in files written before there was a choice, both domains are normalised by the mixed ones.
        precision: "float32" or "mixed_bfloat16"; z is float32 in either.

    Raises:
        ValueError: for another architecture.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        architecture: str = "resnet18",
        width: int = 64,
        front_end: str = "log_magnitude",
        bounded: bool = True,
        num_samples: int = 16384,
        num_channels: int = 1,
        sample_rate: int = 16000,
        alignment: str = "aligned",
        generator: str = "",
        domain_statistics: bool = False,
        precision: str = "float32",
        **kwargs,
    ):
        if architecture not in ENCODERS:
            raise ValueError(f"architecture must be one of {', '.join(ENCODERS)}. Received: {architecture!r}")
        super().__init__(**{**kwargs, "dtype": precision})
        self.options = {
            "latent_dim": latent_dim,
            "architecture": architecture,
            "width": width,
            "front_end": front_end,
            "bounded": bounded,
            "num_samples": num_samples,
            "num_channels": num_channels,
            "sample_rate": sample_rate,
            "alignment": alignment,
            "generator": generator,
            "domain_statistics": domain_statistics,
            "precision": precision,
        }
        self.latent_dim = latent_dim
        self.num_samples, self.num_channels, self.sample_rate = num_samples, num_channels, sample_rate

        audio = keras.Input((num_samples, num_channels), name="audio", dtype="float32")
        if architecture == "highway":
            normal = highway(audio, latent_dim, sample_rate, precision)
            z = layers.Activation(squash if bounded else "linear", name="latent")(normal)
        else:
            z = self._resnet18(audio)
        self.network = keras.Model(audio, z, name=architecture)
        self.network._register_call_context_args("domain")  # and passes it on to its layers
        self.built = True

    def _resnet18(self, audio: keras.KerasTensor) -> keras.KerasTensor:
        kind, domains = self.options["front_end"], DOMAINS if self.options["domain_statistics"] else ()
        default_policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.options["precision"])
        try:
            image = Spectrogram(kind, stack=kind == "stft_real", name="spectrogram")(audio)
            pooled = resnet18(image, self.options["width"], domains)["pooled"]
        finally:
            keras.config.set_dtype_policy(default_policy)
        activation = "tanh" if self.options["bounded"] else "linear"
        return layers.Dense(self.latent_dim, activation, name="latent", dtype="float32")(pooled)

    def call(self, audio: tf.Tensor, training: bool | None = None, domain: str = REAL) -> tf.Tensor:
        return self.network(audio, training=training, domain=domain)

    def get_config(self) -> dict:
        return {"name": self.name, **self.options}

    def with_options(self, **options) -> "Encoder":
        """The same weights, uncompiled, with another `precision` or `domain_statistics`.

        Mixed statistics become those of both domains; of the statistics of two domains the first one's are kept.
        """
        copy = Encoder(**{**self.options, **options})
        for ours, theirs in zip(copy.network.layers, self.network.layers, strict=True):
            weights = theirs.get_weights()
            if isinstance(ours, BatchNormalization):
                gamma_and_beta, statistics = weights[:2], weights[2:]
                weights = gamma_and_beta + (2 * statistics)[: len(ours.weights) - 2]
            ours.set_weights(weights)
        return copy


def find_encoder(path: str | Path) -> Path:
    """The `.keras` file that `path` names: itself, or in a folder the only one, or else encoder.keras.

    Raises:
        UserError: no such file.
    """
    path = Path(path)
    if os.path.isdir(path):
        files = list(path.glob("*.keras"))
        path = files[0] if len(files) == 1 else path / FILE_NAME
    paper = Path(PAPER_RECOVERY["encoder"])
    preset = f"--preset paper --export {paper}" if path == paper else f"--export inverse_mapping_checkpoint/{FILE_NAME}"
    return existing_file(path, "encoder", f"train.py {preset} trains one, --encoder names another")


def load_encoder(path: str | Path, *, trust: bool = False) -> keras.Model:
    """Read an encoder: what `train.py` wrote, or any Keras model of the same inputs and outputs.

    Args:
        path: a `.keras` file, or a folder with one, see `find_encoder`.
        trust: run the Python code in it, if there is any.

    Returns:
        Audio float32 `[B, T, C]` in [-1, 1] -> z `[B, latent_dim]`; an `Encoder` if `train.py` wrote it.
        Uncompiled. Call it with `training=False`, an `Encoder` with the `domain` of its clips, too.

    Raises:
        UserError: no such file, or a damaged one.
    """
    return load_keras(find_encoder(path), trust=trust)


def encoder_from(path: str | Path, options: Mapping[str, object], *, flag: str) -> Encoder:
    """An encoder with the weights and the architecture of another one, from its file.

    Args:
        path: as for `load_encoder`.
        options: of `Encoder`, without architecture, which is the file's.
        flag: the option that named the file, for messages.

    Raises:
        UserError: no such file, or one of another network.
    """
    given = load_encoder(path)
    if not isinstance(given, Encoder):
        raise UserError(f"{flag} {path}: must be an encoder of train.py. Received: a {type(given).__name__}")
    alike = ("latent_dim", "bounded", "num_samples", "num_channels", "sample_rate")
    if given.options["architecture"] == "resnet18":
        alike += ("width", "front_end")
    for option in alike:
        if given.options[option] != options[option]:
            raise UserError(f"{flag} {path}: must have {option} {options[option]}. Received: {given.options[option]}")
    return given.with_options(**options)
