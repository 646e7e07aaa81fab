"""What is known of a model and a task before their runs, and how long a run takes and how much it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from transformers import PretrainedConfig

from lopsided.errors import LopsidedError, first_line, unknown
from lopsided.models.registry import MODELS, KnownModel, known_model, model_source
from lopsided.models.skeleton import parameters_of, skeleton
from lopsided.models.weight_hash import model_hash
from lopsided.runs import TrainConfig
from lopsided.runs.inputs import READING, Data, task_of
from lopsided.runs.model_cache import ModelCache
from lopsided.runs.needs import TimeProbe, time_probe
from lopsided.study.cell import Cell
from lopsided.study.study_file import Machine
from lopsided.tasks.registry import TASKS
from lopsided.tasks.task import SPLITS
from lopsided.tasks.task_entry import KnownTask
from lopsided.tasks.task_fingerprint import fingerprint

# Floating-point operations per parameter and token: forward, backward to activations, backward to weights.
FORWARD, BACKWARD, WEIGHTS = 2.0, 2.0, 2.0
DIGITS = 16
# Of what trains: in memory with its gradient and two moments of Adam; on disk, while a run is under way, in each of two
# checkpoints with these moments, and then once. A run's records.
COPIES, CHECKPOINTS, RECORDS = 4, 6, 200_000


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model and a task, as far as they are known on this machine.

    Args:
        model_fingerprint, task_fingerprint: "" where it is not here.
        splits: rows of each split, out-of-domain ones included; about as many as the hub has where the task is not
            here, and empty where that is not known.
        parameters: of the model; None where nobody says.
        missing: what has to be fetched or put somewhere, in words.
        patches: tokens of an image; None for a model of text, whose rows have at most `max_length`.
        seconds: of a run on this machine, from a few steps that were timed; None where they were not.
    """

    model_fingerprint: str = ""
    task_fingerprint: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    parameters: int | None = None
    missing: tuple[str, ...] = ()
    patches: int | None = None
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
    frozen = 0 if learned == pair.parameters * 4 else pair.parameters * 4
    disk, memory = learned + RECORDS, frozen + learned * COPIES
    if pair.seconds is not None:
        return Span(seconds=pair.seconds(cell.config), how="probe", disk_bytes=disk, memory_bytes=memory)
    if machine is None or not pair.splits:
        return None
    config = cell.config
    trained = WEIGHTS if not cell.method.side.on_base and not cell.method.side.head_alone else 0.0
    step_rows = config.batch_size * config.accumulate
    rows = steps * step_rows * (FORWARD + BACKWARD + trained) + _evaluated(config, pair) * FORWARD
    operations = rows * (pair.patches or config.max_length) * pair.parameters
    return Span(seconds=operations / (machine.tflops * 1e12), how="arithmetic", disk_bytes=disk, memory_bytes=memory)


def _evaluated(config: TrainConfig, pair: Pair) -> int:
    """Count the rows that a run reads without learning from them: at each evaluation, and at its end."""
    validation = min(pair.splits["validation"], config.eval_rows or pair.splits["validation"])
    last = min(config.train_rows, pair.splits["train"]) + pair.splits["validation"]
    others = [rows for split, rows in pair.splits.items() if split not in ("train", "validation")]
    tested = sum(min(rows, config.test_rows or rows) for rows in others)
    return config.evaluations * validation + last + (tested if config.test else 0)


