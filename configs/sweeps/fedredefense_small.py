"""FedREDefense's Tables 1 and 2 in small: every attack against every defence.

    python launch/sweep.py --sweep=configs/sweeps/fedredefense_small.py \
        --results=runs/fedredefense_small --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/fedredefense_small --where="rounds = 150" \
        --rows=defense.name --columns=attack.name \
        --values=mta,asr,adacc,afpr,afnr,dacc,aoi --out=runs/fedredefense_small/report
    python launch/report.py --results=runs/fedredefense_small --where="rounds = 150" \
        --layout=fedredefense_table2 --cells=dataset=FashionMNIST \
        --out=runs/fedredefense_small/report
    python launch/report.py --results=runs/fedredefense_small --where="rounds = 150" \
        --layout=fedredefense_table10 --cells=dataset=FashionMNIST \
        --ignore=defense.mode --out=runs/fedredefense_small/report
    python launch/report.py --results=runs/fedredefense_small --where="rounds = 20" \
        --rows=defense.mode --columns=attack.name --values=aoi,mta \
        --out=runs/fedredefense_small/schedules

105 runs on the first 1500 training and 2000 test images of Fashion-MNIST with a small
CNN; DIR holds the four official IDX files. The paper's roles: 100 clients, all in every
round, beta 0.1, the last 28 malicious, one epoch, the oracle of `norm_bound`. In small:
150 rounds instead of 500, of one step on some 15 images with a learning rate of 0.1
instead of 19 on 32 with 0.001; FLTrust owns 20 samples, one step too, instead of 500.

FedREDefense keeps its threshold of 0.6. As an update is one step, one inner step
explains it, instead of five for 19; its rate starts at 1 (over K = 10 classes, the
clients' 0.1). With outer rates of 3 (images) and 12 (labels) instead of 0.5 and 0.2 a
benign client needs some 6 iterations in its first round, at most 17 (with the paper's
rates 200, at most 600). Crafted updates that resemble a mean of honest ones, LIE's and
Min-Sum's, can be explained too, but only after 300: so the first round has at
most 60 instead of 800. Later rounds have at most 400 instead of 2000. The adaptive
attacks imitate this server; after the first round they spend 5 iterations on a trial.
"""

from fedjax_sim.papers.fedredefense.protocol import ATTACKS as ALL_ATTACKS
from fedjax_sim.sweeps import Sweep

BASE = {
    "seed": 4,
    "rounds": 150,
    "data": {
        "name": "fashion_mnist",
        "normalization": "mnist",
        "num_train": 1500,
        "num_test": 2000,
    },
    "partition": {"name": "sinkhorn_dirichlet", "num_clients": 100, "alpha": 0.1},
    "model": {"name": "cnn", "widths": (10, 20, 50)},
    "client": {"lr": 0.1, "momentum": 0.0, "batch_size": 20, "epochs": 1},
    "participation": {"name": "uniform", "clients_per_round": 100},
    "attack": {"malicious_clients": "last"},
    "evaluation": {"every": 10},
}
FEDREDEFENSE = {
    "name": "fedredefense",
    "first_limit": 60,
    "later_limit": 400,
    "inner_steps": 1,
    "initial_rate": 1.0,
    "lr_images": 3.0,
    "lr_labels": 12.0,
}
DEFENSES = (
    {"name": "fedavg"},
    {"name": "krum", "variant": "authors"},
    {"name": "median", "variant": "authors"},
    {"name": "trimmed_mean", "variant": "authors"},
    {"name": "norm_bound", "bound": "oracle"},
    {"name": "flame"},
    {"name": "fltrust", "num_samples": 20},
    {"name": "fldetector"},
    {"name": "flcert", "num_groups": 10},
    FEDREDEFENSE,
)
ADAPTIVE = tuple(name for name in ALL_ATTACKS if name.startswith("adaptive"))
ATTACKS = tuple(name for name in ALL_ATTACKS if name not in ADAPTIVE)
PATIENCE = {"attack.later_limit": 5}  # of the adaptive attacks, on a trial
SCHEDULES = (
    {"mode": "continuous", "later_limit": 8},
    {"mode": "intermittent", "later_limit": 60},
    {"mode": "dynamic"},
)


def cell(defense: dict, attack: str) -> dict:
    """A point; Fang takes its Krum form against Krum."""
    if (defense["name"], attack) == ("krum", "fang"):
        attack = "fang_krum"
    count = 0 if attack == "none" else 28
    return {
        "defense": defense,
        "attack.name": attack,
        "attack.num_malicious": count,
    }


def get_sweep() -> Sweep:
    """105 runs."""
    points = [cell(defense, attack) for defense in DEFENSES for attack in ATTACKS]
    points += [cell(FEDREDEFENSE, attack) | PATIENCE for attack in ADAPTIVE]
    points += [
        cell(FEDREDEFENSE | schedule, "fang") | {"rounds": 20} for schedule in SCHEDULES
    ]
    return Sweep(BASE, points)
