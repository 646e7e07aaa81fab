"""How long a training step takes: forward, backward and optimizer, every method against the limit and PEFT LoRA.

    python -m benchmarks.step_time [--only cla,c3la@2] [--rounds 30] [--quick]

The variants of one group live in one process, with the limit, its twin and PEFT's LoRA, and are measured in shuffled
turns. Chained methods are measured at their first link and in mid-chain, where two links are merged into the weights.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import torch

from benchmarks.measuring import Benchmark, Interval, Progress, Setting, median_interval, ratio, turns
from benchmarks.targets import cell
from benchmarks.variants import (
    FROZEN_A,
    GROUPS,
    LIMIT,
    LORA,
    TWIN,
    Trainee,
    adapters,
    chosen,
    group,
    groups,
    split,
    trainee,
)
from benchmarks.writing import figure, markdown, model_words, provenance
from lopsided.study.turns import wall_ms

MID_CHAIN = 2


def everything() -> list[str]:
    """All variants: the references, every adapter method, and every chain in its middle."""
    return [FROZEN_A, *adapters(), *(f"{name}@{MID_CHAIN}" for name in adapters(chained=True))]


def measure(setting: Setting, only: Sequence[str] | None) -> dict[str, Any]:
    """Return the times of each process, and their ratios."""
    variants = chosen(only, everything(), [LIMIT, TWIN, LORA])
    references = [variant for variant in variants if group(variant) is None]
    batches = [[*references, *(v for v in variants if group(v) == name)] for name in GROUPS]
    batches = [batch for batch in batches if len(batch) > len(references)] or [references]
    # Few models in memory at once, as in training.
    run = step_times if len(batches) == 1 else in_fresh_process
    processes = [run(batch, setting) for batch in batches]
    found: dict[str, dict[str, Interval]] = {}
    for milliseconds in processes:
        found = {**figures(milliseconds), **found}
    noises = [ratio(milliseconds, TWIN, LIMIT) for milliseconds in processes]
    return {
        "groups": groups(variants),
        "noise": max(noises, key=lambda noise: abs(noise["median"] - 1)),
        "figures": {variant: found[variant] for variant in variants},
        "processes": processes,
    }


def in_fresh_process(variants: Sequence[str], setting: Setting) -> dict[str, list[float]]:
    """Measure variants in a process of their own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(step_times, variants, setting).result()


def step_times(variants: Sequence[str], setting: Setting) -> dict[str, list[float]]:
    """Milliseconds of each variant's rounds."""
    torch.set_num_threads(setting.threads)
    trainees: dict[str, Trainee] = {}
    progress = Progress("step_time: models", len(variants))
    for variant in variants:
        trainees[variant] = trainee(variant, setting)
        progress.advance(variant)
    work = {variant: partial(wall_ms, made.step) for variant, made in trainees.items()}
    return turns(work, setting, "step_time: rounds")


def figures(milliseconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Interval]]:
    """What each variant's rounds say: its time, and its ratios to the limit, PEFT LoRA and its own first link."""
    found = {}
    for variant, taken in milliseconds.items():
        found[variant] = {
            "ms": median_interval(taken),
            "to_limit": ratio(milliseconds, variant, LIMIT),
            "to_peft_lora": ratio(milliseconds, variant, LORA),
        }
        name, link = split(variant)
        if link and name in milliseconds:
            found[variant]["to_first_link"] = ratio(milliseconds, variant, name)
    return found


def table(result: Mapping[str, Any]) -> str:
    """Return the table of step times, as markdown."""
    rows = []
    for variant, found in result["figures"].items():
        where = result["groups"].get(variant)
        row = [f"`{variant}`", where or "", figure(found["ms"], places=0)]
        row += [cell(found[name], "step_time", name, where) for name in ("to_limit", "to_peft_lora")]
        rows.append([*row, figure(found.get("to_first_link"))])
    header = ["variant", "group", "ms a step", "against the limit", "against PEFT LoRA", "against its first link"]
    runs = f"{model_words(result['setting'])}; {result['setting']['rounds']} rounds"
    noise = (
        f"The twin's ratio to the limit, which should be 1, is {figure(result['noise'], places=3)} in the process in "
        "which it is farthest from 1. The references' rows are from the first process."
    )
    return "\n\n".join([markdown(header, rows), noise, provenance(result, runs)])


BENCHMARK = Benchmark(name="step_time", measure=measure, table=table, default=Setting())

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
