"""Every partition uses a sample at most once and keeps its own promise."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_sim.core.errors import InputError
from fedjax_sim.data import partition as p
from fedjax_sim.data.packing import classes_of_clients


def _labels(num_samples: int, num_classes: int, seed: int = 0) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, num_classes, num_samples)
    labels[:num_classes] = np.arange(num_classes)
    return labels.astype(np.int32)


def _rows(split: p.Partition) -> list[np.ndarray]:
    return [row[:count] for row, count in zip(split.indices, split.counts, strict=True)]


# They need more than labels: tests/data/test_natural_partition.py, _partition_files.py.
NAMES = [name for name in p.PARTITIONS if name not in ("by_writer", "file")]
OPTIONS = {
    "drop_dirichlet": {"alpha": 100.0},
    "sinkhorn_dirichlet": {"alpha": 5.0},
    "labels_per_client": {"num_labels": 2},
    "flwr_dirichlet": {"alpha": 50.0, "min_partition_size": 1},
    "fedlab_hetero_dir": {"alpha": 50.0, "min_require_size": 1},
}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(
    num_clients=st.integers(1, 12),
    num_classes=st.integers(2, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_partition_is_valid_and_reproducible(
    name, num_clients, num_classes, seed
):
    labels = _labels(600, num_classes, seed)
    if name == "label_groups":  # a group for every label
        num_clients = max(num_clients, num_classes)
    arguments = dict(num_clients=num_clients, seed=seed, **OPTIONS.get(name, {}))
    split = p.PARTITIONS[name].factory(labels, **arguments)
    p.check(split, len(labels))
    assert split.indices.dtype == split.counts.dtype == np.int32
    assert len(split.counts) == num_clients and split.counts.min() > 0
    again = p.PARTITIONS[name].factory(labels, **arguments)
    assert p.fingerprint(again) == p.fingerprint(split)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_differ(name):
    labels = _labels(400, 4)
    options = OPTIONS.get(name, {})
    prints = {
        p.fingerprint(
            p.PARTITIONS[name].factory(labels, num_clients=5, seed=seed, **options)
        )
        for seed in range(4)
    }
    assert len(prints) == 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("num_clients", "message"),
    [
        (0, r"config\.partition\.num_clients = 0 must be at least 1"),
        (11, "num_clients=11 is more than the 10"),
    ],
)
def test_an_impossible_number_of_clients_is_refused(name, num_clients, message):
    with pytest.raises(InputError, match=message):
        p.PARTITIONS[name].factory(_labels(10, 2), num_clients=num_clients, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_seed_is_refused(name):
    options = OPTIONS.get(name, {})
    with pytest.raises(InputError, match=r"config\.partition\.seed = -1 must"):
        p.PARTITIONS[name].factory(_labels(50, 2), num_clients=2, seed=-1, **options)


def _naive_round_robin(class_sizes, num_clients):
    """Literally DROP's code, one sample at a time."""
    left = list(class_sizes)
    size = sum(left) // num_clients
    counts = np.zeros((num_clients, len(left)), int)
    for client in range(num_clients):
        while counts[client].sum() < size:
            for label in range(len(left)):
                if left[label] and counts[client].sum() < size:
                    left[label] -= 1
                    counts[client, label] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 9))
def test_round_robin_counts_equal_the_literal_procedure(sizes, num_clients):
    np.testing.assert_array_equal(
        p.round_robin_counts(np.array(sizes), num_clients),
        _naive_round_robin(sizes, num_clients),
    )


def test_drop_iid_is_balanced_for_balanced_classes():
    labels = np.repeat(np.arange(10), 100)
    split = p.drop_iid(labels, num_clients=5, seed=3)
    for row in _rows(split):
        assert np.bincount(labels[row]).tolist() == [20] * 10
        assert len(set(labels[row][:10])) < 10  # shuffled, not dealt in turns


def test_available_data_ratio_keeps_the_first_samples():
    labels = _labels(1000, 3)
    for name in ("drop_iid", "drop_dirichlet"):
        split = p.PARTITIONS[name].factory(
            labels, num_clients=4, seed=0, available_data_ratio=0.29
        )
        assert p.flatten(split).max() < 290
    split = p.drop_iid(labels, num_clients=4, seed=0, available_data_ratio=0.29)
    assert split.counts.sum() == 288  # 4 * (290 // 4)
    with pytest.raises(InputError, match=r"available_data_ratio = 1\.5 must lie"):
        p.drop_iid(labels, num_clients=4, seed=0, available_data_ratio=1.5)


