"""Rules of peers and ours on the same updates: `docs/peers.md` and its numbers.

    python -m benchmarks.peers.rules --python=byzfl=PYTHON --python=byzpy=PYTHON ...

PYTHON is that of the virtual environment in which the package is installed
(`pip install byzfl==0.0.11`, ...); nothing of it is installed here. Small cohorts show
what each returns, beside the paper in float64; at [50, 1.2 M] all take turns on the
same cores, and the shortest time of each counts.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from .rules_ours import OURS, timed, value
from .rules_paper import PAPER
from .rules_reasons import REASONS

HERE = Path(__file__).parent
FLAGS = flags.FLAGS
flags.DEFINE_multi_string("python", [], "PACKAGE=PYTHON of its environment.")
flags.DEFINE_string("out", str(HERE.parents[1] / "docs/peers.md"), "The page.")
flags.DEFINE_string("json", None, "Also write the figures to this file.")
flags.DEFINE_multi_string(
    "known",
    [],
    "Figures written before (`--json`), for the rules not looked at now; the last file "
    "counts.",
)
flags.DEFINE_list("only", [], "Rules of the table; all unless given.")
flags.DEFINE_integer("repeats", 5, "Turns that are timed.")
flags.DEFINE_integer("clients", 50, "n of the timed updates.")
flags.DEFINE_integer("parameters", 1_200_000, "d of the timed updates.")

SMALL, SIZE, BYZANTINE = 12, 40, 2
# A peer's call that is longer is not repeated; flwr's Bulyan would take minutes.
LONG = 5.0
UNTIMED = {("flwr", "bulyan")}
# All sets of n - f clients: C(50, 10) are too many for anybody.
FEW = {"mda": 1, "smea": 1}
AGREES = 1e-3


def cases() -> dict[str, np.ndarray]:
    """Small cohorts f32 [12, 40] by name."""
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(SMALL, SIZE))
    outlier = plain.copy()
    outlier[3] *= 1000
    attack = plain + 1.0
    attack[:BYZANTINE] -= 6
    return {
        name: rows.astype(np.float32)
        for name, rows in {
            "plain": plain,
            "attack": attack,
            "outlier": outlier,
            "tiny": 1e-3 * attack,
            "common part": 100 * rng.normal(size=SIZE) + 0.03 * attack,
            "integers": rng.integers(-2, 3, (SMALL, SIZE)),
            "equal": np.repeat(plain[:1], SMALL, axis=0),
            "NaN": np.where(np.arange(SMALL)[:, None] == 5, np.nan, plain),
        }.items()
    }


class Peer:
    """A package in its own process."""

    def __init__(self, package: str, python: str, folder: Path):
        self.package, self.folder = package, folder
        self.process = subprocess.Popen(
            [python, str(HERE / "rules_worker.py"), package, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.rules: list[str] = self._read()["rules"]
        self.version = subprocess.check_output(
            [
                python,
                "-c",
                f"from importlib.metadata import *;print(version({package!r}))",
            ],
            text=True,
        ).strip()

    def ask(self, rule: str, name: str, f: int) -> dict[str, Any]:
        """The answer of one call: seconds, none or error, and `value`."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{rule}\t{name}\t{f}\n")
        self.process.stdin.flush()
        answer = self._read()
        if answer.get("none") is False:
            answer["value"] = np.load(self.folder / "out.npy")
        return answer

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.package} ended with {self.process.wait()}")
        return json.loads(line)


def chosen() -> list[str]:
    """The rows of ours that are looked at."""
    return [rule for rule in OURS if not FLAGS.only or rule in FLAGS.only]


def base(rule: str) -> str:
    """The row of ours that a peer's row is compared with."""
    return rule if rule in OURS else rule.split(" (")[0]


def apart(found: np.ndarray | None, wanted: np.ndarray, usual: float) -> float:
    """The difference in usual distances; infinite where there is no finite answer."""
    if found is None or not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - wanted) / usual)


