"""Small experiments that put the papers' claims to the test, each with a verdict."""

from lopsided.lab.claims_page import write_page
from lopsided.lab.experiments import EXPERIMENTS, experiment_named
from lopsided.lab.intervals import over_seeds, share, slope
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request, verdict
from lopsided.lab.result_file import LabResult, read_result, run_experiment

__all__ = [
    "EXPERIMENTS",
    "Expected",
    "Experiment",
    "LabResult",
    "Measured",
    "Outcome",
    "Request",
    "experiment_named",
    "over_seeds",
    "read_result",
    "run_experiment",
    "share",
    "slope",
    "verdict",
    "write_page",
]
