"""Layouts of the work: the same results whatever the stack, the place, the device."""

import json
import os
import subprocess
import sys
import textwrap
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.client import ClientTask
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.augment import Augmentation
from fedjax_sim.data.normalize import normalization
from fedjax_sim.models import build
from fedjax_sim.round import training
from fedjax_sim.round.batches import Reader, TrainData
from fedjax_sim.round.execution import (
    Strategy,
    auto_strategy,
    parse_strategy,
    run_clients,
)
from fedjax_sim.round.training import LocalWork

COUNTS = (7, 0, 3, 12, 5, 1, 9)
WORK = LocalWork(batch_size=4, epochs=2)

# Tests compile more than they compute: leave out the compiler's slow passes.
quick_jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def make_problem():
    """Seven clients of very different size, and a small network."""
    rng = np.random.default_rng(0)
    shape, total = (4, 4, 1), sum(COUNTS)
    indices = np.zeros((len(COUNTS), max(COUNTS)), np.int32)
    start = 0
    for row, count in zip(indices, COUNTS, strict=True):
        row[:count] = np.arange(start, start + count)
        start += count
    data = TrainData(
        images=jnp.asarray(rng.integers(0, 256, (total, *shape)), jnp.uint8),
        labels=jnp.asarray(rng.integers(0, 3, total), jnp.int32),
        indices=jnp.asarray(indices),
        counts=jnp.asarray(COUNTS, jnp.int32),
        poison_plan=(),
    )
    model = build("mlp", num_classes=3, image_shape=shape, width=6)
    return model, data


def make_tasks(ids, present=None):
    ids = jnp.asarray(ids, jnp.int32)
    return ClientTask(
        client_id=ids,
        malicious=jnp.zeros(len(ids), bool),
        present=jnp.ones(len(ids), bool) if present is None else jnp.asarray(present),
        round=jnp.ones(len(ids), jnp.int32),
        key=jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), ids),
    )


@cache
def trainer():
    """Returns (data and global params, training of one client)."""
    model, data = make_problem()
    params, buffers = model.init(jax.random.key(1))

    def train(shared, task):
        data, params = shared
        local, _, loss, *_ = training.train_client(
            reader=Reader(Augmentation(), normalization("half", 1), None),
            work=WORK,
            gradient=training.batch_gradient(model, None),
            optimizer=training.sgd(0.1, 0.9, 0.01),
            data=data,
            params=params,
            buffers=buffers,
            task=task,
        )
        return local, loss

    return (data, params), train


@cache
def runner(strategy, mesh):
    """Returns (data and global params, compiled function of them and the tasks)."""
    shared, train = trainer()

    @quick_jit
    def run_all(shared, tasks):
        data = shared[0]
        counts = jnp.where(tasks.present, data.counts[tasks.client_id], 0)
        steps = training.num_steps(WORK, counts)
        return run_clients(train, shared, tasks, steps, strategy=strategy, mesh=mesh)

    return shared, run_all


def run(strategy, ids, present=None, mesh=None):
    """Returns (params, loss) of every client, with a leading axis of clients."""
    shared, run_all = runner(strategy, mesh)
    return run_all(shared, make_tasks(ids, present))


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5),
        actual,
        expected,
    )


EVERYONE = list(range(len(COUNTS)))
STRATEGIES = ["map", "chunk:2", "chunk:3", "chunk:7", "chunk:50", "vmap"]


@pytest.fixture(scope="module")
def alone():
    """Every client trained by itself, one call after the other."""
    shared, train = trainer()
    train = quick_jit(train)
    tasks = make_tasks(EVERYONE)
    one_by_one = [
        train(shared, jax.tree.map(lambda x, i=i: x[i], tasks)) for i in EVERYONE
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)


