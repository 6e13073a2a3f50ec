"""What is said of a run beside its progress."""

import pytest

from fedjax_sim.runs.summary import rounds_attacked
from fedjax_sim.runs.terminal import Terminal

SUMMARY = {
    "rounds": 4,
    "rounds_attacked": 3,
    "rounds_skipped": 0,
    "updates_non_finite": 0,
    "updates_sent": 16,
    "final": {"diverged": False},
}


@pytest.mark.parametrize(
    ("attack", "attacked", "said"),
    [("gaussian", 0, True), ("gaussian", 3, False), ("none", 0, False)],
)
def test_an_attack_that_changed_nothing_is_said(
    attack, attacked, said, tmp_path, capsys
):
    terminal = Terminal("mine", 4, tmp_path, attack)
    terminal.finished({**SUMMARY, "rounds_attacked": attacked})
    expected = "config.attack.name = 'gaussian' changed no update in 4 rounds"
    assert (expected in capsys.readouterr().err) == said


@pytest.mark.parametrize(("idle", "said"), [([], False), ([2, 5], True)])
def test_attackers_with_nothing_to_poison_are_said(idle, said, capsys, tmp_path):
    facts = {
        "nothing_to_poison": idle,
        "malicious_clients": [1, 2, 5],
        "malicious_majority": None,
        "partition": {"alike": False, "clients_without_a_class": 0},
    }
    Terminal("mine", 4, tmp_path, "backdoor").begins(facts, 0)
    assert (
        "2 of 3 malicious clients hold no sample" in capsys.readouterr().err
    ) == said


def test_a_round_counts_where_somebody_acts_who_has_something_to_poison():
    rows = [{"acted": [1, 2]}, {"acted": [2]}, {"acted": []}, {"acted": [3]}]
    assert rounds_attacked(rows, idle=[]) == 3
    assert rounds_attacked(rows, idle=[2]) == 2