DIRICHLET = [
    "drop_dirichlet",
    "sinkhorn_dirichlet",
    "flwr_dirichlet",
    "fedlab_hetero_dir",
]


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("name", DIRICHLET)
def test_an_alpha_that_is_not_above_zero_is_refused(name, alpha):
    with pytest.raises(InputError, match=rf"\.alpha = {alpha} must be above 0"):
        p.PARTITIONS[name].factory(_labels(100, 2), num_clients=2, seed=0, alpha=alpha)


def test_a_client_without_samples_is_an_error():
    with pytest.raises(InputError, match="without a sample; raise alpha"):
        p.drop_dirichlet(_labels(100, 2), num_clients=20, seed=0, alpha=0.05)


@pytest.mark.parametrize("name", ["drop_dirichlet", "sinkhorn_dirichlet"])
def test_a_least_size_is_redrawn(name):
    """A draw that has it is the one without the option; others are drawn again."""
    options = {"balance": False} if name == "sinkhorn_dirichlet" else {}
    labels = np.repeat(np.arange(10), 500)
    divide = lambda **more: p.PARTITIONS[name].factory(
        labels, num_clients=20, **options, **more
    )
    plain = [divide(seed=seed, alpha=0.5) for seed in range(4)]
    least = int(np.median([split.counts.min() for split in plain]))
    redrawn = 0
    for seed, split in enumerate(plain):
        found = divide(seed=seed, alpha=0.5, min_samples=least)
        assert found.counts.min() >= least
        same = p.fingerprint(found) == p.fingerprint(split)
        assert same == (split.counts.min() >= least)
        redrawn += not same
    assert 0 < redrawn < 4
    message = r"none of 4 draws gives each of num_clients=20 clients min_samples=250"
    with pytest.raises(InputError, match=message):
        divide(seed=0, alpha=0.5, min_samples=250, max_redraws=3)
    with pytest.raises(InputError, match="max_redraws=3 belongs to min_samples"):
        divide(seed=0, alpha=0.5, max_redraws=3)


