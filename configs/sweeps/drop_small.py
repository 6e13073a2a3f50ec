"""All ten defences of DROP in small: poisoning rate by heterogeneity, three seeds.

    python launch/sweep.py --sweep=configs/sweeps/drop_small.py --results=runs/small \
        --processes=2
    python launch/report.py --results=runs/small --rows=defense.name \
        --columns=partition.name,attack.dpr --values=mta,asr --out=runs/small/report
    python launch/report.py --results=runs/small --layout=drop_table3 \
        --cells=dataset=cifar10 --out=runs/small/report \
        --ignore=data.name,client.lr,client.batch_size,client.epochs

180 runs on the embedded digits. The rates are the paper's 1.25, 2.5 and 5 % of all
samples.
"""

from fedjax_sim.sweeps import Sweep, product, seeds

BASE = {
    "rounds": 60,
    "data": {"name": "digits"},
    "model": {"name": "cnn", "padding": 1},
    "partition": {"name": "drop_iid", "num_clients": 20},
    "client": {"lr": 0.05, "momentum": 0.9, "batch_size": 10, "epochs": 2},
    "participation": {"name": "uniform", "clients_per_round": 10},
    "attack": {
        "name": "backdoor",
        "num_malicious": 4,
        "victim_class": 0,
        "target_class": 7,
    },
    "evaluation": {"every": 10},
}
# The learning-based defences with budgets for a CPU; FLIP and DROP start when the model
# knows the task. On images of 8x8 pixels FLIP finds no trigger in a quarter of them.
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
        "start_round": 20,
        "steps": 20,
        "steps_again": 10,
        "size_min": 1,
        "max_size": 1.0,
        "confidence": None,
    },
    {"name": "droplet"},
    {"name": "drop", "every": 20, "num_seed": 100, "batch_size": 32, "budget": 9_600},
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