def _learned_bytes(cell: Cell, parameters: int) -> int:
    """Return the bytes of what trains: an upper bound for most adapters, which are much narrower than their layers."""
    whole = parameters * 4
    if cell.method.side.head_alone:
        return whole // 100
    return whole if not cell.method.side.on_base else min(whole, whole * cell.config.rank // 256)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known of a model or a task: see `Pair`."""

    fingerprint: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    parameters: int | None = None
    patches: int | None = None
    missing: str = ""


class Looker:
    """Finds out what is known of models and tasks, each once.

    Args:
        probe: whether to time a few steps of each pair of model and task.
        fetch: whether to fetch the models that packages carry.
        cache: for the models that are loaded for it.
    """

    def __init__(self, *, probe: bool, fetch: bool = False, cache: ModelCache | None = None) -> None:
        self.probe, self.fetch, self.cache = probe, fetch, cache or ModelCache()
        self._pairs: dict[str, Pair] = {}
        self._tasks: dict[str, _Known] = {}
        self._models: dict[str, _Known] = {}

    def __call__(self, config: TrainConfig) -> Pair:
        """Return what is known of the model and the task of a run."""
        of_task = {name: getattr(config, name) for name in ("task", *READING)}
        of_pair = {name: getattr(config, name) for name in ("model", "max_length", "batch_size", "bf16")}
        task_key, key = repr(of_task), repr({**of_task, **of_pair})
        if task_key not in self._tasks:
            self._tasks[task_key] = _task_known(config)
        if config.model not in self._models:
            if self.fetch:
                model_source(config.model)
            self._models[config.model] = _model_known(config.model)
        if key not in self._pairs:
            self._pairs[key] = self._pair(config, self._tasks[task_key], self._models[config.model])
        return self._pairs[key]

    def _pair(self, config: TrainConfig, task: _Known, model: _Known) -> Pair:
        missing = tuple(filter(None, (model.missing, task.missing)))
        seconds = None
        if self.probe and not missing:
            data, probed = self.cache.data(config), time_probe(config, self.cache.inputs(config))
            seconds = partial(_seconds, probed, data)
        return Pair(
            model_fingerprint=model.fingerprint,
            task_fingerprint=task.fingerprint,
            splits=task.splits,
            parameters=model.parameters,
            patches=model.patches,
            missing=missing,
            seconds=seconds,
        )


def _task_known(config: TrainConfig) -> _Known:
    """Return what is known of a task: its rows, or about how many there would be."""
    try:
        task = task_of(config)
    except LopsidedError as error:
        if config.task not in TASKS:
            raise
        return _Known(splits=_rows_of(TASKS[config.task], config), missing=first_line(error))
    rows = {split: len(task.splits[split]) for split in SPLITS}
    rows |= {split: len(part) for split, part in task.out_of_domain.items()}
    return _Known(fingerprint=fingerprint(task)[:DIGITS], splits=rows)


def _rows_of(entry: KnownTask, config: TrainConfig) -> dict[str, int]:
    """Return about how many rows a task has that is not here; nothing where its entry does not say."""
    if entry.rows is None:
        return {}
    rows = dict(zip(SPLITS, entry.rows))
    return {**rows, "train": min(rows["train"], config.train_size or rows["train"])}


def _model_known(name: str) -> _Known:
    """Return what is known of a model: of those of the table also where they are not here."""
    hashed, entry = model_hash(name), known_model(name)
    if hashed is None and entry is None and "/" not in name:
        raise LopsidedError(unknown("model", name, MODELS, "a folder, a name on the hub, or one of"))
    known = _Known(fingerprint=hashed or "")
    if hashed is not None:
        model = skeleton(name)
        known = replace(
            known, parameters=sum(each.numel() for each in model.parameters()), patches=_patches(model.config)
        )
    elif entry is not None and entry.sizes:
        config = entry.architecture.config(entry.sizes)
        known = replace(known, parameters=parameters_of(entry), patches=_patches(config))
    if hashed is None:
        known = replace(known, missing=f"model {name}: not on this machine; {_way_here(name, entry)}")
    return known


def _way_here(name: str, entry: KnownModel | None) -> str:
    """Return how a model comes to this machine."""
    if entry is not None and entry.package is not None:
        return f"{entry.package.megabytes} MB, fetched when the study begins"
    licence = ", whose licence has to be accepted there" if entry is not None and entry.gated else ""
    return f"hf download {name if entry is None else entry.hub}{licence}"


def _patches(config: PretrainedConfig) -> int | None:
    """Return how many tokens an image is to a model; None for a model of text."""
    sizes = config.to_dict()
    if "patch_size" not in sizes:
        return None
    # And the one that stands for the whole.
    return int(sizes["image_size"] // sizes["patch_size"]) ** 2 + 1


def _seconds(probed: TimeProbe, data: Data, config: TrainConfig) -> float:
    return probed.seconds(config, data)
