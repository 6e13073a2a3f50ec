"""Who holds what: the file that a run writes, and what is said of it."""

import json
import shutil

import numpy as np
import pytest
from helpers import BASE, digits, rows, without_times

from fedjax_sim.core.errors import InputError
from fedjax_sim.data.packing import fingerprint
from fedjax_sim.data.partition_files import read_partition
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.experiment.data import load_data
from fedjax_sim.runs.loop import run
from fedjax_sim.runs.terminal import Terminal

FAKES = {"attack.name": "mpaf", "attack.num_malicious": 0, "attack.num_fake": 2}


def from_file(path, num_clients=6):
    return {
        "partition": {"name": "file", "path": str(path), "num_clients": num_clients}
    }


@pytest.fixture(scope="module")
def first(real_run):
    """A finished run of BASE."""
    return real_run


def run_on(path, workdir):
    return run(resolve({**BASE, **from_file(path)}), workdir)


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """A run on the file that the first one left."""
    folder = tmp_path_factory.mktemp("second")
    shutil.copy(first / "partition.npz", folder / "here.npz")
    assert run_on(folder / "here.npz", folder / "run")[0] == 0
    return folder


def test_a_run_on_the_partition_of_another_is_that_run(first, second):
    partition, _ = read_partition(first / "partition.npz")
    said = json.loads((first / "provenance.json").read_text())["partition"]
    assert fingerprint(partition) == said["fingerprint"]
    for name in ("metrics.jsonl", "rounds.jsonl"):
        one, two = rows(first / name), rows(second / "run" / name)
        assert list(map(without_times, one)) == list(map(without_times, two))
    own = (second / "run" / "partition.npz").read_bytes()
    assert own == (first / "partition.npz").read_bytes()


def test_fake_clients_are_not_in_the_file():
    built = build(resolve(override(BASE, FAKES)))
    assert built.partition.counts.min() > 0 and len(built.partition.counts) == 6
    assert built.inputs.data.counts.tolist()[6:] == [0, 0]


def test_a_file_may_move_but_not_change(second):
    moved = (second / "here.npz").rename(second / "there.npz")
    with pytest.raises(InputError, match=r"partition\.path = '.*here.npz', not"):
        run_on(moved, second / "run")  # finished: nothing tells what a file holds
    (second / "run" / "summary.json").unlink()
    content = moved.read_bytes()
    with np.load(moved) as archive:
        arrays = dict(archive)
    arrays["indices"][[0, 1]] = arrays["indices"][[1, 0]]
    np.savez(moved, **arrays)
    with pytest.raises(InputError, match="holds a run on other clients"):
        run_on(moved, second / "run")
    moved.write_bytes(content)
    assert run_on(moved, second / "run")[0] == 0


def test_a_run_of_a_version_without_a_key_goes_on(first, tmp_path):
    """A key that is new and left at None is no difference."""
    workdir = tmp_path / "run"
    shutil.copytree(first, workdir)
    values = json.loads((workdir / "config.json").read_text())
    del values["partition"]["seed"], values["model"]["init"]
    (workdir / "config.json").write_text(json.dumps(values))
    assert run(resolve(BASE), workdir)[0] == 0


def test_clients_are_writers():
    data = digits()._replace(train_groups=np.arange(200) % 9)
    values = {**BASE, "data": {"name": "arrays", "num_train": 150}}
    values["partition"] = {"name": "by_writer", "num_clients": 6, "min_samples": 17}
    loaded = load_data(resolve(values), data)
    built = build(resolve(values), loaded)
    found = np.asarray(built.partition.indices)
    assert built.partition.counts.tolist() == [17] * 6
    for row, count in zip(found, built.partition.counts, strict=True):
        assert len(set(row[:count] % 9)) == 1
    with pytest.raises(InputError, match=r"'by_writer': the data set does not say who"):
        build(resolve(values), loaded._replace(train_groups=None))
    with pytest.raises(InputError, match="train_groups must be 200 integers or None"):
        load_data(resolve(values), data._replace(train_groups=np.zeros(3)))


@pytest.mark.parametrize(
    ("name", "unequal", "lacking", "said"),
    [
        ("drop_iid", True, 1, True),
        ("drop_iid", False, 0, False),
        ("shards", True, 6, False),  # nobody expects all classes of it
    ],
)
def test_clients_that_lack_classes(tmp_path, capsys, name, unequal, lacking, said):
    data = digits()
    if not unequal:
        data = data._replace(train_labels=(np.arange(200) % 10).astype(np.int32))
    values = {**BASE, "data": {"name": "arrays"}, "attack": {"name": "none"}}
    values["partition"] = {"name": name, "num_clients": 6 if unequal else 5}
    values["participation"] = {"clients_per_round": 4}
    facts = build(resolve(values), data).facts
    assert facts["partition"]["clients_without_a_class"] == lacking
    Terminal("mine", 3, tmp_path, "none").begins(
        {**facts, "malicious_majority": None}, 0
    )
    line, err = capsys.readouterr()
    assert err == "" and line.count("\n") == said
    expected = "mine: partition 'drop_iid' leaves 1 of 6 clients without all of the 10"
    assert line.startswith(expected) == said
    assert ("one has 8: it deals them in turns" in line) == said
