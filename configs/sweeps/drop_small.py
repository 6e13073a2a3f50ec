"""All ten defences of DROP in small: poisoning rate by heterogeneity, three seeds.

    python launch/sweep.py --sweep=configs/sweeps/drop_small.py --results=runs/small \
        --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/small --rows=defense.name \
        --columns=partition.name,attack.dpr --values=mta,asr --out=runs/small/report
    python launch/report.py --results=runs/small --layout=drop_table3 \
        --cells=dataset=cifar10 --out=runs/small/report \
        --ignore=data.name,client.lr,client.batch_size,client.epochs

DIR holds the four official IDX files of Fashion-MNIST, of which 4000 images are used.
180 runs: FedAvg takes about 35 CPU seconds, FLIP and DROP about twice that; together
about 75 minutes on two cores. The rates are the paper's 1.25, 2.5 and 5 % of all
samples. Expected (seed 0): FedAvg MTA 84 and ASR 0.5, 68, 99 when IID; MTA 82 and ASR
1, 72, 100 otherwise.
"""

from fedjax_sim.sweeps import Sweep, product, seeds

BASE = {
    "rounds": 30,
    "data": {"name": "fashion_mnist", "num_train": 4000, "num_test": 2000},
    "model": {"name": "cnn"},
    "partition": {"name": "drop_iid", "num_clients": 20},
    "client": {"lr": 0.1, "momentum": 0.9, "batch_size": 10, "epochs": 1},
    "participation": {"name": "uniform", "clients_per_round": 10},
    "attack": {
        "name": "backdoor",
        "num_malicious": 4,
        "victim_class": 0,
        "target_class": 7,
    },
    "evaluation": {"every": 30},
}
# The learning-based defences with budgets for a CPU; FLIP and DROP start when the model
# knows the task.
DEFENSES = (
    {"name": "fedavg"},
    {"name": "median", "variant": "authors"},
    {"name": "multikrum", "variant": "authors"},
    {"name": "fltrust", "variant": "authors", "num_samples": 100},
    {"name": "foolsgold", "variant": "authors"},
    {"name": "flame", "variant": "authors", "noise_sigma": 0.001},
    {"name": "flare", "variant": "authors", "num_samples": 100},
    {
        "name": "flip",
        "start_round": 10,
        "steps": 6,
        "steps_again": 3,
        "size_min": 1,
        "confidence": None,
    },
    {"name": "droplet"},
    {"name": "drop", "every": 15, "num_seed": 200, "batch_size": 32, "budget": 4_800},
)


def get_sweep() -> Sweep:
    """180 runs."""
    return Sweep(
        BASE,
        product(
            {
                "defense": DEFENSES,
                "partition": (
                    {"name": "drop_iid"},
                    {"name": "drop_dirichlet", "alpha": 1.0},
                ),
                "attack.dpr": (0.125, 0.25, 0.5),
            },
            seeds(3),
        ),
    )
