"""Golden files of other seeds and shapes, for the rules and attacks that peers have.

Each trial draws a case, computes what the paper says in float64 and as plainly as it
does, writes the file and puts it to its adapter (`tests/golden`). Rows are drawn from
continuous distributions, some from small integers, where values tie.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from campaign import carry_out, require

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from test_golden import find_adapter

Case = dict[str, Any]
Draws = np.random.Generator
Rows = np.ndarray  # f64 [n, d]


def trial(number: int, draws: Draws) -> None:
    """Draws a case and checks it as a file."""
    del number
    name = str(draws.choice(sorted(CASES)))
    case = CASES[name](draws) | {"meta": json.dumps({"package": "campaign"})}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peers_family" / f"{name}__drawn.npz"
        path.parent.mkdir()
        np.savez(path, **case)
        check = find_adapter(path)
        require(check, f"{name}: no adapter")
        try:
            with np.load(path) as arrays:
                check({key: arrays[key] for key in arrays.files if key != "meta"})
        except AssertionError as error:
            raise AssertionError(f"{name}, {_shapes(case)}: {error}") from error


def _shapes(case: Case) -> dict[str, Any]:
    shapes = {key: np.shape(value) or value for key, value in case.items()}
    del shapes["meta"]
    return shapes


# --- what is drawn ---------------------------------------------------------------


def rows(draws: Draws, least: int = 3, most: int = 40, ties: bool = False) -> Rows:
    """Updates: of several scales, some with attackers, outliers or common parts."""
    n, d = int(draws.integers(least, most)), int(draws.integers(2, 150))
    if ties and draws.random() < 0.3:
        return draws.integers(-2, 3, (n, d)).astype(float)
    found = draws.normal(size=(n, d)) * draws.choice([1e-2, 0.3, 3.0])
    kind = draws.choice(["plain", "attack", "outlier", "shift"])
    if kind == "attack":
        found[: max(n // 5, 1)] += 3 * found.std()
    if kind == "outlier":
        found[draws.integers(n)] *= 30
    if kind == "shift":
        found += 5 * found.std() * draws.normal(size=d)
    return found.astype(np.float32).astype(float)


def few(draws: Draws, n: int) -> int:
    """How many are Byzantine, with 2f < n."""
    return int(draws.integers(0, (n - 1) // 2 + 1))


def squared(updates: Rows) -> np.ndarray:
    return np.square(updates[:, None] - updates[None]).sum(-1)


def clip(updates: Rows, limit: float) -> Rows:
    norms = np.linalg.norm(updates, axis=-1, keepdims=True)
    return updates * np.minimum(1, limit / np.maximum(norms, 1e-300))


def sent(updates: Rows) -> np.ndarray:
    return updates.astype(np.float32)


# --- rules -----------------------------------------------------------------------


def weiszfeld(
    updates: Rows, weights: np.ndarray, point: np.ndarray, nu: float, steps: int
) -> np.ndarray:
    for _ in range(steps):
        beta = weights / np.maximum(np.linalg.norm(updates - point, axis=1), nu)
        point = beta @ updates / beta.sum()
    return point


def release(updates: Rows, alpha: np.ndarray) -> np.ndarray:
    """Stops where the objective no longer falls by a millionth."""
    far = lambda point: alpha @ np.linalg.norm(updates - point, axis=1)
    point = alpha @ updates
    value = far(point)
    for _ in range(4):
        before, point = value, weiszfeld(updates, alpha, point, 1e-5, 1)
        value = far(point)
        if abs(before - value) < 1e-6 * value:
            break
    return point


def geometric_median(draws: Draws) -> Case:
    updates = rows(draws)
    n, d = updates.shape
    weights = draws.integers(1, 9, n).astype(float)
    alpha, iterations = weights / weights.sum(), int(draws.integers(1, 9))
    once, zero = np.ones(n), np.zeros(d)
    return {
        "updates": sent(updates),
        "weights": sent(weights),
        "nu": 1e-6,
        "iterations": iterations,
        "paper_update": weiszfeld(updates, alpha, alpha @ updates, 1e-6, iterations),
        "release_update": release(updates, alpha),
        "byzfl_update": weiszfeld(updates, once, zero, 0.1, 3),
        "flpoison_update": weiszfeld(updates, once, zero, 1e-6, 3),
    }


def centred(updates: Rows, point: np.ndarray, tau: float, steps: int) -> np.ndarray:
    for _ in range(steps):
        point = point + clip(updates - point, tau).mean(0)
    return point


def centered_clipping(draws: Draws) -> Case:
    updates, steps = rows(draws), int(draws.integers(1, 5))
    rounds = np.stack([updates, *(sent(updates * s) for s in (0.5, 2.0))]).astype(float)
    tau = float(np.quantile(np.linalg.norm(updates, axis=1), draws.random()))
    point, expected = np.zeros(updates.shape[1]), []
    for own in rounds:
        point = centred(own, point, tau, steps)
        expected.append(point)
    return {
        "updates": sent(rounds),
        "tau": tau,
        "iterations": steps,
        "expected_update": np.stack(expected),
    }


def meamed(draws: Draws) -> Case:
    updates = rows(draws, ties=True)
    n, f = len(updates), few(draws, len(updates))
    middle = np.median(updates, axis=0)
    gaps = np.abs(updates - middle)
    order = np.argsort(gaps, axis=0, kind="stable")[: n - f]
    expected = np.take_along_axis(updates, order, 0).mean(0)
    return {
        "updates": sent(updates),
        "f": f,
        "expected_update": expected,
        "median": middle,
        "tie_mask": np.zeros(len(middle), np.int8),
        "byzfl_update": expected,
    }


def monna(draws: Draws) -> Case:
    updates = rows(draws, ties=True)
    n, f = len(updates), few(draws, len(updates))
    trusted = int(draws.integers(n))
    away = np.square(updates - updates[trusted]).sum(1)
    near = np.argsort(away, kind="stable")[: n - f]
    return {
        "updates": sent(updates),
        "f": f,
        "reference_row": trusted,
        "selected": near,
        "expected_update": updates[near].mean(0),
    }


def cheapest(updates: Rows, f: int, cost: Callable[[list[int]], float]) -> list[int]:
    subsets = (list(s) for s in combinations(range(len(updates)), len(updates) - f))
    return min(subsets, key=cost)


def mda(draws: Draws) -> Case:
    updates = rows(draws, most=12)
    f, between = few(draws, len(updates)), squared(updates)
    chosen = cheapest(updates, f, lambda s: between[np.ix_(s, s)].max())
    return {
        "updates": sent(updates),
        "f": f,
        "selected": np.array(chosen),
        "expected_update": updates[chosen].mean(0),
        "diameter": np.sqrt(between[np.ix_(chosen, chosen)].max()),
    }


def spread(updates: Rows) -> float:
    away = updates - updates.mean(0)
    return float(np.linalg.eigvalsh(away @ away.T)[-1] / len(updates))


def smea(draws: Draws) -> Case:
    updates = rows(draws, most=11)
    f = few(draws, len(updates))
    chosen = cheapest(updates, f, lambda s: spread(updates[s]))
    return {
        "updates": sent(updates),
        "f": f,
        "selected": np.array(chosen),
        "expected_update": updates[chosen].mean(0),
        "largest_eigenvalue": spread(updates[chosen]),
    }


def nnm(draws: Draws) -> Case:
    updates = rows(draws, ties=True)
    n, f = len(updates), few(draws, len(updates))
    near = np.argsort(squared(updates), axis=1, kind="stable")[:, : n - f]
    mixed = updates[near].mean(1)
    return {
        "updates": sent(updates),
        "f": f,
        "expected_updates": mixed,
        "selection_is_ambiguous": 1,
        "mean_after": mixed.mean(0),
        "median_after": np.median(mixed, axis=0),
    }


def arc(draws: Draws) -> Case:
    updates = rows(draws)
    n, f = len(updates), few(draws, len(updates))
    norms = np.sort(np.linalg.norm(updates, axis=1))[::-1]
    count, limit = int(2 * f / n * (n - f)), float(np.median(norms))
    return {
        "updates": sent(updates),
        "c": limit,
        "f": f,
        "expected_static": clip(updates, limit),
        "expected_arc": clip(updates, norms[count]),
        "arc_num_clipped": count,
        "arc_threshold": norms[count],
    }


def bucketing(draws: Draws) -> Case:
    updates = rows(draws)
    n, d = updates.shape
    size, order = int(draws.integers(1, n + 1)), draws.permutation(n)
    parts = [order[k : k + size] for k in range(0, n, size)]
    buckets = np.stack([updates[part].mean(0) for part in parts])
    tau, alpha = float(np.linalg.norm(buckets[0])), np.full(len(parts), 1 / len(parts))
    return {
        "updates": sent(updates),
        "s": size,
        "permutation": order,
        "expected_buckets": buckets,
        "bucket_sizes": np.array([len(part) for part in parts]),
        "mean_of_buckets": buckets.mean(0),
        "median_of_buckets": np.median(buckets, axis=0),
        "geometric_median_of_buckets": weiszfeld(
            buckets, alpha, buckets.mean(0), 1e-6, 4
        ),
        "clip_tau": tau,
        "clip_iterations": 3,
        "centered_clipping_of_buckets": centred(buckets, np.zeros(d), tau, 3),
    }


def weak_dp(draws: Draws) -> Case:
    updates = rows(draws)
    n, d = updates.shape
    limit = float(np.median(np.linalg.norm(updates, axis=1)))
    sigma, counts = float(draws.random()), draws.integers(1, 100, n)
    noise, own = draws.normal(size=d), draws.normal(size=(n, d))
    clipped, share = clip(updates, limit), counts / counts.sum()
    return {
        "updates": sent(updates),
        "num_examples": counts,
        "clip": limit,
        "sigma": sigma,
        "noise": noise,
        "client_noise": own,
        "clipped_updates": clipped,
        "expected_update": clipped.mean(0) + sigma * noise,
        "weighted_update": share @ clipped + sigma * noise,
        "backfed_update": 0.1 * (share @ clipped) + sigma * noise,
        "flpoison_update": (clipped + sigma * own).mean(0),
    }


def halves(values: np.ndarray) -> tuple[float, np.ndarray]:
    """Exact 2-means of numbers: the gap of the centres, and who is in the upper one."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    costs = [
        np.square(ranked[:k] - ranked[:k].mean()).sum()
        + np.square(ranked[k:] - ranked[k:].mean()).sum()
        for k in range(1, len(values))
    ]
    cut = int(np.argmin(costs)) + 1
    upper = np.zeros(len(values), bool)
    upper[order[cut:]] = True
    return ranked[cut:].mean() - ranked[:cut].mean(), upper


