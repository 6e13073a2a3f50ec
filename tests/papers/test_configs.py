"""The shipped config files: all resolve, all say how to start them."""

import re
import shlex
from functools import cache
from itertools import product

import pytest
from helpers import ROOT

from fedjax_sim.commands.flags import parse
from fedjax_sim.commands.run import USAGE, make_flags
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.synthetic import load_synthetic
from fedjax_sim.experiment import build as experiment
from fedjax_sim.experiment.config import override, resolve, to_dict
from fedjax_sim.experiment.config_files import load_file, resolve_variants
from fedjax_sim.papers.drop import protocol as drop_protocol
from fedjax_sim.papers.fedredefense import protocol as fedredefense_protocol
from fedjax_sim.papers.iqr import protocol as iqr_protocol
from fedjax_sim.papers.leadfl import protocol as leadfl_protocol
from fedjax_sim.papers.poisonedfl import protocol as poisonedfl_protocol

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
    (config,) = resolve_variants(load_file(f"{DROP[name]}:{arguments}"), {}).values()
    return config


def command_of(path):
    """The arguments of the command line in a config's docstring."""
    text = path.read_text().split('"""')[1].replace("\\\n", " ")
    # A docstring that is not raw turns backslash-newline into nothing.
    found = re.search(r"python launch/run\.py ([^\n]*)", text)
    assert found, f"{path}: no 'python launch/run.py' in the docstring"
    return shlex.split(found[1])


def test_configs_are_found():
    assert "configs/quickstart.py" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_config_resolves(name):
    runs = resolve_variants(load_file(name), {})

    assert runs
    for config in runs.values():
        assert resolve(to_dict(config)) == config


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_docstring_holds_a_command_that_works(path):
    values = make_flags()
    changes = parse(["run.py", *command_of(path)], values, USAGE)

    assert values.config.partition(":")[0] == str(path.relative_to(ROOT))
    assert values.workdir
    assert resolve_variants(load_file(values.config), changes)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_docstring_as_python_sees_it_can_be_pasted(path):
    """An unescaped backslash at the end of a line glues the lines together."""
    namespace = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    shown = namespace["__doc__"].replace("\\\n", " ")
    found = re.search(r"python launch/run\.py ([^\n]*)", shown)

    assert shlex.split(found[1]) == command_of(path)


def test_quickstart_compares_two_defences():
    runs = resolve_variants(load_file("configs/quickstart.py"), {})

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
        ("emnist", 100, 50, 80, 20),
        ("gtsrb", 100, 25, 100, 20),
    ],
)
def test_drop_federations_have_the_published_sizes(
    name, population, cohort, rounds, malicious
):
    config = drop(name, "defense=droplet,dpr=1.25,mcr=20")

    assert config.partition.num_clients == population
    assert config.participation.clients_per_round == cohort
    assert config.rounds == rounds
    assert config.attack.num_malicious == malicious
    assert config.defense.name == "droplet"


def test_drop_arguments_choose_the_cell():
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
def test_wrong_drop_arguments_are_refused(arguments):
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


# --------------------------------------------------------------- all cells of papers

# Folder of configs -> the names behind the colon of `--config=FILE:TEXT`.
CELLS = {
    "drop": {
        "defense": [*drop_protocol.DEFENSES],
        "attack": ["backdoor", "neurotoxin", "chameleon"],
        "learning": ["C1", "C10"],
        "alpha": ["0", "0.5"],
    },
    "fedredefense": {
        "defense": [*fedredefense_protocol.DEFENSES],
        "attack": [
            name
            for name in fedredefense_protocol.ATTACKS
            if not name.startswith("adaptive_")
        ],
        "epochs": ["1", "2", "5"],
        "model": ["convnet", "cnn"],
    },
    "leadfl": {
        "preset": ["authors", "report"],
        "defense": [*leadfl_protocol.DEFENSES],
        "client": [*leadfl_protocol.CLIENT_DEFENSES],
        "mode": [*leadfl_protocol.MODES],
        "labels": ["0", "5"],
    },
    "poisonedfl": {
        "defense": [*poisonedfl_protocol.DEFENSES],
        "adaptation": [*poisonedfl_protocol.ADAPTATIONS],
        "fakes": ["0", "5", "20"],
        "schedule": ["constant", "step", "cosine"],
    },
    "iqr": {
        "preset": [*iqr_protocol.PRESETS],
        "defense": [*iqr_protocol.DEFENSES],
        "alpha": ["0", "0.05", "1"],
        "strong": ["false", "true"],
        "labels": ["0", "5"],
    },
}
# Between FedREDefense and those who know it.
MODES = [
    f"mode={mode},base={base},attack={attack}"
    for mode in ("dynamic", "continuous", "intermittent")
    for base in ("fedavg", "median_lower", "trimmed_mean", "norm_bound_oracle")
    for attack in fedredefense_protocol.ATTACKS
]
# Height, width, channels and classes of the data sets, which tests do not have.
SHAPES = {
    "cifar10": (32, 32, 3, 10),
    "cinic10": (32, 32, 3, 10),
    "emnist": (28, 28, 1, 47),
    "fashion_mnist": (28, 28, 1, 10),
    "mnist": (28, 28, 1, 10),
    "gtsrb": (32, 32, 3, 43),
}
PAPERS = [path for path in FILES if path.parent.name in CELLS]
every_paper = pytest.mark.parametrize(
    "path", PAPERS, ids=[f"{path.parent.name}/{path.stem}" for path in PAPERS]
)


