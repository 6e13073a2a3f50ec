"""An experiment: the parts of a run, built from its config."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from fedjax_sim import attacks, models
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.contracts.attack import Attack, AttackSpec
from fedjax_sim.contracts.defense import (
    Defense,
    FederationSpec,
    GlobalModel,
    RootRequest,
)
from fedjax_sim.core import distributed
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.rng import Purpose, stream
from fedjax_sim.data import partition as partitions
from fedjax_sim.data import sources
from fedjax_sim.data.augment import AUGMENTATIONS, augment
from fedjax_sim.data.dataset import Dataset
from fedjax_sim.data.normalize import normalization
from fedjax_sim.data.partition import Partition
from fedjax_sim.data.poison import realised_fraction
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.experiment import memory, program
from fedjax_sim.experiment.config import PARTICIPATIONS, Config
from fedjax_sim.metrics import evaluation as metrics
from fedjax_sim.participation import leadfl as leadfl_schedule
from fedjax_sim.participation.malicious_majority import majority_probability
from fedjax_sim.round import federation as fed
from fedjax_sim.round import training
from fedjax_sim.round.batches import Batch, Reader, TrainData
from fedjax_sim.round.execution import (
    Strategy,
    auto_lowering,
    auto_strategy,
    parse_strategy,
)
from fedjax_sim.round.training import LocalWork


class Experiment(NamedTuple):
    """The parts of a run that is ready to start."""

    config: Config
    federation: fed.Federation
    twin: fed.Federation | None  # the same without the attack, to measure its effect
    inputs: fed.Inputs
    test_sets: metrics.TestSets
    evaluate: Callable[
        [fed.FedState, fed.Inputs, metrics.TestSets], dict[str, metrics.Counts]
    ]
    mesh: Mesh | None  # devices that share the clients
    estimated_bytes: int  # on one device, while a round is computed
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
    config: Config,
    dataset: Dataset | None = None,
    clock_origin: float | None = None,
    adapt: Callable[[Defense], Defense] = lambda defense: defense,
) -> Experiment:
    """Prepares a run; nothing is compiled yet.

    Args:
      config: a resolved config.
      dataset: use this instead of loading `config.data`.
      clock_origin: `time.monotonic()` to time the phases against; None leaves them
        untimed.
      adapt: what to make of the defence, to look into it.

    Raises:
      InputError: anything in the config that this machine or data set cannot satisfy.
    """
    dataset = dataset or load_data(config)
    root = jax.random.key(config.seed)
    genuine, num_fake = config.partition.num_clients, config.attack.num_fake
    population = genuine + num_fake
    seed = config.seed if config.partition.seed is None else config.partition.seed
    try:
        partition = partitions.PARTITIONS[config.partition.name](
            dataset.train_labels,
            num_clients=genuine,
            seed=seed,
            **config.partition.options,
        )
    except InputError as error:
        raise InputError(
            f"config.partition.name = {config.partition.name!r}: {error}"
        ) from None
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

    def own_sides(options: fed.Options) -> tuple[Attack, Defense]:
        attack, defense = sides(config, options)
        return attack, adapt(defense)

    attack, defense = own_sides({})
    if num_fake and attack.trains:
        raise InputError(
            f"config.attack.num_fake = {num_fake}: fake clients have no data, and "
            f"config.attack.name = {config.attack.name!r} trains on data; allowed: 0"
        )
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
        test_images=dataset.test_images,
        test_labels=dataset.test_labels,
    )
    poison = attack.poison(spec) if attack.poison else None
    if poison is not None and poison.batchwise and config.client.batch_size < 2:
        raise InputError(
            f"config.client.batch_size = {config.client.batch_size} must be at least 2 "
            "with config.attack.batchwise: a batch holds clean and poisoned samples"
        )
    if attack.repartition is not None:  # a plan is per sample: it moves along
        partition = attack.repartition(spec)
        spec = spec._replace(partition=partition)
    reader = Reader(AUGMENTATIONS[config.data.augmentation], norm, poison)
    work = LocalWork(
        config.client.batch_size,
        config.client.epochs,
        config.client.steps,
        _microbatch(config, model),
        config.client.persist_momentum,
    )
    participation = _participation(config)
    mesh = distributed.make_mesh(config.execution.devices)
    federation_spec = FederationSpec(
        population,
        participation.cohort_size,
        len(malicious_ids),
        layout,
        network.buffer_layout.size,
        network,
    )
    kept_bytes = _defense_bytes(defense, federation_spec)
    if work.persist_momentum:
        kept_bytes += 2 * 4 * population * layout.size
    strategy, estimate = _strategy(config, work, dataset, federation_spec, kept_bytes)
    parts = dict(
        network=network,
        work=work,
        participation=participation,
        population=population,
        num_malicious=len(malicious_ids),
        attack_spec=spec,
        server_optimizer=_server_optimizer(config.server.optimizer),
        lr_factor=_lr_factor(config),
        strategy=strategy,
        mesh=mesh,
    )
    federation = fed.make_federation(
        sides=own_sides, reader=reader, clock_origin=clock_origin, **parts
    )
    twin = None
    if config.evaluation.attack_effect:
        harmless = reader._replace(poison=None)
        no_attack = lambda options: (attacks.none(), own_sides(options)[1])
        twin = fed.make_federation(sides=no_attack, reader=harmless, **parts)
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
            program.traced_options(config),
        ),
        root=_root_data(config, defense.root, dataset, root),
    )
    inputs = distributed.replicate(inputs, mesh)
    test = attack.test(spec) if attack.test else None
    threshold = config.evaluation.low_confidence_threshold
    test_sets = metrics.make_test_sets(
        dataset,
        test,
        batch_size=config.evaluation.batch_size,
        any_source=config.evaluation.any_source,
    )

    def evaluate(state, inputs, sets):
        predict, network = None, federation.network
        _, defense = own_sides(inputs.hyper.options)
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
    plan = inputs.data.poison_plan
    if isinstance(plan, jax.Array) and plan.dtype == bool:
        poisoned = realised_fraction(partition, np.asarray(plan), malicious_ids)
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
        "realised_dpr": poisoned,  # of each malicious client
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
    return Experiment(
        config,
        federation,
        twin,
        inputs,
        test_sets,
        evaluate,
        mesh,
        estimate,
        facts,
    )


def sides(config: Config, options: fed.Options) -> tuple[Attack, Defense]:
    """Returns attack and defence of a config.

    Args:
      config: a resolved config.
      options: instead of the config's, by "section.key"; may be traced.

    Raises:
      InputError: options that do not go together.
    """

    def make(name: str) -> Any:
        section = getattr(config, name)
        own = {
            key: options.get(f"{name}.{key}", value)
            for key, value in section.options.items()
        }
        return program.TABLES[name][section.name].factory(**own)

    attack, defense, own = map(make, ("attack", "defense", "client_defense"))
    if own is None:
        return attack, defense
    seam = CLIENT_DEFENSES[config.client_defense.name].seam
    if getattr(defense, seam) is not None:
        raise InputError(
            f"config.client_defense.name = {config.client_defense.name!r}: "
            f"config.defense.name = {config.defense.name!r} has a {seam} of its own; "
            "allowed: none"
        )
    return attack, defense._replace(**{seam: own})


def _size_summary(partition: Partition) -> dict[str, float]:
    counts = partition.counts
    return {
        "samples": int(counts.sum()),
        "smallest": int(counts.min()),
        "mean": float(counts.mean()),
        "largest": int(counts.max()),
    }


def _microbatch(config: Config, model: models.Model) -> int | None:
    """The largest divisor of the batch size that is at most what was asked for."""
    wanted = config.execution.microbatch
    if wanted == "off":
        return None
    if model.couples_samples:
        raise InputError(
            f"config.execution.microbatch = {wanted}: {model.name} has batch "
            "statistics, its batches cannot be split; allowed: off"
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
        shape = options["schedule"].shape
        if len(shape) == 2 and shape[1] != facts["cohort_size"]:
            raise InputError(
                f"config.participation.clients_per_round = {facts['cohort_size']} must "
                f"be {shape[1]}: config.participation.schedule = {path!r} has so many "
                "columns"
            )
        del facts["cohort_size"], facts["num_malicious"]
    if section.name == "uniform":
        del facts["num_malicious"]
    if section.name == "leadfl":
        facts["rounds"] = config.rounds
    return PARTICIPATIONS[section.name](**facts, **options)


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
