"""The memory of training: the bytes that autograd saves, the peak of a fresh process, and an advance's extra.

    python -m benchmarks.memory [--only cla,c3la] [--quick]

Every variant has a process of its own. There `rounds` training steps are taken, then the bytes kept for backward are
counted, without dropout and with RoBERTa's own of 0.1, and at last a chain is advanced twice.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measuring import Benchmark, Interval, Progress, Setting, exact
from benchmarks.targets import cell
from benchmarks.variants import (
    FROZEN_A,
    LIMIT,
    LORA,
    TWIN,
    adapters,
    chosen,
    groups,
    learn_something,
    split,
    trainee,
)
from benchmarks.writing import figure, markdown, mebibytes, model_words, provenance
from lopsided import METHODS
from lopsided.runs.measure import kept_bytes

ROBERTA_DROPOUT = 0.1
ADVANCES = ("first advance", "second advance")
Measured = dict[str, Any]


def measure(
    setting: Setting, only: Sequence[str] | None, run: Callable[[str, Setting], Measured] | None = None
) -> dict[str, Any]:
    """All variants, each by `run`: in a fresh process unless another way is given."""
    run = run or in_fresh_process
    variants = chosen(only, [FROZEN_A, *adapters()], [LIMIT, TWIN, LORA])
    progress, bytes_of = Progress("memory: processes", len(variants)), {}
    for variant in variants:
        bytes_of[variant] = run(variant, setting)
        progress.advance(variant)
    return {"groups": groups(variants), "figures": figures(bytes_of), "bytes": bytes_of}


def figures(bytes_of: Mapping[str, Measured]) -> dict[str, dict[str, Interval]]:
    """Ratios to PEFT LoRA's bytes, and the worse of two advances in weights of the largest layer."""
    lora, found = bytes_of[LORA], {}
    for variant, mine in bytes_of.items():
        found[variant] = {
            "kept_to_peft_lora": exact(mine["kept"] / lora["kept"]),
            "kept_with_dropout_to_peft_lora": exact(mine["kept_with_dropout"] / lora["kept_with_dropout"]),
            "peak_to_peft_lora": exact(mine["peak"] / lora["peak"]),
        }
        if mine["advances"]:
            extra = max(advance["peak"] for advance in mine["advances"])
            found[variant]["advance_in_weights"] = exact(extra / mine["largest_weight"])
    return found


def in_fresh_process(variant: str, setting: Setting) -> Measured:
    """Measure a variant in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(one, variant, setting).result()


def one(variant: str, setting: Setting) -> Measured:
    """Bytes of one variant; only in a fresh process is the peak its own."""
    torch.set_num_threads(setting.threads)
    after_imports = peak_resident()
    made = trainee(variant, setting)
    for _ in range(setting.rounds):
        made.step()
    peak = peak_resident()
    with_dropout = trainee(variant, replace(setting, dropout=ROBERTA_DROPOUT))
    return {
        "after_imports": after_imports,
        "peak": peak,
        "kept": kept_bytes(made.model, made.batch),
        "kept_with_dropout": kept_bytes(with_dropout.model, with_dropout.batch),
        "largest_weight": max(p.numel() * p.element_size() for n, p in made.model.named_parameters() if ".layer." in n),
        "advances": advance_bytes(variant, setting) if is_chained(variant) else [],
    }


def is_chained(variant: str) -> bool:
    """Return whether a variant's method has a chain."""
    name, _ = split(variant)
    return name in METHODS and METHODS[name].chain is not None


def peak_resident() -> int:
    """The most bytes of memory that the process has held so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage's figure survives exec, so that a child would begin with its parent's peak; this one does not.
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# -- an advance ----------------------------------------------------------------------------------------------


def advance_bytes(variant: str, setting: Setting) -> list[dict[str, int]]:
    """What each of two advances, with a training step between, allocates at its peak and still holds at its end.

    Torch's allocations come from its profiler and are exact. NumPy draws the sketches, so its own peak is added; the
    two need not fall together, which makes the sum an upper bound. What NumPy holds is known from before the model is
    built, so that the first sketch is counted as freed when an advance frees it.
    """
    tracemalloc.start()
    made, drawn = trainee(variant, setting), []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for name in ADVANCES:
            learn_something(made.model)
            made.step()
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            with record_function(name):
                made.advance()
            drawn.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        spans = [allocated_within(json.loads(path.read_text())["traceEvents"], name) for name in ADVANCES]
    return [{"peak": span["peak"] + extra, "stays": span["stays"]} for span, extra in zip(spans, drawn, strict=True)]


def allocated_within(events: Sequence[Mapping[str, Any]], name: str) -> dict[str, int]:
    """Bytes above those before the named span: at its peak, and at its end.

    Args:
        events: of a Chrome trace, whose "[memory]" events give torch's total after each allocation and release.
        name: of a span that occurs once.
    """
    [span] = [event for event in events if event.get("name") == name and event.get("cat") == "user_annotation"]
    start, end = span["ts"], span["ts"] + span["dur"]
    totals = sorted(
        (event["ts"], event["args"]["Total Allocated"])
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0
    )
    before = [total for ts, total in totals if ts < start][-1]
    within = [total for ts, total in totals if start <= ts <= end]
    return {"peak": max(within) - before, "stays": within[-1] - before}


# -- the tables ----------------------------------------------------------------------------------------------


def table(result: Mapping[str, Any]) -> str:
    """Return the tables of bytes, as markdown."""
    rows, advances = [], []
    for variant, mine in result["bytes"].items():
        found, where = result["figures"][variant], result["groups"].get(variant)
        rows.append(
            [
                f"`{variant}`",
                where or "",
                mebibytes(mine["kept"]),
                cell(found["kept_to_peft_lora"], "memory", "kept_to_peft_lora", where),
                figure(found["kept_with_dropout_to_peft_lora"]),
                mebibytes(mine["peak"]),
                mebibytes(mine["peak"] - mine["after_imports"]),
                figure(found["peak_to_peft_lora"]),
            ]
        )
        for number, advance in enumerate(mine["advances"], start=1):
            peak, stays = (advance[key] / mine["largest_weight"] for key in ("peak", "stays"))
            row = [f"`{variant}`", str(number), mebibytes(advance["peak"]), f"{peak:.2f}", f"{stays:.2f}"]
            advances.append(row)
    header = ["variant", "group", "kept for backward", "against PEFT LoRA", f"with dropout {ROBERTA_DROPOUT}"]
    header += ["peak of the process", "after its imports", "peak against PEFT LoRA"]
    runs = f"{model_words(result['setting'])}; one process a variant, {result['setting']['rounds']} steps each"
    parts = [markdown(header, rows), provenance(result, runs)]
    if advances:
        parts += [
            "What an advance takes beyond the memory held before it, in weights of the largest layer:",
            markdown(["variant", "advance", "at its peak", "in weights", "of which stays"], advances),
        ]
    return "\n\n".join(parts)


BENCHMARK = Benchmark(name="memory", measure=measure, table=table, default=Setting(rounds=3, warmup=0))

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
