"""The generator that everything downstream sees, whatever file it came from.

`load_generator` reads a TF1 WaveGAN folder, a frozen graph, a SavedModel, a Keras file, or calls a factory.
"""

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models import tf1
from models.checkpoints import load_keras
from models.contract import TRIAL, as_audio, try_out
from models.graph_operations import require_arithmetic_function, require_arithmetic_saved_model
from models.wavegan import WaveGANGenerator
from utils.errors import UserError, one_line
from utils.priors import PRIORS
from utils.runs.files import literal_path, read_json

LARGEST_DIFFERENCE = 1e-4  # between the native network and the frozen graph, on samples in [-1, 1]
DEFAULT_SAMPLE_RATE, DEFAULT_PRIOR = 16000, "uniform"  # the published models'
CONTRACT = ("latent_dim", "num_samples", "num_channels", "sample_rate", "prior")


class Generator:
    """A function of z with what one needs to know of it; tried out when made (`models.contract`).

    Args:
        function: z float32 `[B, latent_dim]` to audio `[B, T, C]` or `[B, T]` in [-1, 1], for any B;
            differentiable.
        latent_dim: size of z.
        sample_rate: Hz.
        prior: `uniform` (in [-1, 1]) or `normal` (standard).
        name: where it came from, for messages and records.
        fingerprint: SHA-256 over its weights; None: over `name` and its output for fixed latents.
        network: the native WaveGAN that `function` is, if it is one; it needs no trial.
        notes: lines the user should see, e.g. which fallback was taken.

    Attributes:
        num_samples: T.
        num_channels: C.
        latent_dim, sample_rate, prior, name, fingerprint, network, notes: as above.

    Raises:
        UserError: where an argument is out of range, or the trial finds that inversion cannot do with the function.
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
        if network is None:
            audio, more_notes = try_out(function, self.sample_prior(0, TRIAL), prior, name)
            self.notes += more_notes
        else:
            audio = network(tf.constant(self.sample_prior(0, 2))).numpy()
        self.num_samples, self.num_channels = audio.shape[1:]
        self.fingerprint = fingerprint or hashlib.sha256(name.encode() + audio.tobytes()).hexdigest()

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """(num_samples, num_channels, sample_rate): what clips are read as."""
        return self.num_samples, self.num_channels, self.sample_rate

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        """z float32 `[B, latent_dim]` to audio float32 `[B, num_samples, num_channels]`."""
        audio = as_audio(self._function(tf.convert_to_tensor(z, tf.float32)))
        audio.set_shape([None, self.num_samples, self.num_channels])  # not ensure_shape: it has no forward mode
        return audio

    def sample_prior(self, seed: int, n: int, start: int = 0) -> np.ndarray:
        """Latents `start` to `start + n` of a seed's endless list, float32 `[n, latent_dim]`.

        Row i depends on seed and `start + i` only, so that a clip is the same in any batch.
        """
        prior = PRIORS[self.prior]
        rows = [prior.draw(np.random.default_rng([seed, start + i]), self.latent_dim) for i in range(n)]
        return np.array(rows, np.float32).reshape(n, self.latent_dim)

    def with_precision(self, precision: str) -> "Generator":
        """The same weights in "float32" or "mixed_bfloat16"; itself where it is no native WaveGAN."""
        if self.network is None:
            return self
        network = WaveGANGenerator(self.network.architecture, self.network.weights, precision)
        facts = {name: getattr(self, name) for name in ("latent_dim", "sample_rate", "prior", "name", "fingerprint")}
        return Generator(network, network=network, notes=self.notes, **facts)


def load_generator(
    spec: str | Path,
    precision: str = "float32",
    *,
    sample_rate: int | None = None,
    prior: str | None = None,
    trust: bool = False,
) -> Generator:
    """Loads a generator from whatever `spec` names.

    - a TF1 folder, or a checkpoint's prefix such as `train/model.ckpt-200`, see `models.tf1.find_checkpoint`. A WaveGAN
      is rebuilt as a native network and compared with the graph; beyond a difference of 1e-4 the frozen graph is used
      and `notes` says so;
    - a frozen graph, `*.pb`, from `z` to `G_z` as in the published models;
    - a SavedModel folder: its signature `serving_default` or its `__call__`, z `[None, latent_dim]`;
    - a Keras file, `*.keras`;
    - `package.module:factory`, of the current folder or installed: `factory()` returns a callable with the attributes
      `latent_dim`, `num_samples`, `num_channels`, `sample_rate` and `prior`.

    Args:
        spec: path or factory.
        precision: `float32` or `mixed_bfloat16`; the latter only changes native networks.
        sample_rate: Hz. None: what the factory, or `generator.json` in the folder (`NAME.json` beside the
            file `NAME.pb` or `NAME.keras`) says, else 16000.
        prior: `uniform` or `normal`. None: as above, else `uniform`.
        trust: run the Python code that `spec` brings: a factory, Lambda layers, graph operations that may reach outside
            of TensorFlow.

    Raises:
        UserError: when nothing there can be loaded, and says what was looked for and found; for code that is not
            trusted; for a generator that `models.contract` refuses.
    """
    path = Path(spec)
    is_folder, is_file = os.path.isdir(path), os.path.isfile(path)  # unlike pathlib's False for too long a name
    if tf1.is_checkpoint(path):
        load, description = _from_tf1, (path if is_folder else path.parent) / tf1.DESCRIPTION
    elif is_folder and (path / "saved_model.pb").is_file():
        load, description = _from_saved_model, path / tf1.DESCRIPTION
    elif path.suffix == ".pb" and is_file:
        load, description = _from_frozen, path.with_suffix(".json")
    elif path.suffix == ".keras" and is_file:
        load, description = _from_keras, path.with_suffix(".json")
    elif is_folder or is_file:
        found = tf1.list_folder(path) if is_folder else f"a file with suffix {path.suffix or '(none)'!r}"
        raise UserError(
            f"--generator {spec}: looked for infer.meta with model.ckpt* (TF1 folder), saved_model.pb "
            f"(SavedModel folder), *.pb or *.keras; found {found}"
        )
    elif re.fullmatch(r"[\w.]+:\w+", str(spec)):
        if not trust:
            raise UserError(f"--generator {spec}: a factory is Python code, which is run only with --trust")
        return _with_precision(_from_factory(str(spec), sample_rate, prior), precision)
    else:
        raise UserError(
            f"--generator {spec}: no such file or folder; a generator is a TF1 folder (infer.meta and "
            "model.ckpt*), a SavedModel folder, a .pb file, a .keras file, or package.module:factory"
        )
    described = read_json(description) if description.is_file() else {}
    if not isinstance(described, dict):
        raise UserError(f"{description}: must hold a JSON object")
    facts = {
        "sample_rate": sample_rate or described.get("sample_rate", DEFAULT_SAMPLE_RATE),
        "prior": prior or described.get("prior", DEFAULT_PRIOR),
        "name": str(spec),
    }
    return _with_precision(load(path, facts, trust), precision)


def _with_precision(generator: Generator, precision: str) -> Generator:
    if precision != "float32" and generator.network is None:
        generator.notes.append(f"{generator.name}: not a native WaveGAN: it computes as saved, not in {precision}")
    return generator if precision == "float32" else generator.with_precision(precision)


def _from_tf1(path: Path, facts: dict, trust: bool) -> Generator:
    graph_path, prefix = tf1.find_checkpoint(path)
    facts = facts | {"fingerprint": _hash_files([graph_path, Path(f"{prefix}.index"), *tf1.data_files(prefix)])}
    with tf1.restored(graph_path, prefix, trust=trust) as graph:
        native, note = _native(path, prefix, graph)
        if native is not None:
            return Generator(native, network=native, latent_dim=graph.latent_dim, notes=[note], **facts)
        graph_def = graph.freeze()
    function, latent_dim = tf1.as_function(graph_def, graph_path, trust=trust)
    return Generator(function, latent_dim=latent_dim, notes=[f"{note}: the frozen graph is used"], **facts)


def _native(path: Path, prefix: Path, graph: tf1.Restored) -> tuple[WaveGANGenerator | None, str]:
    """The network of a checkpoint that is a WaveGAN's, if it answers as the graph does; and what there is to say."""
    z = np.random.default_rng(0).uniform(-1, 1, (4, graph.latent_dim)).astype(np.float32)
    expected = graph(z)
    found = tf1.read_wavegan(prefix, expected.shape[1]) if expected.ndim > 1 else None
    if found is None:
        return None, f"{path}: its variables are not a WaveGAN's"
    architecture, weights = found
    native = WaveGANGenerator(architecture, {name: tf.constant(value) for name, value in weights.items()})
    rebuilt, difference = native(tf.constant(z)), np.inf
    if rebuilt.shape == expected.shape:
        difference = np.abs(rebuilt - expected).max()
    if not difference <= LARGEST_DIFFERENCE:
        return None, f"{path}: the native network differs from its graph by {difference:.1e}"
    return native, f"{path}: native WaveGAN, equal to its graph within {difference:.1e}"


