"""An experiment: the parts of a run, built from its config stage by stage."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from fedjax_sim.contracts.attack import AttackSpec, BackdoorTest, Poison
from fedjax_sim.contracts.client import Hyper, Options
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset, Partition
from fedjax_sim.contracts.defense import Defense
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.core import distributed
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.augment import AUGMENTATIONS
from fedjax_sim.data.dataset import fingerprint
from fedjax_sim.data.normalize import normalization
from fedjax_sim.data.packing import classes_of_clients
from fedjax_sim.data.packing import fingerprint as partition_fingerprint
from fedjax_sim.data.partition import PARTITIONS
from fedjax_sim.experiment import program
from fedjax_sim.experiment.absent import refuse_influence_of_absent
from fedjax_sim.experiment.clients import (
    Clients,
    make_clients,
    make_participation,
    malicious_majority,
)
from fedjax_sim.experiment.config import TABLES
from fedjax_sim.experiment.data import load_data, root_data
from fedjax_sim.experiment.layout import Layout, make_layout, make_work
from fedjax_sim.experiment.outside import blamed, chosen_outside
from fedjax_sim.experiment.sides import sides_of, without_attack
from fedjax_sim.experiment.target import GIB, Target, here
from fedjax_sim.experiment.trained import load_start, network_of
from fedjax_sim.metrics import evaluation
from fedjax_sim.metrics.evaluation import Counts, TestSets
from fedjax_sim.round import federation, training
from fedjax_sim.round.batches import Reader, TrainData, poisoned_fractions
from fedjax_sim.round.federation import Parts
from fedjax_sim.round.state import FedState, Inputs, MakeSides, RoundReport, Sides

Evaluate = Callable[[FedState, Inputs, TestSets], dict[str, Counts]]


class Experiment(NamedTuple):
    """The parts of a run that is ready to start."""

    config: Config
    parts: Parts
    twin: Parts | None  # the same without the attack, to measure its effect
    inputs: Inputs
    test_sets: TestSets
    evaluate: Evaluate
    estimated_bytes: int  # on one device, while a round is computed
    facts: dict[str, Any]  # for provenance.json and summary.json
    partition: Partition  # as drawn: without fake clients, before the attack moves any
    target: Target

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share the clients."""
        return self.parts.mesh

    def init(self, inputs: Inputs) -> FedState:
        """Returns the state before the first round; see `round.federation`."""
        return federation.init(self.parts, inputs)

    def round_step(
        self, state: FedState, inputs: Inputs
    ) -> tuple[FedState, RoundReport]:
        """One round; see `round.federation`."""
        return federation.round_step(self.parts, state, inputs)


def build(
    config: Config,
    dataset: Dataset | None = None,
    adapt: Callable[[Defense], Defense] = lambda defense: defense,
    target: Target | None = None,
) -> Experiment:
    """Prepares a run; nothing is compiled yet.

    Args:
      config: a resolved config.
      dataset: what `load_data` returned; None loads it.
      adapt: what to make of the defence, to look into it.
      target: where it is to run; None: here. Of another one the arrays stay on the
        host, and all that can be done with the experiment is to compile it.

    Raises:
      InputError: anything in the config that this machine or data set cannot satisfy.
    """
    with blamed(config):
        target = target or here()
        built = _build(config, dataset or load_data(config), adapt, target)
        outside = chosen_outside(config)
        if outside:  # ours are tested
            _trace(built)
        if "defense" in outside:
            refuse_influence_of_absent(built.parts, built.inputs)
        return built


