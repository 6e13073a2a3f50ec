"""Tables: which runs belong to which cell, what is averaged, what is flagged."""

import pytest
from helpers import BASE, ROOT

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import resolve, to_dict
from fedjax_sim.experiment.config_files import load_file
from fedjax_sim.papers import load_layout
from fedjax_sim.papers.cells import cell_config, cells_of
from fedjax_sim.reports import store
from fedjax_sim.reports.render import markdown
from fedjax_sim.reports.tables import grid, published_table
from fedjax_sim.sweeps import order


def runs_of(make_run):
    return store.select(store.gather(make_run.results), None)


def protocol(name, changes=None):
    """A cell of a paper's protocol as a nested config."""
    values = load_file(str(ROOT / "configs" / name))
    return to_dict(resolve({**values, **(changes or {})}))


def test_numbers_of_order_one_show_more_digits(make_run):
    error = "reconstruction_error_malicious"
    make_run("run", mta=90, asr=1)
    runs = [{**run, error: 0.7312} for run in runs_of(make_run)]
    table = grid(runs, rows=["seed"], columns=["rounds"], values=["mta", error])

    assert "90.0" in markdown(table, {})
    assert "0.731" in markdown(table, {})


def test_published_numbers_are_those_of_the_papers():
    """Spot checks against the papers."""

    def value(name, **labels):
        (found,) = (
            r["value"]
            for r in load_layout(name)["records"]
            if all(r[k] == v for k, v in labels.items())
        )
        return found

    cifar = {"dataset": "cifar10", "dpr": 1.25}
    assert value("drop_table3", defense="drop", metric="mta", **cifar) == 76.05
    assert value("drop_table3", defense="drop", metric="asr", **cifar) == 1.3
    assert value("drop_table2", learning="C1", metric="asr") == 96.5
    fashion = {"dataset": "FashionMNIST", "attack": "DBA"}
    error = "reconstruction_error_malicious"
    assert value("fedredefense_table10", metric=error, **fashion) == 0.74
    assert value("fedredefense_table10", metric=f"{error}_std", **fashion) == 0.02
    own = {"dataset": "FashionMNIST", "defense": "FLDetector", "attack": "Fang"}
    assert value("fedredefense_table1", metric="dacc", **own) == 93.0
    assert value("leadfl_table1", client_defense="LeadFL", metric="mta") == 87.9
    assert value("poisonedfl_table1", attack="PoisonedFL") == 88.41


def test_cells_are_those_of_our_configs():
    layout = load_layout("drop_table3")
    labels = ["dataset=cifar10", "defense=median", "dpr=2.5"]
    (cell,) = cells_of(layout, labels)
    assert [record["value"] for record in cell.records] == [87.33, 96.3]
    config = cell_config(layout, cell)

    assert (config["data.name"], config["defense.name"]) == ("cifar10", "median")
    assert (config["client.lr"], config["client.batch_size"]) == (0.01, 64)  # C4
    assert (config["attack.dpr"], config["mcr"]) == (0.25, 20.0)


# ------------------------------------------------------------- published tables


def test_measured_beside_published(make_run):
    base = protocol("drop/cifar10.py:defense=drop,learning=C4,dpr=1.25")
    for seed, asr in enumerate((1.0, 3.0)):
        make_run(f"drop{seed}", {"seed": seed}, base=base, mta=75.05, asr=asr)
    make_run("other", {"attack.dpr": 0.3}, base=base, mta=1, asr=99)
    table = published_table(load_layout("drop_table3"), runs_of(make_run))
    cell = table.cells[("drop",), ("cifar10", "1.25")]

    assert [run["run"] for run in cell.runs] == ["drop0", "drop1"]
    mta, asr = cell.values["mta"], cell.values["asr"]
    assert (mta.mean, mta.spread, mta.num_runs) == (75.05, 0.0, 2)
    assert mta.published == 76.05 and mta.difference == pytest.approx(-1.0)
    assert (asr.mean, asr.published) == (2.0, 1.3)
    assert asr.spread == pytest.approx(2**0.5)  # sample standard deviation
    assert mta.flags == asr.flags == ""
    # BASE's run has no rounds of its own: the protocol is otherwise the paper's.
    assert [d.key for d in table.deviations] == []
    empty = table.cells[("drop",), ("cifar10", "5")].values["mta"]
    assert (empty.mean, empty.difference, empty.published) == (None, None, 75.18)
    assert sum(bool(cell.runs) for cell in table.cells.values()) == 1


