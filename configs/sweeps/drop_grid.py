"""DROP's grid of learning configurations on CIFAR-10: section 3.1 and Figure 2.

    python launch/sweep.py --sweep=configs/sweeps/drop_grid.py \
        --results=runs/drop_grid --config.data.data_dir=DIR
    python launch/report.py --results=runs/drop_grid --rows=defense.name \
        --columns=client.epochs,client.lr,client.batch_size \
        --out=runs/drop_grid/report

DPR 1.25 %, MCR 20 %, IID. Undefended, as in Figure 2, and with DROPlet. The values are
those that the text and Table 2 name; the figure's own axes may hold more. DIR holds
`cifar-10-batches-py`. 96 runs of 200 rounds with ResNet-18, from 42 (2 epochs) to 420
TFLOP a round: for accelerators.

Expected from Table 2 (undefended, +-5): learning rate 0.01, batch 64, 2 epochs: MTA
87.0, ASR 93.9; 0.05, 128, 2: 85.1, 96.5; no ASR above 85 % with 20 epochs.
"""

from fedjax_sim.sweeps import Sweep, product


def get_sweep() -> Sweep:
    """96 runs."""
    return Sweep(
        "configs/drop/cifar10.py:dpr=1.25,mcr=20",
        product(
            {
                ":defense": ("fedavg", "droplet"),
                "client.lr": (0.01, 0.025, 0.05, 0.1),
                "client.batch_size": (64, 128, 256),
                "client.epochs": (2, 5, 10, 20),
            }
        ),
    )
