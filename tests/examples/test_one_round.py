"""The example of one round is federated averaging, and learns."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def example():
    path = ROOT / "examples" / "one_round.py"
    spec = importlib.util.spec_from_file_location("one_round", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rounds_learn(example):
    w, _ = example.model.init(jax.random.key(0))
    before = example.accuracy(w)
    for t in range(1, 6):
        w = example.one_round(jax.random.key(t), w)
    assert before < 40 and example.accuracy(w) > 80


def test_one_full_batch_is_a_step_of_central_sgd(example, monkeypatch):
    """FedSGD: E = 1 and B = n_k, section 2 of the paper."""
    monkeypatch.setattr(example, "E", 1)
    monkeypatch.setattr(example, "B", int(example.P.counts[0]))
    monkeypatch.setattr(example, "C", 1.0)
    w, _ = example.model.init(jax.random.key(0))
    # A function of its own: jit would remember the program with the usual E and B.
    once = jax.jit(lambda key, w: example.one_round.__wrapped__(key, w))
    averaged = once(jax.random.key(1), w)
    everybody = jnp.asarray(example.P.indices).reshape(-1)
    rows = jnp.ones(len(everybody), bool)
    batch = example.Batch(example.x[everybody], example.y[everybody], rows)
    _, _, gradient = jax.jit(example.gradient)(w, {}, batch)
    central = jax.tree.map(lambda w, g: w - example.eta * g, w, gradient)
    for a, b in zip(jax.tree.leaves(averaged), jax.tree.leaves(central), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
