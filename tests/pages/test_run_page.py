"""The page of a run as text, and how far runs are."""

import io
import json
import shutil
from base64 import b64decode

import numpy as np
import pytest
from pages_text import Outline
from PIL import Image

from fedjax_sim.commands import show
from fedjax_sim.core.errors import InputError
from fedjax_sim.pages import progress, run_distilled, run_model, run_rounds
from fedjax_sim.pages.run import run_page


def row_of(number, clients, malicious=(), excluded=(), **more):
    """A row of rounds.jsonl in which clients weigh as much as their numbers."""
    weights = [0.0 if c in excluded else float(c) for c in clients]
    row = {"round": number, "clients": clients, "malicious": list(malicious)}
    row |= {"excluded": list(excluded), "weights": weights, "scores": {}}
    return {**row, "update_norms": weights, "losses": [None] * len(clients), **more}


ROUNDS = [
    row_of(
        1, [0, 2, 3], [3], [3], scores={"error": [1.0, 3.0, 8.0], "flag": [True] * 3}
    ),
    row_of(2, [1, 2], [], [2]),
]


def test_the_map_has_a_letter_for_what_each_client_did():
    found = run_rounds.client_map(ROUNDS, 4)
    assert found == {"rounds": [1, 2], "lines": ["b.", ".b", "bB", "M."], "recorded": 2}
    lines = run_rounds.client_table(ROUNDS, [3])
    assert lines[2] == ["2", "benign", "2", "1", "1.000"]
    assert lines[3] == ["3", "malicious", "1", "1", "0.000"]


def test_quantities_are_those_of_both_kinds():
    found = {one["name"]: one["points"] for one in run_rounds.quantities(ROUNDS)}
    assert set(found) == {
        "weight",
        "L2 norm of the update",
        "error",
    }  # no flag, no null
    assert found["error"] == [
        {"round": 1, "kind": "benign", "mean": 2, "low": 1, "high": 3},
        {"round": 1, "kind": "malicious", "mean": 8, "low": 8, "high": 8},
    ]


