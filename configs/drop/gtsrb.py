"""DROP on GTSRB: ResNet-18, 100 clients, 25 a round, 100 rounds.

    python launch/run.py --config=configs/drop/gtsrb.py:defense=fedavg,learning=C4 \
        --config.data.data_dir=DIR --workdir=runs/drop_gtsrb

Arguments: see `papers.drop.protocol`. DIR holds `GTSRB/Training` (26 640
images) and `GTSRB/Final_Test`. A round is 13 TFLOP: about 1.5 minutes on two CPU cores;
no accelerator has been timed yet. The authors release an undefended configuration only
and publish no numbers. Their balanced split is not IID here: rare classes are used up
by the first clients; `--config.partition.name=random_equal` is. """

from ml_collections import ConfigDict

from fedjax_sim.papers.drop.protocol import DROP_LEARNING, drop


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return drop(
        arguments,
        learning=DROP_LEARNING,
        default_learning="C4",
        num_classes=43,
        num_clients=100,
        clients_per_round=25,
        rounds=100,
        victim_class=13,  # yield
        target_class=4,  # 70 km/h
        data={"name": "gtsrb", "augmentation": "drop_no_flip"},
        model={"num_outputs": 47},  # as the code has it, for 43 classes
    )
