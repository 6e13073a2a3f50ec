"""Who wins: pairs of one column and one seed, and when a difference is noise."""

import numpy as np
import pytest

from fedjax_sim.reports import store
from fedjax_sim.reports.paired import better_sign, paired, standings
from fedjax_sim.reports.render import markdown
from fedjax_sim.reports.tables import grid


def table_of(make_run, values, seeds=8, **more):
    """FedAvg and Krum, on `seeds` seeds; `values(rule, seed) -> (mta, asr)`."""
    for rule in ("fedavg", "krum"):
        for seed in range(seeds):
            mta, asr = values(rule, seed)
            changes = {"defense.name": rule, "seed": seed}
            make_run(f"{rule}{seed}", changes, mta=mta, asr=asr, **more)
    runs = store.select(store.gather(make_run.results), None)
    return grid(runs, rows=["defense.name"], columns=["rounds"], values=["mta", "asr"])


def test_a_steady_difference_is_found_though_seeds_differ_more(make_run):
    table = table_of(
        make_run, lambda rule, seed: (50 + 5 * seed + 2 * (rule == "krum"), 3.0 * seed)
    )
    found = {(s.metric, s.row): s for s in standings(table)}
    krum, fedavg = found["mta", ("krum",)], found["mta", ("fedavg",)]
    assert (krum.better, krum.worse, krum.behind) == (1, 0, None)
    assert (fedavg.better, fedavg.worse) == (0, 1)
    assert fedavg.behind == (2, 2, 2, 8) and fedavg.behind.clear
    assert [s.unclear for s in standings(table) if s.metric == "asr"] == [1, 1]
    text = markdown(table, {})
    assert "Who wins" in text
    assert "+2.0 [+2.0, +2.0], 8 pairs" in text
    assert "8 pairs, noise" in text  # of ASR


def test_less_success_of_the_attack_is_better(make_run):
    table = table_of(make_run, lambda rule, seed: (90, 80 - 30 * (rule == "krum")))
    first = next(s for s in standings(table) if s.metric == "asr")
    assert first.row == ("krum",) and first.better == 1


def test_few_pairs_tell_nothing(make_run):
    table = table_of(make_run, lambda rule, seed: (90 + (rule == "krum"), 0), seeds=5)
    assert standings(table) == []
    assert "Who wins" not in markdown(table, {})


def test_runs_without_a_partner_or_an_end_are_left_out(make_run):
    table = table_of(make_run, lambda rule, seed: (90, 0), finished=False)
    assert standings(table) == []


def test_the_interval_covers_the_mean():
    # Of 200 samples of 12 differences with mean 1, nearly 95 % of intervals hold it.
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        values = dict(enumerate(rng.normal(1, 2, 12)))
        found = paired(values, dict.fromkeys(values, 0.0))
        held += found.low <= 1 <= found.high
    assert 0.86 < held / 200 < 0.98


def test_one_pair_is_no_evidence():
    found = paired({1: 3.0, 2: 1.0}, {1: 1.0})
    assert found.mean == 2 and found.pairs == 1 and not found.clear
    assert paired({1: 3.0}, {2: 1.0}) is None


@pytest.mark.parametrize("noise", [0.0, 30.0])
def test_noise_is_called_noise(make_run, noise):
    draws = np.random.default_rng(1).normal(size=(2, 8)) * noise
    table = table_of(
        make_run,
        lambda rule, seed: (
            60 + (rule == "krum") + draws[int(rule == "krum")][seed],
            0,
        ),
    )
    first = next(s for s in standings(table) if s.metric == "mta")
    assert first.unclear == (noise > 0)


def test_runs_that_differ_in_more_than_their_seed_are_no_pairs(make_run):
    for rule, dpr in (("fedavg", 1.0), ("fedavg", 0.5), ("krum", 1.0), ("krum", 0.5)):
        for seed in range(8):
            changes = {"defense.name": rule, "seed": seed, "attack.dpr": dpr}
            make_run(f"{rule}{seed}{dpr}", changes, mta=90 * dpr, asr=0)
    runs = store.select(store.gather(make_run.results), None)
    keys = {"rows": ["defense.name"], "values": ["mta"]}
    assert standings(grid(runs, columns=["rounds"], **keys)) == []
    apart = standings(grid(runs, columns=["attack.dpr"], **keys))
    assert {s.behind.pairs for s in apart if s.behind} == {16}


def test_a_metric_of_unknown_direction_has_no_winner(make_run):
    table = table_of(make_run, lambda rule, seed: (90 + (rule == "krum"), 0))
    assert better_sign("reconstruction_error_malicious") == 0
    assert better_sign("global_step_norm") == 0
    assert [s.metric for s in standings(table._replace(values=("mta",)))] == ["mta"] * 2
