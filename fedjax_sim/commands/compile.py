"""The command that compiles a config for a device, which need not be here."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from fedjax_sim.commands.flags import run_command
from fedjax_sim.commands.text_table import text_table
from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import override, resolve, to_dict
from fedjax_sim.experiment.config_files import load_file, resolve_variants

USAGE = (
    "usage: {command} --config=FILE[:ARGUMENTS] --target=TARGET "
    "[--config.section.key=value ...]"
)


def make_flags() -> flags.FlagValues:
    """The flags of `launch/compile.py` beside `--config.section.key=value`."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "As of a run.", flag_values=values)
    flags.DEFINE_string(
        "target",
        None,
        "cpu, tpu:GENERATION:TOPOLOGY or cuda:CARD; all its devices share the clients.",
        flag_values=values,
    )
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(_compile, argv, make_flags(), USAGE, ["config", "target"])


def _compile(values: flags.FlagValues, changes: Mapping[str, Any]) -> int:
    configs = resolve_variants(load_file(values.config), changes)
    from fedjax_sim.experiment.target import described  # which imports JAX

    target = described(values.target)
    chosen = "execution.devices" in changes
    for name, config in configs.items():
        own = config if chosen else _on_all(config, len(target.devices), values.target)
        report = _report(own, target)
        if values.json:
            print(json.dumps({"name": name, **report}, indent=2))
        else:
            _show(name, report)
    return 0


def _on_all(config: Config, devices: int, target: str) -> Config:
    """The config with its clients on all devices of the target.

    Raises:
      InputError: more of them than clients.
    """
    clients = config.participation.clients_per_round
    if target == "cpu":
        return config
    if devices > clients:
        raise InputError(
            f"--target={target} has {devices} devices, "
            f"config.participation.clients_per_round = {clients} clients share them; "
            "allowed: a smaller topology, or --config.execution.devices=K"
        )
    return resolve(override(to_dict(config), {"execution.devices": devices}))


def _report(config: Config, target: Any) -> dict[str, Any]:
    from fedjax_sim.runs.compiling import report

    return report(config, target)


def _show(name: str, report: Mapping[str, Any]) -> None:
    layout, memory = report["layout"], report["memory_gib"]
    title = f"{name}: " if name else ""
    print(
        f"{title}{report['target']}, {report['devices']} device(s), jax {report['jax']}"
    )
    print(
        f"fits: {memory['needed']:.3f} GiB of {memory['limit']:.2f} GiB a device "
        f"(estimated before: {memory['estimated']:.3f})"
    )
    print(
        f"layout: clients={layout['clients']} lowering={layout['lowering']} "
        f"microbatch={layout['microbatch']}; {report['steps']:g} steps a client"
    )
    print(text_table(list(report["programs"][0]), report["programs"], floats=".4g"))
    for line in report["round"]:
        print(line)