def usual_distance(rows: np.ndarray) -> float:
    """The median distance of the rows to their median; their norm where it is 0."""
    middle = np.median(rows, axis=0)
    distance = float(np.median(np.linalg.norm(rows - middle, axis=1)))
    return distance if distance > 0 else float(np.linalg.norm(middle))


def differences(peers: list[Peer], folder: Path) -> dict[str, dict[str, Any]]:
    """By rule, package ("" is ours) and case: how far from the paper, or an error."""
    found: dict[str, dict[str, Any]] = {}
    for name, rows in cases().items():
        np.save(folder / "small.npy", rows)
        np.save(folder / f"{name}.npy", rows)
        present = rows[np.isfinite(rows).all(1)].astype(np.float64)
        usual = usual_distance(present)
        for rule in chosen():
            wanted = PAPER[rule](present, BYZANTINE)
            own = found.setdefault(rule, {}).setdefault("", {})
            own[name] = apart(value(rule, rows, BYZANTINE), wanted, usual)
        for peer in peers:
            for rule in peer.rules:
                if base(rule) not in chosen():
                    continue
                wanted = PAPER[base(rule)](present, BYZANTINE)
                answer = peer.ask(rule, name, BYZANTINE)
                of = found.setdefault(rule, {}).setdefault(peer.package, {})
                of[name] = answer.get("error") or apart(
                    answer.get("value"), wanted, usual
                )
    return found


