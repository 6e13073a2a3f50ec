"""What multiplies in which precision: read from the traced program."""

import jax
import pytest
from helpers import BASE, digits

from fedjax_sim.experiment import build as experiment
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.experiment.memory import inner_programs
from fedjax_sim.round import federation

MATMULS = ("dot_general", "conv_general_dilated")


def precisions(function, *arguments) -> set[str]:
    """Those of all matmuls and convolutions that a function traces."""
    found = set()

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in MATMULS:
                found.update(p.name for p in equation.params["precision"] or ["UNSET"])
            for sub in inner_programs(equation.params):
                visit(sub)

    visit(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


def halves(changes):
    """The precisions of the clients' half, the server's half and an evaluation."""
    config = resolve(override(BASE, changes))
    built = experiment.build(config, digits())
    parts, inputs = built.parts, built.inputs
    state = jax.eval_shape(built.init, inputs)
    clients = lambda state, inputs: federation.clients_half(parts, state, inputs)[1]
    sent = jax.eval_shape(clients, state, inputs)

    def server(state, inputs, sent):
        opened = federation.open_round(parts, state, inputs)
        return federation.server_half(parts, state, opened, sent)

    evaluate = built.evaluate
    return (
        precisions(clients, state, inputs),
        precisions(server, state, inputs, sent),
        precisions(evaluate, state, inputs, built.test_sets),
    )


@pytest.mark.parametrize("asked", ["default", "high", "highest"])
def test_clients_and_evaluation_take_what_is_asked(asked):
    clients, server, evaluation = halves({"execution.matmul_precision": asked})
    assert (clients, server, evaluation) == (
        {asked.upper()},
        {"HIGHEST"},
        {asked.upper()},
    )


@pytest.mark.parametrize(
    "name",
    [
        "droplet",
        "flame",
        "foolsgold",
        "multikrum",
        "rlr",
        "random_aggregation",
        "prodigy",
    ],
)
def test_servers_compare_and_reduce_in_the_highest(name):
    options = {"defense.num_byzantine": 0} if name == "multikrum" else {}
    _, server, _ = halves({"defense.name": name, **options})
    assert server <= {"HIGHEST"}


def test_a_server_that_trains_does_so_as_clients_do():
    """Its samples are trained on in their precision, and compared in the highest."""
    changes = {"defense.name": "fltrust", "defense.num_samples": 60}
    _, server, _ = halves({**changes, "execution.matmul_precision": "high"})
    assert server == {"HIGH", "HIGHEST"}


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_lowered_program_says_so(platform):
    built = experiment.build(resolve(BASE), digits())
    state = jax.eval_shape(built.init, built.inputs)
    step = jax.jit(built.round_step).trace(state, built.inputs)
    text = step.lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    inside, outside = (
        [line for line in products if ("[HIGHEST, HIGHEST]" in line) == highest]
        for highest in (False, True)
    )
    # Four of the network's two layers and their gradients, and the mean of updates.
    assert inside and outside and all("DEFAULT" in line for line in inside)
