"""The store: what of a run directory goes into which column, with which type."""

import json
import shutil

import duckdb
import pytest
from helpers import rows

from fedjax_sim.core.errors import InputError
from fedjax_sim.pages.progress import run_folders
from fedjax_sim.reports import store
from fedjax_sim.sweeps import order


def types(database, table):
    """Column -> type."""
    found = database.execute(f"DESCRIBE {table}").fetchall()
    return {name: kind for name, kind, *_ in found}


def test_a_real_run_fills_all_columns(real_run):
    database = store.gather(real_run.parent)
    (run,) = store.select(database, None)
    summary = json.loads((real_run / "summary.json").read_text())

    assert run["run"] == "run" and run["name"] == "real"
    assert (run["status"], run["error"]) == ("finished", None)
    assert (run["defense_name"], run["attack_dpr"], run["seed"]) == ("fedavg", 1.0, 0)
    for key in ("mta", "asr", "test_loss"):
        assert run[key] == pytest.approx(summary["final"][key])
    assert run["test_error_rate"] == pytest.approx(100 - run["mta"])
    assert run["late_mta"] == pytest.approx(summary["late"]["mta"]["mean"])
    assert run["late_asr_std"] == pytest.approx(summary["late"]["asr"]["std"])
    assert run["best_mta"] == pytest.approx(summary["best_mta"])
    assert run["mean_asr"] == pytest.approx(summary["backdoor"]["mean_asr"])
    assert run["adacc"] == pytest.approx(summary["detection"]["adacc"])
    assert run["false_negatives"] == summary["detection"]["false_negatives"]
    assert run["mcr"] == pytest.approx(100 * 2 / 6)
    assert (run["diverged"], run["rounds_skipped"]) == (False, 0)
    assert run["seconds"] == pytest.approx(
        sum(filter(None, summary["seconds"].values()))
    )
    # Nothing of the summary's numbers is left out unnoticed.
    assert set(summary["detection"]) <= set(run)


def test_rounds_hold_the_evaluated_ones(real_run):
    database = store.gather(real_run.parent)
    _, found = store.query(database, "SELECT * FROM rounds ORDER BY round")
    metrics = rows(real_run / "metrics.jsonl")

    assert [row["round"] for row in found] == [1, 2, 3, 4]
    for row, wanted in zip(found, metrics, strict=True):
        assert row["run"] == "run"
        for key, value in wanted.items():
            assert row[key] == (pytest.approx(value) if value is not None else None)


def test_columns_have_the_types_of_their_values(make_run):
    make_run("a", {"client.steps": 3}, mta=90, asr=None)
    make_run("b", {"defense.name": "droplet"}, mta=91, asr=5.5)
    database = store.gather(make_run.results)
    found = types(database, "runs")

    assert found["mta"] == found["asr"] == found["attack_dpr"] == "DOUBLE"
    assert found["client_steps"] == found["seed"] == "BIGINT"
    assert found["diverged"] == found["attack_equal_distribution"] == "BOOLEAN"
    assert found["defense_name"] == "VARCHAR"
    first, second = store.select(database, None)
    assert (first["defense_penalty"], second["defense_penalty"]) == (None, 1.0)
    assert (first["client_steps"], second["client_steps"]) == (3, None)
    assert (first["asr"], second["asr"]) == (None, 5.5)


def test_columns_are_documented():
    for column in (*store.RUN_COLUMNS, *store.ROUND_COLUMNS):
        phase = column.startswith(("seconds_", "asr_phase_"))  # 0 ... 9
        assert column in store.__doc__ or phase


