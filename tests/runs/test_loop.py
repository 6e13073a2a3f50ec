"""Runs together in one program: the same results as each alone, compiled once."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from helpers import BASE, rows, without_times

from fedjax_sim.core.checkpoint import Checkpoints
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment import build as experiment_build
from fedjax_sim.experiment import target
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.round.execution import Strategy
from fedjax_sim.runs import loop
from fedjax_sim.runs.listener import Listener
from fedjax_sim.runs.programs import Programs
from fedjax_sim.runs.run import Job

CHANGES = {
    "first": {},
    "seed": {"seed": 1},
    "numbers": {"client.lr": 0.05, "attack.dpr": 0.5, "defense.penalty": 2.0},
    # Clients of other sizes: the index matrices have other widths.
    "partition": {"partition.name": "drop_dirichlet", "partition.alpha": 5.0},
}


def jobs(root, names=tuple(CHANGES), **extra):
    """DROPlet, whose clustering calls the host, on three seeds and partitions."""
    base = {
        "defense.name": "droplet",
        "rounds": 2,
        "data.num_train": 300,
        "checkpoint.every_rounds": 1,
        **extra,
    }
    return [
        Job(resolve(override(BASE, {**base, **CHANGES[name]})), root / name, name)
        for name in names
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Every run in a program of its own."""
    root = tmp_path_factory.mktemp("alone")
    for job in jobs(root):
        assert loop.run(*job)[0] == 0
    return root


def parameters(folder):
    """What the last checkpoint holds, leaf by leaf."""
    checkpoints = Checkpoints(folder / "checkpoints")
    stored = checkpoints._manager.restore(checkpoints.latest())
    del stored["checksum"]  # of bits, which may round otherwise
    del stored["beside"]  # of the rows, in which times stand
    checkpoints.close()
    return stored


def assert_same_run(folder, expected):
    for name, value in parameters(expected).items():
        np.testing.assert_allclose(
            parameters(folder)[name], value, rtol=1e-4, atol=1e-6, err_msg=name
        )
    for file in ("rounds.jsonl", "metrics.jsonl"):
        for got, wanted in zip(rows(folder / file), rows(expected / file), strict=True):
            assert got.keys() == wanted.keys()
            for key, value in without_times(wanted).items():
                if isinstance(value, float):
                    assert got[key] == pytest.approx(value, rel=1e-3, abs=1e-4)
                elif key in ("clients", "malicious", "excluded", "round", "absent"):
                    assert got[key] == value


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(1),
        pytest.param(Strategy(None), marks=pytest.mark.slow),
        pytest.param(Strategy(3), marks=pytest.mark.slow),
    ],
)
def test_runs_together_end_as_each_alone(strategy, alone, tmp_path):
    outcomes = loop.run_together(jobs(tmp_path), strategy)

    assert [code for code, _ in outcomes] == [0] * len(CHANGES)
    assert [summary["name"] for _, summary in outcomes] == list(CHANGES)
    for name in CHANGES:
        assert_same_run(tmp_path / name, alone / name)


def compilations(caplog):
    """Names of the programs that were compiled, without those of single operations."""
    texts = [r.getMessage() for r in caplog.records]
    found = [t for t in texts if t.startswith("Finished XLA compilation of jit(")]
    names = [text.split("jit(")[1].split(")")[0] for text in found]
    return [n for n in names if n in ("some_rounds", "evaluation")]


def test_runs_of_one_program_are_compiled_once(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, logger="jax"), jax.log_compiles():
        loop.run_together(jobs(tmp_path, ("first", "seed", "partition")))

    assert sorted(compilations(caplog)) == ["evaluation", "some_rounds"]


@pytest.mark.slow
def test_runs_behind_catch_up(alone, tmp_path):
    """One is new, one lost its last round and one is finished."""
    for name in ("seed", "numbers"):
        shutil.copytree(alone / name, tmp_path / name)
    (tmp_path / "seed" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "seed" / "checkpoints" / "2")
    before = (tmp_path / "numbers" / "summary.json").read_bytes()

    names = ("first", "seed", "numbers")
    outcomes = loop.run_together(jobs(tmp_path, names))

    assert [code for code, _ in outcomes] == [0, 0, 0]
    assert (tmp_path / "numbers" / "summary.json").read_bytes() == before
    for name in names:
        assert_same_run(tmp_path / name, alone / name)


