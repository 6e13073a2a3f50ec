"""The report of a matrix: harm against the same seeds without attack, and files."""

import json

import pytest

from fedjax_sim.commands import report as cli
from fedjax_sim.reports.matrix import entries, maps, raised
from fedjax_sim.reports.matrix_page import page
from fedjax_sim.runs.files import write_json
from fedjax_sim.sweeps.executors import record_failure
from fedjax_sim.sweeps.matrix import Matrix, load_matrix, matrix_cells, runs_of

MATRIX = Matrix(
    title="Two rules <against> two attacks",
    base={"attack": {"num_malicious": 2}, "rounds": 2},
    axes={
        "attack": {
            name: {"attack": {"name": name}} for name in ("none", "ipm", "backdoor")
        },
        "adapt": {name: {"attack": {"adapt": name}} for name in ("none", "scale")},
        "defense": {name: {"defense": {"name": name}} for name in ("fedavg", "flcert")},
    },
    repeats=[{"seed": 0}, {"seed": 1}],
    exists=lambda cell: cell["attack"] != "none" or cell["adapt"] == "none",
)
# MTA and ASR by (attack, adapt, rule), a pair for each seed.
RATES = {
    ("none", "none", "fedavg"): [(96.0, None), (94.0, None)],
    ("none", "none", "flcert"): [(92.0, None), (90.0, None)],
    ("ipm", "none", "fedavg"): [(90.0, None), (92.0, None)],
    ("ipm", "scale", "fedavg"): [(10.0, None), (12.0, None)],
    ("ipm", "none", "flcert"): [(91.0, None)],  # the other has not finished
    ("backdoor", "none", "fedavg"): [(95.0, 80.0), (95.0, 90.0)],
}


@pytest.fixture
def found(tmp_path):
    cells = matrix_cells(MATRIX)
    for cell in cells:
        key = tuple(cell.labels[k] for k in ("attack", "adapt", "defense"))
        runs = runs_of(MATRIX, cell)
        for run, (mta, asr) in zip(runs, RATES.get(key, [])):  # noqa: B905
            folder = tmp_path / run.folder
            folder.mkdir()
            summary = {"name": run.name, "final": {"mta": mta, "asr": asr}}
            summary |= {"late": {}, "detection": {}, "rounds": 2}
            write_json(
                folder / "summary.json", {**summary, "seconds": {"defend": 0.004}}
            )
        if key == ("backdoor", "none", "flcert"):
            record_failure(tmp_path / runs[0].folder, "InputError: too few")
    return entries(MATRIX, cells, tmp_path)


def test_harm_is_paired_with_the_same_seeds_without_attack(found):
    (one,) = maps(found)
    at = one.entries

    plain = at["ipm", "none", "fedavg"]
    assert plain.asr is None and plain.harm == plain.lost
    assert plain.lost.mean == pytest.approx((96 - 90 + 94 - 92) / 2)
    half = at["ipm", "none", "flcert"]
    assert half.lost == (1.0, None, 1) and len(half.runs) == 1 < half.expected
    backdoor = at["backdoor", "none", "fedavg"]
    assert backdoor.harm == backdoor.asr and backdoor.asr.mean == 85.0
    assert backdoor.asr.std == pytest.approx(50**0.5)
    assert one.cost("flcert") == pytest.approx(4.0)
    assert one.benign("fedavg").server_ms == pytest.approx(2.0)
    assert one.worst("fedavg", targeted=False).labels["adapt"] == "scale"
    assert one.worst("flcert", targeted=True) is None
    assert raised(one) == {"fedavg": [("ipm", pytest.approx(80.0))]}


def test_what_is_compared_with_is_read_whatever_is_shown(found, tmp_path):
    del found
    only = [
        cell
        for cell in matrix_cells(MATRIX, ["attack=ipm", "defense=flcert"])
        if cell.labels["adapt"] == "none"
    ]
    (one,) = maps(entries(MATRIX, only, tmp_path))

    assert (one.rules, one.attacks) == (["flcert"], [("ipm", "none")])
    assert one.entries["ipm", "none", "flcert"].lost.mean == pytest.approx(1.0)
    assert one.cost("flcert") == pytest.approx(4.0) and one.first == "fedavg"


