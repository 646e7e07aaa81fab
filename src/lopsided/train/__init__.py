"""One run: model + task + method -> a run directory."""

from lopsided.train.config import TrainConfig
from lopsided.train.loading import Data, load_data
from lopsided.train.run import train
from lopsided.train.rundir import read_predictions, read_run

__all__ = ["Data", "TrainConfig", "load_data", "read_predictions", "read_run", "train"]