@pytest.mark.slow
def test_a_run_that_diverges_leaves_the_others_alone(alone, tmp_path):
    broken = override(BASE, {"defense.name": "droplet", "rounds": 2})
    own = jobs(tmp_path, ("first", "seed"))
    config = override(
        broken,
        {"client.lr": 1e30, "data.num_train": 300, "checkpoint.every_rounds": 1},
    )
    own.append(Job(resolve(config), tmp_path / "broken", "broken"))

    outcomes = loop.run_together(own, Strategy(None))

    assert [code for code, _ in outcomes] == [0, 0, 0]
    assert outcomes[2][1]["final"]["clients_non_finite"] > 0
    for name in ("first", "seed"):
        assert_same_run(tmp_path / name, alone / name)


def test_the_memory_limits_how_many_run_together(alone, tmp_path, monkeypatch):
    """There is room for one: they run in parts, to the same results."""
    here = target.here()._replace(memory=1)
    monkeypatch.setattr(experiment_build, "here", lambda: here)
    outcomes = loop.run_together(jobs(tmp_path, ("first", "seed")))

    assert [code for code, _ in outcomes] == [0, 0]
    for name in ("first", "seed"):
        assert_same_run(tmp_path / name, alone / name)


def test_on_an_accelerator_the_compiled_program_says_what_fits(tmp_path, monkeypatch):
    """Played by the CPU: runs are compiled before they begin, or refused."""
    elsewhere = target.here()._replace(backend="gpu")
    monkeypatch.setattr(experiment_build, "here", lambda: elsewhere)
    own = jobs(tmp_path, ("first", "seed"), **{"execution.memory_gib": "auto"})
    outcomes = loop.run_together(own)
    assert [code for code, _ in outcomes] == [0, 0]
    provenance = json.loads((tmp_path / "first" / "provenance.json").read_text())
    execution = provenance["execution"]
    assert execution["clients"].startswith("chunk") and execution["compiled_gib"] > 0
    assert outcomes[0][1]["seconds"]["compile"] > 0

    tiny = jobs(tmp_path / "tiny", ("first",), **{"execution.memory_gib": 1e-5})
    with pytest.raises(InputError, match="even with one client at a time"):
        loop.run_together(tiny)
    assert not (tmp_path / "tiny" / "first" / "rounds.jsonl").exists()


def test_runs_of_different_programs_are_refused():
    configs = [resolve(override(BASE, {"rounds": rounds})) for rounds in (1, 2)]
    with pytest.raises(ValueError, match="different programs"):
        loop.run_together([Job(config, None) for config in configs])


# --------------------------------------------------------------------------- pieces


@pytest.mark.slow
def test_runs_in_pieces_end_as_each_alone(alone, tmp_path):
    programs = Programs()
    names = ("first", "seed", "numbers")
    loop.run_together(jobs(tmp_path, names), programs=programs)

    for name in names:
        assert_same_run(tmp_path / name, alone / name)
    # A start for clients and for the server, who may be sampled, training, rule and
    # evaluation: once for the three.
    assert programs.compiled == 6
    # Other clients are the largest, in the same room.
    loop.run_together(jobs(tmp_path, ("partition",)), programs=programs)
    assert_same_run(tmp_path / "partition", alone / "partition")
    assert programs.compiled == 6


def crafted(root, attack="ipm", defense="droplet", **extra):
    changes = {
        "attack": {"name": attack, "num_malicious": 2},
        "defense": {"name": defense},
        "rounds": 2,
        "checkpoint.every_rounds": 1,
        **extra,
    }
    return Job(resolve(override(BASE, changes)), root / f"{attack}-{defense}", attack)


