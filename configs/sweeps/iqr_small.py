"""The IQR / Clip-Avg article in small: success of a hidden backdoor over the rounds.

    python launch/sweep.py --sweep=configs/sweeps/iqr_small.py \
        --results=runs/iqr_small --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/iqr_small --rows=defense.name \
        --columns=attack.alpha --values=mta,asr_all --out=runs/iqr_small/report

The report draws the rates over the rounds. 16 runs on the first 10 000 training and
2000 test images of Fashion-MNIST with a small CNN; DIR holds the four official IDX
files. The article's roles: 50 clients, 10 a round, one of them malicious, batches of 64
of which 0, 1, 3 or 6 images (alpha 0, 0.03, 0.052, 0.1) get a block and the label 5;
success counts all triggered images (`asr_all`), so no attack gives about 10 %. Beside
data and network, the learning rate is larger: 0.1 instead of 0.01.
"""

from fedjax_sim.sweeps import Sweep, product

LR, EPOCHS, CLIENTS, IMAGES, BATCH_SIZE = 0.1, 2, 50, 10_000, 64
# Clip-Avg divides by what a client does in a round.
WORK = {"lr": LR, "local_steps": EPOCHS * -(-(IMAGES // CLIENTS) // BATCH_SIZE)}
BASE = {
    "rounds": 60,
    "data": {"name": "fashion_mnist", "num_train": IMAGES, "num_test": 2000},
    "partition": {"name": "random_equal", "num_clients": CLIENTS},
    "model": {"name": "cnn", "widths": (10, 20, 50)},
    "client": {
        "lr": LR,
        "momentum": 0.9,
        "batch_size": BATCH_SIZE,
        "epochs": EPOCHS,
    },
    "participation": {"name": "enforced", "clients_per_round": 10},
    "attack": {"name": "block_backdoor", "num_malicious": 5},
    "evaluation": {"every": 3, "any_source": True},
}
DEFENSES = (
    {"name": "fedavg"},
    {"name": "iqr_filter"},
    {"name": "clip_avg", **WORK},
    {"name": "iqr_clip_avg", **WORK},
)


def get_sweep() -> Sweep:
    """16 runs."""
    return Sweep(
        BASE, product({"defense": DEFENSES, "attack.alpha": (0.0, 0.03, 0.052, 0.1)})
    )
