"""LeadFL's tables in small: client defences, random and bursty attackers, alpha.

    python launch/sweep.py --sweep=configs/sweeps/leadfl_small.py \
        --results=runs/leadfl_small --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/leadfl_small --where="defense_name = \
        'multikrum'" --rows=client_defense.name \
        --columns=data.name,participation.mode --values=mta,mean_asr_all,asr_all \
        --out=runs/leadfl_small/report
    python launch/report.py --results=runs/leadfl_small --where="defense_name = \
        'bulyan_leadfl'" --rows=client_defense.name,client_defense.alpha \
        --columns=participation.mode --values=mta,mean_asr_all,asr_all \
        --out=runs/leadfl_small/alpha
    python launch/report.py --results=runs/leadfl_small --layout=leadfl_table1 \
        --ignore=client.epochs --where="data_name = 'fashion_mnist'" \
        --out=runs/leadfl_small/report

48 runs on the first 20 000 training and 1000 test images of Fashion-MNIST and CIFAR-10
with small CNNs, evaluated in every round; DIR holds the official files of both. First
Tables I and II of the report (Multi-Krum) with the published clients of a round, three
repetitions, and Table I with bursts: six of ten clients malicious in the first two
rounds of ten. Then the report's study of alpha, with bursts, under the Bulyan of
LeadFL's code. The report's preset (`leadfl_authors_small.py` has the other) and roles:
100 clients, 25 malicious, 10 a round, ten steps, 40 rounds (its study of alpha; 80 in
the tables). In small: batches of 16 instead of 32, a learning rate of 0.1 instead of
0.01; the noise of LDP and FL-WBC, which both multiply by the learning rate, is 0.04
instead of 0.4.
"""

from fedjax_sim.sweeps import Sweep, product, zipped

BASE = {
    "rounds": 40,
    "data": {
        "name": "fashion_mnist",
        "normalization": "mnist",
        "num_train": 20_000,
        "num_test": 1000,
    },
    "partition": {"name": "random_equal", "num_clients": 100},
    "model": {"name": "cnn", "widths": (10, 20, 50)},
    "client": {"lr": 0.1, "momentum": 0.1, "batch_size": 16, "epochs": 1, "steps": 10},
    "participation": {"name": "leadfl", "clients_per_round": 10},
    "attack": {
        "name": "leadfl_backdoor",
        "num_malicious": 25,
        "malicious_clients": "leadfl",
    },
    "evaluation": {"every": 1, "any_source": True},
}
MULTIKRUM = {"name": "multikrum", "num_neighbors": 7, "num_selected": 5}  # the code's
NONE = {"name": "none"}
LEADFL = {"name": "leadfl", "alpha": 0.4, "clip": 0.2, "reset": "round"}
NOISE = {"scale": 0.04, "reset": "round"}
CLIENT_DEFENSES = (NONE, {"name": "ldp", **NOISE}, {"name": "fl_wbc", **NOISE}, LEADFL)
REPEATS = zipped({"seed": (100, 200, 300), "participation.offset": (100, 200, 300)})


# Table II; its alpha is 0.25.
CIFAR10 = {
    "rounds": 80,
    "data.name": "cifar10",
    "data.normalization": "half",
    "model.widths": (16, 32, 64),
    "participation.mode": "random",
}


def get_sweep() -> Sweep:
    """48 runs."""
    tables = product(
        {
            "defense": [MULTIKRUM],
            "client_defense": CLIENT_DEFENSES,
            "participation.mode": ("random", "bursty"),
        },
        REPEATS,
    )
    alphas = product(
        {
            "defense": [{"name": "bulyan_leadfl"}],
            "client_defense": [NONE, *(LEADFL | {"alpha": a} for a in (0.2, 0.4, 0.6))],
            "participation.mode": ["bursty"],
        },
        REPEATS,
    )
    defenses = (*CLIENT_DEFENSES[:-1], LEADFL | {"alpha": 0.25})
    cifar10 = product(
        [CIFAR10], {"defense": [MULTIKRUM], "client_defense": defenses}, REPEATS
    )
    return Sweep(BASE, tables + cifar10 + alphas)
