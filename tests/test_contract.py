"""models/contract.py: generators with one bad property each are refused, or warned of, in one line that names it."""

import re
import sys

import numpy as np
import pytest
import tensorflow as tf

from models.generator import load_generator
from utils.errors import UserError
from utils.runs.batches import render


class Sound:
    """Harmless; the others differ from it by one thing."""

    latent_dim, num_samples, num_channels, sample_rate, prior = 4, 1024, 1, 16000, "normal"

    def __init__(self):
        rng = np.random.default_rng(0)
        time = np.arange(self.num_samples) / self.sample_rate
        self.mix = tf.constant(rng.normal(size=(self.latent_dim, 64)), tf.float32)
        self.partials = tf.constant([0.02 * np.sin(2 * np.pi * (50 + 30 * k) * time) for k in range(64)], tf.float32)

    def __call__(self, z):
        return self.change(tf.tanh(tf.tanh(z @ self.mix) @ self.partials)[..., None], z)

    def change(self, audio, z):
        return audio


def sound(change, **attributes):
    return lambda: type("Changed", (Sound,), {"change": lambda self, audio, z: change(audio, z), **attributes})()


def ends_the_process():
    sys.exit("no GPU found, giving up")


def changes_its_length(audio, z):
    return audio[:, : 1000 + int(3 * z[0, 0])] if tf.executing_eagerly() else audio


class Counts(Sound):
    """Noise that tracing keeps."""

    calls = 0

    def change(self, audio, z):
        self.calls += 1
        return audio * (1 + 0.01 * self.calls)


class HasNoRate(Sound):
    @property
    def sample_rate(self):
        raise RuntimeError("no rate yet")


