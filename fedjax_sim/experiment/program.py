"""Which runs share one compiled program.

A config has two kinds of values: some shape the program (the model, the rule, the
number of clients), the others are inputs of it: the seed, the partition of the data,
the rates of the optimisers, and of attack and defences the numbers that their factories
annotate as `Traced`. Runs that differ in
inputs alone are compiled once, and may be carried out together.
"""

import json
from typing import Any

import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.experiment.config import flatten, to_dict, traced_keys

SIDES = ("attack", "defense", "client_defense")
RATES = ("client.lr", "client.momentum", "client.weight_decay", "server.lr")


def traced_options(config: Config) -> dict[str, np.generic]:
    """Returns the options of attack and defence that are inputs, by "section.key".

    An option that is None in this config is no number: it shapes the program.
    """
    found: dict[str, np.generic] = {}
    for section in SIDES:
        chosen = getattr(config, section)
        before = getattr(chosen, "before", ())
        for key in traced_keys(section, chosen.name, before):
            value = chosen.options[key]
            if isinstance(value, float):
                found[f"{section}.{key}"] = np.float32(value)
            elif isinstance(value, int):
                found[f"{section}.{key}"] = np.int32(value)
    return found


def shape(config: Config) -> dict[str, Any]:
    """Returns what shapes the program of a run: {"section.key": value}."""
    traced = traced_options(config)
    values: dict[str, Any] = {
        # Of the partition, only the number of clients is a shape.
        key: "traced" if key in traced else value
        for key, value in flatten(to_dict(config)).items()
        if key not in ("seed", "data.data_dir", "execution.compilation_cache", *RATES)
        and (not key.startswith("partition.") or key == "partition.num_clients")
    }
    values["model.init"] = config.model.init is not None  # which one is an input
    return values


def identity(config: Config) -> str:
    """Returns a text that is equal for runs with the same program."""
    return json.dumps(shape(config), sort_keys=True, default=str)
