"""Every method on one model and task: the main job."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lopsided.bench.summary import sentences, table
from lopsided.checkpoint import write_json
from lopsided.errors import LopsidedError
from lopsided.method import METHODS, method_named
from lopsided.train import Data, TrainConfig, load_data, train
from lopsided.train.measure import machine, versions
from lopsided.train.rundir import first_line, in_use

SCHEMA = 1
# What a method's own run may end with; anything else is a defect of ours and stops the comparison.
FAILURES = (LopsidedError, RuntimeError, OSError, ValueError)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """A comparison: methods times seeds, each a `TrainConfig` but for the method, the seed and the folder.

    Args:
        run: what all runs share.
        methods: names; empty takes the methods of the Beyond LoRA study, and the head alone as the floor.
        seeds: one run of every method for each.
        links: for the methods that have a chain; None keeps each method's own.
        command: how it was asked for, for the record.
    """

    run: TrainConfig
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    links: int | None = None
    command: str = "lopsided compare"

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise LopsidedError(f"seeds must be distinct whole numbers, one or more, got {list(self.seeds)}")
        for name in self.names:
            for seed in self.seeds:
                # Builds every run's configuration, so that bad input stops all of them before the first one.
                self.config_of(name, seed)
        if len(set(self.methods)) != len(self.methods):
            raise LopsidedError(f"methods must be distinct, got {', '.join(self.methods)}")

    @property
    def names(self) -> tuple[str, ...]:
        return self.methods or tuple(name for name, method in METHODS.items() if method.compared)

    def config_of(self, method: str, seed: int) -> TrainConfig:
        chained = method_named(method).chain is not None
        length = {"links": self.links if chained else None, "every": self.run.every if chained else None}
        shared = {**self.run.to_json(), "method": method, "seed": seed, **length}
        return TrainConfig(**shared, out=self.folder(method, seed))

    def folder(self, method: str, seed: int) -> Path:
        return self.run.out / "runs" / f"{method}-seed{seed}"


def compare(
    config: CompareConfig,
    *,
    resume: bool = False,
    callbacks: Callable[[str, int], Sequence[TrainerCallback]] = lambda method, seed: (),
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run every method and seed, and write `results.json`.

    A method that fails is an entry in the table; the others finish.

    Args:
        config: what to compare.
        resume: keep finished runs, and go on with unfinished ones.
        callbacks: for one run's trainer, from the method's name and the seed.
        note: tells a person how the rows are read, before the first run.

    Returns:
        What `results.json` holds.

    Raises:
        LopsidedError: for bad input that concerns all methods, before any of them runs.
    """
    started, created = time.perf_counter(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    with in_use(config.run.out):
        if not resume and any((config.run.out / name).exists() for name in ("results.json", "runs")):
            raise LopsidedError(
                f"{config.run.out} holds a comparison already; expected a new folder; pass --resume, or another --out"
            )
        data = load_data(config.run)
        if data.described:
            note(data.described)
        errors = {}
        for name in config.names:
            for seed in config.seeds:
                try:
                    train(
                        config.config_of(name, seed),
                        resume=resume,
                        data=data,
                        callbacks=callbacks(name, seed),
                    )
                except FAILURES as error:
                    errors[name] = first_line(error)
        results = _results(config, data, errors)
        results |= {"created": created, "wall_seconds": time.perf_counter() - started}
        write_json(config.run.out / "results.json", results)
    return results


def _results(config: CompareConfig, data: Data, errors: dict[str, str]) -> dict[str, Any]:
    folders = {name: [config.folder(name, seed) for seed in config.seeds] for name in config.names}
    cols, rows = table(config.run.out, folders, errors)
    return {
        "schema": SCHEMA,
        "title": f"{len(rows)} methods on {config.run.task}",
        "command": config.command,
        "model": config.run.model,
        "task": config.run.task,
        "task_note": data.task.note,
        "task_shape": data.described,
        "seeds": list(config.seeds),
        "settings": {k: v for k, v in config.run.to_json().items() if k not in ("method", "seed") and v is not None},
        "machine": machine(),
        "versions": versions(),
        "columns": cols,
        "rows": rows,
        "sentences": sentences(cols, rows, len(config.seeds)),
    }
