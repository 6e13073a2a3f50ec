"""The shipped config files: all resolve, all say how to start them."""

import re
import shlex

import pytest
from helpers import ROOT

from fedjax_sim.cli import parse, resolve_variants
from fedjax_sim.config import load_file, resolve, to_dict
from fedjax_sim.errors import InputError

FOLDER = ROOT / "configs"
FILES = sorted(
    path for path in FOLDER.rglob("*.py") if "def get_config(" in path.read_text()
)
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
DROP = {path.stem: path for path in FILES if path.parent.name == "drop"}
LEARNING = [f"C{i}" for i in range(1, 11)]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    """Config paths are given relative to the repository."""
    monkeypatch.chdir(ROOT)


def drop(name, arguments=""):
    if name not in DROP:
        pytest.skip(f"no configs/drop/{name}.py")
    (config,) = resolve_variants(
        load_file(f"{DROP[name]}:{arguments}").to_dict(), {}
    ).values()
    return config


def command_of(path):
    """The arguments of the command line in a config's docstring."""
    text = path.read_text().split('"""')[1].replace("\\\n", " ")
    # A docstring that is not raw turns backslash-newline into nothing.
    found = re.search(r"python launch/run\.py ([^\n]*)", text)
    assert found, f"{path}: no 'python launch/run.py' in the docstring"
    return shlex.split(found[1])


def test_there_are_configs():
    assert "configs/quickstart.py" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_config_resolves(name):
    runs = resolve_variants(load_file(name).to_dict(), {})

    assert runs
    for config in runs.values():
        assert resolve(to_dict(config)) == config


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_docstring_holds_a_command_that_works(path):
    values, changes = parse(["run.py", *command_of(path)])

    assert values.config.partition(":")[0] == str(path.relative_to(ROOT))
    assert values.workdir
    assert resolve_variants(load_file(values.config).to_dict(), changes)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_docstring_as_python_sees_it_can_be_pasted(path):
    """An unescaped backslash at the end of a line glues the lines together."""
    namespace = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    shown = namespace["__doc__"].replace("\\\n", " ")
    found = re.search(r"python launch/run\.py ([^\n]*)", shown)

    assert shlex.split(found[1]) == command_of(path)


def test_quickstart_compares_two_defences():
    runs = resolve_variants(load_file("configs/quickstart.py").to_dict(), {})

    names = {name: config.defense.name for name, config in runs.items()}
    assert names == {"fedavg": "fedavg", "droplet": "droplet"}
    assert {config.data.name for config in runs.values()} == {"digits"}


@pytest.mark.parametrize("name", ["cifar10", "cinic10", "emnist", "gtsrb"])
def test_drop_learning_configurations_differ(name):
    seen = set()
    for learning in LEARNING:
        client = drop(name, f"learning={learning}").client
        seen.add((client.lr, client.batch_size, client.epochs))

    assert len(seen) == 10


@pytest.mark.parametrize(
    ("name", "dpr", "expected"),
    [
        ("cifar10", "1.25", 0.125),
        ("cifar10", "2.5", 0.25),
        ("cinic10", "1.25", 0.125),
        ("emnist", "1.25", 0.5875),  # 47 classes
        ("emnist", "2.5", 1.0),  # out of reach: all victim samples
        ("gtsrb", "1.25", 0.5375),  # 43 classes
    ],
)
def test_drop_poisoning_rate_counts_all_samples(name, dpr, expected):
    options = drop(name, f"dpr={dpr}").attack.options

    assert options["dpr"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "population", "cohort", "rounds", "malicious"),
    [
        ("cifar10", 50, 25, 200, 10),
        ("cinic10", 150, 30, 200, 30),
        ("emnist", 100, 50, 100, 20),
        ("gtsrb", 100, 25, 100, 20),
    ],
)
def test_drop_federations(name, population, cohort, rounds, malicious):
    config = drop(name, "defense=droplet,dpr=1.25,mcr=20")

    assert config.partition.num_clients == population
    assert config.participation.clients_per_round == cohort
    assert config.rounds == rounds
    assert config.attack.num_malicious == malicious
    assert config.defense.name == "droplet"


def test_drop_arguments():
    config = drop("cifar10", "defense=median,learning=C3,mcr=10,alpha=0.5")

    assert config.defense.name == "median"
    assert config.defense.options["variant"] == "authors"
    assert (config.client.lr, config.client.batch_size, config.client.epochs) == (
        0.025,
        256,
        5,
    )
    assert config.attack.num_malicious == 5
    assert config.partition.name == "drop_dirichlet"
    assert config.partition.options["alpha"] == 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        "defence=droplet",  # no such key
        "defense=dropplet",  # no such defence
        "defense=",
        "defense",
        "learning=C11",
        "learning=c4",
        "dpr=high",
        "dpr",
        "mcr=",
        "mcr=-20",
        "mcr=200",
        "mcr=nan",
        "mcr=inf",
        "alpha=-1",
        "alpha=nan",
        "learning=C4;dpr=1.25",
    ],
)
def test_wrong_drop_arguments(arguments):
    with pytest.raises(InputError) as problem:
        drop("cifar10", arguments)

    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", sorted(DROP))
def test_every_drop_file_refuses_wrong_arguments(name):
    with pytest.raises(InputError, match="did you mean 'defense'"):
        drop(name, "defence=droplet")
    with pytest.raises(InputError, match="learning=C11 does not exist"):
        drop(name, "learning=C11")


def test_argument_of_a_file_that_takes_none():
    with pytest.raises(InputError, match="takes no"):
        load_file("configs/quickstart.py:defense=median")
