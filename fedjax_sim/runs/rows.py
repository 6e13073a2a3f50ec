"""From what a round reports to the rows of rounds.jsonl and metrics.jsonl.

Pure functions; the fields are described in `runs.directory`.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.metrics import evaluation
from fedjax_sim.metrics.detection import Detection, detection
from fedjax_sim.metrics.evaluation import Counts
from fedjax_sim.round.state import FedState, RoundReport
from fedjax_sim.round.twin import Coupled
from fedjax_sim.runs.files import plain
from fedjax_sim.runs.listener import Row

PHASES = ("train", "defend", "rounds", "evaluate", "compile")


def round_row(reports: RoundReport, i: int) -> Row:
    """The row of the i-th of some rounds."""
    report = jax.tree.map(lambda x: x[i], reports)
    present = report.present
    ids = report.client_ids[present]
    attacking = report.malicious & report.active
    return plain(
        {
            "round": report.round,
            "clients": ids,
            "malicious": report.client_ids[present & attacking],
            "acted": report.client_ids[present & report.acted],
            "excluded": report.client_ids[present & (report.weights == 0)],
            "absent": (~present).sum(),
            "weights": report.weights[present],
            "losses": report.losses[present],
            "update_norms": report.update_norms[present],
            "scores": {name: x[present] for name, x in report.scores.items()},
            "attack": report.attack,
            "global_step_norm": report.global_norm,
            "skipped": report.skipped,
        }
    )


def metrics_row(
    config: Config,
    recent: Sequence[Row],
    counts: dict[str, Counts],
    states: tuple[FedState] | Coupled,
    seconds: Mapping[str, float],
) -> Row:
    """The row of an evaluated round.

    Args:
      config: of the run.
      recent: rows of the rounds since the last evaluation; the last is the evaluated.
      counts: of the evaluation.
      states: of the run, and with attack_effect of the run without attack.
      seconds: wall time since the last evaluation by phase, those that were timed.
    """
    last = recent[-1]
    params = states[0].params
    row: Row = {"round": last["round"]}
    row |= evaluation.evaluation_row(counts, config.evaluation.low_confidence_threshold)
    if isinstance(states, Coupled):
        row["attack_effect"] = float(jnp.linalg.norm(params - states.twin.params))
        row["attack_effect_estimate"] = float(jnp.linalg.norm(states.effect))
    finite = bool(jnp.isfinite(params).all()) and np.isfinite(row["test_loss"])
    row["diverged"] = not finite
    for key, name in (("losses", "train_loss"), ("update_norms", "update_norm")):
        row[f"{name}_benign"] = _mean_of_kind(last, key, malicious=False)
        row[f"{name}_malicious"] = _mean_of_kind(last, key, malicious=True)
    norms = [norm for norm in last["update_norms"] if norm is not None]
    row["update_norm_max"] = max(norms, default=None)
    row["global_step_norm"] = last["global_step_norm"]
    row["rounds_skipped"] = sum(r["skipped"] for r in recent)
    row["clients_non_finite"] = sum(sum(r["scores"]["non_finite"]) for r in recent)
    row["weight_malicious"] = mean_known([_malicious_weight(r) for r in recent])
    for key, value in last["attack"].items():
        row[f"attack_{key}"] = mean_known(np.ravel(value).tolist())
    row |= detected(recent).row()
    row |= {f"seconds_{phase}": seconds.get(phase) for phase in PHASES}
    return plain(row)


def detected(rounds: Sequence[Row]) -> Detection:
    """Sums who was flagged and who attacked over some rounds."""
    return sum((_detection(row) for row in rounds), Detection())


def mean_known(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _detection(row: Row) -> Detection:
    clients = np.array(row["clients"])
    return detection(
        np.isin(clients, row["excluded"]),
        np.isin(clients, row["malicious"]),
        np.ones(len(clients), bool),
    )


def _mean_of_kind(row: Row, key: str, *, malicious: bool) -> float | None:
    attacking = np.isin(row["clients"], row["malicious"])
    pairs = zip(row[key], attacking, strict=True)
    return mean_known([value for value, attacks in pairs if attacks == malicious])


def _malicious_weight(row: Row) -> float | None:
    """The share of the aggregate's weights that attackers have, in percent."""
    weights = np.array(row["weights"], float)
    if not weights.sum():
        return None
    attackers = np.isin(row["clients"], row["malicious"])
    return 100 * weights[attackers].sum() / weights.sum()
