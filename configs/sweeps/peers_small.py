"""Rules and stages that peers have, each against its own paper's attack, in small.

    python launch/sweep.py --sweep=configs/sweeps/peers_small.py \
        --results=runs/peers_small
    python launch/report.py --results=runs/peers_small \
        --rows=attack.name,defense.name,defense.before --columns=data.name \
        --values=mta,asr --out=runs/peers_small/report

The embedded digits and a multi-layer perceptron; 20 clients, all in every round, 4 of
them malicious; 30 rounds, 3 seeds, 90 runs. Beside each rule stands FedAvg (or, behind
a stage, the rule alone) under the same attack. Clients differ (Dirichlet) where the
attack is `mimic`, which was made for that.
"""

from typing import Any

from fedjax_sim.sweeps import Sweep, product, seeds

BASE = {
    "rounds": 30,
    "data": {"name": "digits"},
    "partition": {"name": "drop_iid", "num_clients": 20},
    "model": {"name": "mlp", "width": 32},
    "client": {"lr": 0.1, "batch_size": 16, "epochs": 1},
    "participation": {"name": "uniform", "clients_per_round": 20},
    "evaluation": {"every": 5},
}
ATTACKERS = 4
DIFFERENT = {"partition": {"name": "drop_dirichlet", "num_clients": 20, "alpha": 0.5}}

BACKDOOR = {"dpr": 1.0, "victim_class": 0, "target_class": 7}
# Attack -> options, and what its paper, or one that tests with it, defends by.
ATTACKS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "gaussian": (
        {"std": 10.0},
        [{"name": "geometric_median"}, {"name": "meamed"}, {"name": "mda"}],
    ),
    "lie": (
        {"z": 1.5},
        [{"name": "centered_clipping", "tau": 1.0}, {"name": "signguard"}],
    ),
    "ipm": ({"epsilon": 2.0}, [{"name": "monna"}, {"name": "smea"}]),
    "label_flip": ({}, [{"name": "caf"}]),
    "min_max": ({}, [{"name": "lasa"}]),
    "targeted_label_flip": ({}, [{"name": "auror", "threshold": 1e-3}]),
    "backdoor": (BACKDOOR, [{"name": "deepsight", "num_samples": 500}]),
    "dba": ({"scale": 1.0, "trigger": "4pixel"}, [{"name": "rflbat"}]),
    "constrain_and_scale": (
        BACKDOOR,
        [
            {"name": "weak_dp", "clip_norm": 0.5, "noise_sigma": 1e-3},
            {"name": "fedavg", "before": ("clipping",), "clipping_norm": 0.5},
        ],
    ),
    "sign_flip": (
        {"scale": 5.0},
        [{"name": "median"}, {"name": "median", "before": ("arc",)}],
    ),
    "mimic": (
        {},
        [
            {"name": "median"},
            {"name": "median", "before": ("nnm",)},
            {"name": "median", "before": ("bucketing",)},
        ],
    ),
}


def get_sweep() -> Sweep:
    """Three seeds of each rule and of FedAvg under its attack."""
    points = [
        {
            "attack": {"name": attack, "num_malicious": ATTACKERS, **options},
            "defense": defense,
            **(DIFFERENT if attack == "mimic" else {}),
        }
        for attack, (options, defenses) in ATTACKS.items()
        for defense in ({"name": "fedavg"}, *defenses)
    ]
    return Sweep(BASE, product(points, seeds(3)))