def cell(path, text=""):
    return load_file(f"{path}:{text}")


@cache
def pictures(name):
    height, width, channels, classes = SHAPES[name]
    return load_synthetic(
        num_train=14_000,  # a few for each of 1200 clients, and a server's own
        num_test=50,
        num_classes=classes,
        height=height,
        width=width,
        channels=channels,
    )


def test_every_folder_of_papers_is_here():
    folders = {path.parent.name for path in FILES} - {"configs", "small"}

    assert folders == set(CELLS)


@every_paper
def test_every_cell_resolves(path):
    grid = CELLS[path.parent.name]
    texts = [
        ",".join(map("=".join, zip(grid, values, strict=True)))
        for values in product(*grid.values())
    ]
    if path.parent.name == "fedredefense":
        texts += MODES
    if path.parent.name == "leadfl":
        variants = ("code", "report", "paper_sign", "halfsq")
        texts += [f"variant={name},alpha=0.2" for name in variants]
    if path.parent.name == "drop":
        texts += [
            f"defense={name},variant={variant}"
            for name, options in drop_protocol.DEFENSES.items()
            for variant in ("authors", "paper")
            if "variant" in options
        ]
    for text in texts:
        config = resolve(cell(path, text))
        wanted = dict(pair.split("=") for pair in text.split(","))
        if wanted.get("defense", "bulyan") != "bulyan":
            assert config.defense.name == wanted["defense"], text
        side = {"drop": config.defense, "leadfl": config.client_defense}
        if "variant" in wanted:
            variant = side[path.parent.name].options["variant"]
            assert variant == wanted["variant"], text


def built(path, text, **changes):
    changes = {"execution.memory_gib": "unlimited", **changes}
    config = resolve(override(cell(path, text), changes))
    made = experiment.build(config, pictures(path.stem))
    assert made.parts.spec.population == (
        config.partition.num_clients + config.attack.num_fake
    )


@every_paper
def test_every_file_can_be_built(path):
    """As far as a run goes before it compiles; the pixels are made up."""
    built(path, "")


@pytest.mark.slow
@every_paper
def test_every_name_can_be_built(path):
    """With a small network: building the real one again and again takes long."""
    small = {"model.name": "mlp", "model.width": 2}
    for key in ("defense", "attack", "client", "mode", "adaptation", "labels"):
        for name in CELLS[path.parent.name].get(key, []):
            built(path, f"{key}={name}", **small)


@pytest.mark.parametrize("text", MODES[::7])
def test_fedredefense_and_its_adaptive_attackers_can_be_built(text):
    path = FOLDER / "fedredefense" / "fashion_mnist.py"
    built(path, text, **{"model.name": "mlp", "model.width": 2})


