"""Every method on one model and task: the main job."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.method import METHODS, method_named
from lopsided.runs import Data, TrainConfig, read_run, train
from lopsided.runs.directory import check_place, in_use, is_begun
from lopsided.runs.ending import reason, terminable
from lopsided.runs.inputs import Inputs, load_data, load_inputs
from lopsided.runs.measure import machine, versions
from lopsided.runs.preflight import preflight
from lopsided.study.leaderboard import sentences, table
from lopsided_settings.compare import CompareSettings

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class CompareConfig(CompareSettings):
    """A comparison: methods times seeds, each a `TrainConfig` but for the method, the seed and the folder.

    Args:
        run: what all runs share.
        methods: names; empty takes the methods of the Beyond LoRA study, and the head alone as the floor.
        seeds: one run of every method for each.
        links: for the methods that have a chain; None keeps each method's own.
        command: how it was asked for, for the record.
    """

    run: TrainConfig
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

    What can't work is refused before the first method runs. A method that fails all the same is an entry in the
    table; the others finish.

    Args:
        config: what to compare.
        resume: keep finished runs, and go on with unfinished ones.
        callbacks: for one run's trainer, from the method's name and the seed.
        note: tells a person how the rows are read, before the first run.

    Returns:
        What `results.json` holds.

    Raises:
        LopsidedError: for bad input, before any method runs; with a line for each thing that can't work.
    """
    started, created = time.perf_counter(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    out = config.run.out
    check_place(out)
    if not resume and any((out / name).exists() for name in ("results.json", "runs")):
        raise LopsidedError(f"{out} holds a comparison already; expected a new folder; pass --resume, or another --out")
    with ExitStack() as held:
        # A new folder is made after the preflight, so that a refusal leaves nothing behind.
        begun = is_begun(out)
        if begun:
            held.enter_context(in_use(out))
        data, loaded = _load(config)
        if data.described:
            note(data.described)
        if not begun:
            held.enter_context(in_use(out))
        held.enter_context(terminable())
        errors = {}
        for name in config.names:
            for seed in config.seeds:
                run = config.config_of(name, seed)
                try:
                    train(
                        run,
                        resume=resume,
                        data=data,
                        inputs=loaded.pop(run.out, None),
                        callbacks=callbacks(name, seed),
                        checked=True,
                        command=config.command,
                    )
                # Of any kind: hours of the other methods' training are not lost to a defect in one of them. Its row
                # says what it was, and so does its `run.json`.
                except Exception as error:  # noqa: BLE001
                    errors[name] = reason(error)
        results = _results(config, data, errors)
        results |= {"created": created, "wall_seconds": time.perf_counter() - started}
        write_json(out / "results.json", results)
    return results


def _load(config: CompareConfig) -> tuple[Data, dict[Path, Inputs]]:
    """The rows of all runs, and what the first unfinished run begins with, after the preflight of all.

    A run changes its model, so that every other run loads its own.
    """
    unfinished = _unfinished(config)
    if not unfinished:
        return load_data(config.run), {}
    inputs = load_inputs(unfinished[0])
    preflight(unfinished, inputs)
    return inputs.data, {unfinished[0].out: inputs}


def _unfinished(config: CompareConfig) -> list[TrainConfig]:
    """The runs that are still to be made, one per method: seeds make no difference to what can work."""
    chosen = {}
    for name in config.names:
        for seed in config.seeds:
            run = config.config_of(name, seed)
            if name not in chosen and not _is_finished(run.out):
                chosen[name] = run
    return list(chosen.values())


def _is_finished(folder: Path) -> bool:
    """Whether a finished run is there. One whose record can't be read is none."""
    try:
        run = read_run(folder)
    except LopsidedError:
        return False
    return run is not None and run.is_finished


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
