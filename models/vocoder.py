"""The later half of a WaveGAN generator as a vocoder: from the features of a clip to the clip."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from models.features import BANDS, FRAMES, FrontEnd, PrincipalCode
from utils.spectrograms import magnitude, stft

PITCH_CENTRES = np.linspace(6.2, 8.8, 14, dtype=np.float32)  # base-2 Hz: 74 to 446 Hz
PITCH_WIDTH = 0.2  # octaves
BLOCK = 4  # frames to one run of the voice's phase
NOISES = 6  # channels
WINDOWS = ((256, 128), (512, 128), (1024, 256), (2048, 512))  # of the spectral loss: frame and hop
FLOOR = 1e-2  # of magnitudes under a logarithm
LEVEL_FLOOR = 1e-5  # of a frame's power
SOFT = 1e-3  # root mean square below which a frame counts as silent in "hum"
WEIGHTS = {"spectral": 1.0, "log_mel": 1.5, "voice": 2.0, "level": 0.3, "hum": 0.3, "similarity": 0.3, "code": 2.0}
FADING = {"hum": 0.05, "similarity": 0.02}  # a loss below which its gradient fades, since it is never 0


class Adaptor(keras.Model):
    """Codes w and their latents z, `[B, L]` each, to the later half's input `[B, 64, channels]`, before the ReLU.

    One convolution of three taps over log-mel, the fundamental frequency as 14 bumps over the octaves, periodicity,
    the bumps times the cosine and the sine of the voice's phase (`voice_phase`), and `NOISES` fixed random combinations
    of z a frame. Without the last two a vocoder has nothing to tell one frame of a steady sound from the next, and hums
    at their rate.

    Args:
        front_end: of the features.
        code: of w.
        channels: of the output.
    """

    def __init__(self, front_end: FrontEnd, code: PrincipalCode, channels: int):
        super().__init__()
        self.front_end, self.code = front_end, code
        self.convolution = layers.Conv1D(channels, 3, padding="same")
        latent_dim = len(code.components)
        mixing = np.random.default_rng(0).standard_normal((latent_dim, FRAMES * NOISES)) / latent_dim**0.5
        mixing[0] = 0  # which stands for the class
        self.mixing = np.float32(3**0.5 * mixing)

    def call(self, w: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        features = self.code.decode(w)
        log_mel = tf.reshape(features[:, : FRAMES * BANDS], [-1, FRAMES, BANDS])
        log_f0, periodicity = features[:, -2 * FRAMES : -FRAMES], features[:, -FRAMES:, None]
        pitch = 2 * tf.exp(-tf.square((log_f0[..., None] - PITCH_CENTRES) / PITCH_WIDTH) / 2)
        phase = voice_phase(log_f0, self.front_end.hop / self.front_end.sample_rate)[..., None]
        noise = tf.reshape(tf.matmul(z, self.mixing), [-1, FRAMES, NOISES])
        parts = [log_mel, pitch, 2 * periodicity, tf.ones_like(periodicity)]
        return self.convolution(tf.concat([*parts, pitch * tf.cos(phase), pitch * tf.sin(phase), noise], axis=2))


def voice_phase(log_f0: tf.Tensor, seconds: float) -> tf.Tensor:
    """Phase of a voice in the middle of each frame, in radians, 0 in the middle of every block of `BLOCK` frames.

    Set anew every 64 ms, which is hardly heard, it is a function of the frequencies nearby, which a generator can
    learn; that of the whole clip is not.

    Args:
        log_f0: base-2 Hz `[B, 64]`.
        seconds: from one frame to the next.
    """
    cycles = tf.reshape(seconds * tf.pow(2.0, log_f0), [-1, FRAMES // BLOCK, BLOCK])
    within = tf.cumsum(cycles, axis=2) - cycles / 2
    middle = tf.reduce_sum(cycles, axis=2, keepdims=True) / 2
    return tf.reshape(2 * np.pi * (within - middle), [-1, FRAMES])


class SpeechLosses:
    """Distances between generated and wanted audio, and their balanced gradient.

    spectral: L1 of log-spectrograms of four windows. log_mel: its squared error; without it the vocoder is 10 dB too
    quiet and learns slower. voice: L1 of the normalised autocorrelation at the lags of voices. level: squared error of
    the frames' log root mean square, which the median answer of an L1 leaves too low. hum: power of what all frames of
    a clip have in common, each brought to one level, as upsampling layers leave it in pauses. similarity: of different
    clips' waveforms, which magnitudes never see. code: squared error of
    log-mel in the whitened code, without which a generator learns an average word.

    Args:
        front_end: of the features.
        code: of the whitened code.
    """

    def __init__(self, front_end: FrontEnd, code: PrincipalCode):
        self.front_end, self.code = front_end, code

    def __call__(self, audio: tf.Tensor, targets: tf.Tensor, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scalars by name.

        Args:
            audio: float32 `[B + P, T, C]`; rows beyond the targets' are told by hum, similarity and code alone.
            targets: float32 `[B, T, C]`.
            features: float32 `[B + P, 4224]`, of the code.
        """
        made, log_mel = audio[: targets.shape[0]], self.front_end.log_mel(audio)
        coded = tf.reshape(features[:, : FRAMES * BANDS], [-1, FRAMES, BANDS])
        correlations = (self.front_end.autocorrelation(x) for x in (made, targets))
        return {
            "spectral": spectral_loss(made, targets),
            "log_mel": tf.reduce_mean(tf.square(log_mel[: targets.shape[0]] - self.front_end.log_mel(targets))),
            "voice": tf.reduce_mean(tf.abs(next(correlations) - next(correlations))),
            "level": tf.reduce_mean(tf.square(self._level(made) - self._level(targets))),
            "hum": self._hum(audio),
            "similarity": similarity(audio),
            "code": tf.reduce_mean(tf.square(self.code.log_mel_difference(log_mel - coded))),
        }

    def gradient(
        self, audio: tf.Tensor, targets: tf.Tensor, features: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The losses, and the sum of their gradients at the audio, each scaled to the norm of its weight."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(audio)
            losses = self(audio, targets, features)
        upstream = tf.zeros_like(audio)
        for name, weight in WEIGHTS.items():
            fade = tf.minimum(1.0, losses[name] / FADING[name]) if name in FADING else 1.0
            upstream += weight * fade * unit(tape.gradient(losses[name], audio))
        return losses, upstream

    def _hum(self, audio):
        frames, level = _frames_and_levels(audio)
        return tf.reduce_mean(tf.square(tf.reduce_mean(frames / level, axis=1)))

    def _level(self, audio):
        hop = self.front_end.hop
        power = tf.reduce_mean(tf.square(tf.reshape(audio, [-1, FRAMES, hop * audio.shape[2]])), axis=2)
        return 0.5 * tf.math.log(power + LEVEL_FLOOR)


def _frames_and_levels(audio):
    """Frames `[B, 64, n]` of one hop, and their root mean square beside `SOFT`, `[B, 64, 1]`."""
    frames = tf.reshape(audio, [-1, FRAMES, audio.shape[1] * audio.shape[2] // FRAMES])
    return frames, tf.sqrt(tf.reduce_mean(tf.square(frames), axis=2, keepdims=True) + SOFT**2)


def spectral_loss(audio: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Sum over `WINDOWS` of the L1 of log-magnitudes of audio `[B, T, C]`; a scalar."""
    losses = []
    for frame, hop in WINDOWS:
        a, b = (tf.math.log(magnitude(stft(x, frame, hop)) + FLOOR) for x in (audio, targets))
        losses.append(tf.reduce_mean(tf.abs(a - b)))
    return tf.add_n(losses)


def similarity(audio: tf.Tensor) -> tf.Tensor:
    """Mean squared cosine between the waveforms of different clips `[B, T, C]`, B of at least 2; in [0, 1]."""
    count = tf.shape(audio)[0]
    rows = tf.reshape(audio, [count, -1])
    rows = rows / (tf.norm(rows, axis=1, keepdims=True) + 1e-6)
    cosines = tf.linalg.set_diag(tf.matmul(rows, rows, transpose_b=True), tf.zeros([count]))
    return tf.reduce_sum(tf.square(cosines)) / tf.cast(tf.maximum(count * (count - 1), 1), tf.float32)


def unit(gradient: tf.Tensor) -> tf.Tensor:
    """A gradient scaled to norm 1, or 0 where it is 0."""
    return gradient / (tf.norm(gradient) + 1e-12)
