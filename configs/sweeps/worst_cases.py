"""Where do five defences fall? The worst learning configuration of each, on digits.

    python launch/worst_case.py --sweep=configs/sweeps/worst_cases.py \
        --results=runs/worst_cases --budget=8 --processes=2

17 configurations beside the default for each defence: 4 rounds of all, 10 rounds of
six, 30 rounds of two.
"""

from fedjax_sim.sweeps import Sweep, product, zipped

BASE = {
    "rounds": 30,
    "data": {"name": "digits"},
    "partition": {"name": "drop_iid", "num_clients": 20},
    "model": {"name": "mlp"},
    "client": {"lr": 0.05, "momentum": 0.9, "batch_size": 16, "epochs": 2},
    "participation": {"name": "uniform", "clients_per_round": 10},
    "attack": {
        "name": "backdoor",
        "num_malicious": 4,
        "dpr": 0.5,
        "victim_class": 0,
        "target_class": 7,
    },
    "evaluation": {"every": 2},
}
DEFENSES = (
    {"name": "fedavg"},
    {"name": "median"},
    {"name": "multikrum"},
    {"name": "flame", "noise_sigma": 0.001},
    {"name": "droplet"},
)


def get_sweep() -> Sweep:
    """The space of the search: learning rate, batch size and epochs, poisoning rate."""
    return Sweep(
        BASE,
        product(
            {
                "defense": DEFENSES,
                "client.lr": (0.05, 0.2, 0.5),
                "attack.dpr": (0.5, 1.0),
            },
            zipped({"client.batch_size": (8, 16, 32), "client.epochs": (1, 2, 5)}),
        ),
    )
