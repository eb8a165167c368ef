"""Training over devices and machines by `tf.distribute`."""

import json
import os

import tensorflow as tf

from utils.errors import UserError


def make_strategy(name: str) -> tf.distribute.Strategy:
    """A strategy by its name in `utils.choices.STRATEGIES`.

    "mirrored" takes all GPUs, without any all CPU devices, and so does "multi_worker" where `TF_CONFIG` names no other
    worker than this one.

    Raises:
        UserError: for a `TF_CONFIG` that is not as TensorFlow has it.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "multi_worker" and count_workers(os.environ.get("TF_CONFIG", "")) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def count_workers(tf_config: str) -> int:
    """The workers that a `TF_CONFIG` names, this one with them; 1 where it is empty."""
    if not tf_config:
        return 1
    try:
        config = json.loads(tf_config)
        jobs, task = config["cluster"], config["task"]
        jobs[task["type"]][task["index"]]
        return sum(len(jobs.get(job, [])) for job in ("chief", "worker"))
    except (ValueError, TypeError, LookupError, AttributeError):
        example = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
        raise UserError(f"TF_CONFIG: must be like {example}. Received: {tf_config}") from None


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes files: the only worker, the chief, or the first of the workers."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return (resolver.task_type, resolver.task_id) == ("chief" if has_chief else "worker", 0)


def distribute(strategy: tf.distribute.Strategy, batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Gives each replica its rows of every batch, in order, on one machine or several."""
    if strategy.num_replicas_in_sync == 1:
        return batches

    def rows_of(context: tf.distribute.InputContext) -> tf.data.Dataset:
        rows = batch_size // context.num_input_pipelines
        first = rows * context.input_pipeline_id
        here = batches.map(lambda batch: tf.nest.map_structure(lambda x: x[first : first + rows], batch))
        return here.rebatch(batch_size // context.num_replicas_in_sync)

    return strategy.distribute_datasets_from_function(rows_of)