def test_clients_differ_and_the_empty_one_stays(alone):
    params, loss = alone
    start, _ = make_problem()[0].init(jax.random.key(1))
    kernel = params["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel[1], start["fc1"]["kernel"])
    moved = np.asarray((kernel != start["fc1"]["kernel"]).any((1, 2)))
    assert moved.tolist() == [count > 0 for count in COUNTS]
    assert np.isnan(loss).tolist() == [count == 0 for count in COUNTS]


@pytest.mark.parametrize("text", STRATEGIES)
def test_all_strategies_give_the_same_results(text, alone):
    assert_close(run(parse_strategy(text), EVERYONE), alone)


@pytest.mark.parametrize("text", ["map", "chunk:3", "vmap"])
def test_results_do_not_depend_on_the_place_in_the_cohort(text, alone):
    order = [4, 0, 6, 1, 3, 5, 2]
    expected = jax.tree.map(lambda x: x[np.array(order)], alone)
    assert_close(run(parse_strategy(text), order), expected)


@pytest.mark.parametrize("text", ["map", "chunk:2", "vmap"])
def test_results_do_not_depend_on_the_company(text, alone):
    few = [3, 5]
    expected = jax.tree.map(lambda x: x[np.array(few)], alone)
    assert_close(run(parse_strategy(text), few), expected)


@pytest.mark.parametrize("text", ["map", "chunk:3", "vmap"])
def test_empty_places_train_nothing(text, alone):
    present = [True, True, False, False, True, True, True]
    params, loss = run(parse_strategy(text), EVERYONE, present)
    start, _ = make_problem()[0].init(jax.random.key(1))
    for place in (2, 3):
        np.testing.assert_array_equal(
            params["fc2"]["kernel"][place], start["fc2"]["kernel"]
        )
    assert np.isnan(loss)[[1, 2, 3]].all()
    rest = np.array([0, 4, 5, 6])
    assert_close(
        jax.tree.map(lambda x: x[rest], (params, loss)),
        jax.tree.map(lambda x: x[rest], alone),
    )


MANY_DEVICES = """
    import json, sys
    import jax
    jax.config.update("jax_num_cpu_devices", 8)
    import numpy as np
    from jax.sharding import Mesh
    sys.path.insert(0, {folder!r})
    import test_execution as t

    answer = {{"devices": len(jax.devices())}}
    for devices in (2, 8):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("clients",))
        for text in ("map", "chunk:2", "vmap"):
            params, loss = t.run(t.parse_strategy(text), t.EVERYONE, mesh=mesh)
            leaves = [np.asarray(x).ravel().tolist() for x in jax.tree.leaves(params)]
            loss = [None if np.isnan(x) else float(x) for x in loss]
            answer[f"{{devices}} {{text}}"] = [leaves, loss]
    print(json.dumps(answer))
"""


def test_eight_devices_equal_one(alone):
    script = textwrap.dedent(MANY_DEVICES).format(folder=os.path.dirname(__file__))
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer.pop("devices") == 8
    assert len(answer) == 6
    params, loss = alone
    expected = [np.asarray(x).ravel() for x in jax.tree.leaves(params)]
    for name, (leaves, losses) in answer.items():
        for leaf, wanted in zip(leaves, expected, strict=True):
            np.testing.assert_allclose(leaf, wanted, atol=2e-6, err_msg=name)
        losses = [np.nan if x is None else x for x in losses]
        np.testing.assert_allclose(losses, loss, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("text", "stack"), [("vmap", None), ("map", 1), ("chunk:1", 1), ("chunk:12", 12)]
)
def test_strategies_are_read_from_text(text, stack):
    assert parse_strategy(text) == Strategy(stack)


@pytest.mark.parametrize(
    "text",
    ["", "Map", "chunk", "chunk:", "chunk:0", "chunk:-1", "chunk:2.5", "chunk:2 "],
)
def test_unknown_strategies_are_refused(text):
    with pytest.raises(InputError, match="chunk:K") as error:
        parse_strategy(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


def test_auto_maps_on_a_cpu_and_stacks_elsewhere():
    assert auto_strategy("cpu").stack == 1
    assert auto_strategy("gpu").stack > 1
