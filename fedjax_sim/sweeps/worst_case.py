"""The worst learning configuration of a defence, found by successive halving.

Syros, Suri, Koushanfar, Nita-Rotaru, Oprea 2025 (arXiv 2502.07011, DROP), section 3:
a defence that holds under one learning configuration may fall under another that is as
good for the task. The search looks, for each defence, for the configuration and attack
strength of the highest ASR whose MTA is still acceptable.

Of an attack without a target (`objective = accuracy`) the harm is the accuracy that it
costs: MTA of the same runs without attack minus MTA with it, and a configuration is
acceptable by the former.

The space is a sweep as it is: its points are the candidates, its seeds are averaged.
Points that differ in the defence are searched one by one. The default configuration of
a defence is the sweep's base, with what all points have in common.

Successive halving (Jamieson, Talwalkar 2016, arXiv 1502.07943; the factor 3 is that of
Li et al. 2018, arXiv 1603.06560): all candidates run for a few rounds, the best third
runs three times as long, and so on up to the full length; where rounds do not depend on
how many there will be, a longer run goes on from the shorter one. Acceptable candidates
come first, by their ASR, then the others by their MTA (the rule of Deb 2000 for
constrained searches). In short runs the ASR is often still 0 for all; of equal ones,
that of the lower backdoor loss is ahead. A candidate that learns slowly may still be
lost there: a larger budget makes the first runs longer.

A budget counts runs of full length for each defence: one of a third of the rounds
counts a third, one that goes on from it two thirds; runs without attack count, too.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Literal, NamedTuple

import numpy as np

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import flatten, resolve, to_dict
from fedjax_sim.metrics.over_rounds import consistency
from fedjax_sim.runs.continued import begin_from, foresees, rounds_before
from fedjax_sim.runs.files import Rows, plain, read_json
from fedjax_sim.sweeps.executors import FAILED, FINISHED, status
from fedjax_sim.sweeps.sweep import Run, Sweep, expand, folder_name

REDUCTION = 3
Objective = Literal["asr", "accuracy"]
OBJECTIVES: tuple[Objective, ...] = ("asr", "accuracy")


class Candidate(NamedTuple):
    """A configuration; its runs differ in the seed only."""

    settings: dict[str, Any]  # the keys that the search varies
    runs: list[Run]
    clean: tuple[Run, ...] = ()  # the same without attack, for the lost accuracy

    @property
    def all_runs(self) -> list[Run]:
        """With attack, and without where that is measured against."""
        return [*self.runs, *self.clean]


class Problem(NamedTuple):
    """What to search for one defence."""

    name: str
    default: Candidate
    others: list[Candidate]


class Rung(NamedTuple):
    """A step of the search."""

    rounds: int
    candidates: int  # of each defence


class Outcome(NamedTuple):
    """What a candidate gave in runs of one length; rates in percent."""

    candidate: Candidate
    mta: float | None  # mean over the seeds; None: a run failed
    asr: float | None
    backdoor_loss: float | None  # None also: infinite
    least_asr: float | None  # over seeds and rounds of acceptable MTA; None: no such
    least_rounds: int  # of acceptable MTA, in the seed that has fewest
    clean_mta: float | None = None  # mean MTA without attack; None: not asked for
    # Of each seed: the MTA by which it is acceptable, and the harm.
    by_seed: tuple[tuple[float, float], ...] = ()

    @property
    def useful_mta(self) -> float | None:
        """The MTA by which a configuration is acceptable."""
        return self.mta if self.clean_mta is None else self.clean_mta

    @property
    def harm(self) -> float | None:
        """The ASR, or the accuracy lost to the attack."""
        if self.clean_mta is None or self.mta is None:
            return self.asr
        return self.clean_mta - self.mta

    def acceptable(self, least_mta: float) -> bool:
        """Whether the model is of use, MTA >= lambda."""
        return self.useful_mta is not None and self.useful_mta >= least_mta


class Found(NamedTuple):
    """The answer for one defence."""

    problem: Problem
    default: Outcome
    # Of the most harm with an acceptable MTA; if there is none, of the highest MTA.
    best: Outcome
    used: list[Run]  # for the search
    cost: float  # of them, in runs of full length
    full: tuple[Outcome, ...] = ()  # of all that ran to the full length


# ------------------------------------------------------------------------ the space


def problems(
    sweep: Sweep,
    changes: Mapping[str, Any],
    only: Sequence[str],
    per: Sequence[str],
    objective: Objective = "asr",
    alone: bool = False,
) -> list[Problem]:
    """Divides the runs of a sweep into searches.

    Args:
      sweep, changes, only: see `expand`.
      per: sections or keys; runs that differ in one of them are not compared.
      objective: what the worst has most of: `asr`, or `accuracy`, which it costs.
      alone: a default with nothing to search is taken, too.

    Raises:
      InputError: see `expand`; also nothing to search, runs of different lengths, no
        single default, no attack, or one without the success rate asked for.
    """
    points = [flatten(point) for point in sweep.points]
    searched = [key for key in _varying(points) if not _belongs(key, (*per, "seed"))]
    fixed = [{k: v for k, v in p.items() if k not in searched} for p in points]
    runs = expand(sweep, changes, only)
    defaults = expand(sweep._replace(points=fixed, where=None), changes)
    for run in runs + defaults:
        _check(run, runs[0], objective)

    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        own = groups.setdefault(_group(run, per), {})
        own.setdefault(_without_seed(run.config), []).append(run)
    starts: dict[str, dict[str, list[Run]]] = {}
    for run in defaults:
        own = starts.setdefault(_group(run, per), {})
        own.setdefault(_without_seed(run.config), []).append(run)
    names = _names([json.loads(group) for group in groups])
    shown = [key for key in searched if key not in changes]

    def candidate(own: list[Run]) -> Candidate:
        settings = {key: own[0].values.get(key) for key in shown}
        return _with_clean(Candidate(settings, own), objective)

    found = []
    for name, (group, own) in zip(names, groups.items(), strict=True):
        start = starts.get(group, {})
        if len(start) != 1:
            raise InputError(
                f"--per={','.join(per)}: {name} has {len(start)} default "
                "configurations, one is needed; name all keys that choose a defence"
            )
        ((identity, seeds),) = start.items()
        used = {run.config.seed for runs in own.values() for run in runs}
        seeds = [run for run in seeds if run.config.seed in used]
        others = [candidate(runs) for key, runs in own.items() if key != identity]
        if not others and not alone:
            raise InputError(
                f"--sweep: the points leave nothing to search for {name}: no key but "
                f"the seed and those of --per={','.join(per)} has two values"
            )
        found.append(Problem(name, candidate(seeds), others))
    return found


def _with_clean(candidate: Candidate, objective: Objective) -> Candidate:
    """Adds the runs without attack that the objective compares with."""
    if objective == "asr":
        return candidate
    clean = []
    for run in candidate.runs:
        # Of the attack's section nothing else matters then.
        config = resolve({**to_dict(run.config), "attack": {"name": "none"}})
        name = f"{run.name},attack.name=none"
        clean.append(Run(name, folder_name(config), config, run.values))
    return candidate._replace(clean=tuple(clean))


def _belongs(key: str, names: Sequence[str]) -> bool:
    """Whether a key, or argument of a config file, is one of these or lies below."""
    key = key.removeprefix(":")
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _varying(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that have two values, of which one may be that of the base."""
    keys = dict.fromkeys(key for point in points for key in point)
    return [k for k in keys if len({repr(p.get(k, ...)) for p in points}) > 1]


