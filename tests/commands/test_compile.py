"""`fedjax-sim compile`: what it refuses, and a config on the CPU."""

import json
import os
from types import SimpleNamespace

import pytest
from helpers import BASE, write_config

from fedjax_sim.commands import compile as command
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment import target
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.runs import compiling


def compiled(capsys, path, *flags):
    code = command.main(["compile.py", f"--config={path}", *flags])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpu", ["--target=gpu is no target", "tpu:v5e:2x2", "cuda:h100"]),
        ("cpu:2", ["--target=cpu:2 is no target"]),
        ("tpu:v5e", ["--target=tpu:v5e", "tpu:GENERATION:TOPOLOGY"]),
        ("tpu:v5:2x2", ["--target=tpu:v5:2x2", "v5e"]),
        ("cuda:h10", ["--target=cuda:h10", "h100"]),
    ],
)
def test_an_unknown_target_is_one_line(name, parts, tmp_path, capsys):
    code, out, err = compiled(capsys, write_config(tmp_path), f"--target={name}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in parts)


@pytest.mark.parametrize(
    ("name", "extra"), [("tpu:v5e:2x2", "[tpu]"), ("cuda:h100", "[aot]")]
)
def test_a_target_without_its_extra_is_one_line(name, extra, monkeypatch):
    from jax.experimental import topologies

    def missing(*_, **__):
        raise RuntimeError("no such backend")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    monkeypatch.setattr(target, "_found", lambda *_: False)
    with pytest.raises(InputError) as error:
        target.described(name)
    assert f"--target={name} needs" in str(error.value) and extra in str(error.value)
    monkeypatch.setattr(target, "_found", lambda *_: True)
    with pytest.raises(InputError) as error:
        target.described(name)
    assert f"--target={name}: refused" in str(error.value)
    assert "no such backend" in str(error.value) and "\n" not in str(error.value)


def test_a_card_is_described_without_its_libraries(monkeypatch):
    """cuDNN is for running; the plugin asks for it unless it is told not to."""
    from jax.experimental import topologies

    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "")
    monkeypatch.delenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK")
    seen = []

    def described(*_, **__):
        seen.append(os.environ.get("JAX_SKIP_CUDA_CONSTRAINTS_CHECK"))
        return SimpleNamespace(devices=["card"])

    monkeypatch.setattr(topologies, "get_topology_desc", described)
    assert target.described("cuda:h100").devices == ("card",)
    assert seen == ["1"]


def test_a_mesh_larger_than_the_cohort_is_one_line(tmp_path, capsys, monkeypatch):
    many = target.described("cpu")
    many = many._replace(name="tpu:v5e:2x4", devices=many.devices[:1] * 8)
    monkeypatch.setattr(target, "described", lambda _: many)
    code, out, err = compiled(capsys, write_config(tmp_path), "--target=tpu:v5e:2x4")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--target=tpu:v5e:2x4 has 8 devices" in err
    assert "config.participation.clients_per_round = 4" in err


def test_a_flag_is_missing(tmp_path, capsys):
    code, _, err = compiled(capsys, write_config(tmp_path))
    assert code == 2 and err.startswith("error: --target must be given")


@pytest.fixture(scope="module")
def stacked():
    """Four clients of BASE in one stack, on the CPU as if it were a GPU."""
    return target.described("cpu")._replace(name="like a gpu", backend="gpu")


def test_a_config_is_compiled_and_counted(tmp_path, capsys):
    flags = "--target=cpu", "--json", "--config.client.steps=3"
    code, out, err = compiled(capsys, write_config(tmp_path), *flags)
    assert code == 0, err
    found = json.loads(out)
    assert found["steps"] == 3 and found["target"] == "cpu"
    programs = [row["program"] for row in found["programs"]]
    assert programs == ["initial", "rounds", "evaluation"]
    memory = found["memory_gib"]
    assert 0 < memory["needed"] < memory["limit"]
    # 4 clients, 3 steps of 16 images of 64 pixels: forward and twice backward.
    step = 16 * 2 * (64 * 8 + 8 * 10)
    assert found["flop"] == pytest.approx(4 * 3 * 3 * step, rel=0.3)
    assert found["bytes"] > 1000
    code, out, err = compiled(capsys, write_config(tmp_path), *flags[::2])
    assert code == 0 and "fits: " in out and "layout: clients=map" in out


@pytest.mark.slow
def test_what_does_not_fit_is_stacked_less_or_refused(stacked):
    def config(**execution):
        values = {f"execution.{key}": value for key, value in execution.items()}
        return resolve(override(BASE, {"client.batch_size": 64, **values}))

    def needed(**execution):
        return compiling.report(config(**execution), stacked)["memory_gib"]["needed"]

    whole, single = (
        needed(clients=name, memory_gib="unlimited") for name in ("vmap", "map")
    )
    assert single < whole
    between = (single + whole) / 2
    chosen = compiling.report(config(memory_gib=between), stacked)
    assert chosen["memory_gib"]["needed"] <= between
    assert chosen["layout"]["clients"] in ("map", "chunk:2", "chunk:3")
    stacks = r"config.execution.clients stacks 4 clients, .*; (map|chunk:[23]) fits$"
    with pytest.raises(InputError, match=stacks):
        compiling.report(config(clients="vmap", memory_gib=between), stacked)
    with pytest.raises(InputError, match="even with one client at a time"):
        compiling.report(config(memory_gib=single / 2), stacked)
