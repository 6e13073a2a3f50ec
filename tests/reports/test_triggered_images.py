"""Pictures of triggered images, from the configs of finished runs."""

from xml.etree import ElementTree

import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.data.digits import load_digits
from fedjax_sim.experiment.config import resolve
from fedjax_sim.reports import store
from fedjax_sim.reports.triggered_images import pictures, triggered_images


def of(attack: dict, **data) -> np.ndarray | None:
    attack = {"num_malicious": 1, **attack}
    config = {"data": {"name": "digits", **data}, "attack": attack}
    return pictures(resolve(config), load_digits())


def test_the_difference_is_where_the_trigger_is():
    shown = of({"name": "backdoor", "trigger": "block(height=2, width=2)"})
    clean, stamped, apart = np.moveaxis(shown, 1, 0)
    images = load_digits()
    victims = images.test_images[images.test_labels == 0][: len(clean)]
    np.testing.assert_allclose(clean, victims / 255, atol=1e-6)
    where = (apart > 0).any((0, 3))
    assert where[:2, :2].any() and not where[2:].any() and not where[:, 2:].any()
    np.testing.assert_array_equal(stamped[:, 2:], clean[:, 2:])
    assert apart.max() == 1


def test_a_trigger_that_changes_is_the_first_one():
    options = {"size": 2, "row": 1, "column": 1, "victim_class": 0}
    shown = of({"name": "a3fl", **options}, normalization="unit")
    np.testing.assert_allclose(shown[:, 1, 1:3, 1:3], 0.5)


def test_attacks_without_a_trigger_have_no_picture():
    assert of({"name": "label_flip"}) is None


def test_each_backdoor_is_drawn_once(make_run, capsys):
    for number, trigger in enumerate(("4pixel", "4pixel", "1pixel")):
        make_run(f"run{number}", {"attack.trigger": trigger}, mta=90.0, asr=1.0)
    make_run("far", {"data.name": "mnist", "data.data_dir": "/nowhere"}, mta=1.0)
    runs = store.select(store.gather(make_run.results), None)
    drawn = triggered_images(runs, make_run.results)
    tree = ElementTree.fromstring(drawn)
    pictures = [one for one in tree.iter() if one.tag.endswith("image")]
    assert len(pictures) == 2 * 9
    assert "no picture of the trigger of far" in capsys.readouterr().out


def test_a_rule_that_is_not_here_any_more_ends_no_report(make_run, capsys):
    folder = make_run("gone", mta=90.0, asr=1.0)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"backdoor"', '"nolab:rule"'))
    runs = store.select(store.gather(make_run.results), None)
    assert triggered_images(runs, make_run.results) is None
    assert "nolab" in capsys.readouterr().out


def test_a_trigger_that_moved_is_that_of_the_checkpoint():
    options = {"size": 2, "row": 1, "column": 1, "victim_class": 0}
    config = {"data": {"name": "digits", "normalization": "unit"}}
    config["attack"] = {"num_malicious": 1, "name": "a3fl", **options}
    mask, value = np.zeros((8, 8, 1), bool), np.full((8, 8, 1), 0.75, np.float32)
    mask[1:3, 1:3] = True
    for adapt, place in (("none", "[0].attack"), ("scale", "[0].attack[0]")):
        config["attack"]["adapt"] = adapt
        arrays = {f"{place}.mask": mask, f"{place}.value": value}
        arrays["[0].attack[1]"] = np.float32(1)
        shown = pictures(resolve(config), load_digits(), arrays)
        np.testing.assert_allclose(shown[:, 1, 1:3, 1:3], 0.75)
    with pytest.raises(
        InputError, match=r"holds no \[0\]\.attack\[0\]\.mask \[8, 8, 1\]"
    ):
        pictures(resolve(config), load_digits(), {})
