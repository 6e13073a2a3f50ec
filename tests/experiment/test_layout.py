"""How many samples a gradient takes at a time."""

import jax
import pytest

from benchmarks.batches import of_a_run
from benchmarks.federated import network_of
from fedjax_sim.experiment import build
from fedjax_sim.experiment.config import resolve
from fedjax_sim.experiment.data import load_data
from fedjax_sim.experiment.layout import cached_part
from fedjax_sim.round import federation, training


@pytest.mark.parametrize(
    ("size", "part"),
    [(16, None), (32, None), (37, None), (48, 24), (50, 25), (64, 32), (256, 32)],
)
def test_batches_that_leave_the_cache_are_taken_in_parts(size, part):
    assert cached_part(network_of("cnn", (28, 28, 1), "winograd"), size) == part


@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_small_passes_and_batch_statistics_stay_whole(name):
    assert cached_part(network_of(name, (28, 28, 1), "winograd"), 256) is None


def test_a_run_takes_what_the_benchmark_measures(monkeypatch):
    config = resolve(
        {
            "data": {"name": "synthetic", "height": 28, "width": 28, "num_train": 256},
            "partition": {"name": "random_equal", "num_clients": 2},
            "model": {"name": "cnn"},
            "client": {"batch_size": 128, "epochs": 1},
            "participation": {"name": "uniform", "clients_per_round": 2},
        }
    )
    built = build.build(config, load_data(config, None))
    assert built.parts.work == of_a_run(built.parts.network, 128)

    passes = []
    whole = training.batch_loss

    def counted(model, params, buffers, batch):
        passes.append(len(batch.mask))
        return whole(model, params, buffers, batch)

    monkeypatch.setattr(training, "batch_loss", counted)
    state = jax.eval_shape(
        lambda inputs: federation.init(built.parts, inputs), built.inputs
    )
    passes.clear()
    jax.eval_shape(
        lambda state, inputs: federation.round_step(built.parts, state, inputs),
        state,
        built.inputs,
    )
    assert passes and set(passes) == {built.parts.work.microbatch} == {32}
