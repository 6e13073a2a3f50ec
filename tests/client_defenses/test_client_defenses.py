"""LeadFL, FL-WBC and LDP as optimisers, and in a federation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import after, build, spied, spy, start_state

from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.client_defenses.fl_wbc import fl_wbc
from fedjax_sim.client_defenses.ldp import ldp
from fedjax_sim.client_defenses.leadfl import leadfl
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.round.training import sgd

ALL = {
    "leadfl": leadfl().optimizer,
    "leadfl report": leadfl(variant="report").optimizer,
    "leadfl noise_norm": leadfl(clipping="noise_norm").optimizer,
    "fl_wbc": fl_wbc().optimizer,
    "ldp": ldp().optimizer,
    "ldp gaussian": ldp(mechanism="gaussian").optimizer,
}
every = pytest.mark.parametrize("name", ALL)


def start(seed: int = 0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        "conv": {"kernel": draw(5, 4), "bias": draw(4)},
        "norm": {"scale": draw(4), "bias": draw(4)},
    }


def steps(optimizer, gradients, resets, rates=(0.1, 0.9, 0.0)):
    """Runs steps; returns the weights after each of them."""
    transform = optimizer(*map(jnp.float32, rates))
    params = start()
    state, seen = transform.init(params), []
    for t, (gradient, reset) in enumerate(zip(gradients, resets, strict=True)):
        step, state = transform.update(
            gradient,
            state,
            params,
            epoch_start=jnp.bool_(reset),
            key=jax.random.key(t),
        )
        params = optax.apply_updates(params, step)
        seen.append(params)
    return seen


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, rtol=1e-6, atol=1e-7) for x, y in pairs)


@every
def test_first_step_of_an_epoch_is_plain_sgd(name):
    gradients = [start(1), start(2), start(3)]
    got = steps(ALL[name], gradients, [True, True, True])
    assert same(got[-1], steps(sgd, gradients, [True, True, True])[-1])


@every
def test_later_steps_differ_from_plain_sgd(name):
    # nearly the same gradient twice, so that FL-WBC's mask lets noise through
    gradients = [start(1), jax.tree.map(lambda g: 1.01 * g, start(1))]
    got, plain = (steps(o, gradients, [True, False]) for o in (ALL[name], sgd))
    assert same(got[0], plain[0])
    kernels = [x[1]["conv"]["kernel"] for x in (got, plain)]
    scales = [x[1]["norm"]["scale"] for x in (got, plain)]
    assert not np.allclose(*kernels)
    assert not np.allclose(*scales)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"leadfl", "leadfl noise_norm"}))
def test_biases_are_left_alone(name):
    """Only the code's LeadFL repeats the gradient on biases."""
    gradients = [start(1), start(2)]
    got, plain = (steps(o, gradients, [True, False])[1] for o in (ALL[name], sgd))
    for layer in ("conv", "norm"):
        np.testing.assert_allclose(
            got[layer]["bias"], plain[layer]["bias"], rtol=1e-6, atol=1e-7
        )


def test_leadfl_repeats_the_gradient_on_biases_clipped():
    gradients = [start(1), start(2)]
    got, plain = (
        steps(o, gradients, [True, False], (0.1, 0.0, 0.0))[1]
        for o in (leadfl().optimizer, sgd)
    )
    extra = got["conv"]["bias"] - plain["conv"]["bias"]
    expected = -0.1 * jnp.clip(gradients[1]["conv"]["bias"], -0.2, 0.2)
    np.testing.assert_allclose(extra, expected, rtol=1e-4, atol=1e-7)


def test_reset_per_round_remembers_across_epochs():
    gradients = [start(1), start(2)]
    plain = steps(sgd, gradients, [True, True])[1]
    kept = steps(leadfl(reset="round").optimizer, gradients, [True, True])[1]
    assert not same(kept, plain)
    assert same(
        steps(leadfl(reset="epoch").optimizer, gradients, [True, True])[1], plain
    )


def test_fl_wbc_needs_a_small_change_of_the_gradient():
    gradient = start(1)
    far = jax.tree.map(lambda g: g + 1e3, gradient)
    plain = steps(sgd, [gradient, far], [True, False])[1]
    assert same(steps(fl_wbc().optimizer, [gradient, far], [True, False])[1], plain)
    still = steps(fl_wbc().optimizer, [gradient, gradient], [True, False])[1]
    noise = steps(ldp().optimizer, [gradient, gradient], [True, False])[1]
    assert same(still, noise)  # where nothing changed FL-WBC is LDP


def test_fl_wbc_of_the_paper_compares_what_the_weights_moved_by():
    """The same without momentum, until there is noise; then the noise counts too."""
    gradients = [start(1), jax.tree.map(lambda g: 1.2 * g, start(1)), start(2)]
    code, paper = (
        steps(
            fl_wbc(variant=v).optimizer,
            gradients,
            [True, False, False],
            (0.1, 0.0, 0.0),
        )
        for v in ("code", "paper")
    )
    assert same(code[1], paper[1]) and not same(code[2], paper[2])


@every
def test_weight_decay_is_that_of_sgd_on_first_steps(name):
    rates = (0.1, 0.5, 0.01)
    got, plain = (steps(o, [start(1)], [True], rates)[0] for o in (ALL[name], sgd))
    assert same(got, plain)


@pytest.mark.parametrize(
    ("factory", "options", "key"),
    [
        (leadfl, {"alpha": -1.0}, "alpha = -1.0"),
        (leadfl, {"clip": -0.1}, "clip = -0.1"),
        (leadfl, {"variant": "report", "clipping": "none"}, "clipping = 'none'"),
        (leadfl, {"variant": "paper"}, "variant = 'paper'"),
        (leadfl, {"clipping": "norm"}, "clipping = 'norm'"),
        (leadfl, {"reset": "step"}, "reset = 'step'"),
        (leadfl, {"clip": float("inf")}, "clip = inf"),
        (fl_wbc, {"variant": "report"}, "variant = 'report'"),
        (fl_wbc, {"reset": "step"}, "reset = 'step'"),
        (ldp, {"mechanism": "cauchy"}, "mechanism = 'cauchy'"),
        (fl_wbc, {"scale": 0.0}, "scale = 0.0"),
        (ldp, {"scale": -2.0}, "scale = -2.0"),
    ],
)
def test_bad_options_are_refused(factory, options, key):
    with pytest.raises(InputError, match=f"config.client_defense.{key}"):
        factory(**options)


# LDP is FL-WBC without its mask.
@pytest.mark.parametrize(
    "name",
    ["leadfl", "ldp", "ldp_update", pytest.param("fl_wbc", marks=pytest.mark.slow)],
)
def test_benign_clients_use_it_and_malicious_ones_do_not(name, monkeypatch):
    monkeypatch.setitem(DEFENSES, "spy", Entry(spy, "-", "none"))
    changes = {
        "defense.name": "spy",
        "participation.clients_per_round": 6,
        "attack.malicious_clients": "last",
    }
    sent = []
    for choice in ("none", name):
        built = build({**changes, "client_defense.name": choice})
        state, _ = jax.jit(built.round_step)(start_state(built), built.inputs)
        sent.append(spied(state))
    plain, defended = sent
    np.testing.assert_allclose(defended[4:], plain[4:], rtol=1e-5, atol=1e-7)
    assert (np.abs(defended[:4] - plain[:4]).max(1) > 1e-4).all()


@pytest.mark.parametrize("name", CLIENT_DEFENSES)
def test_a_short_run_stays_finite(name):
    built = build({"client_defense.name": name})
    assert np.isfinite(after(built, 3).params).all()
