"""The config schema: every mistake is one line, every config survives a round trip."""

import json

import pytest

from fedjax_sim import models
from fedjax_sim.attacks import ATTACKS
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.partition import PARTITIONS
from fedjax_sim.data.sources import SOURCES
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.experiment.config import override, resolve, to_dict
from fedjax_sim.experiment.config_files import file_arguments, load_file, parse_value
from fedjax_sim.participation import PARTICIPATIONS

BACKDOOR = {"name": "backdoor", "num_malicious": 2}


def message_of(function, *arguments, **keywords):
    with pytest.raises(InputError) as error:
        function(*arguments, **keywords)
    message = str(error.value)
    assert message and "\n" not in message
    return message


# -------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"sed": 1}, "config.sed", "seed"),
        ({"defence": {"name": "fedavg"}}, "config.defence", "defense"),
        ({"client": {"lrr": 1.0}}, "config.client.lrr", "lr"),
        ({"client": {"batchsize": 4}}, "config.client.batchsize", "batch_size"),
        ({"data": {"normalisation": "half"}}, "config.data.normalisation", None),
        ({"model": {"widht": 3}}, "config.model.widht", "width"),
        ({"model": {"name": "cnn", "paddin": 1}}, "config.model.paddin", "padding"),
        (
            {"defense": {"name": "droplet", "penalti": 1}},
            "config.defense.penalti",
            "penalty",
        ),
        (
            {"attack": {**BACKDOOR, "victim_clas": 1}},
            "config.attack.victim_clas",
            "victim_class",
        ),
        ({"partition": {"num_client": 3}}, "config.partition.num_client", None),
        ({"participation": {"burst": 3}}, "config.participation.burst", None),
        ({"execution": {"device": 2}}, "config.execution.device", "devices"),
        ({"log": {"tensorbord": True}}, "config.log.tensorbord", "tensorboard"),
    ],
)
def test_unknown_key_names_the_nearest(values, key, nearest):
    message = message_of(resolve, values)
    assert message.startswith(f"{key} is not a key; ")
    assert "allowed: " in message
    if nearest is not None:
        assert f"did you mean '{nearest}'?" in message


def test_unknown_section_lists_what_there_is():
    message = message_of(resolve, {"zzz": {"a": 1}})
    assert message.startswith("config.zzz is not a key")
    for section in Config.model_fields:
        assert section in message


@pytest.mark.parametrize("key", ["options", "name"])
@pytest.mark.parametrize("section", ["client", "log"])
def test_internal_names_are_no_keys(section, key):
    message = message_of(resolve, {section: {key: "x"}})
    assert message.startswith(f"config.{section}.{key} is not a key")


