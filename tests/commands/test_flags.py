"""The command line: flags, variants, the table, the quickstart."""

import importlib
import json

import pytest
from helpers import BASE, ROOT, start, write_config

from fedjax_sim.commands import flags as command_line
from fedjax_sim.commands import run as cli
from fedjax_sim.commands.main import COMMANDS, PURPOSES
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import resolve
from fedjax_sim.experiment.config_files import load_file

# ------------------------------------------------------------------------ parse


def changes_of(argv):
    """What the command line of a run changes in its config."""
    return command_line.parse(argv, cli.make_flags(), cli.USAGE)


def test_changes_of_the_config_are_told_from_flags():
    values = cli.make_flags()
    changes = command_line.parse(
        [
            "run.py",
            "--config=configs/quickstart.py",
            "--config.rounds=2",
            "--config.client.lr",
            "0.5",
            "--workdir",
            "runs/a",
            "-config.data.name=mnist",
        ],
        values,
        cli.USAGE,
    )

    assert values.config == "configs/quickstart.py"
    assert values.workdir == "runs/a"
    assert not values.print_config
    assert changes == {"rounds": 2, "client.lr": 0.5, "data.name": "mnist"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1", -1),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("None", None),
        ("C4", "C4"),
        ("a=b", "a=b"),
        ("'3'", "3"),
        ("", ""),
    ],
)
def test_values_are_literals_or_text(text, value):
    changes = changes_of(["run.py", f"--config.data.name={text}"])

    assert changes == {"data.name": value}
    assert type(changes["data.name"]) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.rounds"], "--config.rounds: a value is missing"),
        (["--wrokdir=x"], "did you mean 'workdir'"),
        (["--print_confg"], "did you mean 'print_config'"),
        (["--print_config=maybe"], "print_config"),
        (["--workdir"], "workdir"),
        (["stray"], "stray is not a flag"),
    ],
)
def test_wrong_flags_are_refused(arguments, message):
    with pytest.raises(InputError) as problem:
        changes_of(["run.py", *arguments])

    assert message in str(problem.value)
    assert "\n" not in str(problem.value)


# --------------------------------------------------------------------- variants


def test_a_config_without_variants_is_one_run():
    runs = cli.resolve_variants(BASE, {"rounds": 7})

    assert list(runs) == [""]
    assert runs[""].rounds == 7


def test_variants_differ_and_flags_change_all_of_them():
    variants = {
        "a": {"defense": {"name": "median"}},
        "b": {"client": {"lr": 0.25}, "rounds": 9},
    }

    runs = cli.resolve_variants({**BASE, "variants": variants}, {"rounds": 3})

    assert list(runs) == ["a", "b"]
    assert [run.defense.name for run in runs.values()] == ["median", "fedavg"]
    assert [run.client.lr for run in runs.values()] == [0.1, 0.25]
    assert [run.rounds for run in runs.values()] == [3, 3]


def test_variants_that_a_flag_makes_equal_are_one_run():
    """Not the same numbers twice, under the names of what was overridden."""
    variants = {"a": {"defense": {"name": "median"}}, "b": {}}
    base = {**BASE, "variants": variants}
    runs = cli.resolve_variants(base, {"defense.name": "dnc"})
    assert {name: run.defense.name for name, run in runs.items()} == {"": "dnc"}

    variants["c"] = {"client": {"lr": 0.25}}
    with pytest.raises(
        InputError, match=r"config\.defense\.name = 'dnc': the variants"
    ):
        cli.resolve_variants(base, {"defense.name": "dnc"})


def test_a_variant_leaves_the_base_alone():
    base = {**BASE, "variants": {"a": {"attack": {"dpr": 0.25}}, "b": {}}}

    runs = cli.resolve_variants(base, {})

    assert runs["a"].attack.options["dpr"] == 0.25
    assert runs["b"].attack.options["dpr"] == 1.0
    assert "variants" in base


def test_another_choice_drops_options_of_the_old_one():
    base = {**BASE, "defense": {"name": "droplet", "penalty": 2.0}}

    (run,) = cli.resolve_variants(base, {"defense.name": "median"}).values()

    assert "penalty" not in run.defense.options


def test_wrong_key_in_a_variant():
    base = {**BASE, "variants": {"a": {"client": {"learning_rate": 1.0}}}}

    with pytest.raises(InputError, match=r"config\.client\.learning_rate"):
        cli.resolve_variants(base, {})


def test_a_group_that_is_a_value():
    with pytest.raises(InputError, match=r"config\.defense"):
        cli.resolve_variants({**BASE, "defense": "droplet"}, {"defense.name": "median"})


