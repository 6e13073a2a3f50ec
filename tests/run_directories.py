"""Run directories to report on: one real run, and copies of it with other numbers."""

import json

import pytest
from helpers import BASE, rows

from fedjax_sim.experiment.config import override, resolve, to_dict
from fedjax_sim.runs import loop
from fedjax_sim.runs.files import write_json


@pytest.fixture(scope="session")
def real_run(tmp_path_factory):
    """The directory of a short real run, evaluated in every round."""
    folder = tmp_path_factory.mktemp("real") / "run"
    code, _ = loop.run(resolve(BASE), folder, "real")
    assert code == 0
    return folder


@pytest.fixture
def make_run(real_run, tmp_path):
    """Writes `tmp_path/results/NAME`: a run of a config with invented rates."""
    summary = json.loads((real_run / "summary.json").read_text())
    metrics = rows(real_run / "metrics.jsonl")

    def make(
        name, changes=None, *, base=BASE, mta=None, asr=None, finished=True, **more
    ):
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        config = resolve(override(base, changes or {}))
        write_json(folder / "config.json", to_dict(config))
        final = {**summary["final"], "mta": mta, "asr": asr}
        lines = [{**row, "mta": mta, "asr": asr, **more} for row in metrics]
        (folder / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
        if finished:
            write_json(
                folder / "summary.json",
                {**summary, "name": name, "final": final, **more},
            )
        return folder

    make.results = tmp_path / "results"
    return make