WRONG = {
    "drop": [
        "attack=lie",
        "variant=code",
        "defense=krum,variant=authors",  # not a rule of the paper's tables
        "defense=",
        "learning=C0",
        "dpr=-1",
    ],
    "fedredefense": [
        "attack=backdoor",
        "defense=droplet",
        "epochs=3",
        "epochs=1.0",
        "mcr=101",
        "mcr=nan",
        "participation=0",
        "participation=1.5",
        "model=resnet",
        "mode=static",
        "base=fltrust",
        "defense=flame,attack=adaptive_label_flip",
        "defense=krum,mode=dynamic",
        "defense=flame,base=fedavg",
    ],
    "leadfl": [
        "preset=paper",
        "defense=flame",
        "client=fl-wbc",
        "mode=burst",
        "offset=first",
        "offset=-1",
        "labels=x",
        "variant=paper",
        "client=none,variant=report",
        "client=ldp,alpha=0.4",
    ],
    "poisonedfl": [
        "defense=krum",
        "defense=fldetector",  # needs every client in every round
        "adaptation=both",
        "fakes=-5",
        "fakes=101",
        "fakes=inf",
        "schedule=linear",
    ],
    "iqr": [
        "preset=book",
        "defense=median",
        "alpha=-0.1",
        "alpha=1.1",
        "strong=yes",
        "labels=2.5",
    ],
}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        pytest.param(path, text, id=f"{path.parent.name}/{path.stem}:{text}")
        for path in PAPERS
        for text in [*WRONG[path.parent.name], "defence=median", "nonsense"]
    ],
)
def test_wrong_arguments_of_papers_are_refused(path, text):
    with pytest.raises(InputError) as problem:
        resolve(cell(path, text))

    assert "\n" not in str(problem.value)
    assert str(problem.value).startswith(("--config=...:", "config."))


# ---------------------------------------------------------------- what papers print


def paper(name, text=""):
    return resolve(cell(FOLDER / f"{name}.py", text))


@pytest.mark.parametrize("path", ["drop/cifar10", "fedredefense/cifar10"])
def test_without_malicious_clients_there_is_no_attack(path):
    config = paper(path, "mcr=0")
    assert (config.attack.name, config.attack.num_malicious) == ("none", 0)


@pytest.mark.parametrize(
    ("epochs", "rounds", "later"), [(1, 500, 2000), (2, 250, 4000), (5, 100, 10_000)]
)
def test_fedredefense_epochs_set_rounds_and_the_later_limit(epochs, rounds, later):
    config = paper("fedredefense/fashion_mnist", f"epochs={epochs}")

    assert (config.rounds, config.client.epochs) == (rounds, epochs)
    assert config.defense.options["first_limit"] == 800
    assert config.defense.options["later_limit"] == later


@pytest.mark.parametrize(
    ("share", "cohort", "later"),
    [("1", 100, 1500), ("0.5", 50, 3000), ("0.1", 10, 15_000), ("0.29", 29, 5172)],
)
def test_fedredefense_participation(share, cohort, later):
    config = paper("fedredefense/cifar10", f"participation={share}")

    assert config.participation.clients_per_round == cohort
    assert config.defense.options["later_limit"] == later


@pytest.mark.parametrize(
    ("mode", "limits"),
    [
        ("dynamic", (500, 1500)),
        ("continuous", (500, 60)),
        ("intermittent", (500, 500)),
    ],
)
def test_fedredefense_modes_have_their_limits(mode, limits):
    """Table of appendix B.3."""
    options = paper("fedredefense/cifar10", f"mode={mode}").defense.options

    assert (options["first_limit"], options["later_limit"]) == limits
    assert (options["mode"], options["interval"]) == (mode, 10)


@pytest.mark.parametrize(
    ("name", "mode", "limits"),
    [
        ("cinic10", "continuous", (2000, 240)),
        ("cinic10", "intermittent", (2000, 2000)),
        ("fashion_mnist", "continuous", (800, 96)),
    ],
)
def test_fedredefense_modes_elsewhere_keep_the_first_limit(name, mode, limits):
    options = paper(f"fedredefense/{name}", f"mode={mode}").defense.options

    assert (options["first_limit"], options["later_limit"]) == limits


def test_fedredefense_federation():
    config = paper("fedredefense/cinic10", "mcr=48,beta=0.5,defense=krum")

    assert config.attack.name == "fang_krum"
    assert config.attack.num_malicious == 48
    assert config.attack.malicious_clients == "last"
    assert config.partition.options["alpha"] == 0.5
    assert paper("fedredefense/cinic10", "attack=none").attack.num_malicious == 0


