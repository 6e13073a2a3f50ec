"""Folders that a user names."""

from pathlib import Path

import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.core.paths import local_path


@pytest.mark.parametrize("value", ["runs/a", "/tmp/a:b", "a b", "C", "runs/gs://x"])
def test_places_on_this_machine_are_taken_as_they_are(value):
    assert local_path("--workdir", value) == Path(value)


def test_the_home_folder_is_found():
    assert local_path("--workdir", "~/runs") == Path.home() / "runs"


@pytest.mark.parametrize("value", ["gs://bucket/run", "s3://b/run", Path("gs://b/run")])
def test_other_places_are_refused(value):
    with pytest.raises(InputError, match="allowed are folders of this machine"):
        local_path("--workdir", value)


def test_a_user_who_does_not_exist():
    with pytest.raises(InputError, match="there is no user ~nobodyhere"):
        local_path("--workdir", "~nobodyhere/runs")


@pytest.mark.parametrize("value", ["a" * 300, "/".join(["a" * 200] * 25)])
def test_names_that_no_disk_holds(value):
    with pytest.raises(InputError, match="File name too long") as caught:
        local_path("--workdir", value)
    assert len(str(caught.value)) < 200
