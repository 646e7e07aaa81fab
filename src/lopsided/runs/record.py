"""What a run writes into `run.json`: at its beginning, and when it has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lopsided.runs.config import TrainConfig
from lopsided.runs.directory import SCHEMA
from lopsided.runs.facts import BaseModel, ChainFacts, Estimate, SplitFigures, StepTime, TaskFacts
from lopsided.runs.measure import machine, versions


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run came to.

    Args:
        base: the model that it began with. task: what it learned.
        learning_rate: at its highest.
        trained_parameters: how many numbers were trained, the head included.
        metrics: by split.
        generalization_error: None for a run without test figures.
        best_step: the step of the checkpoint that was kept.
        history: the entries of the Trainer's log.
        kept_bytes: what autograd keeps for the backward pass of one step.
        adapter_bytes: of the weights that were saved.
        chain: None for a method without one.
    """

    base: BaseModel
    task: TaskFacts
    steps: int
    learning_rate: float
    trained_parameters: int
    metrics: Mapping[str, SplitFigures]
    generalization_error: Estimate | None
    best_step: int | None
    history: Sequence[Mapping[str, float]]
    step_time: StepTime
    kept_bytes: int
    adapter_bytes: int
    chain: ChainFacts | None


def begun_record(config: TrainConfig, command: str | None) -> dict[str, Any]:
    """Return the record of a run that has begun.

    Args:
        command: the command line that made it, if one did.
    """
    return {
        "schema": SCHEMA,
        "status": "running",
        "config": config.to_json(),
        "command": command,
        "method": config.resolve_method().parts(),
        "versions": versions(),
        "machine": machine(),
    }


def finished_record(begun: Mapping[str, Any], result: RunResult, wall_seconds: float) -> dict[str, Any]:
    """Return the record of a finished run.

    Args:
        begun: its record at the beginning.
        wall_seconds: of the session that finished it.
    """
    gap, chain = result.generalization_error, result.chain
    return {
        **begun,
        "status": "finished",
        "model": asdict(result.base),
        "task": result.task.to_json(),
        "steps": result.steps,
        "learning_rate": result.learning_rate,
        "trained_parameters": result.trained_parameters,
        "metrics": {split: figures.to_json() for split, figures in result.metrics.items()},
        "generalization_error": None if gap is None else gap.to_json(),
        "best_step": result.best_step,
        "history": list(result.history),
        "timings": result.step_time.to_json(),
        "kept_bytes": result.kept_bytes,
        "adapter_bytes": result.adapter_bytes,
        "chain": None if chain is None else chain.to_json(),
        "keeps_checkpoints": False,
        "wall_seconds": wall_seconds,
    }
