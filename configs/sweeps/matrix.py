"""Every attack, as it is and adapted, against every rule: the matrix no paper has.

    python launch/sweep.py --layout=matrix --small --results=runs/matrix --processes=2
    python launch/report.py --layout=matrix --small --results=runs/matrix \
        --out=runs/matrix/report

(`--sweep=configs/sweeps/matrix.py` is the small one, too.)

The embedded digits; 20 clients, all in every round, 4 of them malicious; 30 rounds, 3
seeds: the setting of `adaptive_small`. Each attack with its defaults (backdoors poison
half of what an attacker holds, of all classes, for class 7), and as strong as it keeps
half of an equal weight (`config.attack.adapt=scale`). The server rules have their
defaults, too; where a rule has none for this model (a bound), it is said here.

The small version is a multi-layer perceptron without client-side defences and without
DeepSight and FLARE, whose servers compute for seconds in every round, and RFLBAT and
SMEA, for which an adapted attacker does. What is not
here takes minutes a run (DROP, FedREDefense, FLIP, adaptive label flips) or other
images (edge cases, mislabelled images, LeadFL's trigger of 26 columns).
"""

from fedjax_sim.sweeps import Sweep, seeds
from fedjax_sim.sweeps.matrix import Matrix, matrix_cells, matrix_sweep

BASE = {
    "rounds": 30,
    "data": {"name": "digits"},
    "partition": {"num_clients": 20},
    "client": {"lr": 0.1, "batch_size": 16, "epochs": 1},
    "participation": {"name": "uniform", "clients_per_round": 20},
    "attack": {"num_malicious": 4},
    "evaluation": {"every": 15},
    "execution": {"clock": True},
}
MODELS = {
    "mlp": {"model": {"name": "mlp", "width": 32}},
    "cnn": {"model": {"name": "cnn", "padding": 1}},
}
SPLITS = {
    "IID": {"partition": {"name": "random_equal"}},
    "non-IID": {
        "partition": {"name": "drop_dirichlet", "alpha": 0.5, "min_samples": 10}
    },
}
CLIENTS = {
    "none": {},
    "fedprox": {"mu": 0.1},
    "fl_wbc": {},
    "ldp": {},
    "ldp_update": {},
    "leadfl": {},
}
_ALL_CLASSES = {"dpr": 0.5, "victim_class": None, "target_class": 7}
ATTACKS = {
    "none": {},
    # Untargeted: crafted updates, and labels.
    "altermin": {},
    "fang": {},
    "fang_krum": {},
    "framing": {},
    "gaussian": {},
    "ipm": {"epsilon": 0.5},
    "label_flip": {},
    "lie": {},
    "mimic": {},
    "min_max": {},
    "min_sum": {},
    "mpaf": {},
    "optimal_alie": {},
    "optimal_ipm": {},
    "poisonedfl": {},
    "sign_flip": {},
    # Targeted.
    "backdoor": _ALL_CLASSES,
    "block_backdoor": {"alpha": 0.5},
    "chameleon": _ALL_CLASSES,
    "clean_label": {},
    "constrain_and_scale": _ALL_CLASSES,
    "dba": {"trigger": "4pixel"},
    "layer_poisoning": {},
    "neurotoxin": _ALL_CLASSES,
    "pgd_projection": _ALL_CLASSES,
    "scaling": {"trigger": "4pixel"},
    "targeted_label_flip": {},
    "wanet": {"dpr": 0.5},
    "a3fl": {"dpr": 0.5, "trigger_epochs": 20},
}
DEFENSES = {
    "fedavg": {},
    "auror": {},
    "bulyan": {},
    "caf": {},
    "centered_clipping": {"tau": 1.0},
    "clip_avg": {"clip_norm": 1.0, "clip_decay": 0.0},
    "crfl": {},
    "deepsight": {},
    "dnc": {},
    "droplet": {},
    "finetune": {},
    "flame": {},
    "flare": {},
    "flcert": {},
    "fldetector": {},
    "fltrust": {"num_samples": 100},
    "foolsgold": {},
    "geometric_median": {},
    "iqr_clip_avg": {},
    "iqr_filter": {},
    "krum": {},
    "lasa": {},
    "mda": {},
    "meamed": {},
    "median": {},
    "monna": {},
    "multikrum": {},
    "norm_bound": {},
    "prodigy": {},
    "random_aggregation": {},
    "rflbat": {},
    "rlr": {},
    "signguard": {},
    "smea": {},
    "sparsefed": {},
    "trimmed_mean": {},
    "weak_dp": {},
}


def _named(section, options):
    return {name: {section: {"name": name, **own}} for name, own in options.items()}


def _quick() -> list[str]:
    """Without what takes the server, or who imitates it, seconds of every round."""
    slow = ("deepsight", "flare", "rflbat", "smea")
    return [name for name in DEFENSES if name not in slow]


def get_matrix() -> Matrix:
    """The whole, and its small version."""
    return Matrix(
        title="Every attack, as it is and adapted, against every rule (digits)",
        base=BASE,
        axes={
            "model": MODELS,
            "client": _named("client_defense", CLIENTS),
            "split": SPLITS,
            "attack": _named("attack", ATTACKS),
            "adapt": {name: {"attack": {"adapt": name}} for name in ("none", "scale")},
            "defense": _named("defense", DEFENSES),
        },
        repeats=seeds(3),
        small={"model": ["mlp"], "client": ["none"], "defense": _quick()},
        exists=lambda cell: cell["attack"] != "none" or cell["adapt"] == "none",
    )


def get_sweep() -> Sweep:
    """The small version as a sweep."""
    matrix = get_matrix()
    return matrix_sweep(matrix, matrix_cells(matrix, small=True))
