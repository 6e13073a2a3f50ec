"""The layouts of accelerators follow the evidence."""

import pytest
from helpers import BASE

from fedjax_sim.experiment import accelerators
from fedjax_sim.experiment.accelerators import PRIOR, choose
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.experiment.layout import lowering_of
from fedjax_sim.models import MODELS
from fedjax_sim.round.execution import Strategy, even_stacks


def row(network, lowering, clients, cycles):
    names = ("backend", "network", "lowering", "clients", "cycles")
    return dict(zip(names, ("tpu", network, lowering, clients, cycles), strict=True))


ROWS = [
    row("a", "native", "map", 10),
    row("a", "patches", "chunk:4", 8),
    row("a", "native", "vmap", 30),
    row("b", "native", "map", 100),
    row("b", "patches", "chunk:4", 300),
]


@pytest.mark.parametrize(
    ("backend", "network", "expected"),
    [
        ("tpu", "a", ("patches", Strategy(4))),
        ("tpu", "b", ("native", Strategy(1))),
        # 10/8 + 1 against 1 + 3; vmap was tried for one of them only.
        ("tpu", "unknown", ("native", Strategy(1))),
        ("gpu", "a", PRIOR),
    ],
)
def test_the_cheapest_layout_is_chosen(backend, network, expected, monkeypatch):
    monkeypatch.setattr(accelerators, "evidence", lambda: ROWS)
    assert choose(backend, network) == expected


def test_the_table_names_networks_targets_and_versions():
    rows = accelerators.evidence()
    assert {r["network"] for r in rows} <= set(MODELS) and rows
    for r in rows:
        assert r["target"].startswith(r["backend"]) and r["cycles"] > 0
        assert r["versions"]["jax"] and r["cohort"] and r["batch"]
        assert choose(r["backend"], r["network"]).lowering == "native"


def test_what_was_asked_for_is_not_overruled():
    config = resolve(override(BASE, {"execution.lowering": "blocked"}))
    assert lowering_of(config, "tpu") == "blocked"
    assert lowering_of(resolve(BASE), "tpu") == "native"


@pytest.mark.parametrize(
    ("stack", "cohort", "devices", "expected"),
    [
        (8, 10, 1, (5, 2)),
        (8, 25, 1, (7, 4)),
        (None, 10, 1, (10, 1)),
        (1, 10, 1, (1, 10)),
        (64, 10, 1, (10, 1)),
        (4, 10, 2, (3, 2)),
        (1, 10, 4, (1, 3)),
    ],
)
def test_stacks_are_even(stack, cohort, devices, expected):
    assert even_stacks(Strategy(stack), cohort, devices) == expected
