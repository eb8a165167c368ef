"""A TensorFlow graph is a program: which of its operations reach outside of it, to files or to Python.

A generator needs none of them, so a file whose graph has one is only run when it is trusted (`--trust`).
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from utils.errors import UserError

# Parts of the names of TensorFlow's operations that write or read files, call Python, or wait for either.
OUTSIDE = re.compile("PyFunc|File|Save|Summary|Snapshot|Checkpoint|Reader|Dataset|Debug|PrintV2|Rpc|Recv|Dequeue")
SAVER = {"SaveV2", "MergeV2Checkpoints", "ShardedFilename"}  # every SavedModel has them, and loading runs none


def require_inside(
    graph_def: tf.compat.v1.GraphDef, source: Path | str, outputs: Iterable[str] = (), allowed: Iterable[str] = ()
) -> None:
    """Refuses a graph with operations that reach outside.

    Args:
        graph_def: a graph and its library of functions.
        source: the file it came from, for the message.
        outputs: names of operations; only what they need of the graph is looked at. None given: all of it.
        allowed: types of operations that may be there nevertheless.

    Raises:
        UserError: names the operations.
    """
    needed = tf.compat.v1.graph_util.extract_sub_graph(graph_def, list(outputs)) if outputs else graph_def
    nodes = [*needed.node, *(node for function in graph_def.library.function for node in function.node_def)]
    outside = sorted({node.op for node in nodes if OUTSIDE.search(node.op)} - set(allowed))
    if outside:
        raise UserError(
            f"{source}: its graph has operations that reach outside of TensorFlow, {', '.join(outside[:5])}; they are "
            "run only with --trust"
        )


def require_saved_model_inside(folder: Path) -> None:
    """`require_inside` of all graphs in a SavedModel folder, before it is loaded, which would run some of them.

    Raises:
        UserError: as there, and for a damaged file.
    """
    path, model = folder / "saved_model.pb", saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{folder}: damaged, or no SavedModel ({path.name} cannot be parsed)") from error
    for part in model.meta_graphs:
        require_inside(part.graph_def, folder, allowed=SAVER)


def require_function_inside(function: Any, source: Path | str) -> None:
    """`require_inside` of a concrete function, saving included."""
    require_inside(function.graph.as_graph_def(), source)
