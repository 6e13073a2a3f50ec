"""All that a server rule must do; see `fedjax_sim.contracts.defense`."""

from collections.abc import Callable
from typing import Any

from fedjax_sim.contracts.defense import Defense
from fedjax_sim.core.errors import InputError
from fedjax_sim.testing import defense_checks, extreme_updates
from fedjax_sim.testing.claims import claim, name_of, told
from fedjax_sim.testing.defense_trial import Trial, make_trial

# (population, buffers): models with and without running statistics; under some rules
# everybody must take part.
FEDERATIONS = tuple((n, b) for n in (40, 9) for b in (5, 0))


def check_defense(factory: Callable[..., Defense], **options: Any) -> None:
    """Tries a server rule in a small federation (9 clients, 23 parameters).

    It takes seconds: the rule is compiled a few times.

    Args:
      factory: of the rule.
      **options: of the factory.

    Raises:
      AssertionError: the rule breaks the contract (`contracts.defense`); one line says
        how.
      InputError: the factory refuses the options.
    """
    name = name_of(factory)
    with told(name, "the factory"):
        defense = factory(**options)
    made = type(defense).__name__
    claim(isinstance(defense, Defense), name, f"makes a {made}, no Defense")
    trial = find_trial(name, defense)
    with told(name, "a round, traced by JAX,"):
        defense_checks.state_keeps_its_shapes(trial)
        defense_checks.order_does_not_matter(trial)
        for junk in defense_checks.JUNK:
            defense_checks.excluded_clients_have_no_influence(trial, junk)
        defense_checks.excluded_clients_are_as_good_as_absent(trial)
        defense_checks.non_finite_clients_are_reported(trial)
        extreme_updates.huge_updates_keep_the_model_finite(trial)
        for copies in extreme_updates.COPIES:
            extreme_updates.identical_updates_stay_finite(trial, copies)
        for reason in ("absent", "non_finite"):
            defense_checks.no_survivors_keep_the_model(trial, reason)
        for n in (1, 3):
            defense_checks.small_cohorts_work_or_are_refused(trial, n)
        defense_checks.rounds_scan_and_seeds_vmap(trial)
        defense_checks.models_without_buffers_work(trial)
        for signs in extreme_updates.SIGNS:
            for sizes in extreme_updates.SIZES:
                extreme_updates.finite_updates_give_finite_models(trial, signs, sizes)
        extreme_updates.largest_numbers_stay_finite(trial)
        if defense.eligible is not None:
            defense_checks.eligibility_is_a_mask_of_the_population(trial)


def find_trial(name: str, defense: Defense) -> Trial:
    """Returns a trial in a federation that the rule accepts.

    Raises:
      AssertionError: there is none.
    """
    refusal = ""
    for population, buffers in FEDERATIONS:
        trial = make_trial(name, defense, population=population, buffers=buffers)
        try:
            with told(name, "init"):
                trial.start()
            return trial
        except InputError as error:
            refusal = refusal or str(error)
    raise AssertionError(f"{name}: refuses every federation of this test: {refusal}")
