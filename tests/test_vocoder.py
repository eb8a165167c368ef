"""What the vocoder is given and what it is trained by; and that it speaks at the pitch that it is given."""

import keras
import librosa
import numpy as np
import pytest
import tensorflow as tf

from models.features import FRAMES, FrontEnd, PrincipalCode
from models.vocoder import BLOCK, Adaptor, SpeechLosses, similarity, spectral_loss, voice_phase
from models.wavegan import Architecture, WaveGANGenerator, initial_weights

RATE, HOP = 16000, 256


def test_the_phase_advances_by_the_frequency_and_is_0_in_the_middle_of_each_block():
    hertz = np.float32(np.geomspace(90, 300, FRAMES))[None]
    phase = voice_phase(tf.constant(np.log2(hertz)), HOP / RATE).numpy().reshape(FRAMES // BLOCK, BLOCK)
    between = (hertz[0, 1:] + hertz[0, :-1]) / 2 * HOP / RATE * 2 * np.pi
    inside = np.delete(between, np.arange(BLOCK - 1, FRAMES - 1, BLOCK)).reshape(-1, BLOCK - 1)
    np.testing.assert_allclose(np.diff(phase, axis=1), inside, rtol=1e-4)
    # With one frequency a block is antisymmetric about its middle.
    steady = voice_phase(tf.fill([1, FRAMES], np.float32(np.log2(125.0))), HOP / RATE).numpy().reshape(-1, BLOCK)
    np.testing.assert_allclose(steady, -steady[:, ::-1], atol=1e-4)


def test_equal_sounds_have_no_spectral_distance_and_different_clips_little_similarity():
    random = np.random.default_rng(0)
    audio = tf.constant(0.1 * random.standard_normal((3, 16384, 1)), tf.float32)
    assert spectral_loss(audio, audio) == 0 and spectral_loss(audio, 2 * audio) > 1
    assert similarity(audio) < 1e-3
    np.testing.assert_allclose(similarity(tf.repeat(audio[:1], 3, axis=0)), 1, atol=1e-4)


@pytest.mark.slow
def test_it_speaks_at_the_pitch_it_is_given():
    """A small vocoder, trained on buzzes of many pitches, buzzes at ones that it was not trained on, by pYIN."""
    keras.utils.set_random_seed(0)
    front_end, architecture = FrontEnd(16384, RATE), Architecture(latent_dim=4, dim=12)
    hertz = 2 ** np.random.default_rng(0).uniform(np.log2(100), np.log2(220), 256)
    phase = 2 * np.pi * hertz[:, None] * np.arange(16384) / RATE
    buzz = 0.1 * sum(np.cos(k * phase) / k for k in range(1, 6)) * np.hanning(16384)
    audio = np.float32(buzz)[..., None]
    log_mel = front_end.log_mel(tf.constant(audio)).numpy().reshape(len(audio), -1)
    tracks = np.repeat(np.log2(hertz)[:, None], FRAMES, axis=1)
    features = np.float32(np.concatenate([log_mel, tracks, np.ones_like(tracks)], axis=1))
    code = PrincipalCode.fit(features, 4, 0)
    codes = np.float32(code.encode(features))
    weights = {name: tf.Variable(value) for name, value in initial_weights(architecture, 0).items()}
    network = WaveGANGenerator(architecture, weights, trainable=True, leak=0.02)
    adaptor, losses = Adaptor(front_end, code, architecture.upsamplings[0].channels_out), SpeechLosses(front_end, code)
    adaptor(codes[:1], codes[:1])
    variables = [v for name, v in weights.items() if "upconv" in name and "upconv_0" not in name]
    variables += [v.value for v in adaptor.trainable_variables]
    optimizer = keras.optimizers.Adam(1e-3, 0.6, 0.99)

    @tf.function
    def step(codes, audio):
        with tf.GradientTape() as tape:
            made = network.from_hidden(adaptor(codes, tf.zeros_like(codes)))
        _, upstream = losses.gradient(made, audio, code.decode(codes))
        optimizer.apply_gradients(zip(tape.gradient(made, variables, upstream), variables, strict=True))

    for number in range(750):
        rows = np.random.default_rng(number).integers(6, len(codes), 8)
        step(tf.constant(codes[rows]), tf.constant(audio[rows]))
    made = network.from_hidden(adaptor(codes[:6], np.zeros((6, 4), np.float32))).numpy()[..., 0]
    heard = [librosa.pyin(x, fmin=80, fmax=300, sr=RATE, frame_length=1024, hop_length=HOP)[0] for x in made]
    medians = np.array([np.median(f0[~np.isnan(f0)]) if not np.isnan(f0).all() else np.nan for f0 in heard])
    within = np.abs(12 * np.log2(medians / hertz[:6])) < 1
    assert within.sum() >= 3, medians
