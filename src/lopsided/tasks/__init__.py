"""What to learn: embedded, local and hub tasks, their metrics, and their rows as tokens."""

from lopsided.tasks.encode import EncodedTask, collator, encode
from lopsided.tasks.local import read_jsonl
from lopsided.tasks.metrics import Metric, difference_standard_error, get_metric
from lopsided.tasks.registry import TASKS
from lopsided.tasks.task import SPLITS, Task
from lopsided.tasks.task_fingerprint import fingerprint
from lopsided.tasks.task_sources import load_task

__all__ = [
    "SPLITS",
    "TASKS",
    "EncodedTask",
    "Metric",
    "Task",
    "collator",
    "difference_standard_error",
    "encode",
    "fingerprint",
    "get_metric",
    "load_task",
    "read_jsonl",
]