def test_status_says_how_a_run_ended(make_run):
    make_run("done", mta=1, asr=1)
    make_run("half", {"seed": 1}, mta=1, asr=1, finished=False)
    folder = make_run("bad", {"seed": 2}, mta=1, asr=1, finished=False)
    (folder / "error.txt").write_text("ValueError: no\n\nTraceback ...\n")
    early = make_run.results / "early"  # failed before it had a config
    early.mkdir()
    (early / "error.txt").write_text("InputError: never\n")
    found = {r["run"]: r for r in store.select(store.gather(make_run.results), None)}

    assert {k: r["status"] for k, r in found.items()} == {
        "done": "finished",
        "half": "interrupted",
        "bad": "failed",
        "early": "failed",
    }
    assert found["bad"]["error"] == "ValueError: no"
    assert found["early"]["defense_name"] is None
    assert found["half"]["mta"] is None  # not the final number


def test_runs_are_selected_by_sql_and_mistakes_are_one_line(make_run):
    make_run("a", {"attack.dpr": 0.1}, mta=90, asr=1)
    make_run("b", {"attack.dpr": 0.2}, mta=80, asr=2)
    database = store.gather(make_run.results)

    assert [r["run"] for r in store.select(database, "attack_dpr > 0.1")] == ["b"]
    columns, found = store.query(database, "SELECT avg(mta) AS m FROM runs")
    assert (columns, found) == (["m"], [{"m": 85.0}])
    assert store.varying(store.select(database, None)) == ["attack_dpr"]
    for where in ("defens = 'x'", "mta >", "1; DROP"):
        with pytest.raises(InputError, match="SQL: ") as problem:
            store.select(database, where)
        assert "\n" not in str(problem.value)


def test_parquet_holds_all_rows_and_columns(make_run, tmp_path):
    make_run("a", mta=90, asr=1.5)
    out = tmp_path / "it's"
    out.mkdir()
    database = store.gather(make_run.results, out)
    runs, rounds = store.write_parquet(database, out)

    assert [path.name for path in (runs, rounds)] == ["runs.parquet", "rounds.parquet"]
    read = duckdb.read_parquet(str(runs))
    assert read.columns == list(types(database, "runs"))
    assert read.fetchall() == database.execute("SELECT * FROM runs").fetchall()
    assert len(duckdb.read_parquet(str(rounds)).fetchall()) == 4


def test_runs_at_any_depth(real_run, tmp_path):
    shutil.copytree(real_run, tmp_path / "sweep" / "one")
    shutil.copytree(real_run, tmp_path / "two")

    found = store.select(store.gather(tmp_path), None)

    assert [row["run"] for row in found] == ["sweep/one", "two"]


