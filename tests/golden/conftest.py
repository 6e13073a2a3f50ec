"""The `--golden_dir` option, and one test for every golden file below it."""

from pathlib import Path

import pytest

DEFAULT = Path(__file__).parent / "data"


def pytest_addoption(parser):
    parser.addoption(
        "--golden_dir",
        default=str(DEFAULT),
        help="folder with one folder of .npz files per family",
    )


def golden_dir(config: pytest.Config) -> Path:
    # Pytest started without this path reads the option's declaration too late.
    return Path(config.getoption("golden_dir", default=str(DEFAULT))).absolute()


def pytest_generate_tests(metafunc):
    folder = golden_dir(metafunc.config)
    if "golden_file" in metafunc.fixturenames:
        files = sorted(folder.rglob("*.npz"))
        names = [f"{path.parent.name}/{path.stem}" for path in files]
        metafunc.parametrize("golden_file", files, ids=names)
    if "golden_folder" in metafunc.fixturenames:
        inner = sorted(path for path in folder.glob("[!._]*") if path.is_dir())
        folders = [folder, *inner]
        metafunc.parametrize("golden_folder", folders, ids=[f.name for f in folders])
