"""Run directories as two typed tables, for SQL and as parquet files.

Rates are percentages, times seconds. NULL = undefined or not there yet.

runs: one row per run directory
    run                 folder, relative to the results
    name                as the sweep or the command named it
    place               in the order in which the user wrote the runs of the folder;
                        NULL where nobody noted it
    status              finished, failed, running, interrupted, waiting
    error               first line of error.txt of a failed run
    <section>_<key>     every key of the resolved config: defense_name, attack_dpr,
                        client_lr, seed, rounds, ...; NULL where a run's choice of
                        defence (attack, ...) has no such key; lists and mixed types
                        are text
    mcr                 share of malicious clients in the population, in percent
    mta, test_loss, asr, backdoor_loss, asr_any_source, asr_all, retained,
    conditional_mta, retained_asr, conditional_asr
                        after the last round
    attack_effect, attack_effect_estimate
                        the same, where it was measured
    test_error_rate     100 - mta
    late_mta, late_asr  means over the evaluated rounds in the last tenth
    late_mta_std, late_asr_std
                        and their standard deviations
    mta_after_distillation, asr_after_distillation, mta_between_distillations,
    asr_between_distillations
                        the late means over the rounds right after a distillation of
                        DROP, and over the others
    best_mta            over the evaluated rounds
    mean_asr, mean_asr_all
                        over the evaluated rounds
    useful_rounds, least_asr, most_asr
                        DROP's property 2: evaluated rounds with an MTA of at least 80,
                        and the lowest and highest ASR in them
    mitigation_rounds, recovery_rate, recovery_slope
                        of a backdoor after bursts, see `fedjax_sim.metrics.over_rounds`
    asr_phase_0 ... asr_phase_9
                        mean success by position in a cycle of ten rounds
    selected_malicious  attackers' share of the clients of the rounds, in percent
    weight_malicious    attackers' share of the aggregate's weights, mean over the run
    true_positives, false_positives, false_negatives, true_negatives,
    detection_accuracy, false_positive_rate, false_negative_rate, dacc, fpr, fnr, adacc,
    afpr, afnr, aar, aoi, reconstruction_error_benign, reconstruction_error_malicious,
    reconstruction_error_benign_std, reconstruction_error_malicious_std
                        detection over all rounds, see `fedjax_sim.metrics.evaluation`
    diverged            in any evaluated round
    rounds_skipped      rounds without a surviving client
    clients_non_finite  updates with NaN or Inf
    rounds_attacked     in which an attacker sent what a benign client would not
    realised_dpr        mean poisoned fraction of a malicious client's data (a fraction)
    seconds, seconds_train, seconds_defend, seconds_rounds, seconds_evaluate,
    seconds_compile
                        wall time, in all and by phase

rounds: one row per evaluated round
    run                 as above
    <field>             every field of metrics.jsonl, see `fedjax_sim.runs.directory`
"""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from fedjax_sim.core.errors import InputError
from fedjax_sim.core.progress import note
from fedjax_sim.experiment.config import flatten, resolve, to_dict
from fedjax_sim.metrics.over_rounds import consistency
from fedjax_sim.runs.files import Rows, plain, read_json
from fedjax_sim.runs.rows import PHASES, mean_known
from fedjax_sim.runs.summary import ACCEPTABLE_MTA
from fedjax_sim.sweeps import executors
from fedjax_sim.sweeps.order import ORDER, recorded

Row = dict[str, Any]

