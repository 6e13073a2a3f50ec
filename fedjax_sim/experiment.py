"""A run: build it from its config, loop, evaluate, record, survive a kill.

Everything that touches the disk, the clock or the terminal lives here and above.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_sim import federation as fed
from fedjax_sim import memory, metrics, models, results
from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.base import Attack, AttackSpec
from fedjax_sim.checkpoint import Checkpoints
from fedjax_sim.clients import leadfl_schedule, training
from fedjax_sim.clients.batches import Batch, Reader, TrainData
from fedjax_sim.clients.defenses import CLIENT_DEFENSES
from fedjax_sim.clients.execution import (
    Strategy,
    auto_lowering,
    auto_strategy,
    parse_strategy,
)
from fedjax_sim.clients.malicious_majority import majority_probability
from fedjax_sim.clients.training import LocalWork
from fedjax_sim.config import PARTICIPATIONS, Config, to_dict
from fedjax_sim.data import partition as partitions
from fedjax_sim.data import sources
from fedjax_sim.data.augment import AUGMENTATIONS, augment
from fedjax_sim.data.dataset import Dataset
from fedjax_sim.data.normalize import normalization
from fedjax_sim.data.partition import Partition
from fedjax_sim.data.poison import realised_fraction
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.base import (
    Defense,
    FederationSpec,
    GlobalModel,
    RootRequest,
)
from fedjax_sim.errors import InputError
from fedjax_sim.progress import Progress, note
from fedjax_sim.rng import Purpose, stream

EXIT_INTERRUPTED = 75  # a checkpoint was written, the same command resumes
SECONDS_PER_CALL = (
    20.0  # the device returns at least so often: a signal waits no longer
)


class Experiment(NamedTuple):
    """A run that is ready to start."""

    config: Config
    federation: fed.Federation
    twin: fed.Federation | None  # the same without the attack, to measure its effect
    inputs: fed.Inputs
    test_sets: metrics.TestSets
    evaluate: Callable[[fed.FedState, metrics.TestSets], dict[str, metrics.Counts]]
    facts: dict[str, Any]  # for provenance.json and summary.json


def load_data(config: Config) -> Dataset:
    """Loads the data set of a config, shortened if the config says so."""
    section = config.data
    data = sources.load(section.name, data_dir=section.data_dir, **section.options)
    for part, wanted in (("train", section.num_train), ("test", section.num_test)):
        images = getattr(data, f"{part}_images")
        if wanted is None:
            continue
        if wanted > len(images):
            raise InputError(
                f"config.data.num_{part} = {wanted} must be at most {len(images)}, the "
                f"{part}ing samples of {section.name}"
            )
        labels = getattr(data, f"{part}_labels")[:wanted]
        data = data._replace(
            **{f"{part}_images": images[:wanted], f"{part}_labels": labels}
        )
    return data


def choose_malicious(config: Config, key: jax.Array) -> np.ndarray:
    """Returns the sorted ids of the malicious clients, fixed for the run.

    Fake clients come after the genuine ones and are all malicious.
    """
    genuine, count = config.partition.num_clients, config.attack.num_malicious
    fakes = np.arange(genuine, genuine + config.attack.num_fake)
    if config.attack.malicious_clients == "last":
        chosen = np.arange(genuine - count, genuine)
    elif config.attack.malicious_clients == "leadfl":
        chosen = leadfl_schedule.malicious_clients(genuine, count)
    else:
        draw = jax.random.permutation(stream(key, Purpose.MALICIOUS_SET), genuine)
        chosen = np.sort(np.asarray(draw[:count]))
    return np.concatenate([chosen, fakes])


def _root_data(
    config: Config, request: RootRequest | None, dataset: Dataset, key: jax.Array
) -> fed.RootData | None:
    """Draws the server's own samples from the training data, fixed for the run.

    Raises:
      InputError: the defence asks for more samples than there are.
    """
    if request is None:
        return None
    total, wanted = len(dataset.train_labels), request.num_samples
    if wanted > total:
        raise InputError(
            f"config.defense.name = {config.defense.name!r} asks for {wanted} clean "
            f"samples of the server, but the training data has {total}"
        )
    order_key, augment_key = jax.random.split(stream(key, Purpose.ROOT_DATA))
    order = np.asarray(jax.random.permutation(order_key, total))
    if request.balanced:
        # Rank of each sample within its class: take all first ones, then second ones.
        labels = dataset.train_labels[order]
        rank = np.zeros(total, np.int64)
        for label in np.unique(labels):
            rank[labels == label] = np.arange((labels == label).sum())
        order = order[np.argsort(rank, kind="stable")]
    chosen = order[:wanted]
    images = dataset.train_images[chosen]
    labels = dataset.train_labels[chosen].astype(np.int32)
    seen = images
    if request.augmented:
        seen = augment(augment_key, images, AUGMENTATIONS[config.data.augmentation])
    own = TrainData(
        images=images,
        labels=labels,
        indices=np.arange(wanted, dtype=np.int32)[None],
        counts=np.array([wanted], np.int32),
        poison_plan=(),
    )
    return fed.RootData(own, seen)


def build(
    config: Config, dataset: Dataset | None = None, clock_origin: float | None = None
) -> Experiment:
    """Prepares a run; nothing is compiled yet.

    Args:
      config: a resolved config.
      dataset: use this instead of loading `config.data`.
      clock_origin: `time.monotonic()` to time the phases against; None leaves them
        untimed.

    Raises:
      InputError: anything in the config that this machine or data set cannot satisfy.
    """
    dataset = dataset or load_data(config)
    root = jax.random.key(config.seed)
    genuine, num_fake = config.partition.num_clients, config.attack.num_fake
    population = genuine + num_fake
    seed = config.seed if config.partition.seed is None else config.partition.seed
    partition = partitions.PARTITIONS[config.partition.name](
        dataset.train_labels,
        num_clients=genuine,
        seed=seed,
        **config.partition.options,
    )
    partition = partitions.with_fake_clients(partition, num_fake)
    malicious_ids = choose_malicious(config, root)
    backend = jax.default_backend()
    lowering = config.execution.lowering
    if lowering == "auto":
        lowering = auto_lowering(backend)
    image_shape = dataset.train_images.shape[1:]
    model = models.build(
        config.model.name,
        num_classes=dataset.num_classes,
        image_shape=image_shape,
        lowering=lowering,
        **config.model.options,
    )
    attack: Attack = ATTACKS[config.attack.name].factory(**config.attack.options)
    if num_fake and attack.trains:
        raise InputError(
            f"config.attack.num_fake = {num_fake}: fake clients have no data, and "
            f"config.attack.name = {config.attack.name!r} trains on data; allowed: 0"
        )
    defense = _defense(config)
    norm = normalization(config.data.normalization, image_shape[-1])
    network = models.Network.of(model, image_shape, dataset.num_classes, lowering)
    layout = network.layout
    spec = AttackSpec(
        labels=dataset.train_labels,
        partition=partition,
        malicious_ids=malicious_ids,
        num_classes=dataset.num_classes,
        image_shape=image_shape,
        normalization=norm,
        layout=layout,
    )
    poison = attack.poison(spec) if attack.poison else None
    if attack.repartition is not None:  # a plan is per sample: it moves along
        partition = attack.repartition(spec)
        spec = spec._replace(partition=partition)
    reader = Reader(AUGMENTATIONS[config.data.augmentation], norm, poison)
    work = LocalWork(
        config.client.batch_size,
        config.client.epochs,
        config.client.steps,
        _microbatch(config, model, backend),
    )
    participation = _participation(config)
    mesh = _mesh(config.execution.devices)
    federation_spec = FederationSpec(
        population,
        participation.cohort_size,
        len(malicious_ids),
        layout,
        network.buffer_layout.size,
        network,
    )
    strategy, estimate = _strategy(
        config, work, dataset, federation_spec, _defense_bytes(defense, federation_spec)
    )
    parts = dict(
        network=network,
        work=work,
        participation=participation,
        defense=defense,
        population=population,
        num_malicious=len(malicious_ids),
        attack_spec=spec,
        server_optimizer=_server_optimizer(config.server.optimizer),
        lr_factor=_lr_factor(config),
        strategy=strategy,
        mesh=mesh,
    )
    federation = fed.make_federation(
        attack=attack, reader=reader, clock_origin=clock_origin, **parts
    )
    twin = None
    if config.evaluation.attack_effect:
        harmless = reader._replace(poison=None)
        twin = fed.make_federation(attack=Attack(()), reader=harmless, **parts)
    is_malicious = np.zeros(population, bool)
    is_malicious[malicious_ids] = True
    inputs = fed.Inputs(
        key=root,
        data=TrainData(
            images=dataset.train_images,
            labels=dataset.train_labels,
            indices=partition.indices,
            counts=partition.counts,
            poison_plan=poison.plan if poison else (),
        ),
        malicious=is_malicious,
        hyper=fed.Hyper(
            np.float32(config.client.lr),
            np.float32(config.client.momentum),
            np.float32(config.client.weight_decay),
            np.float32(config.server.lr),
        ),
        root=_root_data(config, defense.root, dataset, root),
    )
    place = NamedSharding(mesh, P()) if mesh else jax.devices()[0]
    inputs = jax.device_put(inputs, place)
    test = attack.test(spec) if attack.test else None
    threshold = config.evaluation.low_confidence_threshold
    test_sets = metrics.make_test_sets(
        dataset,
        test,
        batch_size=config.evaluation.batch_size,
        any_source=config.evaluation.any_source,
    )

    def evaluate(state, sets):
        predict, network = None, federation.network
        if defense.predict is not None:
            global_model = GlobalModel(state.params, state.buffers)
            predict = lambda images: defense.predict(
                state.defense, global_model, network, images
            )
        return metrics.evaluate(
            model,
            network.layout.unravel(state.params),
            network.buffer_layout.unravel(state.buffers),
            sets,
            norm,
            test.trigger if test else None,
            threshold,
            predict,
            config.evaluation.batch_statistics,
        )

    poisoned = None
    if isinstance(inputs.data.poison_plan, jax.Array):
        fractions = realised_fraction(
            partition, np.asarray(inputs.data.poison_plan), malicious_ids
        )
        poisoned = float(fractions.mean())
    facts = {
        "data": {
            "name": config.data.name,
            "train": len(dataset.train_images),
            "test": len(dataset.test_images),
            "classes": dataset.num_classes,
            "image_shape": list(image_shape),
        },
        "partition": {
            "fingerprint": partitions.fingerprint(partition),
            **_size_summary(partition),
        },
        "parameters": layout.size,
        "malicious_clients": malicious_ids.tolist(),
        "realised_dpr": poisoned,
        "malicious_majority": _majority(config, population, len(malicious_ids)),
        "attack_knowledge": list(attack.knowledge),
        "oracle_knowledge": DEFENSES[config.defense.name].oracle,
        "execution": {
            "clients": _strategy_name(strategy),
            "lowering": lowering,
            "microbatch": work.microbatch,
            "devices": config.execution.devices,
            "estimated_gib": round(estimate / memory.GIB, 3),
        },
    }
    return Experiment(config, federation, twin, inputs, test_sets, evaluate, facts)


def _defense(config: Config) -> Defense:
    """The server rule, with what benign clients change in their own training."""
    defense = DEFENSES[config.defense.name].factory(**config.defense.options)
    section = config.client_defense
    optimizer = CLIENT_DEFENSES[section.name].factory(**section.options)
    if optimizer is None:
        return defense
    if defense.client_optimizer is not None:
        raise InputError(
            f"config.client_defense.name = {section.name!r}: "
            f"config.defense.name = {config.defense.name!r} has an optimiser of its "
            "own for benign clients; allowed: none"
        )
    return defense._replace(client_optimizer=optimizer)


def _size_summary(partition: Partition) -> dict[str, float]:
    counts = partition.counts
    return {
        "samples": int(counts.sum()),
        "smallest": int(counts.min()),
        "mean": float(counts.mean()),
        "largest": int(counts.max()),
    }


def _microbatch(config: Config, model: models.Model, backend: str) -> int | None:
    """The largest divisor of the batch size that is at most what was asked for."""
    wanted = config.execution.microbatch
    if wanted == "auto":
        wanted = model.cpu_microbatch if backend == "cpu" else None
    if wanted in (None, "off"):
        return None
    if model.couples_samples:
        raise InputError(
            f"config.execution.microbatch = {wanted}: {model.name} has batch "
            "statistics, its batches cannot be split; allowed: auto, off"
        )
    size = config.client.batch_size
    return max(
        part for part in range(1, size + 1) if size % part == 0 and part <= wanted
    )


def _participation(config: Config):
    section = config.participation
    facts = {
        "population": config.partition.num_clients + config.attack.num_fake,
        "cohort_size": section.clients_per_round,
        "num_malicious": config.attack.num_malicious + config.attack.num_fake,
    }
    options = dict(section.options)
    if section.name == "explicit":
        path = options.pop("schedule")
        try:
            options["schedule"] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"config.participation.schedule = {path!r}: an .npy file with an "
                f"integer array [rounds, clients] is expected there ({error})"
            ) from None
        del facts["cohort_size"], facts["num_malicious"]
    if section.name == "uniform":
        del facts["num_malicious"]
    if section.name == "leadfl":
        facts["rounds"] = config.rounds
    return PARTICIPATIONS[section.name](**facts, **options)


def _mesh(devices: int) -> Mesh | None:
    if devices == 1:
        return None
    found = jax.devices()
    if devices > len(found):
        raise InputError(
            f"config.execution.devices = {devices}, but JAX sees {len(found)} "
            f"device(s) of the {jax.default_backend()} backend"
        )
    return Mesh(np.array(found[:devices]), ("clients",))


def _majority(config: Config, population: int, num_malicious: int) -> float | None:
    """The probability that a round's cohort holds a malicious majority."""
    if config.participation.name != "uniform" or config.attack.name == "none":
        return None
    cohort = config.participation.clients_per_round
    return majority_probability(population, num_malicious, cohort)


