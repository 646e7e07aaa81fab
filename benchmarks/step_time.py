"""How long a training step takes: forward, backward and optimizer, every method against the limit and PEFT LoRA.

    python benchmarks/step_time.py [--only cla,c3la@2] [--rounds 30] [--quick]

All variants live in one process and are measured in shuffled turns. A turn is two steps, and the second one counts: in
training a step follows one of the same model, while here the first finds its weights evicted by the other models'
turns, which costs whatever reads them in small pieces most. Chained methods are measured at their first link
and in mid-chain, where two links are merged into the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from measuring import Benchmark, Interval, Progress, Setting, median_interval, ratio, turns, wall_ms
from targets import cell
from variants import FROZEN_A, LIMIT, LORA, TWIN, Trainee, adapters, chosen, groups, split, trainee
from writing import figure, markdown, model_words, provenance

MID_CHAIN = 2


def everything() -> list[str]:
    """All variants: the references, every adapter method, and every chain in its middle."""
    return [FROZEN_A, *adapters(), *(f"{name}@{MID_CHAIN}" for name in adapters(chained=True))]


def measure(setting: Setting, only: Sequence[str] | None) -> dict[str, Any]:
    variants = chosen(only, everything(), [LIMIT, TWIN, LORA])
    trainees: dict[str, Trainee] = {}
    progress = Progress("step_time: models", len(variants))
    for variant in variants:
        trainees[variant] = trainee(variant, setting)
        progress.advance(variant)
    work = {variant: partial(second_step, made) for variant, made in trainees.items()}
    milliseconds = turns(work, setting, "step_time: rounds")
    return {
        "groups": groups(variants),
        "noise": ratio(milliseconds, TWIN, LIMIT),
        "figures": figures(milliseconds),
        "milliseconds": milliseconds,
    }


def second_step(made: Trainee) -> float:
    """Milliseconds of the second of two steps."""
    made.step()
    return wall_ms(made.step)


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
    rows = []
    for variant, found in result["figures"].items():
        where = result["groups"].get(variant)
        row = [f"`{variant}`", where or "", figure(found["ms"], places=0)]
        row += [cell(found[name], "step_time", name, where) for name in ("to_limit", "to_peft_lora")]
        rows.append([*row, figure(found.get("to_first_link"))])
    header = ["variant", "group", "ms a step", "against the limit", "against PEFT LoRA", "against its first link"]
    runs = f"{model_words(result['setting'])}; {result['setting']['rounds']} rounds"
    noise = f"The twin's ratio to the limit, which should be 1, is {figure(result['noise'], places=3)}."
    return "\n\n".join([markdown(header, rows), noise, provenance(result, runs)])


BENCHMARK = Benchmark(name="step_time", measure=measure, table=table, default=Setting())

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
