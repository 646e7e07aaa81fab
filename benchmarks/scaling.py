"""How costs grow: with rank, width, links and adapters; and what an advance and `disable_adapter` cost on a chain.

    python -m benchmarks.scaling [--only rank,links] [--quick]

`--only` chooses among the parts. The sweeps run on one encoder layer, where a step is short and the adapters' share of
it the same; an advance and `disable_adapter` are measured on the whole encoder, in steps of the same model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import peft
import torch

from benchmarks.measuring import Benchmark, Interval, Progress, Setting, exact, median_interval, ratio, turns
from benchmarks.variants import (
    LIMIT,
    LORA,
    TWIN,
    Trainee,
    adapters,
    groups,
    learn_something,
    representatives,
    split,
    trainee,
)
from benchmarks.writing import figure, markdown, model_words, provenance
from lopsided import LopsidedConfig, LopsidedError
from lopsided.study.turns import wall_ms

RANKS = (4, 8, 16, 32, 64, 128, 256)
WIDTHS = (256, 512, 1024, 2048)
LINKS = (1, 2, 4, 8, 16, 32, 64)
COUNTS = (1, 2, 4, 8, 16, 32)
Part = dict[str, Any]


def measure(setting: Setting, only: Sequence[str] | None) -> dict[str, Any]:
    """Return the parts, each with its figures."""
    for name in only or ():
        if name not in PARTS:
            raise LopsidedError(f"expected parts among {', '.join(PARTS)}, got {name!r}; correct --only")
    parts = {name: part(setting) for name, part in PARTS.items() if only is None or name in only}
    found: dict[str, dict[str, Interval]] = {}
    for part in parts.values():
        for variant, figures in part["figures"].items():
            found.setdefault(variant, {}).update(figures)
    noise = {"noise": parts["links"]["noise"]} if "links" in parts else {}
    return {"groups": groups(list(found)), "figures": found, "parts": parts, **noise}


def stepping(trainees: Mapping[str, Trainee]) -> dict[str, Callable[[], float]]:
    """Return functions that time one training step of each trainee."""
    return {key: partial(wall_ms, made.step) for key, made in trainees.items()}


def sweep(trainees: Mapping[str, Trainee], points: Sequence[str], setting: Setting, name: str) -> Part:
    """Steps of all in turns. Keys are "variant point"; each is set against the limit at its point, or against one
    limit for all points, whose key is its bare name.
    """
    milliseconds = turns(stepping(trainees), setting, f"scaling: {name}")
    to_limit = {}
    for key in trainees:
        point = key.partition(" ")[2]
        if point:
            at_point = f"{LIMIT} {point}"
            to_limit[key] = ratio(milliseconds, key, at_point if at_point in trainees else LIMIT)
    return {"points": list(points), "to_limit": to_limit, "milliseconds": milliseconds, "figures": {}}


# -- the sweeps ----------------------------------------------------------------------------------------------


def rank(setting: Setting) -> Part:
    """Step time against the limit by rank, up to the width."""
    ranks = [r for r in RANKS if r <= setting.hidden]
    small = replace(setting, layers=1)
    trainees = {LIMIT: trainee(LIMIT, small)}
    for r in ranks:
        for variant in (LORA, *representatives(chained=False)):
            trainees[f"{variant} {r}"] = trainee(variant, replace(small, r=r))
    return sweep(trainees, [str(r) for r in ranks], setting, "rank")


def width(setting: Setting) -> Part:
    """Step time against the limit by the encoder's width."""
    widths = WIDTHS if setting.hidden >= 768 else (setting.hidden, 2 * setting.hidden)
    trainees = {}
    for hidden in widths:
        wide = replace(setting, layers=1, hidden=hidden)
        for variant in (LIMIT, LORA, *representatives(chained=False)):
            trainees[f"{variant} {hidden}"] = trainee(variant, wide)
    return sweep(trainees, [str(hidden) for hidden in widths], setting, "width")


def links(setting: Setting) -> Part:
    """Step time against the limit by the number of links, merged into a float32 base."""
    found = chains(setting, torch.float32, "links, merged")
    milliseconds, last = found["milliseconds"], found["points"][-1]
    for variant in chained():
        found["figures"][variant] = {
            "longest_to_first": ratio(milliseconds, f"{variant} {last}", f"{variant} {found['points'][0]}")
        }
    found["noise"] = ratio(milliseconds, TWIN, LIMIT)
    return found


def stacked(setting: Setting) -> Part:
    """The same next to a bfloat16 base, where links stay stacked in float32."""
    return chains(setting, torch.bfloat16, "links, stacked")


def chained() -> list[str]:
    """A chain of windows, of columns, and of dense sketches on either side."""
    return [name for name in representatives(chained=True) if groups([name])[name] not in ("both", "coin")]


def chains(setting: Setting, dtype: torch.dtype, name: str) -> Part:
    """Measure steps with several links behind them."""
    lengths = LINKS if setting.hidden >= 768 else LINKS[:3]
    small = replace(setting, layers=1)
    trainees = {LIMIT: trainee(LIMIT, small, dtype=dtype), TWIN: trainee(TWIN, small, dtype=dtype)}
    progress = Progress(f"scaling: {name}, advancing", len(chained()) * len(lengths))
    last_advance = {}
    for variant in chained():
        for length in lengths:
            key = f"{variant} {length}"
            made = trainees[key] = trainee(f"{variant}@{max(0, length - 2)}", small, links=length, dtype=dtype)
            if length > 1:
                last_advance[key] = advancing(made)
            progress.advance(f"{variant}, {length} links")
    found = sweep(trainees, [str(length) for length in lengths], setting, name)
    found["last_advance_in_steps"] = {
        key: exact(ms / median_interval(found["milliseconds"][key])["median"]) for key, ms in last_advance.items()
    }
    return found


