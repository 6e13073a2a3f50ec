"""Options: what a signature and a docstring say about them, and what is refused."""

import functools
import inspect
import math
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import (
    REQUIRED,
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    Range,
    Sizable,
    Traced,
    checked,
    gather,
    options_of,
    traced_names,
)
from fedjax_sim.experiment.config import TABLES, options, resolve

Base = Literal["mean", "median"]
Share = Annotated[float, Range(0, 1, open_low=True)]


@checked("defense")
def made(
    labels: Any = None,
    *,
    needed: Natural,
    factor: Traced[Positive] = 2.0,
    bound: Traced[NonNegative] | None = None,
    share: Traced[Share] = 0.5,
    part: Fraction = 0.5,
    tiny: Traced[Sizable] = 1.0,
    steps: Count | None = None,
    signed: float = -1.0,
    base: Base = "mean",
    other: Base | None = None,
    rounds: tuple[Count, ...] = (2, 4),
    flag: bool = False,
    path: str = "",
) -> dict:
    """Returns what it was given.

    Args:
      factor: of the median norm; longer updates
        are left out: see `norms`.
      bound, share: of both
        together.
      base: what: a colon.

    Raises:
      InputError: an option outside its range.
    """
    return locals()


OWN = options_of(made)


# ------------------------------------------------------------------- what is declared


def test_names_and_defaults_are_those_of_the_signature():
    assert list(OWN) == list(inspect.signature(made).parameters)
    assert OWN["needed"].default is REQUIRED and OWN["factor"].default == 2.0


@pytest.mark.parametrize(
    ("name", "expected", "text"),
    [
        ("factor", Range(0, open_low=True), "above 0"),
        ("bound", Range(0), "at least 0"),
        ("share", Range(0, 1, open_low=True), "above 0, at most 1"),
        ("part", Range(0, 1), "at least 0, at most 1"),
        ("tiny", Range(1e-12), "at least 1e-12"),
        ("steps", Range(1), "at least 1"),
        ("rounds", Range(1), "at least 1"),
        ("signed", Range(), "finite"),
    ],
)
def test_ranges_at_any_depth(name, expected, text):
    assert OWN[name].range == expected
    assert str(OWN[name].range) == text


def test_other_types_have_no_range():
    for name in ("labels", "base", "other", "flag", "path"):
        assert OWN[name].range is None
    assert str(Range(high=3)) == "at most 3"


def test_choices_are_those_of_the_literal_type():
    assert OWN["base"].choices == OWN["other"].choices == ("mean", "median")
    assert OWN["flag"].choices is OWN["factor"].choices is None


def test_traced_names_in_the_order_of_the_signature():
    assert traced_names(made) == ("factor", "bound", "share", "tiny")


def test_meanings_are_those_of_the_docstring():
    assert OWN["factor"].meaning == (
        "of the median norm; longer updates are left out: see `norms`."
    )
    assert OWN["bound"].meaning == OWN["share"].meaning == "of both together."
    assert OWN["base"].meaning == "what: a colon."
    assert OWN["part"].meaning == OWN["flag"].meaning == ""


def test_partial_calls_and_wrappers_keep_their_options():
    bound = functools.partial(made, None)
    assert list(options_of(bound)) == list(OWN)[1:]
    assert options_of(bound)["factor"] == OWN["factor"]
    assert made.__name__ == "made"


def test_functions_without_options():
    @checked("defense")
    def plain():
        """Nothing to choose."""

    assert options_of(plain) == {}
    with pytest.raises(InputError, match=r"config\.defense\.k is not .*; it has none$"):
        plain(k=1)


# --------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "given",
    [
        {"factor": 1e-300},
        {"factor": 3},
        {"bound": 0},
        {"bound": None},
        {"share": 1.0},
        {"part": 0},
        {"part": 1},
        {"tiny": 1e-12},
        {"steps": 1},
        {"steps": None},
        {"signed": -1e30},
        {"base": "median"},
        {"other": None},
        {"rounds": (1, 7)},
        {"rounds": ()},
        {"flag": True},
        {"path": "-1"},
        {"factor": np.zeros(())},
    ],
)
def test_allowed_values_arrive(given):
    assert given.items() <= made(None, needed=0, **given).items()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"factor": 0}, "factor = 0 must be above 0"),
        ({"factor": math.nan}, "factor = nan must be above 0"),
        ({"factor": math.inf}, "factor = inf must be above 0"),
        ({"bound": -0.5}, "bound = -0.5 must be at least 0"),
        ({"share": 0.0}, "share = 0.0 must be above 0 and at most 1"),
        ({"share": 1.5}, "share = 1.5 must be above 0 and at most 1"),
        ({"part": 1.5}, "part = 1.5 must lie between 0 and 1"),
        ({"tiny": 1e-13}, "tiny = 1e-13 must be at least 1e-12"),
        ({"steps": 0}, "steps = 0 must be at least 1"),
        ({"rounds": (1, 0)}, "rounds = 0 must be at least 1"),
        ({"needed": -1}, "needed = -1 must be at least 0"),
        (
            {"base": "medan"},
            "base = 'medan' is not allowed; did you mean 'median'? "
            "(allowed: mean, median)",
        ),
        (
            {"base": None},
            "base = None is not allowed; allowed: mean, median",
        ),
    ],
)
def test_other_values_are_refused_in_one_line(given, message):
    with pytest.raises(InputError) as problem:
        made(**{"needed": 0, **given})
    assert str(problem.value) == f"config.defense.{message}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_number_is_finite(value):
    for name in ("factor", "bound", "share", "part", "steps", "signed"):
        with pytest.raises(
            InputError, match=rf"config\.defense\.{name} = {value} must"
        ):
            made(needed=0, **{name: value})


