"""B alone at twice LoRA's rank, next to LoRA: the same count of trained numbers, spent on one factor.

Notation: over all layers, d_out and d_in have one sum D, so that LoRA of rank r trains 2·r·D numbers and B's of rank 2r
as many. A row's difference is 1 if only B-only answers it right, -1 if only LoRA does, 0 otherwise; in points, times
100.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.lab.intervals import ONE_RUN, over_seeds
from lopsided.lab.mean_lines import bars
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.lab.short_runs import (
    DRAWS,
    FULL_BATCH,
    RATE,
    SHORT,
    ShortRun,
    finish_all,
    load_rows,
    middle_95,
    workspace,
)
from lopsided.plotting.svg import Drawing
from lopsided.runs import Data, TrainConfig
from lopsided.stats import crossed_bootstrap_means

RANKS = {"lora": 8, "asym_b": 16}
RATES = (1e-3, RATE)
# Seed of the runs that choose a learning rate, and of no run that is reported.
SEARCH_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One task of the comparison.

    Args:
        fields: what its runs' configurations share beyond `SHORT`.
    """

    name: str
    fields: Mapping[str, Any]


def tasks() -> list[Domain]:
    """Return the tasks at hand: one that comes with the library, and TREC questions where there is a folder of them."""
    listed = [Domain(name="movie", fields={"task": "vader/movie"})]
    folder = Path(os.environ["LOPSIDED_DATA"]) / "trec" if "LOPSIDED_DATA" in os.environ else None
    if folder is not None and folder.is_dir():
        listed.append(Domain(name="trec", fields={"task": str(folder), "label": "coarse_label"}))
    return listed


def best_rates(losses: Mapping[tuple[str, float], float]) -> dict[str, float]:
    """Return each method's learning rate with the lowest validation loss, from the losses by (method, rate)."""
    best = {}
    for name in dict.fromkeys(method for method, _ in losses):
        # A rate at which the loss is NaN is no candidate, and in a minimum it might be the one.
        known = [(loss, rate) for (method, rate), loss in losses.items() if method == name and math.isfinite(loss)]
        if not known:
            raise LopsidedError(f"{name}: expected a rate with a finite validation loss, got none; lower RATES")
        best[name] = min(known)[1]
    return best


def mean_over_tasks(differences: Sequence[np.ndarray]) -> Measured:
    """Return the mean difference over tasks, each with equal weight and resampled on its own.

    Shapes:
        differences: (seeds, rows) per task
    """
    value = float(np.mean([values.mean() for values in differences]))
    if min(len(values) for values in differences) < 2:
        return Measured(value=value, why=ONE_RUN)
    draws = [crossed_bootstrap_means(values, DRAWS, seed=number) for number, values in enumerate(differences)]
    return middle_95(value, np.mean(draws, axis=0))


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """The runs of both methods on one task.

    Args:
        rates: the learning rates, by method.
        runs: one per seed, by method.
    """

    rates: Mapping[str, float]
    runs: Mapping[str, Sequence[ShortRun]]

    @property
    def differences(self) -> np.ndarray:
        """B-only minus LoRA, in points per row: (seeds, rows)"""
        right = {method: np.array([run.right("test") for run in runs]) for method, runs in self.runs.items()}
        return 100.0 * (right["asym_b"] - right["lora"])

    @property
    def accuracies(self) -> dict[str, Measured]:
        """Test accuracy in per cent, by method."""
        return {
            method: over_seeds([100.0 * run.right("test").mean() for run in runs]) for method, runs in self.runs.items()
        }

    @property
    def trained(self) -> dict[str, int]:
        """Trained numbers with the head, by method."""
        return {method: runs[0].trained for method, runs in self.runs.items()}


def _config(folder: Path, domain: Domain, method: str, *, lr: float, seed: int, steps: int, test: bool) -> TrainConfig:
    shared = {**SHORT, **domain.fields, "lr": lr, "seed": seed, "steps": steps, "test": test}
    # Validation chooses learning rates, and nothing after that.
    shared |= {"method": method, "rank": RANKS[method], "eval_rows": 50 if test else 500}
    return TrainConfig(**shared, out=folder / f"{domain.name}-{method}-lr{lr:g}-seed{seed:g}")


