"""Layouts: cells, their full and small configs, sweeps and reports of the same runs."""

import pytest
from helpers import ROOT

from fedjax_sim.commands import sweep as sweep_cli
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import resolve
from fedjax_sim.experiment.config_files import load_file
from fedjax_sim.papers import layouts, load_layout
from fedjax_sim.papers.cells import (
    MATCH,
    all_records,
    cell_config,
    cell_text,
    cells_of,
    points_of,
)
from fedjax_sim.reports import store
from fedjax_sim.reports.tables import SEEDS
from fedjax_sim.sweeps import Sweep
from fedjax_sim.sweeps.sweep import expand, load_sweep


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_table_and_figure_has_a_layout():
    assert set(layouts()) == {
        *(f"drop_table{i}" for i in range(2, 8)),
        *(f"drop_figure{i}" for i in (2, 3, 5, 6)),
        "drop_times",
        *(f"fedredefense_table{i}" for i in (1, 2, 3, 8, 9, 10)),
        *(f"fedredefense_figure{i}" for i in range(2, 6)),
        *(f"leadfl_table{i}" for i in (1, 2)),
        *(f"leadfl_figure{i}" for i in range(1, 9)),
        "leadfl_equations",
        "poisonedfl_table1",
        *(f"poisonedfl_{what}" for what in ("fractions", "adaptations", "schedules")),
        "iqr_curves",
        "iqr_rates",
    }


def _ends(cells):
    """The first and the last cell, and some between: enough to find a wrong name."""
    return cells if len(cells) <= 24 else [*cells[: -1 : len(cells) // 20], cells[-1]]


@pytest.mark.parametrize("name", layouts())
def test_cells_have_configs_that_differ(name):
    layout = load_layout(name)
    for record in all_records(layout):
        assert record["metric"] is None or record["metric"] in layout["values"]
    assert set(layout["values"]) <= {*store.RUN_COLUMNS}
    cells = cells_of(layout)
    texts = [cell_text(layout, cell) for cell in cells]
    assert len(set(texts)) == len(texts)
    seen = {}
    for cell in _ends(cells):
        config = cell_config(layout, cell)
        matched = {k: str(v) for k, v in config.items() if k not in SEEDS}
        key = tuple(sorted(matched.items()))
        assert key not in seen, (cell, seen.get(key))
        seen[key] = cell
    small = [cell for cell in cells if cell_text(layout, cell, small=True)]
    assert small, "no small version at all"
    for cell in _ends(small):
        cell_config(layout, cell, small=True)
    for figure in layout.get("figures", ()):
        assert figure["kind"] in ("setting", "rounds", "beside")
        known = store.RUN_COLUMNS if figure["kind"] == "setting" else ()
        fields = (*layout["rows"], *layout["columns"])
        assert figure.get("x", fields[0]) in fields
        assert set(figure["values"]) <= {*known} or figure["kind"] != "setting"


def test_a_cell_is_decided_by_all_that_an_experiment_is():
    """What was once averaged: rounds, participation, model, variant and alpha."""
    for section in ("rounds", "participation", "model", "client_defense"):
        assert section in MATCH


def test_points_have_bases_of_their_own_and_repeats():
    layout = load_layout("leadfl_table1")
    points = points_of(layout, ["client_defense=LeadFL,None"], small=True)
    assert [point[":offset"] for point in points] == [100, 200, 300] * 2
    runs = expand(Sweep("", points))
    assert {run.config.client_defense.name for run in runs} == {"none", "leadfl"}
    assert {run.config.seed for run in runs} == {100, 200, 300}
    assert len({run.name for run in runs}) == 6


@pytest.mark.parametrize(
    ("name", "cells", "sweep"),
    [
        ("iqr_curves", [], "iqr_small"),
        ("leadfl_table1", [], "leadfl_authors_small"),
        ("poisonedfl_fractions", [], "poisonedfl_small"),
        ("fedredefense_table1", ["dataset=FashionMNIST"], "fedredefense_small"),
    ],
)
def test_the_small_version_is_that_of_the_sweep_files(name, cells, sweep):
    """One definition: the folders of both, which are a hash of the config."""
    points = points_of(load_layout(name), cells, small=True)
    folders = {run.folder for run in expand(Sweep("", points))}
    assert folders <= {run.folder for run in expand(load_sweep(sweep))}


def test_drop_in_small_poisons_several_images_of_a_client():
    """On digits it is one or two, which no table can be compared with."""
    for name in ("drop_table2", "drop_table4", "drop_table7"):
        layout = load_layout(name)
        config = cell_config(layout, cells_of(layout)[0], small=True)
        images = config["data.num_train"] / config["partition.num_clients"]
        assert images * config["attack.dpr"] / 10 > 7
    (fltrust,) = (
        cell
        for cell in cells_of(load_layout("drop_table3"), ["defense=fltrust"])
        if cell.column == ("cifar10", "5")
    )
    owned = cell_config(load_layout("drop_table3"), fltrust, small=True)
    assert owned["defense.num_samples"] == images  # of the server: as a client's
    # They stay, for tests and for a first look: nothing is to be downloaded.
    assert resolve(load_file("configs/small/drop.py")).data.name == "digits"


def test_a_figure_of_a_grid_sets_the_learning_configuration():
    config = resolve(
        load_file("configs/drop/cifar10.py:learning=C4,lr=0.1,batch_size=256,epochs=20")
    )
    client = config.client
    assert (client.lr, client.batch_size, client.epochs) == (0.1, 256, 20)


def test_what_has_no_small_version_is_said():
    layout = load_layout("drop_table3")
    with pytest.raises(InputError, match=r"none of .* small version; allowed"):
        points_of(layout, ["dataset=emnist"], small=True)
    assert len(points_of(layout, ["dataset=emnist"])) == 20


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "--sweep or --layout must be given"),
        (["--layout=iqr_rates", "--sweep=iqr_small"], "one of them"),
        (["--layout=iqr_rates"], "--results must be given"),
        (["--layout=iqr_rate", "--dry_run"], "did you mean 'iqr_rates'"),
        (["--layout=iqr_rates", "--cells=defence=x", "--dry_run"], "'defense'"),
        (["--sweep=iqr_small", "--small", "--results=x"], "belong to a --layout"),
        (["--layout=iqr_rates", "--target=cuda:h100", "--results=x"], "--dry_run"),
        (["--layout=iqr_rates", "--dry_run", "--target=cuda:h10"], "cuda:h100"),
    ],
)
def test_wrong_flags_are_one_line(flags, part, capfd):
    assert sweep_cli.main(["sweep.py", *flags]) == 2
    err = capfd.readouterr().err
    assert part in err and err.count("\n") == 1


def test_a_plan_needs_no_data_and_names_hours(capfd):
    flags = ["--layout=iqr_rates", "--small", "--dry_run", "--target=cuda:h100"]
    flags += ["--cells=defense=fedavg"]
    assert sweep_cli.main(["sweep.py", *flags]) == 0
    out = capfd.readouterr().out
    assert "1 runs, 1 to do; to compile: 1 programs" in out
    assert "cuda:h100, at its published 494.7 TFLOP/s: at least" in out
    assert out.count(" hours") == 2 and "0.6284 TFLOP" in out