@pytest.mark.parametrize(
    ("values", "beginning"),
    [
        ({"rounds": "ten"}, "config.rounds = 'ten'"),
        ({"rounds": 2.0}, "config.rounds = 2.0"),
        ({"rounds": None}, "config.rounds = None"),
        ({"rounds": 0}, "config.rounds = 0"),
        ({"seed": True}, "config.seed = True"),
        ({"seed": 2**70}, "config.seed = 1180591620717411303424"),  # JAX takes 64 bits
        ({"client": 3}, "config.client = 3"),
        ({"client": {"lr": "fast"}}, "config.client.lr = 'fast'"),
        ({"client": {"lr": -0.1}}, "config.client.lr = -0.1"),
        ({"client": {"lr": float("nan")}}, "config.client.lr = nan"),
        ({"client": {"lr": "two\nlines"}}, r"config.client.lr = 'two\nlines'"),
        ({"client": {"epochs": 1.5}}, "config.client.epochs = 1.5"),
        ({"client": {"epochs": 0}}, "config.client.epochs = 0"),
        ({"client": {"steps": 0}}, "config.client.steps = 0"),
        ({"data": 3}, "config.data = 3 must be a group of keys"),
        ({"data": {"name": 3}}, "config.data.name = 3 must be a string"),
        ({"data": {"num_train": "all"}}, "config.data.num_train = 'all'"),
        ({"model": {"width": "wide"}}, "config.model.width = 'wide'"),
        (
            {"defense": {"name": "droplet", "penalty": "high"}},
            "config.defense.penalty = 'high'",
        ),
        ({"attack": {**BACKDOOR, "dpr": "some"}}, "config.attack.dpr = 'some'"),
        (
            {"attack": {**BACKDOOR, "victim_class": 1.5}},
            "config.attack.victim_class = 1.5",
        ),
        (
            {"attack": {**BACKDOOR, "position": "middle"}},
            "config.attack.position = 'middle'",
        ),
        ({"attack": {"num_malicious": -1}}, "config.attack.num_malicious = -1"),
        (
            {"attack": {"malicious_clients": "first"}},
            "config.attack.malicious_clients = 'first'",
        ),
        ({"server": {"optimizer": "adamw"}}, "config.server.optimizer = 'adamw'"),
        (
            {"evaluation": {"low_confidence_threshold": 1.0}},
            "config.evaluation.low_confidence_threshold = 1.0",
        ),
        ({"execution": {"lowering": "fast"}}, "config.execution.lowering = 'fast'"),
        ({"execution": {"devices": 0}}, "config.execution.devices = 0"),
        ({"execution": {"memory_gib": -1.0}}, "config.execution.memory_gib = -1.0"),
        ({"execution": {"memory_gib": "all"}}, "config.execution.memory_gib = 'all'"),
        ({"execution": {"microbatch": 0}}, "config.execution.microbatch = 0"),
        ({"execution": {"microbatch": "some"}}, "config.execution.microbatch = 'some'"),
        (
            {"participation": {"name": "explicit", "schedule": 3}},
            "config.participation.schedule = 3",
        ),
        (
            {"participation": {"name": "explicit"}},
            "config.participation.schedule must be given",
        ),
    ],
)
def test_ill_typed_values_are_refused(values, beginning):
    assert message_of(resolve, values).startswith(beginning)


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"data": {"name": "digit"}}, "data.name = 'digit'", "digits"),
        ({"data": {"normalization": "hlaf"}}, "data.normalization = 'hlaf'", "half"),
        ({"data": {"augmentation": "flip"}}, "data.augmentation = 'flip'", "crop_flip"),
        ({"partition": {"name": "iid"}}, "partition.name = 'iid'", "drop_iid"),
        ({"model": {"name": "resnet"}}, "model.name = 'resnet'", "resnet"),
        ({"participation": {"name": "uniforn"}}, "name = 'uniforn'", "uniform"),
        ({"attack": {"name": "backdor"}}, "attack.name = 'backdor'", "backdoor"),
        ({"defense": {"name": "fedavgg"}}, "defense.name = 'fedavgg'", "fedavg"),
        ({"execution": {"clients": "chunk:0"}}, "execution.clients = 'chunk:0'", ""),
    ],
)
def test_unknown_names_are_refused(values, key, nearest):
    message = message_of(resolve, values)
    assert key in message and nearest in message
    assert "allowed: " in message


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (
            {"participation": {"clients_per_round": 11}},
            ["clients_per_round = 11", "num_clients = 10"],
        ),
        ({"attack": {"num_malicious": 11}}, ["num_malicious = 11", "num_clients = 10"]),
        (
            {"attack": {"name": "backdoor"}},
            ["num_malicious = 0", "attack.name = 'backdoor'"],
        ),
    ],
)
def test_impossible_combinations_are_refused(values, parts):
    message = message_of(resolve, values)
    assert all(part in message for part in parts)


# -------------------------------------------------------------------- defaults


def test_defaults_are_those_of_the_schema():
    config = resolve({})
    assert config == Config(
        data=config.data,
        partition=config.partition,
        model=config.model,
        participation=config.participation,
        attack=config.attack,
        defense=config.defense,
    )
    assert (config.seed, config.rounds) == (0, 20)
    assert (config.defense.name, config.attack.name) == ("fedavg", "none")
    assert config.model.options == {"width": 64}
    assert (config.client.lr, config.client.momentum) == (0.01, 0.9)


def test_options_take_the_defaults_of_their_factory():
    config = resolve({"attack": {**BACKDOOR, "dpr": 1}})
    assert config.attack.options == {
        "dpr": 1,
        "victim_class": 0,
        "target_class": 7,
        "trigger": "4pixel",
        "position": "top_left",
        "equal_distribution": False,
        "batchwise": False,
        "start_round": 1,
        "end_round": None,
    }


def names(table):
    return sorted(table)


