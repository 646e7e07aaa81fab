"""The table of experiments: a file in its folder is an entry, which the command line lists, runs and writes about."""

from __future__ import annotations

import json
import sys

import pytest

from lopsided import LopsidedError
from lopsided.lab import EXPERIMENTS, experiments
from tests.cli.commands import lopsided

MINE = '''
"""An experiment of this test."""

from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome
from lopsided.plotting.svg import Drawing, Trace


def run(request):
    drawing = Drawing(name="p", title="Three", x="x", y="y", lines=[Trace(name="a", x=[1, 2], y=[3.0, 3.0])])
    return Outcome(measured=[Measured(value=3.0)], settings={"seeds": request.number_of_seeds(quick=1, full=2)},
                   plots=[drawing])


EXPERIMENT = Experiment(
    name="three-is-three",
    claim="Three is three.",
    meaning="One. Two.",
    source="this test",
    expected=(Expected(what="three", low=3, high=3, exact=True),),
    run=run,
    place=15,
)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose files belong to the table."""
    path = tmp_path / "experiments"
    path.mkdir()
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(path)])
    before = set(sys.modules)
    yield path
    for name in set(sys.modules) - before:
        if name.startswith("lopsided.lab.experiments."):
            del sys.modules[name]


def test_a_file_is_an_experiment_of_the_command_its_record_and_its_page(folder, tmp_path, monkeypatch, capfd):
    (folder / "three.py").write_text(MINE)
    with_mine = experiments.discover()
    assert list(with_mine)[:3] == ["counterexample", "three-is-three", "linear-regression"]
    assert {name: with_mine[name] for name in EXPERIMENTS} == EXPERIMENTS
    monkeypatch.setitem(EXPERIMENTS, "three-is-three", with_mine["three-is-three"])

    listed = json.loads(lopsided(monkeypatch, capfd, "lab", "--list", "--json").out)
    assert {"name": "three-is-three", "claim": "Three is three.", "source": "this test"} in listed
    out, page = tmp_path / "out", tmp_path / "lab.md"
    outcome = lopsided(monkeypatch, capfd, "lab", "three-is-three", "--full", "--out", out, "--page", page)
    assert (outcome.status, outcome.err) == (0, "")
    assert "three-is-three: reproduced" in outcome.out
    record = json.loads((out / "result.json").read_text())
    assert (record["name"], record["verdict"], record["settings"]) == ("three-is-three", "reproduced", {"seeds": 2})
    assert "## three-is-three" in page.read_text()
    assert "| three | 3, exact | 3 to 3 |  | holds |" in page.read_text()


def test_the_order_is_that_of_the_places():
    assert list(EXPERIMENTS) == [
        *(
            "counterexample",
            "linear-regression",
            "logistic-regression",
            "sketches",
            "reshuffling",
            "digits-chain",
            "federated",
        ),
        *("least-squares", "sample-complexity", "concentration", "factor-similarity", "double-rank", "init"),
        *("data-sketches", "paca-bridge", "bounds-vs-gap", "chain-factorial", "rate-guess"),
    ]
    assert len({experiment.place for experiment in EXPERIMENTS.values()}) == len(EXPERIMENTS)


def test_a_file_without_an_experiment_is_refused(folder):
    (folder / "shared.py").write_text('"""What experiments share."""\n')
    with pytest.raises(LopsidedError, match=r"shared\.py: expected EXPERIMENT.*move what experiments share to lab/"):
        experiments.discover()


def test_two_files_of_one_name_are_refused(folder):
    (folder / "three.py").write_text(MINE)
    (folder / "three_again.py").write_text(MINE)
    with pytest.raises(LopsidedError, match=r"'three-is-three'.*three\.py and three_again\.py; rename"):
        experiments.discover()
