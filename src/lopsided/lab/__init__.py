"""Small experiments that put the papers' claims to the test, each with a verdict."""

from lopsided.lab.experiment import (
    Expected,
    Experiment,
    Line,
    Measured,
    Outcome,
    Plot,
    Request,
    over_seeds,
    slope,
    verdict,
)
from lopsided.lab.experiments import EXPERIMENTS, experiment_named
from lopsided.lab.record import read_results, run_experiment, write_page

__all__ = [
    "EXPERIMENTS",
    "Expected",
    "Experiment",
    "Line",
    "Measured",
    "Outcome",
    "Plot",
    "Request",
    "experiment_named",
    "over_seeds",
    "read_results",
    "run_experiment",
    "slope",
    "verdict",
    "write_page",
]
