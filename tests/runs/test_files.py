"""The run directory: plain JSON, files that survive a kill, one run at a time."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.runs import files as results
from fedjax_sim.runs.files import Lock, Rows, read_json


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (-np.inf, None),
        (np.float32(0.5), 0.5),
        (np.float32("nan"), None),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1.0, np.nan]), [1.0, None]),
        (np.array(2), 2),
        (jnp.array([True, False]), [True, False]),
        (jnp.float32(1.5), 1.5),
        ((1, [2.5, float("nan")]), [1, [2.5, None]]),
        ({3: np.arange(2), "a": {"b": None}}, {"3": [0, 1], "a": {"b": None}}),
        ("text", "text"),
        (None, None),
        (True, True),
    ],
)
def test_plain_turns_arrays_into_json_values(value, expected):
    plain = results.plain(value)
    assert plain == expected and type(plain) is type(expected)
    # Strict JSON: NaN and Infinity are no JSON.
    assert json.loads(json.dumps(plain, allow_nan=False)) == expected


def test_write_json_replaces_the_file_at_once(tmp_path):
    path = tmp_path / "summary.json"
    results.write_json(path, {"old": 1})
    results.write_json(path, {"asr": np.float32("nan"), "ids": np.arange(3)})
    assert results.read_json(path) == {"asr": None, "ids": [0, 1, 2]}
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    results.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        results.write_json(path, {"new": object()})
    assert results.read_json(path) == {"old": 1}


def test_damaged_json_is_one_clear_line(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"seed": 1,\n "rou')
    with pytest.raises(InputError, match="not valid JSON") as error:
        results.read_json(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


# ----------------------------------------------------------------------------- rows


def test_appended_rows_are_read_again(tmp_path):
    rows = Rows(tmp_path / "metrics.jsonl")
    assert rows.read() == []
    rows.append([{"round": 1, "asr": float("nan")}])
    rows.append([{"round": 2, "ids": np.arange(2)}, {"round": 3, "note": "a\nb"}])
    assert rows.read() == [
        {"round": 1, "asr": None},
        {"round": 2, "ids": [0, 1]},
        {"round": 3, "note": "a\nb"},
    ]
    assert len(rows.path.read_text().splitlines()) == 3


@pytest.mark.parametrize("tail", ['{"round": 3, "mt', "{", '{"round": 3}'])
def test_rows_leave_out_a_line_cut_by_a_kill(tmp_path, tail):
    rows = Rows(tmp_path / "metrics.jsonl")
    rows.append([{"round": 1}, {"round": 2}])
    with open(rows.path, "a") as file:
        file.write(tail)
    assert rows.read() == [{"round": 1}, {"round": 2}]
    # What a resumed run does before it writes on.
    rows.keep_until(2, (1, 2))
    rows.append([{"round": 3, "mta": 1.0}])
    assert rows.read() == [{"round": 1}, {"round": 2}, {"round": 3, "mta": 1.0}]


def test_rows_damaged_in_the_middle_are_one_clear_line(tmp_path):
    rows = Rows(tmp_path / "metrics.jsonl")
    rows.path.write_text('{"round": 1}\n{"rou\n{"round": 3}\n')
    with pytest.raises(InputError, match="line 2 is not a row in JSON") as error:
        rows.read()
    assert str(rows.path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("last", "kept"), [(0, []), (4, [2, 4]), (5, [2, 4]), (9, [2, 4, 6])]
)
def test_keep_until_drops_later_rows(tmp_path, last, kept):
    rows = Rows(tmp_path / "metrics.jsonl")
    rows.append([{"round": number} for number in (2, 4, 6)])
    expected = [{"round": number} for number in kept]
    assert rows.keep_until(last, kept) == expected
    assert rows.read() == expected


def test_keep_until_of_a_new_run(tmp_path):
    rows = Rows(tmp_path / "metrics.jsonl")
    assert rows.keep_until(0, ()) == []
    assert rows.read() == []


def test_rows_that_the_checkpoint_has_seen_must_be_there(tmp_path):
    """A power failure may lose a row whose round is in a checkpoint."""
    rows = Rows(tmp_path / "metrics.jsonl")
    rows.append([{"round": number} for number in (2, 4)])
    with pytest.raises(InputError, match=r"round 6 is missing.* of round 7"):
        rows.keep_until(7, (2, 4, 6))
    assert len(rows.read()) == 2


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[]", "no object"),
        (b'{"a": 1}', "without 'final'"),
        (b'"\xff"', "not valid JSON"),
        (None, "not valid JSON"),  # a folder
    ],
)
def test_json_of_another_shape_is_one_clear_line(tmp_path, content, part):
    path = tmp_path / "summary.json"
    path.mkdir() if content is None else path.write_bytes(content)
    keys = ("final",) if content and b"{" in content else ()
    with pytest.raises(InputError, match=part) as error:
        read_json(path, *keys)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("line", [b"[1]", b"3", b'{"mta": 1}', b'"\xff"'])
def test_lines_that_are_no_rows(tmp_path, line):
    rows = Rows(tmp_path / "metrics.jsonl")
    rows.path.write_bytes(line + b"\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl") as error:
        rows.read()
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------- lock

SECOND = """
import sys
from pathlib import Path
from fedjax_sim.core.errors import InputError
from fedjax_sim.runs.files import Lock

try:
    lock = Lock(Path(sys.argv[1]))
except InputError as error:
    print(error)
    sys.exit(2)
"""


def second_holder(folder):
    """Another process that takes the lock and ends without letting go of it."""
    return subprocess.run(
        [sys.executable, "-c", SECOND, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_lock_refuses_a_second_process(tmp_path):
    lock = Lock(tmp_path)
    refused = second_holder(tmp_path)
    assert refused.returncode == 2, refused.stderr
    assert refused.stdout.startswith(f"--workdir={tmp_path}: another run")
    assert len(refused.stdout.splitlines()) == 1
    with pytest.raises(InputError, match="another run"):
        Lock(tmp_path)
    lock.release()
    # Free again; and the end of a process lets go whatever it did.
    assert second_holder(tmp_path).returncode == 0
    Lock(tmp_path).release()


# ---------------------------------------------------------------------- environment


def test_environment_is_plain_and_complete():
    found = results.environment()
    assert set(found["versions"]) == set(results.PACKAGES)
    assert found["versions"]["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["git"] and found["backend"] and found["devices"]
    assert json.loads(json.dumps(found)) == found


def test_the_digest_of_rows_is_that_of_what_is_kept(tmp_path):
    """A checkpoint knows by it which rows it goes with."""
    first, second = Rows(tmp_path / "a.jsonl"), Rows(tmp_path / "b.jsonl")
    first.append([{"round": 1, "mta": 1 / 3, "x": np.float32(0.1)}])
    before = first.digest()
    first.append([{"round": 2, "mta": None}])
    assert first.digest() != before

    again = Rows(tmp_path / "a.jsonl")
    again.keep_until(1, [1])
    assert again.digest() == before

    second.append([{"round": 1, "mta": 1 / 3 + 1e-15, "x": np.float32(0.1)}])
    assert second.digest() != before