_LAST = (
    "mta",
    "test_loss",
    "asr",
    "backdoor_loss",
    "asr_any_source",
    "asr_all",
    "retained",
    "conditional_mta",
    "retained_asr",
    "conditional_asr",
)
_EFFECT = ("attack_effect", "attack_effect_estimate")
_DETECTION = (
    "detection_accuracy",
    "false_positive_rate",
    "false_negative_rate",
    "dacc",
    "fpr",
    "fnr",
    "adacc",
    "afpr",
    "afnr",
    "aar",
    "aoi",
    "reconstruction_error_benign",
    "reconstruction_error_benign_std",
    "reconstruction_error_malicious",
    "reconstruction_error_malicious_std",
)
_PARTS = {
    "after_distillation": "late_after_distillation",
    "between_distillations": "late_between_distillations",
}
_OVER_ROUNDS = (
    "useful_rounds",
    "least_asr",
    "most_asr",
    "mitigation_rounds",
    "recovery_rate",
    "recovery_slope",
    *(f"asr_phase_{i}" for i in range(10)),
    "selected_malicious",
    "weight_malicious",
)
_COUNTS = (
    "true_positives",
    "false_positives",
    "false_negatives",
    "true_negatives",
    "rounds_skipped",
    "clients_non_finite",
)

# Columns that are there whatever was run.
RUN_COLUMNS = {
    **dict.fromkeys(("run", "name", "status", "error"), "VARCHAR"),
    "place": "BIGINT",
    **dict.fromkeys((*_LAST, *_EFFECT, "test_error_rate", "mcr"), "DOUBLE"),
    **{
        f"late_{rate}{part}": "DOUBLE"
        for rate in ("mta", "asr")
        for part in ("", "_std")
    },
    **{f"{rate}_{part}": "DOUBLE" for rate in ("mta", "asr") for part in _PARTS},
    **dict.fromkeys(("best_mta", "mean_asr", "mean_asr_all", *_DETECTION), "DOUBLE"),
    **dict.fromkeys(_OVER_ROUNDS, "DOUBLE"),
    **dict.fromkeys(_COUNTS, "BIGINT"),
    "diverged": "BOOLEAN",
    "rounds_attacked": "BIGINT",
    "realised_dpr": "DOUBLE",
    **dict.fromkeys(("seconds", *(f"seconds_{p}" for p in PHASES)), "DOUBLE"),
}
ROUND_COLUMNS = {
    "run": "VARCHAR",
    "round": "BIGINT",
    **dict.fromkeys((*_LAST, *(f"seconds_{p}" for p in PHASES)), "DOUBLE"),
    **dict.fromkeys(_COUNTS, "BIGINT"),
    "diverged": "BOOLEAN",
}


