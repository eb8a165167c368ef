"""WaveGAN checkpoints in their original TF1 format: frozen graphs, the weights in them, writing the format.

The frozen graph is the reference: it computes whatever the checkpoint's author exported. `read_wavegan`
recognises the published architecture among the variables and folds its batch norm, so that `models.wavegan`
can rebuild it.
"""

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from models.graph_operations import require_arithmetic
from models.wavegan import FIRST_FRAMES, POST_FILTER, Architecture
from utils.errors import UserError, one_line
from utils.runs.files import atomic_path, literal_path, write_json

Z_TENSOR, AUDIO_TENSOR = "z:0", "G_z:0"
DESCRIPTION = "generator.json"
BATCH_NORM_EPSILON = 1e-3  # the default of tf.layers.batch_normalization, which the published code keeps
READ_ERRORS = (tf.errors.OpError, DecodeError, ValueError, KeyError, TypeError, OSError)


def list_folder(folder: Path) -> str:
    """The names in a folder, for an error message."""
    names = sorted(path.name for path in folder.iterdir())
    if len(names) > 12:
        names = [*names[:12], f"and {len(names) - 12} more"]
    return ", ".join(names) or "an empty folder"


@contextlib.contextmanager
def _no_deprecation_warnings() -> Iterator[None]:
    """TF1's calls have no TF2 replacement here, so that TensorFlow's advice to replace them is noise."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a folder with an inference graph, or the prefix of a checkpoint's files."""
    return bool(_graphs(path)) if os.path.isdir(path) else os.path.isfile(f"{_prefix(path)}.index")


