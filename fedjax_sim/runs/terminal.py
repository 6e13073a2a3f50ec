"""What a person reads of a run, beside the progress of its rounds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjax_sim.core.progress import note
from fedjax_sim.runs.listener import Listener


class Terminal(Listener):
    """Says how a run stands, and what should not go unnoticed.

    Args:
      name: of the run.
      rounds: of the run.
      workdir: of the run.
      attack: its name.
    """

    def __init__(self, name: str, rounds: int, workdir: Path, attack: str):
        self._name, self._rounds, self._workdir = name, rounds, workdir
        self._attack = attack

    def begins(self, facts: Mapping[str, Any], done: int) -> None:
        """Says how often attackers will be in the majority, and who lacks classes."""
        del done
        split = facts["partition"]
        lacking = split["clients_without_a_class"]
        if split["alike"] and lacking:
            print(
                f"{self._name}: partition '{split['name']}' leaves {lacking} of "
                f"{split['clients']} clients without all of the {split['classes']} "
                f"classes, one has {split['fewest_classes']}: it deals them in turns, "
                "and the rare ones run out; 'random_equal' divides at random",
                flush=True,
            )
        idle, attackers = facts["nothing_to_poison"], facts["malicious_clients"]
        if idle:
            note(
                f"{self._name}: {len(idle)} of {len(attackers)} malicious clients hold "
                "no sample that the attack would poison"
            )
        majority = facts["malicious_majority"]
        if majority:
            share = f"{100 * majority:.3g} %"
            note(
                f"{self._name}: {share} of the rounds are expected to have a malicious "
                "majority"
            )

    def interrupted(self, done: int) -> None:
        """Says how far the run is."""
        print(
            f"{self._name}: stopped after round {done} of {self._rounds}; the same "
            "command goes on from there"
        )

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Says what was lost on the way, and whether there was an attack at all."""
        if self._attack != "none" and not summary["rounds_attacked"]:
            note(
                f"{self._name}: config.attack.name = {self._attack!r} changed no "
                f"update in {summary['rounds']} rounds: this run shows no attack"
            )
        lost, sent = summary["updates_non_finite"], summary["updates_sent"]
        if lost:
            note(
                f"{self._name}: {lost} of {sent} updates held NaN or Inf and were left "
                f"out; {summary['rounds_skipped']} rounds had no other"
            )
        if summary["final"]["diverged"]:
            note(f"{self._name}: the global model diverged: its numbers are not finite")

    def already_finished(self) -> None:
        """Says that nothing is left to do."""
        path = self._workdir / "summary.json"
        print(f"{self._name}: finished already, see {path}")
