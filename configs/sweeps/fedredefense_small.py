"""FedREDefense's Tables 1 and 2 in small: every attack against every defence.

    python launch/sweep.py --sweep=configs/sweeps/fedredefense_small.py \
        --results=runs/fedredefense_small --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/fedredefense_small --rows=defense.name \
        --columns=attack.name --values=mta,asr,adacc,afpr,afnr,dacc,aoi \
        --out=runs/fedredefense_small/report
    python launch/report.py --results=runs/fedredefense_small \
        --layout=fedredefense_table2 --cells=dataset=FashionMNIST \
        --out=runs/fedredefense_small/report
    python launch/report.py --results=runs/fedredefense_small \
        --layout=fedredefense_table10 --cells=dataset=FashionMNIST \
        --ignore=defense.mode --out=runs/fedredefense_small/report

102 runs on the first 3000 training and 2000 test images of Fashion-MNIST with a small
CNN; DIR holds the four official IDX files. The paper's roles: 100 clients, all in every
round, beta 0.1, the last 28 malicious, one epoch, the oracle of `norm_bound`. In small:
40 rounds instead of 500, of two steps of 15 images with a learning rate of 0.3 instead
of 19 of 32 with 0.001; FLTrust owns 100 samples instead of 500; FLDetector scores 5
rounds, from the sixth on, instead of 10 from round 51 on. An update of such steps is as
large as some hundred of the paper's, so FedREDefense starts at an inner rate of 1
instead of 0.1, with outer rates of 3 (images) and 12 (labels) instead of 0.5 and 0.2:
benign errors then fall below the paper's threshold of 0.6 within some ten iterations,
and 40 are enough as a cap (instead of 800 and 2000). The two adaptive attacks imitate
the reconstruction, and meet no other defence.
"""

from fedjax_sim.sweeps import Sweep

BASE = {
    "seed": 4,
    "rounds": 40,
    "data": {
        "name": "fashion_mnist",
        "normalization": "mnist",
        "num_train": 3000,
        "num_test": 2000,
    },
    "partition": {"name": "sinkhorn_dirichlet", "num_clients": 100, "alpha": 0.1},
    "model": {"name": "cnn", "widths": (10, 20, 50)},
    "client": {"lr": 0.3, "momentum": 0.0, "batch_size": 15, "epochs": 1},
    "participation": {"name": "uniform", "clients_per_round": 100},
    "attack": {"malicious_clients": "last"},
    "evaluation": {"every": 10},
}
FEDREDEFENSE = {
    "name": "fedredefense",
    "first_limit": 40,
    "later_limit": 40,
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
    {"name": "fltrust", "num_samples": 100},
    {"name": "fldetector", "cold_start": 5, "window": 5},
    {"name": "flcert", "num_groups": 10},
    FEDREDEFENSE,
)
ATTACKS = (
    "none",
    "fang",
    "lie",
    "min_max",
    "min_sum",
    "mpaf",
    "scaling",
    "dba",
    "label_flip",
    "targeted_label_flip",
)
ADAPTIVE = ("adaptive_label_flip", "adaptive_targeted_label_flip")


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
    """102 runs."""
    points = [cell(defense, attack) for defense in DEFENSES for attack in ATTACKS]
    return Sweep(BASE, points + [cell(FEDREDEFENSE, attack) for attack in ADAPTIVE])
