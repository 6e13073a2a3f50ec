"""Rules, models and data of a user's own, in a folder outside of the package."""

import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from helpers import BASE, ROOT, digits, rows

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.runs.listener import Listener
from fedjax_sim.runs.loop import run

RULES = '''
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from fedjax_sim import (
    Attack, Dataset, Defense, Entry, Stage, exclude, included, pipeline, stateless
)
from fedjax_sim.contracts.defense import Aggregate
from fedjax_sim.core.options import Positive, Traced, checked
from fedjax_sim.defenses.parts.clipping import median_norm


@checked("defense")
def norm_filter(*, factor: Traced[Positive] = 2.0) -> Defense:
    """Leaves out clients whose update is much longer than the median.

    Args:
      factor: of the median norm.
    """

    def judge(cohort, context):
        norms = jnp.linalg.norm(cohort.updates, axis=1)
        return exclude(cohort, norms > factor * median_norm(norms, included(cohort)))

    return pipeline(stateless(judge))


ENTRY = Entry(norm_filter, paper="Ours 2026")


def times(*, scale: float = 30.0) -> Attack:
    """Sends a multiple of the own update."""
    return Attack(("own_updates",), craft=lambda state, view: (
        state, scale * view.updates
    ))


def blobs(*, size: int = 8) -> Dataset:
    """Bright and dark images."""
    labels = np.arange(120) % 2
    images = np.full((120, size, size, 1), 60, np.uint8) + 90 * labels[
        :, None, None, None
    ].astype(np.uint8)
    return Dataset("blobs", images[:90], labels[:90], images[90:], labels[90:], 2)


class Net(nn.Module):
    num_classes: int
    last_layer = "out"

    @nn.compact
    def __call__(self, x, *, train=False, mask=None):
        return nn.Dense(self.num_classes, name="out")(x.reshape(x.shape[0], -1))


def net(num_classes: int) -> nn.Module:
    return Net(num_classes)


def no_layer(num_classes: int) -> nn.Module:
    return nn.Dense(num_classes)


def growing() -> Defense:
    """Breaks the contract: its state grows."""
    return pipeline(
        Stage(
            lambda spec: jnp.zeros(1),
            lambda state, cohort, context: (jnp.concatenate([state, state]), cohort),
        )
    )


def a_list() -> list:
    return []


def branching() -> Defense:
    return pipeline(
        stateless(lambda cohort, context: (
            cohort if cohort.weights.sum() > 2 else exclude(cohort, included(cohort))
        ))
    )


def all_updates() -> Defense:
    return pipeline(reduce=lambda cohort, context: Aggregate(
        cohort.updates, cohort.buffers[0]
    ))


def plain_mean() -> Defense:
    """Breaks the contract: it looks at no weights."""
    return pipeline(reduce=lambda cohort, context: Aggregate(
        cohort.updates.mean(0), cohort.buffers.mean(0)
    ))


def no_answer() -> Defense:
    return pipeline(predict=lambda state, model, network, images: images.nothing)


def one_row() -> Attack:
    return Attack(("own_updates",), craft=lambda state, view: (state, view.updates[0]))


def no_poison() -> Attack:
    return Attack(("own_data",), poison=lambda spec: None)


def two_classes() -> nn.Module:
    return Net(1)


def halves(labels, num_clients, seed):
    return np.array_split(np.arange(len(labels)), num_clients)


def broken_halves(labels, num_clients, seed):
    return labels.half()


def floats() -> Dataset:
    return blobs()._replace(train_images=np.zeros((90, 8, 8, 1)))
'''
OWN = {
    "rounds": 2,
    "data": {"name": "outside_rules:blobs"},
    "model": {"name": "outside_rules:net"},
    "partition": {"num_clients": 6},
    "participation": {"clients_per_round": 6},
    "attack": {"name": "outside_rules:times", "num_malicious": 1},
    "defense": {"name": "outside_rules:norm_filter", "factor": 3.0},
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with the rules, a config and a sweep of them."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "outside_rules.py").write_text(RULES)
    (folder / "mine.py").write_text(f"def get_config():\n    return {OWN!r}\n")
    (folder / "sweep.py").write_text(
        "from fedjax_sim.sweeps import Sweep, product\n\n"
        "def get_sweep():\n"
        "    return Sweep('mine.py', product({'defense.name': "
        "['outside_rules:norm_filter', 'fedavg']}))\n"
    )
    return folder


@pytest.fixture
def importable(outside, monkeypatch):
    monkeypatch.syspath_prepend(str(outside))


def start(outside, command, *flags):
    """Runs a command from the folder, as its owner does."""
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / f"{command}.py"), *flags],
        cwd=outside,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_run(outside):
    done = start(outside, "run", "--config=mine.py", "--workdir=run")
    assert done.returncode == 0, done.stderr
    last = rows(outside / "run" / "rounds.jsonl")[-1]
    assert len(last["malicious"]) == 1 and last["excluded"] == last["malicious"]


