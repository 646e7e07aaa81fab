"""What a study will do, before it does anything: its cells, what is missing for them, time and disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lopsided.errors import LopsidedError, first_line
from lopsided.method import METHODS, Method, method_named
from lopsided.method.profiles import in_profile
from lopsided.runs import TrainConfig
from lopsided.runs.preflight import total_steps
from lopsided.study.cell import Cell, folder_name
from lopsided.study.estimates import CHECKPOINTS, Pair, Span, span_of
from lopsided.study.results import Result
from lopsided.study.setting_sources import LINK_EPOCHS, Sourced
from lopsided.study.study_file import Block, Study
from lopsided.study.tuning import Tuner, by_family

State = Literal["finished", "failed", "skipped", "pending", "unavailable"]
Look = Callable[[TrainConfig], Pair]


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell, and how it stands.

    Args:
        state: "unavailable" is a cell whose model or task is not on this machine and cannot be fetched.
        why: of a cell that failed, was skipped, or is unavailable.
        steps: optimizer steps; None where the number of rows is not known.
        span: how long it takes and how much it writes; None where that is not known.
    """

    cell: Cell
    settings: Mapping[str, Sourced]
    state: State
    why: str = ""
    steps: int | None = None
    span: Span | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a line of `lopsided bench --plan --json`."""
        cell, config = self.cell, self.cell.config
        return {
            "cell": cell.key if cell.is_named else None,
            "state": self.state,
            "why": self.why or None,
            "role": cell.role,
            "model": config.model,
            "task": config.task,
            "method": config.method,
            "seed": config.seed,
            "settings": {name: {"value": each.value, "source": each.source} for name, each in self.settings.items()},
            "steps": self.steps,
            "seconds": None if self.span is None else self.span.seconds,
            "seconds_by": None if self.span is None else self.span.how,
            "disk_bytes": None if self.span is None else self.span.disk_bytes,
            "memory_bytes": None if self.span is None else self.span.memory_bytes,
        }


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """All cells of a study.

    Args:
        cells: all of them, with tuning also the trials; the rate of a tuned run is known when these have ended.
        runs: the cells without trials, as the study asks for them, whose model and task are on this machine.
        downloads: what is fetched or has to be put somewhere first, in words.
    """

    study: Study
    cells: tuple[PlannedCell, ...]
    runs: tuple[Cell, ...]
    downloads: tuple[str, ...] = ()

    @property
    def pending(self) -> list[PlannedCell]:
        """The cells that are still to be run."""
        return [each for each in self.cells if each.state == "pending"]

    @property
    def seconds(self) -> float | None:
        """The time of all unfinished cells, one after the other; None if that of one of them is not known."""
        spans = [each.span for each in self.cells if each.state != "finished"]
        return None if any(span is None for span in spans) else math.fsum(span.seconds for span in spans if span)

    @property
    def memory_bytes(self) -> dict[str, int]:
        """What weights, gradients and moments of each cell take, by its key."""
        spans = {each.cell.key: each.span for each in self.cells}
        return {key: span.memory_bytes for key, span in spans.items() if span is not None}

    @property
    def disk_bytes(self) -> int:
        """What the cells that are not finished write at most, the checkpoints of the largest one included."""
        written = [each.span.disk_bytes for each in self.cells if each.span is not None and each.state != "finished"]
        return sum(written) + CHECKPOINTS * max(written, default=0)

    def counts(self) -> dict[str, int]:
        """Return how many cells there are in each state."""
        return dict(Counter(each.state for each in self.cells))

    def to_json(self) -> dict[str, Any]:
        """Return `lopsided bench --plan --json`."""
        study = self.study
        return {
            "schema": 1,
            "title": study.title,
            "profile": study.profile,
            "counts": self.counts(),
            "trials_per_method": 0 if study.tuning is None else study.tuning.trials,
            "seconds": self.seconds,
            "disk_bytes": self.disk_bytes,
            "downloads": list(self.downloads),
            "cells": [each.to_json() for each in self.cells],
        }


def plan(study: Study, folder: Path, *, results: Mapping[str, Result], look: Look) -> StudyPlan:
    """Work out every cell of a study, and how it stands.

    Args:
        folder: of the study; cells are made in its `runs`.
        results: what has ended already, by key.
        look: loads what is known of the model and task of a run.

    Raises:
        LopsidedError: for a method, a setting or a cell that is not possible, before anything runs.
    """
    register_variants(study)
    cells: dict[tuple[Any, ...], PlannedCell] = {}
    missing: dict[str, None] = {}
    for number, block in enumerate(study.blocks):
        for planned, pair in _cells(study, block, number, folder, look):
            missing |= dict.fromkeys(pair.missing)
            cell = planned.cell
            # A cell that two blocks name is made once.
            name = (cell.key,) if cell.is_named else (*cell.board, cell.entry, cell.config.seed, number)
            state: State = "unavailable" if pair.missing else "pending"
            span = span_of(cell, planned.steps, pair, study.machine)
            planned = replace(planned, state=state, why="; ".join(pair.missing), span=span)
            cells.setdefault(name, _stand(planned, results))
    standing = list(cells.values()) if study.tuning is None else _with_trials(list(cells.values()), study, results)
    runs = [each.cell for each in cells.values() if each.state != "unavailable"]
    return StudyPlan(study=study, cells=tuple(standing), runs=tuple(runs), downloads=tuple(missing))


def _with_trials(cells: Sequence[PlannedCell], study: Study, results: Mapping[str, Result]) -> list[PlannedCell]:
    """Return the trials of every method before its runs, which have their tuned rate where the trials have ended."""
    assert study.tuning is not None
    by_cell = {id(each.cell): each for each in cells}
    standing: list[PlannedCell] = []
    for family in by_family([each.cell for each in cells]).values():
        first, tuner = by_cell[id(family[0])], Tuner(cells=family, tuning=study.tuning)
        trials = list(tuner.trials())
        standing += [_stand(replace(first, cell=trial, state="pending"), results) for trial in trials]
        ended = [results[trial.key] for trial in trials if trial.key in results]
        tuned = family
        if len(ended) == len(trials):
            for result in ended:
                tuner.tell(result)
            tuned = tuner.tuned() or family
        standing += [_stand(replace(by_cell[id(a)], cell=b, state="pending"), results) for a, b in zip(family, tuned)]
    return standing


def register_variants(study: Study) -> None:
    """Make the study's own methods known in this process.

    Raises:
        LopsidedError: if another method has the name.
    """
    for name, method in study.variants.items():
        if name in METHODS and METHODS[name].parts() != method.parts():
            raise LopsidedError(f"variant {name!r}: another method has that name; choose another one")
        METHODS[name] = method


def _cells(study: Study, block: Block, number: int, folder: Path, look: Look) -> Iterator[tuple[PlannedCell, Pair]]:
    for model in block.models:
        for task in block.tasks:
            # Seeds outside methods: a worker then loads the base model once per seed.
            for seed in block.seeds:
                for name in block.methods:
                    for settings, swept in block.settings_of(name):
                        words = ", ".join(filter(None, [swept, block.name]))
                        place = _Place(model=model, task=task, seed=seed, method=name, block=number, swept=words)
                        yield _cell(study, place, settings, folder, look)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a cell stands in its study."""

    model: str
    task: str
    seed: int
    method: str
    block: int
    swept: str


