"""Measures this machine: python launch/bench.py [--json=FILE] [--only=NAME,...].

Parts: peak, clients, waste, order, gram, round, population, defenses, reconstruction,
runs.
Everything is measured in one process; what is compared runs alternately, and the best
of several repetitions counts. With PyTorch installed (`pip install
'fedjax_sim[bench]'`), the part `clients` also runs the same model and data as a
sequential eager loop.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from fedjax_sim import models
from fedjax_sim.attacks import none
from fedjax_sim.commands.run import resolve_variants
from fedjax_sim.contracts.defense import (
    Cohort,
    FederationSpec,
    GlobalModel,
    Root,
    RoundContext,
)
from fedjax_sim.data import partition as partitions
from fedjax_sim.data.augment import Augmentation
from fedjax_sim.data.normalize import normalization, normalize
from fedjax_sim.data.synthetic import load_synthetic
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.drop.drop import drop
from fedjax_sim.defenses.fedavg import fedavg
from fedjax_sim.defenses.flip.flip import flip
from fedjax_sim.defenses.parts.reconstruction import (
    Knowledge,
    Rates,
    reconstruct,
    reconstruction_error,
)
from fedjax_sim.experiment.config import load_file, resolve
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.distances import squared_distances
from fedjax_sim.numerics.flat import flat_layout, ravel
from fedjax_sim.participation import sampling
from fedjax_sim.round import federation as fed
from fedjax_sim.round import training
from fedjax_sim.round.batches import Reader, TrainData
from fedjax_sim.round.execution import Strategy, auto_lowering, run_clients
from fedjax_sim.round.training import ClientTask, LocalWork
from fedjax_sim.runs import loop as runner

_JSON = flags.DEFINE_string("json", None, "Also write the results to this file.")
_ONLY = flags.DEFINE_list("only", None, "Run these parts only.")
_MODELS = flags.DEFINE_list("models", None, "Measure these models only.")

# name -> (model, options, image shape, batch size, clients, steps)
MODELS = {
    "cnn 28x28x1": ("cnn", {}, (28, 28, 1), 32, 8, 10),
    "wide_cnn 28x28x1 same": ("wide_cnn", {"padding": 1}, (28, 28, 1), 32, 8, 10),
    "cnn 32x32x3": ("cnn", {}, (32, 32, 3), 32, 8, 10),
    "convnet 32x32x3": ("convnet", {}, (32, 32, 3), 32, 4, 4),
    "resnet18 32x32x3": ("resnet18", {}, (32, 32, 3), 64, 2, 3),
}


def best_of(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds per call: each runs once to warm up, then all alternate.

    After half a minute no further repetition begins.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    best = dict.fromkeys(functions, float("inf"))
    started = time.perf_counter()
    for _ in range(repeats):
        for name, function in functions.items():
            begun = time.perf_counter()
            jax.block_until_ready(function())
            best[name] = min(best[name], time.perf_counter() - begun)
        if time.perf_counter() - started > 30:
            break
    return best


@cache
def large_matmul() -> tuple[Callable[[], jax.Array], int]:
    """A float32 matmul that runs at the machine's peak, and its arithmetic."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    return lambda: multiply(a), 2 * size**3


def matmul_peak() -> float:
    """FLOP/s of a large float32 matmul."""
    return beside_peak({}, 20)[1]


def beside_peak(
    functions: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], float]:
    """`best_of`, and the peak in the same minutes: what it was before tells little."""
    multiply, flops = large_matmul()
    seconds = best_of({**functions, "": multiply}, repeats)
    return seconds, flops / seconds.pop("")


def memory_bandwidth() -> float:
    """Bytes per second read by a sum over 100 MB."""
    x = jnp.ones(25_000_000)
    total = jax.jit(lambda x: x.reshape(-1, 10_000).sum(0))
    return x.nbytes / best_of({"": lambda: total(x)}, 20)[""]