def test_small_runs_fill_a_table_and_say_so(make_run):
    """Keys that shall not decide become differences from the protocol."""
    changes = {
        "attack.dpr": 0.125,
        "attack.num_malicious": 1,
        "partition.num_clients": 5,
    }
    make_run("a", changes, mta=90, asr=5)
    layout = load_layout("drop_table3")
    ignored = ["data", "client", "rounds", "model", "partition", "participation"]
    ignored.append("attack.num_malicious")
    options = {"cells": ["dataset=cifar10"], "ignore": ignored}

    table = published_table(layout, runs_of(make_run))
    assert not table.deviations
    (note,) = (n for n in table.notes if n.startswith("No run belongs to a cell"))
    assert "data.name" in note and "--small" in note
    assert table.missing == []
    small = published_table(layout, runs_of(make_run), small=True)
    (note,) = (n for n in small.notes if n.startswith("No run belongs to a cell"))
    assert note.endswith("without --small it is the full size")
    # One note on eighteen numbers is one line.
    lines = published_table(load_layout("drop_table7"), []).notes
    assert len(lines) == 2 and lines[0].startswith("18 numbers: DPR/MCR not restated")
    (line,) = small.missing
    assert line == "40 of 70 cells have no small version: only dataset cifar10."
    table = published_table(layout, runs_of(make_run), **options)

    assert table.columns == [("cifar10", "1.25"), ("cifar10", "2.5"), ("cifar10", "5")]
    filled = [place for place, cell in table.cells.items() if cell.runs]
    assert filled == [(("undefended",), ("cifar10", "1.25"))]
    found = {d.key: (d.published, d.here, d.cells) for d in table.deviations}
    assert found["data.name"] == ("cifar10", "digits", 1)
    assert found["client.lr"] == ("0.01", "0.1", 1)
    assert found["rounds"] == ("200", "4", 1)
    assert found["model.name"] == ("resnet18", "mlp", 1)


def test_what_cells_do_not_vary_decides_too(make_run):
    """Rounds, participation and model are not averaged over."""
    base = protocol("fedredefense/cifar10.py:attack=fang,defense=flame")
    same = ("attack=Fang", "dataset=CIFAR-10", "defense=FLAME")
    changes = {"a": {}, "b": {"rounds": 100}, "c": {"model.name": "cnn"}}
    changes["d"] = {"participation.clients_per_round": 50}
    for name, own in changes.items():
        make_run(name, own, base=base, mta=70, asr=5)
    layout = load_layout("fedredefense_table2")
    table = published_table(layout, runs_of(make_run), cells=same)
    (cell,) = table.cells.values()
    assert [run["run"] for run in cell.runs] == ["a"]
    table = published_table(layout, runs_of(make_run), cells=same, ignore=["rounds"])
    (cell,) = table.cells.values()
    assert [run["run"] for run in cell.runs] == ["a", "b"]
    assert [d.key for d in table.deviations] == ["rounds"]


def test_the_small_version_is_found_and_compared_with_the_protocol(make_run):
    base = protocol("small/iqr.py:defense=clip_avg,alpha=0.052")
    make_run("a", base=base, mta=70, asr=5)
    layout = load_layout("iqr_rates")
    assert not any(
        c.runs for c in published_table(layout, runs_of(make_run)).cells.values()
    )
    table = published_table(layout, runs_of(make_run), small=True)
    (filled,) = (place for place, cell in table.cells.items() if cell.runs)
    assert filled == (("clip_avg", "stealthy"), ("0.052",))
    found = {d.key: (d.published, d.here) for d in table.deviations}
    assert found["data.name"] == ("cifar10", "fashion_mnist")
    assert found["rounds"] == ("100", "60")


def test_what_the_paper_ran_and_our_config_does_not_is_a_difference(make_run):
    """FLIP's simplified epoch; 2.5 % of all samples are out of EMNIST's reach."""
    base = protocol("drop/emnist.py:defense=flip,dpr=2.5")
    make_run("a", base=base, mta=70, asr=5)
    table = published_table(load_layout("drop_table3"), runs_of(make_run))
    found = {d.key: (d.published, d.here) for d in table.deviations}
    assert found["defense.variant"] == ("authors", "simplified")
    published, here = found["attack.dpr"]
    assert published.startswith("1.175 (2.5 %") and here == "1.0"


def test_options_of_a_preset_are_said(make_run):
    make_run(
        "a", {"defense.name": "median", "defense.variant": "authors"}, mta=9, asr=1
    )
    table = grid(runs_of(make_run), rows=["seed"], columns=[], values=["mta"])
    assert "defense median: variant = authors (default paper)" in table.settings
    assert "variant = authors (default paper)" in markdown(table, {})


def test_doubtful_published_values(make_run):
    make_run("a", mta=90, asr=5)
    table = published_table(load_layout("drop_table3"), runs_of(make_run))
    cell = table.cells[("flare",), ("cifar10", "1.25")]

    assert (cell.values["asr"].flags, cell.values["mta"].flags) == ("!", "")
    assert any(
        note.startswith("flare, cifar10, 1.25, asr: same") for note in table.notes
    )


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"ignore": ["cliet.lr"]}, "did you mean 'client.lr'"),
        ({"cells": ["data=cifar10"]}, "did you mean 'dataset'"),
        ({"cells": ["dataset=cifar"]}, "did you mean 'cifar10'"),
        ({"cells": ["dataset=emnist", "learning=C4"]}, "no such cell"),
    ],
)
def test_wrong_options_are_refused(make_run, options, part):
    make_run("a", mta=90, asr=5)
    with pytest.raises(InputError, match=part):
        published_table(load_layout("drop_table3"), runs_of(make_run), **options)