def _build(
    config: Config,
    dataset: Dataset,
    adapt: Callable[[Defense], Defense],
    target: Target,
) -> Experiment:
    key = jax.random.key(config.seed)
    clients = make_clients(config, dataset, key)
    make_sides = sides_of(config, adapt)
    sides = make_sides({})
    network = make_network(config, dataset, target)
    threat = make_threat(config, dataset, clients, network, sides)
    drawn = clients.genuine
    clients = clients._replace(partition=threat.spec.partition)
    parts, layout = make_parts(
        config, dataset, clients, network, threat, make_sides, target
    )
    federation.check(parts)
    start = load_start(config.model.init, network) if config.model.init else None
    inputs = make_inputs(config, dataset, clients, threat, sides, key)
    inputs = inputs._replace(start=start and start.model)
    facts = make_facts(config, dataset, clients, threat, sides, parts, layout)
    facts["partition"] |= _class_summary(config, dataset, drawn)
    facts["init"] = start and start.fingerprint
    return Experiment(
        config=config,
        parts=parts,
        twin=make_twin(parts) if config.evaluation.attack_effect else None,
        inputs=distributed.replicate(inputs, parts.mesh) if target.here else inputs,
        test_sets=evaluation.make_test_sets(
            dataset,
            threat.test,
            batch_size=config.evaluation.batch_size,
            any_source=config.evaluation.any_source,
        ),
        evaluate=make_evaluation(config, parts, threat),
        estimated_bytes=layout.estimated_bytes,
        facts=facts,
        partition=drawn,
        target=target,
    )


def _trace(built: Experiment) -> None:
    """Traces a round and an evaluation, and compiles nothing.

    Raises:
      InputError: something from outside of the package breaks its contract.
    """
    network, parts, inputs = built.parts.network, built.parts, built.inputs
    images = np.zeros((2, *network.image_shape), np.float32)
    params, buffers = (
        np.zeros(layout.size, np.float32)
        for layout in (network.layout, network.buffer_layout)
    )
    shape = jax.eval_shape(network.logits, params, buffers, images).shape
    if len(shape) != 2 or shape[0] != 2 or shape[1] < network.num_classes:
        raise InputError(
            f"config.model.name: logits {list(shape)} for 2 images; allowed: "
            f"[2, {network.num_classes} or more], for the classes of the data"
        )
    federation.check_states(parts, inputs)
    start = jax.eval_shape(lambda inputs: federation.init(parts, inputs), inputs)
    jax.eval_shape(built.evaluate, start, inputs, built.test_sets)


class Threat(NamedTuple):
    """What the attack makes of the data, and how its success is measured."""

    spec: AttackSpec
    poison: Poison | None
    poisoned: np.ndarray | None  # f64 [M], fraction of each malicious client's data
    test: BackdoorTest | None


def make_network(config: Config, dataset: Dataset, target: Target) -> Network:
    """Builds what the clients train.

    Raises:
      InputError: the network does not take such images.
    """
    shape = dataset.train_images.shape[1:]
    return network_of(config, shape, dataset.num_classes, target.backend)


def make_threat(
    config: Config,
    dataset: Dataset,
    clients: Clients,
    network: Network,
    sides: Sides,
) -> Threat:
    """Lets the attack plan its poison, which may move samples between its clients.

    Raises:
      InputError: an attack that cannot work on this data or with these clients.
    """
    attack = sides.attack
    if config.attack.num_fake and attack.trains:
        raise InputError(
            f"config.attack.num_fake = {config.attack.num_fake}: fake clients have no "
            f"data, and config.attack.name = {config.attack.name!r} trains on data; "
            "allowed: 0"
        )
    spec = AttackSpec(
        labels=dataset.train_labels,
        partition=clients.partition,
        malicious_ids=clients.malicious_ids,
        num_classes=dataset.num_classes,
        image_shape=network.image_shape,
        normalization=normalization(config.data.normalization, network.image_shape[-1]),
        layout=network.layout,
        test_images=dataset.test_images,
        test_labels=dataset.test_labels,
    )
    poison = attack.poison(spec) if attack.poison else None
    if attack.poison is not None and not isinstance(poison, Poison):
        raise InputError(
            f"config.attack.name = {config.attack.name!r}: poison gives a "
            f"{type(poison).__name__}, no Poison"
        )
    if poison is not None and poison.batchwise and config.client.batch_size < 2:
        raise InputError(
            f"config.client.batch_size = {config.client.batch_size} must be at least 2 "
            "with config.attack.batchwise: a batch holds clean and poisoned samples"
        )
    if attack.repartition is not None:  # a plan is per sample: it moves along
        spec = spec._replace(partition=attack.repartition(spec))
    poisoned = None
    if poison is not None:
        poisoned = poisoned_fractions(
            poison,
            spec.labels,
            spec.partition,
            clients.malicious_ids,
            config.client.batch_size,
        )
        if config.attack.options.get("dpr") != 0:
            _refuse_nothing_poisoned(config, poisoned)
    return Threat(spec, poison, poisoned, attack.test(spec) if attack.test else None)