def count(setting: Setting) -> Part:
    """Step time against the limit by the number of adapters on the model, one of them active."""
    counts = COUNTS if setting.hidden >= 768 else COUNTS[:3]
    small = replace(setting, layers=1)
    trainees = {LIMIT: trainee(LIMIT, small)}
    for variant in (LORA, *representatives(chained=False)):
        for number in counts:
            made = trainee(variant, small)
            add_adapters(made.model, variant, number - 1)
            trainees[f"{variant} {number}"] = made
    return sweep(trainees, [str(number) for number in counts], setting, "adapters")


def add_adapters(model: torch.nn.Module, variant: str, number: int) -> None:
    """Add idle adapters of the same kind to the active one."""
    assert isinstance(model, peft.PeftModel)
    first = model.peft_config["default"]
    for i in range(number):
        shared = {"r": first.r, "target_modules": list(first.target_modules), "task_type": first.task_type}
        config = peft.LoraConfig(**shared) if variant == LORA else LopsidedConfig(method=split(variant)[0], **shared)
        model.add_adapter(f"idle{i}", config)


# -- moments of a chain --------------------------------------------------------------------------------------


def disable(setting: Setting) -> Part:
    """What entering and leaving `disable_adapter` costs on a chain with three merged links, and on LoRA."""
    variants = [LORA, *(f"{name}@3" for name in chained())]
    work: dict[str, Callable[[], float]] = {}
    for variant in variants:
        made = trainee(variant, setting)
        learn_something(made.model)
        work[f"{variant} step"] = partial(wall_ms, made.step)
        work[f"{variant} disable"] = partial(wall_ms, partial(in_and_out, made.model))
    return moments(variants, "disable", turns(work, setting, "scaling: disable_adapter"))


def in_and_out(model: torch.nn.Module) -> None:
    """Enter and leave `disable_adapter` once."""
    assert isinstance(model, peft.PeftModel)
    with model.disable_adapter():
        pass


def advance(setting: Setting) -> Part:
    """What `advance_chain` costs, by link: one advance after each measured step."""
    variants = adapters(chained=True)
    work: dict[str, Callable[[], float]] = {}
    for variant in variants:
        made = trainee(variant, setting, links=setting.warmup + setting.rounds + 1)
        work[f"{variant} step"] = partial(wall_ms, made.step)
        work[f"{variant} advance"] = partial(advancing, made)
    found = moments(variants, "advance", turns(work, setting, "scaling: advance"))
    found["figures"] = {v: {"advance_in_steps": value} for v, value in found["in_steps"].items()}
    return found


def advancing(made: Trainee) -> float:
    """Return the milliseconds of one advance."""
    learn_something(made.model)
    return wall_ms(made.advance)


def moments(variants: Sequence[str], what: str, milliseconds: dict[str, list[float]]) -> Part:
    """Times of something that happens between steps, in milliseconds and in steps of the same model."""
    return {
        "ms": {v: median_interval(milliseconds[f"{v} {what}"]) for v in variants},
        "in_steps": {v: ratio(milliseconds, f"{v} {what}", f"{v} step") for v in variants},
        "milliseconds": milliseconds,
        "figures": {},
    }


PARTS: dict[str, Callable[[Setting], Part]] = {
    "rank": rank,
    "width": width,
    "links": links,
    "stacked": stacked,
    "adapters": count,
    "disable": disable,
    "advance": advance,
}
TITLES = {
    "rank": "Step time against the limit, by rank",
    "width": "Step time against the limit, by width",
    "links": "Step time against the limit, by links merged into a float32 base",
    "stacked": "Step time against the limit, by links stacked beside a bfloat16 base",
    "adapters": "Step time against the limit, by adapters on the model, one of them active",
    "disable": "Entering and leaving `disable_adapter`, on chains with three merged links",
    "advance": "An advance, the chain growing by one link a round",
}


def table(result: Mapping[str, Any]) -> str:
    """Return one table per part, with its title."""
    written = []
    for name, part in result["parts"].items():
        rows = by_point(part, "to_limit") if "points" in part else by_moment(part)
        written.append(f"{TITLES[name]}:\n\n{rows}")
        if "last_advance_in_steps" in part:
            rows = by_point(part, "last_advance_in_steps")
            written.append(f"The last advance of these chains, in training steps (measured once each):\n\n{rows}")
        if "noise" in part:
            written.append(f"The twin's ratio to the limit, which should be 1, is {figure(part['noise'], places=3)}.")
    runs = f"{model_words(result['setting'])} (sweeps: one layer); {result['setting']['rounds']} rounds"
    return "\n\n".join([*written, provenance(result, runs)])


def by_point(part: Part, figures: str) -> str:
    """Return a part as a table with one row per point of its sweep."""
    shown = dict.fromkeys(key.partition(" ")[0] for key in part[figures])
    variants = [variant for variant in shown if variant != LIMIT]
    rows = [
        [point, *(figure(part[figures].get(f"{variant} {point}")) for variant in variants)] for point in part["points"]
    ]
    return markdown(["", *(f"`{variant}`" for variant in variants)], rows)


def by_moment(part: Part) -> str:
    """Return a part as a table with one row per variant."""
    rows = [[f"`{v}`", figure(part["ms"][v], places=1), figure(part["in_steps"][v], places=3)] for v in part["ms"]]
    return markdown(["variant", "ms", "in training steps"], rows)


BENCHMARK = Benchmark(name="scaling", measure=measure, table=table, default=Setting(rounds=12, warmup=2))

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