def test_unknown_options_are_refused_with_the_nearest_name():
    with pytest.raises(InputError) as problem:
        made(needed=0, facto=1.0)
    assert str(problem.value).startswith(
        "config.defense.facto is not an option of made; did you mean 'factor'?"
    )


def test_arrays_pass_unchecked():
    made(needed=0, factor=jnp.float32(-1), steps=np.int32(0))
    seen = jax.jit(lambda x: made(needed=0, factor=x, bound=x)["factor"])(-1.0)
    assert seen == -1.0


def test_a_flag_is_no_number():
    """A factory does not measure it; a config, which knows types, refuses it."""
    assert made(needed=0, flag=False)["flag"] is False
    OWN["steps"].check("defense", False)
    with pytest.raises(InputError, match=r"config\.defense\.num_groups = True: .*int"):
        resolve({"defense": {"name": "flcert", "num_groups": True}})


def test_gather_takes_the_fields_by_name():
    class Settings(NamedTuple):
        b: int
        a: float

    assert gather(Settings, {"a": 1.0, "b": 2, "c": 3}) == Settings(b=2, a=1.0)
    with pytest.raises(KeyError):
        gather(Settings, {"a": 1.0})


# -------------------------------------------------------------------- all that exists

RULES = [(section, name) for section, table in TABLES.items() for name in table]
ALL = [
    pytest.param(section, name, key, id=f"{section}.{name}.{key}")
    for section, name in RULES
    for key in options(section, name)
]


@pytest.mark.parametrize(("section", "name", "key"), ALL)
def test_an_option_says_what_it_means_and_what_it_may_be(section, name, key):
    own = options(section, name)[key]

    assert own.meaning and "\n" not in own.meaning
    plain = own.annotation in (bool, str, bool | None, str | None)
    assert plain or own.range is not None or own.choices
    if own.default is not REQUIRED:
        own.check(section, own.default)


@pytest.mark.parametrize(("section", "name"), RULES)
def test_every_option_is_a_keyword(section, name):
    parameters = inspect.signature(TABLES[section][name].factory).parameters
    for key in options(section, name):
        assert parameters[key].kind == inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(("section", "name", "key"), ALL)
def test_a_factory_refuses_what_lies_outside(section, name, key):
    """Before it does anything: no other argument is given."""
    own, factory = options(section, name)[key], TABLES[section][name].factory
    several = tuple in map(get_origin, [own.annotation, *get_args(own.annotation)])
    wrong = []
    if own.range is not None:
        low, high, open_low = own.range
        below = low if open_low else low - 1
        wrong = [below, high + 1] if math.isfinite(high) else [below]
    elif own.choices is not None:
        wrong = ["no such choice"]

    for value in wrong:
        with pytest.raises(InputError) as problem:
            factory(**{key: (value,) if several else value})
        assert str(problem.value).startswith(f"config.{section}.{key} = {value!r} ")
        assert "\n" not in str(problem.value)


@pytest.mark.parametrize(("section", "name"), RULES)
def test_a_factory_refuses_options_that_it_does_not_have(section, name):
    factory = TABLES[section][name].factory
    with pytest.raises(InputError, match=rf"^config\.{section}\.nonsense is not an "):
        factory(nonsense=1)


@pytest.mark.parametrize("value", [1e39, -3.5e38])
def test_a_number_that_no_float32_holds_is_refused(value):
    @checked("defense")
    def rule(*, size: float = 1.0) -> None:
        pass

    rule(size=np.sign(value) * 3.4028234e38)
    with pytest.raises(InputError, match=r"size = .* within \+-3.4028234e38"):
        rule(size=value)


def test_a_count_that_no_int32_holds_is_refused():
    @checked("defense")
    def rule(*, count: Count = 1) -> None:
        pass

    rule(count=2**31 - 1)
    with pytest.raises(InputError, match=r"count = 2147483648 .* \+-2147483647 "):
        rule(count=2**31)