def test_the_page_of_a_real_run(real_run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert show.main(["show", str(real_run), f"--out={out}"]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    outline = Outline(out.read_text())
    data = json.loads(outline.data)

    assert all(s.startswith(("#", "data:image/png;base64,")) for s in outline.sources)
    summary = json.loads((real_run / "summary.json").read_text())
    # The checkpoint's model on the test images is what the run evaluated last.
    clean = np.array(data["matrices"][0]["counts"])
    assert 100 * np.trace(clean) / clean.sum() == pytest.approx(summary["final"]["mta"])
    victims, target = 0, 7
    config = json.loads((real_run / "config.json").read_text())
    victims = config["attack"]["victim_class"]
    target = config["attack"]["target_class"]
    stamped = np.array(data["matrices"][1]["counts"])[victims]
    share = 100 * stamped[target] / stamped.sum()
    assert share == pytest.approx(summary["final"]["asr"])
    sizes = json.loads((real_run / "provenance.json").read_text())["partition"]
    assert np.sum(data["classes"]) == sizes["samples"]
    assert len(data["map"]["lines"]) == config["partition"]["num_clients"]
    assert data["status"] == "finished" and data["live"] is None
    assert "No images of the defence" in outline.text


def test_what_a_run_has_not_is_said(real_run, tmp_path):
    run = tmp_path / "run <i>"
    run.mkdir()
    shutil.copy(real_run / "config.json", run)
    outline = Outline(run_page(run))
    assert (
        "No rates: no round was evaluated yet (config.evaluation.every)" in outline.text
    )
    assert "the run has no checkpoint yet (config.checkpoint)" in outline.text
    assert "partition.npz is not there" in outline.text
    assert "i" not in outline.tags and "run <i>" in outline.text
    with pytest.raises(InputError, match="no run"):
        run_page(tmp_path)
    (run / "config.json").write_text('{"rounds": 1}')
    with pytest.raises(InputError, match="not the files of a run"):
        run_page(run)


def test_a_trigger_that_moves_is_that_of_the_checkpoint(
    real_run, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(real_run, run)
    config = json.loads((run / "config.json").read_text())
    config["attack"] = {
        "name": "a3fl",
        "num_malicious": 2,
        "size": 2,
        "victim_class": 0,
        "num_fake": 0,
    }
    (run / "config.json").write_text(json.dumps(config))
    text = Outline(run_page(run)).text
    assert "No pictures with a trigger: the checkpoint holds no [0].attack.mask" in text
    assert "the attack stamps none" not in text and "moves its trigger" not in text

    at, arrays = run_model.newest_arrays(run)
    mask = np.zeros((8, 8, 1), bool)
    mask[2:4, 2:4] = True
    arrays |= {"[0].attack.mask": mask, "[0].attack.value": mask.astype(np.float32)}
    monkeypatch.setattr(run_model, "newest_arrays", lambda run: (at, arrays))
    outline = Outline(run_page(run))
    assert f"Shown and counted here is the one after round {at}." in outline.text
    assert len(json.loads(outline.data)["matrices"]) == 2


def test_images_that_a_rule_remembers_are_found():
    arrays = {
        "[0].params": np.ones((2, 3, 4, 4, 1)),
        "[0].defense.knowledge.images": np.ones((2, 3, 4, 4, 1)),
        "[0].defense.scores": np.ones(4),
        "[0].defense.expelled": np.array([False, True]),
    }
    arrays["[0].defense.knowledge.images"][0] = 0  # of a client that was never seen
    found, lines = run_model.kept_pictures(arrays, (4, 4, 1), 2)
    assert {name: len(line) for name, line in found.items()} == {
        "defense.knowledge.images of client 1": 3
    }
    assert lines == 1
    # FLIP's patterns are seen within their masks alone, and only the first lines.
    pattern = np.ones((20, 2, 4, 4, 1))
    mask = np.zeros((20, 2, 4, 4))
    mask[:, 0, 1, 1] = 1
    flip = {"[0].clients.pattern": pattern, "[0].clients.mask": mask}
    found, lines = run_model.kept_pictures(flip, (4, 4, 1), 20)
    assert (len(found), lines) == (6, 20)
    first, second = found["clients.pattern of client 0"]
    assert (first.text, second.text) == ("", "nothing")
    with Image.open(io.BytesIO(b64decode(first.source.partition(",")[2]))) as image:
        seen = np.asarray(image)
    assert seen[1, 1] == 255 and seen.sum() == 255
    assert run_model.expelled_clients(arrays) == [1]


def test_confusion_by_hand():
    labels, said = np.array([0, 0, 1]), np.array([0, 2, 1])
    assert run_model.confusion(labels, said, 2) == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


# ------------------------------------------------------------------------ progress


def test_standings_of_a_folder(make_run):
    make_run("done", mta=90.0, asr=1.0)
    left = make_run("left", {"rounds": 9}, mta=50.0, asr=2.0, finished=False)
    rows = "".join(json.dumps({"round": i}) + "\n" for i in (1, 2, 3))
    (left / "rounds.jsonl").write_text(rows + '{"round": 4')  # cut short by a kill
    (make_run.results / "odd").mkdir()
    (make_run.results / "odd" / "config.json").write_text("{}")
    (make_run("bad", finished=False) / "error.txt").write_text("E: <b>\n\ntrace")
    found = {one.run: one for one in progress.standings(make_run.results)}

    assert (found["left"].status, found["left"].done, found["left"].of) == (
        "interrupted",
        3,
        9,
    )
    assert found["left"].mta == 50.0 and found["left"].left is None
    assert (found["bad"].status, found["bad"].line) == ("failed", "E: <b>")
    assert found["odd"].status == "unreadable" and "rounds" in found["odd"].line
    assert found["done"].status == "finished"
    assert next(iter(found)) == "bad"  # what needs a look comes first

    known = {}
    assert len(progress.standings(make_run.results, known)) == 4
    assert [one.run for _, one in known.values()] == ["done"]
    (make_run.results / "done" / "metrics.jsonl").write_text("damaged\n")
    again = {one.run: one for one in progress.standings(make_run.results, known)}
    assert again["done"].status == "finished"  # read once
    assert {one.status for one in progress.standings(make_run.results)} == {
        "interrupted",
        "failed",
        "unreadable",
    }


def test_time_left_is_that_of_the_last_rounds_without_compiling():
    rows = [{"round": 2, "seconds_rounds": 40.0, "seconds_compile": 99.0}]
    assert progress.seconds_left(rows, 2, 4) == 40.0
    rows += [{"round": 2 + i, "seconds_rounds": 3.0} for i in range(1, 11)]
    assert progress.seconds_left(rows, 12, 14) == 6.0
    assert progress.seconds_left([{"round": 1}], 1, 2) is None


def test_what_drop_distilled():
    curve = np.full(50, np.nan, np.float32)
    curve[[0, 12, 25]] = 3.0, 2.0, 1.0  # of four iterations the first three
    record = {
        "round": np.int32(5),
        "iterations": np.int32(3),
        "planned": np.int32(4),
        "taught": np.array([True, False, True]),
        "clone_accuracy": np.float32(0.5),
        "aggregate_accuracy": np.float32(0.75),
        **{f"curves.{name}": curve for name in ("generator", "clone", "critic")},
        "curves.replay": curve / 2,
    }
    arrays = {f"[0].defense[1].{name}": value for name, value in record.items()}
    found = run_distilled.distilled(arrays)

    assert "After round 5, 3 of 4 iterations" in found.text
    assert "clone is right in 50.0 %, the aggregate in 75.0 %" in found.text
    assert found.text.endswith("taught: 0, 2.")
    assert found.panels[0]["rounds"] == [1, 2, 3]
    assert [one["values"] for one in found.panels[0]["lines"]] == [
        [3, 2, 1],
        [1.5, 1, 0.5],
    ]
    arrays["[0].defense[1].round"] = np.int32(0)
    assert run_distilled.distilled(arrays) is None
    assert run_distilled.distilled({"[0].params": np.ones(3)}) is None
