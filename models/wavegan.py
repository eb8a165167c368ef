"""WaveGAN's generator (Donahue et al., 2019) as a native network: fast on a CPU, differentiable in z and in weights.

Every upsampling layer is computed in its polyphase form. A stride-s transposed convolution (or nearest-neighbour
upsampling followed by a convolution) gives, for each input frame, s output frames that depend on a few neighbouring
input frames only: one matrix product whose result is read as s frames (see `Upsampling`).

Weights go by the names of the published TF1 checkpoints (`G/z_project/dense/kernel`, ...), so that a checkpoint, an
array file and this network are three views of one dictionary.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from utils.choices import LENGTHS

FIRST_FRAMES = 16
NARROW = 16  # up to so many results a frame (the last layer) gathering neighbours costs more than a convolution
POST_FILTER = "G/pp_filt/conv1d/kernel"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Hyper-parameters of a WaveGAN generator, named as in the published code.

    Attributes:
        latent_dim: size of z.
        dim: channel multiplier; the published models have 64.
        kernel_len: taps of every upsampling kernel.
        num_samples: output length in samples: 16384, 32768 or 65536.
        num_channels: output channels.
        upsample: `zeros` (transposed convolution) or `nn` (nearest neighbour, then convolution).
    """

    latent_dim: int = 100
    dim: int = 64
    kernel_len: int = 25
    num_samples: int = 16384
    num_channels: int = 1
    upsample: str = "zeros"

    def __post_init__(self):
        if self.num_samples not in LENGTHS:
            raise ValueError(f"num_samples must be one of {LENGTHS}. Received: {self.num_samples}")
        if self.upsample not in ("zeros", "nn"):
            raise ValueError(f"upsample must be 'zeros' or 'nn'. Received: {self.upsample!r}")

    @property
    def first_channels(self) -> int:
        """Channels of the 16 frames of the dense layer's output."""
        return self.dim * (16 if self.num_samples == 16384 else 32)

    @property
    def upsamplings(self) -> list["Upsampling"]:
        """The upsampling layers, first to last."""
        widths = [self.first_channels // 2**i for i in range(5)]
        strides = [4, 4, 4, 4, 4]
        if self.num_samples > 16384:
            widths.append(self.dim)
            strides.append(self.num_samples // 16384)
        widths.append(self.num_channels)
        return [
            Upsampling(c_in, c_out, self.kernel_len, stride, self.upsample)
            for (c_in, c_out), stride in zip(itertools.pairwise(widths), strides, strict=True)
        ]

    @property
    def layer_names(self) -> list[str]:
        """Prefix of each upsampling layer's kernel and bias in a TF1 checkpoint."""
        op = "conv2d_transpose" if self.upsample == "zeros" else "conv1d"
        return [f"G/upconv_{i}/{op}" for i in range(len(self.upsamplings))]

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight's TF1 name and shape (without the optional post-processing filter)."""
        units = FIRST_FRAMES * self.first_channels
        shapes = {"G/z_project/dense/kernel": (self.latent_dim, units), "G/z_project/dense/bias": (units,)}
        for name, layer in zip(self.layer_names, self.upsamplings, strict=True):
            shapes[f"{name}/kernel"] = layer.kernel_shape
            shapes[f"{name}/bias"] = (layer.channels_out,)
        return shapes


@dataclasses.dataclass(frozen=True)
class Upsampling:
    """One WaveGAN upsampling layer and its polyphase form.

    Output frame `s * m + p` is the sum over offsets d of `x[m - d] @ W[d, :, p]`: for `zeros`, W picks tap
    `pad + p + s * d` of the kernel; for `nn` it adds up the taps that meet the same repeated frame.
    """

    channels_in: int
    channels_out: int
    kernel_len: int
    stride: int
    upsample: str

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the kernel in a TF1 checkpoint."""
        if self.upsample == "zeros":
            return 1, self.kernel_len, self.channels_out, self.channels_in
        return self.kernel_len, self.channels_in, self.channels_out

    @functools.cached_property
    def offsets(self) -> range:
        """The offsets d that any phase needs, from the first to the last."""
        offsets = [d for _, d, _ in self.taps]
        return range(min(offsets), max(offsets) + 1)

    @functools.cached_property
    def taps(self) -> list[tuple[int, int, int]]:
        """(tap, offset d, phase p) of every non-zero entry of W."""
        s, k_len = self.stride, self.kernel_len
        if self.upsample == "zeros":
            pad = max(k_len - s, 0) // 2
            return [(k, (k - pad - p) // s, p) for k in range(k_len) for p in range(s) if (k - pad - p) % s == 0]
        pad = (k_len - 1) // 2
        return [(k, -((p + k - pad) // s), p) for k in range(k_len) for p in range(s)]

    def polyphase_kernel(self, kernel: tf.Tensor) -> tf.Tensor:
        """W, float32 `[offsets, channels_in, stride * channels_out]`, of a kernel in its TF1 shape; differentiable."""
        spread = np.zeros((len(self.offsets), self.stride, self.kernel_len), np.float32)
        for k, d, p in self.taps:
            spread[d - self.offsets.start, p, k] = 1
        kernel = kernel[0] if self.upsample == "zeros" else tf.transpose(kernel, [0, 2, 1])
        spread_kernel = tf.tensordot(spread, kernel, 1)
        w = tf.transpose(spread_kernel, [0, 3, 1, 2])
        return tf.reshape(w, [len(self.offsets), self.channels_in, self.stride * self.channels_out])

    def neighbours(self, x: tf.Tensor) -> tf.Tensor:
        """The input frames that go into each output block: `[B, n, C_in]` to `[B * n, offsets * C_in]`."""
        return _neighbours(x, self.offsets)

    def __call__(self, x: tf.Tensor, w: tf.Tensor, w_back: tf.Tensor | None = None) -> tf.Tensor:
        """`[B, n, channels_in]` and W, of one dtype, to `[B, stride * n, channels_out]`, without the bias.

        `w_back` is `transposed_kernel(W)` where it has been computed before.
        """
        frames = x.shape[1]
        y = _polyphase_product(x, w, w_back, self.offsets)
        return tf.reshape(y, [-1, frames * self.stride, self.channels_out])


def _neighbours(x: tf.Tensor, offsets: range) -> tf.Tensor:
    """Rows `[x[m - d] for d in offsets]` (zero outside), `[B * n, len(offsets) * C]`."""
    frames, channels = x.shape[1], x.shape[2]
    before = offsets[-1]
    padded = _padded(x, offsets)
    shifted = [padded[:, before - d : before - d + frames] for d in offsets]
    return tf.reshape(tf.concat(shifted, axis=-1), [-1, len(offsets) * channels])


def _padded(x: tf.Tensor, offsets: range) -> tf.Tensor:
    """x with the zero frames before and after it that the offsets, which hold 0, reach."""
    return tf.pad(x, [[0, 0], [offsets[-1], -offsets[0]], [0, 0]])


def transposed_kernel(w: tf.Tensor) -> tf.Tensor:
    """The matrix of the gradient in x: `w[d]` transposed, offsets in reverse, `[offsets * s * C_out, C_in]`."""
    return tf.reshape(tf.transpose(w[::-1], [0, 2, 1]), [-1, w.shape[1]])


def _polyphase_product(x: tf.Tensor, w: tf.Tensor, w_back: tf.Tensor | None, offsets: range) -> tf.Tensor:
    """`y[m] = sum_d x[m - d] @ w[d]` as one matrix product, with its own gradient.

    Automatic differentiation through the concatenation would cost more than twice as much at batch 1; the
    gradient in x is the same product with offsets negated and `w[d]` transposed.
    """
    frames, channels_out = x.shape[1], w.shape[2]

    @tf.custom_gradient
    def product(x, w):
        if channels_out <= NARROW:
            columns = None
            y = tf.nn.conv1d(_padded(x, offsets), w[::-1], 1, "VALID")
        else:
            columns = _neighbours(x, offsets)
            y = tf.matmul(columns, tf.reshape(w, [-1, channels_out]))

        def gradient(dy):
            flat_dy = tf.reshape(dy, [-1, channels_out])
            rows = _neighbours(x, offsets) if columns is None else columns
            dw = tf.reshape(tf.matmul(rows, flat_dy, transpose_a=True), w.shape)
            negated = range(-offsets[-1], -offsets[0] + 1)
            columns_back = _neighbours(tf.reshape(dy, [-1, frames, channels_out]), negated)
            dx = tf.matmul(columns_back, transposed_kernel(w) if w_back is None else w_back)
            return tf.reshape(dx, [-1, frames, w.shape[1]]), dw

        return tf.reshape(y, [-1, frames, channels_out]), gradient

    return product(x, w)


class WaveGANGenerator:
    """WaveGAN's generator on given weights.

    Args:
        architecture: hyper-parameters.
        weights: TF1 name to array, tensor or variable; shapes as in `Architecture.weight_shapes`, and optionally
            `G/pp_filt/conv1d/kernel` `[taps, num_channels, num_channels or 1]`.
        precision: `float32`, or `mixed_bfloat16`: convolutions in bfloat16, weights, dense layer and output in
            float32.
        trainable: recompute the polyphase kernels from `weights` at every call, so that gradients reach them.
            Otherwise they are computed once and kept as constants, which is what recovery wants.
        leak: slope of the ReLUs below 0 in the backward pass alone. In training it wakes channels that have fallen
            silent; 0 is the true derivative.

    Raises:
        ValueError: where a weight is missing or has another shape.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, np.ndarray | tf.Tensor | tf.Variable],
        precision: str = "float32",
        trainable: bool = False,
        leak: float = 0.0,
    ):
        if precision not in ("float32", "mixed_bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'mixed_bfloat16'. Received: {precision!r}")
        for name, shape in architecture.weight_shapes.items():
            if name not in weights:
                raise ValueError(f"weight {name} is missing. Received: {', '.join(sorted(weights))}")
            if tuple(weights[name].shape) != shape:
                raise ValueError(f"weight {name} must have shape {shape}. Received: {tuple(weights[name].shape)}")
        self.architecture = architecture
        self.weights = dict(weights)
        self.compute_dtype = tf.bfloat16 if precision == "mixed_bfloat16" else tf.float32
        self._relu = leaky_backward(leak) if leak else tf.nn.relu
        self._constant_kernels = None
        if not trainable:
            # Transposing them at every call would cost more than the rest of the backward pass at batch 1.
            kernels = self._polyphase_kernels()
            self._constant_kernels = [(w, transposed_kernel(w)) for w in kernels]

    def _polyphase_kernels(self) -> list[tf.Tensor]:
        names, layers = self.architecture.layer_names, self.architecture.upsamplings
        return [
            tf.cast(layer.polyphase_kernel(tf.convert_to_tensor(self.weights[f"{name}/kernel"])), self.compute_dtype)
            for name, layer in zip(names, layers, strict=True)
        ]

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        """z float32 `[B, latent_dim]` to audio float32 `[B, num_samples, num_channels]` in [-1, 1]."""
        return self.from_projected(self.project(z))

    def project(self, z: tf.Tensor) -> tf.Tensor:
        """The dense layer's output, float32 `[B, units]`, of z float32 `[B, latent_dim]`."""
        return tf.matmul(z, self.weights["G/z_project/dense/kernel"]) + self.weights["G/z_project/dense/bias"]

    def from_projected(self, h: tf.Tensor) -> tf.Tensor:
        """Audio float32 `[B, num_samples, num_channels]` of any values of the dense layer's output, `[B, units]`."""
        return self._forward(h, None)[0]

    def hidden(self, z: tf.Tensor) -> tf.Tensor:
        """The first upsampling layer's output before its ReLU, float32 `[B, 64, channels]`, of z float32 `[B, L]`."""
        h = tf.reshape(self.project(z), [-1, FIRST_FRAMES, self.architecture.first_channels])
        return tf.cast(self._upsample(0, self._relu(h)), tf.float32)

    def from_hidden(self, h: tf.Tensor) -> tf.Tensor:
        """Audio float32 `[B, num_samples, num_channels]` of any values of `hidden`, float32 `[B, 64, channels]`."""
        for i in range(1, len(self.architecture.upsamplings)):
            h = self._upsample(i, self._relu(h))
        return tf.tanh(tf.cast(h, tf.float32))

    def _upsample(self, i, h):
        """One upsampling layer with its bias, its kernel taken from the weights."""
        layer, name = self.architecture.upsamplings[i], self.architecture.layer_names[i]
        w = layer.polyphase_kernel(tf.convert_to_tensor(self.weights[f"{name}/kernel"]))
        return layer(tf.cast(h, self.compute_dtype), tf.cast(w, self.compute_dtype)) + self._bias(i)

    def first_activations(self, z: tf.Tensor) -> tf.Tensor:
        """What the first layer gives the second: z float32 `[B, latent_dim]` to float32 `[B, 16 * channels]`, >= 0."""
        return tf.nn.relu(self.project(z))

    def jacobian_product(self, z: tf.Tensor, directions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Audio at z and its derivatives along directions: forward-mode, one batched pass.

        Args:
            z: float32 `[B, latent_dim]`.
            directions: float32 `[B, K, latent_dim]`.

        Returns:
            audio float32 `[B, T, C]` and `dG/dz @ direction`, float32 `[B, K, T, C]`. The post-processing filter, if
            any, is included.
        """
        return self._forward(self.project(z), directions)

    def jacobian(self, z: np.ndarray) -> np.ndarray:
        """dG/dz at one z, float32 `[latent_dim]`, one row a latent direction: float64 `[latent_dim, T * C]`."""
        _, rows = self.jacobian_product(tf.constant(z[None]), tf.eye(len(z))[None])
        return np.asarray(rows, np.float64).reshape(len(z), -1)

    def singular_values(self, z: np.ndarray) -> np.ndarray:
        """Singular values of dG/dz at one z, float32 `[latent_dim]`, largest first; float64 `[latent_dim]`."""
        return np.linalg.svd(self.jacobian(z), compute_uv=False)

    def _kernels(self):
        """Each layer's polyphase kernel, and its `transposed_kernel` where that is a constant."""
        return self._constant_kernels or [(w, None) for w in self._polyphase_kernels()]

    def _bias(self, layer):
        return tf.cast(self.weights[f"{self.architecture.layer_names[layer]}/bias"], self.compute_dtype)

    def _forward(self, h, directions):
        arch = self.architecture
        kernels = self._kernels()
        h, k = tf.reshape(h, [-1, FIRST_FRAMES, arch.first_channels]), 0
        if directions is not None:
            k = directions.shape[1]
            dense = tf.convert_to_tensor(self.weights["G/z_project/dense/kernel"])
            tangent = tf.matmul(tf.reshape(directions, [-1, arch.latent_dim]), dense)
            tangent = tf.reshape(tangent, [-1, FIRST_FRAMES, arch.first_channels])
            tangent = tangent * _per_direction(tf.cast(h > 0, tf.float32), k)
        h = self._relu(h)
        last = len(kernels) - 1
        for i, (layer, (w, w_back)) in enumerate(zip(arch.upsamplings, kernels, strict=True)):
            h = layer(tf.cast(h, self.compute_dtype), w, w_back) + self._bias(i)
            if k:
                tangent = layer(tf.cast(tangent, self.compute_dtype), w)
            if i < last:
                if k:
                    tangent = tangent * _per_direction(tf.cast(h > 0, self.compute_dtype), k)
                h = self._relu(h)
        audio = tf.tanh(tf.cast(h, tf.float32))
        if k:
            tangent = tf.cast(tangent, tf.float32) * _per_direction(1 - tf.square(audio), k)
        if POST_FILTER in self.weights:
            kernel = tf.convert_to_tensor(self.weights[POST_FILTER])
            audio = tf.nn.conv1d(audio, kernel, 1, "SAME")
            tangent = tf.nn.conv1d(tangent, kernel, 1, "SAME") if k else None
        if not k:
            return audio, None
        return audio, tf.reshape(tangent, [-1, k, arch.num_samples, audio.shape[2]])


def _per_direction(x: tf.Tensor, k: int) -> tf.Tensor:
    """Repeat each row k times, to stand beside k tangents a row."""
    return tf.repeat(x, k, axis=0)


def leaky_backward(leak: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """ReLU whose derivative below 0 is `leak` in place of 0."""

    @tf.custom_gradient
    def relu(x):
        return tf.nn.relu(x), lambda upstream: tf.where(x > 0, upstream, leak * upstream)

    return relu


def initial_weights(architecture: Architecture, seed: int) -> dict[str, np.ndarray]:
    """Glorot-uniform kernels and zero biases, as TF1's layers start: TF1 name to float32 array."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in architecture.weight_shapes.items():
        if name.endswith("bias"):
            weights[name] = np.zeros(shape, np.float32)
            continue
        receptive = int(np.prod(shape[:-2]))
        limit = np.sqrt(6 / (receptive * (shape[-1] + shape[-2])))
        weights[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return weights
