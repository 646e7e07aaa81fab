"""Trials of learning rates, and guesses of them: what the experiment `rate-guess` is made of.

Notation: a *place* is a method on a task. Its tuned rate is the one of the ladder with the highest mean validation
score over seeds. All runs are as short as a search's are, and read no test rows.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopsided.advise.first_rate import WAYS, first_rate
from lopsided.errors import LopsidedError
from lopsided.lab.short_runs import SHORT, few_rows
from lopsided.method import method_named
from lopsided.runs import Inputs, TrainConfig, load_inputs, train
from lopsided.runs.inputs import with_data
from lopsided.runs.nonfinite import NonFinite

METHODS_COMPARED = ("full", "head", "lora", "lora_plus", "asym_b", "rac_b", "cla", "c3la")
# Half decades.
LADDER = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
# By name, the fields of a task's configuration. Of RTE, runs as short as these learn nothing at any rate.
BUILT_IN: Mapping[str, str] = {"movie": "vader/movie"}
# What folders of LOPSIDED_DATA need beyond their names.
FOLDERS: Mapping[str, Mapping[str, Any]] = {"trec": {"label": "coarse_label"}}


@dataclass(frozen=True, kw_only=True)
class TrialSetting:
    """Sizes of the trials.

    Args:
        methods, tasks, rates: what is tried; a task is a key of `BUILT_IN` or of `FOLDERS`.
        folder: where `FOLDERS` lie; None where none is needed.
        validation: rows that scores come from, at most.
    """

    methods: tuple[str, ...] = METHODS_COMPARED
    tasks: tuple[str, ...] = (*BUILT_IN, *FOLDERS)
    rates: tuple[float, ...] = LADDER
    seeds: int = 1
    steps: int = 80
    batch: int = 32
    max_length: int = 64
    validation: int = 500
    folder: Path | None = None

    def config(self, task: str, method: str, seed: int, out: Path, rate: float | None = None) -> TrainConfig:
        """Return the configuration of a trial; None takes the method's default rate."""
        if task in BUILT_IN:
            fields: dict[str, Any] = {"task": BUILT_IN[task]}
        else:
            if self.folder is None:
                raise LopsidedError(f"task {task!r}: expected a folder of data that holds it, got none; name one")
            fields = {"task": str(self.folder / task), **FOLDERS[task]}
        shared = {**SHORT, **fields, "batch_size": self.batch, "max_length": self.max_length, "steps": self.steps}
        return TrainConfig(**shared, method=method, seed=seed, lr=rate, out=out)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One short run. `score` is that on validation in points, None where the run's loss was not finite."""

    task: str
    method: str
    seed: int
    rate: float
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One guess of a rate. `evidence` is what it came from, as plain data."""

    task: str
    method: str
    seed: int
    how: str
    rate: float
    evidence: Mapping[str, Any]


Line = Trial | Guess


@dataclass(frozen=True, kw_only=True)
class Lines:
    """All that has been measured so far."""

    trials: tuple[Trial, ...] = ()
    guesses: tuple[Guess, ...] = ()

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Lines:
        """Sort lines by what they are."""
        known = tuple(lines)
        return cls(
            trials=tuple(line for line in known if isinstance(line, Trial)),
            guesses=tuple(line for line in known if isinstance(line, Guess)),
        )


def rows_of_place(setting: TrialSetting, task: str, method: str, seed: int, folder: Path) -> Inputs:
    """Load the rows of a place, with few of validation, and a new model."""
    inputs = load_inputs(setting.config(task, method, seed, folder / "unused"))
    return dataclasses.replace(inputs, data=few_rows(inputs.data, {"validation": setting.validation}))


def measure_place(
    setting: TrialSetting, task: str, method: str, seed: int, folder: Path, known: Lines
) -> Iterator[Line]:
    """Guess the rate of a method on a task from one seed, and try the ladder, the guesses and the default.

    Args:
        folder: for run directories, which are deleted again.
        known: what need not be measured again.
    """
    inputs = rows_of_place(setting, task, method, seed, folder)
    guesses = {g.how: g for g in known.guesses if (g.task, g.method, g.seed) == (task, method, seed)}
    config = setting.config(task, method, seed, folder / "unused")
    for how in WAYS:
        if how not in guesses:
            guess = first_rate(config, inputs, how=how)
            evidence = dataclasses.asdict(guess.evidence)
            guesses[how] = Guess(task=task, method=method, seed=seed, how=how, rate=guess.value, evidence=evidence)
            yield guesses[how]
    tried = {trial.rate for trial in known.trials if (trial.task, trial.method, trial.seed) == (task, method, seed)}
    rates = [*setting.rates, method_named(method).lr, *(guess.rate for guess in guesses.values())]
    for rate in dict.fromkeys(rates):
        if rate not in tried:
            score = _score(setting, task, method, seed, rate, folder, inputs)
            yield Trial(task=task, method=method, seed=seed, rate=rate, score=score)


def _score(
    setting: TrialSetting, task: str, method: str, seed: int, rate: float, folder: Path, inputs: Inputs
) -> float | None:
    out = folder / f"{task}-{method}-{seed}-{rate:g}"
    try:
        run = train(setting.config(task, method, seed, out, rate), prepared=with_data(inputs.data))
    # A rate at which the loss is not finite is an answer, too.
    except NonFinite:
        return None
    finally:
        shutil.rmtree(out, ignore_errors=True)
    score = run.metrics["validation"].score.value
    return None if score is None else 100 * score


def places(setting: TrialSetting) -> Sequence[tuple[str, str, int]]:
    """Return (task, method, seed) of all that a setting asks for; an early end has some seeds of every place."""
    return [(t, m, s) for s in range(setting.seeds) for t in setting.tasks for m in setting.methods]
