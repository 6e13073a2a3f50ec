"""Every registered rule lowers, and compiles, for accelerators that are not here."""

from functools import cache
from typing import Any

import jax
import pytest
from attacks.test_contract import edge_file
from helpers import BASE

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.data.synthetic import load_synthetic
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.experiment import build as experiment
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.experiment.target import Target, described
from fedjax_sim.round.clock import timed
from fedjax_sim.runs.compiling import report

# Unrolled steps are traced one by one.
IMITATED = {"defense.name": "fedredefense", "defense.inner_steps": 2}
# What a rule needs beside a federation in which nine of ten clients take part.
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("defense", "bulyan"): {"defense.num_byzantine": 1},
    ("defense", "drop"): {
        "defense.every": 1,
        "defense.num_seed": 60,
        "defense.batch_size": 8,
    },
    ("defense", "fedredefense"): {"defense.inner_steps": 2},
    ("defense", "finetune"): {"defense.num_samples": 60},
    ("defense", "flare"): {"defense.num_samples": 20},
    ("defense", "flcert"): {"defense.num_groups": 3},
    ("defense", "fldetector"): {"participation.clients_per_round": 10},
    ("defense", "fltrust"): {"defense.num_samples": 60},
    ("attack", "adaptive_label_flip"): IMITATED,
    ("attack", "adaptive_targeted_label_flip"): IMITATED,
    ("attack", "block_backdoor"): {"client.batch_size": 40},
    ("attack", "edge_case"): {"attack.path": edge_file(channels=3)},
    ("attack", "fang_krum"): {"defense.name": "krum"},
    ("attack", "poisonedfl"): {"attack.num_malicious": 0, "attack.num_fake": 2},
    ("attack", "mpaf"): {"attack.num_malicious": 0, "attack.num_fake": 2},
    ("attack", "none"): {"attack.num_malicious": 0},
}
NAMES = [
    (section, name)
    for section, table in (
        ("defense", DEFENSES),
        ("attack", ATTACKS),
        ("client_defense", CLIENT_DEFENSES),
    )
    for name in sorted(table)
]
every_name = pytest.mark.parametrize(("section", "name"), NAMES)


def config(section: str, name: str):
    """A federation with one rule, small enough to be traced in no time."""
    base = override(
        BASE,
        {
            "data.name": "synthetic",
            "data.height": 28,
            "data.width": 28,
            "data.num_train": 400,
            "data.num_test": 40,
            "partition.num_clients": 10,
            "participation.clients_per_round": 9,
        },
    )
    changes = {f"{section}.name": name, **SETTINGS.get((section, name), {})}
    if section == "attack" and "dpr" not in ATTACKS.find(name).options:
        base["attack"] = {"name": name, "num_malicious": 2}
    return resolve(override(base, changes))


@cache
def data():
    return load_synthetic(num_train=400, num_test=40, height=28, width=28)


def test_settings_belong_to_rules():
    assert set(SETTINGS) <= set(NAMES)


@pytest.fixture(scope="module")
def elsewhere() -> Target:
    """An accelerator of no particular kind; what is built for it is lowered only."""
    return described("cpu")._replace(name="an accelerator", backend="tpu")


@every_name
def test_every_rule_lowers_for_tpu_and_cuda(section, name, elsewhere):
    built = experiment.build(config(section, name), data(), target=elsewhere)
    state = jax.eval_shape(built.init, built.inputs)
    program = jax.jit(timed(None)(built.parts)).trace(state, built.inputs)
    # A callback or an operation that one of them lacks raises.
    lowered = program.lower(lowering_platforms=("tpu", "cuda"))
    assert "callback" not in lowered.as_text()


@pytest.mark.slow
@every_name
def test_every_rule_compiles_for_a_tpu(section, name):
    pytest.importorskip("libtpu")
    found = report(config(section, name), described("tpu:v5e:1x1"))
    assert found["cycles"] > 0
    seconds = sum(row["seconds"] for row in found["programs"])
    print(f"{section} {name}: {seconds:.1f} s, {found['cycles'] / 1e6:.2f} M cycles")
