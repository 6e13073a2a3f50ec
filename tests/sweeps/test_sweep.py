"""Sweep definitions: points, names, identifiers, filters, and what is refused."""

import pytest
from helpers import BASE, ROOT

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import resolve, to_dict
from fedjax_sim.papers.drop.protocol import DROP_LEARNING
from fedjax_sim.papers.fedredefense import protocol as fedredefense_protocol
from fedjax_sim.sweeps import Sweep, product, seeds, zipped
from fedjax_sim.sweeps.sweep import expand, folder_name, load_sweep

DROP = str(ROOT / "configs" / "drop" / "cifar10.py")


def test_product_takes_every_combination_in_order():
    points = product({"a": [1, 2], "b": "xy"}, seeds(2, first=5))

    assert points[:3] == [
        {"a": 1, "b": "x", "seed": 5},
        {"a": 1, "b": "x", "seed": 6},
        {"a": 1, "b": "y", "seed": 5},
    ]
    assert len(points) == 2 * 2 * 2


def test_zipped_keys_advance_together():
    points = zipped({"client.lr": [0.1, 0.2], "client.epochs": [1, 2]})

    assert points == [
        {"client.lr": 0.1, "client.epochs": 1},
        {"client.lr": 0.2, "client.epochs": 2},
    ]
    with pytest.raises(InputError, match="equally many"):
        zipped({"a": [1], "b": [1, 2]})


def test_points_change_the_config():
    group = {"defense": {"name": "droplet", "penalty": 2.0}}
    runs = expand(Sweep(BASE, [{"attack.dpr": 0.5, **group}, {"attack.dpr": 0.25}]))

    assert [run.config.attack.options["dpr"] for run in runs] == [0.5, 0.25]
    assert [run.config.defense.name for run in runs] == ["droplet", "fedavg"]
    assert runs[0].config.defense.options["penalty"] == 2.0
    # Only what differs is in the name.
    assert [run.name for run in runs] == ["attack.dpr=0.5", "attack.dpr=0.25"]


def test_changes_hold_for_all_runs():
    points = product({"client.lr": [0.1, 0.2]}, seeds(2))
    runs = expand(Sweep(BASE, points), {"rounds": 7, "seed": 3})

    assert [(run.config.rounds, run.config.seed) for run in runs] == [(7, 3)] * 2
    assert [run.name for run in runs] == ["client.lr=0.1", "client.lr=0.2"]


def test_arguments_of_a_config_file():
    sweep = Sweep(
        f"{DROP}:learning=C1,dpr=5",
        product({":defense": ["median", "droplet"], ":dpr": [1.25, 2.5]}),
    )
    runs = expand(sweep)

    assert [run.name for run in runs][:2] == [
        ":defense=median,:dpr=1.25",
        ":defense=median,:dpr=2.5",
    ]
    assert [run.config.attack.options["dpr"] for run in runs][:2] == [0.125, 0.25]
    assert {run.config.client.lr for run in runs} == {0.05}  # of C1
    assert [run.name for run in expand(sweep, only=[":dpr=2.5"])] == [
        ":defense=median,:dpr=2.5",
        ":defense=droplet,:dpr=2.5",
    ]


def test_variants_of_a_config_are_runs():
    runs = expand(Sweep(str(ROOT / "configs" / "quickstart.py"), seeds(2)))

    assert {run.name for run in runs} == {
        "fedavg,seed=0",
        "fedavg,seed=1",
        "droplet,seed=0",
        "droplet,seed=1",
    }


def test_equal_configs_run_once():
    runs = expand(Sweep(BASE, [{}, {"seed": 0}, {"seed": 1}]))

    assert [run.config.seed for run in runs] == [0, 1]


# -------------------------------------------------------------------- identifiers


def test_identifier_depends_on_what_changes_numbers():
    def name(**changes):
        (run,) = expand(
            Sweep(BASE), {k.replace("__", "."): v for k, v in changes.items()}
        )
        return run.folder

    assert name().startswith("fedavg-backdoor-seed0-")
    different = [
        name(),
        name(seed=1),
        name(client__lr=0.2),
        name(attack__dpr=0.5),
        name(execution__clients="vmap"),
    ]
    assert len(set(different)) == len(different)
    same = [
        name(data__data_dir="/elsewhere"),
        name(checkpoint__every_rounds=3),
        name(log__tensorboard=True),
        name(server__lr=1.0),  # the default
    ]
    assert set(same) == {name()}


def test_identifier_is_stable():
    """Another one would leave finished runs behind: change it knowingly.

    It also changes when a section gets a new key.
    """
    config = resolve(BASE)

    assert folder_name(resolve(to_dict(config))) == folder_name(config)
    reordered = dict(reversed(list(BASE.items())))
    assert folder_name(resolve(reordered)) == folder_name(config)


