"""Frontiers of searches, and the largest poisoning that goes undetected."""

import json

import pytest
from helpers import BASE

from fedjax_sim.commands import worst_case as cli
from fedjax_sim.core.errors import InputError
from fedjax_sim.runs.files import write_json
from fedjax_sim.sweeps import Sweep, product, seeds
from fedjax_sim.sweeps.executors import record_failure
from fedjax_sim.sweeps.frontier import frontier
from fedjax_sim.sweeps.undetected import bisect, check_ends, shares
from fedjax_sim.sweeps.worst_case import Candidate, Outcome, problems

PER = ("defense", "client_defense")


def outcome(lr, *by_seed):
    candidate = Candidate({"client.lr": lr}, [])
    return Outcome(candidate, None, None, None, None, 0, by_seed=by_seed)


def test_only_what_nothing_beats_in_both_is_on_the_frontier():
    found = frontier(
        [
            outcome(0.1, (90.0, 10.0), (92.0, 20.0)),
            outcome(0.2, (80.0, 60.0), (80.0, 80.0)),
            outcome(0.3, (70.0, 40.0), (70.0, 60.0)),  # beaten by the second
            outcome(0.4, (60.0, 99.0), (60.0, 95.0)),
            outcome(0.5),  # a run failed
        ]
    )
    assert [point.settings["client.lr"] for point in found] == [0.1, 0.2, 0.4]
    assert [point.cost for point in found] == [0.0, 11.0, 31.0]
    # Of the costs (10, 12) and of the harms (60, 80).
    assert found[1].cost_std == pytest.approx(2**0.5)
    assert (found[1].harm, found[1].harm_std) == (70.0, pytest.approx(200**0.5))
    assert frontier([outcome(0.5)]) == []
    (alone,) = frontier([outcome(0.1, (90.0, 10.0))])
    assert alone.cost_std is None and alone.harm_std is None


def given():
    points = product(
        {"defense.name": ["fedavg", "median", "droplet"], "client.lr": [0.1, 0.2]},
        seeds(2),
    )
    return problems(Sweep(BASE, points), {}, (), PER)


LIMITS = {"fedavg": 9.0, "median": 0.0, "droplet": 0.3}


class World:
    """FedAvg notices nothing, DROPlet from 0.3 on, the median everything."""

    def __init__(self, root, diverges=9.0):
        self.root, self.tried, self.diverges = root, [], diverges

    def carry_out(self, runs):
        for run in runs:
            rate = run.config.attack.options["dpr"]
            caught = 4 if rate > LIMITS[run.config.defense.name] else 1
            self.tried.append((run.config.defense.name, rate))
            final = {"mta": 90.0 + run.config.seed, "asr": 100 * rate}
            lost = [i < 3 and rate > self.diverges for i in range(5)]
            row = {"round": 1, "clients": [0, 1, 2, 3, 4], "malicious": [0, 1, 2, 3, 4]}
            row |= {"excluded": [*range(caught)], "scores": {"non_finite": lost}}
            folder = self.root / run.folder
            folder.mkdir(exist_ok=True)
            write_json(folder / "summary.json", {"final": final})
            (folder / "rounds.jsonl").write_text(json.dumps(row) + "\n")
        return True


def test_the_largest_undetected_rate_is_closed_in_on(tmp_path):
    world = World(tmp_path)
    ends = (0.05, 1.0)
    fedavg, median, droplet = bisect(
        given(), "attack.dpr", ends, 8, 50.0, tmp_path, world.carry_out
    )

    assert (fedavg.largest, fedavg.found_out, fedavg.flagged) == (1.0, None, 20.0)
    assert (fedavg.mta, fedavg.asr) == (90.5, 100.0)
    assert (median.largest, median.found_out, median.runs) == (None, 0.05, [])
    # Six halvings of 0.95.
    assert droplet.largest <= 0.3 < droplet.found_out
    assert droplet.found_out - droplet.largest == pytest.approx(0.95 / 2**6)
    assert len(droplet.runs) == 2
    assert all((tmp_path / folder).is_dir() for folder in droplet.runs)
    # Both ends, and the middle for DROPlet alone; each with two seeds.
    rates = {name: [r for n, r in world.tried if n == name] for name in LIMITS}
    assert {name: len(found) for name, found in rates.items()} == {
        "fedavg": 4,
        "median": 4,
        "droplet": 16,
    }


