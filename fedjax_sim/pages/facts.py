"""The head of a page: what was run, when and with what, in short lines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_sim.core.errors import InputError
from fedjax_sim.papers.cells import format_label
from fedjax_sim.reports.store import Row
from fedjax_sim.runs.files import read_json

_SHOWN = 8  # values of a setting; of more their number and ends


def provenance_of(run: Row, results: Path) -> dict[str, Any]:
    """Returns provenance.json of a run; {} where it has none (failed before it)."""
    try:
        return read_json(results / run["run"] / "provenance.json", "versions")
    except InputError:
        return {}


def facts(
    runs: Sequence[Row], provenances: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Returns what the runs of a page share, and the values of what they do not.

    Args:
      runs: rows of the store.
      provenances: of the same runs, {} where there is none.
    """
    found = {
        "Data": _data(runs, provenances),
        "Model": _model(runs, provenances),
        "Clients": _clients(runs),
        "Local training": _training(runs),
        "Rounds": _values(runs, "rounds"),
        "Attack": _attack(runs),
        "Defences": _values(runs, "defense_name", most=40),
        "Client side": _values(runs, "client_defense_name"),
        "Seeds": _values(runs, "seed"),
        "Runs": _statuses(runs),
        "Versions": _versions(provenances),
        "Machine": _machine(provenances),
        "Started": _dates(provenances),
    }
    if found["Client side"] == "none":
        del found["Client side"]
    return {key: text for key, text in found.items() if text}


def _values(runs: Sequence[Row], key: str, most: int = _SHOWN) -> str:
    """The values of a column: one, a few, or their number and the ends."""
    known = dict.fromkeys(run[key] for run in runs if run.get(key) is not None)
    if not known:
        return ""
    # Numbers ascend, names are in the order of the runs.
    ordered = sorted(
        known, key=lambda v: (True, 0) if isinstance(v, str) else (False, v)
    )
    texts = list(dict.fromkeys(format_label(value) for value in ordered))
    if len(texts) > most:
        return f"{len(texts)} values, {texts[0]} to {texts[-1]}"
    return ", ".join(texts)


def _data(runs: Sequence[Row], provenances: Sequence[Mapping[str, Any]]) -> str:
    sizes = {
        f"{data['train']} training and {data['test']} test images, "
        f"{data['classes']} classes"
        for p in provenances
        if (data := p.get("data")) and {"train", "test", "classes"} <= set(data)
    }
    names = _values(runs, "data_name")
    return f"{names}: {sizes.pop()}" if len(sizes) == 1 and names else names


def _model(runs: Sequence[Row], provenances: Sequence[Mapping[str, Any]]) -> str:
    counts = {p["parameters"] for p in provenances if "parameters" in p}
    names = _values(runs, "model_name")
    return f"{names}, {counts.pop():,} parameters" if len(counts) == 1 else names


def _clients(runs: Sequence[Row]) -> str:
    parts = {
        "partition_num_clients": "{} in all",
        "participation_clients_per_round": "{} in a round",
        "participation_name": "chosen by {}",
        "partition_name": "data split by {}",
        "attack_num_malicious": "{} malicious",
    }
    return _joined(runs, parts)


def _training(runs: Sequence[Row]) -> str:
    parts = {
        "client_lr": "rate {}",
        "client_batch_size": "batches of {}",
        "client_epochs": "{} epochs",
    }
    return _joined(runs, parts)


def _attack(runs: Sequence[Row]) -> str:
    parts = {
        "attack_name": "{}",
        "attack_dpr": "dpr {}",
        "realised_dpr": "which is {} of a malicious client's data",
        "attack_victim_class": "class {}",
        "attack_target_class": "taken for {}",
    }
    return _joined(runs, parts)


def _joined(runs: Sequence[Row], parts: Mapping[str, str]) -> str:
    texts = ((text, _values(runs, key)) for key, text in parts.items())
    return ", ".join(text.format(values) for text, values in texts if values)


def _statuses(runs: Sequence[Row]) -> str:
    counts = Counter(run["status"] for run in runs)
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _versions(provenances: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for package in ("fedjax_sim", "jax"):
        known = {p["versions"][package] for p in provenances if p.get("versions")}
        if known:
            parts.append(f"{package} {', '.join(sorted(known))}")
    python = sorted({p["python"] for p in provenances if "python" in p})
    git = sorted({_revision(p["git"]) for p in provenances if p.get("git")})
    if python:
        parts.append(f"Python {', '.join(python)}")
    if git:
        parts.append(f"revision {', '.join(git[:3])}{' ...' * (len(git) > 3)}")
    return "; ".join(parts)


def _revision(text: str) -> str:
    """A short revision; "+" says that there were changes beside it."""
    if " " in text:  # "not a git checkout"
        return text
    return text[:9] + "+" * text.endswith("+")


def _machine(provenances: Sequence[Mapping[str, Any]]) -> str:
    devices = Counter(
        f"{len(p['devices'])} {p['devices'][0]} ({p['backend']})"
        for p in provenances
        if p.get("devices") and p.get("backend")
    )
    return ", ".join(devices)


def _dates(provenances: Sequence[Mapping[str, Any]]) -> str:
    dates = sorted(p["started"] for p in provenances if p.get("started"))
    if not dates:
        return ""
    first, last = (date[:16].replace("T", " ") for date in (dates[0], dates[-1]))
    return first if first == last else f"{first} to {last}"
