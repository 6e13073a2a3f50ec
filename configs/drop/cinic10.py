"""DROP on CINIC-10: ResNet-18, 150 clients, 30 a round, 200 rounds.

    python launch/run.py --config=configs/drop/cinic10.py:defense=droplet,learning=C4 \
        --config.data.data_dir=DIR --workdir=runs/drop_cinic10

Arguments: see `papers.drop.protocol`. DIR holds
`cinic-10/{train,valid,test}`; train and valid are joined. A round is 61 TFLOP: about 7
minutes on two CPU cores; no accelerator has been timed yet.

Expected from the paper's Table 3 (C4, MCR 20 %, IID; one run each, +-5), MTA / ASR
at DPR 1.25 and 2.5 %: undefended 74.6 / 94.6, 74.5 / 98.7; DROPlet 74.1 / 16.0,
74.3 / 0.5.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.drop.protocol import DROP_LEARNING, drop


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return drop(
        arguments,
        learning=DROP_LEARNING,
        default_learning="C4",
        num_classes=10,
        num_clients=150,
        clients_per_round=30,
        rounds=200,
        victim_class=0,  # airplane
        target_class=7,  # horse
        data={"name": "cinic10", "augmentation": "drop"},
        defenses={"drop": {"every": 10}, "fltrust": {"num_samples": 1200}},
    )