def _search(folder: Path, domain: Domain, data: Data, steps: int, request: Request) -> dict[str, float]:
    """The rates to use, by method: one for both, or in full the better of two on validation."""
    if request.size == "quick":
        return dict.fromkeys(RANKS, RATE)
    pairs = [(method, rate) for method in RANKS for rate in RATES]
    plans = [
        (_config(folder, domain, method, lr=rate, seed=SEARCH_SEED, steps=steps, test=False), data)
        for method, rate in pairs
    ]
    runs = finish_all(plans, lambda text: request.note(f"learning rates on {domain.name}, {text}"))
    return best_rates({pair: run.loss("validation") for pair, run in zip(pairs, runs, strict=True)})


def compare_on(folder: Path, domain: Domain, *, seeds: int, steps: int, request: Request) -> TaskComparison:
    """Train both methods on one task, at the rates that a search chooses."""
    first = _config(folder, domain, "lora", lr=RATES[0], seed=0, steps=steps, test=False)
    data = load_rows(first, **request.pick(quick={"test": 500}, full={}))
    rates = _search(folder, domain, data, steps, request)
    plans = [
        (_config(folder, domain, method, lr=rates[method], seed=seed, steps=steps, test=True), data)
        for method in RANKS
        for seed in range(seeds)
    ]
    runs = iter(finish_all(plans, request.note))
    return TaskComparison(rates=rates, runs={method: [next(runs) for _ in range(seeds)] for method in RANKS})


def run(request: Request) -> Outcome:
    """Train both methods on every task at hand, and pair their answers row by row."""
    seeds, steps = request.number_of_seeds(quick=2, full=3), request.pick(quick=40, full=60)
    batch_size = request.pick(quick=int(SHORT["batch_size"]), full=FULL_BATCH)
    at_hand = tasks()[:1] if request.size == "quick" else tasks()
    domains = [Domain(name=each.name, fields={**each.fields, "batch_size": batch_size}) for each in at_hand]
    with workspace() as folder:
        compared = {
            domain.name: compare_on(folder, domain, seeds=seeds, steps=steps, request=request) for domain in domains
        }
    by_task = {name: mean_over_tasks([comparison.differences]) for name, comparison in compared.items()}
    whole = mean_over_tasks([comparison.differences for comparison in compared.values()])
    return Outcome(
        measured=[whole],
        settings={
            "model": "embedded",
            "tasks": ["vader/movie", *(f"{name} (a local folder)" for name in compared if name != "movie")],
            "left out": "nothing" if "trec" in compared else "trec: in full, with LOPSIDED_DATA/trec at hand",
            "seeds": seeds,
            "steps": steps,
            "batch": batch_size,
            "ranks": RANKS,
            "targets": SHORT["target_modules"],
            "learning rates": {name: comparison.rates for name, comparison in compared.items()},
            "intervals": "over seeds and rows",
        },
        details={
            "difference, points": by_task,
            "test accuracy": {name: comparison.accuracies for name, comparison in compared.items()},
            "trained numbers, with the head": {name: comparison.trained for name, comparison in compared.items()},
        },
        plots=[_difference_drawing(by_task if len(by_task) == 1 else {**by_task, "mean": whole})],
    )


def _difference_drawing(figures: Mapping[str, Measured]) -> Drawing:
    return Drawing(
        name="difference",
        title="B-only at rank 16 less LoRA at rank 8, with the 95 % interval over seeds and rows",
        x="task",
        y="difference of test accuracy, points",
        lines=[bars("difference", figures)],
    )


EXPERIMENT = Experiment(
    name="double-rank",
    claim=(
        "At equal trained numbers, B alone at twice the rank is at least as good as LoRA (GLUE average with "
        "RoBERTa-large: 87.5 against 87.2)."
    ),
    meaning=(
        "If you have a budget of trained numbers, freeze A and double the rank. The forward pass grows with the rank, "
        "while the optimizer's state stays as it was."
    ),
    source="Zhu et al. 2024, arXiv:2402.16842, the GLUE table",
    expected=(
        # The paper's averages over GLUE: 87.5 against 87.2.
        Expected(what="B-only less LoRA, points of test accuracy, mean over tasks", low=0.0, paper=0.3),
    ),
    run=run,
    place=110,
)
