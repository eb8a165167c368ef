"""A TensorFlow graph is a program: a file whose graph does more than arithmetic is only run when it is trusted.

What is not on the list below may read or write files, call Python or wait for other processes.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from utils.errors import UserError

# Families of TensorFlow's operations, as regular expressions of whole names.
ARITHMETIC = re.compile(
    # values, variables, functions and control flow, whose own graphs are looked at as well
    r"Const|Assert|Placeholder(WithDefault)?|NoOp|Identity(N)?|StopGradient|PreventGradient|Cast|Bitcast|Shape(N)?|Size|Rank|"
    r"Variable(V2)?|VarHandleOp|VarIsInitializedOp|IsVariableInitialized|ReadVariableOp|DisableCopyOnRead|"
    r"Assign(VariableOp|AddVariableOp|SubVariableOp|Add|Sub)?|(Stateful)?PartitionedCall|(Stateless)?(If|While|Case)|"
    r"Switch|Merge|Enter|Exit|NextIteration|LoopCond|TensorList\w+|"
    # element by element
    r"Abs|Acosh?|Asinh?|Atan[2h]?|Cosh?|Sinh?|Tanh?|Exp|Expm1|Log|Log1p|Sqrt|Rsqrt|Square|Pow|Sign|Neg|Reciprocal|Inv|"
    r"Erf(c|inv)?|Ndtri|Lgamma|Digamma|Round|Rint|Floor|Ceil|Add(V2|N)?|Sub|Mul(NoNan)?|(Real|Floor|Trunc)?Div(NoNan)?|"
    r"(Floor|Trunc)?Mod|SquaredDifference|Maximum|Minimum|ClipByValue|(Not)?Equal|(Less|Greater)(Equal)?|"
    r"Logical(And|Or|Not)|Is(Nan|Inf|Finite)|Select(V2)?|Where|ZerosLike|OnesLike|Complex(Abs)?|Real|Imag|Angle|Conj|"
    r"(Leaky)?Relu6?|Selu|Elu|Sigmoid|Soft(plus|sign|max)|LogSoftmax|"
    # shapes and indices
    r"Reshape|Squeeze|ExpandDims|Transpose|ConcatV2|Pack|Unpack|Split(V)?|Slice|StridedSlice|Gather(V2|Nd)?|ScatterNd|"
    r"Tile|Pad(V2)?|MirrorPad|Fill|Range|LinSpace|OneHot|Roll|ReverseV2|ReverseSequence|BroadcastTo|BroadcastArgs|"
    r"EnsureShape|InvertPermutation|TensorScatter\w+|ResourceGather|TopKV2|ArgM(ax|in)|Matrix\w+|"
    # sums, products, layers, signals
    r"Sum|Mean|Prod|Max|Min|All|Any|Cumsum|Cumprod|Xdivy|Xlogy|Xlog1py|BesselI0e?|MatMul|BatchMatMul(V2|V3)?|Einsum|BiasAdd(V1)?|L2Loss|FusedBatchNorm\w*|"
    r"(Conv[23]D|DepthwiseConv2dNative)(BackpropInput(V2)?)?|(Max|Avg)Pool(V2|3D)?|Resize\w+|SpaceToBatchND|BatchToSpaceND|"
    r"DepthToSpace|SpaceToDepth|LRN|I?R?FFT[23]?D?|Qr|Svd|Cholesky|"
    # random numbers: of a layer's training, or noise, which the trial of a generator notices
    r"Random(Uniform|StandardNormal|UniformInt)|TruncatedNormal|StatelessRandom\w+|StatelessTruncatedNormal\w*"
)
# Of every SavedModel; loading runs none of these but RestoreV2.
SAVER = re.compile("RestoreV2|SaveV2|MergeV2Checkpoints|ShardedFilename|StringJoin|StaticRegexFullMatch")


def require_arithmetic(
    graph_def: tf.compat.v1.GraphDef,
    source: Path | str,
    outputs: Iterable[str] = (),
    also: re.Pattern = re.compile("RestoreV2"),
) -> None:
    """Refuses a graph with other operations than those listed here.

    Args:
        graph_def: a graph and its library of functions.
        source: the file it came from, for the message.
        outputs: names of operations; only what they need of the graph is looked at. None given: all of it.
        also: types of operations that may be there as well.

    Raises:
        UserError: names the operations.
    """
    needed = tf.compat.v1.graph_util.extract_sub_graph(graph_def, list(outputs)) if outputs else graph_def
    functions = graph_def.library.function
    called = {function.signature.name for function in functions}  # a node's type may be a function's name
    types = {node.op for nodes in (needed.node, *(function.node_def for function in functions)) for node in nodes}
    others = sorted(op for op in types - called if not ARITHMETIC.fullmatch(op) and not also.fullmatch(op))
    if others:
        raise UserError(
            f"{source}: its graph has operations that may reach outside of TensorFlow, {', '.join(others[:5])}; they "
            "are run only with --trust"
        )


def require_arithmetic_saved_model(folder: Path) -> None:
    """`require_arithmetic` of all graphs in a SavedModel folder, before it is loaded, which would run some of them.

    Raises:
        UserError: as there, and for a damaged file.
    """
    path, model = folder / "saved_model.pb", saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{folder}: damaged, or no SavedModel ({path.name} cannot be parsed)") from error
    for part in model.meta_graphs:
        require_arithmetic(part.graph_def, folder, also=SAVER)


def require_arithmetic_function(function: Any, source: Path | str) -> None:
    """`require_arithmetic` of a concrete function, saving included."""
    require_arithmetic(function.graph.as_graph_def(), source)
