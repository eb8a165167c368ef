"""ResNet-18 on spectrograms: the trunk that the digit classifier and the encoder share.

He et al. 2016, "Deep Residual Learning for Image Recognition", with basic blocks (2, 2, 2, 2). As in the
paper's reference every convolution keeps its bias, and the shortcut is the identity wherever the stride is 1.
"""

import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras import layers

BLOCKS_PER_STAGE = (2, 2, 2, 2)
BLOCK_NAMES = tuple(f"stage{s}_block{b}" for s, n in enumerate(BLOCKS_PER_STAGE, 1) for b in range(1, n + 1))


@keras.saving.register_keras_serializable("audio_gan_inversion")
class BatchNormalization(layers.BatchNormalization):
    """Keras's layer by TensorFlow's fused kernel, for `[B, H, W, C]`: it saves a training step a quarter of its time.

    The moving variance is of the unbiased batch variance, as that kernel gives it, but where statistics are
    synchronised over devices.

    With domains it is domain-specific batch normalisation (Chang et al. 2019, arXiv 1906.03950) with gamma and beta in
    common: each domain has its own moving statistics. The call argument `domain`, which a model around the layer may
    be called with, says whose are used or, in training, updated; None is the first one's.

    Args:
        domains: names of the domains; empty: one set of moving statistics for all.
        kwargs: as Keras's.
    """

    def __init__(self, domains: Sequence[str] = (), **kwargs):
        super().__init__(**kwargs)
        self.domains = tuple(domains)
        if domains:
            self._register_call_context_args("domain")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        for domain in self.domains[1:]:
            for name, initial in (("moving_mean", "zeros"), ("moving_variance", "ones")):
                options = {"shape": self.gamma.shape, "initializer": initial, "trainable": False, "autocast": False}
                setattr(self, f"{name}_{domain}", self.add_weight(name=f"{name}_{domain}", **options))

    def moving_statistics(self, domain: str | None = None) -> tuple[keras.Variable, keras.Variable]:
        """Moving mean and variance `[C]` of a domain."""
        if domain not in (None, *self.domains):
            raise ValueError(f"domain must be one of {', '.join(self.domains)}. Received: {domain!r}")
        suffix = "" if domain in (None, *self.domains[:1]) else f"_{domain}"
        return getattr(self, f"moving_mean{suffix}"), getattr(self, f"moving_variance{suffix}")

    def call(self, inputs: tf.Tensor, training: bool | None = None, domain: str | None = None) -> tf.Tensor:
        training, moving = bool(training) and self.trainable, self.moving_statistics(domain)
        if training and self.synchronized:
            x = tf.cast(inputs, tf.float32)
            batch = self._moments(x, None)
            y = tf.nn.batch_normalization(x, *batch, self.beta, self.gamma, self.epsilon)
            y = tf.cast(y, self.compute_dtype)
        else:
            y, *batch = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=tf.convert_to_tensor(self.gamma),
                offset=tf.convert_to_tensor(self.beta),
                mean=tf.zeros([0]) if training else tf.convert_to_tensor(moving[0]),
                variance=tf.zeros([0]) if training else tf.convert_to_tensor(moving[1]),
                epsilon=self.epsilon,
                is_training=training,
            )[:3]
        if training:
            for variable, value in zip(moving, batch, strict=True):
                variable.assign(self.momentum * variable + (1 - self.momentum) * value)
        return y

    def get_config(self) -> dict:
        return {**super().get_config(), "domains": self.domains}


@keras.saving.register_keras_serializable("audio_gan_inversion")
class Conv2D(layers.Conv2D):
    """Keras's layer, with another way to the gradient in its input: at stride 1 that is a convolution itself.

    On a CPU it takes a half to a quarter of the time of TensorFlow's kernel for that gradient.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if self.strides != (1, 1) or self.padding != "same" or not all(size % 2 for size in self.kernel_size):
            return super().convolution_op(inputs, kernel)
        return _same_convolution(inputs, tf.convert_to_tensor(kernel))


@tf.custom_gradient
def _same_convolution(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    def gradient(dy):
        flipped = tf.linalg.matrix_transpose(tf.reverse(kernel, [0, 1]))
        dkernel = tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=kernel.shape, out_backprop=dy, strides=[1, 1, 1, 1], padding="SAME"
        )
        return tf.nn.conv2d(dy, flipped, 1, "SAME"), dkernel

    return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient


def resnet18(image: keras.KerasTensor, width: int = 64, domains: Sequence[str] = ()) -> dict[str, keras.KerasTensor]:
    """ResNet-18 without its last layer, in Keras functional style.

    Args:
        image: float `[B, H, W, C]`.
        width: channels of the first stage, doubled in each of the next three (64 = the paper).
        domains: that batch normalisation keeps statistics of, see `BatchNormalization`.

    Returns:
        The activations of every residual block under the names in `BLOCK_NAMES`, and "pooled": their global average
        `[B, 8 * width]`. For a `[B, 128, 129, C]` image stage 1 is `[B, 32, 33, width]`, stage 2
        `[B, 16, 17, 2 * width]`, stage 3 `[B, 8, 9, 4 * width]`, stage 4 `[B, 4, 5, 8 * width]`.
    """
    # Without domains Keras's own layers may stand in for these (`benchmarks.training`).
    norm = functools.partial(BatchNormalization, domains=domains) if domains else BatchNormalization
    features = {}
    x = Conv2D(width, 7, strides=2, padding="same", name="stem_conv")(image)  # [128, 129] -> [64, 65]
    x = norm(name="stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)  # -> [32, 33]
    for stage, blocks in enumerate(BLOCKS_PER_STAGE, 1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            x = features[name] = _basic_block(x, width * 2 ** (stage - 1), stride, name, norm)
    features["pooled"] = layers.GlobalAveragePooling2D(name="pooled", dtype="float32")(x)
    return features


def _basic_block(
    x: keras.KerasTensor, channels: int, stride: int, name: str, norm: Callable[..., layers.Layer]
) -> keras.KerasTensor:
    shortcut = x
    if stride != 1:
        shortcut = Conv2D(channels, 1, strides=stride, name=f"{name}_shortcut_conv")(x)
        shortcut = norm(name=f"{name}_shortcut_norm")(shortcut)
    x = Conv2D(channels, 3, strides=stride, padding="same", name=f"{name}_conv1")(x)
    x = norm(name=f"{name}_norm1")(x)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = Conv2D(channels, 3, padding="same", name=f"{name}_conv2")(x)
    x = norm(name=f"{name}_norm2")(x)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=name)(x)
