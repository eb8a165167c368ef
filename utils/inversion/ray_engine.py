"""Inverting on the actors of Ray Data, of one machine or of a cluster.

An actor holds the networks and computes one group of clips (`RecoveryFolder.groups`) after another. Ray runs a group
again whose actor died, and does not promise to run it once; that each clip has one result is the work of the keyed
store: what it has is read, not computed again. A group whose actor died `ATTEMPTS` times is taken apart: each of its
clips is tried alone, those whose actor dies each time fail, and the others are computed without them, as if those files
could not be read.
"""

import contextlib
import json
import logging
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import tensorflow as tf
from tqdm import tqdm

from utils.errors import UserError
from utils.inversion.folder import RecoveryFolder
from utils.inversion.sources import Source
from utils.runs.files import to_json
from utils.runs.interrupts import Interrupt

ATTEMPTS = 3
MOST_BLOCKS = 10_000  # Ray Data needs a millisecond for each before it begins
OBJECT_STORE_BYTES = 200_000_000  # names go out and numbers come back; audio never passes through Ray
Groups = Sequence[Sequence[Source]]


def recover(
    folder: RecoveryFolder,
    groups: Groups,
    make_worker: Callable[[], RecoveryFolder],
    bar: tqdm,
    interrupt: Interrupt,
    *,
    address: str | None = None,
    actors: int | None = None,
) -> None:
    """Inverts groups of clips on actors; `folder` gets their results and failures.

    Args:
        folder: of the run; its store, the clips and the project's folder are at the same paths on each machine.
        groups: as `folder.groups` cuts them.
        make_worker: makes an actor's own `RecoveryFolder`; picklable.
        bar: counts clips.
        interrupt: looked at after each group.
        address: of a running cluster, or `auto` for the one that this machine is in. None: one is started here.
        actors: how many at a time. None: one for each GPU, or for each machine where there is none.

    Raises:
        UserError: where there is no cluster at `address`.
        KeyboardInterrupt: as `interrupt` says.
        Exception: what a worker raised, such as the OSError of a full disk.
    """

    def take(groups: Groups, *, trial: bool = False) -> list[Sequence[Source]]:
        """Computes groups, and gives those whose actor died each time."""
        left = dict(enumerate(groups))
        for row in map_groups(left, trial):
            if interrupt.asked:
                raise KeyboardInterrupt
            if row["error"]:
                raise pickle.loads(row["error"])
            group = left.pop(row["number"], ())
            if group and not trial:
                folder.add(group, *json.loads(row["outcome"]))
                bar.update(len(group))
        return list(left.values())

    with _cluster(address, actors) as map_rows:

        def map_groups(numbered: dict[int, Sequence[Source]], trial: bool) -> Iterator[dict[str, Any]]:
            rows = [
                {"number": number, "trial": trial, "group": to_json([vars(source) for source in group])}
                for number, group in numbered.items()
            ]
            return map_rows(rows, (make_worker, os.getcwd()))

        lost = take(groups)
        deadly = [group[0] for group in lost if len(group) == 1]
        suspects = [[source] for group in lost if len(group) > 1 for source in group]
        deadly += [source for (source,) in take(suspects, trial=True)]
        rest = [[source for source in group if source not in deadly] for group in lost]
        deadly += [source for group in take([group for group in rest if group]) for source in group]
    for source in deadly:
        folder.fail(source.name, f"its worker died each time, {ATTEMPTS} times in a row; the log of Ray may say why")
        bar.update()


class _Worker:
    """What an actor does."""

    def __init__(self, make_worker: Callable[[], RecoveryFolder], working_directory: str):
        os.chdir(working_directory)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        self._make_worker = make_worker

    @cached_property
    def _folder(self) -> RecoveryFolder:
        return self._make_worker()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        answer = {"number": row["number"], "outcome": "", "error": b""}
        facts = json.loads(row["group"])
        group = [Source(**fact | {"path": fact["path"] and Path(fact["path"])}) for fact in facts]
        try:
            if row["trial"]:
                with tempfile.TemporaryDirectory() as scratch:
                    self._folder.recover_apart(group, Path(scratch))
            else:
                answer["outcome"] = to_json(self._folder.recover_apart(group))
        except Exception as error:
            answer["error"] = pickle.dumps(error)
        return answer


@contextlib.contextmanager
def _cluster(address: str | None, actors: int | None) -> Iterator[Callable]:
    """Within the block Ray runs; gives a function of rows and of `_Worker`'s arguments to the answers, as they come."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # `recover` reports a dead actor
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray gives way to everything else on the machine
    import ray
    import ray.data

    settings = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        settings |= {"num_cpus": max(cores, actors or 1), "object_store_memory": OBJECT_STORE_BYTES}
        settings |= {"include_dashboard": False}
    try:
        ray.init(address or "local", **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--address {address}: no Ray cluster there; start one by `ray start --head`") from error
    try:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.max_errored_blocks = False, -1
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = actors or gpus or len([node for node in ray.nodes() if node["Alive"]])
        share = 1 / -(-count // gpus) if gpus else 0  # actors beyond the number of GPUs share them

        def map_rows(rows: list[dict[str, Any]], arguments: tuple) -> Iterator[dict[str, Any]]:
            if not rows:
                return iter(())
            # One group in flight an actor: when it dies, no other group has died with it.
            pool = ray.data.ActorPoolStrategy(size=min(count, len(rows)), max_tasks_in_flight_per_actor=1)
            blocks = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
            with warnings.catch_warnings():  # Ray 2.60 to 2.63 deprecate the last two, and have no others yet
                warnings.simplefilter("ignore")
                answers = blocks.map(
                    _Worker,
                    fn_constructor_args=arguments,
                    compute=pool,
                    num_cpus=1,
                    num_gpus=share,
                    max_restarts=-1,
                    max_task_retries=ATTEMPTS - 1,
                )
            return iter(answers.iter_rows())

        yield map_rows
    finally:
        ray.shutdown()
