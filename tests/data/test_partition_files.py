"""Clients from a file or from the data: shared partitions, writers."""

import json

import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.data.packing import check, fingerprint
from fedjax_sim.data.partition import PARTITIONS, drop_dirichlet
from fedjax_sim.data.partition_files import (
    clients_of,
    labels_digest,
    read_partition,
    write_partition,
)

LABELS = np.random.default_rng(0).integers(0, 4, 60).astype(np.int32)
CLIENTS = [[3, 1, 59], [0], [7, 8]]
by_writer = PARTITIONS["by_writer"].factory
from_file = PARTITIONS["file"].factory


def load(path, num_clients=3, labels=LABELS):
    return from_file(labels, num_clients=num_clients, seed=9, path=str(path))


# -------------------------------------------------------------------------- files


def test_what_is_written_is_read_again(tmp_path):
    split = drop_dirichlet(LABELS, num_clients=5, seed=3, alpha=1.0)
    path = tmp_path / "partition.npz"
    write_partition(path, split, LABELS)
    found = load(path, 5)
    assert fingerprint(found) == fingerprint(split)
    assert found.indices.dtype == found.counts.dtype == np.int32
    content = path.read_bytes()
    write_partition(path, split, LABELS)
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


FORMS = {
    "flat.npz": {"indices": np.array([3, 1, 59, 0, 7, 8]), "counts": [3, 1, 2]},
    "padded.npz": {
        "indices": np.array([[3, 1, 59], [0, -1, -1], [7, 8, -1]]),
        "counts": np.array([3, 1, 2]),
    },
    "clients.npz": {str(k): np.array(own) for k, own in enumerate(CLIENTS)},
    "lists.json": CLIENTS,
    "object.json": {"2": CLIENTS[2], "0": CLIENTS[0], "1": CLIENTS[1]},
}


@pytest.mark.parametrize("name", FORMS)
def test_files_of_other_frameworks(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez(path, **FORMS[name])
    else:
        path.write_text(json.dumps(FORMS[name]))
    found = load(path)
    check(found, 60)
    assert found.indices.tolist() == [[3, 1, 59], [0, 0, 0], [7, 8, 0]]
    assert fingerprint(found) == fingerprint(clients_of(list(map(np.array, CLIENTS))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([[0], [1]], "holds 2 clients, but config.partition.num_clients = 3"),
        ([[0], [1], []], "leaves 1 of num_clients=3 clients"),
        ([[0], [1], [0]], "sample 0 is used more than once"),
        ([[0], [1], [60]], r"sample numbers outside 0\.\.59"),
        ([[0], [1], [-1]], r"sample numbers outside 0\.\.59"),
        ([[0], [1], [2.5]], "sample numbers of type float64"),
        ([[0], [1], [2**32]], "sample numbers from 4294967296 to 4294967296"),
        ([[0], [1], ["x"]], "sample numbers of type <U1"),
        ([[0], [1], 5], "is no partition"),
        ({"a": [0], "b": [1], "c": [2]}, "clients are named a, b, c, not 0, 1"),
        (7, "is no partition"),
    ],
)
def test_partitions_that_are_wrong(tmp_path, content, message):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_partition(tmp_path):
    path = tmp_path / "p.npz"
    with pytest.raises(InputError, match=r"path = '.*p.npz': No such file"):
        load(path)
    with pytest.raises(InputError, match="~nobody_of_that_name"):
        load("~nobody_of_that_name/p.npz")
    for content, seems in ((b"", "empty"), (b"<html>", "web page"), (b"PK\3\4", "zip")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"looks like .*{seems}.*allowed: .npz"):
            load(path)
    np.savez(path, indices=np.arange(4), counts=[1, 2])
    with pytest.raises(InputError, match="4 indices, but counts add up to 3"):
        load(path)


def test_samples_in_another_order_are_noticed(tmp_path):
    path = tmp_path / "p.npz"
    write_partition(path, clients_of(list(map(np.array, CLIENTS))), LABELS)
    load(path)
    with pytest.raises(InputError, match="of other training samples, or of these in"):
        load(path, labels=LABELS[::-1])
    with pytest.raises(InputError, match=r"same data set and data\.num_train"):
        load(path, labels=LABELS[:50])
    assert read_partition(path)[1] == labels_digest(LABELS)


# ------------------------------------------------------------------------ writers


WRITERS = np.array([40, 7, 7, 40, 7, 1, 3, 3, 40, 40])


def test_a_client_is_a_writer():
    labels = np.zeros(10, np.int32)
    split = by_writer(labels, num_clients=4, seed=0, groups=WRITERS)
    check(split, 10)
    rows = [row[:n] for row, n in zip(split.indices, split.counts, strict=True)]
    assert sorted(split.counts.tolist()) == [1, 2, 3, 4]
    for row in rows:
        assert len(set(WRITERS[row])) == 1 and (np.diff(row) > 0).all()
    orders = {
        tuple(by_writer(labels, num_clients=4, seed=k, groups=WRITERS).counts)
        for k in range(6)
    }
    assert len(orders) > 1


def test_some_writers_of_a_least_size():
    labels = np.zeros(10, np.int32)
    arguments = dict(num_clients=2, groups=WRITERS, min_samples=3)
    for seed in range(4):
        split = by_writer(labels, seed=seed, **arguments)
        assert sorted(split.counts.tolist()) == [3, 4]
    message = r"num_clients=3 is more than the 2 writers .*min_samples=3 .*\(of 4\)"
    with pytest.raises(InputError, match=message):
        by_writer(labels, seed=0, **arguments | {"num_clients": 3})


def test_a_data_set_without_writers_is_refused():
    with pytest.raises(InputError, match="does not say who wrote which sample; those"):
        by_writer(LABELS, num_clients=2, seed=0)