def _check(run: Run, first: Run, objective: Objective) -> None:
    config = run.config
    if config.rounds != first.config.rounds:
        raise InputError(
            f"{run.name}: config.rounds = {config.rounds}, but {first.config.rounds} "
            f"in {first.name}: the search itself chooses how long its runs are"
        )
    if objective == "accuracy":
        if config.attack.name == "none":
            raise InputError(
                f"{run.name}: config.attack.name = 'none': there is no attack that "
                "costs accuracy"
            )
        return
    attack = ATTACKS[config.attack.name].factory(**config.attack.options)
    if attack.test is None:
        able = (
            "allowed: attacks with a target class, such as backdoor; or "
            "--objective=accuracy"
        )
        raise InputError(
            f"{run.name}: config.attack.name = {config.attack.name!r} has no attack "
            f"success rate; {able}"
        )


def _group(run: Run, per: Sequence[str]) -> str:
    chosen = {k: v for k, v in run.values.items() if _belongs(k, per)}
    return json.dumps(plain(chosen), sort_keys=True, default=str)


def _without_seed(config: Config) -> str:
    return folder_name(config.model_copy(update={"seed": 0}))


def _names(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of what is chosen, and the other keys in which namesakes differ."""
    heads = []
    for group in groups:
        named = [v for k, v in group.items() if k == "defense.name"]
        heads.append(",".join(map(str, named)))
    names = []
    for group, head in zip(groups, heads, strict=True):
        same = [g for g, h in zip(groups, heads, strict=True) if h == head]
        keys = [k for k in group if len({str(g.get(k, ...)) for g in same}) > 1]
        names.append(",".join(filter(None, [head, *(f"{k}={group[k]}" for k in keys)])))
    return names


# ----------------------------------------------------------------------- the budget


def plan(
    candidates: int,
    seeds: int,
    rounds: int,
    budget: float,
    least_rounds: int,
    every: int | None = None,
) -> list[Rung]:
    """Returns the fewest rungs that the budget allows, the default's runs included.

    If even the most are too expensive, fewer candidates start.

    Args:
      candidates: of a defence, without its default.
      seeds: of a candidate.
      rounds: of a run of full length.
      budget: in runs of full length.
      least_rounds: of the shortest runs.
      every: rounds between evaluations, where longer runs go on from shorter ones,
        which end with one then; None: they begin anew.

    Raises:
      InputError: the budget does not allow for a single candidate.
    """
    unit = every or 1
    shorten = lambda length: math.ceil(length / REDUCTION / unit) * unit
    lengths = [rounds]
    while least_rounds <= (shorter := shorten(lengths[-1])) < lengths[-1]:
        lengths.append(shorter)
    for number in range(candidates, 0, -1):
        for steps in range(1, len(lengths) + 1):
            ladder = [
                Rung(lengths[steps - 1 - k], math.ceil(number / REDUCTION**k))
                for k in range(steps)
            ]
            if cost(ladder, seeds, continues=every is not None) <= budget:
                return ladder
    raise InputError(
        f"--budget={budget:g} must be at least {cost([Rung(rounds, 1)], seeds):g}: a "
        "candidate beside the default, each with all its seeds"
    )


def cost(ladder: Sequence[Rung], seeds: int, continues: bool = False) -> float:
    """Runs of full length that a search takes at most, its default included.

    Args:
      ladder: of `plan`.
      seeds: of a candidate.
      continues: longer runs go on from shorter ones.
    """
    lengths = [rung.rounds for rung in ladder]
    before = [0, *lengths[:-1]] if continues else [0] * len(ladder)
    rounds = sum(
        rung.candidates * (rung.rounds - done)
        for rung, done in zip(ladder, before, strict=True)
    )
    return seeds * (1 + rounds / lengths[-1])


def goes_on(given: Sequence[Problem]) -> bool:
    """Whether longer runs can go on from shorter ones, in all searches."""
    runs = [run for p in given for c in (p.default, *p.others) for run in c.all_runs]
    every = {run.config.evaluation.every for run in runs}
    return len(every) == 1 and not any(foresees(run.config) for run in runs)


# ----------------------------------------------------------------------- the search


def search(
    given: Sequence[Problem],
    ladder: Sequence[Rung],
    least_mta: float,
    root: Path,
    carry_out: Callable[[list[Run]], bool],
) -> list[Found] | None:
    """Climbs the ladder, all defences side by side.

    Args:
      given: what to search.
      ladder: of `plan`.
      least_mta: lambda, percent.
      root: folder of the run directories.
      carry_out: carries out the runs of a rung in `root`; False: it was stopped.

    Returns:
      An answer for each defence; None if it was stopped, or other processes have not
      yet finished runs that are needed: the same call goes on from there.
    """
    alive = [_drawn(problem.others, ladder[0].candidates) for problem in given]
    used: list[dict[str, Run]] = [{} for _ in given]
    kept = [rung.candidates for rung in ladder[1:]] + [1]
    earlier: Rung | None = None
    for rung, number in zip(ladder, kept, strict=True):
        runs: dict[str, Run] = {}
        for problem, candidates, own in zip(given, alive, used, strict=True):
            wave = [_cut(candidate, rung.rounds) for candidate in candidates]
            if earlier is not None:
                shorter = [_cut(candidate, earlier.rounds) for candidate in candidates]
                _go_on(shorter, wave, root)
            if rung is ladder[0]:  # so that a mistake in it shows early
                wave.append(problem.default)
            entered = {run.folder: run for c in wave for run in c.all_runs}
            own |= entered
            runs |= entered
        if not carry_out(list(runs.values())):
            return None
        if any(status(root / folder) not in (FINISHED, FAILED) for folder in runs):
            return None

        def order(candidate: Candidate, rounds: int = rung.rounds):
            return _order(outcome(_cut(candidate, rounds), least_mta, root), least_mta)

        entered_last = alive
        alive = [sorted(candidates, key=order)[:number] for candidates in alive]
        earlier = rung
    answers = []
    for problem, (last,), own, full in zip(
        given, alive, used, entered_last, strict=True
    ):
        answer = _answer(problem, last, list(own.values()), least_mta, root)
        outcomes = [outcome(c, least_mta, root) for c in (problem.default, *full)]
        answers.append(answer._replace(full=tuple(outcomes)))
    return answers


def _go_on(
    shorter: Sequence[Candidate], longer: Sequence[Candidate], root: Path
) -> None:
    """Lets the runs of a rung begin where those of the rung before it ended."""
    for before, after in zip(shorter, longer, strict=True):
        for old, new in zip(before.all_runs, after.all_runs, strict=True):
            begin_from(new.config, root / new.folder, root / old.folder)


def _answer(
    problem: Problem, last: Candidate, used: list[Run], least_mta: float, root: Path
) -> Found:
    """The candidate that came out on top, against the default."""
    default, other = (outcome(c, least_mta, root) for c in (problem.default, last))
    # A candidate that is as bad as the default is not worse.
    worse = _order(other, least_mta)[:2] < _order(default, least_mta)[:2]
    best = other if worse else default
    rounds = problem.default.runs[0].config.rounds
    computed = [r.config.rounds - rounds_before(root / r.folder) for r in used]
    return Found(problem, default, best, used, sum(computed) / rounds)


def _drawn(candidates: list[Candidate], number: int) -> list[Candidate]:
    """So many of the candidates, the same ones in every call."""
    order = np.random.default_rng(0).permutation(len(candidates))
    return [candidates[i] for i in sorted(order[:number])]


def _cut(candidate: Candidate, rounds: int) -> Candidate:
    """The same with runs of so many rounds."""

    def shortened(run: Run) -> Run:
        config = run.config.model_copy(update={"rounds": rounds})
        if config == run.config:
            return run
        name = f"{run.name},rounds={rounds}"
        return Run(name, folder_name(config), config, run.values)

    return candidate._replace(
        runs=[shortened(run) for run in candidate.runs],
        clean=tuple(shortened(run) for run in candidate.clean),
    )


def outcome(candidate: Candidate, least_mta: float, root: Path) -> Outcome:
    """Reads what the runs of a candidate gave.

    Raises:
      InputError: a success rate is undefined, for the test set lacks the victim class.
    """
    done = [status(root / run.folder) == FINISHED for run in candidate.all_runs]
    if not all(done):
        return Outcome(candidate, None, None, None, None, 0)
    folders = [root / run.folder for run in candidate.runs]
    finals = [read_json(folder / "summary.json")["final"] for folder in folders]
    if candidate.clean:
        clean = [
            read_json(root / run.folder / "summary.json")["final"]["mta"]
            for run in candidate.clean
        ]
        attacked = [final["mta"] for final in finals]
        pairs = [(own, own - mta) for own, mta in zip(clean, attacked, strict=True)]
        mta = mean(attacked)
        found = Outcome(candidate, mta, None, None, None, 0, clean_mta=mean(clean))
        return found._replace(by_seed=tuple(pairs))
    for run, final in zip(candidate.runs, finals, strict=True):
        if final["asr"] is None:
            raise InputError(
                f"{run.name}: the attack success rate is undefined: no test image of "
                "the victim class (config.data.num_test)"
            )
    steady = []
    for folder in folders:
        rows = Rows(folder / "metrics.jsonl").read()
        mta, asr = ([row[rate] for row in rows] for rate in ("mta", "asr"))
        steady.append(consistency(mta, asr, least_mta))
    losses = [final["backdoor_loss"] for final in finals]
    known = [s.least_asr for s in steady if s.least_asr is not None]
    return Outcome(
        candidate,
        mta=mean(final["mta"] for final in finals),
        asr=mean(final["asr"] for final in finals),
        backdoor_loss=None if None in losses else mean(losses),
        least_asr=min(known, default=None),
        least_rounds=min(s.rounds for s in steady),
        by_seed=tuple((final["mta"], final["asr"]) for final in finals),
    )


def _order(found: Outcome, least_mta: float) -> tuple[int, float, float]:
    """Acceptable and of much harm first; of equal ones, that of the lower loss."""
    if found.useful_mta is None or found.harm is None:
        return (2, 0.0, 0.0)
    if not found.acceptable(least_mta):
        return (1, -found.useful_mta, 0.0)
    loss = math.inf if found.backdoor_loss is None else found.backdoor_loss
    return (0, -found.harm, loss)