def times(peers: list[Peer], folder: Path) -> dict[str, dict[str, float]]:
    """By rule and package ("" is ours): the shortest seconds of one call."""
    rng = np.random.default_rng(1)
    shape = FLAGS.clients, FLAGS.parameters
    rows = 0.01 * rng.standard_normal(shape, np.float32)
    np.save(folder / "large.npy", rows)
    shortest: dict[str, dict[str, float]] = {}
    for rule in chosen():
        f = FEW.get(rule, FLAGS.clients // 5)
        once = timed(rule, rows, f)
        theirs = [
            (peer, own)
            for peer in peers
            for own in peer.rules
            if base(own) == rule and (peer.package, own) not in UNTIMED
        ]
        done: set[tuple[str, str]] = set()
        for _ in range(FLAGS.repeats):
            _shorter(shortest, rule, "", once())
            for peer, own in theirs:
                if (peer.package, own) in done:
                    continue
                seconds = peer.ask(own, "large", f)["seconds"] or float("inf")
                _shorter(shortest, own, peer.package, seconds)
                if seconds > LONG:
                    done.add((peer.package, own))
        del once
        print(rule, shortest[rule], flush=True)
    return shortest


def _shorter(table: dict, rule: str, package: str, seconds: float) -> None:
    own = table.setdefault(rule, {})
    own[package] = min(own.get(package, float("inf")), seconds)


def page(peers: list[Peer], found: dict, shortest: dict) -> str:
    """The page in Markdown."""
    names = list(cases())
    versions = ", ".join(f"{peer.package} {peer.version}" for peer in peers)
    lines = [
        "# What peers return, and how fast",
        "",
        "The same updates in this package and in its peers, beside the published rule "
        "in float64 (`benchmarks/peers/rules_paper.py`): the difference of the "
        "aggregates, in distances of a usual update from the median, "
        f"[{SMALL}, {SIZE}], f = {BYZANTINE}. *attack*: {BYZANTINE} clients far off; "
        "*outlier*: one row times 1000; *tiny*: norms of 0.01; *common part*: whole "
        "models that differ by 3e-4; *NaN*: one client, which the paper's rule is not "
        "given. `-`: agrees to 1e-3; `no`: nothing finite, None or an exception. Ours "
        "are the lines without a package.",
        "",
        f"Written by `python -m benchmarks.peers.rules` with {versions}; each in an "
        "environment of its own. pfl 0.6.0 has no robust rule, flwr-attacks 0.1.4 "
        "attacks only, which call flwr's rules.",
        "",
        "| rule | package | " + " | ".join(names) + " | why |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for rule, packages in sorted(
        found.items(), key=lambda item: list(OURS).index(base(item[0]))
    ):
        for package, differs in packages.items():
            cells = [_cell(differs[name]) for name in names]
            why = _why(package, rule, dict(zip(names, cells, strict=True)))
            lines.append(f"| {rule} | {package} | " + " | ".join(cells) + f" | {why} |")
    lines += [
        "",
        f"## Time of a call at [{FLAGS.clients}, {FLAGS.parameters:,}]",
        "",
        "Milliseconds, the shortest of alternating turns on two cores; f = n / 5, and "
        "1 where all subsets are tried. flwr's Bulyan is not timed (n - 2f rounds of "
        "its Krum).",
        "",
        "| rule | ours | " + " | ".join(peer.package for peer in peers) + " | fastest "
        "peer / ours |",
        "|---|---|" + "---|" * (len(peers) + 1),
    ]
    for rule in (rule for rule in OURS if rule in shortest):
        own = shortest[rule][""]
        theirs = [shortest[rule].get(peer.package) for peer in peers]
        known = [seconds for seconds in theirs if seconds is not None]
        ratio = f"{min(known) / own:.1f}" if known else ""
        cells = ["" if s is None else f"{1e3 * s:.0f}" for s in theirs]
        lines.append(
            f"| {rule} | {1e3 * own:.0f} | " + " | ".join(cells) + f" | {ratio} |"
        )
    return "\n".join([*lines, *_BELOW_FIVE, *_NOT_HERE, ""])


_BELOW_FIVE = [
    "",
    "Where the last column is below 5 there is little left to win. The mean, ARC and "
    "clipping are one to three readings of the updates (240 MB, 11 to 14 ms each) for "
    "everybody; ours reads them once more, for a NaN, and ARC and clipping of byzfl "
    "write to what they are given. Krum, Multi-Krum, MDA, SMEA and NNM need the "
    "products of all pairs, 6 GFLOP (32 ms at the peak of two cores, 112 ms as XLA "
    "multiplies matrices of this shape on a CPU), from updates whose common part has "
    "been subtracted; NNM writes 240 MB of mixed updates, too.",
]

_NOT_HERE = [
    "",
    "## What peers have and this package has not",
    "",
    "* SCAFFOLD: a client's gradient may remember things of its own "
    "(`ClientSide.training`), but the server's control variate is made of what all "
    "clients remember, and no side hands that back to them.",
    "* FLANDERS: a matrix autoregression over the updates of several rounds, with its "
    "own solver; a history of whole cohorts would be the state of the rule.",
]


def _why(package: str, rule: str, cells: dict[str, str]) -> str:
    """Why a row disagrees, where it does."""
    wrong = {name for name, cell in cells.items() if cell != "-"}
    reasons = [REASONS.get((package, rule), "")] if wrong - {"NaN"} else []
    if "NaN" in wrong:
        reasons.append("a client with a NaN counts")
    return "; ".join(reason for reason in reasons if reason)


def _cell(differs: float | str) -> str:
    if isinstance(differs, str) or not np.isfinite(differs):
        return "no"
    return "-" if differs < AGREES else f"{differs:.2g}"


def main(argv: list[str]) -> None:
    """Writes the page."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        peers = []
        for text in FLAGS.python:
            package, python = text.split("=", 1)
            peers.append(Peer(package, python, Path(folder)))
        found = differences(peers, Path(folder))
        shortest = times(peers, Path(folder))
        for peer in peers:
            peer.process.terminate()
    for file in reversed(FLAGS.known):
        known = json.loads(Path(file).read_text())
        found, shortest = known[0] | found, known[1] | shortest
    Path(FLAGS.out).write_text(page(peers, found, shortest))
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps([found, shortest], indent=1))


if __name__ == "__main__":
    app.run(main)
