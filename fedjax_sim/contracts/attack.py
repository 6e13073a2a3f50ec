"""What an attack is: up to eight seams, each None where the attack leaves it alone.

* `poison`: which samples of which malicious clients get which trigger and label. It
  is applied on the fly inside the batch function; the data set is never copied.
* `local_transform`: a gradient transformation in front of the malicious clients'
  optimiser (Neurotoxin's mask).
* `local_stages`: other local work than the benign one: a gradient of its own (MGDA
  mixing), more epochs, several stages one after the other (Chameleon).
* `prepare`, `triggers`: what attackers find out before they train, and the triggers
  that come of it, where these change from round to round (A3FL).
* `result`: what an attacker makes of the models of its stages (layer poisoning).
* `craft`: the malicious updates, from what the attacker is said to know.
* `active`: in which rounds the malicious clients act; in all others they train as
  benign clients do on clean data.

An attack declares what it knows. `craft` is shown nothing else: the rows of benign
clients are zero unless the attack declares `"benign_updates"`. The state of an attack
is a pytree; `observe` sees every broadcast global model, also in rounds in which none
of its clients is sampled. Under a defence that divides the clients into groups, the
attackers of each group have a state of their own and see only their group.

Letters: `B` batch, `n` cohort, `N` population, `d` parameters, `M` training samples,
`P` triggers.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from fedjax_sim.contracts.client import (
    Batch,
    ClientContext,
    ClientTask,
    GradientFn,
    Hyper,
)
from fedjax_sim.contracts.dataset import Normalization, Partition, Trigger
from fedjax_sim.contracts.model import Model, Network
from fedjax_sim.numerics.flat import FlatLayout

PyTree = Any
Knowledge = Literal["own_data", "own_updates", "benign_updates", "aggregation_rule"]


class AttackSpec(NamedTuple):
    """The facts of a run that an attack may be built from."""

    labels: np.ndarray  # i32 [M], training labels
    partition: Partition
    malicious_ids: np.ndarray  # i32, the malicious clients of the population
    num_classes: int
    image_shape: tuple[int, int, int]
    normalization: Normalization
    layout: FlatLayout  # of the trainable parameters
    test_images: np.ndarray  # u8 [T, H, W, C]
    test_labels: np.ndarray  # i32 [T]


class PoisonDecision(NamedTuple):
    """What becomes of the samples of a batch."""

    poisoned: Array  # bool [B]: stamped, and never augmented
    labels: Array  # i32 [B], those to train on
    trigger: Array  # i32 [] or [B], which of the triggers


class Poison(NamedTuple):
    """A data poisoning.

    `decide(plan, sample_ids i32 [B], labels i32 [B], context) -> PoisonDecision` runs
    inside the batch function. `plan` is a pytree of arrays, so that runs that differ
    in it share one compilation.
    """

    triggers: Trigger | None  # stacked [P, H, W, C]; None: labels change only
    plan: PyTree
    decide: Callable[[PyTree, Array, Array, ClientContext], PoisonDecision]
    # Every batch of an attacker holds the same share of poison; what is poisoned must
    # not change from epoch to epoch.
    batchwise: bool = False


class BackdoorTest(NamedTuple):
    """How the success of a backdoor is measured (ASR)."""

    trigger: Trigger | None  # stamped on the test images
    victim_class: int | None  # None: all classes but the target
    target_class: int | None
    # Instead: images u8 [P, H, W, C] and the classes i32 [P] they are to be taken for.
    images: tuple[np.ndarray, np.ndarray] | None = None


class Answer(NamedTuple):
    """What a server makes of the updates of a round."""

    update: Array  # f32 [d], by which it would move the global model
    weights: Array  # f32 [n], with which it counts each client; 0: not at all


class CraftView(NamedTuple):
    """What `craft` may see in a round."""

    round: Array  # i32 [], from 1
    key: Array
    global_params: Array  # f32 [d]
    updates: Array  # f32 [n, d]; rows the attacker does not know are zero
    malicious: Array  # bool [n], malicious and active
    present: Array  # bool [n], places of the cohort that are filled
    client_ids: Array  # i32 [n]
    network: Network  # what the parameters are parameters of
    # For who knows "aggregation_rule": the server's state, `Defense.settings`.
    defense: PyTree = None
    settings: object = None
    # And what the server would make of such updates, with another randomness:
    # (updates f32 [n, d]) -> Answer. None where groups of clients are answered apart.
    answer: Callable[[Array], Answer] | None = None
    server_lr: Array | float = 1.0


class OwnData(NamedTuple):
    """The clean samples of one client, to look at outside of its training.

    Attributes:
      batches: i32 [], how many; 0 for a client without samples.
      order: `(key or None) -> i32 [max_m]`: the samples shuffled, or as they lie.
      read: `(order, index i32 []) -> Batch`, not augmented.
    """

    batches: Array
    order: Callable[[Array | None], Array]
    read: Callable[[Array, Array], Batch]


class RoundTools(NamedTuple):
    """What the attackers of a round may prepare themselves with."""

    round: Array  # i32 [], from 1
    key: Array
    model: Model
    gradient: GradientFn  # of benign clients
    global_params: PyTree  # tree of the broadcast model
    global_buffers: PyTree
    data: OwnData  # of the attacker with the smallest id


class LocalTools(NamedTuple):
    """What malicious local work may be made from."""

    state: PyTree  # of the attack
    model: Model
    normalization: Normalization
    task: ClientTask
    hyper: Hyper
    epochs: int  # of benign clients
    gradient: GradientFn  # of benign clients
    optimizer: optax.GradientTransformationExtraArgs  # of benign clients
    global_params: PyTree  # tree of the broadcast model
    data: OwnData


class LocalStage(NamedTuple):
    """One stage of malicious local work.

    The optimiser starts afresh and is also given `epoch_start` and `key`.
    """

    epochs: int
    gradient: GradientFn
    optimizer: optax.GradientTransformationExtraArgs
    poisoned: bool = True  # False: on the client's own clean data
    afresh: bool = False  # from the global model, not from the stage before


class LocalModel(NamedTuple):
    """What a stage of local work has come to, as trees."""

    params: PyTree
    buffers: PyTree


class Attack(NamedTuple):
    """An adversary; see the module's docstring for its seams.

    `init(spec)` gives the state; `active(round) -> bool []`; `observe(state, round,
    global_params f32 [d]) -> state`, before every round; `poison(spec) -> Poison`;
    `local_transform(state, layout)` goes in front of SGD; `local_stages(tools)`
    replaces the local work, and `result(tools, models after each stage) -> LocalModel`
    says what the client goes on with, the last one unless it is given;
    `prepare(state, tools) -> state` runs before the training of a round with attackers,
    `triggers(state) -> Trigger` [P, H, W, C] gives those of `Poison` (and, the first,
    of `BackdoorTest`) where they change; `craft(state, view) -> (state, updates f32
    [n, d])`, of which only the rows of attacking clients are used; `test(spec)` says
    how success is measured; `report(state) -> {name: number}` goes into the round's
    row. With `trains=False` attacking clients do no local work: their rows of
    `CraftView.updates` are zero. `repartition(spec) -> Partition`, after `poison`,
    moves samples between malicious clients. `rests(owed f32 [n]) -> bool [n]`, of what
    the rule holds against the clients of the round (`Defense.owed`), says which
    attackers work as benign clients until it is less. `takes_over(view) -> bool [n]`
    says which rows `craft` writes, where these are not those of the attacking clients:
    a quirk of LeadFL's code, in which copies of one attacker displace benign clients.
    `tries_rule` says that `craft` calls `CraftView.answer`, so that a rule that cannot
    be simulated is refused when the run is built.
    """

    knowledge: tuple[Knowledge, ...]
    init: Callable[[AttackSpec], PyTree] = lambda spec: ()
    active: Callable[[Array], Array] | None = None
    observe: Callable[[PyTree, Array, Array], PyTree] | None = None
    poison: Callable[[AttackSpec], Poison] | None = None
    local_transform: (
        Callable[[PyTree, FlatLayout], optax.GradientTransformationExtraArgs] | None
    ) = None
    local_stages: Callable[[LocalTools], tuple[LocalStage, ...]] | None = None
    result: Callable[[LocalTools, tuple[LocalModel, ...]], LocalModel] | None = None
    prepare: Callable[[PyTree, RoundTools], PyTree] | None = None
    triggers: Callable[[PyTree], Trigger] | None = None
    craft: Callable[[PyTree, CraftView], tuple[PyTree, Array]] | None = None
    test: Callable[[AttackSpec], BackdoorTest] | None = None
    report: Callable[[PyTree], dict[str, Array]] | None = None
    trains: bool = True
    repartition: Callable[[AttackSpec], Partition] | None = None
    rests: Callable[[Array], Array] | None = None
    takes_over: Callable[[CraftView], Array] | None = None
    tries_rule: bool = False

    @property
    def trains_otherwise(self) -> bool:
        """Whether the local work of attacking clients is not that of benign ones."""
        seams = (self.poison, self.local_transform, self.local_stages)
        return not self.trains or any(seam is not None for seam in seams)


def shown(attack: Attack, view: CraftView) -> CraftView:
    """Returns what the attack declares to know of a view; other rows are zero."""
    informed = "aggregation_rule" in attack.knowledge
    known = view.present if "benign_updates" in attack.knowledge else view.malicious
    return view._replace(
        updates=jnp.where(known[:, None], view.updates, 0.0),
        defense=view.defense if informed else None,
        settings=view.settings if informed else None,
        answer=view.answer if informed else None,
    )


def taken_rows(attack: Attack, view: CraftView) -> Array:
    """Returns bool [n]: the rows that the attack writes."""
    return view.malicious if attack.takes_over is None else attack.takes_over(view)
