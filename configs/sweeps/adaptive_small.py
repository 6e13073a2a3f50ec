"""Attackers who know the rule, against each rule, in small.

    python launch/sweep.py --sweep=configs/sweeps/adaptive_small.py \
        --results=runs/adaptive_small
    python launch/report.py --results=runs/adaptive_small \
        --rows=attack.name,defense.name --columns=attack.adapt --values=mta,asr \
        --out=runs/adaptive_small/report

The embedded digits and a multi-layer perceptron; 20 clients, all in every round, 4 of
them malicious; 30 rounds, 3 seeds. Inner product manipulation, whose success is the
accuracy that it costs, and a backdoor from all classes, whose success is ASR; each as
it is, as strong as it keeps half of an equal weight (scale), and as moves the server's
answer farthest (search).
"""

from fedjax_sim.sweeps import Sweep, product, seeds

BASE = {
    "rounds": 30,
    "data": {"name": "digits"},
    "partition": {"name": "random_equal", "num_clients": 20},
    "model": {"name": "mlp", "width": 32},
    "client": {"lr": 0.1, "batch_size": 16, "epochs": 1},
    "participation": {"name": "uniform", "clients_per_round": 20},
    "attack": {"num_malicious": 4},
    "evaluation": {"every": 5},
}
ATTACKS = (
    {"name": "ipm", "epsilon": 0.5},
    {"name": "backdoor", "dpr": 0.5, "victim_class": None, "target_class": 7},
)
DEFENSES = (
    {"name": "fedavg"},
    {"name": "median"},
    {"name": "trimmed_mean"},
    {"name": "krum"},
    {"name": "multikrum"},
    {"name": "bulyan", "num_byzantine": 4},
    {"name": "dnc"},
    {"name": "norm_bound"},
    {"name": "clip_avg", "clip_norm": 1.0, "clip_decay": 0.0},
    {"name": "flame"},
    {"name": "foolsgold"},
    {"name": "fltrust", "num_samples": 100},
    {"name": "iqr_filter"},
    {"name": "geometric_median"},
    {"name": "centered_clipping", "tau": 1.0},
    {"name": "signguard"},
    {"name": "droplet"},
)


def get_sweep() -> Sweep:
    """306 runs, of which three share a program."""
    return Sweep(
        BASE,
        product(
            {
                "attack": ATTACKS,
                "defense": DEFENSES,
                "attack.adapt": ("none", "scale", "search"),
            },
            seeds(3),
        ),
    )