def forward_flops(model: models.Model, shape: tuple[int, ...]) -> list[int]:
    """Arithmetic of each matmul of a forward pass on one image."""
    params, buffers = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    forward = lambda p, b, x: model.apply(p, b, x, train=False)[0]
    return matmul_flops(forward, params, buffers, image)


def matmul_flops(function: Callable, *arguments: Any) -> list[int]:
    """Arithmetic of each matmul of a function without loops."""
    found: list[int] = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (left, _), _ = equation.params["dimension_numbers"]
                inner = np.prod([equation.invars[0].aval.shape[i] for i in left])
                found.append(int(2 * inner * equation.outvars[0].aval.size))
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):
                    visit(value.jaxpr)
                elif hasattr(value, "eqns"):
                    visit(value)

    visit(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


def step_flops(model: models.Model, shape: tuple[int, ...], batch: int) -> int:
    """A forward pass and two backward ones, without the gradient of the images."""
    forward = forward_flops(model, shape)
    return batch * (3 * sum(forward) - forward[0])


def client_program(
    model, layout, buffers, work, strategy, data, count, gradient=None, memory=None
):
    """One jitted program that trains `count` clients."""
    norm = normalization("half", data.images.shape[-1])
    reader = Reader(Augmentation(), norm, None)
    gradient = gradient or training.batch_gradient(model, work.microbatch)

    def train(shared, task):
        data, params = shared
        local, *_ = training.train_client(
            reader=reader,
            work=work,
            gradient=gradient,
            optimizer=training.sgd(0.01, 0.9, 0.0),
            data=data,
            params=layout.unravel(params),
            buffers=buffers,
            task=task,
            memory=memory,
        )
        return ravel(local) - params

    @jax.jit
    def program(data, params):
        ids = jnp.arange(count)
        tasks = ClientTask(
            client_id=ids,
            malicious=jnp.zeros(count, bool),
            present=jnp.ones(count, bool),
            round=jnp.ones(count, jnp.int32),
            key=jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), ids),
        )
        steps = training.num_steps(work, data.counts[ids])
        return run_clients(train, (data, params), tasks, steps, strategy=strategy)

    return program


def train_data(shape, clients, samples_each, labels=10) -> TrainData:
    """Synthetic images, `samples_each` for every client."""
    height, width, channels = shape
    data = load_synthetic(
        num_train=clients * samples_each,
        num_test=10,
        num_classes=labels,
        height=height,
        width=width,
        channels=channels,
    )
    indices = np.arange(clients * samples_each, dtype=np.int32)
    return jax.device_put(
        TrainData(
            data.train_images,
            data.train_labels,
            indices.reshape(clients, samples_each),
            np.full(clients, samples_each, np.int32),
            (),
        )
    )


