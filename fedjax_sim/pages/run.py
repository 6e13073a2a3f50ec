"""The page of one run: what happened in its rounds, and what its model has learnt."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import flatten, resolve
from fedjax_sim.experiment.data import load_data
from fedjax_sim.pages import run_rounds
from fedjax_sim.pages.assets import page, vega
from fedjax_sim.pages.facts import facts, provenance_of
from fedjax_sim.pages.run_distilled import Distilled, distilled
from fedjax_sim.reports import store
from fedjax_sim.runs.files import Rows, read_json
from fedjax_sim.sweeps import executors

_T = TypeVar("_T")
_CLIENTS = 400  # of the table below the map


class Model(NamedTuple):
    """What needs the data, and JAX: the model, its images, the partition."""

    matrices: list[dict[str, Any]]  # {title, counts [true][predicted]}
    pictures: dict[str, list[Any]]  # tiles by the name of their line
    kept: dict[str, list[Any]]  # of what the rule remembers
    distilled: Distilled | None  # by DROP
    classes: list[list[int]]  # samples [client][class]
    at: int | None  # round of the checkpoint
    moving: bool  # the trigger is another in each round
    expelled: list[int]  # clients banned for good


def run_page(run: Path, *, whole: bool = True, live: str | None = None) -> str:
    """Returns the page of a run, finished or not.

    Args:
      run: its folder.
      whole: with what needs the data and the checkpoint: seconds, not milliseconds.
      live: where the page asks for newer data; None: it is a file.

    Raises:
      InputError: there is no run, or its files are damaged.
    """
    data, missing, model = run_data(run, whole)
    row, provenance = data.pop("row"), data.pop("provenance")
    metrics = data["progress"]
    return page(
        "run.html",
        title=row["name"],
        lead=lead(row),
        facts=facts([row], [provenance]),
        status=row["status"],
        error=data["error"],
        missing=missing,
        model=model,
        metrics=metrics,
        clients=data.pop("clients"),
        config=sorted(flatten(data.pop("config")).items()),
        provenance=sorted(flatten(provenance).items()),
        data={**data, "live": live},
        vega=vega(),
    )


def run_data(run: Path, whole: bool) -> tuple[dict[str, Any], list[str], Model | None]:
    """What the page shows: numbers, what is missing and why, and the model's part.

    Raises:
      InputError: there is no run, or its files are damaged.
    """
    if not (run / "config.json").exists():
        raise InputError(f"--run={run}: there is no run (no config.json)")
    try:
        return _run_data(run, whole)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"--run={run}: not the files of a run ({what})") from error


def _run_data(run: Path, whole: bool) -> tuple[dict[str, Any], list[str], Model | None]:
    metrics = Rows(run / "metrics.jsonl").read()
    rounds = Rows(run / "rounds.jsonl").read()
    row = {"run": run.name, **store.run_row(run, metrics)}
    config = read_json(run / "config.json")
    provenance = provenance_of(row, run.parent)
    attackers = provenance.get("malicious_clients", [])
    missing = []
    if not metrics:
        missing.append(
            "No rates: no round was evaluated yet (config.evaluation.every)."
        )
    if not rounds:
        missing.append("No rounds: rounds.jsonl is not there or empty.")
    population = config["partition"]["num_clients"] + config["attack"]["num_fake"]
    data = {
        "row": row,
        "provenance": provenance,
        "config": config,
        "status": row["status"],
        "lead": lead(row),
        "error": row.get("error"),
        "done": rounds[-1]["round"] if rounds else 0,
        "of": config["rounds"],
        "progress": run_rounds.progress_curves(metrics),
        "map": run_rounds.client_map(rounds, population) if rounds else None,
        "attackers": attackers,
        "quantities": run_rounds.quantities(rounds),
        "clients": run_rounds.client_table(rounds, attackers)[:_CLIENTS],
        "matrices": [],
        "classes": [],
        "expelled": [],
        "distilled": [],
    }
    model = _model(run, config, missing) if whole else None
    if model is not None:
        data |= {"matrices": model.matrices, "classes": model.classes}
        data["expelled"] = model.expelled
        if model.distilled is not None:
            data["distilled"] = model.distilled.panels
    return data, missing, model


def lead(row: Mapping[str, Any]) -> str:
    """How a run stands, in a sentence."""
    rates = [
        f"{name.upper()} {row[name]:.1f} %"
        for name in ("mta", "asr")
        if row.get(name) is not None
    ]
    defended = f"{row['defense_name']} against {row['attack_name']}"
    if row["status"] != executors.FINISHED:
        return f"{defended}, {row['status']}."
    return f"{defended}: {', '.join(rates)} after {row['rounds']} rounds."


def _model(run: Path, recorded: Mapping[str, Any], missing: list[str]) -> Model | None:
    """The part of a page for which data and checkpoint are read."""
    from fedjax_sim.pages import run_model as of

    tried = _Tries(missing)
    config: Config | None = tried("No pictures", lambda: resolve(dict(recorded)))
    if config is None:
        return None
    if config.data.name == "arrays":
        missing.append("No pictures: the data was given to run() as arrays.")
        return None
    dataset: Dataset | None = tried("No pictures", lambda: load_data(config))
    if dataset is None:
        return None
    classes = tried("No partition", lambda: of.classes_by_client(run, dataset))
    found = tried("No confusion matrix", lambda: of.newest_arrays(run))
    if found is None:
        return Model([], {}, {}, None, classes or [], None, False, [])
    at, arrays = found
    backdoor = tried(
        "No pictures with a trigger", lambda: of.backdoor_of(config, dataset, arrays)
    )
    said = of.answers(config, dataset, arrays, backdoor)
    sets = {"Clean": said.clean, "With the trigger": said.stamped}
    matrices = [
        {"title": title, "counts": of.confusion(said.labels, one, dataset.num_classes)}
        for title, one in sets.items()
        if one is not None
    ]
    if backdoor is None and not tried.refused("No pictures with a trigger"):
        missing.append("No pictures with a trigger: the attack stamps none.")
    population = config.partition.num_clients + config.attack.num_fake
    kept, lines = of.kept_pictures(arrays, dataset.test_images.shape[1:], population)
    if lines > len(kept):
        missing.append(f"Of {lines} lines of remembered images {len(kept)} are shown.")
    if not kept:
        missing.append(
            "No images of the defence: its state in the checkpoint holds none. "
            "FedREDefense keeps what it reconstructs, DROP what it made last, FLIP the "
            "triggers that each client inverted last, after its warm-up."
        )
    return Model(
        matrices,
        of.test_pictures(config, dataset, said, backdoor),
        kept,
        distilled(arrays),
        classes or [],
        at,
        backdoor is not None and of.moves(config),
        of.expelled_clients(arrays),
    )


class _Tries:
    """What cannot be shown is said on the page, with the reason."""

    def __init__(self, missing: list[str]):
        self._missing = missing
        self._refused: set[str] = set()

    def __call__(self, what: str, work: Callable[[], _T]) -> _T | None:
        try:
            return work()
        except InputError as error:
            self._missing.append(f"{what}: {error}")
            self._refused.add(what)
            return None

    def refused(self, what: str) -> bool:
        """Whether that was tried in vain."""
        return what in self._refused