def test_a_key_below_a_value_names_the_whole_key():
    with pytest.raises(InputError, match=r"config\.client\.lr is a value"):
        cli.resolve_variants(BASE, {"client.lr.x": 1})


# ------------------------------------------------------------------------ table


def summary(name, mta, asr, missed, false_alarms):
    final = {"mta": mta} if asr == "absent" else {"mta": mta, "asr": asr}
    return {
        "name": name,
        "final": final,
        "detection": {
            "false_negative_rate": missed,
            "false_positive_rate": false_alarms,
        },
        "seconds": {"train": 1.25, "defend": 0.5},
    }


def test_table_aligns_numbers_and_shows_what_is_missing():
    text = cli.table(
        [
            summary("fedavg", 90.0, 98.765, 100.0, 0.0),
            summary("a long name", 89.5, None, None, 12.5),
            summary("clean", 91.0, "absent", None, None),
        ]
    )

    lines = text.splitlines()
    assert lines[0].split("  ")[0] == "run"
    assert set(lines[1]) == {"-"}
    assert lines[2].split() == ["fedavg", "90.00", "98.77", "0.00", "0.00", "1.75"]
    assert lines[3].split() == ["a", "long", "name", "89.50", "-", "-", "12.50", "1.75"]
    assert lines[4].split() == ["clean", "91.00", "-", "-", "-", "1.75"]
    assert len({len(line) for line in lines}) == 1


# ------------------------------------------------------------------------- main


def test_help_shows_usage_and_flags(capsys):
    assert cli.main(["run.py", "--help"]) == 0

    shown = capsys.readouterr()
    assert shown.err == ""
    assert "usage: python run.py --config=FILE" in shown.out
    for name in ("run", "sweep"):  # as the installed command
        module = importlib.import_module(f"fedjax_sim.commands.{name}")
        assert module.main([f"fedjax-sim {name}"]) == 2
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        assert f"; usage: fedjax-sim {name} --" in shown.err
    assert cli.main(["run.py", "--help"]) == 0
    shown = capsys.readouterr()
    for flag in ("--config", "--workdir", "print_config"):
        assert flag in shown.out


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["--config.model.name=resnet18", "--config.data.augmentation=drop"],
        ["--config.defense.name=multikrum", "--config.client.lr=1"],
        ["--config.partition.name=sinkhorn_dirichlet", "--config.seed=3"],
    ],
)
def test_printed_config_resolves_to_the_same(changes, tmp_path, capsys):
    path = write_config(tmp_path)
    arguments = ["run.py", f"--config={path}", *changes]

    assert cli.main([*arguments, "--print_config"]) == 0

    printed = json.loads(capsys.readouterr().out)
    parsed = changes_of(arguments)
    (expected,) = cli.resolve_variants(load_file(str(path)), parsed).values()
    assert resolve(printed) == expected
    assert list(tmp_path.iterdir()) == [path]


def test_printed_config_of_variants(capsys):
    path = ROOT / "configs" / "quickstart.py"

    assert cli.main(["run.py", f"--config={path}", "--print_config"]) == 0

    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"fedavg", "droplet"}
    assert resolve(printed["droplet"]).defense.name == "droplet"


def test_quickstart_runs_as_the_readme_says(tmp_path):
    """As in the README, two rounds instead of forty and a smaller network."""
    process = start(
        "--config=configs/quickstart.py",
        "--config.rounds=2",
        "--config.model.name=mlp",
        workdir=tmp_path / "quickstart",
    )
    out, err = process.communicate(timeout=300)

    assert (process.returncode, err) == (0, "")
    table = out.splitlines()[-4:]
    assert table[0].split()[:3] == ["run", "MTA", "%"]
    assert {line.split()[0] for line in table[2:]} == {"fedavg", "droplet"}
    for name in ("fedavg", "droplet"):
        saved = json.loads(
            (tmp_path / "quickstart" / name / "summary.json").read_text()
        )
        assert saved["status"] == "finished"
        assert saved["name"] == name


def test_print_config_says_what_a_preset_makes_of_a_rule(capsys):
    """`defense=bulyan` of LeadFL is the authors' rule, over the whole state."""
    config = f"{ROOT}/configs/leadfl/cifar10.py:preset=authors,defense=bulyan"
    assert cli.main(["run.py", f"--config={config}", "--print_config"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["defense"]["name"] == "bulyan_leadfl"
    assert (
        "config.defense.name = bulyan_leadfl: whole_state = True (default False)" in err
    )
    assert "double_softmax = True (default False)" in err


def test_every_command_says_what_it_is_for():
    assert list(PURPOSES) == list(COMMANDS)