def bench_clients() -> dict[str, Any]:
    """Client steps per second of each model under each strategy."""
    results = {}
    cpu = jax.default_backend() == "cpu"
    for label, (name, options, shape, batch, clients, steps) in MODELS.items():
        if _MODELS.value and name not in _MODELS.value:
            continue
        data = train_data(shape, clients, batch * steps)
        programs = {}
        for lowering in ("winograd", "blocked", "patches", "native"):
            model = models.build(
                name, num_classes=10, image_shape=shape, lowering=lowering, **options
            )
            params, buffers = model.init(jax.random.key(0))
            layout, flat = flat_layout(params), ravel(params)
            for strategy, stack in (("map", 1), ("chunk:4", 4), ("vmap", None)):
                if stack == 4 and clients <= 4:
                    continue
                if cpu and lowering == "native" and (stack != 1 or name != "cnn"):
                    continue  # up to 100 times slower: one example is enough
                if lowering == "blocked" and (not cpu or stack != 1):
                    continue
                program = client_program(
                    model,
                    layout,
                    buffers,
                    LocalWork(batch),
                    Strategy(stack),
                    data,
                    clients,
                )
                key = f"{lowering} {strategy}"
                programs[key] = lambda p=program, d=data, f=flat: p(d, f)
        eager = torch_loop(name, options, shape, batch, steps)
        if eager is not None:
            programs["torch eager"] = eager
        seconds, peak = beside_peak(programs, 6)
        flops = step_flops(
            models.build(name, num_classes=10, image_shape=shape, **options),
            shape,
            batch,
        )
        rows = {}
        for key, total in seconds.items():
            each = total / steps / (1 if key == "torch eager" else clients)
            rows[key] = {
                "ms_per_step": 1e3 * each,
                "steps_per_second": 1 / each,
                "fraction_of_peak": flops / each / peak,
            }
        print(
            f"\n{label}, batch {batch}, {flops / 1e9:.3f} GFLOP per step, "
            f"peak {peak / 1e9:.0f} GFLOP/s meanwhile"
        )
        for key, row in rows.items():
            ratio = ""
            if "torch eager" in rows and key != "torch eager":
                slow = rows["torch eager"]["ms_per_step"]
                ratio = f"   {slow / row['ms_per_step']:.2f} x torch"
            print(
                f"  {key:26s} {row['ms_per_step']:9.2f} ms/step "
                f"{row['steps_per_second']:8.1f} steps/s "
                f"{row['fraction_of_peak']:5.2f} of peak{ratio}"
            )
        results[label] = rows
    return results


