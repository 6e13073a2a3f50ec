"""Runs that begin with a trained model, and files of the model that a run ends with."""

import json

import jax
import numpy as np
import pytest
from helpers import BASE, digits, files

from fedjax_sim.commands import export
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.config import override, resolve, to_dict
from fedjax_sim.experiment.model_files import read_file, write_file
from fedjax_sim.experiment.program import identity
from fedjax_sim.experiment.trained import load_start, network_of, read_run, split
from fedjax_sim.runs.loop import run

PLAIN = {**BASE, "rounds": 1, "attack": {"name": "none"}}


def config(init=None, **changes):
    return resolve(override(PLAIN, {"model.init": init, **changes}))


@pytest.fixture(scope="module")
def first(real_run):
    """A finished run of that network."""
    return real_run


@pytest.fixture(scope="module")
def network():
    return build(config(), digits()).parts.network


@pytest.fixture(scope="module")
def arrays(first):
    return read_run(first)


def needs(suffix):
    module = {".safetensors": "safetensors", ".pt": "torch"}.get(suffix)
    if module:
        pytest.importorskip(module)


# -------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_a_model_is_the_same_in_every_format(first, arrays, network, tmp_path, suffix):
    needs(suffix)
    path = tmp_path / f"model{suffix}"
    code = export.main(["export", f"--run={first}", f"--out={path}"])
    assert code == 0 and list(files(tmp_path)) == [path]
    found = read_file(path)
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    one, two = load_start(str(first), network), load_start(str(path), network)
    assert one.fingerprint == two.fingerprint
    np.testing.assert_array_equal(one.model.params, two.model.params)


def test_names_are_those_of_the_layers(arrays, network):
    shapes = dict(zip(network.layout.names, network.layout.shapes, strict=True))
    assert {name: x.shape for name, x in arrays.items()} == {
        f"params/{name}": shape for name, shape in shapes.items()
    }
    assert all(array.dtype == np.float32 for array in arrays.values())


def test_a_state_dict_has_dots(arrays, tmp_path):
    torch = pytest.importorskip("torch")
    write_file(tmp_path / "a.pt", arrays)
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    assert sorted(found) == sorted(name.replace("/", ".") for name in arrays)


def test_statistics_of_batch_norm_come_along(tmp_path):
    own = config(**{"model.name": "leadfl_fashion"})
    network = network_of(own, (28, 28, 1), 10)
    rng = np.random.default_rng(0)
    params, buffers = (
        rng.normal(size=layout.size).astype(np.float32)
        for layout in (network.layout, network.buffer_layout)
    )
    found = split(network, params, buffers)
    assert buffers.size and any(name.startswith("batch_stats/") for name in found)
    np.savez(tmp_path / "a.npz", **found)
    start = load_start(str(tmp_path / "a.npz"), network)
    np.testing.assert_array_equal(start.model.params, params)
    np.testing.assert_array_equal(start.model.buffers, buffers)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda a, n: a.pop(n), ["{name} is not there"]),
        (
            lambda a, n: a.update({n: a[n].T}),
            ["{name} is float32[8, 64]", "float32[64, 8] is needed"],
        ),
        (
            lambda a, n: a.update({n: a[n].astype(np.float64)}),
            ["{name} is float64[64, 8], float32[64, 8] is needed"],
        ),
        (lambda a, n: a.update({n: a[n] * np.inf}), ["{name} has values that are not"]),
        (lambda a, n: a.update(more=a[n]), ["config.model has no more"]),
    ],
)
def test_a_model_that_does_not_fit(arrays, network, tmp_path, change, parts):
    name = next(n for n, array in arrays.items() if array.shape == (64, 8))
    changed = dict(arrays)
    change(changed, name)
    np.savez(tmp_path / "a.npz", **changed)
    with pytest.raises(InputError) as caught:
        load_start(str(tmp_path / "a.npz"), network)
    text = str(caught.value)
    assert "\n" not in text and "config.model.init = " in text and "a.npz" in text
    for part in parts:
        assert part.format(name=name) in text


