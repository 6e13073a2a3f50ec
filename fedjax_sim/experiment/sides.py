"""The three sides of a run: attack, defence, and what benign clients do."""

from collections.abc import Callable
from typing import Any

from fedjax_sim.attacks.none import none as no_attack
from fedjax_sim.attacks.parts.adaptive import TRIES_RULE, adapted
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.client import ClientSide, Options
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.defense import Defense, Stage
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.before import stages_before, weighed_by_examples
from fedjax_sim.defenses.parts.reconstruction import Reconstruction
from fedjax_sim.experiment.config import TABLES, find_stage, stage_prefix
from fedjax_sim.round.state import MakeSides, Sides

_KINDS = {"attack": Attack, "defense": Defense, "client_defense": ClientSide}


def sides_of(
    config: Config, adapt: Callable[[Defense], Defense] = lambda defense: defense
) -> MakeSides:
    """Returns a function that makes the sides of a config.

    It takes options by "section.key", which may be traced, instead of the config's.

    Args:
      config: a resolved config.
      adapt: what to make of the defence, to look into it.
    """

    def make(options: Options) -> Sides:
        def rule(section: str) -> Any:
            chosen = getattr(config, section)
            entry = TABLES[section].find(chosen.name)
            own = {
                key: options.get(f"{section}.{key}", value)
                for key, value in chosen.options.items()
                if key in entry.options
            }
            made = entry.factory(**own)
            if not isinstance(made, _KINDS[section]):
                raise InputError(
                    f"config.{section}.name = {chosen.name!r} makes a "
                    f"{type(made).__name__}; {_KINDS[section].__name__} is needed"
                )
            return made

        defense = _in_front(config, options, rule("defense"))
        defense = adapt(defense)
        client = _joined(config, rule("client_defense"), defense.client_side)
        plain = rule("attack")
        _check_simulated(config, plain, defense)
        attack = with_factor(config, plain)
        return Sides(_resting(config, attack, defense), defense, client)

    return make


def with_factor(config: Config, attack: Attack) -> Attack:
    """The attack, with the factor that the config asks for."""
    section = config.attack
    if section.adapt == "none":
        return attack
    return adapted(
        attack,
        section.adapt,
        share=section.adapt_share,
        trials=section.adapt_trials,
        largest=section.adapt_largest,
        knows=section.adapt_knows,
    )


def _check_simulated(config: Config, attack: Attack, defense: Defense) -> None:
    """Refuses an adaptive attacker who could not do what the server does."""
    how, name = config.attack.adapt, config.defense.name
    if how in TRIES_RULE and defense.groups is not None:
        raise InputError(
            f"config.attack.adapt = {how!r} tries what it sends on the server's rule; "
            f"config.defense.name = {name!r} answers groups of clients apart and "
            "cannot be simulated; allowed: none, ward"
        )
    if attack.tries_rule and defense.groups is not None:
        raise InputError(
            f"config.attack.name = {config.attack.name!r} tries what it sends on the "
            f"server's rule; config.defense.name = {name!r} answers groups of clients "
            "apart and cannot be simulated; it must be a rule with one model for all "
            "clients"
        )
    rebuilds = isinstance(defense.settings, Reconstruction)
    if how == "reconstruct" and not rebuilds:
        raise InputError(
            f"config.attack.adapt = {how!r} imitates the server's reconstruction; "
            f"config.defense.name = {name!r} reconstructs nothing; allowed: "
            "fedredefense"
        )


def _resting(config: Config, attack: Attack, defense: Defense) -> Attack:
    """The attack, whose clients wait while too much is held against them."""
    limit = config.attack.rest_above
    if limit is None:
        return attack
    if defense.owed is None:
        raise InputError(
            f"config.attack.rest_above = {limit}: config.defense.name = "
            f"{config.defense.name!r} holds nothing against clients from round to "
            "round (`Defense.owed`), as penalties do; allowed: None"
        )
    return attack._replace(
        rests=lambda owed: owed > limit,
        knowledge=tuple(dict.fromkeys((*attack.knowledge, "aggregation_rule"))),
    )


def _in_front(config: Config, options: Options, defense: Defense) -> Defense:
    """The rule, with the stages before it and the weights that the config asks for."""
    section, stages = config.defense, {}
    for name in section.before:
        entry, prefix = find_stage(name), stage_prefix(name)
        own = {
            key: options.get(f"defense.{prefix}{key}", section.options[prefix + key])
            for key in entry.options
        }
        made = entry.factory(**own)
        if not isinstance(made, Stage):
            raise InputError(
                f"config.defense.before = {name!r} makes a {type(made).__name__}; "
                "Stage is needed"
            )
        stages[name] = made
    if len(stages) < len(section.before):
        raise InputError(
            f"config.defense.before = {section.before} has a stage twice; allowed: once"
        )
    merging = [name for name, stage in stages.items() if stage.settle is not None]
    if section.weights == "examples" and merging:
        raise InputError(
            f"config.defense.weights = 'examples': {merging[0]!r} of "
            "config.defense.before gives all that it makes the same weight; allowed: "
            "uniform"
        )
    defense = stages_before(section.name, stages, defense)
    return weighed_by_examples(defense) if section.weights == "examples" else defense


def without_attack(make: MakeSides) -> MakeSides:
    """Returns the same sides, but nobody attacks."""
    return lambda options: make(options)._replace(attack=no_attack())


def _joined(config: Config, own: ClientSide, other: ClientSide | None) -> ClientSide:
    """The client-side defence, and what a server rule asks of the clients."""
    if other is None:
        return own
    for seam, mine, theirs in zip(ClientSide._fields, own, other, strict=True):
        if mine is not None and theirs is not None:
            raise InputError(
                f"config.client_defense.name = {config.client_defense.name!r}: "
                f"config.defense.name = {config.defense.name!r} has a client side of "
                f"its own ({seam}); allowed: none"
            )
    return ClientSide(
        optimizer=own.optimizer or other.optimizer,
        release=own.release or other.release,
        training=own.training or other.training,
    )
