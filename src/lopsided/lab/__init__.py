"""Small experiments that put the papers' claims to the test, each with a verdict."""

from lopsided.lab.experiments import EXPERIMENTS, experiment_named
from lopsided.lab.intervals import over_seeds, share, slope
from lopsided.lab.protocol import Expected, Experiment, Line, Measured, Outcome, Plot, Request, verdict
from lopsided.lab.result_file import read_results, run_experiment, write_page

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
    "share",
    "slope",
    "verdict",
    "write_page",
]