def torch_loop(name, options, shape, batch, steps):
    """The same network as an eager PyTorch loop; None without PyTorch."""
    try:
        import torch
        from torch import nn
    except ImportError:
        return None
    height, _, channels = shape

    def basic(inputs, outputs, stride):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.main = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                    nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(outputs),
                )
                self.side = nn.Identity()
                if stride > 1 or inputs != outputs:
                    self.side = nn.Sequential(
                        nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                        nn.BatchNorm2d(outputs),
                    )

            def forward(self, x):
                return torch.relu(self.main(x) + self.side(x))

        return Block()

    if name in ("cnn", "wide_cnn"):
        padding = options.get("padding", 0)
        wide = name == "wide_cnn" or channels == 3
        a, b, c = (32, 64, 512) if wide else (30, 50, 100)
        size = ((height - 2 + 2 * padding) // 2 - 2 + 2 * padding) // 2
        network = nn.Sequential(
            nn.Conv2d(channels, a, 3, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(a, b, 3, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(b * size * size, c),
            nn.ReLU(),
            nn.Linear(c, 10),
        )
    elif name == "convnet":
        layers: list[Any] = []
        for i in range(3):
            inputs = channels if i == 0 else 128
            layers += [nn.Conv2d(inputs, 128, 3, padding=1), nn.GroupNorm(128, 128)]
            layers += [nn.ReLU(), nn.AvgPool2d(2)]
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))
    else:
        stem = [nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)]
        stem += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        blocks = []
        for stage in range(4):
            width = 64 * 2**stage
            blocks.append(basic(max(width // 2, 64), width, 1 if stage == 0 else 2))
            blocks.append(basic(width, width, 1))
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
        network = nn.Sequential(*stem, *blocks, *head)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9)
    images = torch.randn(batch, channels, *shape[:2], device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def loop():
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return loop


def bench_waste() -> dict[str, Any]:
    """What unequal clients cost: Dirichlet(0.1), 50 clients, batch 32."""
    labels = np.repeat(np.arange(10), 1_000)
    split = partitions.drop_dirichlet(labels, num_clients=50, seed=1, alpha=0.1)
    shape, batch = (28, 28, 1), 32
    model = models.build("cnn", num_classes=10, image_shape=shape)
    params, buffers = model.init(jax.random.key(0))
    base = train_data(shape, 1, len(labels))
    data = base._replace(
        indices=jnp.asarray(split.indices), counts=jnp.asarray(split.counts)
    )
    counts = split.counts
    work = LocalWork(batch, 1)
    layout, flat = flat_layout(params), ravel(params)
    programs = {}
    for key, stack in (("map", 1), ("chunk:5", 5), ("vmap", None)):
        program = client_program(
            model, layout, buffers, work, Strategy(stack), data, len(counts)
        )
        programs[key] = lambda p=program: p(data, flat)
    seconds = best_of(programs, 3)
    steps = -(-counts // batch)
    slots = {
        "map": int(steps.sum()),
        "chunk:5": int(5 * np.sort(steps)[::-1][::5].sum()),
        "vmap": int(len(counts) * steps.max()),
    }
    print(
        f"\nDirichlet(0.1): {len(counts)} clients of {counts.min()} to {counts.max()} "
        f"samples, mean {counts.mean():.0f}"
    )
    rows = {}
    for key, total in seconds.items():
        rows[key] = {
            "padded_over_real_samples": slots[key] * batch / int(counts.sum()),
            "seconds": total,
            "us_per_real_sample": 1e6 * total / int(counts.sum()),
        }
        print(
            f"  {key:8s} {rows[key]['padded_over_real_samples']:6.2f} samples computed "
            f"per real one, {rows[key]['us_per_real_sample']:7.1f} us per real sample"
        )
    return rows


def bench_order() -> dict[str, Any]:
    """Coordinate-wise median against jnp, NumPy and the memory bandwidth."""
    bandwidth = memory_bandwidth()
    rows = {}
    print(f"\nmedian over clients; memory reads {bandwidth / 1e9:.1f} GB/s")
    for n, d in ((25, 1_000_000), (100, 200_000)):
        x = jax.random.normal(jax.random.key(n), (n, d))
        host = np.asarray(x)
        mask = jnp.ones(n, bool)
        ours = jax.jit(lambda x, m: order_statistics.median(x, m))
        theirs = jax.jit(lambda x: jnp.median(x, axis=0))
        seconds = best_of(
            {
                "fedjax_sim": lambda x=x, m=mask, f=ours: f(x, m),
                "jnp.median": lambda x=x, f=theirs: f(x),
                "np.median": lambda h=host: np.median(h, axis=0),
            },
            3,
        )
        rows[f"[{n}, {d}]"] = {
            "ms": {key: 1e3 * value for key, value in seconds.items()},
            "speedup_over_jnp": seconds["jnp.median"] / seconds["fedjax_sim"],
            "fraction_of_bandwidth": x.nbytes / seconds["fedjax_sim"] / bandwidth,
        }
        row = rows[f"[{n}, {d}]"]
        times = ", ".join(f"{key} {value:.1f} ms" for key, value in row["ms"].items())
        print(
            f"  [{n}, {d}]: {times}; {row['speedup_over_jnp']:.0f} x jnp, "
            f"{row['fraction_of_bandwidth']:.2f} of the bandwidth"
        )
    return rows


def bench_gram() -> dict[str, Any]:
    """Pairwise distances of n updates from one Gram matrix."""
    rows = {}
    print("\nsquared distances by a Gram matrix")
    for n, d in ((25, 1_200_000), (50, 1_200_000), (25, 11_000_000)):
        x = jax.random.normal(jax.random.key(0), (n, d))
        program = jax.jit(squared_distances)
        times, peak = beside_peak({"gram": lambda x=x, f=program: f(x)}, 4)
        seconds = times["gram"]
        rows[f"[{n}, {d}]"] = {
            "ms": 1e3 * seconds,
            "fraction_of_peak": 2 * n * n * d / seconds / peak,
            "gb_per_second": x.nbytes / seconds / 1e9,
        }
        row = rows[f"[{n}, {d}]"]
        print(
            f"  [{n}, {d}]: {row['ms']:.1f} ms, {row['fraction_of_peak']:.2f} of peak, "
            f"{row['gb_per_second']:.1f} GB/s"
        )
    return rows


def small_federation(population: int, cohort: int, samples_each: int, defense):
    """A federation whose clients do almost nothing: what remains is overhead."""
    shape = (8, 8, 1)
    model = models.build("mlp", num_classes=10, image_shape=shape)
    data = train_data(shape, population, samples_each)
    federation = fed.make_federation(
        network=models.Network.of(model, shape, 10),
        reader=Reader(Augmentation(), normalization("half", 1), None),
        work=LocalWork(batch_size=samples_each),
        participation=sampling.uniform(population=population, cohort_size=cohort),
        sides=lambda options: (none(), defense),
        population=population,
        num_malicious=0,
        strategy=Strategy(1),
    )
    inputs = fed.Inputs(
        jax.random.key(0),
        data,
        jnp.zeros(population, bool),
        fed.Hyper(0.01, 0.9, 0.0, 1.0),
    )
    state = federation.init(inputs)
    program = jax.jit(
        lambda s, i, n: fed.run_rounds(federation.round_step, s, i, n, 20)[0]
    )
    return lambda: program(state, inputs, 20)


def bench_round() -> dict[str, Any]:
    """Milliseconds of a round with one tiny step per client."""
    from fedjax_sim.defenses.drop.droplet import droplet

    seconds = best_of(
        {
            "fedavg": small_federation(50, 25, 8, fedavg()),
            "droplet": small_federation(50, 25, 8, droplet()),
        },
        5,
    )
    rows = {key: 1e3 * value / 20 for key, value in seconds.items()}
    print("\nround overhead, 25 clients of one tiny step")
    for key, value in rows.items():
        print(f"  {key}: {value:.2f} ms per round")
    return rows


def bench_population() -> dict[str, Any]:
    """The same cohort drawn from a small and a large population."""
    seconds = best_of(
        {str(n): small_federation(n, 50, 8, fedavg()) for n in (1_000, 100_000)},
        5,
    )
    rows = {key: 1e3 * value / 20 for key, value in seconds.items()}
    print("\npopulation, cohort of 50")
    for key, value in rows.items():
        print(f"  {key} clients: {value:.2f} ms per round")
    return rows


def network_of(name: str, shape: tuple[int, int, int], lowering: str) -> models.Network:
    """A model on flat vectors."""
    model = models.build(name, num_classes=10, image_shape=shape, lowering=lowering)
    return models.Network.of(model, shape, 10, lowering)


# What these add to a rule is measured by the step: see `bench_defenses`.
_BY_STEPS = ("drop", "fedredefense", "flip")


def bench_defenses() -> dict[str, Any]:
    """The server's part of a round under each rule: 50 updates of 1.2 M parameters.

    As in a run, rounds follow each other on the device: what is compared is the time
    of a further round. Of DROP, an iteration of its distillation is measured besides
    (the published budget is 651), and of FLIP the client's batch; FedREDefense's
    iterations are the part `reconstruction`.
    """
    n, rounds_at_once = 50, 4
    network = network_of("cnn", (32, 32, 3), auto_lowering(jax.default_backend()))
    params = ravel(network.model.init(jax.random.key(0))[0])
    size = network.layout.size
    updates = 0.01 * jax.random.normal(jax.random.key(1), (n, size))
    data = train_data((32, 32, 3), 1, 1000)
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
        spec = FederationSpec(n, n, 10, network.layout, 0, network, jax.random.key(2))
        count = defense.root.num_samples if defense.root else 1

        def one_round(state, updates, inputs):
            params, images, labels = inputs
            context = RoundContext(
                round=jnp.int32(1),
                key=jax.random.key(3),
                global_params=params,
                global_buffers=jnp.zeros(0),
                root=Root(images, labels, lambda model, key: model),
                network=network,
                malicious=jnp.arange(n) < 10,
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
    names = [name for name in DEFENSES if name not in _BY_STEPS]
    rows = {}
    print(f"\nserver rules, {n} updates of {size} parameters (training apart)")
    for name in names:
        rule = program(DEFENSES[name].factory())
        seconds = best_of({name: rule, "mean": mean}, 4)
        own, plain = (seconds[rule] / rounds_at_once for rule in (name, "mean"))
        rows[name] = {"ms": 1e3 * own, "times_mean": own / plain}
        print(f"  {name}: {rows[name]['ms']:.1f} ms, {rows[name]['times_mean']:.1f} x")

    iteration = 512 * (5 - 1 + 11)  # queries, at the published batch and steps
    once, twice = (
        program(drop(budget=times * iteration, every=1), 1) for times in (1, 2)
    )
    seconds = best_of({"once": once, "twice": twice}, 1)
    rows["drop"] = {"s_per_iteration": seconds["twice"] - seconds["once"]}
    print(
        f"  drop: droplet, and {rows['drop']['s_per_iteration']:.2f} s per iteration "
        f"of a distillation from {n} teachers (batch 512)"
    )
    rows["flip"] = flip_cost(network)
    print(
        f"  flip: fedavg, and {rows['flip']['ms_per_step']:.0f} ms per batch of a "
        f"client, {rows['flip']['times_plain']:.0f} x a plain step (batch 32)"
    )
    return rows


def flip_cost(network: models.Network, batch: int = 32) -> dict[str, float]:
    """A benign client's batch under FLIP, over ten of warm-up and ten of a pair."""
    steps = 20
    defense = flip(start_round=1)
    spec = FederationSpec(1, 1, 10, network.layout, 0, network, jax.random.key(0))
    own = defense.client_training
    memory = jax.tree.map(lambda x: x[0], own.memory(defense.init(spec)))
    channels = network.image_shape[-1]
    gradient = own.gradient(network, normalization("half", channels))
    data = train_data(network.image_shape, 1, batch * steps)
    params = ravel(network.model.init(jax.random.key(0))[0])
    work, common = LocalWork(batch), (Strategy(1), data, 1)
    each = network.model, network.layout, {}, work, *common
    plain, guarded = client_program(*each), client_program(*each, gradient, memory)
    calls = {
        "plain": lambda: plain(data, params),
        "guarded": lambda: guarded(data, params),
    }
    seconds = best_of(calls, 1)
    return {
        "ms_per_step": 1e3 * seconds["guarded"] / steps,
        "times_plain": seconds["guarded"] / seconds["plain"],
    }


def bench_reconstruction() -> dict[str, Any]:
    """FedREDefense's outer iterations: evaluation and gradient through five steps."""
    rows = {}
    print("\nreconstruction, 10 synthetic images, 5 inner steps")
    for name, shape in (
        ("cnn", (28, 28, 1)),
        ("cnn", (32, 32, 3)),
        ("convnet", (32, 32, 3)),
    ):
        seconds, flops, peak = reconstruction_cost(name, shape)
        label = f"{name} {'x'.join(map(str, shape))}"
        rows[label] = {
            "iterations_per_second": 1 / seconds,
            "gflop": flops / 1e9,
            "fraction_of_peak": flops / seconds / peak,
        }
        print(
            f"  {label}: {1 / seconds:.1f} iterations/s of {flops / 1e9:.2f} GFLOP, "
            f"{rows[label]['fraction_of_peak']:.2f} of peak"
        )
    return rows


def reconstruction_cost(
    name: str, shape: tuple[int, int, int], iterations: int = 20
) -> tuple[float, int, float]:
    """Of one client's outer iteration: seconds, arithmetic; and the peak meanwhile."""
    network = network_of(name, shape, auto_lowering(jax.default_backend()))
    params = ravel(network.model.init(jax.random.key(0))[0])
    update = 1e-2 * jax.random.normal(jax.random.key(1), params.shape)
    start = Knowledge(
        jax.random.normal(jax.random.key(2), (10, *shape)),
        jnp.zeros((10, 10)),
        jnp.float32(0.1),
    )

    @jax.jit
    def run(params, update, start):
        return reconstruct(
            network,
            params,
            update[None],
            jax.tree.map(lambda x: x[None], start),
            limits=jnp.array([iterations]),
            threshold=None,
            rates=Rates(0.5, 0.2, 5e-6),
            steps=5,
            stack=1,
        )

    counted = network_of(name, shape, "patches")  # blocks would hide in a loop
    error = lambda k: reconstruction_error(counted, params, update, k, 5)
    flops = sum(matmul_flops(jax.value_and_grad(error), start))
    times, peak = beside_peak({"own": lambda: run(params, update, start)}, 5)
    # The first look has no gradient.
    return times["own"] / (iterations + 1 / 3), flops, peak


def bench_runs() -> dict[str, Any]:
    """Sixteen seeds of one config: alone, in one program, and one run as a measure."""
    changes = {"rounds": 20, "checkpoint.every_seconds": 1e6}
    own = resolve_variants(load_file("configs/quickstart.py"), changes)
    seeds = [own["droplet"].model_copy(update={"seed": seed}) for seed in range(16)]
    ways = {
        "one run": lambda folder: runner.run(seeds[0], folder / "0"),
        "16 one after the other": lambda folder: [
            runner.run(config, folder / str(config.seed)) for config in seeds
        ],
        "16 together, map": lambda folder: together(folder, Strategy(1)),
        "16 together, chunk:4": lambda folder: together(folder, Strategy(4)),
        "16 together, vmap": lambda folder: together(folder, Strategy(None)),
    }

    def together(folder, strategy):
        jobs = [runner.Job(config, folder / str(config.seed)) for config in seeds]
        return runner.run_together(jobs, strategy)

    compiled = 0

    def count(event, seconds, **details):
        nonlocal compiled
        compiled += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(count)
    rows: dict[str, Any] = {}
    logging.set_verbosity(logging.WARNING)  # of each checkpoint
    print("\nruns of configs/quickstart.py (droplet, 20 rounds), compilation included")
    for name, run in ways.items():
        jax.clear_caches()
        compiled = 0
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            begun = time.monotonic()
            run(Path(folder))
            rows[name] = {"seconds": time.monotonic() - begun, "compiled": compiled}
        times = rows[name]["seconds"] / rows["one run"]["seconds"]
        print(
            f"  {name}: {rows[name]['seconds']:.1f} s, {times:.1f} times one run, "
            f"{compiled} programs compiled"
        )
    return rows


PARTS = {
    "clients": bench_clients,
    "waste": bench_waste,
    "order": bench_order,
    "gram": bench_gram,
    "round": bench_round,
    "population": bench_population,
    "defenses": bench_defenses,
    "reconstruction": bench_reconstruction,
    "runs": bench_runs,
}


def refuse(reason: str) -> NoReturn:
    """Ends with one line and exit code 2."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def main(argv) -> None:
    """Runs the parts and prints them."""
    if len(argv) > 1:
        refuse(f"{argv[1]} is not a flag")
    chosen = _ONLY.value or list(PARTS)
    for flag, given, allowed in (
        ("only", chosen, ["peak", *PARTS]),
        ("models", _MODELS.value or [], sorted({name for name, *_ in MODELS.values()})),
    ):
        for name in given:
            if name not in allowed:
                refuse(f"--{flag}={name} must be one of: {', '.join(allowed)}")
    if _JSON.value is not None:
        try:
            open(_JSON.value, "a").close()
        except OSError as error:
            refuse(f"--json={_JSON.value}: {os.strerror(error.errno)}")
    resolve({})  # the schema loads: what is measured is what runs
    peak = matmul_peak()
    device = jax.devices()[0].device_kind
    print(f"{jax.default_backend()} ({device}), jax {jax.__version__}")
    print(f"matmul peak {peak / 1e9:.0f} GFLOP/s (float32)")
    results: dict[str, Any] = {
        "backend": jax.default_backend(),
        "device": device,
        "jax": jax.__version__,
        "matmul_peak_gflops": peak / 1e9,
    }
    for name in chosen:
        if name in PARTS:
            results[name] = PARTS[name]()
    if _JSON.value:
        with open(_JSON.value, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    app.run(main)