def _cell(
    study: Study, place: _Place, settings: Mapping[str, Sourced], folder: Path, look: Look
) -> tuple[PlannedCell, Pair]:
    method = method_named(in_profile(place.method, study.profile))
    where = f"{method.name} on {place.task} with {place.model}"
    plain = {key: each.value for key, each in settings.items() if key != LINK_EPOCHS}
    if method.chain is None:
        # A length of links in the settings of all is for the methods that have them.
        plain = {key: value for key, value in plain.items() if key not in ("links", "every")}
    fixed = {"model": place.model, "task": place.task, "method": method.name, "seed": place.seed, "out": folder}
    pair = look(_config({**plain, **fixed}, where))
    if LINK_EPOCHS in settings and method.chain is not None and pair.rows is not None:
        per_epoch = total_steps(_config({**plain, **fixed, "steps": None, "epochs": 1.0}, where), pair.rows)
        plain |= {"every": max(1, round(settings[LINK_EPOCHS].value * per_epoch)), "links": None}
    config = _config({**plain, **fixed}, where)
    cell = Cell(
        config=config,
        method=config.resolve_method(),
        sources={key: each.source for key, each in settings.items()},
        model_fingerprint=pair.model_fingerprint,
        task_fingerprint=pair.task_fingerprint,
        block=place.block,
        swept=place.swept,
        diagnose=study.diagnose,
    )
    cell = replace(cell, config=replace(config, out=folder / "runs" / folder_name(cell)))
    steps = None if pair.rows is None else total_steps(config, pair.rows)
    return PlannedCell(cell=cell, settings=shown(settings, method, config), state="pending", steps=steps), pair


def _config(settings: Mapping[str, Any], where: str) -> TrainConfig:
    try:
        return TrainConfig(**settings)
    except LopsidedError as error:
        raise LopsidedError(f"{where}: {first_line(error)}") from error


def shown(settings: Mapping[str, Sourced], method: Method, config: TrainConfig) -> dict[str, Sourced]:
    """Return the settings of a run, with this library's defaults for those that were not given."""
    given = {key: each for key, each in settings.items() if key not in ("links", "every") or method.chain is not None}
    for key, value in config.to_json().items():
        if key not in given and key not in ("model", "task", "method", "seed", "lr") and value is not None:
            given[key] = Sourced(value=value, source="default")
    given.setdefault("lr", Sourced(value=config.learning_rate, source="default"))
    return given


def _stand(planned: PlannedCell, results: Mapping[str, Result]) -> PlannedCell:
    """Return a cell with what became of it."""
    result = results.get(planned.cell.key)
    if result is None or planned.why:
        return planned
    return replace(planned, state=result.status, why=result.reason)


def only_shard(cells: Sequence[Cell], shard: tuple[int, int] | None, *, tuned: bool) -> list[Cell]:
    """Return the cells of shard i of n, i from 1: by their keys, so that every machine deals them out alike.

    Args:
        tuned: whether cells share trials; then those that do are in one shard.
    """
    if shard is None:
        return list(cells)
    i, n = shard
    return [cell for cell in cells if int(cell.family if tuned else cell.key, 16) % n == i - 1]