def test_files_that_are_no_model(network, tmp_path):
    load = lambda name: load_start(str(tmp_path / name), network)
    for name in ("a.npz", "a.safetensors", "a.pt"):
        needs(name[1:])
        (tmp_path / name).write_bytes(b"<html>404</html>")
        with pytest.raises(InputError, match=r"cannot be read, it looks like a web pa"):
            load(name)
    (tmp_path / "a.bin").write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match=r"looks like a pickle; allowed: the folder"):
        load("a.bin")
    for path in ("nowhere.npz", "~nobody_of_that_name/x"):
        with pytest.raises(InputError, match=r"init = '.*(nowhere|nobody)"):
            load_start(path, network)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"there is no run \(no config.json\)"):
        load("folder")


def test_pickled_code_is_not_run(network, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": np.random.default_rng}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="cannot be read"):
        load_start(str(tmp_path / "a.pt"), network)
    torch.save([torch.zeros(3)], tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds a list, no state dict of tensors"):
        load_start(str(tmp_path / "a.pt"), network)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--run={first}", "--out=gs://bucket/a.npz"], "folders of this machine"),
        (["--out=a.npz"], "--run must be given"),
        (["--run=/nowhere", "--out=a.npz"], "there is no run"),
        (["--run={first}", "--out=a.onnx"], "a file .npz, .safetensors, .pt, .pth is"),
        (["--run={first}", "--out=/nowhere/a.npz"], "'/nowhere' does not exist"),
        (["--run={first}", "--out=/nowhere/a.pt"], "'/nowhere' does not exist"),
    ],
)
def test_exports_that_cannot_be(first, flags, part, capsys):
    code = export.main(["export", *(flag.format(first=first) for flag in flags)])
    said = capsys.readouterr().err
    assert code == 2 and part in said and said.count("\n") == 1


# --------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """A run that begins where the first one ended, from a file."""
    folder = tmp_path_factory.mktemp("second")
    np.savez(folder / "model.npz", **read_run(first))
    code, summary = run(config(str(folder / "model.npz")), folder / "run")
    assert code == 0 and summary["init"] is not None
    return folder


def test_the_first_model_is_that_of_the_file(first, arrays, network):
    built = build(config(str(first)), digits())
    state = jax.device_get(built.init(built.inputs))
    found = split(network, state.params, state.buffers)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert built.facts["init"] == load_start(str(first), network).fingerprint
    plain = build(config(), digits())
    assert plain.facts["init"] is None and plain.inputs.start is None


def test_a_run_goes_on_from_the_same_file_only(second):
    workdir, path = second / "run", second / "model.npz"
    moved = path.rename(second / "moved.npz")
    with pytest.raises(InputError, match=r"model\.init = '.*model.npz', not"):
        run(config(str(moved)), workdir)  # finished: nothing tells what a file holds
    (workdir / "summary.json").unlink()
    content = moved.read_bytes()
    with np.load(moved) as archive:
        changed = {name: array + np.float32(1e-3) for name, array in archive.items()}
    np.savez(moved, **changed)
    with pytest.raises(InputError, match="a run from another initial model") as caught:
        run(config(str(moved)), workdir)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"another initial model .*now None"):
        run(config(), workdir)
    moved.write_bytes(content)
    identity = json.loads((workdir / "identity.json").read_text())
    assert run(config(str(moved)), workdir)[0] == 0
    assert (
        json.loads((workdir / "identity.json").read_text())["init"]
        == (identity["init"])
    )


def test_runs_from_several_models_share_a_program():
    assert identity(config("a.npz")) == identity(config("b.npz"))
    assert identity(config("a.npz")) != identity(config())
    assert resolve(to_dict(config("a.npz"))) == config("a.npz")
