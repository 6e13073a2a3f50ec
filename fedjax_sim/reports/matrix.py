"""What the runs of a matrix gave: each cell against the same runs without attack.

Rates in percent, times in milliseconds. Harm is the ASR of an attack with a target,
else the accuracy that it costs: MTA of the benign runs minus MTA, seed by seed. What a
rule costs is the MTA without attack of the matrix's first rule minus its own, so, too.
Both are read whatever cells are looked at.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from fedjax_sim.core.errors import InputError
from fedjax_sim.runs.files import SUMMARY, read_json
from fedjax_sim.sweeps import executors
from fedjax_sim.sweeps.matrix import Matrix, MatrixCell, cell_at, runs_of
from fedjax_sim.sweeps.sweep import Run

Labels = tuple[str, ...]
# Fields of a matrix that this report knows; the others divide it into maps.
ATTACK, ADAPT, DEFENSE = "attack", "adapt", "defense"
NO_ATTACK, AS_IT_IS = "none", "none"


class Spread(NamedTuple):
    """A rate over the seeds."""

    mean: float
    std: float | None  # sample standard deviation; None below two
    seeds: int


class Entry(NamedTuple):
    """A cell and what its runs gave; None: no finished run says it."""

    labels: dict[str, str]
    refused: str | None  # why it cannot be
    failed: str | None  # what its first failed run said
    runs: list[str]  # folders of the finished ones
    expected: int  # runs
    mta: Spread | None
    asr: Spread | None
    lost: Spread | None  # accuracy, to the attack
    cost: Spread | None  # without attack: accuracy, to the rule
    first: str  # the rule that costs are measured against
    factor: float | None  # by which an adapted attack was scaled, in the last round
    server_ms: float | None  # of a round: crafting, rule and server step

    @property
    def harm(self) -> Spread | None:
        """ASR, or of an attack without a target the lost accuracy."""
        return self.lost if self.asr is None else self.asr


def entries(
    matrix: Matrix,
    cells: Sequence[MatrixCell],
    root: Path,
) -> list[Entry]:
    """Reads the runs of a matrix, and of each rule those without attack.

    Args:
      matrix: of `load_matrix`.
      cells: of `matrix_cells`.
      root: folder of the run directories.
    """
    reasons: dict[str, str | None] = {}
    read: dict[Labels, Found] = {}

    def runs(cell: MatrixCell) -> Found:
        key = tuple(cell.labels.values())
        if key not in read:
            read[key] = _summaries(runs_of(matrix, cell), root)
        return read[key]

    def benign(cell: MatrixCell, rule: str) -> MatrixCell:
        labels = {**cell.labels, ATTACK: NO_ATTACK, DEFENSE: rule}
        if ADAPT in labels:
            labels[ADAPT] = AS_IT_IS
        return cell_at(matrix, labels, reasons)

    first = next(iter(matrix.axes[DEFENSE]))
    shown = {tuple(cell.labels.values()): cell for cell in cells}
    for cell in cells:
        own = benign(cell, cell.labels[DEFENSE])
        shown.setdefault(tuple(own.labels.values()), own)
    return [
        _entry(
            cell,
            *runs(cell),
            runs(benign(cell, cell.labels[DEFENSE]))[0],
            runs(benign(cell, first))[0],
            first,
        )
        for cell in shown.values()
    ]


Found = tuple[dict[int, tuple[str, Mapping[str, Any]]], str | None, int]


def _summaries(runs: Sequence[Run], root: Path) -> Found:
    """By seed: folder and summary; what a failed run said; how many there should be."""
    found: dict[int, tuple[str, Mapping[str, Any]]] = {}
    failed = None
    for run in runs:
        folder = root / run.folder
        if (folder / "summary.json").exists():
            try:
                found[run.config.seed] = run.folder, _summary(folder / "summary.json")
            except InputError as error:  # counts as failed
                failed = failed or str(error)
        elif failed is None and executors.status(folder) == executors.FAILED:
            failed = (folder / "error.txt").read_text().partition("\n")[0]
    return found, failed, len(runs)


def _summary(path: Path) -> Mapping[str, Any]:
    """Reads a summary.

    Raises:
      InputError: it is damaged, or lacks a number that a cell is made of.
    """
    summary = read_json(path, *SUMMARY, "rounds")
    for section, key in (("final", "mta"), ("seconds", None)):
        held = summary[section]
        if not isinstance(held, Mapping) or (
            key and not isinstance(held.get(key), int | float)
        ):
            what = f"{section}.{key}" if key else section
            raise InputError(f"{path}: {what} is missing or of another type")
    return summary


def _entry(
    cell: MatrixCell,
    own: dict[int, tuple[str, Mapping[str, Any]]],
    failed: str | None,
    expected: int,
    benign: dict[int, tuple[str, Mapping[str, Any]]],
    undefended: dict[int, tuple[str, Mapping[str, Any]]],
    first: str,
) -> Entry:
    finals = {seed: summary["final"] for seed, (_, summary) in own.items()}
    less = lambda than: [
        than[seed][1]["final"]["mta"] - final["mta"]
        for seed, final in finals.items()
        if seed in than
    ]
    attacked = cell.labels[ATTACK] != NO_ATTACK
    served = [
        1000 * summary["seconds"]["defend"] / summary["rounds"]
        for _, summary in own.values()
        if summary["seconds"].get("defend") is not None
    ]
    factors = [final.get("attack_factor") for final in finals.values()]
    known = [factor for factor in factors if factor is not None]
    return Entry(
        labels=cell.labels,
        refused=cell.refused,
        failed=failed,
        runs=[folder for folder, _ in own.values()],
        expected=expected,
        mta=_spread([final["mta"] for final in finals.values()]),
        asr=_spread([final.get("asr") for final in finals.values()]),
        lost=_spread(less(benign)),
        cost=None if attacked else _spread(less(undefended)),
        first=first,
        factor=mean(known) if known else None,
        server_ms=mean(served) if served else None,
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    """None also where one is undefined."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    std = stdev(known) if len(known) > 1 else None
    return Spread(mean(known), std, len(known))


