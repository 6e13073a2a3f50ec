"""Matrices: which cells there are, which cannot be and why, and what their runs are."""

import pytest
from helpers import ROOT

from fedjax_sim.commands import sweep as cli
from fedjax_sim.core.errors import InputError
from fedjax_sim.sweeps.executors import covering, in_pieces
from fedjax_sim.sweeps.matrix import (
    load_matrix,
    matrix_cells,
    matrix_sweep,
    runs_of,
)
from fedjax_sim.sweeps.sweep import expand, load_sweep


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def matrix():
    return load_matrix("matrix")


@pytest.fixture(scope="module")
def small(matrix):
    return matrix_cells(matrix, small=True)


def test_the_small_matrix_is_as_large_as_was_asked_for(small):
    for field, least in (("defense", 25), ("attack", 20)):
        assert len({cell.labels[field] for cell in small}) >= least
    assert {cell.labels["split"] for cell in small} == {"IID", "non-IID"}
    assert {cell.labels["adapt"] for cell in small} == {"none", "scale"}
    benign = [cell.labels for cell in small if cell.labels["attack"] == "none"]
    assert {labels["adapt"] for labels in benign} == {"none"}


def test_no_label_is_refused_by_itself(matrix):
    """That would be a mistake in the file, and no finding."""
    one = ["model=mlp", "split=IID", "adapt=none"]
    for other in ("defense=fedavg", "attack=none"):
        for cell in matrix_cells(matrix, [*one, "client=none", other]):
            assert cell.refused is None, cell
    for cell in matrix_cells(matrix, [*one, "defense=fedavg", "attack=ipm"]):
        assert cell.refused is None, cell


def test_what_cannot_go_together_has_no_runs_and_a_reason(matrix):
    chosen = ["attack=ipm", "adapt=scale", "defense=flcert,krum"]
    cells = matrix_cells(matrix, [*chosen, "split=IID"], small=True)
    refused = {cell.labels["defense"]: cell for cell in cells}

    assert refused["krum"].refused is None
    assert len(runs_of(matrix, refused["krum"])) == 3
    assert runs_of(matrix, refused["flcert"]) == []
    reason = refused["flcert"].refused
    assert "config.attack.adapt" in reason and "'flcert'" in reason
    assert "\n" not in reason
    assert any(reason in line for line in cli.refused_lines(cells))
    only = matrix_cells(matrix, [*chosen[:2], "defense=flcert"], small=True)
    with pytest.raises(InputError, match=r"no cell can be run: .*adapt"):
        matrix_sweep(matrix, only)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule=krum", "--cells=rule=krum: FIELD=LABEL.*allowed: "),
        ("defense=krumm", "--cells=defense=krumm: did you mean 'krum'"),
    ],
)
def test_unknown_cells_are_named(matrix, text, message):
    with pytest.raises(InputError, match=message):
        matrix_cells(matrix, [text])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layout=matrx", "--results=x"], "did you mean 'matrix'"),
        (["--layout=matrix", "--dry_run", "--target=cuda:h100"], "a paper's --layout"),
        (
            ["--layout=matrix", "--dry_run", "--together=bogus"],
            "--together = 'bogus' is not",
        ),
    ],
)
def test_wrong_flags_are_refused(flags, message, capsys):
    assert cli.main(["sweep.py", *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_sweep_file_is_the_small_matrix(matrix):
    """One definition: the folders of both, which are a hash of the config."""
    sweep = load_sweep("matrix")
    assert sweep.together == "pieces"
    wanted = {"defense.name": "krum", "attack.name": "ipm"}
    some = [p for p in sweep.points if wanted.items() <= p.items()]
    cells = matrix_cells(matrix, ["attack=ipm", "defense=krum"], small=True)
    folders = {run.folder for run in expand(sweep._replace(points=some))}
    assert folders == {run.folder for cell in cells for run in runs_of(matrix, cell)}
    assert len(folders) == 2 * 2 * 3


def test_each_part_of_a_config_is_checked_once(matrix):
    chosen = ["attack=ipm,lie,fang", "defense=krum,median", "split=IID", "adapt=none"]
    cells = matrix_cells(matrix, chosen, small=True)
    runs = expand(matrix_sweep(matrix, cells))
    found = covering(runs)
    assert len(runs) == 3 * 2 * 3 and len(found) == 4
    names = {(run.config.attack.name, run.config.defense.name) for run in found}
    assert {a for a, _ in names} == {"ipm", "lie", "fang"}
    assert {d for _, d in names} == {"krum", "median"}
    groups = in_pieces(runs, processes=4, limit=100)
    assert [run for group in groups for run in group] == runs and len(groups) == 4


def test_a_field_may_be_given_more_than_once():
    twice = matrix_cells(load_matrix("matrix"), ["attack=none", "attack=ipm"], True)
    once = matrix_cells(load_matrix("matrix"), ["attack=none,ipm"], True)
    assert [cell.labels for cell in twice] == [cell.labels for cell in once]


def test_a_plan_counts_the_pieces_that_runs_share(matrix, capsys):
    arguments = ["--cells=attack=ipm,lie", "--cells=defense=krum,median"]
    arguments += ["--cells=split=IID", "--cells=adapt=none", "--small", "--dry_run"]
    assert cli.main(["sweep.py", "--layout=matrix", *arguments]) == 0
    out = capsys.readouterr().out
    # Start, training and evaluation, two attacks, two rules.
    assert "12 runs, 12 to do; to compile: 7 pieces of rounds, and 0 programs" in out
    assert "4 cells, 0 of them cannot be" in out
