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

from fedjax_sim.papers.leadfl.protocol import CLIENT_DEFENSES
from fedjax_sim.sweeps import Sweep, product

REPEATS = {":offset": (100, 200, 300)}


def get_sweep() -> Sweep:
    """48 runs."""
    clients = {":client": CLIENT_DEFENSES}
    tables = product(clients, {":mode": ("random", "bursty")}, REPEATS)
    cifar10 = product({":data": ["cifar10"]}, clients, REPEATS)
    alphas = [{":client": "none"}] + [{":alpha": a} for a in (0.2, 0.4, 0.6)]
    bulyan = {":defense": ["bulyan"], ":mode": ["bursty"]}
    return Sweep(
        "configs/small/leadfl.py",
        tables + cifar10 + product(bulyan, alphas, REPEATS),
    )