def gather(results: Path, out: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Reads all run directories below a folder into a database in memory.

    Folders that are no runs, or damaged ones, are left out and said in one line. The
    database can read and write no file from then on, whatever SQL it is given, but for
    those below `out`.

    Args:
      results: the folder.
      out: where `write_parquet` will write; None: nowhere.

    Raises:
      InputError: no such folder, or no run in it that can be read.
    """
    folders = list(_run_folders(results))
    if not folders:
        raise InputError(f"--results={results}: there are no run directories")
    runs, rounds, skipped = [], [], []
    for place, (folder, noted) in enumerate(folders):
        name = str(folder.relative_to(results))
        try:
            evaluated = Rows(folder / "metrics.jsonl").read()
            row = {"run": name, **run_row(folder, evaluated)}
            row["place"] = place if noted else None
        except InputError as error:
            skipped.append(str(error))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            skipped.append(f"{folder}: not the files of a run ({what})")
        else:
            runs.append(row)
            rounds += [{"run": name, **row} for row in evaluated]
    if not runs:
        raise InputError(f"--results={results}: no run can be read; {skipped[0]}")
    if skipped:
        note(
            f"{len(skipped)} of {len(folders)} folders are no runs that can be read, "
            f"and are left out; the first: {skipped[0]}"
        )
    database = duckdb.connect(":memory:")
    _load(database, "runs", runs, RUN_COLUMNS)
    _load(database, "rounds", rounds, ROUND_COLUMNS)
    _lock(database, out)
    return database


def _lock(database: duckdb.DuckDBPyConnection, out: Path | None) -> None:
    """Takes the database every access to files, but for those below a folder."""
    if out is not None:
        folder = _text(f"{out.absolute()}/")
        database.execute(f"SET allowed_directories = [{folder}]")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")


def _text(value: str) -> str:
    """A string in SQL; what stands in a results folder is never part of a query."""
    return "'" + value.replace("'", "''") + "'"


def _run_folders(results: Path) -> Iterable[tuple[Path, bool]]:
    """The folders of runs as the user wrote them, and whether anybody noted that."""
    noted: set[Path] = set()
    for place, folders, files in os.walk(results):
        path = Path(place)
        if executors.OF_A_RUN & set(files):
            folders[:] = sorted(set(folders) - executors.INSIDE)
            yield path, path in noted
            continue
        order = recorded(path) if ORDER in files else []
        noted |= {path / name for name in order}
        rank = {name.partition("/")[0]: i for i, name in reversed([*enumerate(order)])}
        folders.sort(key=lambda name: (rank.get(name, len(order)), name))


def run_row(folder: Path, evaluated: list[Row]) -> Row:
    """Returns the columns of a run, but for `run`.

    Args:
      folder: of the run.
      evaluated: rows of its metrics.jsonl.
    """
    row: Row = {"name": folder.name, "status": executors.status(folder)}
    if row["status"] == executors.FINISHED and not (folder / "config.json").exists():
        raise InputError(f"{folder}: a run without its config.json")
    if row["status"] == executors.FAILED:
        row["error"] = (folder / "error.txt").read_text().partition("\n")[0]
    if (folder / "config.json").exists():
        config = read_json(folder / "config.json")
        fakes = config["attack"]["num_fake"]
        whole = with_new_keys(config)
        row |= {k.replace(".", "_"): v for k, v in flatten(whole).items()}
        population = config["partition"]["num_clients"] + fakes
        row["mcr"] = 100 * (config["attack"]["num_malicious"] + fakes) / population
    if evaluated:
        for key in ("asr", "asr_all"):
            known = [r[key] for r in evaluated if r.get(key) is not None]
            row[f"mean_{key}"] = sum(known) / len(known) if known else None
        held = consistency(
            [r["mta"] for r in evaluated],
            [r.get("asr") for r in evaluated],
            ACCEPTABLE_MTA,
        )
        row |= {"useful_rounds": held.rounds, "least_asr": held.least_asr}
        row["most_asr"] = held.most_asr
        seen = [sum(r.get(key) or 0 for r in evaluated) for key in _COUNTS[:4]]
        if sum(seen):
            row["selected_malicious"] = 100 * (seen[0] + seen[2]) / sum(seen)
        row["weight_malicious"] = mean_known(
            [r.get("weight_malicious") for r in evaluated]
        )
        row["diverged"] = any(r["diverged"] for r in evaluated)
        row["clients_non_finite"] = sum(r["clients_non_finite"] for r in evaluated)
    if row["status"] == executors.FINISHED:
        row |= _final_numbers(read_json(folder / "summary.json"))
    for key, value in row.items():
        if isinstance(value, str) and RUN_COLUMNS.get(key) in ("DOUBLE", "BIGINT"):
            raise ValueError(f"{key} = {value!r} is no number")
    return row


def with_new_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a recorded config with the keys that came later, at their defaults.

    A run of an older version belongs to the cells that it belonged to then. A config
    that does not resolve here (a rule of a module that is not here) stays as it is.
    """
    try:
        return plain(to_dict(resolve(config)))
    except InputError:
        return config


def _final_numbers(summary: Mapping[str, Any]) -> Row:
    final, seconds = summary["final"], summary["seconds"]
    row: Row = {key: final.get(key) for key in (*_LAST, *_EFFECT)}
    row |= {"name": summary["name"], "best_mta": summary["best_mta"]}
    row["test_error_rate"] = 100 - final["mta"]
    for rate, spread in summary["late"].items():
        if spread is not None:
            row[f"late_{rate}"], row[f"late_{rate}_std"] = spread["mean"], spread["std"]
    for part, key in _PARTS.items():
        for rate, spread in (summary.get(key) or {}).items():
            if spread is not None:
                row[f"{rate}_{part}"] = spread["mean"]
    if faded := summary.get("backdoor"):
        row["mitigation_rounds"] = faded["mean_rounds"]
        row |= {key: faded[key] for key in ("recovery_rate", "recovery_slope")}
        phases = enumerate(faded["by_phase"])
        row |= {f"asr_phase_{phase}": value for phase, value in phases}
    row |= summary["detection"]
    row["rounds_skipped"] = summary["rounds_skipped"]
    row["rounds_attacked"] = summary.get("rounds_attacked")
    row["realised_dpr"] = summary["realised_dpr"]
    row |= {f"seconds_{phase}": value for phase, value in seconds.items()}
    row["seconds"] = sum(filter(None, seconds.values()))
    return row


def _load(database, table: str, rows: list[Row], columns: Mapping[str, str]) -> None:
    types = dict(columns)
    for key in dict.fromkeys(key for row in rows for key in row):
        if key not in types:
            types[key] = _type([row.get(key) for row in rows])
    for row in rows:
        for key, value in row.items():
            if types[key] == "VARCHAR" and not isinstance(value, str | None):
                row[key] = json.dumps(value)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        declared = ", ".join(
            f"{_text(key)}: {_text(kind)}" for key, kind in types.items()
        )
        database.execute(
            f"CREATE TABLE {table} AS SELECT * FROM read_json({_text(file.name)}, "
            f"format = 'newline_delimited', columns = {{{declared}}})"
        )


def _type(values: list[Any]) -> str:
    """The narrowest type that holds all values."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "BOOLEAN"
    if kinds == {int}:
        return "BIGINT"
    if kinds and kinds <= {int, float}:
        return "DOUBLE"
    return "VARCHAR"


def query(database: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[Row]]:
    """Returns the columns and the rows of a query over `runs` and `rounds`.

    Raises:
      InputError: DuckDB refuses it.
    """
    try:
        found = database.execute(sql)
        columns = [column[0] for column in found.description]
        values = found.fetchall()
    except duckdb.Error as error:
        reason = " ".join(str(error).partition("LINE 1")[0].split())
        raise InputError(f"SQL: {reason}") from None
    return columns, [dict(zip(columns, row, strict=True)) for row in values]


def select(database: duckdb.DuckDBPyConnection, where: str | None) -> list[Row]:
    """Returns the runs that satisfy a condition, all columns.

    In the order in which the user wrote them, then by their folders.
    """
    condition = f"WHERE {where}" if where else ""
    return query(database, f"SELECT * FROM runs {condition} ORDER BY place, run")[1]


def varying(rows: list[Row]) -> list[str]:
    """The config columns in which rows differ, the most telling first.

    Where the data lies and how a run is recorded or laid out do not count.
    """
    fixed = {*RUN_COLUMNS, "data_data_dir"}
    recording = ("checkpoint_", "log_", "execution_")
    keys = [key for key in rows[0] if key not in fixed] if rows else []
    keys = [key for key in keys if not key.startswith(recording)]
    found = [key for key in keys if len({str(row[key]) for row in rows}) > 1]
    return sorted(found, key=lambda key: (not key.endswith("_name"), key == "seed"))


def write_parquet(database: duckdb.DuckDBPyConnection, folder: Path) -> list[Path]:
    """Writes both tables, for pandas, polars or DuckDB.

    Raises:
      InputError: DuckDB cannot write one of them.
    """
    paths = [folder / f"{table}.parquet" for table in ("runs", "rounds")]
    for path in paths:
        name = _text(str(path.absolute()))
        try:
            database.execute(f"COPY {path.stem} TO {name} (FORMAT parquet)")
        except duckdb.Error as error:
            reason = " ".join(str(error).split())
            raise InputError(f"--out={folder}: {path.name}: {reason}") from None
    return paths


def same(first: Any, second: Any) -> bool:
    """Whether two config values are equal; numbers up to rounding."""
    if isinstance(first, int | float) and isinstance(second, int | float):
        return math.isclose(first, second, rel_tol=1e-9)
    return first == second
