"""The server's part of a round under each defence."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.contracts.defense import (
    Cohort,
    Root,
    RoundContext,
)
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.data.augment import Augmentation
from fedjax_sim.data.normalize import normalization, normalize
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.drop import drop
from fedjax_sim.defenses.flip import flip
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.round.batches import Reader
from fedjax_sim.round.execution import Strategy, auto_lowering
from fedjax_sim.round.training import LocalWork

from .federated import client_program, network_of, train_data
from .timing import best_of

# What these add to a rule is measured by the step: see `bench_defenses`.
_BY_STEPS = ("drop", "fedredefense", "flip")


def bench_defenses(
    only: Sequence[str] | None = None,
    *,
    n: int = 50,
    samples: int = 1000,
    batch: int = 512,
) -> dict[str, Any]:
    """The server's part of a round under each rule: n updates of 1.2 M parameters.

    As in a run, rounds follow each other on the device: what is compared is the time
    of a further round. Of DROP, an iteration of its distillation is measured besides
    (the published budget is 651), and of FLIP the client's batch; FedREDefense's
    iterations are the part `reconstruction`.

    Args:
      only: names of rules; None measures all.
      n: updates.
      samples: of the server, for the rules that have some.
      batch: of DROP's distillation.
    """
    rounds_at_once = 4
    network = network_of("cnn", (32, 32, 3), auto_lowering(jax.default_backend()))
    params = ravel(network.model.init(jax.random.key(0))[0])
    size = network.layout.size
    updates = 0.01 * jax.random.normal(jax.random.key(1), (n, size))
    data = train_data((32, 32, 3), 1, samples)
    reader = Reader(Augmentation(), normalization("half", 3), None)
    images = normalize(data.images, reader.normalization)

    def rounds(one_round, carry, count=rounds_at_once):
        """A function that carries out the next `count` rounds each time."""

        @partial(jax.jit, donate_argnums=0)
        def loop(carry):
            def body(_, carry):
                state, updates, inputs = carry
                # Or the compiler would do a round's work once for all.
                return one_round(state, updates.at[:, 0].add(1e-9), inputs)

            return jax.lax.fori_loop(0, count, body, carry)

        latest = jax.tree.map(jnp.array, carry)

        def go_on():
            nonlocal latest
            latest = loop(latest)
            return latest

        return go_on

    def program(defense, num_rounds=rounds_at_once):
        spec = FederationSpec(
            n, n, n // 5, network.layout, 0, network, jax.random.key(2)
        )
        count = min(defense.root.num_samples, samples) if defense.root else 1

        def one_round(state, updates, inputs):
            params, images, labels = inputs
            context = RoundContext(
                round=jnp.int32(1),
                key=jax.random.key(3),
                global_params=params,
                global_buffers=jnp.zeros(0),
                root=Root(images, labels, lambda model, key: model),
                network=network,
                malicious=jnp.arange(n) < n // 5,
                local_lr=jnp.float32(0.1),
                local_steps=jnp.full(n, 20.0),
            )
            cohort = Cohort(
                updates=updates,
                buffers=jnp.zeros((n, 0)),
                weights=jnp.ones(n),
                client_ids=jnp.arange(n),
                num_examples=jnp.full(n, 500),
                scores={},
            )
            state, judged, result = defense.aggregate(state, cohort, context)
            model = GlobalModel(params + result.update, result.buffers)
            state, model = defense.after(state, model, judged, context)
            # In a run too, nobody needs the updates as they were sent any more.
            return state, judged.updates, (model.params, images, labels)

        state = jax.tree.map(jnp.asarray, defense.init(spec))
        inputs = params, images[:count], data.labels[:count]
        return rounds(one_round, (state, updates, inputs), num_rounds)

    def mean_round(state, updates, params):
        return state, updates, params + jnp.full(n, 1 / n) @ updates

    mean = rounds(mean_round, ((), updates, params))
    chosen = set(DEFENSES if only is None else only)
    names = [name for name in DEFENSES if name in chosen and name not in _BY_STEPS]
    rows = {}
    print(f"\nserver rules, {n} updates of {size} parameters (training apart)")
    for name in names:
        rule = program(DEFENSES[name].factory())
        seconds = best_of({name: rule, "mean": mean}, 4)
        own, plain = (seconds[rule] / rounds_at_once for rule in (name, "mean"))
        rows[name] = {"ms": 1e3 * own, "times_mean": own / plain}
        print(f"  {name}: {rows[name]['ms']:.1f} ms, {rows[name]['times_mean']:.1f} x")

    if "drop" in chosen:
        iteration = batch * (5 - 1 + 11)  # queries, at the published steps
        once, twice = (
            program(
                drop(
                    budget=times * iteration,
                    batch_size=batch,
                    num_seed=samples,
                    every=1,
                ),
                1,
            )
            for times in (1, 2)
        )
        seconds = best_of({"once": once, "twice": twice}, 1)
        rows["drop"] = {"s_per_iteration": seconds["twice"] - seconds["once"]}
        print(
            f"  drop: droplet, and {rows['drop']['s_per_iteration']:.2f} s per "
            f"iteration of a distillation from {n} teachers (batch {batch})"
        )
    if "flip" in chosen:
        rows["flip"] = flip_cost(network)
        print(
            f"  flip: fedavg, and {rows['flip']['ms_per_step']:.0f} ms per batch of a "
            f"client, {rows['flip']['times_plain']:.0f} x a plain step (batch 32)"
        )
    return rows


def flip_cost(network: Network, batch: int = 32) -> dict[str, float]:
    """A benign client's batch under FLIP, over ten of warm-up and ten of a pair."""
    steps = 20
    defense = flip(start_round=1)
    spec = FederationSpec(1, 1, 10, network.layout, 0, network, jax.random.key(0))
    assert defense.client_side is not None and defense.client_side.training is not None
    own = defense.client_side.training
    memory = jax.tree.map(lambda x: x[0], own.init(spec))
    channels = network.image_shape[-1]
    gradient = own.gradient(network, normalization("half", channels))
    data = train_data(network.image_shape, 1, batch * steps)
    params = ravel(network.model.init(jax.random.key(0))[0])
    program = partial(
        client_program,
        network.model,
        network.layout,
        {},
        LocalWork(batch),
        Strategy(1),
        data,
        1,
    )
    plain, guarded = program(), program(gradient, memory)
    calls = {
        "plain": lambda: plain(data, params),
        "guarded": lambda: guarded(data, params),
    }
    seconds = best_of(calls, 1)
    return {
        "ms_per_step": 1e3 * seconds["guarded"] / steps,
        "times_plain": seconds["guarded"] / seconds["plain"],
    }
