"""FedREDefense's Tables 1 and 2 in small: every attack against every defence.

    python launch/sweep.py --sweep=configs/sweeps/fedredefense_small.py \
        --results=runs/fedredefense_small --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/fedredefense_small --where="rounds = 150" \
        --rows=defense.name --columns=attack.name \
        --values=mta,asr,adacc,afpr,afnr,dacc,aoi --out=runs/fedredefense_small/report
    python launch/report.py --results=runs/fedredefense_small --where="rounds = 150" \
        --layout=fedredefense_table2 --cells=dataset=FashionMNIST \
        --out=runs/fedredefense_small/report
    python launch/report.py --results=runs/fedredefense_small --where="rounds = 150" \
        --layout=fedredefense_table10 --cells=dataset=FashionMNIST \
        --ignore=defense.mode --out=runs/fedredefense_small/report
    python launch/report.py --results=runs/fedredefense_small --where="rounds = 20" \
        --rows=defense.mode --columns=attack.name --values=aoi,mta \
        --out=runs/fedredefense_small/schedules

105 runs on the first 1500 training and 2000 test images of Fashion-MNIST with a small
CNN; DIR holds the four official IDX files. The paper's roles: 100 clients, all in every
round, beta 0.1, the last 28 malicious, one epoch, the oracle of `norm_bound`. In small:
150 rounds instead of 500, of one step on some 15 images with a learning rate of 0.1
instead of 19 on 32 with 0.001; FLTrust owns 20 samples, one step too, instead of 500.

FedREDefense keeps its threshold of 0.6. As an update is one step, one inner step
explains it, instead of five for 19; its rate starts at 1 (over K = 10 classes, the
clients' 0.1). With outer rates of 3 (images) and 12 (labels) instead of 0.5 and 0.2 a
benign client needs some 6 iterations in its first round, at most 17 (with the paper's
rates 200, at most 600). Crafted updates that resemble a mean of honest ones, LIE's and
Min-Sum's, can be explained too, but only after 300: so the first round has at
most 60 instead of 800. Later rounds have at most 400 instead of 2000. The adaptive
attacks imitate this server; after the first round they spend 5 iterations on a trial.
"""

from fedjax_sim.papers.fedredefense.protocol import ATTACKS
from fedjax_sim.papers.fedredefense.small import DEFENSES
from fedjax_sim.sweeps import Sweep, product

ADAPTIVE = tuple(name for name in ATTACKS if name.startswith("adaptive"))
PLAIN = tuple(name for name in ATTACKS if name not in ADAPTIVE)


def get_sweep() -> Sweep:
    """105 runs."""
    points = product({":defense": DEFENSES, ":attack": PLAIN})
    points += [{":attack": attack} for attack in ADAPTIVE]
    points += [{":mode": m} for m in ("continuous", "intermittent", "dynamic")]
    return Sweep("configs/small/fedredefense.py", points)
