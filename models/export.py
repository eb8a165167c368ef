"""Networks for other programs: SavedModels and ONNX files, each read again and compared with what it was made from.

ONNX needs tf2onnx and onnxruntime (requirements-export.txt), and an `Encoder` with the front end of
`models.front_ends.by_products`.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from models.encoder import Encoder
from models.front_ends import by_products
from models.networks import inference
from utils.domains import REAL
from utils.errors import UserError
from utils.runs.files import atomic_path, literal_path

LARGEST_DIFFERENCE = 1e-4  # of the exported network's answers from the network's own
OPSET = 17


class Frozen(NamedTuple):
    """A function of one float32 `[B, ...]` without variables.

    Attributes:
        graph_def: the graph, differentiable by TensorFlow's own gradients.
        input, output: names of its tensors.
        trial: float32 `[B, ...]`.
        answer: the original function's for `trial`.
    """

    graph_def: tf.compat.v1.GraphDef
    input: str
    output: str
    trial: np.ndarray
    answer: np.ndarray

    def compared(self, answer: np.ndarray, path: Path) -> float:
        """The largest difference of another answer for `trial`.

        Raises:
            UserError: where it is more than `LARGEST_DIFFERENCE`.
        """
        same = answer.shape == self.answer.shape
        difference = float(np.abs(answer - self.answer).max()) if same else math.inf
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(f"{path}: differs by {difference:.1e} from the network it was made from")
        return difference


def freeze(function: Callable, trial: np.ndarray, name: str) -> Frozen:
    """Trace a function for batches of any size, its variables turned into constants.

    Args:
        function: float32 `[B, ...]` to one tensor `[B, ...]`.
        trial: float32 `[B, ...]`, for comparisons.
        name: of the input.
    """
    spec = tf.TensorSpec([None, *trial.shape[1:]], tf.float32, name)
    traced = tf.function(function, input_signature=[spec], autograph=False).get_concrete_function()
    constant = convert_variables_to_constants_v2(traced, lower_control_flow=False)
    graph_def = constant.graph.as_graph_def()
    for nodes in (graph_def.node, *(part.node_def for part in graph_def.library.function)):
        for node in nodes:  # gradients of our own are known to this process alone
            node.attr.pop("_gradient_op_type", None)
    (output,) = constant.outputs
    return Frozen(graph_def, constant.inputs[0].name, output.name, trial, traced(tf.constant(trial)).numpy())


def write_saved_model(frozen: Frozen, folder: Path) -> float:
    """Write a SavedModel with the signature serving_default, read it again, and return the largest difference.

    Raises:
        UserError: where that is more than `LARGEST_DIFFERENCE`.
    """
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(frozen.graph_def, name=""), [])
    function = imported.prune(frozen.input, frozen.output)
    name, module = frozen.input.partition(":")[0], tf.Module()
    spec = tf.TensorSpec([None, *frozen.trial.shape[1:]], tf.float32, name)
    module.serve = tf.function(lambda x: function(x), input_signature=[spec], autograph=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = literal_path(folder)
    tf.saved_model.save(module, path, signatures=module.serve)
    answer = tf.saved_model.load(path).signatures["serving_default"](**{name: tf.constant(frozen.trial)})
    return frozen.compared(next(iter(answer.values())).numpy(), folder)


def write_onnx(frozen: Frozen, path: Path, facts: Mapping[str, Any]) -> float:
    """Write an ONNX file, read it again by onnxruntime, and return the largest difference.

    Args:
        facts: kept in the file's metadata, as text.

    Raises:
        UserError: where that is more than `LARGEST_DIFFERENCE`, or a package is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import tf2onnx
    except ImportError as error:
        raise UserError(f"onnx: needs the package {error.name}; `make setup-export` installs it") from error
    names = {"input_names": [frozen.input], "output_names": [frozen.output]}
    model, _ = tf2onnx.convert.from_graph_def(frozen.graph_def, opset=OPSET, **names)
    onnx.helper.set_model_props(model, {key: str(value) for key, value in facts.items()})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {frozen.input: frozen.trial})
    difference = frozen.compared(answer, path)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
    return difference


def exportable(encoder: keras.Model, shape: tuple[int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """An encoder's answers to real clips, audio float32 `[B, T, C]` of shape `(T, C)` to z, without Fourier transforms.

    A Keras model that is no `Encoder` is left as it is.
    """
    if not isinstance(encoder, Encoder):
        return inference(encoder, [None, *shape], REAL)
    network = by_products(encoder.network)
    network._register_call_context_args("domain")  # as Encoder's own network
    return lambda audio: network(audio, training=False, domain=REAL)
