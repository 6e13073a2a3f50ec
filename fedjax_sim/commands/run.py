"""The command line of a run: flags in, run directories and a table out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fedjax_sim.commands.flags import UsageError, run_command, written_to
from fedjax_sim.commands.listing import listing
from fedjax_sim.commands.text_table import text_table
from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.paths import local_path
from fedjax_sim.core.progress import note
from fedjax_sim.experiment.config import to_dict
from fedjax_sim.experiment.config_files import load_file, resolve_variants
from fedjax_sim.reports.settings import unusual_options

USAGE = (
    "usage: {command} --config=FILE[:ARGUMENTS] --workdir=DIR "
    "[--config.section.key=value ...]"
)


def make_flags() -> flags.FlagValues:
    """The flags of `launch/run.py` beside `--config.section.key=value`."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "config",
        None,
        "Config file, optionally with arguments: FILE.py or FILE.py:key=value,...",
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir", None, "Folder of the run's results.", flag_values=values
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, for a run over several processes; auto: on a cluster.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_processes",
        None,
        "Of the run, each started with the same command.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Which of them this is, from 0.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "print_config", False, "Print the resolved config.", flag_values=values
    )
    flags.DEFINE_string(
        "list",
        None,
        "Print what a section may choose, such as defenses, with papers and options.",
        flag_values=values,
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(_run, argv, make_flags(), USAGE, [])


def _run(values: flags.FlagValues, changes: Mapping[str, Any]) -> int:
    if values.list is not None:
        print(listing(values.list))
        return 0
    if values.config is None:
        raise UsageError("--config must be given")
    runs = resolve_variants(load_file(values.config), changes)
    if values.print_config:
        shown = {name: to_dict(config) for name, config in runs.items()}
        print(json.dumps(shown if len(shown) > 1 else shown.popitem()[1], indent=2))
        for line in dict.fromkeys(
            line for config in runs.values() for line in said_of_rules(config)
        ):
            note(line)
        return 0
    if not values.workdir:
        raise InputError("--workdir=DIR must be given: the folder of the results")
    return _run_all(runs, values)


def said_of_rules(config: Config) -> list[str]:
    """A line for each rule whose options are not its defaults, whoever chose them.

    A paper's files do it in silence: `defense=bulyan` of LeadFL is `bulyan_leadfl`.
    """
    lines = []
    for section in ("attack", "defense", "client_defense", "participation", "model"):
        chosen = getattr(config, section)
        found = unusual_options(section, chosen.name, chosen.options)
        parts = [f"{k} = {v!r} (default {d!r})" for k, (v, d) in found.items()]
        if parts:
            lines.append(f"config.{section}.name = {chosen.name}: {', '.join(parts)}")
    return lines


def _run_all(runs: dict[str, Config], values: flags.FlagValues) -> int:
    workdir = local_path("--workdir", values.workdir)
    from fedjax_sim.core import distributed  # which imports JAX, not needed before

    with distributed.connected(
        values.coordinator,
        values.num_processes,
        values.process_id,
        devices=max(config.execution.devices for config in runs.values()),
    ):
        return _run_here(runs, workdir)


def _run_here(runs: dict[str, Config], workdir: Path) -> int:
    from fedjax_sim.core import distributed
    from fedjax_sim.experiment.build import build
    from fedjax_sim.runs import loop
    from fedjax_sim.sweeps.order import record

    folders = {name: workdir / name if name else workdir for name in runs}
    waiting = [n for n in runs if not (folders[n] / "summary.json").exists()]
    with distributed.agreement():
        for name in waiting[1:]:  # a mistake in the last one shows before the first
            build(runs[name])
    if len(runs) > 1 and distributed.is_leader():
        with written_to("--workdir", workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        record(workdir, list(runs))
    summaries = []
    for name, config in runs.items():
        folder = folders[name]
        label = name or config.defense.name
        code, summary = loop.run(config, folder, label)
        if code:
            return code
        summaries.append(summary)
    if distributed.is_leader():
        print(table(summaries))
    return 0


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The final numbers of finished runs as a text table."""
    rows = []
    for summary in summaries:
        found = summary["detection"]
        missed = found["false_negative_rate"]
        rows.append(
            {
                "run": summary["name"],
                "MTA %": summary["final"]["mta"],
                "ASR %": summary["final"].get("asr"),
                "flagged mal. %": None if missed is None else 100 - missed,
                "flagged benign %": found["false_positive_rate"],
                "seconds": sum(filter(None, summary["seconds"].values())),
            }
        )
    return text_table(list(rows[0]), rows, floats=".2f")
