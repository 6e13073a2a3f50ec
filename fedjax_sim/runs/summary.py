"""From the rows of a run to its summary: a pure function.

The fields are described in `runs.directory`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.metrics.detection import detection_history
from fedjax_sim.metrics.over_rounds import consistency, mitigation
from fedjax_sim.runs.files import plain
from fedjax_sim.runs.listener import Row
from fedjax_sim.runs.rows import PHASES, detected, mean_known

ACCEPTABLE_MTA = 80.0  # DROP's lambda, percent


def summarize(
    name: str,
    config: Config,
    facts: Mapping[str, Any],
    rounds: Sequence[Row],
    metrics: Sequence[Row],
    malicious: np.ndarray,
    expelled: np.ndarray | None,
    distills: Callable[[int], bool] | None,
) -> dict[str, Any]:
    """Returns the summary of a finished run.

    Args:
      name: of the run.
      config: of the run.
      facts: of provenance.json.
      rounds, metrics: all rows.
      malicious: bool [N], the fixed set.
      expelled: bool [N], banned for good; None if the defence never does that.
      distills: whether a round ends with a distillation; None: no round does.
    """
    if config.attack.name == "none":
        malicious = np.zeros_like(malicious)
    final = metrics[-1]
    late_start = config.rounds - max(config.rounds // 10, 1)
    late = [row for row in metrics if row["round"] > late_start]
    distilled = [row for row in late if distills and distills(row["round"])]
    between = [row for row in late if distills and not distills(row["round"])]
    return plain(
        {
            "name": name,
            "status": "finished",
            "rounds": config.rounds,
            "final": {k: v for k, v in final.items() if not k.startswith("seconds_")},
            "late": _rates(late),
            "late_after_distillation": _rates(distilled),
            "late_between_distillations": _rates(between),
            "best_mta": max(row["mta"] for row in metrics),
            "detection": {
                **detected(rounds).row(),
                **detection_history(rounds, malicious, expelled),
            },
            "backdoor": _backdoor(metrics),
            "property2": {
                "lambda": ACCEPTABLE_MTA,
                **consistency(
                    [row["mta"] for row in metrics],
                    [row.get("asr") for row in metrics],
                    ACCEPTABLE_MTA,
                )._asdict(),
            },
            "rounds_skipped": sum(row["skipped"] for row in rounds),
            "updates_sent": sum(len(row["clients"]) for row in rounds),
            "updates_non_finite": sum(
                int(sum(row["scores"]["non_finite"])) for row in rounds
            ),
            "cost": _cost(rounds, facts),
            "partition": facts["partition"]["fingerprint"],
            "rounds_attacked": rounds_attacked(rounds, facts["nothing_to_poison"]),
            "realised_dpr": mean_known(plain(facts["realised_dpr"]) or []),
            "attack_knowledge": facts["attack_knowledge"],
            "oracle_knowledge": facts["oracle_knowledge"],
            "init": facts.get("init"),
            "seconds": {phase: _total(metrics, f"seconds_{phase}") for phase in PHASES},
        }
    )


def rounds_attacked(rounds: Sequence[Row], idle: Sequence[int]) -> int:
    """Returns the number of rounds in which the attack changed what a client sent.

    Args:
      rounds: rows of rounds.jsonl.
      idle: clients whose data the attack leaves as it is.
    """
    return sum(bool(set(row["acted"]) - set(idle)) for row in rounds)


def _cost(rounds: Sequence[Row], facts: Mapping[str, Any]) -> dict[str, int]:
    """Traffic of the run, and what the rule stores and computes beside means."""
    sent = sum(len(row["clients"]) for row in rounds) * facts["model_bytes"]
    steps = sum(sum(row["scores"].get("iterations", [])) for row in rounds)
    return {
        "download_bytes": sent,  # a model for each client of a round, float32
        "upload_bytes": sent,
        "defense_state_bytes": facts["defense_state_bytes"],
        "reconstruction_iterations": int(steps),
    }


def _total(rows: Sequence[Row], key: str) -> float | None:
    known = [row[key] for row in rows if row.get(key) is not None]
    return sum(known) if known else None


def _rates(rows: Sequence[Row]) -> dict[str, dict[str, float] | None]:
    """Mean and standard deviation of MTA and ASR over some evaluations."""
    return {key: _spread(rows, key) for key in ("mta", "asr")}


def _spread(rows: Sequence[Row], key: str) -> dict[str, float] | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return None
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def _backdoor(metrics: Sequence[Row]) -> dict[str, Any] | None:
    """How the attack success moved, if it was measured in every round."""
    # LeadFL's backdoor accuracy is that of all images, those of the target too.
    measure = "asr_all" if "asr_all" in metrics[-1] else "asr"
    success = [row[measure] for row in metrics if row.get(measure) is not None]
    if metrics[-1]["round"] != len(success):
        return None
    return {
        "measure": measure,
        "mean_asr": float(np.mean(success)),
        **mitigation(np.array(success))._asdict(),
    }
