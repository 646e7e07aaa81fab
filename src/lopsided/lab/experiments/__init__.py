"""The table of experiments: a file in this folder that holds an `EXPERIMENT` is an entry.

    lab/experiments/NAME.py      EXPERIMENT = Experiment(name=…, claim=…, expected=…, run=…, place=…)

`place` orders the table, which `lopsided lab --list` prints and `lopsided lab all` runs.
"""

from __future__ import annotations

import importlib
import pkgutil

from lopsided.errors import LopsidedError, unknown
from lopsided.lab.protocol import Experiment


def discover() -> dict[str, Experiment]:
    """Return the experiments of this folder's files by name, in the order of their places.

    Raises:
        LopsidedError: for a file without an experiment, or a name that two files give.
    """
    files: dict[str, str] = {}
    experiments: list[Experiment] = []
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        experiment = vars(module).get("EXPERIMENT")
        if not isinstance(experiment, Experiment):
            raise LopsidedError(
                f"lab/experiments/{file.name}.py: expected EXPERIMENT = Experiment(...) in it, got none; add it, or "
                "move what experiments share to lab/"
            )
        if experiment.name in files:
            raise LopsidedError(
                f"experiment {experiment.name!r}: expected one file with that name, got {files[experiment.name]}.py "
                f"and {file.name}.py; rename one of them"
            )
        files[experiment.name] = file.name
        experiments.append(experiment)
    experiments.sort(key=lambda experiment: (experiment.place, experiment.name))
    return {experiment.name: experiment for experiment in experiments}


EXPERIMENTS: dict[str, Experiment] = discover()


def experiment_named(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises:
        LopsidedError: if there is none, listing the known ones and the nearest.
    """
    if name not in EXPERIMENTS:
        raise LopsidedError(unknown("experiment", name, EXPERIMENTS, "all or one of"))
    return EXPERIMENTS[name]


def exact_figures() -> frozenset[str]:
    """Return the figures of all experiments that are computed without sampling, by their words."""
    return frozenset(e.what for experiment in EXPERIMENTS.values() for e in experiment.expected if e.exact)
