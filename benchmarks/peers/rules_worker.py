"""One peer's rules, in its own environment: answers lines on stdin.

    PYTHON rules_worker.py PACKAGE FOLDER

A line `RULE FILE f` loads FOLDER/FILE.npy (f32 [n, d], kept until another is asked
for), calls the rule once, writes FOLDER/out.npy and answers with JSON: seconds, or
error. Imports nothing of fedjax_sim.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np


def byzfl_rules(f):
    """byzfl: tensors in, tensors out; defaults but for f."""
    import byzfl

    mean = byzfl.Average()
    staged = lambda stage: lambda rows: mean(stage(rows))
    return {
        "mean": mean,
        "median": byzfl.Median(),
        "trimmed_mean": byzfl.TrMean(f),
        "krum": byzfl.Krum(f),
        "multikrum": byzfl.MultiKrum(f),
        "geometric_median": byzfl.GeometricMedian(),
        "geometric_median (nu 1e-6, 4 steps)": byzfl.GeometricMedian(nu=1e-6, T=4),
        "centered_clipping": byzfl.CenteredClipping(L=1, tau=10.0),
        "meamed": byzfl.Meamed(f),
        "monna": byzfl.MoNNA(f, idx=0),
        "mda": byzfl.MDA(f),
        "smea": byzfl.SMEA(f),
        "caf": byzfl.CAF(f),
        "nnm + mean": staged(byzfl.NNM(f)),
        "arc + mean": staged(byzfl.ARC(f)),
        "clipping + mean": staged(byzfl.Clipping(2.0)),
    }


def byzpy_rules(f):
    """byzpy: a list of tensors in."""
    from byzpy.aggregators import coordinate_wise, geometric_wise, norm_wise
    from byzpy.pre_aggregators import ARC, Clipping, NearestNeighborMixing

    listed = lambda rule: lambda rows: rule.aggregate(list(rows))

    def staged(stage):
        import torch

        return lambda rows: torch.stack(stage.pre_aggregate(list(rows))).mean(0)

    return {
        "median": listed(coordinate_wise.CoordinateWiseMedian()),
        "trimmed_mean": listed(coordinate_wise.CoordinateWiseTrimmedMean(f)),
        "krum": listed(geometric_wise.Krum(f)),
        "multikrum": lambda rows: geometric_wise.MultiKrum(f, len(rows) - f).aggregate(
            list(rows)
        ),
        "geometric_median": listed(geometric_wise.GeometricMedian()),
        "centered_clipping": listed(
            norm_wise.CenteredClipping(c_tau=10.0, M=1, init="zero")
        ),
        "meamed": listed(coordinate_wise.MeanOfMedians(f)),
        "monna": listed(geometric_wise.MoNNA(f)),
        "mda": listed(geometric_wise.MinimumDiameterAveraging(f)),
        "smea": listed(geometric_wise.SMEA(f)),
        "caf": listed(norm_wise.CAF(f)),
        "nnm + mean": staged(NearestNeighborMixing(f)),
        "arc + mean": staged(ARC(f)),
        "clipping + mean": staged(Clipping(2.0)),
    }


def flwr_rules(f):
    """flwr: (arrays of a client, number of examples) in."""
    from flwr.server.strategy import aggregate as flwr

    def of(rule, *args):
        def run(rows):
            # Bulyan takes clients out of the list that it is given.
            return rule([([row], 1) for row in rows.numpy()], *args)[0]

        return run

    return {
        "mean": of(flwr.aggregate),
        "median": of(flwr.aggregate_median),
        "trimmed_mean": lambda rows: of(flwr.aggregate_trimmed_avg, f / len(rows))(
            rows
        ),
        "krum": of(flwr.aggregate_krum, f, 0),
        "multikrum": lambda rows: of(flwr.aggregate_krum, f, len(rows) - f)(rows),
        "bulyan": lambda rows: flwr.aggregate_bulyan(
            [([row], 1) for row in rows.numpy()], f, flwr.aggregate_krum, to_keep=0
        )[0],
    }


def fedlab_rules(f):
    """FedLab: a list of tensors in."""
    del f
    from fedlab.utils.aggregator import Aggregators

    return {"mean": lambda rows: Aggregators.fedavg_aggregate(list(rows))}


RULES = {
    "byzfl": byzfl_rules,
    "byzpy": byzpy_rules,
    "flwr": flwr_rules,
    "fedlab": fedlab_rules,
}


class Rows(np.ndarray):
    """For packages without tensors: rows that know `numpy`."""

    def numpy(self):
        return np.asarray(self)


def load(path):
    """The updates, as a tensor where the package has tensors."""
    array = np.load(path)
    try:
        import torch
    except ImportError:
        return array.view(Rows)
    return torch.from_numpy(array)


def main():
    """Answers until stdin ends."""
    package, folder = sys.argv[1], Path(sys.argv[2])
    held: tuple = (None, None)
    answers, sys.stdout = sys.stdout, sys.stderr  # packages print
    print(json.dumps({"rules": list(RULES[package](1))}), file=answers, flush=True)
    for line in sys.stdin:
        rule, name, f = line.rstrip("\n").split("\t")
        if held[0] != name:
            held = name, load(folder / f"{name}.npy")
        run = RULES[package](int(f))[rule]
        # Some rules write to what they are given.
        rows = held[1].clone() if hasattr(held[1], "clone") else held[1].copy()
        begun = time.perf_counter()
        error, seconds, found = None, None, None
        try:
            found = run(rows)
            seconds = time.perf_counter() - begun
            if found is not None:
                np.save(folder / "out.npy", np.asarray(found, np.float64))
        except Exception as raised:  # whatever it raises is the answer
            error, found = f"{type(raised).__name__}: {raised}", None
        answer = {"seconds": seconds, "none": found is None, "error": error}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