def _from_frozen(path: Path, facts: dict, trust: bool) -> Generator:
    function, latent_dim = tf1.as_function(tf1.read_frozen(path), path, trust=trust)
    return Generator(function, latent_dim=latent_dim, fingerprint=_hash_files([path]), **facts)


def _from_saved_model(folder: Path, facts: dict, trust: bool) -> Generator:
    if not trust:
        require_arithmetic_saved_model(folder)
    try:
        model = tf.saved_model.load(literal_path(folder))
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
        require_arithmetic_function(function, folder)
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
    return spec.dtype.is_floating and spec.shape[0] is None and spec.shape[1] is not None


def _from_keras(path: Path, facts: dict, trust: bool) -> Generator:
    model = load_keras(path, trust=trust)
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] is not None or not isinstance(shape[1], int):
        raise UserError(f"{path}: must have one input of shape [None, latent_dim]. Received: {shape}")
    return Generator(lambda z: model(z, training=False), latent_dim=shape[1], fingerprint=_hash_files([path]), **facts)


def _from_factory(spec: str, sample_rate: int | None, prior: str | None) -> Generator:
    module_name, _, factory_name = spec.partition(":")
    here = os.getcwd()
    if here not in sys.path:  # as with `python -m`, but last, so that nothing there stands before the project's modules
        sys.path.append(here)
    given = {"sample_rate": sample_rate, "prior": prior}
    try:
        module = importlib.import_module(module_name)
        if not hasattr(module, factory_name):
            raise UserError(f"--generator {spec}: {module.__file__} has no {factory_name}")
        function = getattr(module, factory_name)()
        facts = {name: given.get(name) or getattr(function, name, None) for name in CONTRACT}
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        raise UserError(f"--generator {spec}: {type(error).__name__}: {one_line(error)}") from error
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