@pytest.mark.parametrize(
    "how",
    [
        ["--processes=2"],
        pytest.param(["--cluster=local", "--jobs=1"], marks=pytest.mark.slow),
    ],
)
def test_a_sweep_in_processes_and_jobs_and_its_report(outside, tmp_path, how):
    results = f"--results={tmp_path}"
    done = start(outside, "sweep", "--sweep=sweep.py", results, *how)
    assert done.returncode == 0, done.stdout + done.stderr
    done = start(
        outside,
        "report",
        results,
        "--sql=SELECT defense_name FROM runs ORDER BY defense_name",
    )
    assert "fedavg" in done.stdout, done.stderr
    assert "outside_rules:norm_filter" in done.stdout


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"defense.name": "nowhere.rules:x"}, ["nowhere", "no module"]),
        ({"defense.name": "outside_rules:norm_filtr"}, ["mean 'norm_filter'"]),
        ({"defense.name": "outside_rules:RULES"}, ["no factory 'RULES'"]),
        ({"defense.name": "outside_rules:a_list"}, ["makes a list", "Defense"]),
        ({"attack.name": "outside_rules:net"}, ["num_classes"]),
        ({"defense.name": "outside_rules:growing"}, ["float32[1]", "float32[2]"]),
        ({"defense.name": "outside_rules:growing"}, ["'outside_rules:growing'"]),
        (
            {"defense.name": "outside_rules:branching"},
            ["outside_rules.py, line ", "TracerBoolConversionError"],
        ),
        (
            {"defense.name": "outside_rules:all_updates"},
            ["'outside_rules:all_updates'", "aggregated to ((6, "],
        ),
        (
            {"defense.name": "outside_rules:plain_mean"},
            ["'outside_rules:plain_mean'", "a client of weight 0 has influence"],
        ),
        ({"defense.name": "outside_rules:no_answer"}, ["line ", " nothing"]),
        (
            {"attack.name": "outside_rules:one_row"},
            ["'outside_rules:one_row'", "updates ["],
        ),
        ({"attack.name": "outside_rules:no_poison"}, ["NoneType", "Poison"]),
        ({"model.name": "outside_rules:two_classes"}, ["[2, 1]", "[2, 2 or more]"]),
        ({"partition.name": "outside_rules:halves"}, ["makes a list", "Partition"]),
        ({"partition.name": "outside_rules:broken_halves"}, ["line ", "'half'"]),
        ({"defense.factor": 0.0}, ["config.defense.factor", "above 0"]),
        ({"model.name": "outside_rules:no_layer"}, ["Dense", "last_layer"]),
        ({"data.name": "outside_rules:floats"}, ["train_images", "uint8", "float64"]),
    ],
)
def test_what_is_wrong_is_one_line(changes, parts):
    with pytest.raises(InputError) as error:
        build(resolve(override(OWN, changes)))
    text = str(error.value)
    assert "\n" not in text and "config." in text
    for part in parts:
        assert part in text


@pytest.mark.usefixtures("importable")
def test_an_installed_package_announces_names(monkeypatch):
    group = "fedjax_sim.defenses"
    point = metadata.EntryPoint("theirs", "outside_rules:norm_filter", group)
    found = lambda group: [point] if group == point.group else []
    monkeypatch.setattr(metadata, "entry_points", found)
    assert "theirs" in DEFENSES and "theirs" in list(DEFENSES)
    assert DEFENSES.find("theirs").paper == "Ours 2026"
    config = resolve(override(BASE, {"defense.name": "theirs", "defense.factor": 4.0}))
    assert config.defense.options == {"factor": 4.0}


def test_arrays_of_the_caller(tmp_path):
    mine = digits(120, 40)._replace(name="mine")
    config = resolve(override(BASE, {"data": {"name": "arrays"}, "rounds": 1}))
    code, summary = run(config, tmp_path / "run", dataset=mine)
    assert code == 0 and summary["final"]["mta"] > 0


def test_run_says_what_it_takes(tmp_path):
    with pytest.raises(InputError, match=r"takes what resolve\("):
        run({}, tmp_path)
    with pytest.raises(InputError, match="objects of Listener"):
        run(resolve(BASE), tmp_path, listeners=[Listener])
    assert run(resolve(override(BASE, {"rounds": 1})), str(tmp_path / "a"))[0] == 0


@pytest.mark.parametrize(
    ("name", "given", "parts"),
    [
        ("arrays", None, ["must be given"]),
        ("digits", digits(20, 10), ["'digits'", "'arrays'"]),
        ("arrays", [1, 2], ["a list was made"]),
        (
            "arrays",
            digits(20, 10)._replace(train_labels=np.full(20, 10)),
            ["train_labels lie in 10..10"],
        ),
        (
            "arrays",
            digits(20, 10)._replace(test_labels=np.zeros(3, int)),
            ["test_labels must be 10 integers"],
        ),
    ],
)
def test_wrong_arrays(tmp_path, name, given, parts):
    config = resolve(override(BASE, {"data": {"name": name}}))
    with pytest.raises(InputError) as error:
        run(config, tmp_path / "run", dataset=given)
    for part in parts:
        assert part in str(error.value)
