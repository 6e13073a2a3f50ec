"""Running: loop, evaluate, record, survive a kill.

Runs that share a program (`fedjax_sim.experiment.program`) may be carried out together:
one compiled call advances all of them. Each keeps a run directory of its own
(`fedjax_sim.runs.record`), from which it may be resumed alone or in other company.
"""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_sim.core import distributed
from fedjax_sim.core.progress import Progress
from fedjax_sim.experiment import build as experiment
from fedjax_sim.experiment import memory, program
from fedjax_sim.experiment.build import Experiment
from fedjax_sim.experiment.config import Config, flatten, to_dict
from fedjax_sim.round import federation as fed
from fedjax_sim.round.execution import Strategy
from fedjax_sim.runs.directory import plain
from fedjax_sim.runs.record import NoRecord, Record

PyTree = Any

EXIT_INTERRUPTED = 75  # a checkpoint was written, the same command resumes
SECONDS_PER_CALL = (
    20.0  # the device returns at least so often: a signal waits no longer
)


class Job(NamedTuple):
    """A run to carry out."""

    config: Config
    workdir: Path  # created if missing; see `fedjax_sim.runs.directory` for its files
    name: str = "run"  # for messages and the summary


def run(config: Config, workdir: Path, name: str = "run") -> tuple[int, dict]:
    """Runs a config in a directory, or goes on with what is there.

    Returns:
      (exit code, summary); the code is `EXIT_INTERRUPTED` after SIGTERM or SIGINT,
      and the summary then is empty.

    Raises:
      InputError: see `experiment.build`; also a directory in use, or of another config.
    """
    return run_together([Job(config, workdir, name)])[0]


def run_together(
    jobs: Sequence[Job], strategy: Strategy | None = None
) -> list[tuple[int, dict]]:
    """Carries out runs that share a program, compiled once.

    They may have come to different rounds: those behind catch up first. Results equal
    those of each run alone up to the rounding of differently compiled loops.

    Args:
      jobs: runs of one `program.identity`.
      strategy: how many are stacked, as for clients; None: one after the other on a
        CPU, as many as fit the memory elsewhere.

    Returns:
      What `run` returns, for each job.

    Raises:
      InputError: see `run`.
      ValueError: the runs do not share a program.
    """
    if len({program.identity(job.config) for job in jobs}) > 1:
        raise ValueError("runs with different programs cannot be carried out together")
    with ExitStack() as stack:
        interrupt = stack.enter_context(_Interrupt())
        with distributed.agreement():
            records = [stack.enter_context(_record(job)) for job in jobs]
        finished = [record.summary is not None for record in records]
        finished = distributed.from_leader(finished)
        for record, known in zip(records, finished, strict=True):
            if known and record.summary is None:  # a process that follows
                record.summary = {}
        waiting = [record for record in records if record.summary is None]
        for record in records:
            if record not in waiting:
                record.say_finished()
        _carry_out(waiting, strategy, interrupt)
        return [
            (EXIT_INTERRUPTED, {}) if record.summary is None else (0, record.summary)
            for record in records
        ]


def _record(job: Job) -> Record | NoRecord:
    return Record(*job) if distributed.is_leader() else NoRecord(job.config)


def _carry_out(
    records: Sequence[Record], strategy: Strategy | None, interrupt: "_Interrupt"
) -> None:
    """Opens the records, and runs as many at a time as the memory holds."""
    if not records:
        return
    origin = time.monotonic()
    with distributed.agreement() as found:
        dataset = experiment.load_data(records[0].config)
        built = [experiment.build(r.config, dataset, origin) for r in records]
        for record, one in zip(records, built, strict=True):
            record.open(one.facts)
        found.facts = plain([[_numbers(one.config), one.facts] for one in built])
    rounds = distributed.from_leader([record.done for record in records])
    for record, done in zip(records, rounds, strict=True):
        record.done = int(done)
    fitting = memory.available_bytes() // max(built[0].estimated_bytes, 1)
    fitting = distributed.smallest(min(max(1, fitting), len(records)))
    for i in range(0, len(records), fitting):
        part = slice(i, i + fitting)
        if not _loop(records[part], built[part], strategy, origin, interrupt):
            break
    for record in records:
        if record.summary is None:
            record.say_interrupted()


def _numbers(config: Config) -> dict[str, Any]:
    """The config without the place of the data, in which processes may differ."""
    values = flatten(to_dict(config))
    del values["data.data_dir"]
    return values