def test_a_hundred_clients_and_a_small_alpha():
    """Five of 20 seeds with alpha 0.1, and all with 0.05, left a client empty."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    for alpha in (0.1, 0.05):
        for seed in range(4):
            arguments = dict(num_clients=100, seed=seed, alpha=alpha)
            split = p.drop_dirichlet(labels, **arguments, min_samples=1)
            assert split.counts.min() >= 1


# What flwr-datasets 0.6.1 and FedLab 1.3.0 made of the same labels: sizes of the first
# clients, and the fingerprint of all.
OTHERS = [
    (
        "flwr_dirichlet",
        {"alpha": 0.2, "min_partition_size": 4},
        [25, 48, 83, 169, 80, 55, 45, 92],
        "ead9969ad3e3b6ee",
    ),
    (
        "flwr_dirichlet",
        {"alpha": 0.2, "min_partition_size": 4, "self_balancing": True},
        [36, 49, 71, 117, 84, 71, 78, 100],
        "f95c00d0d3258681",
    ),
    (
        "fedlab_hetero_dir",
        {"alpha": 0.2, "min_require_size": 4},
        [23, 34, 84, 30, 158, 47, 49, 40],
        "24e49f2d16fab3dd",
    ),
]


@pytest.mark.parametrize(("name", "options", "sizes", "digest"), OTHERS)
def test_partitions_of_other_frameworks_are_theirs(name, options, sizes, digest):
    labels = np.random.default_rng(105).integers(0, 10, 2000)
    divide = p.PARTITIONS[name].factory
    split = divide(labels, num_clients=30, seed=5, **options)
    assert split.counts[:8].tolist() == sizes
    assert p.fingerprint(split) == digest
    p.check(split, len(labels))
    (key,) = (key for key in options if key.startswith("min_"))
    with pytest.raises(InputError, match=rf"none of 2 draws .*{key}=66 .*2000 samples"):
        divide(labels, num_clients=30, seed=5, max_redraws=1, **options | {key: 66})


@pytest.mark.parametrize("name", ["flwr_dirichlet", "fedlab_hetero_dir"])
def test_shares_that_underflow_are_no_draw(name, recwarn):
    with pytest.raises(InputError, match=r"none of 4 draws .* smallest has 0"):
        p.PARTITIONS[name].factory(
            _labels(400, 4), num_clients=50, seed=0, alpha=1e-9, max_redraws=3
        )
    assert not recwarn.list


def test_sinkhorn_balances_clients():
    labels = np.repeat(np.arange(10), 500)
    split = p.sinkhorn_dirichlet(labels, num_clients=50, seed=4, alpha=0.1)
    assert split.counts.min() >= 90 and split.counts.max() <= 110
    assert split.counts.sum() == len(labels)
    plain = p.sinkhorn_dirichlet(
        labels, num_clients=50, seed=4, alpha=1.0, balance=False
    )
    assert plain.counts.sum() == len(labels)
    assert plain.counts.std() > 5 * split.counts.std()


def test_sinkhorn_redraws_what_underflows(monkeypatch):
    good = np.array([[0.5, 0.5], [0.25, 0.75]])
    draws = iter([np.array([[1.0, 0.0], [1.0, 0.0]]), np.full((2, 2), np.nan), good])

    class Generator:
        def __init__(self, seed):
            del seed

        def dirichlet(self, alpha, size):
            del alpha, size
            return next(draws)

    monkeypatch.setattr(np.random, "RandomState", Generator)
    labels = np.repeat([0, 1], 8)
    split = p.sinkhorn_dirichlet(labels, num_clients=2, seed=0, alpha=0.1)
    assert split.counts.sum() == 16 and split.counts.min() >= 7


def test_sinkhorn_gives_up_on_a_hopeless_alpha():
    with pytest.raises(InputError, match="underflows"):
        p.sinkhorn_dirichlet(_labels(100, 2), num_clients=50, seed=0, alpha=1e-6)


def test_every_client_holds_as_many_labels_as_asked():
    labels = _labels(2000, 10)
    split = p.labels_per_client(labels, num_clients=20, seed=42, num_labels=5)
    holders = np.zeros(10, int)
    for row in _rows(split):
        held = np.unique(labels[row])
        assert len(held) == 5
        holders[held] += 1
    assert holders.tolist() == [10] * 10
    assert split.counts.sum() == len(labels)
    with pytest.raises(InputError, match="num_labels=11"):
        p.labels_per_client(labels, num_clients=20, seed=0, num_labels=11)
    with pytest.raises(InputError, match="lower either"):
        p.labels_per_client(_labels(30, 10), num_clients=30, seed=0, num_labels=9)


def test_shards_limit_the_labels_of_a_client():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))
    split = p.shards(labels, num_clients=30, seed=1)
    assert split.counts.tolist() == [20] * 30
    assert max(len(np.unique(labels[row])) for row in _rows(split)) <= 2
    with pytest.raises(InputError, match="shards_per_client = 0 must be at least 1"):
        p.shards(labels, num_clients=30, seed=1, shards_per_client=0)
    with pytest.raises(InputError, match="more than the 600 training samples"):
        p.shards(labels, num_clients=30, seed=1, shards_per_client=21)


def _shares(labels, split, num_groups):
    """Share of each group's samples that carry each label, f64 [groups, labels]."""
    counts = np.zeros((num_groups, labels.max() + 1))
    for client, row in enumerate(_rows(split)):
        np.add.at(counts, (client % num_groups, labels[row]), 1)
    return counts / counts.sum(1, keepdims=True)


