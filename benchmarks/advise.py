"""Does `lopsided advise` say what short real runs find? Rank correlations, whatever they are.

    python -m benchmarks.advise [--out docs/advise.json] [--model embedded] [--task vader/movie]

The head is trained first, and frozen. Then every second layer is adapted alone, training B and training A at equal
trained numbers, for a few steps of AdamW. The measured figure is how far the mean loss fell on training rows that
neither the run nor the estimate has read. It is compared with the estimate by Spearman's ρ; intervals are from a
bootstrap over the layers.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Progress
from benchmarks.writing import markdown
from lopsided import METHODS, LopsidedError, Method, adapt, calibrate, param_groups
from lopsided.advise import Advice, advise, fit_head
from lopsided.advise.by_name import Batch, advice_inputs, task_batches
from lopsided.files.atomic import write_json
from lopsided.runs import TrainConfig
from lopsided.runs.measure import machine, versions
from lopsided.stats import rank_correlation, rank_correlation_interval

RESULT = Path(__file__).parents[1] / "docs" / "advise.json"
SIDES = ("asym_b", "asym_a")
RATE = 3e-3
# The first one is the command's own.
DAMPINGS = (0.1, 0.01, 1.0)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Sizes of the runs; `batches` and `head_steps` are the command's own, and every `stride`-th layer is run alone."""

    model: str = "embedded"
    task: str = "vader/movie"
    r: int = 16
    batches: int = 4
    batch_size: int = 32
    head_steps: int = 60
    layer_steps: int = 5
    eval_batches: int = 4
    stride: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Bench:
    """A model with its head trained, batches to train on, and batches to measure the loss on.

    Args:
        before: the loss on the latter before any run.
    """

    model: Any
    training: list[Batch]
    held_out: list[Batch]
    before: float

    def reduction(self, method: Method, ranks: dict[str, int], *, lr: float, steps: int) -> float:
        """Return how far the loss falls in a run on these layers, at these ranks."""
        model = adapt(
            copy.deepcopy(self.model),
            method,
            r=1,
            alpha=2,
            target_modules=list(ranks),
            rank_pattern=ranks,
            alpha_pattern={name: 2 * rank for name, rank in ranks.items()},
        )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lopsided_" in name)
        model.eval()
        calibrate(model, self.training)
        optimizer = torch.optim.AdamW(param_groups(model, lr=lr))
        for batch in self.training[:steps]:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        return self.before - mean_loss(model, self.held_out)


def mean_loss(model: Any, batches: Sequence[Batch]) -> float:
    """Return the mean loss over batches."""
    model.eval()
    with torch.no_grad():
        return float(np.mean([float(model(**batch).loss) for batch in batches]))