def test_leadfl_presets_differ_in_the_quirks_of_the_code():
    coded, report = (
        paper("leadfl/cifar10", f"preset={name}") for name in ("authors", "report")
    )

    assert (coded.client.epochs, coded.client.steps) == (10, None)
    assert (report.client.epochs, report.client.steps) == (1, 10)
    assert coded.participation.options["forced"]
    assert not report.participation.options["forced"]
    bursts = paper("leadfl/cifar10", "preset=authors,mode=bursty").participation
    assert not bursts.options["forced"]
    assert coded.model.options["double_softmax"]
    assert not report.model.options["double_softmax"]
    assert coded.evaluation.batch_statistics
    assert not report.evaluation.batch_statistics
    assert coded.client_defense.options["reset"] == "epoch"
    assert report.client_defense.options["reset"] == "round"
    assert paper("leadfl/fashion_mnist", "preset=authors").client.batch_size == 16
    assert paper("leadfl/fashion_mnist").client.batch_size == 32


@pytest.mark.parametrize(("name", "alpha"), [("cifar10", 0.25), ("fashion_mnist", 0.4)])
def test_leadfl_strength_is_that_of_the_data_set(name, alpha):
    options = paper(f"leadfl/{name}").client_defense.options

    assert (options["alpha"], options["clip"]) == (alpha, 0.2)
    assert paper(f"leadfl/{name}", "alpha=0.1").client_defense.options["alpha"] == 0.1
    assert paper(f"leadfl/{name}", "offset=300").participation.options["offset"] == 300


@pytest.mark.parametrize(
    ("fakes", "number", "cohort"), [("20", 240, 36), ("5", 60, 32), ("0", 0, 30)]
)
def test_poisonedfl_populations(fakes, number, cohort):
    config = paper("poisonedfl/fashion_mnist", f"fakes={fakes}")

    assert config.partition.num_clients == 1200
    assert config.attack.num_fake == number
    assert config.participation.clients_per_round == cohort
    assert config.attack.name == ("poisonedfl" if number else "none")


def test_iqr_attack_and_clipping():
    """Clip-Averaging takes rate and steps from the run."""
    config = paper("iqr/cifar10", "strong=true,alpha=0.1,labels=3")

    assert config.defense.options["local_steps"] is None
    assert config.defense.options["lr"] is None
    assert (config.attack.options["boost"], config.attack.options["alpha"]) == (10, 0.1)
    assert config.partition.options["num_labels"] == 3
    assert paper("iqr/cifar10", "alpha=0").attack.options["alpha"] == 0
    assert paper("iqr/cifar10").attack.options["boost"] == 1.0


def test_the_textbook_that_the_iqr_article_may_come_from():
    config = paper("iqr/cifar10", "preset=textbook,strong=true")

    assert (config.partition.num_clients, config.server.lr) == (10, 0.3)
    assert config.participation.clients_per_round == 3
    client = config.client
    assert (client.lr, client.momentum, client.epochs) == (0.001, 0.0001, 3)
    options = config.attack.options
    assert (options["boost"], options["plus_model"]) == (2.0, True)
    rows = (options["row"], options["row"] + options["height"] - 1)
    columns = (options["column"], options["column"] + options["width"] - 1)
    assert (rows, columns) == ((2, 27), (3, 5))
    assert not paper("iqr/cifar10", "preset=textbook").attack.options["plus_model"]
    small = paper("small/iqr", "preset=textbook")
    assert (small.model.name, small.client.epochs, small.server.lr) == ("cnn", 3, 0.3)


def test_drop_s_rate_may_count_the_clean_samples():
    """2.5 to 100 clean ones are 2.439 % of all."""
    options = paper("drop/cifar10", "dpr=2.5,dpr_of=clean").attack.options
    assert options["dpr"] == pytest.approx(10 * 0.025 / 1.025)


def test_drop_gives_each_defence_the_options_of_its_data_set():
    assert paper("drop/emnist", "defense=flip").defense.options["start_round"] == 3
    assert paper("drop/cifar10", "defense=flip").defense.options["start_round"] == 10
    assert paper("drop/cifar10", "defense=drop").defense.options["every"] == 5
    assert paper("drop/cinic10", "defense=drop").defense.options["every"] == 10
    assert paper("drop/emnist", "defense=drop").defense.options["every"] == 40
    for variant in ("authors", "paper"):
        config = paper("drop/cifar10", f"defense=flame,variant={variant}")
        assert config.defense.options["variant"] == variant
