"""The page of a report as text: what is on it, and that it needs nothing else."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pages_text import Outline

from fedjax_sim.core.errors import InputError
from fedjax_sim.pages import run_data, summary
from fedjax_sim.pages.assets import as_json
from fedjax_sim.pages.numbers import short, thinned
from fedjax_sim.pages.report import Asked, Picture, report_page
from fedjax_sim.papers import load_layout
from fedjax_sim.reports import store
from fedjax_sim.reports.palette import COLORS, looks
from fedjax_sim.reports.scores import CellScores, Scores
from fedjax_sim.reports.tables import grid, published_table

ASKED = Asked("fedjax-sim report --results='a <b>'", 10.0, 80.0, 85.0, Path())


def page_of(make_run, rows=("defense.name",), columns=(), scores=(), **changes):
    """The page of a grid, parsed, and its data."""
    database = store.gather(make_run.results)
    runs = store.select(database, None)
    table = grid(runs, rows=rows, columns=columns, values=["mta", "asr"])
    table = table._replace(**changes)
    pictures = [Picture("Triggers", "what <they> are", b"<svg/>")]
    text = report_page(table, database, make_run.results, scores, pictures, ASKED)
    outline = Outline(text)
    return outline, json.loads(outline.data)


@pytest.fixture
def two_defences(make_run):
    """Six seeds each: an undefended one that falls, one that holds for a point."""
    for seed in range(6):
        for name, mta, asr in (("fedavg", 95.0, 80.0), ("median", 94.0, 2.0)):
            changes = {"defense.name": name, "seed": seed}
            make_run(f"{name}{seed}", changes, mta=mta - seed / 10, asr=asr)
    return make_run


def test_the_page_says_who_held_at_what_cost_and_needs_nothing_else(two_defences):
    outline, data = page_of(two_defences)

    assert all(
        s.startswith(("#", "data:image/svg+xml;base64,")) for s in outline.sources
    )
    assert "url(" not in outline.text and "link" not in outline.tags
    lead = "1 of 2 rows kept ASR at or below 10 % everywhere: median. "
    assert lead in outline.text
    assert "kept ASR at or below 10 %: 2.0; MTA 1.0 points below fedavg" in outline.text
    assert "(-1.00 to -1.00, 6 pairs)" in outline.text
    assert "did not keep ASR at or below 10 %: 80.0" in outline.text
    assert "fedjax-sim report --results='a <b>'" in outline.text
    assert "digits: 1437 training and 360 test" not in outline.text  # no provenance
    # Every run once, in the order of the cells.
    assert len(data["runs"]["run"]) == 12
    assert [len(cell["runs"]) for cell in data["cells"]] == [6, 6]
    assert data["cells"][1]["values"][1][:3] == [2, 0, 6]
    assert data["references"] == [0, 0]
    assert data["settings"]["seed"]["values"] == list("012345")


def test_the_first_sentence_claims_no_more_than_was_measured(two_defences):
    for seed in range(6):  # as good as the median, but for noise; no ASR
        changes = {"defense.name": "krum", "seed": seed}
        two_defences(
            f"krum{seed}", changes, mta=93.9 - seed / 10 + seed % 2 / 4, asr=1.0
        )
        changes |= {"attack.name": "label_flip"}
        two_defences(f"flip{seed}", changes, mta=93.0)
    outline, _ = page_of(two_defences, columns=["attack.name"])
    assert (
        "2 of 3 rows kept ASR at or below 10 % wherever it was measured, krum at the "
        "least cost in accuracy (not told apart from it: median). " in outline.text
    ), outline.text


def test_nobody_held_where_the_attack_fails_without_a_defence(make_run):
    for name, mta in (("fedavg", 95.0), ("median", 94.0)):
        make_run(name, {"defense.name": name}, mta=mta, asr=1.0)
    outline, _ = page_of(make_run)
    assert "did not get through fedavg either" in outline.text
    assert "least cost" not in outline.text

    # An attack that does get through is one to hold against.
    for name, asr in (("fedavg", 80.0), ("median", 2.0)):
        changes = {"defense.name": name, "attack.name": "scaling"}
        make_run(f"{name} scaling", changes, mta=90.0, asr=asr)
    outline, _ = page_of(make_run, rows=["defense.name", "attack.name"])
    assert "did not get through" not in outline.text
    assert "3 of 4 rows kept ASR" in outline.text


def test_names_with_html_in_them_are_text(make_run):
    make_run("a", mta=90.0, asr=1.0)
    evil = "</script><img src=x onerror=alert(1)>"
    run = make_run.results / "a"
    run.rename(make_run.results / "<b>bold")
    summary_file = make_run.results / "<b>bold" / "summary.json"
    summary_file.write_text(summary_file.read_text().replace('"a"', json.dumps(evil)))
    outline, data = page_of(make_run, title=f"a < b & {evil}")

    assert outline.tags.count("img") == 1  # the picture
    assert outline.tags.count("b") == 2 + len(
        outline.charts
    )  # titles, and a row of the summary
    assert f"a < b & {evil}" in outline.text
    assert (data["runs"]["run"], data["runs"]["name"]) == (["<b>bold"], [evil])
    assert "<" not in as_json({"a": evil}) and json.loads(as_json([evil])) == [evil]


def test_published_values_stand_beside_the_measured(make_run):
    for seed, mta in enumerate((90.0, 91.0)):
        changes = {"attack.dpr": 0.125, "attack.num_malicious": 1, "seed": seed}
        changes |= {"partition.num_clients": 5, "defense.name": "droplet"}
        make_run(f"d{seed}", changes, mta=mta, asr=2.0)
    database = store.gather(make_run.results)
    ignore = "data client rounds model partition participation attack.num_malicious"
    table = published_table(
        load_layout("drop_table3"),
        store.select(database, None),
        cells=["dataset=cifar10"],
        ignore=ignore.split(),
    )
    text = report_page(table, database, make_run.results, [], [], ASKED)
    outline = Outline(text)

    assert "90.5 ± 0.7 87.49 +3.0" in " ".join(outline.text.split())
    assert "arXiv 2502.07011" in outline.text
    assert "they differ in data.name, model.name, " in outline.text
    assert "; digits stands for cifar10. " in outline.text
    assert "1 of 1 measured row (10 in all) kept ASR at or below 10 %" in outline.text
    data = json.loads(outline.data)
    (cell,) = (cell for cell in data["cells"] if cell["runs"])
    assert cell["values"][0][3] == 87.49
    assert ["data.name", "cifar10", "digits"] in cell["apart"]
    # The head's second row and every row below it have equally many cells.
    lines = re.findall(r"<tr[ >].*?</tr>", text.partition('"results"')[2], re.S)
    assert {len(re.findall("<t[hd][ >]", line)) for line in lines[1:11]} == {7}


def test_an_empty_layout_says_what_is_missing_and_no_more(make_run):
    """Its values are fixed, so that no flag is named; of no run is said nothing."""
    make_run("a", mta=90.0, asr=2.0)
    database = store.gather(make_run.results)
    runs = store.select(database, None)
    table = published_table(load_layout("fedredefense_table1"), runs, small=True)
    page = report_page(table, database, make_run.results, [], [], ASKED)
    text = " ".join(Outline(page).text.split())

    assert "No run of the table has finished" in text
    assert "42 of 42 cells have no run." in text
    assert "28 of 42 cells have no small version: only dataset FashionMNIST." in text
    assert "No curves" not in text and "--values" not in text


def test_what_is_missing_is_said(make_run):
    (make_run("a", {"rounds": 9}, mta=50.0, asr=1.0, finished=False) / "x").touch()
    broken = make_run("b", mta=1.0, asr=1.0, finished=False)
    (broken / "metrics.jsonl").unlink()
    (broken / "error.txt").write_text("ValueError: <no> memory\n\ntrace\n")
    outline, data = page_of(make_run, rows=("rounds",))

    assert "No run of the table has finished" in outline.text
    missing = outline.text.partition("What is missing")[2].partition("Notes")[0]
    assert "2 of 2 runs have not finished: 1 failed, 1 interrupted." in missing
    assert "ValueError: <no> memory" in outline.text
    assert "No distributions of scores" in outline.text
    assert data["runs"]["error"] == {"0": "ValueError: <no> memory"}


def test_rows_of_two_fields_fold(two_defences):
    outline, data = page_of(two_defences, rows=("defense.name", "client.lr"))
    text = " ".join(outline.text.split())
    assert "fedavg 1 " in text and "median 1 " in text  # a head with a count each
    assert [field["label"] for field in data["rowFields"]] == ["defense", "lr"]


def test_curves_share_a_budget_of_points(two_defences, monkeypatch):
    _, data = page_of(two_defences)
    recorded = data["curves"]["recorded"]
    assert data["curves"]["drawn"] == recorded > 2
    assert data["curves"]["grids"] == [list(range(1, recorded + 1))]
    assert data["curves"]["metrics"]["mta"]["of"][0] == [95] * recorded
    monkeypatch.setattr(run_data, "_LARGEST", 2)
    monkeypatch.setattr(run_data, "_LEAST", 2)
    _, data = page_of(two_defences)
    assert data["curves"]["grids"] == [[1, recorded]]


def test_scores_are_histograms_and_a_roc(two_defences):
    values = np.array([1.0, 2.0, 3.0, np.nan])
    scores = Scores(values, np.array([False, False, True, True]))
    _, data = page_of(two_defences, scores=[CellScores(("median",), (), "e_f", scores)])

    (one,) = data["scores"]
    assert (one["score"], one["row"], one["undefined"]) == ("e f", 1, 25)
    assert sum(one["benign"]) == 1 == sum(one["malicious"])
    assert one["roc"]["area"] == 1


def test_too_few_pairs_are_no_proof(make_run):
    for name, mta in (("fedavg", 95.0), ("median", 94.0)):
        make_run(name, {"defense.name": name}, mta=mta, asr=50.0)
    runs = store.select(store.gather(make_run.results), None)
    table = grid(runs, rows=["defense.name"], columns=[], values=["mta", "asr"])
    one = next(
        v for v in summary.verdicts(table, 10.0) if table.rows[v.row] == ("median",)
    )
    assert "only 1 pair of runs" in summary.words(table, one, 10.0)
    assert "None of the 2 rows" in summary.lead(
        table, summary.verdicts(table, 10.0), 10.0
    )
    losses = grid(runs, rows=["defense.name"], columns=[], values=["test_loss"])
    assert "no attack success rate" in summary.lead(losses, [], 10.0)


def test_a_defence_keeps_its_colour():
    names = [("fedavg",), ("median",), ("krum",)]
    alone = looks(names[:1], ["defense.name"])[0]
    assert looks(names, ["defense.name"])[0] == alone
    assert len({look.color for look in looks(names, ["defense.name"])}) == 3
    pairs = [("median", "0.1"), ("median", "0.2")]
    first, second = looks(pairs, ["defense", "lr"])
    assert first.color == second.color and first.dash != second.dash
    many = [(str(i),) for i in range(2 * len(COLORS))]
    assert len(set(looks(many, ["rounds"]))) == len(many)


def test_numbers_of_scripts_are_short_and_finite():
    assert [short(x) for x in (1.23456, 2.0, np.nan, None, True)] == [
        1.235,
        2,
        None,
        None,
        None,
    ]
    assert thinned(range(10), 3) == [0, 4, 9]
    assert thinned([5, 7], 8) == [5, 7]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="there are no run directories"):
        store.gather(tmp_path)