def test_keys_that_came_later_do_not_change_it():
    """Left at their defaults. The name is that of the version before them."""
    dirichlet = {"partition": {"name": "drop_dirichlet"}}
    assert folder_name(resolve(dirichlet)) == "fedavg-none-seed0-b0b05794dc"
    fewer = {"partition": {"name": "drop_dirichlet", "min_samples": 1}}
    assert folder_name(resolve(fewer)) != "fedavg-none-seed0-b0b05794dc"


# ------------------------------------------------------------------------ filters


def test_predicate_and_filters():
    sweep = Sweep(
        BASE,
        product({"attack.dpr": [0.25, 0.5], "defense.name": ["fedavg", "median"]}),
        where=lambda run: run["attack.dpr"] < 0.5 or run["defense.name"] == "median",
    )

    assert len(expand(sweep)) == 3
    assert len(expand(sweep, only=["defense.name=median"])) == 2
    assert len(expand(sweep, only=["attack.dpr=0.25,0.5"])) == 3
    both = expand(sweep, only=["defense.name=fedavg,median", "attack.dpr=0.5"])
    assert [run.config.defense.name for run in both] == ["median"]


# -------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("sweep", "only", "parts"),
    [
        (Sweep(BASE, [{"client.learning": 1}]), [], ["config.client.learning"]),
        (Sweep(BASE, [{"attack.dpr": 0.5}, {}]), ["seed=1"], ["no runs"]),
        (Sweep(BASE, [{":dpr": 1.5}]), [], [":dpr=1.5", "no file"]),
        (Sweep(f"{DROP}:dfense=x"), [], ["dfense", "did you mean 'defense'"]),
        (Sweep("nowhere.py"), [], ["nowhere.py", "no such file"]),
        (Sweep(BASE), ["defense.nam=x"], ["defense.nam", "mean 'defense.name'"]),
        (Sweep(BASE), ["seed"], ["--only=seed", "KEY=VALUE"]),
        (Sweep(BASE, []), [], ["no runs"]),
    ],
)
def test_wrong_sweeps_are_refused(sweep, only, parts):
    with pytest.raises(InputError) as problem:
        expand(sweep, only=only)

    assert "\n" not in str(problem.value)
    for part in parts:
        assert part in str(problem.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x = ", ["line 1 is not Python"]),
        ("def get_sweep():\n    return 1 / 0\n", ["line 2", "ZeroDivisionError"]),
        ("def get_sweep():\n    return [1]\n", ["returned a list"]),
        ("y = 1\n", ["get_sweep"]),
    ],
)
def test_wrong_sweep_files_are_refused(tmp_path, text, parts):
    path = tmp_path / "sweep.py"
    path.write_text(text)

    with pytest.raises(InputError) as problem:
        load_sweep(str(path))

    assert str(problem.value).startswith(f"--sweep={path}: ")
    assert "\n" not in str(problem.value)
    for part in parts:
        assert part in str(problem.value)


def test_a_missing_sweep_file_is_refused():
    with pytest.raises(InputError, match=r"nowhere\.py"):
        load_sweep("nowhere.py")


