"""utils/inversion/store.py: records that are there whole, under the key that they were written with, or not at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UserError
from utils.inversion.store import Record, ResultStore, key_sha256
from utils.runs.files import open_path

KEY = {"clip": "ab", "max_iter": 5, "restarts": None}
RECORD = Record({"snr_db": 1.5, "status": "ä"}, {"z": np.float32([[1, 2]]), "status": np.array(["x", "yy"])})


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "records")


def test_a_record_comes_back_whole(store):
    assert store.read("clips/a.wav/gradient", KEY) is None
    store.write("clips/a.wav/gradient", KEY, RECORD)
    assert store.path("clips/a.wav/gradient") == store.folder / "clips/a.wav/gradient.npz"
    record = store.read("clips/a.wav/gradient", KEY)
    assert record.facts == RECORD.facts and list(record.arrays) == ["z", "status"]
    for name, array in RECORD.arrays.items():
        np.testing.assert_array_equal(record.arrays[name], array)
        assert record.arrays[name].dtype == array.dtype


def test_a_record_of_another_key_counts_as_absent_and_is_written_over(store):
    store.write("a", KEY, RECORD)
    for other in (KEY | {"max_iter": 6}, KEY | {"seed": 0}, {"clip": "ab"}):
        assert store.read("a", other) is None
    assert store.read("a", dict(reversed(KEY.items()))) is not None
    store.write("a", KEY | {"max_iter": 6}, RECORD)
    assert store.read("a", KEY) is None and store.read("a", KEY | {"max_iter": 6}) is not None


def test_equal_records_give_equal_bytes(store):
    store.write("a", KEY, RECORD)
    store.write("b", KEY, Record(dict(RECORD.facts), {name: array.copy() for name, array in RECORD.arrays.items()}))
    assert store.path("a").read_bytes() == store.path("b").read_bytes()


def test_an_object_store_holds_the_same_bytes(store):
    pytest.importorskip("upath")
    remote = ResultStore(open_path("memory://sounds/records"))
    assert remote.read("clips/a.wav/gradient", KEY) is None
    for one in (store, remote):
        one.write("clips/a.wav/gradient", KEY, RECORD)
    assert remote.read("clips/a.wav/gradient", KEY).facts == RECORD.facts
    assert remote.read("clips/a.wav/gradient", KEY | {"max_iter": 6}) is None
    paths = [one.path("clips/a.wav/gradient") for one in (store, remote)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(UserError, match="nonsense://a: needs requirements-ray.txt"):
        open_path("nonsense://a")


def test_what_cannot_be_json_is_refused_and_leaves_the_old_record(store):
    store.write("a", KEY, RECORD)
    for facts in ({"snr_db": float("nan")}, {"snr_db": float("inf")}):
        with pytest.raises(ValueError):
            store.write("a", KEY, Record(facts))
    with pytest.raises(ValueError):
        store.write("a", KEY, Record({}, {"z": np.array([None])}))  # would need pickle
    assert store.read("a", KEY).facts == RECORD.facts
    assert [path.name for path in store.folder.iterdir()] == ["a.npz"]


def test_what_a_killed_process_left_half_written_is_removed(store):
    store.folder.mkdir()
    (store.folder / ".tmp-01.npz").write_bytes(b"half")
    store.write("a", KEY, RECORD)
    assert [path.name for path in store.folder.iterdir()] == ["a.npz"]


@given(st.data())
def test_a_damaged_record_counts_as_absent_or_is_whole(tmp_path_factory, data):
    store = ResultStore(tmp_path_factory.mktemp("records"))
    store.write("a", KEY, RECORD)
    content = bytearray(store.path("a").read_bytes())
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="length")]
    else:
        content[data.draw(st.integers(0, len(content) - 1), label="byte")] ^= data.draw(st.integers(1, 255))
    store.path("a").write_bytes(bytes(content))
    record = store.read("a", KEY)
    assert record is None or record.facts == RECORD.facts


def test_any_file_of_that_name_may_be_in_the_way(store):
    store.folder.mkdir()
    for content in (b"", b"text", b"PK\x05\x06" + bytes(18)):
        store.path("a").write_bytes(content)
        assert store.read("a", KEY) is None
    np.savez(store.path("a"), z=np.zeros(3))
    assert store.read("a", KEY) is None
    with open(store.path("a"), "wb") as file:
        np.save(file, np.zeros(3))
    assert store.read("a", KEY) is None
    store.path("b").mkdir()
    assert store.read("b", KEY) is None


def test_a_key_s_hash_depends_on_values_alone(tmp_path):
    assert key_sha256({"a": 1, "b": [1, 2]}) == key_sha256({"b": (1, 2), "a": np.int64(1)})
    assert key_sha256({"path": tmp_path}) == key_sha256({"path": str(tmp_path)})
    assert key_sha256({"a": 1}) != key_sha256({"a": "1"}) != key_sha256({"a": None})
