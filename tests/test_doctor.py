"""`lopsided doctor`, and what it reads of the installed packages."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import lopsided
from lopsided import LopsidedError, doctor
from tests.cli.commands import lopsided as command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# A package's requirements, and what of them is installed.
REQUIRES = {
    "lopsided": [
        "torch>=2.8",
        "tomli>=2; python_version < '3.11'",
        'plotly>=6; extra == "report"',
        'jinja2>=3.1; extra == "report"',
        'lopsided[report]; extra == "demo"',
        'matplotlib>=3.8; extra == "lab"',
        'flwr[simulation]>=1.42; extra == "federated"',
        'optuna>=4; python_version < "3" and extra == "tune"',
    ],
    "flwr": ['ray>=2.40; extra == "simulation"', 'pytest; extra == "test"'],
}
VERSIONS = {
    "lopsided": "0.2",
    "torch": "2.9+cpu",
    "plotly": "5.1",
    "jinja2": "3.1.6",
    "flwr": "1.42",
    "matplotlib": "4rc1",
}


@pytest.fixture
def made_up(monkeypatch):
    """These packages in place of the installed ones."""

    def version(name):
        if name not in VERSIONS:
            raise PackageNotFoundError(name)
        return VERSIONS[name]

    monkeypatch.setattr(doctor, "requires", lambda name: REQUIRES.get(name))
    monkeypatch.setattr(doctor, "version", version)
    return {each.extra: each for each in doctor.features()}


def test_each_feature_is_a_line_with_its_fix(made_up):
    lines = {extra: str(feature) for extra, feature in made_up.items()}
    assert lines[""] == "lopsided (all verbs): torch 2.9+cpu"
    assert lines["report"] == ("report (the HTML report): plotly 5.1, expected >=6; pip install 'lopsided[report]'")
    assert lines["lab"] == "lab (plots of `lab` and `advise`): matplotlib 4rc1"
    # flwr is here, and what its own extra asks for is not.
    assert "ray is not installed; pip install 'lopsided[federated]'" in lines["federated"]
    assert "not for Python 3" in lines["tune"]
    states = {extra: feature.state for extra, feature in made_up.items() if feature.packages}
    assert states == {"": "ready", "report": "missing", "demo": "missing", "lab": "ready", "federated": "missing"}
    assert made_up["tune"].state == "not here"
    assert made_up["tune"].fix is None


def test_an_extra_of_extras_needs_what_these_need(made_up):
    assert made_up["demo"].packages == made_up["report"].packages
    assert made_up["demo"].fix == "pip install 'lopsided[demo]'"


def test_a_library_that_is_not_installed_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    with pytest.raises(LopsidedError, match=r"pip install -e \."):
        doctor.features()


def test_the_table_names_every_extra():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert doctor.FEATURES.keys() == project["optional-dependencies"].keys() - {"dev"}


def test_the_verb_prints_lines_or_json(monkeypatch, capfd):
    outcome = command(monkeypatch, capfd, "doctor")
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"lopsided {lopsided.__version__}, Python 3.")
    assert sum(line.startswith("device   cpu: ") for line in lines) == 1
    assert [line.split()[1] for line in lines if line.startswith("model")] == ["embedded:", "smollm2:"]
    assert f"torch {torch.__version__}" in next(line for line in lines if "lopsided (all verbs)" in line)
    outcome = command(monkeypatch, capfd, "doctor", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert [each["extra"] for each in found["features"]] == ["", *doctor.FEATURES]
    assert found["features"][0]["ready"]


def test_a_gpu_is_a_line(monkeypatch):
    class Properties:
        name, total_memory = "NVIDIA Something", 80 * 2**30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    assert "cuda:0: NVIDIA Something, 80 GiB" in map(str, doctor.devices())