@pytest.mark.parametrize(
    ("section", "name"),
    [
        *(("data", name) for name in [*names(SOURCES), "tfds:mnist"]),
        *(("partition", name) for name in names(PARTITIONS)),
        *(("model", name) for name in names(models.MODELS)),
        *(("participation", name) for name in names(PARTICIPATIONS)),
        *(("attack", name) for name in names(ATTACKS)),
        *(("defense", name) for name in names(DEFENSES)),
        *(("client_defense", name) for name in names(CLIENT_DEFENSES)),
    ],
)
def test_every_choice_resolves_and_survives_a_round_trip(section, name):
    group = {"name": name}
    if name == "explicit":
        group["schedule"] = "schedule.npy"
    if section == "partition" and name == "file":
        group["path"] = "partition.npz"
    if section == "attack":
        group["num_malicious"] = 3
    values = {section: group, "seed": 4, "client": {"epochs": 3}}
    if name.startswith("adaptive_"):
        values["defense"] = {"name": "fedredefense"}
    if name == "leadfl" and section == "participation":
        values["attack"] = {"malicious_clients": "leadfl"}
    config = resolve(values)
    flat = to_dict(config)
    assert flat[section]["name"] == name and "options" not in flat[section]
    assert resolve(flat) == config
    # A run directory holds it as JSON.
    assert resolve(json.loads(json.dumps(flat))) == config


@pytest.mark.parametrize("name", ["scaling", "dba"])
def test_alternating_passes_cannot_be_counted_in_steps(name):
    values = {"attack": {"name": name, "num_malicious": 1}, "client": {"steps": 3}}
    message = message_of(resolve, values)
    assert message.startswith("config.client.steps = 3 must be none with config.attack")


def test_an_attack_begins_before_the_run_ends():
    attack = {"name": "backdoor", "num_malicious": 1, "start_round": 7}
    message = message_of(resolve, {"attack": attack, "rounds": 6})
    assert message.startswith("config.attack.start_round = 7 must be at most")
    resolve({"attack": attack, "rounds": 7})


# -------------------------------------------------------------------- override


DROPLET = {"defense": {"name": "droplet", "penalty": 2.0}, "seed": 1}


def test_override_sets_keys_the_file_leaves_out():
    changed = override(DROPLET, {"client.lr": 0.5, "seed": 2, "defense.reward": 1.0})
    assert changed == {
        "defense": {"name": "droplet", "penalty": 2.0, "reward": 1.0},
        "seed": 2,
        "client": {"lr": 0.5},
    }
    assert DROPLET == {"defense": {"name": "droplet", "penalty": 2.0}, "seed": 1}


def test_another_name_drops_the_options_of_the_old_one():
    changed = override(DROPLET, {"defense.name": "fedavg"})
    assert changed == {"defense": {"name": "fedavg"}, "seed": 1}
    assert resolve(changed).defense.name == "fedavg"


def test_another_name_keeps_fixed_keys_and_shared_options():
    base = {"attack": {**BACKDOOR, "dpr": 0.5, "malicious_clients": "last"}}
    changed = override(base, {"attack.name": "none"})["attack"]
    assert changed == {"name": "none", "num_malicious": 2, "malicious_clients": "last"}
    base = {"model": {"name": "cnn", "padding": 1}}
    assert override(base, {"model.name": "wide_cnn"})["model"]["padding"] == 1


@pytest.mark.parametrize("order", [1, -1])
def test_name_and_its_options_change_together(order):
    changes = {"defense.name": "droplet", "defense.penalty": 3.0}
    changes = dict(list(changes.items())[::order])
    changed = override({"defense": {"name": "fedavg"}}, changes)
    assert changed["defense"] == {"name": "droplet", "penalty": 3.0}


def test_an_option_the_new_choice_does_not_know_is_an_error():
    changed = override(DROPLET, {"defense.name": "fedavg", "defense.penalty": 3.0})
    message = message_of(resolve, changed)
    assert message.startswith("config.defense.penalty is not a key")