@pytest.mark.parametrize("degree", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_label_groups_hold_as_much_of_their_label_as_asked(degree):
    """A quarter of four labels is IID; all other labels of a group are alike."""
    labels = _labels(8000, 4)
    split = p.label_groups(labels, num_clients=20, seed=3, degree=degree)
    p.check(split, len(labels))
    assert split.counts.sum() == len(labels)

    rest = (1 - degree) / 3
    expected = np.where(np.eye(4, dtype=bool), degree, rest)
    np.testing.assert_allclose(_shares(labels, split, 4), expected, atol=0.03)
    # A random client of the group: binomial sizes about 400.
    assert split.counts.min() > 300 and split.counts.max() < 500


def test_label_groups_of_unequal_size_and_labels_with_gaps():
    """Seven clients, three labels 1, 4, 9: groups of 3, 2 and 2 clients."""
    labels = np.random.default_rng(0).choice([1, 4, 9], 2100)
    split = p.label_groups(labels, num_clients=7, seed=0, degree=1.0)

    assert split.counts.sum() == 2100
    for client, row in enumerate(_rows(split)):
        assert set(labels[row]) == {(1, 4, 9)[client % 3]}
    sizes = [split.counts[group::3].sum() for group in range(3)]
    assert sizes == [(labels == value).sum() for value in (1, 4, 9)]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"degree": -0.1}, "degree = -0.1 must lie between 0 and 1"),
        ({"degree": 1.1}, "degree = 1.1 must lie between 0 and 1"),
        ({"degree": float("nan")}, "degree = nan must lie between 0 and 1"),
        ({"num_clients": 3}, "num_clients=3, at least 4"),
        ({"num_clients": 38}, "without a sample; use fewer clients or more data"),
    ],
)
def test_impossible_label_groups_are_refused(options, part):
    with pytest.raises(InputError) as problem:
        p.label_groups(_labels(40, 4), **{"num_clients": 4, "seed": 0, **options})

    assert part in str(problem.value)
    assert "\n" not in str(problem.value)


def test_fingerprint_ignores_padding_but_not_order():
    split = p.Partition(np.array([[3, 1], [2, 0]], np.int32), np.array([2, 1]))
    padded = p.Partition(np.array([[3, 1, 7], [2, 9, 9]]), np.array([2, 1]))
    swapped = split._replace(indices=split.indices[:, ::-1])
    moved = p.Partition(np.array([[3, 0], [1, 2]]), np.array([1, 2]))
    assert p.fingerprint(split) == p.fingerprint(padded)
    assert len({p.fingerprint(x) for x in (split, swapped, moved)}) == 3


def test_classes_of_clients():
    labels = np.array([7, 7, 2, 2, 5, 5])
    split = p.Partition(
        np.array([[0, 1, 0], [2, 4, 0], [5, 3, 1]]), np.array([2, 2, 3])
    )
    assert classes_of_clients(split, labels).tolist() == [1, 2, 3]
    empty = p.Partition(np.zeros((2, 1), np.int32), np.array([0, 1]))
    assert classes_of_clients(empty, labels).tolist() == [0, 1]


def test_fake_clients_hold_nothing():
    split = p.random_equal(_labels(20, 2), num_clients=4, seed=0)
    grown = p.with_fake_clients(split, 3)
    assert grown.counts.tolist() == [5] * 4 + [0] * 3
    assert grown.indices.shape == (7, 5)
    p.check(grown, 20)
    np.testing.assert_array_equal(p.flatten(grown), p.flatten(split))
    with pytest.raises(InputError, match="num_fake=-1"):
        p.with_fake_clients(split, -1)


@pytest.mark.parametrize(
    ("indices", "counts", "message"),
    [
        ([[0, 1], [1, 0]], [2, 1], "sample 1 is used more than once"),
        ([[0, 1], [4, 0]], [2, 1], r"outside 0\.\.3"),
        ([[0, -1], [2, 0]], [2, 1], r"outside 0\.\.3"),
        ([[0, 1], [2, 0]], [3, 1], r"counts outside 0\.\.2"),
        ([[0, 1], [2, 0]], [2], "expected"),
    ],
)
def test_check_finds_wrong_counts_and_samples(indices, counts, message):
    with pytest.raises(InputError, match=message):
        p.check(p.Partition(np.array(indices), np.array(counts)), 4)


def test_a_hundred_thousand_clients_take_seconds():
    labels = _labels(1_000_000, 10)
    start = time.perf_counter()
    for name in ("random_equal", "shards", "drop_iid"):
        split = p.PARTITIONS[name].factory(labels, num_clients=100_000, seed=0)
        p.check(split, len(labels))
        assert split.counts.tolist() == [10] * 100_000
    assert time.perf_counter() - start < 20
