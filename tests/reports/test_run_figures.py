"""Figures of runs: danger zones, score distributions, update geometry."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from fedjax_sim.commands import report as cli
from fedjax_sim.reports import store
from fedjax_sim.reports.danger_zones import danger_zones, ranking, zones
from fedjax_sim.reports.roc import roc, stability
from fedjax_sim.reports.scores import Scores, distributions, read_scores, scores_of
from fedjax_sim.reports.tables import grid
from fedjax_sim.reports.update_plane import update_geometry


def runs_of(make_run):
    return store.select(store.gather(make_run.results), None)


def is_svg(text):
    return ElementTree.fromstring(text).tag.endswith("svg")


# --------------------------------------------------------------------- danger zones


@pytest.fixture
def grid_of_runs(make_run):
    """Two defences, two rates, two batch sizes, two seeds; one run is missing."""
    number = 0
    for defense in ("fedavg", "droplet"):
        for lr in (0.1, 0.5):
            for size in (8, 16):
                for seed in (0, 1):
                    number += 1
                    make_run(
                        f"run{number}",
                        {
                            "defense.name": defense,
                            "client.lr": lr,
                            "client.batch_size": size,
                            "seed": seed,
                        },
                        mta=95.0 if lr == 0.1 else 70.0 + seed,
                        asr=10.0 * size * (defense == "fedavg") / 2 + seed,
                        finished=(defense, lr, size, seed) != ("fedavg", 0.1, 8, 1),
                    )
    return make_run


def test_zones_average_seeds_of_each_defence(grid_of_runs):
    droplet, fedavg = zones(runs_of(grid_of_runs))

    assert (droplet.name, fedavg.name) == ("droplet", "fedavg")
    assert fedavg.cells == {
        (0.1, 8, 1): (95.0, 40.0),  # of the finished run
        (0.1, 16, 1): (95.0, 80.5),
        (0.5, 8, 1): (70.5, 40.5),
        (0.5, 16, 1): (70.5, 80.5),
    }
    assert {asr for _, asr in droplet.cells.values()} == {0.5}


def test_danger_zones_are_ranked_by_both_thresholds(grid_of_runs):
    """Useful and successful: of FedAvg the batch of 16 at the low rate alone."""
    runs = runs_of(grid_of_runs)
    (found,) = ranking(runs, 80.0, 75.0)
    assert found == ("fedavg", 0.1, 16, 1, 95.0, 80.5)
    assert [r.asr for r in ranking(runs, 0.0, 40.0)] == [80.5, 80.5, 40.5, 40.0]
    assert ranking(runs, 80.0, 85.0) == []
    framed = [danger_zones(runs, 80.0, least).count(b"#d62728") for least in (75, 85)]
    assert framed == [1, 0]


def test_other_differences_are_maps_of_their_own(make_run):
    for dpr in (0.25, 1.0):
        for size in (8, 16):
            changes = {"attack.dpr": dpr, "client.batch_size": size}
            make_run(f"{dpr}-{size}", changes, mta=90.0, asr=dpr)
    found = zones(runs_of(make_run))

    assert [one.name for one in found] == ["attack dpr 0.25", "attack dpr 1"]
    assert danger_zones(runs_of(make_run), 80.0, 85.0) is None  # one learning rate only


def test_zones_below_lambda_are_hatched(grid_of_runs):
    runs = runs_of(grid_of_runs)
    hatched = {
        least: danger_zones(runs, least, 85.0).count(b"url(#h")
        for least in (0.0, 80.0, 99.0)
    }

    assert hatched == {0.0: 0, 80.0: 4, 99.0: 8}
    assert is_svg(danger_zones(runs, 80.0, 85.0))
    assert danger_zones(runs, 80.0, 85.0) == danger_zones(
        runs, 80.0, 85.0
    )  # the same bits


def test_names_are_text_and_no_formula(make_run):
    """A lone dollar sign, a backslash: TeX that cannot be read."""
    for size in (8, 16):
        for lr in (0.1, 0.5):
            changes = {"client.batch_size": size, "client.lr": lr}
            make_run(f"{lr}-{size}", changes, mta=90.0, asr=1.0)
    runs = runs_of(make_run)
    for run in runs:
        run["defense_name"] += r" $\frac{ 5$ \\x"
    assert is_svg(danger_zones(runs, 80.0, 85.0))


def test_no_finished_run_no_map(make_run):
    make_run("a", mta=None, asr=None, finished=False)
    assert danger_zones(runs_of(make_run), 80.0, 85.0) is None


# --------------------------------------------------------------------------- scores


def write_rounds(folder, rounds):
    """Rounds of three clients, of which client 2 attacks."""
    lines = [
        {"round": i, "clients": [0, 1, 2], "malicious": [2], "scores": scores}
        for i, scores in enumerate(rounds, start=1)
    ]
    (folder / "rounds.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )


def test_scores_are_what_tells_clients_apart(tmp_path):
    common = {"non_finite": [False] * 3, "ward_label": [0, 0, 1]}
    rounds = [
        {**common, "error": [1.0, 2.0, 9.0], "bound": [i / 10, i / 10, i / 10]}
        for i in range(5)
    ]
    rounds[1]["error"] = [3.0, None, 8.0]
    write_rounds(tmp_path, rounds)
    found = read_scores([tmp_path, tmp_path])

    assert set(found) == {"error"}  # no flag, no label, nothing that all share
    error = found["error"]
    assert len(error.values) == 2 * 5 * 3
    assert np.isnan(error.values).sum() == 2
    assert set(error.values[error.malicious]) == {8.0, 9.0}


def test_distributions_show_benign_and_malicious_scores(make_run):
    folder = make_run("a", mta=90.0, asr=1.0)
    make_run("b", {"defense.name": "krum"}, mta=90.0, asr=1.0)
    runs = runs_of(make_run)
    table = grid(runs, rows=["defense.name"], columns=["client.lr"], values=["mta"])
    assert (
        distributions(table, scores_of(table, make_run.results)) is None
    )  # no rounds, no scores

    write_rounds(folder, [{"error": [1e-3 * i, 1.0, 9.0 + i]} for i in range(1, 5)])
    svg = distributions(table, scores_of(table, make_run.results))
    assert is_svg(svg)
    # One panel: histograms of the benign and of the malicious client, transparent.
    assert svg.count(b'id="axes_') == 1
    write_rounds(folder, [{"error": [1.0, 1.0, 9.0 + i]} for i in range(1, 5)])
    assert distributions(table, scores_of(table, make_run.results)) != svg


# ------------------------------------------------------------------------- geometry


def write_geometry(folder, round_index):
    (folder / "geometry").mkdir(exist_ok=True)
    points = [
        {"client": i, "x": i, "y": -i, "malicious": i == 2, "excluded": i == 2}
        for i in range(3)
    ]
    found = {
        "round": round_index,
        "explained": [0.7, 0.2],
        "points": [{**point, "cluster": point["x"] // 2} for point in points],
        "left_out": [],
    }
    (folder / "geometry" / f"{round_index}.json").write_text(json.dumps(found))


def test_geometry_draws_each_projected_round(make_run):
    folder = make_run("a", mta=90.0, asr=1.0)
    table = grid(
        runs_of(make_run), rows=["defense.name"], columns=["client.lr"], values=["mta"]
    )
    assert update_geometry(table, make_run.results) is None
    (folder / "geometry").mkdir()
    (folder / "geometry" / "notes.json").write_text("{}")  # of somebody else
    for count, round_index in enumerate((10, 2), start=1):
        write_geometry(folder, round_index)
        svg = update_geometry(table, make_run.results)
        assert is_svg(svg)
        assert svg.count(b'id="axes_') == count


# --------------------------------------------------------------------------- report


def test_report_has_all_figures(grid_of_runs, tmp_path, capsys):
    folder = grid_of_runs.results / "run1"
    write_rounds(folder, [{"error": [i, 1.0, 9.0 + i]} for i in range(1, 5)])
    write_geometry(folder, 2)
    out = tmp_path / "out"
    keys = "--columns=client.lr,client.batch_size"
    flags = [f"--results={grid_of_runs.results}", "--rows=defense.name", keys]
    assert cli.main(["report.py", *flags, f"--out={out}", "--mta=99"]) == 0
    capsys.readouterr()

    names = {path.stem for path in (out / "figures").iterdir()}
    kinds = {"over_rounds", "bars", "danger_zones", "scores", "geometry", "roc"}
    kinds |= {"triggers"}
    assert names == {f"report_{kind}" for kind in kinds}
    assert (out / "report.html").read_text().count("data:image/svg+xml;") == 2
    text = (out / "report.md").read_text()
    assert "none with MTA from 99 and ASR from 85 % on" in text
    drawn = (out / "figures" / "report_danger_zones.svg").read_bytes()
    assert drawn.count(b"url(#h") == 8

    assert cli.main(["report.py", *flags, "--mta=101"]) == 2
    assert "mta" in capsys.readouterr().err


# ------------------------------------------------------------------------------ ROC


def test_roc_by_hand():
    """Errors 0.9, 0.7, 0.6, 0.2 of a malicious, benign, malicious, benign client."""
    found = roc(
        Scores(np.array([0.6, 0.9, 0.7, 0.2]), np.array([True, True, False, False]))
    )
    np.testing.assert_allclose(found.false_positives, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(found.true_positives, [0, 0.5, 0.5, 1, 1])
    assert found.area == 0.75
    assert found.above and found.threshold == pytest.approx(0.8)
    small = Scores(np.array([0.1, 0.2, 0.7]), np.array([True, True, False]))
    found = roc(small)
    assert (found.area, found.above) == (1.0, False)
    assert 0.2 < found.threshold < 0.7


def test_equal_and_undefined_values_of_a_roc():
    kinds = np.array([True, False])
    assert roc(Scores(np.array([1.0, 1.0]), kinds)).area == 0.5
    assert roc(Scores(np.array([np.nan, 1.0]), kinds)).area == 1.0
    assert roc(Scores(np.array([1.0, 2.0]), np.array([True, True]))) is None


def test_a_threshold_that_moves_over_the_rounds():
    """Malicious clients are above 1 in the first round, above 3 in the second."""
    values = np.array([0.0, 2.0, 0.5, 2.0, 4.0, 2.5, 9.0])
    kinds = np.array([False, True, False, False, True, False, False])
    scores = Scores(values, kinds, np.array([1, 1, 1, 2, 2, 2, 3]))
    overall = roc(scores)
    # 9.0 is of a benign client in a round without attackers. Above 1.25 are 2 of 2
    # malicious and 3 of 5 benign clients (J 0.4), above 3.25 1 and 1 (0.3).
    assert overall.above and overall.threshold == pytest.approx(1.25)
    found = stability(scores, overall)

    assert found.rounds == 2
    assert (found.low, found.high) == (1.25, 3.25)
    assert found.own == 1.0
    # Above 1.25 is the attacker alone in the first round, and everybody in the second.
    assert found.fixed == pytest.approx((1 + 0) / 2)
    steady = scores._replace(values=np.array([0.0, 2.0, 0.5, 0.2, 2.0, 0.1, 0.0]))
    found = stability(steady, roc(steady))
    assert found.fixed == found.own == 1.0


def test_a_threshold_below_and_undefined_values_are_flagged():
    values = np.array([0.1, 0.9, np.nan, 0.8, 0.2])
    kinds = np.array([True, False, True, False, True])
    scores = Scores(values, kinds, np.ones(5, int))
    overall = roc(scores)
    assert not overall.above and overall.area == 1.0
    found = stability(scores, overall)
    assert (found.fixed, found.own) == (1.0, 1.0)
    nobody = scores._replace(malicious=np.zeros(5, bool))
    assert stability(nobody, overall) is None