def _refuse_nothing_poisoned(config: Config, poisoned: np.ndarray) -> None:
    if not len(poisoned) or poisoned.any():
        return
    start = (
        f"config.attack.name = {config.attack.name!r} would poison no sample of its "
        f"{len(poisoned)} malicious clients"
    )
    victim = config.attack.options.get("victim_class")
    if victim is not None:
        raise InputError(
            f"{start}: none holds one of config.attack.victim_class = {victim}; choose "
            "another class, config.attack.malicious_clients or config.partition"
        )
    raise InputError(
        f"{start} in batches of config.client.batch_size = {config.client.batch_size}; "
        "allowed: larger batches or another rate"
    )


def make_parts(
    config: Config,
    dataset: Dataset,
    clients: Clients,
    network: Network,
    threat: Threat,
    sides: MakeSides,
    target: Target,
) -> tuple[Parts, Layout]:
    """Puts the federation together, and lays its work out.

    Raises:
      InputError: what the memory or the devices of the target cannot hold, or more
        devices than clients.
    """
    work = make_work(config, network)
    participation = make_participation(config, clients)
    spec = FederationSpec(
        clients.population,
        participation.cohort_size,
        len(clients.malicious_ids),
        network.layout,
        network.buffer_layout.size,
        network,
    )
    if config.execution.devices > spec.cohort_size:
        raise InputError(
            f"config.execution.devices = {config.execution.devices} must be at most "
            f"{spec.cohort_size}, the clients of a round, which are shared among them"
        )
    mesh = target.mesh(config.execution.devices)
    layout = make_layout(config, work, dataset, spec, sides({}), target)
    augmentation = AUGMENTATIONS[config.data.augmentation]
    parts = Parts(
        network=network,
        spec=spec,
        reader=Reader(augmentation, threat.spec.normalization, threat.poison),
        work=work,
        participation=participation,
        sides=sides,
        strategy=layout.strategy,
        attack_spec=threat.spec,
        server_optimizer=_server_optimizer(config.server.optimizer),
        lr_factor=_lr_factor(config),
        mesh=mesh,
    )
    return parts, layout


def make_twin(parts: Parts) -> Parts:
    """Returns the same federation without its attack."""
    return parts._replace(
        reader=parts.reader._replace(poison=None), sides=without_attack(parts.sides)
    )


def make_inputs(
    config: Config,
    dataset: Dataset,
    clients: Clients,
    threat: Threat,
    sides: Sides,
    key: Array,
) -> Inputs:
    """Collects the arrays that stay the same in all rounds.

    Raises:
      InputError: the defence asks for more of the server's samples than there are.
    """
    # Of the host still: `distributed.replicate` puts them on the devices.
    return Inputs(
        key=key,
        data=TrainData(
            images=cast(Array, dataset.train_images),
            labels=cast(Array, dataset.train_labels),
            indices=cast(Array, clients.partition.indices),
            counts=cast(Array, clients.partition.counts),
            poison_plan=threat.poison.plan if threat.poison else (),
        ),
        malicious=cast(Array, clients.is_malicious),
        hyper=Hyper(
            cast(Array, np.float32(config.client.lr)),
            cast(Array, np.float32(config.client.momentum)),
            cast(Array, np.float32(config.client.weight_decay)),
            cast(Array, np.float32(config.server.lr)),
            cast(Options, program.traced_options(config)),
        ),
        root=root_data(config, sides.defense.root, dataset, key),
    )