def agreement(estimated: Sequence[float], measured: Sequence[float], *, draws: int = 2000) -> dict[str, Any]:
    """Return Spearman's ρ, with a 95 % percentile bootstrap over the points.

    Example:
        >>> agreement([1, 2, 3, 4], [1, 4, 9, 16])["rho"]
        1.0
    """
    x, y = np.asarray(estimated, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    low, high = rank_correlation_interval(x, y, draws=draws) or (None, None)
    return {"rho": float(rank_correlation(x, y)), "low": low, "high": high, "points": len(x)}


def measure(setting: Setting) -> dict[str, Any]:
    """Return what advise.json holds: the estimates, the runs, and their rank correlations."""
    started = time.perf_counter()
    config = TrainConfig(
        model=setting.model,
        task=setting.task,
        rank=setting.r,
        batch_size=setting.batch_size,
        seed=setting.seed,
        out=Path("unused"),
    )
    inputs = advice_inputs(config)
    model = inputs.model
    for_estimate, others = task_batches(inputs.rows, setting.batch_size, setting.batches, seed=setting.seed)
    held_out, training = others[: setting.eval_batches], others[setting.eval_batches :]
    if len(training) < setting.layer_steps:
        raise LopsidedError(
            f"expected {setting.layer_steps} batches to train on, got {len(training)}; lower --layer-steps"
        )
    # From the end, so that the head has not learned the rows that the runs begin with.
    fit_head(model, training[::-1], setting.head_steps)
    methods = [METHODS[name] for name in SIDES]
    advices = {d: advise(model, for_estimate, methods=methods, r=setting.r, damping=d) for d in DAMPINGS}
    bench = Bench(model, training, held_out, mean_loss(model, held_out))
    by_layer = _layers(bench, advices[DAMPINGS[0]], setting)
    return {
        "machine": machine(),
        "versions": versions(),
        "setting": setting.__dict__,
        "loss_before": bench.before,
        "layers": by_layer,
        "correlations": [_correlations(advices[d], by_layer) for d in DAMPINGS],
        "seconds": time.perf_counter() - started,
    }


def _layers(bench: Bench, advice: Advice, setting: Setting) -> list[dict[str, Any]]:
    """The measured reduction of training one layer alone, on either side."""
    modules = list(dict.fromkeys(row.module for row in advice.rows))[:: setting.stride]
    rows = [row for row in advice.rows if row.method in SIDES and row.module in modules]
    progress, reductions = Progress("layers", len(rows)), []
    for row in rows:
        measured = bench.reduction(METHODS[row.method], {row.module: row.rank}, lr=RATE, steps=setting.layer_steps)
        reductions.append({"module": row.module, "method": row.method, "measured": measured})
        progress.advance(row.module)
    return reductions


# Estimates and measured figures of the same things, in one order.
Pairing = tuple[list[float], list[float]]
B_LESS_A = "B less A, over layers"


def _correlations(advice: Advice, by_layer: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the expected and the fitted reduction at one damping."""
    kinds: dict[str, Callable[[Any], float]] = {"expected": lambda e: e.reduction, "fitted": lambda e: e.fitted}
    correlations: dict[str, Any] = {"damping": advice.damping}
    for kind, read in kinds.items():
        pairings = _of_layers(advice, by_layer, read)
        estimated, measured = pairings[B_LESS_A]
        agreed = np.sign(estimated) == np.sign(measured)
        correlations[kind] = {
            **{name: agreement(x, y) for name, (x, y) in pairings.items()},
            "right side": {"layers": int(agreed.sum()), "of": len(estimated)},
        }
    return correlations


def _of_layers(advice: Advice, by_layer: Sequence[dict[str, Any]], read: Callable[[Any], float]) -> dict[str, Pairing]:
    rows = {(row.module, row.method): row for row in advice.rows}
    measured = {(point["module"], point["method"]): point["measured"] for point in by_layer}
    modules = list(dict.fromkeys(point["module"] for point in by_layer))
    pairings: dict[str, Pairing] = {
        f"layers, {side}": ([read(rows[m, side]) for m in modules], [measured[m, side] for m in modules])
        for side in SIDES
    }
    # Which of the two sides to train, layer by layer: the question that the command answers.
    pairings[B_LESS_A] = (
        [read(rows[m, "asym_b"]) - read(rows[m, "asym_a"]) for m in modules],
        [measured[m, "asym_b"] - measured[m, "asym_a"] for m in modules],
    )
    return pairings


def tables(result: dict[str, Any]) -> str:
    """Return the section about the estimate, as markdown."""
    first = result["correlations"][0]
    rows = []
    for c in result["correlations"]:
        for kind in ("expected", "fitted"):
            cells = [
                f"{v['rho']:.2f} [{v['low']:.2f}, {v['high']:.2f}]"
                for name, v in c[kind].items()
                if name != "right side"
            ]
            side = c[kind]["right side"]
            rows.append([f"{kind}, damping {c['damping']:g}", *cells, f"{side['layers']} of {side['of']}"])
    header = ["estimate", *(name for name in first["expected"])]
    return "\n\n".join(
        [
            f"Loss before the runs: {result['loss_before']:.4f} nats; {result['seconds']:.0f} s in all.",
            "Spearman's ρ with 95 % bootstrap intervals:",
            markdown(header, rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write advise.json, and print its tables."""
    parser = argparse.ArgumentParser(description="Writes advise.json and prints its tables.")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file")
    for name, default in Setting().__dict__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    out = options.pop("out")
    try:
        result = measure(Setting(**options))
    except LopsidedError as error:
        print(f"advise: {error}", file=sys.stderr)
        return 2
    write_json(out, result)
    print(tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
