"""One run: model + task + method -> a run directory."""

from lopsided.runs.config import TrainConfig
from lopsided.runs.directory import RECORD
from lopsided.runs.facts import Estimate, Predictions, SplitFigures
from lopsided.runs.inputs import Data, Inputs, Prepared, load_data, load_inputs, with_data
from lopsided.runs.model_cache import ModelCache
from lopsided.runs.resumption import resumed_config
from lopsided.runs.run import Run, finished_run, read_run, run_folders
from lopsided.runs.train import train

__all__ = [
    "RECORD",
    "Data",
    "Estimate",
    "Inputs",
    "ModelCache",
    "Predictions",
    "Prepared",
    "Run",
    "SplitFigures",
    "TrainConfig",
    "finished_run",
    "load_data",
    "load_inputs",
    "read_run",
    "resumed_config",
    "run_folders",
    "train",
    "with_data",
]