def test_an_unknown_layout_is_refused():
    with pytest.raises(InputError, match="did you mean 'drop_table3'"):
        load_layout("drop_tabel3")


# ------------------------------------------------------------------------- grids


def test_grid_averages_seeds_in_rows_and_columns(make_run):
    for name in ("fedavg", "median"):
        for dpr in (0.5, 0.25):
            for seed in (0, 1):
                changes = {"defense.name": name, "attack.dpr": dpr, "seed": seed}
                make_run(
                    f"{name}-{dpr}-{seed}", changes, mta=90 + 2 * seed, asr=100 * dpr
                )
    table = grid(
        runs_of(make_run),
        rows=["defense.name"],
        columns=["attack.dpr"],
        values=["mta", "asr"],
    )

    assert table.rows == [("fedavg",), ("median",)]
    assert table.columns == [("0.25",), ("0.5",)]
    for place, cell in table.cells.items():
        assert (cell.values["mta"].mean, cell.values["mta"].num_runs) == (91.0, 2)
        assert cell.values["asr"].mean == 100 * float(place[1][0])
        assert cell.values["mta"].flags == ""
        assert cell.values["mta"].published is None


def test_names_are_in_the_order_of_the_user_and_numbers_ascend(make_run):
    written = []
    for name in ("median", "fedavg", "droplet"):
        for dpr in (0.5, 0.25):
            written.append(f"{name}-{dpr}")
            changes = {"defense.name": name, "attack.dpr": dpr}
            make_run(written[-1], changes, mta=90, asr=1)
    keys = {"rows": ["defense.name"], "columns": ["attack.dpr"], "values": ["mta"]}
    assert grid(runs_of(make_run), **keys).rows == [
        ("droplet",),
        ("fedavg",),
        ("median",),
    ]

    order.record(make_run.results, written[:4])  # nobody noted those of DROPlet
    table = grid(runs_of(make_run), **keys)
    assert table.rows == [("median",), ("fedavg",), ("droplet",)]
    assert table.columns == [("0.25",), ("0.5",)]


def one_cell(make_run, value="mta"):
    runs = runs_of(make_run)
    table = grid(runs, rows=["defense.name"], columns=[], values=[value])
    return table.cells[("fedavg",), ()].values[value]


def test_unfinished_runs_are_not_averaged(make_run):
    make_run("a", mta=90, asr=1)
    make_run("b", {"seed": 1}, mta=10, asr=1, finished=False)

    found = one_cell(make_run)
    assert (found.mean, found.spread, found.num_runs, found.flags) == (90, None, 1, "i")


def test_flags_tell_of_runs_that_went_wrong(make_run):
    make_run("a", mta=90, asr=None)
    assert one_cell(make_run, "asr").flags == "u"
    make_run("b", {"seed": 1}, mta=10, asr=1, diverged=True, rounds_skipped=2)
    assert one_cell(make_run).flags == "ds"
    make_run("c", {"seed": 2}, mta=10, asr=1, clients_non_finite=1)
    assert one_cell(make_run).flags == "dsn"


def test_runs_that_differ_in_more_than_the_seed_are_flagged(make_run):
    make_run("a", mta=90, asr=1)
    make_run("b", {"seed": 1}, mta=91, asr=1)
    assert one_cell(make_run).flags == ""
    make_run("c", {"client.lr": 0.2, "seed": 2}, mta=10, asr=1)
    assert one_cell(make_run).flags == "m"


def test_a_column_of_text_is_no_value(make_run):
    make_run("a", mta=90, asr=5.5)
    with pytest.raises(InputError, match=r"--values=defense\.name: the column holds"):
        grid(runs_of(make_run), rows=["seed"], columns=[], values=["defense.name"])


def test_a_setting_is_a_value_too(make_run):
    make_run("a", {"client.lr": 0.25}, mta=90, asr=5.5)
    table = grid(runs_of(make_run), rows=["seed"], columns=[], values=["client.lr"])
    (cell,) = table.cells.values()
    assert cell.values["client.lr"].mean == 0.25


def test_wrong_columns_of_a_grid(make_run):
    make_run("a", mta=90, asr=1)
    with pytest.raises(InputError, match=r"--rows=defence\.name.*'defense_name'"):
        grid(runs_of(make_run), rows=["defence.name"], columns=[], values=["mta"])


def test_base_is_no_published_protocol():
    """The tests above rely on it."""
    assert BASE["data"]["name"] == "digits"
