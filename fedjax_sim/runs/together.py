"""Runs of one program, carried out by one compiled call."""

import time
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Compiled, Traced

from fedjax_sim.core import distributed
from fedjax_sim.core.compiled import compiler_options
from fedjax_sim.experiment.build import Experiment
from fedjax_sim.round.clock import timed
from fedjax_sim.round.execution import Strategy
from fedjax_sim.round.federation import run_rounds
from fedjax_sim.round.state import Inputs
from fedjax_sim.round.twin import couple

PyTree = Any


class Together:
    """Runs of one program: their inputs stacked, their functions over all of them.

    States have a leading axis R, the runs; so has what the functions return.

    Args:
      built: the runs, of one program.
      strategy: how many are stacked, as for clients; None: one after the other on a
        CPU, as many as fit the memory elsewhere.
      clock_origin: `time.monotonic()` to time the phases of rounds against; None
        leaves them untimed.

    Attributes:
      origin: of the clock.
      seconds: that `compile_shapes` and what was tried before it took.
      took: seconds of each program, by name.
    """

    def __init__(
        self,
        built: Sequence[Experiment],
        strategy: Strategy | None,
        clock_origin: float | None = None,
    ):
        first = built[0]
        self.origin, self.seconds = clock_origin, 0.0
        self.took: dict[str, float] = {}
        self._count, self._mesh = len(built), first.mesh
        self._init, self._one_round = couple(
            first.parts, first.twin, timed(clock_origin)
        )
        self._evaluate = first.evaluate
        width = max(one.inputs.data.indices.shape[1] for one in built)
        trees = [(_widened(one.inputs, width), one.test_sets) for one in built]
        self._inputs = _Stacked(trees)
        self._target = first.target
        if self._target.here:
            self._leaves = distributed.replicate(self._inputs.leaves, self._mesh)
        else:
            self._leaves = self._shapes(self._inputs.leaves)
        # Each device of each process holds the whole of what comes out.
        whole = NamedSharding(self._mesh, P()) if self._mesh else None
        options = partial(compiler_options, self._target.backend)
        self._jit = partial(jax.jit, out_shardings=whole, compiler_options=options())
        # A rule that trains before the first round makes that program a long one.
        short = first.parts.sides({}).defense.start is None
        self._initial = self._jit(
            self._over_runs(self._first), compiler_options=options(once=short)
        )
        self._stack = _stack_size(built, strategy)
        self._compiled: dict[str, Compiled] = {}

    def _shapes(self, tree: PyTree) -> PyTree:
        """Shapes of arrays on the devices of the target."""
        where = self._target.whole(self._mesh)
        on_device = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        return jax.tree.map(on_device, jax.eval_shape(lambda x: x, tree))

    def _over_runs(self, function: Callable) -> Callable:
        """`function(inputs, test_sets, *own)` over the runs, given the leaves too."""

        @wraps(function)  # its name is that of the compiled program
        def all_runs(leaves, *own):
            stacked, shared = self._inputs.split(leaves)

            def one(arguments):
                stacked, own = arguments
                return function(*self._inputs.join(stacked, shared), *own)

            if self._count == 1:
                result = one(pick((stacked, own), 0))
                return jax.tree.map(lambda x: x[None], result)
            return _map(one, (stacked, own), self._count, self._stack)

        return all_runs

    def first_states(self, restore: Sequence[Callable[[PyTree], PyTree]]) -> PyTree:
        """The states before the first round, or what `restore` makes of them."""

        init = self._compiled.get("initial") or self._initial
        new = init(self._leaves)
        with distributed.agreement():
            old = [function(pick(new, k)) for k, function in enumerate(restore)]
        stacked = jax.tree.map(lambda *own: np.stack(own), *old)
        return distributed.replicate(distributed.from_leader(stacked), self._mesh)

    def of(self, states: PyTree, k: int) -> PyTree:
        """The states of the k-th run, on this process's devices."""
        return pick(distributed.local(states), k)

    def _first(self, inputs: Inputs, test_sets: PyTree) -> PyTree:
        del test_sets
        return self._init(inputs)

    def traced(self, states: PyTree, capacity: int) -> tuple[Traced, Traced]:
        """Returns the programs of some rounds and of an evaluation, traced.

        Args:
          states: before these rounds, or their shapes.
          capacity: most rounds of a call.
        """

        def some_rounds(inputs, test_sets, states, count):
            del test_sets
            return run_rounds(self._one_round, states, inputs, count, capacity)

        def evaluation(inputs, test_sets, states):
            return self._evaluate(states[0], inputs, test_sets)

        counts: Any = np.zeros(self._count, np.int32)
        if not self._target.here:
            counts = self._shapes(counts)
        step = self._jit(self._over_runs(some_rounds), donate_argnums=1)
        evaluate = self._jit(self._over_runs(evaluation))
        return (
            step.trace(self._leaves, states, counts),
            evaluate.trace(self._leaves, states),
        )

    def programs(self, capacity: int) -> dict[str, Traced]:
        """Returns all programs of the runs by name, traced with shapes only."""
        initial = self._initial.trace(self._leaves)
        states = self._shapes(initial.out_info)
        rounds, evaluation = self.traced(states, capacity)
        return {"initial": initial, "rounds": rounds, "evaluation": evaluation}

    @property
    def stack(self) -> int:
        """How many runs work at the same time."""
        return self._stack

    def resident_bytes(self, states: PyTree) -> int:
        """What stays on each device while the runs last."""
        arrays = jax.tree.leaves(
            jax.eval_shape(lambda *x: x, self._inputs.leaves, states)
        )
        return sum(x.size * _width(x.dtype) for x in arrays)

    def compile_shapes(self, capacity: int) -> dict[str, Traced]:
        """Compiles all programs before there are any states; returns them traced."""
        traced = self.programs(capacity)
        for name, one in traced.items():
            begun = time.monotonic()
            self._compiled[name] = one.lower().compile()
            self.took[name] = time.monotonic() - begun
        return traced

    @property
    def compiled(self) -> dict[str, Compiled]:
        """The programs that `compile_shapes` made."""
        return self._compiled

    def compile(self, states: PyTree, capacity: int) -> tuple[Callable, Callable]:
        """Returns `step(states, rounds i32 [R])` and `evaluate(states)`, compiled.

        `step` gives the states and, of `capacity` rounds, (reports, clock).
        """
        if self._compiled:
            step, evaluate = self._compiled["rounds"], self._compiled["evaluation"]
        else:
            both = self.traced(states, capacity)
            step, evaluate = (one.lower().compile() for one in both)

        def to_host(states, counts):
            states, reports = step(self._leaves, states, counts)
            return states, jax.device_get(reports)

        def of_each(states):
            found = jax.device_get(evaluate(self._leaves, states))
            return [pick(found, k) for k in range(self._count)]

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


def _width(dtype: Any) -> int:
    """Bytes of an element; a key of randomness is two words."""
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize


def _all_equal(column: Sequence[Any]) -> bool:
    first, *others = column
    if jnp.issubdtype(first.dtype, jax.dtypes.prng_key):
        return not others
    return all(other is first or np.array_equal(first, other) for other in others)


def _widened(inputs: Inputs, width: int) -> Inputs:
    """Lets the largest client have `width` samples; what is added is never read."""
    indices = inputs.data.indices
    indices = jnp.pad(indices, [(0, 0), (0, width - indices.shape[1])])
    return inputs._replace(data=inputs.data._replace(indices=indices))


def _stack_size(built: Sequence[Experiment], strategy: Strategy | None) -> int:
    """How many runs work at the same time."""
    if strategy is not None:
        return min(strategy.stack or len(built), len(built))
    target = built[0].target
    if target.backend == "cpu":
        return 1
    room = target.memory // max(built[0].estimated_bytes, 1)
    return max(1, min(int(room), len(built)))


def pick(tree: PyTree, k: int) -> PyTree:
    return jax.tree.map(lambda x: x[k], tree)
