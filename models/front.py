"""A start for the generator's first two layers, in closed form: they follow `ClassMap` into what the vocoder takes.

T is affine within each cell of z's first entry, and at a threshold t its affine map changes. For a direction d, the
pair relu(M (z_0 - t) + d z) - relu(M (z_0 - t) - d z) is 0 well below t and 2 d z well above, so pairs of the dense
layer's units carry the change, others the first cell's map, and the second layer is a regression on them, solved
exactly. What the vocoder is given of pitch, a bump and a phase, is a function of each frame's F0, alike in all classes:
units that open at one F0 after the other make it piecewise linear.
"""

import numpy as np
import scipy.linalg
import tensorflow as tf

from models.class_map import ClassMap
from models.features import BANDS, FRAMES, PrincipalCode
from models.gan_training import PRIOR
from models.wavegan import FIRST_FRAMES, Architecture, Upsampling

STEEPNESS = 16.0  # M, where the d z have unit variance: higher is more exact, and harder on every later layer
SCALE = 0.2  # of the dense layer, the second one's kernel being larger by as much
PITCHES = 1 / 8  # of the units, for F0
GATED = 0.7  # of the others, for the thresholds
PITCH_SLOPE, PITCH_RANGE = 4.0, 2.0  # of a unit, by octaves; in standard deviations of log F0
DRAWS, CHUNK = 4000, 200
RIDGE = 1e-6  # of the mean square of the activations