REFUSED = {
    "noise": (
        sound(lambda audio, z: audio + 0.001 * tf.random.normal(tf.shape(audio))),
        "other audio for the same z at each call",
    ),
    "dropout": (sound(lambda audio, z: tf.nn.dropout(audio, 0.1)), "other audio for the same z at each call"),
    "NumPy's noise": (
        sound(lambda audio, z: audio + np.random.normal(0, 0.01, (1024, 1)).astype("f")),
        "other audio for the same z at each call",
    ),
    "state": (Counts, "other audio for the same z at each call"),
    "another answer in a graph": (
        sound(lambda audio, z: audio if tf.executing_eagerly() else audio[:, ::-1]),
        "other audio when traced by tf.function",
    ),
    "batch statistics": (
        sound(lambda audio, z: audio - 0.05 * tf.reduce_mean(audio, 0, keepdims=True)),
        "depends on the other latents of the batch",
    ),
    "int16's scale": (sound(lambda audio, z: 30000 * audio), r"reaches \d+ and must be in \[-1, 1\]"),
    "not traceable": (
        sound(lambda audio, z: audio * float(tf.reduce_max(z).numpy())),
        "cannot be traced by tf.function, .* 'SymbolicTensor' object has no attribute 'numpy'",
    ),
    "a Python if": (
        sound(lambda audio, z: audio if tf.reduce_max(z) > 0 else -audio),
        "cannot be traced by tf.function, .* as a Python `bool` is not allowed",
    ),
    "batch of two": (
        sound(lambda audio, z: audio + 0 * tf.ensure_shape(z, [2, 4])[:, :1, None]),
        r"any batch size B; it fails at B = 1, 3: InvalidArgumentError: .*expected shape \[2,4\]",
    ),
    "batch of one": (sound(lambda audio, z: audio + 0 * tf.ensure_shape(z, [1, 4])[:, :1, None]), "at B = 2, 3: "),
    "batch of sixteen": (
        sound(lambda audio, z: audio + 0 * tf.ensure_shape(z, [16, 4])[:, :1, None]),
        r"at B = 1, 2, 3: .*expected shape \[16,4\]",
    ),
    "rows of its own": (sound(lambda audio, z: tf.reshape(audio, [2, -1, 1])), r"must give audio \[B, T, C\]"),
    "rank": (sound(lambda audio, z: audio[..., None]), r"must give audio \[B, T, C\] or \[B, T\]. Received: shape"),
    "changing length": (sound(changes_its_length), "the length of its audio must not change"),
    "int16": (sound(lambda audio, z: tf.cast(30000 * audio, tf.int16)), "must give float audio .* Received: int16"),
    "complex": (sound(lambda audio, z: tf.complex(audio, audio)), "must give float audio .* Received: complex64"),
    "NaN": (
        sound(lambda audio, z: audio * tf.where(z[:, :1, None] > 0.5, np.nan, 1.0)),
        r"NaN or infinite samples, for \d+ of 32 latents",
    ),
    "NumPy": (
        sound(lambda audio, z: tf.numpy_function(lambda a: a, [audio], tf.float32)),
        "not differentiable in z, or does not depend on it",
    ),
    "silence": (sound(lambda audio, z: 0 * audio), "not differentiable in z, or does not depend on it"),
    "a dictionary": (sound(lambda audio, z: {"audio": audio}), "at B = 1, 2, 3: ValueError"),
    "exits": (ends_the_process, "SystemExit: no GPU found, giving up"),
    "exits when called": (sound(lambda audio, z: sys.exit("no GPU")), "at B = 1, 2, 3: SystemExit: no GPU"),
    "has no rate": (HasNoRate, "RuntimeError: no rate yet"),
}
NOTED = {
    "nothing": (Sound, None),
    "float64": (sound(lambda audio, z: tf.cast(audio, tf.float64)), None),
    "two dimensions": (sound(lambda audio, z: audio[..., 0]), None),
    "a little loud": (sound(lambda audio, z: 4 * audio), r"its audio reaches 1\.\d+, beyond the range \[-1, 1\]"),
    "NaN at 0": (
        sound(lambda audio, z: audio + 0.1 * tf.sin((z / tf.norm(z, axis=1, keepdims=True))[:, :1, None])),
        "NaN or infinite samples where all of z is 0",
    ),
    "NaN at an edge": (
        sound(lambda audio, z: audio * tf.where(z[:, :1, None] > 2.9, np.nan, 1.0)),
        "NaN or infinite samples where all of z is 3",
    ),
}


def load(monkeypatch, factory):
    monkeypatch.setattr(sys.modules[__name__], "factory", factory, raising=False)
    return load_generator(f"{__name__}:factory", trust=True)


@pytest.mark.parametrize("name", REFUSED)
def test_a_property_that_inversion_cannot_do_with_is_named(monkeypatch, name):
    factory, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        load(monkeypatch, factory)
    assert "\n" not in str(caught.value) and f"{__name__}:factory: " in str(caught.value)


@pytest.mark.parametrize("name", NOTED)
def test_what_inversion_can_do_with_is_noted(monkeypatch, name):
    factory, note = NOTED[name]
    generator = load(monkeypatch, factory)
    assert (generator.num_samples, generator.num_channels) == (1024, 1)
    assert [bool(re.search(note or "", found)) for found in generator.notes] == ([True] if note else [])


def test_nan_is_no_clip(monkeypatch):
    generator = load(monkeypatch, NOTED["NaN at an edge"][0])
    z = np.zeros((5, 4), np.float32)
    assert np.isfinite(list(render(generator, z, 2))).all()
    z[3] = 3
    with pytest.raises(UserError, match="factory: gives NaN or infinite samples for latent 3 of 5"):
        list(render(generator, z, 2))


def test_a_script_says_it_in_one_line(run_main, monkeypatch, tmp_path):
    for factory, message in (("ends_the_process", "no GPU found, giving up"), ("HasNoRate", "no rate yet")):
        given = ("--generator", f"{__name__}:{factory}", "--trust", "--n", 1, "--output", tmp_path / "out")
        done = run_main("generate.py", *given)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