def auror(draws: Draws) -> Case:
    updates = rows(draws, least=4)
    n, d = updates.shape
    start = int(draws.integers(0, d - 1))
    size = int(draws.integers(1, d - start + 1))
    found = [halves(column) for column in updates[:, start : start + size].T]
    gaps = np.array([gap for gap, _ in found])
    # Between two gaps, so that rounding decides nothing.
    ranked = np.append(np.sort(gaps), 3 * gaps.max())
    k = int(draws.integers(len(gaps)))
    threshold = float(ranked[k : k + 2].mean())
    indicative = np.flatnonzero(gaps >= threshold)
    votes = np.zeros(n)
    for column in indicative:
        upper = found[column][1]
        if 2 * upper.sum() != n:
            votes += upper == (2 * upper.sum() < n)
    excluded = 2 * votes > len(indicative)
    return {
        "updates": sent(updates),
        "head_start": start,
        "head_size": size,
        "threshold": threshold,
        "expected_indicative": start + indicative,
        "expected_minority_votes": votes,
        "expected_excluded": excluded.astype(np.int8),
        "expected_update": updates[~excluded].mean(0),
    }


# --- clients, attacks and triggers -----------------------------------------------


def softmax_gradient(flat: np.ndarray, images: Rows, labels: np.ndarray) -> np.ndarray:
    """Of the mean cross entropy of softmax regression, weights [C, D] and bias."""
    features = np.hstack([images, np.ones((len(images), 1))])
    classes = len(flat) // features.shape[1]
    weights, bias = flat[:-classes].reshape(classes, -1), flat[-classes:]
    logits = images @ weights.T + bias
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    chances[np.arange(len(labels)), labels] -= 1
    own = chances.T @ features / len(images)
    return np.concatenate([own[:, :-1].ravel(), own[:, -1]])


