"""The digit classifiers: the paper's ResNet-18, whose activations serve as a loss, and the two judges.

`mel_cnn` and `waveform_cnn` are the judges: other front ends, architectures, clips and seeds. They are used in metrics,
never in a loss. All take audio; the front end is inside the model, and the `.keras` file holds every option.
"""

import os
from pathlib import Path

import keras
import tensorflow as tf
from keras import layers

from models.checkpoints import existing_file, load_keras
from models.front_ends import LogMel, Spectrogram
from models.resnet import BLOCK_NAMES, BatchNormalization, Conv2D, resnet18
from utils.errors import UserError
from utils.options import PAPER_RECOVERY

FILE_NAME = "classifier.keras"
# The names of the block activations of each architecture.
ARCHITECTURES = {
    "resnet18": BLOCK_NAMES,
    "mel_cnn": ("stem", "block1", "block2", "block3"),
    "waveform_cnn": ("stem", "block1", "block2", "block3"),
}


@keras.saving.register_keras_serializable("audio_gan_inversion")
class Classifier(keras.Model):
    """Audio float32 `[B, num_samples, num_channels]` in [-1, 1] -> probabilities float32 `[B, classes]`.

    Args:
        architecture: a name in `ARCHITECTURES`.
        width: channels of the first stage. The paper's ResNet-18 has 64; the judges have 32.
        front_end: of "resnet18": "log_magnitude", or "stft_real" (the paper's, stacked to three channels).
        num_samples: T.
        num_channels: C.
        sample_rate: in Hz.
        class_names: the names of the classes, in order.
        alignment: the name in `utils.audio.files.ALIGNMENTS` with which its training clips were read.
        precision: "float32" or "mixed_bfloat16"; the probabilities are float32 in either.

    Attributes:
        block_names: names of the block activations that `classifier_features` gives.
    """

    def __init__(
        self,
        *,
        architecture: str,
        width: int,
        front_end: str = "log_magnitude",
        num_samples: int = 16384,
        num_channels: int = 1,
        sample_rate: int = 16000,
        class_names: tuple[str, ...],
        alignment: str = "aligned",
        precision: str = "float32",
        **kwargs,
    ):
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}. Received: {architecture!r}")
        super().__init__(**{**kwargs, "dtype": precision})
        self.options = {
            "architecture": architecture,
            "width": width,
            "front_end": front_end,
            "num_samples": num_samples,
            "num_channels": num_channels,
            "sample_rate": sample_rate,
            "class_names": tuple(class_names),
            "alignment": alignment,
            "precision": precision,
        }
        self.block_names = ARCHITECTURES[architecture]
        self.num_samples, self.num_channels, self.sample_rate = num_samples, num_channels, sample_rate
        self.class_names = tuple(class_names)
        self.alignment = alignment

        default_policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            audio = keras.Input((num_samples, num_channels), name="audio", dtype="float32")
            if architecture == "resnet18":
                image = Spectrogram(front_end, stack=front_end == "stft_real", name="spectrogram")(audio)
                features = resnet18(image, width)
            elif architecture == "mel_cnn":
                features = _mel_cnn(LogMel(sample_rate, name="log_mel")(audio), width)
            else:
                features = _waveform_cnn(audio, width)
            features["logits"] = layers.Dense(len(class_names), name="logits", dtype="float32")(features["pooled"])
            features["probabilities"] = layers.Softmax(name="probabilities", dtype="float32")(features["logits"])
            self.network = keras.Model(audio, features, name=architecture)
        finally:
            keras.config.set_dtype_policy(default_policy)
        self.built = True

    def call(self, audio: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.network(audio, training=training)["probabilities"]

    def get_config(self) -> dict:
        return {"name": self.name, **self.options}

    def with_precision(self, precision: str) -> "Classifier":
        """The same network and weights, uncompiled, in another precision."""
        copy = Classifier(**{**self.options, "precision": precision})
        copy.set_weights(self.get_weights())
        return copy


def classifier_features(model: Classifier, audio: tf.Tensor) -> dict[str, tf.Tensor]:
    """All that the classifier sees in audio, differentiable, in inference mode.

    Args:
        model: a `Classifier`.
        audio: float32 `[B, T, C]` in [-1, 1].

    Returns:
        Each block in `model.block_names` float `[B, H, W, channels]`, "pooled" `[B, D]`, "logits" and "probabilities"
        `[B, classes]`; the last three float32.
    """
    return model.network(audio, training=False)


def block_features(model: Classifier, audio: tf.Tensor) -> dict[str, tf.Tensor]:
    """`classifier_features`, but of the blocks alone, in the network's order: what losses compare."""
    features = classifier_features(model, audio)
    return {name: features[name] for name in model.block_names}


def find_classifier(path: str | Path) -> Path:
    """The `.keras` file that `path` names: itself, or classifier.keras in a folder.

    Raises:
        UserError: no such file.
    """
    path, paper = Path(path), Path(PAPER_RECOVERY["classifier"])
    preset = f"--preset paper --export {paper}" if path == paper else f"--export classifier_checkpoint/{FILE_NAME}"
    remedy = f"train_sc09_classifier.py {preset} trains one"
    return existing_file(path / FILE_NAME if os.path.isdir(path) else path, "classifier", remedy)


def load_classifier(path: str | Path) -> Classifier:
    """Read what `train_sc09_classifier.py` wrote.

    Args:
        path: a `.keras` file, or a folder with `classifier.keras` in it.

    Returns:
        The `Classifier`, uncompiled.

    Raises:
        UserError: no such file, a damaged one, or a Keras model of another kind.
    """
    file = find_classifier(path)
    model = load_keras(file)
    if not isinstance(model, Classifier):
        raise UserError(f"{file}: holds a {type(model).__name__}, not a classifier of train_sc09_classifier.py")
    return model


def _mel_cnn(image: keras.KerasTensor, width: int) -> dict[str, keras.KerasTensor]:
    """A small network on a log-mel image; at 64 x 64 and width 32: 0.4 M weights, 20 M products."""
    features = {}
    x = _conv(image, width // 2, 5, 2, "stem_1")  # [64, 64] -> [32, 32]
    x = features["stem"] = _conv(x, width, 3, 2, "stem_2")  # -> [16, 16]
    for block, (channels, stride) in enumerate([(3 * width // 2, 1), (3 * width, 2), (4 * width, 2)], 1):
        x = _conv(x, channels, 3, stride, f"block{block}_1")
        x = features[f"block{block}"] = _conv(x, channels, 3, 1, f"block{block}_2")
    features["pooled"] = layers.GlobalAveragePooling2D(name="pooled", dtype="float32")(x)
    return features


def _waveform_cnn(audio: keras.KerasTensor, width: int) -> dict[str, keras.KerasTensor]:
    """Convolutions over time on the samples themselves, after M11 (Dai et al. 2016, arXiv 1610.00087).

    As there, the first kernel is long (80 samples) so that it can be a filter bank, and maxima over time follow it, so
    that the phase of a tone does not matter. At 16,384 samples and width 32: 0.2 M weights, 26 M products.
    """
    features = {}
    x = layers.Reshape((1, *audio.shape[1:]), name="row")(audio)  # [T, C] -> [1, T, C]
    x = _conv(x, width, (1, 80), (1, 8), "stem_1")  # [16384] -> [2048]
    x = features["stem"] = layers.MaxPooling2D((1, 4), padding="same", name="stem")(x)  # -> [512]
    for block, (before, after, pool) in enumerate([(1, 2, 4), (2, 4, 2), (6, 6, 1)], 1):
        x = _conv(x, before * width, (1, 3), 1, f"block{block}_1")
        x = features[f"block{block}"] = _conv(x, after * width, (1, 3), 1, f"block{block}_2")
        if pool > 1:
            x = layers.MaxPooling2D((1, pool), padding="same", name=f"block{block}_pool")(x)  # -> [128], [64]
    features["pooled"] = layers.GlobalAveragePooling2D(name="pooled", dtype="float32")(x)
    return features


def _conv(
    x: keras.KerasTensor, channels: int, kernel: int | tuple[int, int], stride: int | tuple[int, int], name: str
) -> keras.KerasTensor:
    x = Conv2D(channels, kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(name=name)(x)
