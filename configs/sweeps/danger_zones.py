"""Danger zones in small: where does a stealthy backdoor succeed, where does it not?

    python launch/sweep.py --sweep=configs/sweeps/danger_zones.py \
        --results=runs/danger_zones --processes=2
    python launch/report.py --results=runs/danger_zones --rows=defense.name \
        --columns=client.epochs,client.lr,client.batch_size \
        --out=runs/danger_zones/report

The grid of DROP's section 3.1 (learning rate, batch size, local epochs) on handwritten
digits with a small network; the report draws the map of Figure 2 for each defence.
72 runs in 18 programs. Expected (seed 0): FedAvg's ASR is 0 at learning rate 0.01 with
one epoch and from 78 to 100 in most of the grid; DROPlet's is 0 but for four
configurations of high learning rate (0.5 with two epochs: 97 and 100), in which the
malicious updates are no longer a cluster. At 0.5 with batches of 8 no model is of use.
"""

from fedjax_sim.sweeps import Sweep, product


def get_sweep() -> Sweep:
    """72 runs."""
    return Sweep(
        "configs/small/drop_grid.py",
        product(
            {
                ":defense": ("fedavg", "droplet"),
                ":lr": (0.01, 0.05, 0.2, 0.5),
                ":batch_size": (8, 16, 32),
                ":epochs": (1, 2, 5),
            }
        ),
    )
