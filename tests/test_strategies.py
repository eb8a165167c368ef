"""utils/runs/strategies.py: what a TF_CONFIG means, and training with one worker."""

import json

import pytest
import tensorflow as tf

from utils.errors import UserError
from utils.runs.strategies import is_chief, make_strategy

WORKER = {"type": "worker", "index": 0}


@pytest.mark.parametrize("workers", [None, ["localhost:1"]])
def test_one_worker_trains_as_one_machine(monkeypatch, workers):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if workers:
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": workers}, "task": WORKER}))
    strategy = make_strategy("multi_worker")
    assert isinstance(strategy, tf.distribute.MirroredStrategy) and is_chief(strategy)
    assert strategy.num_replicas_in_sync == 1


@pytest.mark.parametrize(
    "text",
    [
        "worker 0",
        "[]",
        "{}",
        json.dumps({"cluster": {"worker": ["a:1", "b:1"]}}),
        json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": WORKER | {"index": 2}}),
        json.dumps({"cluster": ["a:1"], "task": WORKER}),
    ],
)
def test_a_config_that_is_none_is_told(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG: must be like .*Received: "):
        make_strategy("multi_worker")