def regression(draws: Draws) -> Case:
    inputs, classes = int(draws.integers(2, 12)), int(draws.integers(2, 7))
    count = int(draws.integers(3, 40))
    return {
        "layer_sizes": np.array([inputs, classes]),
        "global_params": sent(0.3 * draws.normal(size=(inputs + 1) * classes)),
        "inputs": sent(draws.normal(size=(count, inputs))),
        "labels": draws.integers(0, classes, count),
        "learning_rate": 0.1,
        "steps": 4,
    }


def steps(case: Case, term: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Rows:
    """The parameters after each step along gradient -> what is followed."""
    start = case["global_params"].astype(float)
    point, found = start, []
    images, labels = case["inputs"].astype(float), case["labels"]
    for _ in range(case["steps"]):
        gradient = softmax_gradient(point, images, labels)
        point = point - case["learning_rate"] * term(gradient, point)
        found.append(point)
    return np.stack(found)


def fedprox(draws: Draws) -> Case:
    case, mu = regression(draws), float(draws.choice([0.0, 0.01, 1.0]))
    start, classes = case["global_params"].astype(float), int(case["layer_sizes"][1])

    def unsquared(gradient: np.ndarray, point: np.ndarray) -> np.ndarray:
        away = point - start
        parts = (part for part in np.split(away, [-classes]))
        unit = [part / max(np.linalg.norm(part), 1e-300) for part in parts]
        return gradient + mu / 2 * np.concatenate(unit)

    return case | {
        "images": case["inputs"],
        "mu": mu,
        "paper_params": steps(case, lambda g, w: g + mu * (w - start)),
        "flwr_docs_params": steps(case, unsquared),
        "no_term_params": steps(case, lambda g, w: g),
    }


def constrain_and_scale(draws: Draws) -> Case:
    case, alpha = regression(draws), float(draws.uniform(0.2, 1.0))
    start = case["global_params"].astype(float)
    scale, count = float(draws.uniform(1, 50)), int(draws.integers(1, 4))

    def l2(gradient: np.ndarray, point: np.ndarray) -> np.ndarray:
        away = point - start
        return alpha * gradient + (1 - alpha) * away / max(np.linalg.norm(away), 1e-300)

    def cosine(gradient: np.ndarray, point: np.ndarray) -> np.ndarray:
        a, b = np.linalg.norm(point), np.linalg.norm(start)
        along = start / (a * b) - (point @ start) * point / (a**3 * b)
        return alpha * gradient - (1 - alpha) * along

    found = {
        "l2": steps(case, l2),
        "cosine": steps(case, cosine),
        "no_term": steps(case, lambda g, w: alpha * g),
    }
    case |= {"alpha": alpha, "scale": scale, "num_adversaries": count}
    for name, params in found.items():
        shared = 1 if name == "no_term" else count
        case[f"{name}_params"] = params
        case[f"{name}_update"] = scale / shared * (params[-1] - start)
    return case


def mimic(draws: Draws) -> Case:
    honest = rows(draws)
    row = int(draws.integers(len(honest)))
    return {
        "honest_updates": sent(honest),
        "epsilon": row,
        "expected_update": sent(honest[row]),
    }


def pgd_projection(draws: Draws) -> Case:
    center, away = rows(draws)[:2]
    case = {"params": sent(center + away), "global_params": sent(center)}
    center, params = (case[k].astype(float) for k in ("global_params", "params"))
    radius = float(np.linalg.norm(params - center) * draws.uniform(0.05, 1.5))
    l2 = clip((params - center)[None], radius)[0]
    linf = np.clip(params - center, -radius, radius)
    return case | {
        "epsilon": radius,
        "expected_l2_params": center + l2,
        "expected_linf_params": center + linf,
        "l2_update": l2,
        "linf_update": linf,
    }


def blended(draws: Draws) -> Case:
    count, size, channels = (int(draws.integers(*r)) for r in ((1, 5), (3, 20), (1, 4)))
    images = draws.integers(0, 256, (count, size, size + 1, channels), np.uint8)
    pattern = draws.integers(0, 256, images.shape[1:], np.uint8)
    rate = float(draws.random())
    expected = (1 - rate) * images.astype(float) + rate * pattern
    return {"images": images, "pattern": pattern, "rate": rate, "expected": expected}


def sig(draws: Draws) -> Case:
    count, size, channels = (int(draws.integers(*r)) for r in ((1, 5), (3, 20), (1, 4)))
    images = draws.integers(0, 256, (count, size, size + 1, channels), np.uint8)
    delta, frequency = float(draws.uniform(5, 80)), float(draws.uniform(1, 8))
    wave = delta * np.sin(2 * np.pi * np.arange(size + 1) * frequency / (size + 1))
    added = wave[None, None, :, None]
    mixed = np.clip(0.2 * images + 0.8 * added, 0, 255)
    return {
        "images": images,
        "delta": delta,
        "frequency": frequency,
        "signal": wave,
        "expected": np.clip(images + added, 0, 255),
        "backdoorbench_u8": mixed.astype(np.uint8),
    }


CASES: dict[str, Callable[[Draws], Case]] = {
    "arc": arc,
    "auror": auror,
    "blended": blended,
    "bucketing": bucketing,
    "centered_clipping": centered_clipping,
    "constrain_and_scale": constrain_and_scale,
    "fedprox": fedprox,
    "geometric_median": geometric_median,
    "mda": mda,
    "meamed": meamed,
    "mimic": mimic,
    "monna": monna,
    "nnm": nnm,
    "pgd_projection": pgd_projection,
    "sig": sig,
    "smea": smea,
    "weak_dp": weak_dp,
}

if __name__ == "__main__":
    raise SystemExit(carry_out("golden", trial, sys.argv[1:], trials=300, minutes=20))
