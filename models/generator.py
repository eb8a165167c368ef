"""The generator that everything downstream sees, whatever file it came from.

`load_generator` reads a TF1 WaveGAN folder, a frozen graph, a SavedModel, a Keras file, or calls a factory.
"""

import hashlib
import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models import tf1
from models.checkpoints import load_keras
from models.graph_operations import require_function_inside, require_saved_model_inside
from models.wavegan import WaveGANGenerator
from utils.errors import UserError, one_line
from utils.priors import PRIORS
from utils.runs.files import read_json

LARGEST_DIFFERENCE = 1e-4  # between the native network and the frozen graph, on samples in [-1, 1]
DEFAULT_SAMPLE_RATE, DEFAULT_PRIOR = 16000, "uniform"  # the published models'
CONTRACT = ("latent_dim", "num_samples", "num_channels", "sample_rate", "prior")


class Generator:
    """A function of z with what one needs to know of it; tried out on two latents when made.

    Args:
        function: z float32 `[B, latent_dim]` to audio `[B, T, C]` or `[B, T]` in [-1, 1], for any B;
            differentiable.
        latent_dim: size of z.
        sample_rate: Hz.
        prior: `uniform` (in [-1, 1]) or `normal` (standard).
        name: where it came from, for messages and records.
        fingerprint: SHA-256 over its weights; None: over `name` and its output for fixed latents.
        network: the native WaveGAN inside, if it is one.
        notes: lines the user should see, e.g. which fallback was taken.

    Attributes:
        num_samples: T.
        num_channels: C.
        latent_dim, sample_rate, prior, name, fingerprint, network, notes: as above.

    Raises:
        UserError: when the trial does not give finite, differentiable audio, or an argument is out of range.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor], tf.Tensor],
        *,
        latent_dim: int,
        sample_rate: int,
        prior: str,
        name: str,
        fingerprint: str | None = None,
        network: WaveGANGenerator | None = None,
        notes: Sequence[str] = (),
    ):
        for attribute, value in (("latent_dim", latent_dim), ("sample_rate", sample_rate)):
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name}: {attribute} must be a whole number of at least 1. Received: {value!r}")
        if not isinstance(prior, str) or prior not in PRIORS:
            raise UserError(f"{name}: prior must be one of {', '.join(PRIORS)}. Received: {prior!r}")
        self._function = function
        self.latent_dim, self.sample_rate, self.prior = int(latent_dim), int(sample_rate), prior
        self.name, self.network, self.notes = name, network, list(notes)
        audio = self._trial()
        self.num_samples, self.num_channels = audio.shape[1:]
        self.fingerprint = fingerprint or hashlib.sha256(name.encode() + audio.tobytes()).hexdigest()

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """(num_samples, num_channels, sample_rate): what clips are read as."""
        return self.num_samples, self.num_channels, self.sample_rate

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        """z float32 `[B, latent_dim]` to audio float32 `[B, num_samples, num_channels]`."""
        audio = _as_audio(self._function(tf.convert_to_tensor(z, tf.float32)))
        audio.set_shape([None, self.num_samples, self.num_channels])  # not ensure_shape: it has no forward mode
        return audio

    def sample_prior(self, seed: int, n: int, start: int = 0) -> np.ndarray:
        """Latents `start` to `start + n` of a seed's endless list, float32 `[n, latent_dim]`.

        Row i depends on seed and `start + i` only, so that a clip is the same in any batch.
        """
        prior = PRIORS[self.prior]
        rows = [prior.draw(np.random.default_rng([seed, start + i]), self.latent_dim) for i in range(n)]
        return np.array(rows, np.float32).reshape(n, self.latent_dim)

    def _trial(self) -> np.ndarray:
        z = tf.constant(self.sample_prior(0, 2))
        try:
            with tf.GradientTape() as tape:
                tape.watch(z)
                audio = _as_audio(self._function(z))
            gradient = tape.gradient(audio, z)
        except Exception as error:  # whatever a foreign network may raise
            raise UserError(
                f"{self.name}: a trial call with z of shape {tuple(z.shape)} failed: "
                f"{type(error).__name__}: {one_line(error)}"
            ) from error
        if audio.shape.rank != 3 or audio.shape[0] != 2 or 0 in audio.shape:
            raise UserError(
                f"{self.name}: must give audio [B, T, C] or [B, T]. Received: shape {tuple(audio.shape)} for "
                f"z of shape {tuple(z.shape)}"
            )
        if gradient is None:
            raise UserError(f"{self.name}: its audio is not differentiable in z, which recovery needs")
        audio = audio.numpy()
        if not np.isfinite(audio).all():
            raise UserError(f"{self.name}: gives NaN or infinite samples")
        return audio


def _as_audio(output: Any) -> tf.Tensor:
    audio = tf.cast(tf.convert_to_tensor(output), tf.float32)
    return audio[..., None] if audio.shape.rank == 2 else audio


def load_generator(
    spec: str | Path,
    precision: str = "float32",
    *,
    z_tensor: str = tf1.Z_TENSOR,
    audio_tensor: str = tf1.AUDIO_TENSOR,
    sample_rate: int | None = None,
    prior: str | None = None,
    trust: bool = False,
) -> Generator:
    """Loads a generator from whatever `spec` names.

    - a TF1 folder: `infer.meta` and `model.ckpt*`. A WaveGAN is rebuilt as a native network and compared with
      the frozen graph; beyond a difference of 1e-4 the frozen graph is used and `notes` says so;
    - a frozen graph, `*.pb`;
    - a SavedModel folder: its signature `serving_default` or its `__call__`, z `[None, latent_dim]`;
    - a Keras file, `*.keras`;
    - `package.module:factory`: `factory()` returns a callable with the attributes `latent_dim`,
      `num_samples`, `num_channels`, `sample_rate` and `prior`.

    Args:
        spec: path or factory.
        precision: `float32` or `mixed_bfloat16`; the latter only changes native networks.
        z_tensor: input of a TF1 or frozen graph.
        audio_tensor: output of a TF1 or frozen graph.
        sample_rate: Hz. None: what the factory, or `generator.json` in the folder (`NAME.json` beside the
            file `NAME.pb` or `NAME.keras`) says, else 16000.
        prior: `uniform` or `normal`. None: as above, else `uniform`.
        trust: run the Python code that `spec` brings: a factory, Lambda layers, graph operations that reach outside
            of TensorFlow.

    Raises:
        UserError: when nothing there can be loaded, and says what was looked for and found; or for code that is not
            trusted.
    """
    path = Path(spec)
    if not path.exists() and re.fullmatch(r"[\w.]+:\w+", str(spec)):
        if not trust:
            raise UserError(f"--generator {spec}: a factory is Python code, which is run only with --trust")
        return _with_precision_note(_from_factory(str(spec), sample_rate, prior), spec, precision)
    if not path.exists():
        raise UserError(
            f"--generator {spec}: no such file or folder; a generator is a TF1 folder (infer.meta and "
            "model.ckpt*), a SavedModel folder, a .pb file, a .keras file, or package.module:factory"
        )
    description = path / tf1.DESCRIPTION if path.is_dir() else path.with_suffix(".json")
    described = read_json(description) if description.is_file() else {}
    if not isinstance(described, dict):
        raise UserError(f"{description}: must hold a JSON object")
    facts = {
        "sample_rate": sample_rate or described.get("sample_rate", DEFAULT_SAMPLE_RATE),
        "prior": prior or described.get("prior", DEFAULT_PRIOR),
        "name": str(spec),
    }
    if path.is_dir() and (path / "saved_model.pb").is_file():
        generator = _from_saved_model(path, facts, trust)
    elif path.is_dir() and list(path.glob("*infer.meta")):
        generator = _from_tf1(path, precision, z_tensor, audio_tensor, facts, trust)
    elif path.suffix == ".pb":
        function, latent_dim = tf1.as_function(tf1.read_frozen(path), path, z_tensor, audio_tensor, trust=trust)
        generator = Generator(function, latent_dim=latent_dim, fingerprint=_hash_files([path]), **facts)
    elif path.suffix == ".keras":
        generator = _from_keras(path, facts, trust)
    else:
        found = tf1.list_folder(path) if path.is_dir() else f"a file with suffix {path.suffix or '(none)'!r}"
        raise UserError(
            f"--generator {spec}: looked for infer.meta with model.ckpt* (TF1 folder), saved_model.pb "
            f"(SavedModel folder), *.pb or *.keras; found {found}"
        )
    return _with_precision_note(generator, spec, precision)


def _with_precision_note(generator: Generator, spec: str | Path, precision: str) -> Generator:
    if precision != "float32" and generator.network is None:
        generator.notes.append(f"{spec}: not a native WaveGAN: it computes as saved, not in {precision}")
    return generator


def _from_tf1(folder: Path, precision: str, z_tensor: str, audio_tensor: str, facts: dict, trust: bool) -> Generator:
    graph_path, prefix = tf1.find_checkpoint(folder)
    graph_def = tf1.freeze(graph_path, prefix, audio_tensor, trust=trust)
    function, latent_dim = tf1.as_function(graph_def, graph_path, z_tensor, audio_tensor, trust=trust)
    files = [graph_path, Path(f"{prefix}.index"), *sorted(folder.glob(f"{prefix.name}.data-*"))]
    frozen = Generator(function, latent_dim=latent_dim, fingerprint=_hash_files(files), **facts)
    found = tf1.read_wavegan(prefix, frozen.num_samples)
    if found is None:
        frozen.notes.append(f"{folder}: its variables are not a WaveGAN's: the frozen graph is used")
        return frozen
    architecture, weights = found
    weights = {name: tf.constant(value) for name, value in weights.items()}
    native = WaveGANGenerator(architecture, weights)
    z = frozen.sample_prior(0, 4)
    expected, rebuilt = frozen(z), native(tf.constant(z))
    difference = np.inf
    if rebuilt.shape == expected.shape:
        difference = float(tf.reduce_max(tf.abs(rebuilt - expected)))
    if not difference <= LARGEST_DIFFERENCE:
        frozen.notes.append(
            f"{folder}: the native network differs from the frozen graph by {difference:.1e}, more than "
            f"{LARGEST_DIFFERENCE:.0e}: the frozen graph is used"
        )
        return frozen
    if precision != "float32":
        native = WaveGANGenerator(architecture, weights, precision)
    return Generator(
        native,
        latent_dim=latent_dim,
        fingerprint=frozen.fingerprint,
        network=native,
        notes=[f"{folder}: native WaveGAN, equal to the frozen graph within {difference:.1e}"],
        **facts,
    )


def _from_saved_model(folder: Path, facts: dict, trust: bool) -> Generator:
    if not trust:
        require_saved_model_inside(folder)
    try:
        model = tf.saved_model.load(str(folder))
    except Exception as error:  # damaged files surface as errors of many kinds
        raise UserError(f"{folder}: damaged, or no SavedModel ({one_line(error)})") from error
    function = model.signatures.get("serving_default")
    if function is None:
        traced = model.__call__.concrete_functions if callable(model) else []
        if not traced:
            raise UserError(
                f"{folder}: looked for the signature serving_default or a traced __call__; found the "
                f"signatures {', '.join(model.signatures) or 'none'}"
            )
        function = traced[0]
    if not trust:
        require_function_inside(function, folder)
    inputs = [spec for spec in tf.nest.flatten(function.structured_input_signature) if _is_latent(spec)]
    outputs = tf.nest.flatten(function.structured_outputs)
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(
            f"{folder}: must map one float z [None, latent_dim] to one audio tensor. Received: inputs "
            f"{function.structured_input_signature}, outputs {function.structured_outputs}"
        )
    files = [folder / "saved_model.pb", *sorted((folder / "variables").glob("*"))]

    def call(z):
        # Positional for __call__, by name for a signature.
        audio = function(**{inputs[0].name: z}) if function.structured_input_signature[1] else function(z)
        audio = tf.nest.flatten(audio)[0]
        _model = model  # noqa: F841  (a loaded function does not keep its variables alive)
        return audio

    return Generator(call, latent_dim=inputs[0].shape[1], fingerprint=_hash_files(files), **facts)


def _is_latent(spec: Any) -> bool:
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank != 2:
        return False
    return spec.dtype.is_floating and spec.shape[1] is not None


def _from_keras(path: Path, facts: dict, trust: bool) -> Generator:
    model = load_keras(path, trust=trust)
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(shape[1], int):
        raise UserError(f"{path}: must have one input of shape [None, latent_dim]. Received: {shape}")
    return Generator(lambda z: model(z, training=False), latent_dim=shape[1], fingerprint=_hash_files([path]), **facts)


def _from_factory(spec: str, sample_rate: int | None, prior: str | None) -> Generator:
    module_name, _, factory_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), factory_name)()
    except Exception as error:  # the user's own code
        raise UserError(f"--generator {spec}: {type(error).__name__}: {one_line(error)}") from error
    given = {"sample_rate": sample_rate, "prior": prior}
    facts = {name: given.get(name) or getattr(function, name, None) for name in CONTRACT}
    missing = [name for name, value in facts.items() if value is None]
    if missing or not callable(function):
        raise UserError(
            f"--generator {spec}: must return a callable with the attributes {', '.join(CONTRACT)}. "
            f"Received: {type(function).__name__}, " + (f"without {', '.join(missing)}" if missing else "not callable")
        )
    shape = facts.pop("num_samples"), facts.pop("num_channels")
    generator = Generator(function, name=spec, **facts)
    if shape != (generator.num_samples, generator.num_channels):
        raise UserError(
            f"--generator {spec}: says num_samples, num_channels = {shape}; its audio has "
            f"{(generator.num_samples, generator.num_channels)}"
        )
    return generator


def _hash_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
