"""Each method's learning rate, by the same trials for every method and on validation alone.

Optuna's ask and tell are used (extra `tune`). Rates lie on a grid that is even in the logarithm, around the method's
own default rate, in an order that does not depend on the trials' results: the trials are the same in one process, on
many machines, and in a study that was killed and resumed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.finite import is_finite
from lopsided.study.cell import Cell
from lopsided.study.results import Result
from lopsided.study.study_file import Tuning


def check_tuner() -> None:
    """Raise unless Optuna is installed.

    Raises:
        LopsidedError: if it is not.
    """
    if importlib.util.find_spec("optuna") is None:
        raise LopsidedError("tuning needs Optuna, which is not installed; pip install 'lopsided[tune]'")


def rates_of(center: float, tuning: Tuning) -> list[float]:
    """Return the rates that are tried, from the lowest, rounded to three digits.

    Example:
        >>> rates_of(1e-3, Tuning(trials=5, spread=10.0))
        [0.0001, 0.000316, 0.001, 0.00316, 0.01]
    """
    exponents = [2.0 * k / (tuning.trials - 1) - 1.0 for k in range(tuning.trials)]
    return [float(f"{center * tuning.spread**exponent:.3g}") for exponent in exponents]


@dataclass(kw_only=True)
class Tuner:
    """The search for one method's rate on one model and task.

    Args:
        cells: the runs that wait for it, one per seed; the first one's settings are those of the trials.
        tuning: how many trials.
    """

    cells: Sequence[Cell]
    tuning: Tuning
    _study: Any = field(init=False)
    _trials: dict[str, Any] = field(init=False, default_factory=dict)
    _ended: dict[float, tuple[float, float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="minimize")
        # Not Optuna's GridSampler, which cannot be told the last point of its grid outside of `optimize`.
        for rate in self._rates:
            self._study.enqueue_trial({"lr": rate})

    @property
    def _rates(self) -> list[float]:
        return rates_of(self.cells[0].config.learning_rate, self.tuning)

    def trials(self) -> Iterator[Cell]:
        """Yield the trials' cells."""
        first = self.cells[0]
        for _ in range(self.tuning.trials):
            trial = self._study.ask()
            rate = trial.suggest_float("lr", min(self._rates), max(self._rates), log=True)
            config = dataclasses.replace(first.config, lr=rate, test=False, trajectory=False)
            if self.tuning.steps is not None:
                config = dataclasses.replace(config, steps=self.tuning.steps, epochs=None)
            sources = {**first.sources, "lr": "default"}
            cell = dataclasses.replace(first, config=config, role="trial", sources=sources, diagnose=None)
            self._trials[cell.key] = trial
            yield cell

    def tell(self, result: Result) -> bool:
        """Tell what became of a trial; returns whether it was the last one.

        One that failed, or whose validation score or loss is not finite, is told as failed.
        """
        import optuna

        trial = self._trials.pop(result.key)
        value = _standing(result)
        if value is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, value[0])
            self._ended[trial.params["lr"]] = value
        return not self._trials

    def tuned(self) -> list[Cell]:
        """Return the runs with the best rate; none if no trial has a figure."""
        if not self._ended:
            return []
        # Scores of few rows tie; the loss then decides.
        rate = min(self._ended, key=lambda each: self._ended[each])
        return [
            dataclasses.replace(
                cell, config=dataclasses.replace(cell.config, lr=rate), sources={**cell.sources, "lr": "default"}
            )
            for cell in self.cells
        ]


def _standing(result: Result) -> tuple[float, float] | None:
    """Return a trial's validation score, with the sign that makes lower better, and loss; None without either."""
    if not result.is_finished:
        return None
    figures, sign = result.run.metrics["validation"], -1.0 if result.run.task.greater_is_better else 1.0
    score, loss = figures.score.value, figures.loss.value
    if score is None or loss is None or not (is_finite(score) and is_finite(loss)):
        return None
    return sign * score, loss


def by_family(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Group the cells that differ in nothing but seed and learning rate."""
    families: dict[str, list[Cell]] = {}
    for cell in cells:
        families.setdefault(cell.family, []).append(cell)
    return families
