"""Options that several attacks share: their checks, and what they stand for."""

from collections.abc import Callable

from jax import Array

from fedjax_sim.contracts.attack import AttackSpec
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.triggers import parse_trigger


def active_rounds(start_round: int, end_round: int | None) -> Callable[[Array], Array]:
    """Returns `active` of an attack from `start_round` until before `end_round`.

    Args:
      start_round: first round of the attack, counted from 1.
      end_round: first round after it; None never ends.

    Raises:
      InputError: an empty window.
    """
    if end_round is not None and end_round <= start_round:
        raise InputError(
            f"config.attack.end_round = {end_round} must be larger than "
            f"config.attack.start_round = {start_round}, or None"
        )

    def active(round_index: Array) -> Array:
        begun = round_index >= start_round
        return begun if end_round is None else begun & (round_index < end_round)

    return active


def require_trigger(name: str) -> None:
    """Raises unless `name` is a trigger, with options that it has."""
    parse_trigger(name)


def require_classes(spec: AttackSpec, **classes: int | None) -> None:
    """Raises unless every class (by the name of its key) exists in the data."""
    for key, value in classes.items():
        if value is not None and not 0 <= value < spec.num_classes:
            raise InputError(
                f"config.attack.{key} = {value} must lie between 0 and "
                f"{spec.num_classes - 1}"
            )
