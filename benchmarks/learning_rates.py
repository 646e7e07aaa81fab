"""Which learning rate does each method want? A search on the embedded model, judged on validation alone.

Every method runs with the settings of `lopsided compare`; the rate with the lowest
validation loss, averaged over seeds, is what `methods.py` should hold as its default. Test rows are never read.

    python -m benchmarks.learning_rates --out learning-rates [--methods lora,cla] [--seeds 0,1]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lopsided import METHODS, LopsidedError
from lopsided.files.strict_json import dumps
from lopsided.method import method_named
from lopsided.runs import Data, TrainConfig, load_data, train, with_data

# Half decades. From the method's present rate the search walks down the validation loss until both neighbours of
# the best rate have been tried.
LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def search(loss_at: Callable[[float], float], start: float) -> dict[float, float]:
    """Return the validation loss of each rate that was tried; a NaN loss counts as worse than all others."""
    position = min(range(len(LADDER)), key=lambda i: abs(np.log(LADDER[i] / start)))
    losses: dict[float, float] = {}
    while True:
        window = range(max(0, position - 1), min(len(LADDER), position + 2))
        for i in window:
            if LADDER[i] not in losses:
                loss = loss_at(LADDER[i])
                losses[LADDER[i]] = loss if math.isfinite(loss) else math.inf
        best = min(window, key=lambda i: losses[LADDER[i]])
        if best == position:
            return losses
        position = best


def main() -> None:
    """Search every method's learning rate, and write the losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    shared = TrainConfig(out=options.out, steps=60, eval_rows=400, train_rows=32, test=False)
    data = load_data(shared)
    for name in options.methods.split(","):

        def loss_at(rate: float, name: str = name) -> float:
            runs = [one_run(shared, data, name, rate, seed) for seed in seeds]
            print(dumps({"method": name, "lr": rate, "runs": runs}, indent=None), flush=True)
            return float(np.mean([math.inf if run["loss"] is None else run["loss"] for run in runs]))

        losses = search(loss_at, method_named(name).lr)
        print(dumps({"method": name, "chosen": min(losses, key=lambda rate: losses[rate])}, indent=None), flush=True)


def one_run(shared: TrainConfig, data: Data, name: str, rate: float, seed: int) -> dict[str, Any]:
    """Return the validation figures of one run."""
    out = shared.out / f"{name}-{rate:g}-{seed}"
    config = dataclasses.replace(shared, method=name, lr=rate, seed=seed, out=out)
    try:
        return train(config, resume=out.exists(), prepared=with_data(data)).metrics["validation"].to_json()
    except LopsidedError as error:  # a rate so high that the loss is not finite is an answer, too
        return {"loss": float("inf"), "score": float("nan"), "error": str(error)}


if __name__ == "__main__":
    main()
