"""The rounds of a run for its page: rates, who took part, what clients were told by."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_sim.pages.numbers import short, thinned
from fedjax_sim.reports.render import label

Row = Mapping[str, Any]

_POINTS = 200  # of a curve
_CELLS = 200_000  # of the map of clients and rounds
# What a client did in a round, a letter each.
AWAY, BENIGN, BENIGN_OUT, MALICIOUS, MALICIOUS_OUT = ".bBmM"
# Curves that belong together, and what their axis says.
_GROUPS = {
    "Rates %": ("mta", "asr", "asr_any_source", "asr_all"),
    "Loss": ("test_loss", "backdoor_loss", "train_loss_benign", "train_loss_malicious"),
    "L2 norm of the updates": (
        "update_norm_benign",
        "update_norm_malicious",
        "global_step_norm",
    ),
    "Attackers' weight %": ("weight_malicious",),
}


def progress_curves(metrics: Sequence[Row]) -> list[dict[str, Any]]:
    """Panels of curves over the evaluated rounds, those that have a number."""
    rows = [metrics[i] for i in thinned(range(len(metrics)), _POINTS)]
    panels = []
    for title, names in _GROUPS.items():
        lines = [
            {"name": label(name), "values": [short(row.get(name)) for row in rows]}
            for name in names
            if any(row.get(name) is not None for row in rows)
        ]
        if lines:
            at = [row["round"] for row in rows]
            panels.append({"title": title, "rounds": at, "lines": lines})
    return panels


def client_map(rounds: Sequence[Row], clients: int) -> dict[str, Any]:
    """Who took part in which round, and whom the rule left out.

    Args:
      rounds: rows of rounds.jsonl.
      clients: N, genuine and fake ones.

    Returns:
      {rounds, lines: a text a client, a letter a round; recorded: number of rounds}.
    """
    at = thinned(range(len(rounds)), max(2, _CELLS // max(clients, 1)))
    shown = [rounds[i] for i in at]
    states = np.full((clients, len(shown)), AWAY)
    for j, row in enumerate(shown):
        malicious, excluded = set(row["malicious"]), set(row["excluded"])
        for client in row["clients"]:
            letters = (MALICIOUS, MALICIOUS_OUT)
            if client not in malicious:
                letters = (BENIGN, BENIGN_OUT)
            states[client, j] = letters[client in excluded]
    return {
        "rounds": [row["round"] for row in shown],
        "lines": ["".join(line) for line in states],
        "recorded": len(rounds),
    }


def quantities(rounds: Sequence[Row]) -> list[dict[str, Any]]:
    """Weights, norms, losses and scores: mean, least and most of each kind of clients.

    Flags and what has no number are left out.
    """
    shown = [rounds[i] for i in thinned(range(len(rounds)), _POINTS)]
    names = {"weights": "weight", "update_norms": "L2 norm of the update"}
    names["losses"] = "local loss"
    sources = {key: (text, [row[key] for row in shown]) for key, text in names.items()}
    for score in dict.fromkeys(name for row in shown for name in row["scores"]):
        values = [row["scores"].get(score) for row in shown]
        if any(isinstance(x, bool) for line in values if line for x in line):
            continue
        sources[score] = (score.replace("_", " "), values)
    found = []
    for text, values in sources.values():
        points = [
            {"round": row["round"], "kind": kind, **spread}
            for row, line in zip(shown, values, strict=True)
            if line is not None
            for kind, spread in _by_kind(row, line)
        ]
        if points:
            found.append({"name": text, "points": points})
    return found


def _by_kind(row: Row, line: Sequence[float | None]) -> list[tuple[str, dict]]:
    malicious = np.isin(row["clients"], row["malicious"])
    values = np.array([np.nan if x is None else x for x in line], float)
    found = []
    for kind, mask in (("benign", ~malicious), ("malicious", malicious)):
        own = values[mask & np.isfinite(values)]
        if len(own):
            ends = {"low": short(own.min()), "high": short(own.max())}
            found.append((kind, {"mean": short(own.mean()), **ends}))
    return found


def client_table(rounds: Sequence[Row], attackers: Sequence[int]) -> list[list[str]]:
    """A line a client that took part: rounds, exclusions, mean weight."""
    counts: dict[int, list[float]] = {}
    for row in rounds:
        out = set(row["excluded"])
        for client, weight in zip(row["clients"], row["weights"], strict=True):
            own = counts.setdefault(client, [0, 0, 0.0])
            own[0] += 1
            own[1] += client in out
            own[2] += weight or 0.0
    return [
        [
            str(client),
            "malicious" if client in set(attackers) else "benign",
            str(int(times)),
            str(int(out)),
            f"{weight / times:.3f}",
        ]
        for client, (times, out, weight) in sorted(counts.items())
    ]
