"""What a run refuses before anything is compiled."""

import re

import numpy as np
import pytest
from helpers import build

from fedjax_sim.core.errors import InputError

TWO_CLASSES_EACH = {"partition.name": "shards", "partition.shards_per_client": 2}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            TWO_CLASSES_EACH
            | {"partition.seed": 3, "attack.malicious_clients": "last"}
            | {"attack.num_malicious": 1},
            "none holds one of config.attack.victim_class",
        ),
        (
            {"attack": {"name": "block_backdoor", "num_malicious": 2}},
            "in batches of config.client.batch_size = 16; allowed: larger batches",
        ),
        (
            TWO_CLASSES_EACH
            | {
                "attack": {
                    "name": "targeted_label_flip",
                    "num_malicious": 1,
                    "malicious_clients": "last",
                },
                "partition.seed": 3,
            },
            "would poison no sample of its 1 malicious clients: none holds one",
        ),
    ],
)
def test_an_attack_that_can_poison_nothing(changes, expected):
    with pytest.raises(InputError, match=re.escape(expected)):
        build(changes)


def test_attackers_who_hold_no_sample_to_poison_are_known():
    built = build(TWO_CLASSES_EACH | {"attack.num_malicious": 5})
    share = np.array(built.facts["realised_dpr"])
    idle = np.array(built.facts["malicious_clients"])[share == 0]
    assert 0 < len(idle) < 5
    assert built.facts["nothing_to_poison"] == idle.tolist()


def test_poisoning_nothing_on_purpose_is_allowed():
    built = build({"attack.dpr": 0.0})
    assert not np.any(built.facts["realised_dpr"])