def make_evaluation(config: Config, parts: Parts, threat: Threat) -> Evaluate:
    """Returns `(state, inputs, test sets) -> counts`, as the defence predicts."""
    network = parts.network
    trigger = threat.test.trigger if threat.test else None

    def evaluate(state: FedState, inputs: Inputs, sets: TestSets) -> dict[str, Counts]:
        predict, shown = None, trigger
        attack, defense, _ = parts.sides(inputs.hyper.options)
        if attack.triggers is not None:  # the current one
            shown = jax.tree.map(lambda x: x[0], attack.triggers(state.attack))
        if defense.predict is not None:
            model = GlobalModel(state.params, state.buffers)
            predict = lambda images: defense.predict(
                state.defense, model, network, images
            )
        with network.in_precision():
            return evaluation.evaluate(
                network.model,
                network.layout.unravel(state.params),
                network.buffer_layout.unravel(state.buffers),
                sets,
                threat.spec.normalization,
                shown,
                config.evaluation.low_confidence_threshold,
                predict,
                config.evaluation.batch_statistics,
            )

    return evaluate


def make_facts(
    config: Config,
    dataset: Dataset,
    clients: Clients,
    threat: Threat,
    sides: Sides,
    parts: Parts,
    layout: Layout,
) -> dict[str, Any]:
    """What is known of a run before its first round."""
    attacked = config.attack.name != "none"
    return {
        "data": {
            "name": config.data.name,
            "train": len(dataset.train_images),
            "test": len(dataset.test_images),
            "classes": dataset.num_classes,
            "fingerprint": fingerprint(dataset),
            "image_shape": list(parts.network.image_shape),
        },
        "partition": {
            "fingerprint": partition_fingerprint(clients.partition),
            **_size_summary(clients.partition),
        },
        "parameters": parts.network.layout.size,
        "model_bytes": 4 * (parts.network.layout.size + parts.spec.num_buffers),
        "defense_state_bytes": defense_state_bytes(sides.defense, parts.spec),
        "malicious_clients": clients.malicious_ids.tolist(),
        "realised_dpr": threat.poisoned,  # of each malicious client
        "nothing_to_poison": []
        if threat.poisoned is None
        else clients.malicious_ids[threat.poisoned == 0].tolist(),
        "malicious_majority": malicious_majority(parts.participation, clients)
        if attacked
        else None,
        "attack_knowledge": list(sides.attack.knowledge),
        "oracle_knowledge": TABLES["defense"].find(config.defense.name).oracle,
        "execution": {
            "clients": layout.name,
            "lowering": parts.network.lowering,
            "microbatch": parts.work.microbatch,
            "devices": config.execution.devices,
            "estimated_gib": round(layout.estimated_bytes / GIB, 3),
        },
    }


def defense_state_bytes(defense: Defense, spec: FederationSpec) -> int:
    """What the rule remembers from round to round, such as FedREDefense's knowledge."""
    state = jax.eval_shape(
        lambda key: defense.init(spec._replace(key=key)), jax.random.key(0)
    )
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _size_summary(partition: Partition) -> dict[str, float]:
    counts = partition.counts
    return {
        "samples": int(counts.sum()),
        "smallest": int(counts.min()),
        "mean": float(counts.mean()),
        "largest": int(counts.max()),
    }


def _class_summary(
    config: Config, dataset: Dataset, drawn: Partition
) -> dict[str, Any]:
    """Which clients lack classes, as they were drawn and without fake ones."""
    classes = len(np.unique(dataset.train_labels))
    held = classes_of_clients(drawn, dataset.train_labels)
    return {
        "name": config.partition.name,
        "alike": PARTITIONS.find(config.partition.name).alike,
        "clients": len(held),
        "classes": classes,
        "clients_without_a_class": int((held < classes).sum()),
        "fewest_classes": int(held.min()),
    }


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