def _lr_factor(config: Config):
    schedule = config.client.schedule
    if schedule == "constant":
        return None
    return lambda index: training.lr_factor(schedule, index, config.rounds)


def _server_optimizer(name: str):
    if name == "none":
        return None
    return {
        "sgd": lambda rate: optax.sgd(rate, momentum=0.9),
        "adagrad": lambda rate: optax.adagrad(rate),
        "adam": lambda rate: optax.adam(rate, b1=0.9, b2=0.99, eps=1e-3),
        "yogi": lambda rate: optax.yogi(rate, b1=0.9, b2=0.99, eps=1e-3),
    }[name]


def _strategy_name(strategy: Strategy) -> str:
    return {None: "vmap", 1: "map"}.get(strategy.stack, f"chunk:{strategy.stack}")


def _defense_bytes(defense: Defense, spec: FederationSpec) -> int:
    """What a defence needs on the device: its state, twice, and its own work."""
    state = jax.eval_shape(
        lambda key: defense.init(spec._replace(key=key)), jax.random.key(0)
    )
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return 2 * size + (defense.memory(spec) if defense.memory else 0)


def _strategy(config, work, dataset, spec, defense_bytes):
    """The strategy of a config, made to fit the memory; and the estimated bytes."""
    model, cohort_size = spec.network.model, spec.cohort_size
    asked = config.execution.clients
    auto = asked == "auto"
    strategy = auto_strategy(jax.default_backend()) if auto else parse_strategy(asked)
    params, buffers = jax.eval_shape(model.init, jax.random.key(0))
    size = work.batch_size
    batch = Batch(
        jax.ShapeDtypeStruct((size, *dataset.train_images.shape[1:]), jnp.float32),
        jax.ShapeDtypeStruct((size,), jnp.int32),
        jax.ShapeDtypeStruct((size,), jnp.bool_),
    )
    gradient = training.batch_gradient(model, work.microbatch)
    vector = 4 * spec.layout.size
    # Besides one backward pass: local parameters, momentum, optimiser step, update.
    per_client = memory.peak_bytes(gradient, params, buffers, batch) + 4 * vector
    images = dataset.train_images.nbytes + dataset.test_images.nbytes
    # The cohort's updates as they are collected, reordered and reduced.
    fixed = 2 * images + (3 * cohort_size + 4) * vector + defense_bytes
    limit = config.execution.memory_gib
    on_device = -(-cohort_size // config.execution.devices)
    if limit != "unlimited":
        strategy = memory.plan(
            strategy,
            cohort_size=on_device,
            per_client=per_client,
            fixed=fixed,
            limit=memory.available_bytes()
            if limit == "auto"
            else int(limit * memory.GIB),
            may_shrink=auto,
        )
    stack = min(strategy.stack or on_device, on_device)
    return strategy, fixed + stack * per_client


# ---------------------------------------------------------------------- running


def run(config: Config, workdir: Path, name: str = "run") -> tuple[int, dict]:
    """Runs a config in a directory, or goes on with what is there.

    Args:
      config: a resolved config.
      workdir: created if missing; see `fedjax_sim.results` for its files.
      name: for messages and the summary.

    Returns:
      (exit code, summary); the code is `EXIT_INTERRUPTED` after SIGTERM or SIGINT,
      and the summary then is empty.

    Raises:
      InputError: see `build`; also a directory in use, or of another config.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--workdir={workdir}: {os.strerror(error.errno)}") from None
    lock = results.Lock(workdir)
    try:
        _check_same_config(config, workdir)
        if (workdir / "summary.json").exists():
            print(f"{name}: finished already, see {workdir / 'summary.json'}")
            return 0, results.read_json(workdir / "summary.json")
        return _run_locked(config, workdir, name)
    finally:
        lock.release()


def _check_same_config(config: Config, workdir: Path) -> None:
    """A run directory belongs to one config."""
    path = workdir / "config.json"
    new = results.plain(to_dict(config))
    if not path.exists():
        return
    old = results.read_json(path)
    for section in sorted({*old, *new}):
        before, after = old.get(section), new.get(section)
        if section in ("checkpoint", "log") or before == after:
            continue  # how a run is recorded may change, what it computes may not
        if isinstance(before, dict) and isinstance(after, dict):
            differing = [
                key
                for key in sorted({*before, *after})
                if before.get(key, ...) != after.get(key, ...)
                and (section, key) != ("data", "data_dir")  # data may move
            ]
            if not differing:
                continue
            key = differing[0]
            section, before, after = f"{section}.{key}", before.get(key), after.get(key)
        raise InputError(
            f"--workdir={workdir} holds a run with config.{section} = {before!r}, not "
            f"{after!r}; choose another folder or the same config"
        )


class _Interrupt:
    """Remembers SIGTERM and SIGINT until the loop can stop."""

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
        del number, frame
        self.requested = True

    def __exit__(self, *exc):
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _run_locked(config: Config, workdir: Path, name: str) -> tuple[int, dict]:
    origin = time.monotonic()
    experiment = build(config, clock_origin=origin)
    federation, inputs = experiment.federation, experiment.inputs
    majority = experiment.facts["malicious_majority"]
    if majority:
        share = f"{100 * majority:.2g} %"
        note(f"{name}: {share} of the rounds are expected to have a malicious majority")
    writer = _tensorboard(config, workdir)
    results.write_json(workdir / "config.json", to_dict(config))
    provenance = {
        **results.environment(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **experiment.facts,
    }
    results.write_json(workdir / "provenance.json", provenance)

    checkpoints = Checkpoints(workdir / "checkpoints")
    sides = [side for side in (federation, experiment.twin) if side is not None]
    # With a twin, both states: that of the run and that of the run without attack.
    states = jax.jit(lambda inputs: tuple(side.init(inputs) for side in sides))(inputs)
    done = checkpoints.latest() or 0
    if done:
        restored = checkpoints.restore(done, states)
        states = jax.tree.map(
            lambda new, old: jax.device_put(new, old.sharding), restored, states
        )
    rounds_file = results.Rows(workdir / "rounds.jsonl")
    metrics_file = results.Rows(workdir / "metrics.jsonl")
    round_rows = rounds_file.keep_until(done)
    metric_rows = metrics_file.keep_until(done)

    every, by_rounds = config.evaluation.every, config.checkpoint.every_rounds
    capacity = min(every, config.rounds)
    begun = time.monotonic()

    def some_rounds(states, inputs, count):
        done = [
            fed.run_rounds(side, state, inputs, count, capacity)
            for side, state in zip(sides, states, strict=True)
        ]
        return tuple(state for state, _ in done), done[0][1]

    step = (
        jax.jit(some_rounds, donate_argnums=0)
        .lower(states, inputs, jnp.int32(1))
        .compile()
    )
    evaluate = jax.jit(experiment.evaluate)
    evaluate = evaluate.lower(states[0], experiment.test_sets).compile()
    compile_seconds = time.monotonic() - begun

    saved_at = time.monotonic()
    seconds = {"train": 0.0, "defend": 0.0}
    pace: float | None = None
    progress = Progress(name, config.rounds, done)
    with _Interrupt() as interrupt, progress:
        while done < config.rounds:
            until = min((done // every + 1) * every, config.rounds)
            count = until - done
            # Cut long calls, so that signals and checkpoints need not wait.
            fitting = 1 if pace is None else max(1, int(SECONDS_PER_CALL / pace))
            count = min(count, fitting)
            if by_rounds is not None:
                count = min(count, by_rounds - done % by_rounds)
            begun = time.monotonic()
            states, reports = step(states, inputs, jnp.int32(count))
            reports = jax.tree.map(lambda x, n=count: np.asarray(x)[:n], reports)
            pace = (time.monotonic() - begun) / count
            done += count
            _add_phases(seconds, reports.clock, begun - origin)
            new_rows = [_round_row(reports, i) for i in range(count)]
            rounds_file.append(new_rows)
            round_rows += new_rows
            if done == until:
                begun = time.monotonic()
                counts = jax.device_get(evaluate(states[0], experiment.test_sets))
                times = {
                    "seconds_train": seconds["train"],
                    "seconds_defend": seconds["defend"],
                    "seconds_evaluate": time.monotonic() - begun,
                    "seconds_compile": compile_seconds,
                }
                row = _metrics_row(
                    config, done, counts, round_rows, metric_rows, states
                )
                row.update(times)
                compile_seconds, seconds = 0.0, {"train": 0.0, "defend": 0.0}
                metrics_file.append([row])
                metric_rows.append(results.plain(row))
                if writer is not None:
                    _write_scalars(writer, row)
                progress.show(row)
            progress.advance(done)
            due = time.monotonic() - saved_at >= config.checkpoint.every_seconds or (
                by_rounds is not None and done % by_rounds == 0
            )
            if due or interrupt.requested or done == config.rounds:
                checkpoints.save(done, states)
                saved_at = time.monotonic()
            if interrupt.requested and done < config.rounds:
                break
    checkpoints.close()
    if writer is not None:
        writer.close()
    if done < config.rounds:
        print(
            f"{name}: stopped after round {done} of {config.rounds}; the same command "
            "goes on from there"
        )
        return EXIT_INTERRUPTED, {}
    malicious = np.asarray(inputs.malicious)
    expelled = None
    if federation.can_expel:
        expelled = ~np.asarray(federation.eligible(states[0]))
    history = metrics.detection_history(round_rows, malicious, expelled)
    summary = _summary(name, config, experiment.facts, metric_rows, round_rows, history)
    results.write_json(workdir / "summary.json", summary)
    return 0, results.plain(summary)


def _add_phases(seconds: dict[str, float], clock: np.ndarray, begun: float) -> None:
    """Adds the phases of rounds; clock i32 [rounds, 2, 2] since the origin."""
    previous = begun
    for trained, served in clock[:, :, 0] + clock[:, :, 1] / 1e6:
        seconds["train"] += max(trained - previous, 0.0)
        seconds["defend"] += max(served - trained, 0.0)
        previous = served


def _round_row(reports: fed.RoundReport, i: int) -> dict[str, Any]:
    report = jax.tree.map(lambda x: x[i], reports)
    present = report.present
    ids = report.client_ids[present]
    attacking = report.malicious & report.active
    return results.plain(
        {
            "round": report.round,
            "clients": ids,
            "malicious": report.client_ids[present & attacking],
            "excluded": report.client_ids[present & (report.weights == 0)],
            "absent": (~present).sum(),
            "weights": report.weights[present],
            "losses": report.losses[present],
            "update_norms": report.update_norms[present],
            "scores": {name: x[present] for name, x in report.scores.items()},
            "global_step_norm": report.global_norm,
            "skipped": report.skipped,
        }
    )


def _detection(row: dict[str, Any]) -> metrics.Detection:
    clients = np.array(row["clients"])
    return metrics.detection(
        np.isin(clients, row["excluded"]),
        np.isin(clients, row["malicious"]),
        np.ones(len(clients), bool),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _metrics_row(config, done, counts, round_rows, metric_rows, states):
    since = metric_rows[-1]["round"] if metric_rows else 0
    recent = [row for row in round_rows if row["round"] > since]
    last = recent[-1]
    attacking = np.isin(last["clients"], last["malicious"])

    def split(key, malicious):
        pairs = zip(last[key], attacking, strict=True)
        return _mean([value for value, bad in pairs if bad == malicious])

    row: dict[str, Any] = {"round": done}
    row.update(
        metrics.evaluation_row(counts, config.evaluation.low_confidence_threshold)
    )
    params = states[0].params
    if len(states) > 1:
        row["attack_effect"] = float(jnp.linalg.norm(params - states[1].params))
    finite = bool(jnp.isfinite(params).all()) and np.isfinite(row["test_loss"])
    row["diverged"] = not finite
    for key, name in (("losses", "train_loss"), ("update_norms", "update_norm")):
        row[f"{name}_benign"] = split(key, False)
        row[f"{name}_malicious"] = split(key, True)
    norms = [norm for norm in last["update_norms"] if norm is not None]
    row["update_norm_max"] = max(norms, default=None)
    row["global_step_norm"] = last["global_step_norm"]
    row["rounds_skipped"] = sum(r["skipped"] for r in recent)
    row["clients_non_finite"] = sum(sum(r["scores"]["non_finite"]) for r in recent)
    row.update(sum((_detection(r) for r in recent), metrics.Detection()).row())
    return row


def _summary(name, config, facts, metric_rows, round_rows, history):
    final = metric_rows[-1]
    late_start = config.rounds - max(config.rounds // 10, 1)
    late_rows = [row for row in metric_rows if row["round"] > late_start]

    def spread(key):
        values = [row[key] for row in late_rows if row.get(key) is not None]
        if not values:
            return None
        return {"mean": float(np.mean(values)), "std": float(np.std(values))}

    phases = ("train", "defend", "evaluate", "compile")
    return {
        "name": name,
        "status": "finished",
        "rounds": config.rounds,
        "final": {k: v for k, v in final.items() if not k.startswith("seconds_")},
        "late": {key: spread(key) for key in ("mta", "asr")},
        "best_mta": max(row["mta"] for row in metric_rows),
        "detection": {
            **sum((_detection(r) for r in round_rows), metrics.Detection()).row(),
            **history,
        },
        "backdoor": _backdoor(metric_rows),
        "rounds_skipped": sum(row["skipped"] for row in round_rows),
        "partition": facts["partition"]["fingerprint"],
        "realised_dpr": facts["realised_dpr"],
        "attack_knowledge": facts["attack_knowledge"],
        "oracle_knowledge": facts["oracle_knowledge"],
        "seconds": {p: sum(row[f"seconds_{p}"] for row in metric_rows) for p in phases},
    }


def _backdoor(metric_rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """How the attack success moved, if it was measured in every round."""
    success = [row.get("asr") for row in metric_rows]
    if None in success or metric_rows[-1]["round"] != len(metric_rows):
        return None
    found = metrics.mitigation(np.array(success))
    return {"mean_asr": float(np.mean(success)), **found._asdict()}


def _tensorboard(config: Config, workdir: Path):
    if not config.log.tensorboard:
        return None
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError(
            "config.log.tensorboard = True needs: pip install 'fedjax_sim[tensorboard]'"
        ) from None
    return SummaryWriter(str(workdir / "tensorboard"))


def _write_scalars(writer, row: dict[str, Any]) -> None:
    for key, value in row.items():
        if key != "round" and value is not None:
            writer.add_scalar(key, float(value), row["round"])
    writer.flush()
