"""A recorded round once more, to see what a run does not keep: the clients' updates."""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.defense import Defense, with_score
from fedjax_sim.core.checkpoint import Checkpoints
from fedjax_sim.core.compiled import compiler_options
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.config import resolve
from fedjax_sim.experiment.data import load_data
from fedjax_sim.round.clock import timed
from fedjax_sim.round.federation import run_rounds
from fedjax_sim.round.state import FedState
from fedjax_sim.round.twin import couple
from fedjax_sim.runs.files import Lock, Rows, read_json

# Between the norms of a recorded and of a replayed update: the round runs in another
# program than it did then, and rounds otherwise.
_TOLERANCE = 1e-3


class Replayed(NamedTuple):
    """What the server received in a round, and what it made of it; n clients."""

    round: int
    client_ids: np.ndarray  # int [n]
    malicious: np.ndarray  # bool [n], attacking in this round
    excluded: np.ndarray  # bool [n], weight 0 in the aggregate
    updates: np.ndarray  # f32 [n, d], as they were sent


def replay(workdir: Path, round_index: int | None = None) -> Replayed:
    """Computes a round of a run again, from the nearest checkpoint before it.

    Rounds without a checkpoint right before them are reached by running those between.
    The files of the run are left as they are.

    Args:
      workdir: of the run.
      round_index: from 1; None takes the last one.

    Raises:
      InputError: no such run or round, another process works there, or the round comes
        out otherwise than recorded (other software, another machine).
    """
    if not (workdir / "config.json").exists():
        raise InputError(f"--run={workdir}: there is no run (no config.json)")
    rows = {row["round"]: row for row in Rows(workdir / "rounds.jsonl").read()}
    if not rows or round_index not in (None, *rows):
        recorded = f"1 to {max(rows)}" if rows else "none"
        raise InputError(
            f"--round={round_index}: the run has recorded these rounds: {recorded}"
        )
    row = rows[round_index or max(rows)]
    config = resolve(read_json(workdir / "config.json"))
    dataset = load_data(config)
    lock = Lock(workdir)
    try:
        state = _state_before(row["round"], config, dataset, workdir)
    finally:
        lock.release()
    recording = build(config, dataset, adapt=_recording)
    one_round = jax.jit(
        recording.round_step, compiler_options=compiler_options(jax.default_backend())
    )
    _, report = one_round(state, recording.inputs)
    report = jax.device_get(report)
    here = report.present
    found = Replayed(
        round=row["round"],
        client_ids=report.client_ids[here],
        malicious=(report.malicious & report.active)[here],
        excluded=report.weights[here] == 0,
        updates=report.scores["updates"][here],
    )
    _compare(row, found, workdir)
    return found


def _recording(defense: Defense) -> Defense:
    """The same defence, with the updates it is given in the report."""

    def aggregate(state, cohort, context):
        updates = cohort.updates
        state, cohort, result = defense.aggregate(state, cohort, context)
        return state, with_score(cohort, "updates", updates), result

    return defense._replace(aggregate=aggregate)


def _state_before(
    round_index: int, config: Config, dataset: Dataset, workdir: Path
) -> FedState:
    built = build(config, dataset)
    inputs = built.inputs
    # With a clock, as the run itself: the same program rounds the same way.
    origin = time.monotonic() if config.execution.clock else None
    one_round = timed(origin)(built.parts)
    init, _ = couple(built.parts, built.twin, timed(origin))
    short = built.parts.sides({}).defense.start is None  # as in `runs.together`
    options = compiler_options(jax.default_backend(), once=short)
    states = jax.jit(init, compiler_options=options)(inputs)
    checkpoints = Checkpoints(workdir / "checkpoints")
    done = max((r for r in checkpoints.rounds() if r < round_index), default=0)
    if done:
        states = jax.tree.map(
            lambda new, old: jax.device_put(new, old.sharding),
            checkpoints.restore(done, states),
            states,
        )
    checkpoints.close()
    capacity = min(config.evaluation.every, config.rounds)

    @partial(jax.jit, compiler_options=compiler_options(jax.default_backend()))
    def advance(state, inputs, count):
        return run_rounds(one_round, state, inputs, count, capacity)

    state = states[0]
    while done < round_index - 1:
        count = min(capacity, round_index - 1 - done)
        state, _ = advance(state, inputs, jnp.int32(count))
        done += count
    return state


def _compare(row, found: Replayed, workdir: Path) -> None:
    norms = np.linalg.norm(found.updates.astype(np.float64), axis=1)
    recorded = np.array([np.nan if n is None else n for n in row["update_norms"]])
    norms[~np.isfinite(norms)] = np.nan  # as they are recorded
    same = row["clients"] == found.client_ids.tolist() and np.allclose(
        norms, recorded, rtol=_TOLERANCE, equal_nan=True
    )
    if not same:
        raise InputError(
            f"--run={workdir}: round {found.round} comes out otherwise than it was "
            "recorded; replay it with the software and on the machine of "
            "provenance.json"
        )