def test_who_diverges_is_not_found_out(tmp_path):
    world = World(tmp_path, diverges=0.6)
    fedavg, median, droplet = bisect(
        given(), "attack.dpr", (0.05, 1.0), 8, 50.0, tmp_path, world.carry_out
    )
    assert fedavg.largest <= 0.6 < fedavg.diverged and fedavg.found_out is None
    assert (median.largest, median.found_out) == (None, 0.05)
    # At 1 its attackers diverge; from 0.3 on they are found out before that.
    assert droplet.largest <= 0.3 < droplet.found_out and droplet.diverged is None
    shown = cli.undetected_table([fedavg, median, droplet], "attack.dpr")
    assert "diverges from" in shown


def test_what_is_not_finite_counts_for_nobody():
    row = {"clients": [4, 7, 9, 2], "malicious": [7, 9, 2], "excluded": [4, 7, 9]}
    row |= {"scores": {"non_finite": [True, True, False, False]}}
    assert shares([row]) == (50.0, pytest.approx(100 / 3))
    row["scores"] = {"non_finite": [True] * 4}
    assert shares([row]) == (0.0, 100.0) and shares([]) == (0.0, 0.0)


def test_stopped_or_failed_runs_are_no_answer(tmp_path):
    arguments = "attack.dpr", (0.05, 1.0), 4, 50.0, tmp_path
    assert bisect(given(), *arguments, lambda runs: False) is None
    assert bisect(given(), *arguments, lambda runs: True) is None

    def fail(runs):
        record_failure(tmp_path / runs[0].folder, "no luck")
        return True

    with pytest.raises(InputError, match="failed: no luck"):
        bisect(given(), *arguments, fail)


@pytest.mark.parametrize(
    ("key", "ends", "part"),
    [
        ("attack.dpt", (0.0, 1.0), r"config\.attack\.dpt is not a key"),
        ("attack.dpr", (-1.0, 1.0), r"dpr = -1\.0"),
        ("attack.dpr", (0.0, 2.0), r"dpr = 2\.0"),
        ("attack.num_malicious", (1.0, 2.0), "whole|integer"),
    ],
)
def test_what_could_not_be_tried_is_refused_before_anything_runs(key, ends, part):
    check_ends(given(), "attack.dpr", (0.0, 1.0))
    with pytest.raises(InputError, match=rf"--undetected={key}=.*halved, and .*{part}"):
        check_ends(given(), key, ends)


@pytest.mark.parametrize(
    "text", ["attack.dpr", "attack.dpr=1", "=0,1", "a.b=2,1", "a.b=0,inf"]
)
def test_what_is_no_interval_is_refused(text):
    with pytest.raises(InputError, match=r"--undetected=.*KEY=LOW,HIGH"):
        cli.parse_between(text)


def test_the_command_says_what_it_would_try(tmp_path, capfd):
    sweep = tmp_path / "space.py"
    sweep.write_text(
        "from fedjax_sim.sweeps import Sweep, product\n"
        f"BASE = {BASE!r}\n"
        "def get_sweep():\n"
        "    return Sweep(BASE, product({'client.lr': [0.2, 0.1]}))\n"
    )
    flags = [f"--sweep={sweep}", f"--results={tmp_path / 'results'}", "--dry_run"]
    flags += ["--undetected=attack.dpr=0.1,1"]
    assert cli.main(["worst_case.py", *flags, "--budget=6"]) == 0
    out = capfd.readouterr().out
    assert "attack.dpr between 0.1 and 1: 6 values of it, with 1 runs" in out
    assert cli.main(["worst_case.py", *flags, "--budget=1"]) == 2
    assert "--budget=1 must be at least 2" in capfd.readouterr().err
    # It needs nothing to search for, unlike a search.
    sweep.write_text(sweep.read_text().replace("[0.2, 0.1]", "[0.2]"))
    assert cli.main(["worst_case.py", *flags, "--budget=6"]) == 0
    assert cli.main(["worst_case.py", *flags[:-1], "--budget=6"]) == 2
    assert "leave nothing to search for" in capfd.readouterr().err
