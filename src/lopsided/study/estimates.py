"""What is known of a model and a task before their runs, and how long a run takes and how much it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from lopsided.errors import LopsidedError, first_line, unknown
from lopsided.models.registry import MODELS
from lopsided.models.skeleton import skeleton
from lopsided.models.weight_hash import model_hash
from lopsided.runs import TrainConfig
from lopsided.runs.inputs import READING, Data, task_of
from lopsided.runs.model_cache import ModelCache
from lopsided.runs.needs import TimeProbe, time_probe
from lopsided.study.cell import Cell
from lopsided.study.study_file import Machine
from lopsided.tasks.registry import TASKS
from lopsided.tasks.task import SPLITS
from lopsided.tasks.task_fingerprint import fingerprint

# Floating-point operations per parameter and token: forward, backward to activations, backward to weights.
FORWARD, BACKWARD, WEIGHTS = 2.0, 2.0, 2.0
DIGITS = 16
# Of what trains, on disk: the adapter, and in each of two checkpoints it and two moments of Adam. A run's records.
COPIES, RECORDS = 7, 200_000


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model and a task, as far as they are known on this machine.

    Args:
        model_fingerprint, task_fingerprint: "" where it is not here.
        splits: rows of each split, out-of-domain ones included; empty where the task is not here.
        parameters: of the model; None where nobody says.
        missing: what has to be fetched or put somewhere, in words.
        seconds: of a run on this machine, from a few steps that were timed; None where they were not.
    """

    model_fingerprint: str = ""
    task_fingerprint: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    parameters: int | None = None
    missing: tuple[str, ...] = ()
    seconds: Callable[[TrainConfig], float] | None = None

    @property
    def rows(self) -> int | None:
        """How many training rows there are; None where that is not known."""
        return self.splits.get("train")


@dataclass(frozen=True, kw_only=True)
class Span:
    """How long a run takes and how much it writes.

    Args:
        memory_bytes: of weights, gradients and moments; activations come on top.
        how: "probe", a few steps that were timed here; "arithmetic", operations over those of the study's machine.
    """

    seconds: float
    how: Literal["probe", "arithmetic"]
    disk_bytes: int
    memory_bytes: int


def span_of(cell: Cell, steps: int | None, pair: Pair, machine: Machine | None = None) -> Span | None:
    """Return what a cell takes; None where the numbers that decide it are not known."""
    if steps is None or pair.parameters is None:
        return None
    learned = _learned_bytes(cell, pair.parameters)
    disk, memory = learned * COPIES + RECORDS, pair.parameters * 4 + learned * COPIES
    if pair.seconds is not None:
        return Span(seconds=pair.seconds(cell.config), how="probe", disk_bytes=disk, memory_bytes=memory)
    if machine is None:
        return None
    config = cell.config
    trained = WEIGHTS if not cell.method.side.on_base and not cell.method.side.head_alone else 0.0
    step_rows = config.batch_size * config.accumulate
    tokens = steps * step_rows * (FORWARD + BACKWARD + trained) + _evaluated(config, pair) * FORWARD
    operations = tokens * config.max_length * pair.parameters
    return Span(seconds=operations / (machine.tflops * 1e12), how="arithmetic", disk_bytes=disk, memory_bytes=memory)


def _evaluated(config: TrainConfig, pair: Pair) -> int:
    """The rows that a run reads without learning from them: at each evaluation, and at its end."""
    validation = min(pair.splits["validation"], config.eval_rows or pair.splits["validation"])
    last = min(config.train_rows, pair.splits["train"]) + pair.splits["validation"]
    tested = sum(rows for split, rows in pair.splits.items() if split not in ("train", "validation"))
    return config.evaluations * validation + last + (tested if config.test else 0)


def _learned_bytes(cell: Cell, parameters: int) -> int:
    """The bytes of what trains: an upper bound for most adapters, whose layers are some times wider than the rank."""
    whole = parameters * 4
    if cell.method.side.head_alone:
        return whole // 100
    return whole if not cell.method.side.on_base else min(whole, whole * cell.config.rank // 256)


class Looker:
    """Finds out what is known of models and tasks, each once.

    Args:
        probe: whether to time a few steps of each pair of model and task.
        cache: for the models that are loaded for it.
    """

    def __init__(self, *, probe: bool, cache: ModelCache | None = None) -> None:
        self.probe, self.cache = probe, cache or ModelCache()
        self._pairs: dict[str, Pair] = {}
        self._tasks: dict[str, tuple[str, dict[str, int], str]] = {}
        self._models: dict[str, tuple[str, int | None, str]] = {}

    def __call__(self, config: TrainConfig) -> Pair:
        """Return what is known of the model and the task of a run."""
        of_task = {name: getattr(config, name) for name in ("task", *READING)}
        of_pair = {name: getattr(config, name) for name in ("model", "max_length", "batch_size", "bf16")}
        task_key, key = repr(of_task), repr({**of_task, **of_pair})
        if task_key not in self._tasks:
            self._tasks[task_key] = _task_known(config)
        if config.model not in self._models:
            self._models[config.model] = _model_known(config.model)
        if key not in self._pairs:
            self._pairs[key] = self._pair(config, self._tasks[task_key], self._models[config.model])
        return self._pairs[key]

    def _pair(
        self, config: TrainConfig, task: tuple[str, dict[str, int], str], model: tuple[str, int | None, str]
    ) -> Pair:
        missing = tuple(filter(None, (model[2], task[2])))
        seconds = None
        if self.probe and not missing:
            data, probed = self.cache.data(config), time_probe(config, self.cache.inputs(config))
            seconds = partial(_seconds, probed, data)
        return Pair(
            model_fingerprint=model[0],
            task_fingerprint=task[0],
            splits=task[1],
            parameters=model[1],
            missing=missing,
            seconds=seconds,
        )


def _task_known(config: TrainConfig) -> tuple[str, dict[str, int], str]:
    """Return a task's fingerprint, its rows by split, and what is missing."""
    try:
        task = task_of(config)
    except LopsidedError as error:
        if config.task not in TASKS:
            raise
        return "", {}, first_line(error)
    rows = {split: len(task.splits[split]) for split in SPLITS}
    rows |= {split: len(part) for split, part in task.out_of_domain.items()}
    return fingerprint(task)[:DIGITS], rows, ""


def _model_known(name: str) -> tuple[str, int | None, str]:
    """Return a model's fingerprint, its number of parameters, and what is missing."""
    hashed = model_hash(name)
    if hashed is None:
        if name not in MODELS and "/" not in name:
            raise LopsidedError(unknown("model", name, MODELS, "a folder, a name on the hub, or one of"))
        return "", _parameters(name), f"model {name} is not on this machine: download it from the hub into its cache"
    return hashed, _parameters(name), ""


def _parameters(name: str) -> int | None:
    try:
        return sum(int(parameter.numel()) for parameter in skeleton(name).parameters())
    except LopsidedError:
        return None


def _seconds(probed: TimeProbe, data: Data, config: TrainConfig) -> float:
    return probed.seconds(config, data)
