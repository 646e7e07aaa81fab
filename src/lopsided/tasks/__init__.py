"""What to learn: embedded, local and hub tasks, their metrics, and their rows as tokens."""

from lopsided.tasks.encode import EncodedTask, collator, encode
from lopsided.tasks.load import load_task
from lopsided.tasks.local import read_jsonl
from lopsided.tasks.metrics import Metric, difference_standard_error, get_metric
from lopsided.tasks.task import SPLITS, Task

__all__ = [
    "SPLITS",
    "EncodedTask",
    "Metric",
    "Task",
    "collator",
    "difference_standard_error",
    "encode",
    "get_metric",
    "load_task",
    "read_jsonl",
]
