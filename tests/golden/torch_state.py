"""From a PyTorch state to flax variables, and back.

A flax path is the PyTorch name with its numbers joined to the name before them:
`layer1.0.conv1.weight` is `layer1_0/conv1/kernel`. Where the two differ by more,
`rename` maps PyTorch's module names.
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

_BUFFERS = {"running_mean": "mean", "running_var": "var"}


def fill(name: str, shape: tuple[int, ...], index: int, salt: int) -> np.ndarray:
    """The deterministic values of one tensor, f32; see README.md."""
    u32 = np.uint32
    with np.errstate(over="ignore"):
        h = np.arange(1, np.prod(shape, dtype=int) + 1, dtype=u32)
        h = (h + u32(1000003 * (index + 1000 * salt) % 2**32)) * u32(2654435761)
        h = (h ^ (h >> u32(16))) * u32(2246822519)
        h = (h ^ (h >> u32(13))) * u32(3266489917)
    u = (h ^ (h >> u32(16))).astype(np.float64) / 2**32
    s = 2 * u - 1
    if name.endswith("running_var"):
        values = 1 + 0.5 * u
    elif name.endswith("weight") and len(shape) >= 2:
        values = s * np.sqrt(6 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + 0.1 * s
    else:
        values = 0.1 * s
    return values.reshape(shape).astype(np.float32)


def filled_state(names, shapes, salt: int) -> dict[str, np.ndarray]:
    """A whole state by the fill rule; shapes are texts such as `64x3x3x3`."""
    return {
        str(name): fill(str(name), tuple(map(int, str(shape).split("x"))), i, salt)
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
    }


def split_flat(flat: np.ndarray, layout: str) -> dict[str, np.ndarray]:
    """Cuts a flat vector by a layout such as `conv1.weight:(3, 1, 3, 3);...`."""
    state, start = {}, 0
    for item in layout.split(";"):
        name, text = item.split(":")
        shape = tuple(int(size) for size in re.findall(r"\d+", text))
        size = int(np.prod(shape))
        state[name] = flat[start : start + size].reshape(shape)
        start += size
    assert start == flat.size
    return state


def to_flax(
    state: Mapping[str, np.ndarray],
    rename: Mapping[str, str] | None = None,
    flattened: Mapping[str, int] | None = None,
) -> dict:
    """Returns `{"params": ..., "batch_stats": ...}` as nested dictionaries.

    Args:
      state: PyTorch's names and arrays (convolutions O, I, H, W; linear out, in).
      rename: PyTorch module -> flax path (parts joined by `/`).
      flattened: linear module -> channels of the square feature map that was
        flattened before it; PyTorch flattens C, H, W, here it is H, W, C.
    """
    variables: dict = {"params": {}, "batch_stats": {}}
    for name, value in state.items():
        module, leaf = name.rsplit(".", 1)
        path = (rename or {}).get(module)
        if path is None:
            path = re.sub(r"\.(\d+)", r"_\1", module).replace(".", "/")
        collection = "batch_stats" if leaf in _BUFFERS else "params"
        place = variables[collection]
        for part in path.split("/"):
            place = place.setdefault(part, {})
        if value.ndim == 2:
            channels = (flattened or {}).get(module)
            if channels is not None:
                out, size = value.shape
                side = round((size / channels) ** 0.5)
                value = value.reshape(out, channels, side, side)
                value = value.transpose(0, 2, 3, 1).reshape(out, size)
            value, leaf = value.T, "kernel"
        elif value.ndim == 4:
            value, leaf = value.transpose(2, 3, 1, 0), "kernel"
        else:
            leaf = {"weight": "scale", **_BUFFERS}.get(leaf, leaf)
        place[leaf] = value
    return variables


def from_flax(
    variables: Mapping,
    like: Mapping[str, np.ndarray],
    rename: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """The inverse of `to_flax`: PyTorch's names and shapes are those of `like`."""
    state = {}
    for name, tensor in like.items():
        # Where each entry of the tensor goes: the way of its numbers.
        numbers = to_flax({name: np.arange(tensor.size).reshape(tensor.shape)}, rename)
        ((path, moved),) = jax.tree_util.tree_leaves_with_path(numbers)
        value = variables
        for key in path:
            value = value[key.key]
        back = np.argsort(moved, axis=None)
        state[name] = np.asarray(value).ravel()[back].reshape(tensor.shape)
    return state