@pytest.mark.slow
def test_an_adapted_attack_in_pieces_ends_as_in_one_and_resumes(tmp_path):
    """Bit by bit in pieces; there is a state of all three sides."""
    adapted = {"attack.adapt": "scale", "attack.adapt_trials": 2}
    whole, own, cut = (
        crafted(tmp_path / name, **adapted) for name in ("whole", "own", "cut")
    )
    loop.run(*whole[:3])
    loop.run(*own[:3], programs=Programs())
    assert_same_run(own.workdir, whole.workdir)

    shutil.copytree(own.workdir, cut.workdir)
    (cut.workdir / "summary.json").unlink()
    shutil.rmtree(cut.workdir / "checkpoints" / "2")
    loop.run(*cut[:3], programs=Programs())
    for name, value in parameters(own.workdir).items():
        np.testing.assert_array_equal(parameters(cut.workdir)[name], value, name)


def test_attacks_and_rules_share_what_they_have_in_common(tmp_path):
    programs = Programs()
    for attack in ("ipm", "lie"):
        for defense in ("fedavg", "median"):
            job = crafted(tmp_path, attack, defense)
            loop.run(*job[:3], programs=programs)
    # Start, training, evaluation; two attacks; start, eligible and step of two rules.
    assert programs.compiled == 3 + 2 + 2 * 3
    losses = [rows(path)[-1]["losses"] for path in tmp_path.rglob("rounds.jsonl")]
    assert len({tuple(own) for own in losses}) == 4


@pytest.mark.slow
def test_what_cannot_be_cut_is_carried_out_whole(tmp_path):
    """Groups of clients with models of their own."""
    programs = Programs()
    job = crafted(tmp_path, defense="flcert", **{"defense.num_groups": 2})
    assert loop.run(*job[:3], programs=programs)[0] == 0
    assert programs.compiled == 0


# ------------------------------------------------------------------------ listeners


class Heard(Listener):
    """Writes down what it is told."""

    def __init__(self):
        self.events, self.rounds, self.rows = [], [], []

    def begins(self, facts, done):
        self.events.append(f"begins {done}")
        assert facts["parameters"] > 0

    def rounds_done(self, rows):
        self.rounds += [row["round"] for row in rows]

    def evaluated(self, row):
        self.rows.append(row)

    def state_reached(self, done, states, last):
        if last:
            self.events.append(f"last {done} {states()[0].round}")

    def finished(self, summary):
        self.events.append(f"finished {summary['rounds']}")

    def already_finished(self):
        self.events.append("already finished")

    def close(self):
        self.events.append("closed")


def test_a_listener_of_one_s_own_hears_a_run(tmp_path):
    heard, later = Heard(), Heard()
    code, summary = loop.run(resolve(BASE), tmp_path / "run", listeners=[heard])
    assert code == 0
    assert heard.events == ["begins 0", "last 4 4", "finished 4", "closed"]
    assert heard.rounds == [1, 2, 3, 4]
    assert heard.rows == rows(tmp_path / "run" / "metrics.jsonl")
    assert summary["final"]["mta"] == heard.rows[-1]["mta"]
    loop.run(resolve(BASE), tmp_path / "run", listeners=[later])
    assert later.events == ["already finished", "closed"]


def test_without_a_clock_rounds_are_timed_as_a_whole(tmp_path):
    config = resolve(override(BASE, {"rounds": 1}))
    _, summary = loop.run(config, tmp_path / "run")
    (row,) = rows(tmp_path / "run" / "metrics.jsonl")
    assert row["seconds_train"] is None and row["seconds_defend"] is None
    assert row["seconds_rounds"] > 0
    assert summary["seconds"]["rounds"] == row["seconds_rounds"]
    assert summary["seconds"]["train"] is None


def test_a_clock_times_training_apart_from_the_server(tmp_path):
    config = resolve(override(BASE, {"execution.clock": True, "rounds": 1}))
    _, summary = loop.run(config, tmp_path / "run")
    (row,) = rows(tmp_path / "run" / "metrics.jsonl")
    assert row["seconds_train"] > 0 and row["seconds_defend"] > 0
    assert row["seconds_rounds"] is None
    assert summary["seconds"]["train"] == row["seconds_train"]


def test_where_programs_are_kept_is_no_other_run(tmp_path):
    config = resolve(override(BASE, {"rounds": 1}))
    _, first = loop.run(config, tmp_path / "run")
    elsewhere = {"rounds": 1, "execution.compilation_cache": "off"}
    assert loop.run(resolve(override(BASE, elsewhere)), tmp_path / "run") == (0, first)