def test_a_folder_without_runs_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no run directories"):
            store.gather(folder)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", '["a"]'),
        ("config.json", '{"attack": 1, "partition": {}}'),
        ("metrics.jsonl", '{"round": 1}\n'),
        ("metrics.jsonl", "no json\n"),
        ("summary.json", "{}"),
        ("summary.json", '{"final": 1, "seconds": 2}'),
    ],
)
def test_foreign_and_damaged_folders_are_left_out(make_run, capsys, file, text):
    folder = make_run("a", mta=90, asr=1)
    (folder / file).write_text(text)
    with pytest.raises(InputError, match="no run can be read") as error:
        store.gather(make_run.results)
    assert "\n" not in str(error.value)

    make_run("b", mta=80, asr=2)
    found = store.select(store.gather(make_run.results), None)
    assert [row["run"] for row in found] == ["b"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "1 of 2 folders" in said and str(folder) in said


NAUGHTY = "x': 'INT'}); COPY (SELECT 1) TO 'FILE'; --"


@pytest.mark.parametrize("place", ["config.json", "metrics.jsonl"])
def test_a_key_in_a_results_folder_is_no_sql(make_run, tmp_path, place):
    folder, file = make_run("a", mta=90, asr=1), tmp_path / "written.csv"
    key = NAUGHTY.replace("FILE", str(file))
    if place == "config.json":
        value = json.loads((folder / place).read_text()) | {key: 1}
        (folder / place).write_text(json.dumps(value))
    else:
        lines = [json.loads(x) | {key: 1} for x in (folder / place).open()]
        (folder / place).write_text("".join(json.dumps(x) + "\n" for x in lines))
    database = store.gather(make_run.results)
    assert len(store.select(database, None)) == 1
    assert not file.exists()


def test_sql_reaches_no_file_but_those_of_the_report(make_run, tmp_path):
    make_run("a", mta=90, asr=1)
    other, out = tmp_path / "other.csv", tmp_path / "out"
    other.write_text("a\n1\n")
    out.mkdir()
    database = store.gather(make_run.results, out)
    for sql in (
        f"SELECT * FROM read_csv('{other}')",
        f"COPY runs TO '{tmp_path / 'new.csv'}'",
        f"COPY runs TO '{out}/../new.csv'",
        "SET enable_external_access = true",
        f"ATTACH '{tmp_path / 'new.db'}'",
    ):
        with pytest.raises(InputError, match="SQL: ") as error:
            store.query(database, sql)
        assert "\n" not in str(error.value)
    assert [path.name for path in store.write_parquet(database, out)] == [
        "runs.parquet",
        "rounds.parquet",
    ]
    assert not (tmp_path / "new.csv").exists()


def test_a_key_that_came_later_has_its_default(make_run):
    """In the config of an older version it is missing."""
    folder = make_run("old", {"defense.name": "droplet"}, mta=1, asr=1)
    config = json.loads((folder / "config.json").read_text())
    del config["defense"]["clustering"]
    (folder / "config.json").write_text(json.dumps(config))
    (run,) = store.select(store.gather(make_run.results), None)
    assert run["defense_clustering"] is True
    config["defense"]["name"] = "no.module:rule"  # of somebody else
    (folder / "config.json").write_text(json.dumps(config))
    (run,) = store.select(store.gather(make_run.results), None)
    assert run["defense_name"] == "no.module:rule" and run["defense_penalty"] == 1.0


def test_runs_come_as_the_user_wrote_them(make_run, capsys):
    for name in ("a", "b", "c"):
        make_run(name, mta=90.0, asr=1.0)

    def found():
        runs = store.select(store.gather(make_run.results), None)
        return [(run["run"], run["place"] is None) for run in runs]

    assert found() == [("a", True), ("b", True), ("c", True)]
    order.record(make_run.results, ["c", "a"])
    assert found() == [("c", False), ("a", False), ("b", True)]
    order.record(make_run.results, ["b"])  # another sweep of the same folder
    assert [name for name, _ in found()] == ["c", "a", "b"]
    order.record(make_run.results, ["b", "c"])
    assert [name for name, _ in found()] == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    (make_run.results / order.ORDER).write_text("{")
    assert found() == [("a", True), ("b", True), ("c", True)]
    assert "order.json: not valid JSON" in capsys.readouterr().err


def test_runs_below_a_run_are_found_too(real_run, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(real_run, whole)
    shutil.copytree(real_run, whole / "another")
    assert (whole / "checkpoints").is_dir()

    found = store.select(store.gather(tmp_path), None)

    assert [row["run"] for row in found] == ["whole", "whole/another"]
    assert [str(f.relative_to(tmp_path)) for f in run_folders(tmp_path)] == [
        "whole",
        "whole/another",
    ]


def test_a_run_without_its_config_is_counted(make_run, capsys):
    make_run("a", mta=90, asr=1)
    (make_run("b", mta=80, asr=2) / "config.json").unlink()
    found = store.select(store.gather(make_run.results), None)
    assert [row["run"] for row in found] == ["a"]
    assert "1 of 2 folders" in capsys.readouterr().err


def test_text_among_the_numbers_is_a_damaged_run(make_run, capsys):
    make_run("a", mta=90, asr=1)
    summary = make_run("b", mta=80, asr=2) / "summary.json"
    damaged = json.loads(summary.read_text())
    damaged["final"]["asr"] = "abc"
    summary.write_text(json.dumps(damaged))
    found = store.select(store.gather(make_run.results), None)
    assert [row["run"] for row in found] == ["a"]
    assert "asr = 'abc' is no number" in capsys.readouterr().err