# ------------------------------------------------------------------ shipped sweeps


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.py")))
def test_shipped_sweep_expands(path):
    sweep = load_sweep(str(path))
    some = sweep.points[:: 1 + len(sweep.points) // 400]  # a matrix has thousands
    assert len(expand(sweep._replace(points=some))) > 1
    assert f"--sweep=configs/sweeps/{path.name}" in path.read_text()


def test_drop_small_differs_in_defence_partition_and_rate_alone():
    """All defences of the paper's tables, fairly: only what is listed differs."""
    runs = expand(load_sweep(str(ROOT / "configs" / "sweeps" / "drop_small.py")))
    names = {run.config.defense.name for run in runs}

    assert len(runs) == 10 * 2 * 3 * 3
    assert names == {
        *("fedavg", "median", "multikrum", "fltrust", "foolsgold"),
        *("flame", "flare", "flip", "droplet", "drop"),
    }
    for key in {key for run in runs for key in run.values}:
        if not key.startswith((":", "defense.", "partition.", "attack.dpr", "seed")):
            assert len({str(run.values.get(key)) for run in runs}) == 1, key


@pytest.mark.parametrize(("name", "epochs"), [("drop_grid", 4), ("danger_zones", 3)])
def test_grids_of_learning_configurations(name, epochs, monkeypatch):
    """DROP's section 3.1: every combination once, for each of two defences."""
    monkeypatch.chdir(ROOT)
    runs = expand(load_sweep(f"configs/sweeps/{name}.py"))

    assert len(runs) == 2 * 4 * 3 * epochs
    for defense in ("fedavg", "droplet"):
        own = [run.config.client for run in runs if run.config.defense.name == defense]
        grid = {(client.lr, client.batch_size, client.epochs) for client in own}
        assert len(grid) == len(own) == 4 * 3 * epochs


def test_drop_grid_is_the_paper_s_protocol(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = expand(load_sweep("configs/sweeps/drop_grid.py"))
    grid = {
        (r.config.client.lr, r.config.client.batch_size, r.config.client.epochs)
        for r in runs
    }

    assert set(DROP_LEARNING.values()) <= grid  # Table 2 lies in it
    for run in runs:
        assert run.config.rounds == 200
        assert run.config.model.name == "resnet18"
        assert run.config.attack.num_malicious == 10
        assert run.config.attack.options["dpr"] == 0.125


# ----------------------------------------------- the papers' tables in small


def shipped(name):
    return expand(load_sweep(str(ROOT / "configs" / "sweeps" / f"{name}.py")))


def test_iqr_small_takes_rate_and_steps_from_the_run():
    """Clip-Avg divides by what clients really do, whatever the config says of them."""
    runs = shipped("iqr_small")

    assert len(runs) == 4 * 4
    for run in runs:
        options = run.config.defense.options
        if run.config.defense.name in ("clip_avg", "iqr_clip_avg"):
            assert options["lr"] is options["local_steps"] is None
    batch = runs[0].config.client.batch_size
    alphas = sorted({run.config.attack.options["alpha"] for run in runs})
    assert [int(alpha * batch) for alpha in alphas] == [0, 1, 3, 6]


def test_poisonedfl_small_draws_2_5_percent_of_all():
    """The fakes are a share of the genuine clients, and 2.5 % of all are drawn."""
    runs = shipped("poisonedfl_small")

    assert len(runs) == 5 * (6 + 3)
    seen = set()
    for run in runs:
        genuine, fakes = run.config.partition.num_clients, run.config.attack.num_fake
        drawn = run.config.participation.clients_per_round
        assert drawn == round(0.025 * (genuine + fakes))
        assert (fakes == 0) == (run.config.attack.name == "none")
        seen.add((fakes / genuine, run.config.attack.options.get("adaptation")))
    plain = {(share, "none") for share in (0.03, 0.06, 0.09, 0.12, 0.2)}
    adapted = {(0.2, name) for name in ("noise", "sign_flip", "partition")}
    assert seen == {(0.0, None)} | plain | adapted


def test_leadfl_small_repeats_with_the_published_clients():
    """Three repetitions, each with the published clients of its offset."""
    runs = shipped("leadfl_small")

    assert len(runs) == 3 * (4 * 2 + 4 + 4)
    for run in runs:
        assert run.config.seed == run.config.participation.options["offset"]
        assert run.config.evaluation.every == 1  # phases of the cycle
    rules = [run.config.defense.name for run in runs]
    assert (rules.count("multikrum"), rules.count("bulyan_leadfl")) == (36, 12)
    data = [run.config.data.name for run in runs]
    assert (data.count("fashion_mnist"), data.count("cifar10")) == (36, 12)


@pytest.mark.parametrize(
    ("name", "batch"),
    [("leadfl_authors_small", 16), ("leadfl_authors_cifar10_small", 32)],
)
def test_leadfl_authors_small(name, batch):
    """Every quirk of the code's preset, three repetitions of Tables I and II."""
    runs = shipped(name)

    clients = [run.config.client_defense.name for run in runs]
    assert len(runs) == 12
    assert all(clients.count(name) == 3 for name in ("none", "ldp", "fl_wbc", "leadfl"))
    for run in runs:
        assert run.config.seed == run.config.participation.options["offset"]
        assert run.config.participation.options["forced"]
        assert (run.config.client.epochs, run.config.client.steps) == (10, None)
        assert run.config.client.batch_size == batch
        assert run.config.evaluation.batch_statistics


def test_fedredefense_small():
    """Every attack against every defence, as the paper's protocol pairs them."""
    runs = shipped("fedredefense_small")
    schedules = [run for run in runs if run.config.rounds == 20]
    modes = [run.config.defense.options["mode"] for run in schedules]
    assert modes == ["continuous", "intermittent", "dynamic"]
    runs = [run for run in runs if run not in schedules]
    pairs = [(run.config.defense.name, run.config.attack.name) for run in runs]

    assert len(set(pairs)) == len(pairs) == 10 * 10 + 2
    assert {defense for defense, _ in pairs} == {*fedredefense_protocol.DEFENSES}
    attacks = {attack for _, attack in pairs}
    assert attacks == {*fedredefense_protocol.ATTACKS, "fang_krum"}
    assert ("krum", "fang_krum") in pairs and ("krum", "fang") not in pairs
    for run in runs:
        malicious = run.config.attack.num_malicious
        assert malicious == (0 if run.config.attack.name == "none" else 28)
