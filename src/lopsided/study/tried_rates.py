"""The learning rates that were tried before the runs of a study: what each came to, and what a table says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lopsided.study.cell import Cell
from lopsided.study.results import Result
from lopsided.study.study_file import Tuning

Ended = tuple[Cell, Result]


@dataclass(frozen=True, kw_only=True)
class TriedRate:
    """One trial.

    Args:
        score, loss: of the validation split; None where there is none.
        why: it has no figures; "" for a trial that finished.
    """

    rate: float
    score: float | None
    loss: float | None
    why: str = ""


def tried_rate(result: Result) -> TriedRate:
    """Return what a trial came to."""
    if not result.is_finished:
        return TriedRate(rate=float(result.data["settings"]["lr"]), score=None, loss=None, why=result.reason)
    figures = result.run.metrics["validation"]
    return TriedRate(rate=result.run.learning_rate, score=figures.score.value, loss=figures.loss.value)


@dataclass(frozen=True, kw_only=True)
class RateSearch:
    """The trials of one model and task.

    Args:
        tuning: how many there were of each method, and how far apart.
        tried: by method, from the lowest rate.
        chosen: the rate of each method's runs; without those of which no trial has figures.
    """

    tuning: Tuning
    tried: Mapping[str, Sequence[TriedRate]] = field(default_factory=dict)
    chosen: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what results.json holds under `tuning`."""
        return {
            **asdict(self.tuning),
            "scale": "log",
            "split": "validation",
            "methods": [
                {
                    "method": method,
                    "low": trials[0].rate,
                    "high": trials[-1].rate,
                    "chosen": self.chosen.get(method),
                    "tried": [asdict(trial) for trial in trials],
                }
                for method, trials in self.tried.items()
            ],
        }


def searches_of(tuning: Tuning, ended: Iterable[Ended]) -> dict[tuple[str, str], RateSearch]:
    """Return the trials of each model and task, by what became of a study's cells."""
    tried: dict[tuple[str, str], dict[str, list[TriedRate]]] = {}
    chosen: dict[tuple[str, str], dict[str, float]] = {}
    for cell, result in ended:
        if cell.role == "trial":
            tried.setdefault(cell.board, {}).setdefault(cell.entry, []).append(tried_rate(result))
        elif cell.config.lr is not None:
            chosen.setdefault(cell.board, {})[cell.entry] = cell.config.lr
    return {
        board: RateSearch(
            tuning=tuning,
            tried={name: sorted(trials, key=lambda trial: trial.rate) for name, trials in methods.items()},
            chosen={name: rate for name, rate in chosen.get(board, {}).items() if name in methods},
        )
        for board, methods in tried.items()
    }


def rates_note(trials: int | None, *, shared: float | None = None, tune: str = "--tune 5") -> str:
    """Return what a table of methods says of their learning rates, in one line.

    Args:
        trials: of each method's rate; None where none was tuned.
        shared: one rate that was given for all methods.
        tune: what would tune them.

    Example:
        >>> rates_note(5)
        "Learning rates: each method's is the best of 5 that were tried, by the validation split alone."
    """
    if trials is not None:
        return f"Learning rates: each method's is the best of {trials} that were tried, by the validation split alone."
    whose = "each method's own" if shared is None else f"{shared:g} for every method"
    return f"Learning rates: {whose}, not tuned; with tuned rates the order may be another one ({tune})."