def dense_start(
    architecture: Architecture, class_map: ClassMap, code: PrincipalCode, mixing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel `[L, units]` and bias `[units]` of the dense layer.

    The second layer's kernel is the same at every frame, so the units must be: each is one principal component of what
    the features of four frames, a frame of the dense layer, have of the first cell's map or of a change.

    Args:
        architecture: of the generator.
        class_map: T.
        code: of w.
        mixing: float `[L, 64 * n]`, what else the layer is to hold: combinations of z, n a frame.
    """
    channels = architecture.first_channels
    slopes, offsets = (np.float64(x)[class_map.order] for x in (class_map.slopes, class_map.offsets))
    patches = _patches(np.float64(code.deviation[:, None] * code.components))
    changes = list(zip(class_map.thresholds, np.diff(slopes, axis=0), np.diff(offsets, axis=0), strict=True))
    knots = int(PITCHES * channels)
    pairs = int(GATED * (channels - knots)) // (2 * max(1, len(changes)))
    parts = [_pitch_units(class_map, code, knots)]
    for threshold, slope, offset in changes:
        rows, shifts = _components(np.einsum("ij,fjn->fin", slope, patches), offset @ patches, pairs)
        parts += [_gated(sign * rows, sign * shifts, threshold) for sign in (1, -1)]
    left = channels - sum(rows.shape[2] for rows, _ in parts)
    base = np.einsum("ij,fjn->fin", slopes[0], patches)
    mean = _patches(np.float64(code.mean)[None])[:, 0]
    noise = np.float64(mixing).reshape(len(mixing), FIRST_FRAMES, -1).transpose(1, 0, 2)[:, :, : left // 4]
    rows, shifts = _components(base, offsets[0] @ patches + mean - mean.mean(axis=0), left // 2 - noise.shape[2])
    rows = np.concatenate([rows, noise], axis=2)
    shifts = np.concatenate([shifts, np.zeros((FIRST_FRAMES, noise.shape[2]))], axis=1)
    parts += [(sign * rows, sign * shifts) for sign in (1, -1)]
    kernel, bias = (np.concatenate(x, axis=-1) for x in zip(*parts, strict=True))
    lacking = channels - kernel.shape[2]
    kernel, bias = np.pad(kernel, [(0, 0), (0, 0), (0, lacking)]), np.pad(bias, [(0, 0), (0, lacking)])
    kernel = kernel.transpose(1, 0, 2).reshape(len(mixing), -1)
    return np.float32(SCALE * kernel), np.float32(SCALE * bias.reshape(-1))


def _pitch_units(class_map, code, count):
    """Maps and biases of units that open where a frame's F0 passes one of so many, evenly spaced in Hz."""
    part, weight = slice(-2 * FRAMES, -FRAMES), np.float64(code.weights[-FRAMES - 1])
    loadings = np.float64(code.deviation[:, None] * code.components[:, part]) / weight
    by_frame = lambda x: x.reshape(-1, FIRST_FRAMES, FRAMES // FIRST_FRAMES).mean(axis=2)  # noqa: E731
    rows = 3**0.5 * by_frame(class_map.slopes[0] @ loadings)
    log_f0 = by_frame(class_map.offsets[0] @ loadings + code.mean[part] / weight)[0]
    spread = PITCH_RANGE * np.sqrt(np.square(rows).sum(axis=0).mean() / 3)
    knots = np.log2(np.linspace(*2 ** (log_f0.mean() + np.array([-spread, spread])), count + 1)[:-1])
    rows = np.repeat(rows.T[..., None], count, axis=2)
    return PITCH_SLOPE * rows, PITCH_SLOPE * (log_f0[:, None] - knots)


def _patches(loadings):
    """Loadings `[L, 4224]` of the features by frames of the dense layer, `[16, L, 4 * 66]`."""
    log_mel, others = loadings[:, : FRAMES * BANDS], loadings[:, FRAMES * BANDS :]
    by_frame = [log_mel.reshape(-1, FRAMES, BANDS), *others.reshape(-1, 2, FRAMES, 1).transpose(1, 0, 2, 3)]
    joined = np.concatenate(by_frame, axis=2)
    return joined.reshape(len(loadings), FIRST_FRAMES, -1).transpose(1, 0, 2)


def _components(maps, offsets, count):
    """The leading principal components of maps `[16, L, n]` with offsets `[16, n]`, alike for all frames.

    Returns maps from z `[16, L, count]` that make values of unit variance on average, and their offsets `[16, count]`.
    """
    rows = np.concatenate([maps, offsets[:, None]], axis=1).reshape(-1, maps.shape[2])
    values, vectors = np.linalg.eigh(rows.T @ rows / len(maps))
    vectors = vectors[:, ::-1][:, :count] / np.sqrt(np.maximum(values[::-1][:count], 1e-9))
    return 3**0.5 * maps @ vectors, offsets @ vectors


def _gated(rows, shifts, threshold):
    """Maps and biases that are open above the threshold of z's first entry."""
    rows = rows.copy()
    rows[:, 0] += STEEPNESS
    return rows, shifts - STEEPNESS * threshold


def upsampling_start(layer: Upsampling, hidden, target, seed: int, latent_dim: int) -> np.ndarray:
    """The kernel, in its TF1 shape, of the layer after the dense one, by least squares.

    Args:
        layer: a transposed convolution.
        hidden: z float32 `[B, L]` to the layer's input `[B, 16, C_in]`.
        target: z to its wanted output `[B, 64, C_out]`.
        seed: of the draws.
        latent_dim: L.
    """
    z = PRIOR.draw(np.random.default_rng([seed, 0x15]), (DRAWS, latent_dim)).astype(np.float32)
    size = len(layer.offsets) * layer.channels_in
    gram, moment = np.zeros((size, size)), np.zeros((size, layer.stride * layer.channels_out))

    @tf.function(autograph=False)
    def products(z):
        rows = tf.cast(layer.neighbours(hidden(z)), tf.float64)
        wanted = tf.cast(tf.reshape(target(z), [-1, layer.stride * layer.channels_out]), tf.float64)
        return tf.matmul(rows, rows, transpose_a=True), tf.matmul(rows, wanted, transpose_a=True)

    for first in range(0, len(z), CHUNK):
        a, b = products(tf.constant(z[first : first + CHUNK]))
        gram += a.numpy()
        moment += b.numpy()
    kernel = np.zeros((layer.kernel_len, layer.channels_in, layer.channels_out), np.float32)
    for phase in range(layer.stride):
        taps = [(k, d - layer.offsets.start) for k, d, p in layer.taps if p == phase]
        chosen = np.concatenate([np.arange(layer.channels_in) + d * layer.channels_in for _, d in taps])
        part = gram[np.ix_(chosen, chosen)]
        part[np.diag_indices(len(part))] += RIDGE * np.trace(part) / len(part)
        wanted = moment[chosen, phase * layer.channels_out : (phase + 1) * layer.channels_out]
        solved = scipy.linalg.solve(part, wanted, assume_a="pos")
        for (k, _), block in zip(taps, np.split(solved, len(taps)), strict=True):
            kernel[k] = block
    return kernel.transpose(0, 2, 1)[None]
