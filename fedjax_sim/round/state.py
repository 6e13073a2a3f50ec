"""What a run carries from round to round, and what a round is given and reports.

Letters: `N` population, `n` cohort, `d` parameters, `b` buffer entries.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.client import ClientSide, Hyper, Options
from fedjax_sim.contracts.defense import Defense
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.round.batches import TrainData

PyTree = Any


class FedState(NamedTuple):
    """Everything that a run carries from round to round, and a checkpoint holds."""

    round: Array  # i32 [], rounds done
    params: Array  # f32 [d]
    buffers: Array  # f32 [b]
    server: PyTree  # state of the server optimiser
    defense: PyTree
    attack: PyTree
    clients: PyTree = ()  # what benign clients remember, leading axis N
    momentum: PyTree = ()  # f32 [N, d], of clients whose momentum persists


class Sides(NamedTuple):
    """The three sides of a round."""

    attack: Attack
    defense: Defense
    client: ClientSide


# The sides with these options instead of the config's.
MakeSides = Callable[[Options], Sides]


class RootData(NamedTuple):
    """The server's own samples, m of them."""

    train: TrainData  # of one client, the server
    images: Array  # u8 [m, H, W, C], augmented once if the defence asked for it


class Inputs(NamedTuple):
    """What stays the same in all rounds of a run."""

    key: Array  # root key of the run
    data: TrainData
    malicious: Array  # bool [N]
    hyper: Hyper
    root: RootData | None = None  # for a defence that asks for it
    start: GlobalModel | None = None  # a trained model to begin with


class RoundReport(NamedTuple):
    """What happened in a round."""

    round: Array  # i32 []
    client_ids: Array  # i32 [n]
    present: Array  # bool [n], False: an empty place of the cohort
    malicious: Array  # bool [n], by the fixed set
    active: Array  # bool [], the malicious clients attacked in this round
    acted: Array  # bool [n], attackers who trained otherwise or sent something else
    weights: Array  # f32 [n], 0 = excluded from the aggregate
    losses: Array  # f32 [n], mean local training loss
    update_norms: Array  # f32 [n]
    global_norm: Array  # f32 [], length of the step of the global model
    skipped: Array  # bool [], no client survived
    scores: dict[str, Array]  # of the defence, [n] each
    attack: dict[str, Array]  # of the attack, [] each, or [groups]