def test_the_page_shows_what_is_not_there(found):
    text = page(MATRIX.title, maps(found), "../runs")

    assert "Two rules &lt;against&gt; two attacks" in text
    (one,) = maps(found)
    done = sum(len(entry.runs) for entry in found)
    assert done == sum(len(rates) for rates in RATES.values())
    assert f"{done} of {sum(e.expected for e in found)} runs have finished" in text
    refused = one.entries["ipm", "scale", "flcert"].refused
    assert "cannot be simulated" in refused
    assert f"2 cells: {refused.replace(chr(39), '&#x27;')}" in text
    assert "1 cells: InputError: too few" in text
    first, second = one.entries["backdoor", "none", "fedavg"].runs
    assert f'<a href="../runs/{first}/">85.0</a>' in text
    assert f'<a href="../runs/{second}/">2</a>' in text
    assert '--h:85"' in text


def test_the_command_writes_page_table_and_numbers(make_run, tmp_path, capsys):
    make_run("other", mta=90.0, asr=1.0)
    results = make_run.results
    command = ["report.py", f"--results={results}", "--layout=matrix", "--small"]
    command += ["--cells=attack=none,ipm", "--cells=defense=krum", "--cells=split=IID"]

    assert cli.main(command) == 2
    assert "none of the runs of --layout=matrix is there" in capsys.readouterr().err
    assert cli.main([*command, "--rows=defense.name"]) == 2
    assert "--layout=matrix is a matrix" in capsys.readouterr().err
    for flag in ("--values=mta", "--held=10", "--mta=80", "--asr=85"):
        assert cli.main([*command, flag]) == 2
        assert f"{flag}: --layout=matrix is a matrix" in capsys.readouterr().err

    matrix = load_matrix("matrix")
    cell = matrix_cells(matrix, ["attack=none", "defense=krum"], small=True)[0]
    make_run(runs_of(matrix, cell)[0].folder, mta=91.5)
    out = tmp_path / "out"
    assert cli.main([*command, f"--out={out}"]) == 0
    assert "| krum | 91.5 |" in capsys.readouterr().out
    more = [x.replace("defense=krum", "defense=krum,median,dnc") for x in command]
    assert cli.main(more) == 0
    shown = capsys.readouterr().out
    assert "| krum | 91.5 |" in shown and "| median |" not in shown
    assert "2 of 3 rules have no finished run here." in shown
    (record,) = [r for r in json.loads((out / "matrix.json").read_text()) if r["runs"]]
    assert record["attack"] == "none" and record["mta"] == {
        "mean": 91.5,
        "std": None,
        "seeds": 1,
    }
    # The first rule's own run without attack is not there.
    assert (record["cost"], record["first"]) == (None, "fedavg")
    assert (
        "<h2>model mlp, client none, split IID</h2>"
        in (out / "matrix.html").read_text()
    )

    (out / "matrix.md").unlink()
    (out / "matrix.md").mkdir()
    assert cli.main([*command, f"--out={out}"]) == 2
    err = capsys.readouterr().err
    assert f"--out={out}: {out}/matrix.md: Is a directory" in err
    assert err.count("\n") == 1

    summary = results / runs_of(matrix, cell)[0].folder / "summary.json"
    whole = json.loads(summary.read_text())
    write_json(summary, whole | {"final": {"asr": 1.0}})
    assert cli.main([*command, f"--out={tmp_path / 'next'}"]) == 0
    (record,) = [
        r
        for r in json.loads((tmp_path / "next" / "matrix.json").read_text())
        if r["failed"]
    ]
    assert "final.mta is missing" in record["failed"] and record["mta"] is None