@pytest.mark.parametrize(
    ("base", "changes", "part"),
    [
        (DROPLET, {"defense.name": "dropplet"}, "defense.name = 'dropplet'"),
        (DROPLET, {"seed.deep": 1}, "config.seed is a value"),
        ({"defense": "droplet"}, {"defense.penalty": 1.0}, "config.defense is a value"),
        ({"defense": "droplet"}, {"defense.name": "fedavg"}, "config.defense"),
    ],
)
def test_impossible_overrides_are_refused(base, changes, part):
    assert part in message_of(override, base, changes)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("None", None),
        ("droplet", "droplet"),
        ("chunk:3", "chunk:3"),
        ("'7'", "7"),
        ("", ""),
    ],
)
def test_values_are_parsed_as_literals_or_text(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


# ----------------------------------------------------------------------- files


def write(folder, text, name="experiment.py"):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_load_file_runs_get_config(tmp_path):
    path = write(tmp_path, "def get_config():\n    return {'seed': 3}\n")
    assert load_file(path) == {"seed": 3}


def test_variants_are_in_the_order_in_which_they_were_written(tmp_path):
    text = "ConfigDict({'variants': {'z': {'seed': 1}, 'a': {'seed': 2}}, 'rounds': 3})"
    lines = f"    return {text}\n"
    head = "from ml_collections import ConfigDict\ndef get_config():\n"
    found = load_file(write(tmp_path, head + lines))
    assert found == {"rounds": 3, "variants": {"z": {"seed": 1}, "a": {"seed": 2}}}
    assert list(found["variants"]) == ["z", "a"]


def test_load_file_with_an_argument(tmp_path):
    path = write(tmp_path, "def get_config(text):\n    return {'seed': text}\n")
    assert load_file(f"{path}:a=1,b=2") == {"seed": "a=1,b=2"}
    assert load_file(path) == {"seed": ""}


@pytest.mark.parametrize(
    ("name", "text", "argument", "part"),
    [
        (None, None, "", "there is no such file"),
        ("experiment.py", "x = 1\n", "", "defines no get_config()"),
        ("experiment.txt", "def get_config(): ...\n", "", "a Python file (.py)"),
        ("experiment.py", "def get_config(): ...\n", ":a=1", "takes no ':a=1'"),
        ("experiment.py", "get_config = 3\n", "", "defines no get_config()"),
        ("experiment.py", "def get_config(): ...\n", "", "returned None"),
        ("experiment.py", "def get_config():\n    x\n", "", "NameError: name 'x'"),
        ("experiment.py", "import nowhere\n", "", "ModuleNotFoundError"),
    ],
)
def test_files_that_are_no_config(tmp_path, name, text, argument, part):
    path = write(tmp_path, text, name) if name else str(tmp_path / "nowhere.py")
    message = message_of(load_file, path + argument)
    assert message.startswith(f"--config={path}: ") and part in message


def test_a_folder_is_no_config(tmp_path):
    assert "there is no such file" in message_of(load_file, str(tmp_path))


KEYS = {"mcr": 0.2, "clients": 10, "defense": "fedavg", "smooth": False}


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("", {}),
        ("clients=20", {"clients": 20}),
        ("mcr=0.4,defense=droplet", {"mcr": 0.4, "defense": "droplet"}),
        ("mcr=1", {"mcr": 1.0}),
        ("defense=a=b,", {"defense": "a=b"}),
        ("smooth=True", {"smooth": True}),
        ("smooth=true", {"smooth": True}),
        ("smooth=False", {"smooth": False}),
        ("smooth=false", {"smooth": False}),
    ],
)
def test_file_arguments_are_typed_by_their_defaults(text, changed):
    read = file_arguments(text, **KEYS)
    assert read == {**KEYS, **changed}
    assert all(type(value) is type(KEYS[key]) for key, value in read.items())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("client=3", ["client is not a key", "did you mean 'clients'?"]),
        ("clients=3.5", ["clients=3.5", "int"]),
        ("clients", ["clients=", "int"]),
        ("mcr=many", ["mcr=many", "float"]),
        ("smooth=maybe", ["smooth=maybe", "bool"]),
    ],
)
def test_wrong_file_arguments_are_refused(text, parts):
    message = message_of(file_arguments, text, **KEYS)
    assert all(part in message for part in parts)


@pytest.mark.parametrize("server", [{"lr": 0.5}, {"optimizer": "adam"}])
def test_flcert_takes_full_steps(server):
    with pytest.raises(InputError, match=r"config\.server\.lr"):
        resolve({"defense": {"name": "flcert"}, "server": server})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("client", "lr", 1e39),
        ("client", "momentum", 1e39),
        ("client", "epochs", 2**40),
        ("client", "batch_size", 10**9),
        ("client", "steps", 2**31),
        ("server", "lr", 3.5e38),
        ("data", "num_train", 10**12),
        ("partition", "num_clients", 10**12),
        ("execution", "memory_gib", float("inf")),
    ],
)
def test_numbers_that_no_program_holds_are_refused(section, key, value):
    message = message_of(resolve, {section: {key: value}})
    assert message.startswith(f"config.{section}.{key} = {value!r}")


def test_changes_are_not_changed():
    base, changes = (
        {"client": {"lr": 0.1}},
        {"attack": {"name": "lie"}, "attack.z": 2.0},
    )
    changed = override(base, {**changes, "client.lr": 0.2})
    assert changed == {"client": {"lr": 0.2}, "attack": {"name": "lie", "z": 2.0}}
    assert (base["client"], changes["attack"]) == ({"lr": 0.1}, {"name": "lie"})