def _prefix(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".index" else path


def _graphs(folder: Path) -> list[Path]:
    """`infer.meta`, or else every `*infer.meta`, of a folder or of its folder `infer`."""
    for place in (folder, folder / "infer"):
        named = place / "infer.meta"
        if graphs := [named] if named.is_file() else sorted(place.glob("*infer.meta")):
            return graphs
    return []


def find_checkpoint(path: Path) -> tuple[Path, Path]:
    """The inference graph of a TF1 folder and its checkpoint's prefix.

    The graph is `infer.meta`, or the only `*infer.meta`, of the folder or of its folder `infer`, where the published
    code writes it. The checkpoint is the one that `path` names; else the one that the file `checkpoint` names, if it is
    there; else the `model.ckpt*` of the highest step; else the only `*.index`.

    Args:
        path: the folder; its `infer`, if the checkpoints are beside that; or a checkpoint's prefix or `.index`.

    Raises:
        UserError: when there is no such pair; says what was looked for and found.
    """
    folder = path if path.is_dir() else path.parent
    graphs = _graphs(folder)
    if folder.name == "infer" and not list(folder.glob("*.index")):
        folder = folder.parent
    prefixes = {file.stem: file.with_suffix("") for file in folder.glob("*.index")}
    named = _named_checkpoint(folder / "checkpoint")
    numbered = [name for name in prefixes if name.startswith("model.ckpt")]
    if not path.is_dir():
        name = _prefix(path).name
    elif named in prefixes:
        name = named
    elif numbered:
        name = max(numbered, key=lambda name: int("0" + (re.search(r"\d*$", name)[0])))
    else:
        name = next(iter(prefixes), None) if len(prefixes) == 1 else None
    if len(graphs) != 1 or name is None:
        raise UserError(
            f"{folder}: no TF1 generator here: looked for infer.meta (also in infer/), model.ckpt*.index and "
            f"model.ckpt*.data-*; found {list_folder(folder)}"
        )
    if not data_files(prefixes[name]):
        raise UserError(f"{folder}: {name}.index is there, {name}.data-* is not; found {list_folder(folder)}")
    return graphs[0], prefixes[name]


def data_files(prefix: Path) -> list[Path]:
    """A checkpoint's files that hold its values."""
    return sorted(file for file in prefix.parent.iterdir() if file.name.startswith(f"{prefix.name}.data-"))


def _named_checkpoint(state: Path) -> str | None:
    # Only the name counts: the published files hold absolute paths of the machine they were trained on.
    if not state.is_file():
        return None
    match = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', state.read_text(errors="replace"), re.MULTILINE)
    return re.split(r"[/\\]", match[1])[-1] if match else None


class Restored:
    """An inference graph with a checkpoint's variables, within `restored`.

    Attributes:
        latent_dim: size of z.
    """

    def __init__(self, session: tf.compat.v1.Session, source: Path, prefix: Path):
        self._session, self._source, self._prefix = session, source, prefix
        self._z, self._audio = _ends(session.graph, source)
        self.latent_dim = self._z.shape[1]

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """z float32 `[B, latent_dim]` to audio."""
        with self._at_work():
            return self._session.run(self._audio, {self._z: z})

    def restore(self, saver: tf.compat.v1.train.Saver) -> None:
        """Reads the variables."""
        with self._at_work():
            saver.restore(self._session, literal_path(self._prefix))

    def freeze(self) -> tf.compat.v1.GraphDef:
        """The graph with its variables turned into constants, as far as its audio needs it."""
        with self._at_work():
            return tf.compat.v1.graph_util.convert_variables_to_constants(
                self._session, self._session.graph.as_graph_def(), [self._audio.op.name]
            )

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Within the block TF1's functions find the graph, and their errors name the checkpoint."""
        try:
            with self._session.graph.as_default(), _no_deprecation_warnings():
                yield
        except READ_ERRORS as error:
            raise UserError(
                f"{self._prefix}: damaged (or truncated), or not the checkpoint of {self._source.name} "
                f"({one_line(error)})"
            ) from error


@contextlib.contextmanager
def restored(graph_path: Path, prefix: Path, *, trust: bool = False) -> Iterator[Restored]:
    """Within the block, the inference graph can be run and frozen.

    Raises:
        UserError: when a file is damaged, the two do not belong together, or a tensor does not exist; unless `trust`,
            when restoring the variables or computing audio may reach outside of TensorFlow.
    """
    graph = tf.Graph()
    with graph.as_default(), _no_deprecation_warnings():
        try:
            meta_graph = tf.compat.v1.MetaGraphDef.FromString(graph_path.read_bytes())
            saver = tf.compat.v1.train.import_meta_graph(meta_graph, clear_devices=True)
        except READ_ERRORS as error:
            raise UserError(f"{graph_path}: damaged, or no TF1 meta graph ({one_line(error)})") from error
        _, audio = _ends(graph, graph_path)
        saver = saver or tf.compat.v1.train.Saver()
        if not trust:
            wanted = [saver.as_saver_def().restore_op_name, audio.op.name]
            require_arithmetic(graph.as_graph_def(), graph_path, wanted)
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    with contextlib.closing(tf.compat.v1.Session(graph=graph, config=config)) as session:
        found = Restored(session, graph_path, prefix)
        found.restore(saver)
        yield found


def read_frozen(path: Path) -> tf.compat.v1.GraphDef:
    """Reads a frozen `.pb` file.

    Raises:
        UserError: when it is not a graph, or one with variables in it.
    """
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except READ_ERRORS as error:
        raise UserError(f"{path}: damaged, or no frozen graph ({one_line(error)})") from error
    if any(node.op in ("VariableV2", "VarHandleOp") for node in graph_def.node):
        raise UserError(f"{path}: its variables have no values: freeze the graph, or give its TF1 folder")
    return graph_def


def as_function(
    graph_def: tf.compat.v1.GraphDef, source: Path, *, trust: bool = False
) -> tuple[Callable[[tf.Tensor], tf.Tensor], int]:
    """A frozen graph as a function of z, differentiable, for any batch size; and its latent dimension.

    Args:
        graph_def: a graph without variables, from `z` `[None, latent_dim]` to `G_z`.
        source: the file it came from, for error messages.
        trust: run operations that may reach outside of TensorFlow.

    Raises:
        UserError: when the graph cannot be imported, lacks a tensor, leaves the size of z open, or is not trusted.
    """
    try:
        wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
    except READ_ERRORS as error:
        raise UserError(f"{source}: this graph cannot be imported ({one_line(error)})") from error
    z, audio = _ends(wrapped.graph, source)
    if not trust:
        require_arithmetic(graph_def, source, [audio.op.name])
    return wrapped.prune(z, audio), z.shape[1]


def _ends(graph: tf.Graph, source: Path) -> tuple[tf.Tensor, tf.Tensor]:
    """z `[None, latent_dim]` and audio."""
    found = []
    for name in (Z_TENSOR, AUDIO_TENSOR):
        try:
            found.append(graph.get_tensor_by_name(name))
        except (KeyError, ValueError):
            inputs = [op.name for op in graph.get_operations() if op.type == "Placeholder"]
            last = [op.name for op in graph.get_operations()][-3:]
            raise UserError(
                f"{source}: no tensor {name!r} in this graph, which must lead from {Z_TENSOR} to {AUDIO_TENSOR}; its "
                f"placeholders are {', '.join(inputs) or 'none'}, its last operations {', '.join(last) or 'none'}; of "
                "other names, give a SavedModel or a factory"
            ) from None
    shape = found[0].shape
    if shape.rank != 2 or shape[0] is not None or shape[1] is None:
        raise UserError(f"{source}: {Z_TENSOR} must have shape [None, latent_dim]. Received: {shape}")
    return found[0], found[1]


def read_wavegan(prefix: Path, num_samples: int) -> tuple[Architecture, dict[str, np.ndarray]] | None:
    """The WaveGAN generator among a checkpoint's variables, or None when they are not a WaveGAN's.

    Batch norm is folded into the layer before it, as if it stood before the ReLU (in a graph where it stands
    elsewhere the result differs, which a comparison with the frozen graph shows). `zeros` and `nn` upsampling
    are told apart by the variables' names; the length, which they do not tell, is `num_samples`. The weights are
    float32 in whatever precision they are stored.
    """
    try:
        reader = tf.train.load_checkpoint(literal_path(prefix))
        shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
        upsample = "zeros" if "G/upconv_0/conv2d_transpose/kernel" in shapes else "nn"
        first = "G/upconv_0/" + ("conv2d_transpose/kernel" if upsample == "zeros" else "conv1d/kernel")
        count = len([name for name in shapes if re.fullmatch(r"G/upconv_\d+/conv\w+/kernel", name)])
        latent_dim, units = shapes["G/z_project/dense/kernel"]
        architecture = Architecture(
            latent_dim=latent_dim,
            dim=units // (FIRST_FRAMES * (16 if num_samples == 16384 else 32)),
            kernel_len=shapes[first][1 if upsample == "zeros" else 0],
            num_samples=num_samples,
            num_channels=shapes[first.replace("upconv_0", f"upconv_{count - 1}")][2],
            upsample=upsample,
        )
    except (KeyError, ValueError, IndexError):
        return None
    if any(shapes.get(name) != shape for name, shape in architecture.weight_shapes.items()):
        return None
    norm = re.compile(r"G/\w+/batch_normalization(_\d+)?/(gamma|beta|moving_mean|moving_variance)")
    known = {*architecture.weight_shapes, POST_FILTER}
    names = [name for name in shapes if name in known or norm.fullmatch(name)]
    variables = {name: reader.get_tensor(name).astype(np.float32, copy=False) for name in names}
    for layer in ["G/z_project/dense", *architecture.layer_names]:
        _fold_batch_norm(layer, variables)
    return architecture, {name: value for name, value in variables.items() if not norm.fullmatch(name)}


def _fold_batch_norm(layer: str, variables: dict[str, np.ndarray]) -> None:
    """Replaces a layer's kernel and bias by those that do its batch norm's work too, if it has one."""
    scope = layer.rpartition("/")[0]
    norm = {
        name.rpartition("/")[2]: value
        for name, value in variables.items()
        if re.fullmatch(rf"{scope}/batch_normalization(_\d+)?/\w+", name)
    }
    if not norm:
        return
    mean, variance = norm["moving_mean"], norm["moving_variance"]
    scale = norm.get("gamma", 1.0) / np.sqrt(variance + BATCH_NORM_EPSILON)
    shift = norm.get("beta", 0.0) - mean * scale
    kernel, bias = variables[f"{layer}/kernel"], variables[f"{layer}/bias"]
    # The dense layer's units are the frames' channels, frame after frame; the norm is over channels.
    repeats = len(bias) // len(scale)
    scale, shift = np.tile(scale, repeats), np.tile(shift, repeats)
    # Kernels are [1, taps, out, in] for transposed convolutions, else [..., out].
    kernel_scale = scale[:, None] if layer.endswith("conv2d_transpose") else scale
    variables[f"{layer}/kernel"] = (kernel * kernel_scale).astype(np.float32)
    variables[f"{layer}/bias"] = (bias * scale + shift).astype(np.float32)


def write_tf1(
    folder: Path,
    weights: Mapping[str, np.ndarray],
    architecture: Architecture,
    step: int = 0,
    *,
    sample_rate: int = 16000,
    prior: str = "uniform",
) -> None:
    """Writes a WaveGAN generator in the original format, each file atomically; equal input gives equal bytes.

    `infer.meta` holds `samp_z_n` -> `samp_z`, `z` -> `G_z` and `G_z_int16`; `model.ckpt.*` the variables and
    `global_step`; `checkpoint` names it. `generator.json` adds what the format lacks: sample rate and prior.

    Args:
        folder: made if need be; files of these names are replaced.
        weights: TF1 name to array, float32 as for `WaveGANGenerator`, or float16: stored so, in half the space; the
            graph computes in float32.
        architecture: hyper-parameters.
        step: training step, saved as `global_step`.
        sample_rate: Hz.
        prior: `uniform` in [-1, 1] or `normal`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary_folder = tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-")
    with temporary_folder as temporary, tf.Graph().as_default(), _no_deprecation_warnings():
        variables = {
            name: tf.compat.v1.get_variable(name, value.shape, value.dtype, use_resource=False)
            for name, value in sorted(weights.items())
        }
        global_step = tf.compat.v1.train.get_or_create_global_step()
        computed = {name: tf.cast(variable, tf.float32) for name, variable in variables.items()}
        _build_inference(architecture, computed, prior)
        saver = tf.compat.v1.train.Saver([*variables.values(), global_step])
        with tf.compat.v1.Session(config=tf.compat.v1.ConfigProto(device_count={"GPU": 0})) as session:
            for name, variable in variables.items():
                variable.load(weights[name], session)
            global_step.load(step, session)
            saver.save(session, f"{literal_path(temporary)}/model.ckpt", write_meta_graph=False, write_state=False)
        tf.compat.v1.train.export_meta_graph(
            f"{literal_path(temporary)}/infer.meta", saver_def=saver.as_saver_def(), clear_devices=True
        )
        for file in sorted(Path(temporary).iterdir()):
            file.replace(folder / file.name)
    with atomic_path(folder / "checkpoint") as path:
        path.write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')
    facts = {"sample_rate": sample_rate, "prior": prior, "step": step, "architecture": asdict(architecture)}
    write_json(folder / DESCRIPTION, facts)


def _build_inference(arch: Architecture, weights: Mapping[str, tf.Tensor], prior: str) -> None:
    """The published inference graph, in the current graph."""
    v1 = tf.compat.v1
    count = v1.placeholder(tf.int32, [], name="samp_z_n")
    shape = tf.stack([count, arch.latent_dim])
    if prior == "uniform":
        tf.identity(tf.random.uniform(shape, -1.0, 1.0), name="samp_z")
    else:
        tf.identity(tf.random.normal(shape), name="samp_z")
    z = v1.placeholder(tf.float32, [None, arch.latent_dim], name="z")
    x = tf.matmul(z, weights["G/z_project/dense/kernel"]) + weights["G/z_project/dense/bias"]
    x = tf.reshape(x, [-1, FIRST_FRAMES, arch.first_channels])
    for name, layer in zip(arch.layer_names, arch.upsamplings, strict=True):
        x = tf.nn.relu(x)
        frames = x.shape[1] * layer.stride
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        if layer.upsample == "zeros":
            output_shape = tf.stack([tf.shape(x)[0], 1, frames, layer.channels_out])
            strides = [1, 1, layer.stride, 1]
            x = tf.nn.conv2d_transpose(x[:, None], kernel, output_shape, strides, "SAME")[:, 0]
            x = tf.ensure_shape(x, [None, frames, layer.channels_out])
        else:
            x = v1.image.resize_nearest_neighbor(x[:, None], [1, frames])[:, 0]
            x = tf.nn.conv1d(x, kernel, 1, "SAME")
        x = x + bias
    x = tf.tanh(x)
    if POST_FILTER in weights:
        x = tf.nn.conv1d(x, weights[POST_FILTER], 1, "SAME")
    audio = tf.identity(x, name="G_z")
    tf.cast(tf.clip_by_value(audio * 32767.0, -32767.0, 32767.0), tf.int16, name="G_z_int16")
