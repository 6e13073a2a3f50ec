"""Ward linkage on the device makes SciPy's decisions, ties included."""

import jax
import numpy as np
import pytest

from fedjax_sim.defenses.parts.ward_clusters import ward_labels
from fedjax_sim.numerics import binary64
from fedjax_sim.numerics.ward import two_clusters

KINDS = ("normal", "any scale", "line", "grid", "binary", "equal", "integers")


@pytest.fixture(params=["native", "emulated"])
def arithmetic(request, monkeypatch):
    """The processor's double precision, or words of 32 bits as on an accelerator."""
    if request.param == "emulated":
        for name in ("multiply", "add", "subtract", "square_root"):
            monkeypatch.setattr(binary64, name, getattr(binary64, name).__wrapped__)


def distances(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    """f32 [n, n]: of points, or drawn at random and no metric at all."""
    if kind == "integers":
        drawn = rng.integers(0, 4, (n, n)).astype(np.float32)
        drawn = np.maximum(drawn, drawn.T) * (1 - np.eye(n, dtype=np.float32))
        return np.where(drawn == 3, np.inf, drawn) if rng.random() < 0.5 else drawn
    points = {
        "normal": lambda: rng.normal(size=(n, 3)),
        "any scale": lambda: rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-40, 38),
        "line": lambda: rng.permutation(n)[:, None].astype(float),
        "grid": lambda: rng.integers(0, 3, (n, 2)).astype(float),
        "binary": lambda: rng.integers(0, 2, (n, 5)).astype(float),
        "equal": lambda: np.ones((n, 1)),
    }[kind]()
    spans = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return spans.astype(np.float32)


def differences(seed: int, n: int, count: int) -> int:
    """Of `count` matrices of n points, some left out: those cut in another way."""
    rng = np.random.default_rng([seed, n])
    drawn = [distances(rng, KINDS[i % len(KINDS)], n) for i in range(count)]
    masks = rng.random((count, n)) < 0.8
    masks[: count // 2] = True
    masks[:, :3] = True
    # Not the compiled function itself: it may have been traced with other arithmetic.
    cut = jax.jit(jax.vmap(two_clusters.__wrapped__))
    found = np.asarray(cut(np.stack(drawn), masks))
    expected = [
        ward_labels(*case, np.arange(n)) for case in zip(drawn, masks, strict=True)
    ]
    return int((found != np.stack(expected)).any(1).sum())


@pytest.mark.usefixtures("arithmetic")
def test_a_few_hundred_matrices_are_cut_as_by_scipy():
    assert differences(0, 9, 350) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(
    ("n", "count"), [(3, 2000), (6, 3000), (10, 3000), (25, 1500), (60, 500), (150, 60)]
)
def test_ten_thousand_matrices_are_cut_as_by_scipy(n, count):
    assert differences(1, n, count) == 0


def test_a_cut_by_hand():
    # {0, 1} merges at 1, {3, 4} at 2; row 2 does not take part.
    points = np.array([0.0, 1, 100, 5, 7], np.float32)
    spans = np.abs(points[:, None] - points)
    mask = np.array([True, True, False, True, True])
    assert two_clusters(spans, mask).tolist() == [1, 1, -1, 0, 0]
