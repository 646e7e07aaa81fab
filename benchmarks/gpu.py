"""Peak memory, throughput and the ratios of step time on a CUDA machine, for a Llama-shaped model.

    python -m benchmarks.gpu [--only cla,lora] [--quick]

Without a CUDA device it says so and measures nothing. Each variant is measured in shuffled turns with the limit, its
twin and both forms of PEFT LoRA, which stay on the device; only these and one variant are held at a time.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.measuring import Benchmark, Progress, Setting, exact, median_interval, ratio, turns
from benchmarks.variants import FROZEN_A, LIMIT, LORA, NARROW, TWIN, Trainee, adapters, chosen, groups, llama
from benchmarks.writing import figure, markdown, mebibytes, model_words, provenance
from lopsided import LopsidedError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
VOCABULARY = 32000
Clock = Callable[[Callable[[], object]], float]
Peak = Callable[[Callable[[], object]], int]


def measure(setting: Setting, only: Sequence[str] | None) -> dict[str, Any]:
    """Return memory, throughput and times of every variant.

    Raises:
        LopsidedError: without a CUDA device.
    """
    if not torch.cuda.is_available():
        raise LopsidedError(
            "expected a CUDA device, found none, so nothing is measured and no figure is printed; run it on a machine "
            "with one"
        )
    variants = chosen(only, [FROZEN_A, *adapters()], [LIMIT, TWIN, LORA, NARROW])
    device = "cuda"
    by_dtype = {name: compare(variants, setting, dtype, device, event_ms, peak_bytes) for name, dtype in DTYPES.items()}
    return {"groups": groups(variants), "figures": {}, "by_dtype": by_dtype}


def compare(
    variants: Sequence[str], setting: Setting, dtype: torch.dtype, device: str, clock: Clock, peak: Peak
) -> dict[str, Any]:
    """Every variant against the references in one dtype.

    Args:
        clock: milliseconds of some work on the device.
        peak: the most bytes that the device held during some work, above those held before.
    """
    references = (LIMIT, TWIN, LORA, NARROW)
    progress, kept = Progress(f"gpu: {dtype}", len(variants)), {}

    def build(variant: str) -> Trainee:
        made: list[Trainee] = []

        def build_and_step() -> None:
            made.append(llama(variant, setting, dtype, device=device, vocabulary=VOCABULARY))
            made[0].step()
            made[0].step()

        kept[variant] = peak(build_and_step)
        progress.advance(variant)
        return made[0]

    def in_turns(trainees: Mapping[str, Trainee], title: str) -> dict[str, list[float]]:
        work = {name: partial(clock, one.step) for name, one in trainees.items()}
        return turns(work, setting, f"gpu: {dtype}, {title}")

    held = {variant: build(variant) for variant in references}
    raw = {"references": in_turns(held, "references")}
    for variant in variants:
        if variant not in references:
            raw[variant] = in_turns({**held, variant: build(variant)}, variant)
            gc.collect()
    figures = {}
    for variant in variants:
        rounds = raw["references" if variant in references else variant]
        taken = median_interval(rounds[variant])
        figures[variant] = {
            "ms": taken,
            "tokens_per_second": exact(1000.0 * setting.batch * setting.length / taken["median"]),
            "peak_bytes": exact(kept[variant]),
            "peak_to_peft_lora": exact(kept[variant] / kept[LORA]),
            "to_limit": ratio(rounds, variant, LIMIT),
            "to_peft_lora": ratio(rounds, variant, LORA),
            "to_peft_16bit": ratio(rounds, variant, NARROW),
        }
    return {"figures": figures, "noise": figures[TWIN]["to_limit"], "milliseconds": raw}


def event_ms(work: Callable[[], object]) -> float:
    """Milliseconds on the device between two events around the work."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that the allocator gave out during the work, above those given out before it."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def table(result: Mapping[str, Any]) -> str:
    """Return the tables of memory and times, as markdown."""
    parts = []
    for dtype, found in result["by_dtype"].items():
        rows = [
            [
                f"`{variant}`",
                result["groups"].get(variant, ""),
                figure(mine["ms"], places=1),
                f"{mine['tokens_per_second']['median']:,.0f}",
                mebibytes(mine["peak_bytes"]["median"]),
                *(figure(mine[name]) for name in ("peak_to_peft_lora", "to_limit", "to_peft_lora", "to_peft_16bit")),
            ]
            for variant, mine in found["figures"].items()
        ]
        header = ["variant", "group", "ms a step", "tokens a second", "peak memory", "peak against PEFT LoRA"]
        header += ["step time against the limit", "against PEFT LoRA", "with 16-bit factors"]
        parts.append(f"In {dtype}:\n\n{markdown(header, rows)}")
        parts.append(f"The twin's ratio to the limit, which should be 1, is {figure(found['noise'], places=3)}.")
    runs = f"Llama-shaped: {model_words(result['setting'])}; {result['setting']['rounds']} rounds"
    return "\n\n".join([*parts, provenance(result, runs)])


BENCHMARK = Benchmark(
    name="gpu",
    measure=measure,
    table=table,
    default=Setting(layers=8, hidden=2048, batch=8, length=512),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