def _loop(
    records: Sequence[Record],
    built: Sequence[Experiment],
    strategy: Strategy | None,
    origin: float,
    interrupt: "_Interrupt",
) -> bool:
    """Runs to the end or to a signal; returns whether to the end."""
    together = _Together(built, strategy)
    states = together.first_states([record.restore for record in records])

    config = records[0].config
    every, by_rounds = config.evaluation.every, config.checkpoint.every_rounds
    begun = time.monotonic()
    step, evaluate = together.compile(states, capacity=min(every, config.rounds))
    for record in records:
        record.add_seconds(compile=(time.monotonic() - begun) / len(records))

    saved_at = time.monotonic()
    pace: float | None = None
    name = records[0].name
    if len(records) > 1:
        name += f" and {len(records) - 1} more"
    behind = min(record.done for record in records)
    progress = Progress(name, config.rounds, behind, bar=distributed.is_leader())
    stop = distributed.any_process(interrupt.requested)
    with progress:
        while not stop and behind < config.rounds:
            until = min((behind // every + 1) * every, config.rounds)
            # Cut long calls, so that signals and checkpoints need not wait.
            limit = 1 if pace is None else max(1, int(SECONDS_PER_CALL / pace))
            counts = []
            for record in records:
                count = min(max(until - record.done, 0), limit)
                if by_rounds is not None:
                    count = min(count, by_rounds - record.done % by_rounds)
                counts.append(count)
            counts = [int(count) for count in distributed.from_leader(counts)]
            begun = time.monotonic()
            states, reports = step(states, np.array(counts, np.int32))
            pace = (time.monotonic() - begun) / max(counts)
            stop = distributed.any_process(interrupt.requested)
            own = distributed.local(states)
            phases = _phases(reports.clock, counts, begun - origin)
            moved = [k for k, count in enumerate(counts) if count]
            for k in moved:
                records[k].add_rounds(_pick(reports, k), counts[k])
                records[k].add_seconds(**{p: t / len(moved) for p, t in phases.items()})
            arrived = [k for k in moved if records[k].done == until]
            if arrived:
                begun = time.monotonic()
                found = evaluate(states)
                took = (time.monotonic() - begun) / len(arrived)
                for k in arrived:
                    records[k].add_seconds(evaluate=took)
                    records[k].add_evaluation(found[k], _pick(own, k))
                progress.show(until, [records[k].last for k in arrived])
            behind = min(record.done for record in records)
            progress.advance(behind)
            timely = time.monotonic() - saved_at >= config.checkpoint.every_seconds
            for k, record in enumerate(records):
                whole = by_rounds is not None and record.done % by_rounds == 0
                if timely or whole or stop or record.done == config.rounds:
                    record.save(_pick(own, k))
            if timely:
                saved_at = time.monotonic()
    for k, record in enumerate(records):
        if record.done < config.rounds:
            continue
        expelled = None
        if together.federation.can_expel:
            main, inputs = distributed.local((_pick(states, k)[0], built[k].inputs))
            expelled = ~np.asarray(together.federation.eligible(main, inputs))
        record.finish(np.asarray(built[k].inputs.malicious), expelled)
    return all(record.summary is not None for record in records)


class _Interrupt:
    """Remembers SIGTERM and SIGINT until the loop can stop; a second acts at once."""

    def __enter__(self):
        self.requested = False
        self._old = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._old[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller handles signals
                break
        return self

    def _note(self, number, frame):
        del frame
        if self.requested:  # the user cannot wait for the compiler
            self.__exit__()
            signal.raise_signal(number)
        self.requested = True

    def __exit__(self, *exc):
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _phases(clock: np.ndarray, counts: Sequence[int], begun: float) -> dict[str, float]:
    """Returns the seconds that all runs trained and defended.

    Args:
      clock: i32 [R, capacity, 2, 2], (s, us) at the end of each phase of a round.
      counts: rounds of each run.
      begun: of the call, on the same clock.
    """
    ends = [clock[k, :count].reshape(-1, 2) for k, count in enumerate(counts)]
    times = np.concatenate([x[:, 0] + x[:, 1] / 1e6 for x in ends])
    phase = np.arange(len(times)) % 2  # training, then defence
    order = np.argsort(times, kind="stable")  # runs side by side end together
    spans = np.diff(times[order], prepend=begun).clip(0)
    return {
        name: float(spans[phase[order] == index].sum())
        for index, name in enumerate(("train", "defend"))
    }


# --------------------------------------------------------------------- together


class _Together:
    """Runs of one program: their inputs stacked, their functions over all of them.

    States have a leading axis R, the runs; so has what the functions return.
    """

    def __init__(self, built: Sequence[Experiment], strategy: Strategy | None):
        first = built[0]
        self._count, self._mesh = len(built), first.mesh
        self.federation = first.federation
        self._init, self._round_step = fed.couple(first.federation, first.twin)
        self._evaluate = first.evaluate
        width = max(one.inputs.data.indices.shape[1] for one in built)
        trees = [(_widened(one.inputs, width), one.test_sets) for one in built]
        self._inputs = _Stacked(trees)
        self._leaves = distributed.replicate(self._inputs.leaves, self._mesh)
        # Each device of each process holds the whole of what comes out.
        whole = NamedSharding(self._mesh, P()) if self._mesh else None
        self._jit = partial(jax.jit, out_shardings=whole)
        self._stack = _stack_size(built, strategy)

    def _over_runs(self, function: Callable) -> Callable:
        """`function(inputs, test_sets, *own)` over the runs, given the leaves too."""

        @wraps(function)  # its name is that of the compiled program
        def all_runs(leaves, *own):
            stacked, shared = self._inputs.split(leaves)

            def one(arguments):
                stacked, own = arguments
                return function(*self._inputs.join(stacked, shared), *own)

            if self._count == 1:
                result = one(_pick((stacked, own), 0))
                return jax.tree.map(lambda x: x[None], result)
            return _map(one, (stacked, own), self._count, self._stack)

        return all_runs

    def first_states(self, restore: Sequence[Callable[[PyTree], PyTree]]) -> PyTree:
        """The states before the first round, or what `restore` makes of them."""

        def init(inputs, test_sets):
            del test_sets
            return self._init(inputs)

        new = self._jit(self._over_runs(init))(self._leaves)
        with distributed.agreement():
            old = [function(_pick(new, k)) for k, function in enumerate(restore)]
        stacked = jax.tree.map(lambda *own: np.stack(own), *old)
        return distributed.replicate(distributed.from_leader(stacked), self._mesh)

    def compile(self, states: PyTree, capacity: int) -> tuple[Callable, Callable]:
        """Returns `step(states, rounds i32 [R])` and `evaluate(states)`, compiled."""

        def some_rounds(inputs, test_sets, states, count):
            del test_sets
            return fed.run_rounds(self._round_step, states, inputs, count, capacity)

        def evaluation(inputs, test_sets, states):
            return self._evaluate(states[0], inputs, test_sets)

        counts = np.zeros(self._count, np.int32)
        some_rounds, evaluation = map(self._over_runs, (some_rounds, evaluation))
        step = self._jit(some_rounds, donate_argnums=1)
        step = step.lower(self._leaves, states, counts).compile()
        evaluate = self._jit(evaluation).lower(self._leaves, states).compile()

        def to_host(states, counts):
            states, reports = step(self._leaves, states, counts)
            return states, jax.device_get(reports)

        def of_each(states):
            found = jax.device_get(evaluate(self._leaves, states))
            return [_pick(found, k) for k in range(self._count)]

        return to_host, of_each


def _map(function: Callable, tree: PyTree, count: int, stack: int) -> PyTree:
    """`function` of each of `count` slices of a tree, `stack` at a time."""
    if stack == 1:
        return lax.map(function, tree)
    rows = -(-count // stack)
    stack = -(-count // rows)  # as even as possible; the last run fills the last row
    places = np.minimum(np.arange(rows * stack), count - 1).reshape(rows, stack)
    results = lax.map(jax.vmap(function), jax.tree.map(lambda leaf: leaf[places], tree))
    together = lambda x: x.reshape(rows * stack, *x.shape[2:])[:count]
    return jax.tree.map(together, results)


class _Stacked:
    """Trees of one structure as one list of leaves: stacked, or once where equal."""

    def __init__(self, trees: Sequence[PyTree]):
        flat = [jax.tree.flatten(tree) for tree in trees]
        self._structure = flat[0][1]
        columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
        self._differs = [not _all_equal(column) for column in columns]
        self.leaves = [
            jnp.stack(column) if differs else column[0]
            for column, differs in zip(columns, self._differs, strict=True)
        ]

    def split(self, leaves: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Returns the stacked and the shared ones of the leaves."""
        pairs = list(zip(leaves, self._differs, strict=True))
        return [x for x, own in pairs if own], [x for x, own in pairs if not own]

    def join(self, stacked: Sequence[Array], shared: Sequence[Array]) -> PyTree:
        """Returns the tree of one run: of `stacked`, its slice."""
        sources = {True: iter(stacked), False: iter(shared)}
        leaves = [next(sources[differs]) for differs in self._differs]
        return jax.tree.unflatten(self._structure, leaves)


def _all_equal(column: Sequence[Any]) -> bool:
    first, *others = column
    if jnp.issubdtype(first.dtype, jax.dtypes.prng_key):
        return not others
    return all(other is first or np.array_equal(first, other) for other in others)


def _widened(inputs: fed.Inputs, width: int) -> fed.Inputs:
    """Lets the largest client have `width` samples; what is added is never read."""
    indices = inputs.data.indices
    indices = jnp.pad(indices, [(0, 0), (0, width - indices.shape[1])])
    return inputs._replace(data=inputs.data._replace(indices=indices))


def _stack_size(built: Sequence[Experiment], strategy: Strategy | None) -> int:
    """How many runs work at the same time."""
    if strategy is not None:
        return min(strategy.stack or len(built), len(built))
    if jax.default_backend() == "cpu":
        return 1
    room = memory.available_bytes() // max(built[0].estimated_bytes, 1)
    return max(1, min(int(room), len(built)))


def _pick(tree: PyTree, k: int) -> PyTree:
    return jax.tree.map(lambda x: x[k], tree)
