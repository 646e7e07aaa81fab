"""B alone at twice LoRA's rank, beside LoRA: the same count of trained numbers, spent on one factor.

Notation: over all layers, d_out and d_in have one sum D, so that LoRA of rank r trains 2·r·D numbers and B's of rank 2r
as many. A row's difference is 1 if only B-only answers it right, -1 if only LoRA does, 0 otherwise; in points, times
100.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.lab.intervals import ONE_RUN, over_seeds
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Plot, Request
from lopsided.lab.short_runs import (
    DRAWS,
    FULL_BATCH,
    RATE,
    SHORT,
    Run,
    bars,
    finish_all,
    load_rows,
    middle_95,
    workspace,
)
from lopsided.runs import Data, TrainConfig
from lopsided.stats import crossed_bootstrap_means

RANKS = {"lora": 8, "asym_b": 16}
RATES = (1e-3, RATE)
# Seed of the runs that choose a learning rate, and of no run that is reported.
SEARCH_SEED = 1000


def tasks() -> dict[str, dict[str, Any]]:
    """The tasks at hand: one that comes with the library, and TREC questions where there is a folder of them."""
    found: dict[str, dict[str, Any]] = {"movie": {"task": "vader/movie"}}
    folder = Path(os.environ["LOPSIDED_DATA"]) / "trec" if "LOPSIDED_DATA" in os.environ else None
    if folder is not None and folder.is_dir():
        found["trec"] = {"task": str(folder), "label": "coarse_label"}
    return found


def best_rates(losses: Mapping[tuple[str, float], float]) -> dict[str, float]:
    """Each method's learning rate with the lowest validation loss, from the losses by (method, rate)."""
    methods = dict.fromkeys(method for method, _ in losses)
    found = {}
    for name in methods:
        # A rate at which the loss is NaN is no candidate, and in a minimum it might be the one.
        known = [(loss, rate) for (method, rate), loss in losses.items() if method == name and math.isfinite(loss)]
        if not known:
            raise LopsidedError(f"{name}: expected a rate with a finite validation loss, got none; lower RATES")
        found[name] = min(known)[1]
    return found


def differences(runs: Mapping[str, Sequence[Run]]) -> np.ndarray:
    """B-only less LoRA, in points a row: (seeds, rows)"""
    right = {method: np.array([run.right("test") for run in made]) for method, made in runs.items()}
    return 100.0 * (right["asym_b"] - right["lora"])


def mean_over_tasks(found: Sequence[np.ndarray]) -> Measured:
    """The mean difference over tasks, each with equal weight and resampled on its own."""
    if min(len(values) for values in found) < 2:
        return Measured(value=float(np.mean([values.mean() for values in found])), why=ONE_RUN)
    draws = [crossed_bootstrap_means(values, DRAWS, seed=number) for number, values in enumerate(found)]
    return middle_95(float(np.mean([values.mean() for values in found])), np.mean(draws, axis=0))


def _config(folder: Path, name: str, fields: Mapping[str, Any], method: str, **more: Any) -> TrainConfig:
    out = folder / "-".join([name, method, *(f"{key}{more[key]:g}" for key in ("lr", "seed"))])
    shared = {**SHORT, **fields, **more, "method": method, "rank": RANKS[method]}
    # Validation chooses learning rates, and nothing after that.
    shared["eval_rows"] = 50 if more.get("test") else 500
    return TrainConfig(**shared, out=out)


def _search(
    folder: Path, name: str, fields: Mapping[str, Any], data: Data, steps: int, request: Request
) -> dict[str, float]:
    """The rates to use, by method: one for both, or in full the better of two on validation."""
    if request.size == "quick":
        return dict.fromkeys(RANKS, RATE)
    chosen = [(method, rate) for method in RANKS for rate in RATES]
    asked = [
        (_config(folder, name, fields, method, lr=rate, seed=SEARCH_SEED, steps=steps), data) for method, rate in chosen
    ]
    runs = finish_all(asked, lambda text: request.note(f"learning rates on {name}, {text}"))
    return best_rates({key: run.loss("validation") for key, run in zip(chosen, runs, strict=True)})


def run(request: Request) -> Outcome:
    seeds, steps = request.number_of_seeds(quick=2, full=3), request.pick(quick=40, full=60)
    at_hand, batch_size = tasks(), request.pick(quick=SHORT["batch_size"], full=FULL_BATCH)
    if request.size == "quick":
        at_hand = {"movie": at_hand["movie"]}
    at_hand = {name: {**fields, "batch_size": batch_size} for name, fields in at_hand.items()}
    rates, found, runs = {}, {}, {}
    with workspace() as folder:
        for name, fields in at_hand.items():
            first = _config(folder, name, fields, "lora", lr=RATES[0], seed=0, steps=steps)
            data = load_rows(first, **request.pick(quick={"test": 500}, full={}))
            rates[name] = _search(folder, name, fields, data, steps, request)
            asked = [
                (_config(folder, name, fields, method, lr=rates[name][method], seed=seed, steps=steps, test=True), data)
                for method in RANKS
                for seed in range(seeds)
            ]
            made = iter(finish_all(asked, request.note))
            runs[name] = {method: [next(made) for _ in range(seeds)] for method in RANKS}
            found[name] = differences(runs[name])
    each = {name: mean_over_tasks([values]) for name, values in found.items()}
    whole = mean_over_tasks(list(found.values()))
    return Outcome(
        measured=[whole],
        settings={
            "model": "embedded",
            "tasks": ["vader/movie", *(f"{name} (a local folder)" for name in at_hand if name != "movie")],
            "left out": "nothing" if "trec" in at_hand else "trec: in full, with LOPSIDED_DATA/trec at hand",
            "seeds": seeds,
            "steps": steps,
            "batch": batch_size,
            "ranks": RANKS,
            "targets": SHORT["target_modules"],
            "learning rates": rates,
            "intervals": "over seeds and rows",
        },
        details={
            "difference, points": each,
            "test accuracy": {name: _accuracies(of) for name, of in runs.items()},
            "trained numbers, with the head": {
                name: {method: made[0].trained for method, made in of.items()} for name, of in runs.items()
            },
        },
        plots=[
            Plot(
                name="difference",
                title="B-only at rank 16 less LoRA at rank 8, with the 95 % interval over seeds and rows",
                x="task",
                y="difference of test accuracy, points",
                lines=[bars("difference", each if len(each) == 1 else {**each, "mean": whole})],
            ),
        ],
    )


def _accuracies(runs: Mapping[str, Sequence[Run]]) -> dict[str, Measured]:
    return {method: over_seeds([100.0 * run.right("test").mean() for run in made]) for method, made in runs.items()}


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
)
