"""PoisonedFL in small: five rules, three adaptations, and how many fakes it takes.

    python launch/sweep.py --sweep=configs/sweeps/poisonedfl_small.py \
        --results=runs/poisonedfl_small --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/poisonedfl_small --rows=defense.name \
        --columns=attack.adaptation,attack.num_fake --values=test_error_rate \
        --out=runs/poisonedfl_small/report
    python launch/report.py --results=runs/poisonedfl_small --sql="SELECT \
        defense_name, attack_adaptation, attack_num_fake, avg(100 - rounds.mta) AS e \
        FROM runs JOIN rounds USING (run) WHERE rounds.round >= 130 GROUP BY ALL \
        ORDER BY ALL"

45 runs on Fashion-MNIST (all training images, the first 2000 for testing) with a small
CNN; DIR holds the four official IDX files. The paper's roles: clients of which every
group prefers a label (degree 0.5), 2.5 % of all in a round, one step of 32 images,
fakes beyond the genuine population, here 0, 3, 6, 9, 12 and 20 % of it; with 20 % also
each adaptation. In small: 800 clients instead of 1200, 160 rounds instead of 6000, and
so a learning rate of 0.4 instead of 0.01 and a test of the alignment every 20 rounds
instead of 50. `norm_bound` knows the benign norms, as in the paper. The second report
is the mean error of the last four evaluations.
"""

from fedjax_sim.papers.poisonedfl.small import DEFENSES
from fedjax_sim.sweeps import Sweep, product

RULES = tuple(name for name in DEFENSES if name != "fltrust")
ADAPTATIONS = ("noise", "sign_flip", "partition")


def get_sweep() -> Sweep:
    """45 runs."""
    plain = [{":fakes": percent} for percent in (0, 3, 6, 9, 12, 20)]
    adapted = [{":adaptation": name} for name in ADAPTATIONS]
    return Sweep(
        "configs/small/poisonedfl.py", product({":defense": RULES}, plain + adapted)
    )