class Map(NamedTuple):
    """A heat map: attacks down, rules across."""

    title: str
    rules: list[str]
    attacks: list[tuple[str, str]]  # (attack, adapt), without the benign runs
    entries: dict[tuple[str, str, str], Entry]  # by (attack, adapt, rule)

    def benign(self, rule: str) -> Entry | None:
        """The runs of a rule without attack."""
        return self.entries.get((NO_ATTACK, AS_IT_IS, rule))

    def cost(self, rule: str) -> float | None:
        """The accuracy that a rule costs without attack, against `first`."""
        own = self.benign(rule)
        return None if own is None or own.cost is None else own.cost.mean

    @property
    def first(self) -> str:
        """The rule that costs are measured against."""
        return next(iter(self.entries.values())).first

    def worst(self, rule: str, targeted: bool) -> Entry | None:
        """The entry of the most harm to a rule, among attacks of one kind."""
        found = [
            entry
            for (attack, _, own), entry in self.entries.items()
            if own == rule
            and attack != NO_ATTACK
            and entry.harm is not None
            and (entry.asr is not None) == targeted
        ]
        return max(found, key=_harm, default=None)


def _harm(entry: Entry) -> float:
    return entry.harm.mean if entry.harm is not None else float("-inf")


def maps(found: Sequence[Entry]) -> list[Map]:
    """Divides entries into maps by the fields that are neither attack nor rule."""
    groups: dict[Labels, list[Entry]] = {}
    for entry in found:
        rest = tuple(v for k, v in entry.labels.items() if k not in _IN_A_MAP)
        groups.setdefault(rest, []).append(entry)
    names = [k for k in found[0].labels if k not in _IN_A_MAP]
    return [
        Map(
            title=", ".join(f"{n} {v}" for n, v in zip(names, rest, strict=True)),
            rules=list(dict.fromkeys(entry.labels[DEFENSE] for entry in own)),
            attacks=[
                pair
                for pair in dict.fromkeys(map(_attack, own))
                if pair[0] != NO_ATTACK
            ],
            entries={(*_attack(entry), entry.labels[DEFENSE]): entry for entry in own},
        )
        for rest, own in groups.items()
    ]


_IN_A_MAP = (ATTACK, ADAPT, DEFENSE)


def _attack(entry: Entry) -> tuple[str, str]:
    return entry.labels[ATTACK], entry.labels.get(ADAPT, AS_IT_IS)


def raised(found: Map) -> dict[str, list[tuple[str, float]]]:
    """By rule: attacks whose adapted form does more harm, and by how much."""
    gains: dict[str, list[tuple[str, float]]] = {}
    for (attack, adapt, rule), entry in found.entries.items():
        plain = found.entries.get((attack, AS_IT_IS, rule))
        if adapt == AS_IT_IS or plain is None:
            continue
        if entry.harm is not None and plain.harm is not None:
            gain = entry.harm.mean - plain.harm.mean
            if gain > 0:
                gains.setdefault(rule, []).append((attack, gain))
    return gains
