"""One run: model + task + method -> a run directory."""

from lopsided.runs.config import TrainConfig
from lopsided.runs.directory import read_predictions, read_run
from lopsided.runs.inputs import Data, load_data
from lopsided.runs.train import train

__all__ = ["Data", "TrainConfig", "load_data", "read_predictions", "read_run", "train"]
