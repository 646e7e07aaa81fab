"""Training steps and evaluation of a Llama shape, bfloat16 and float32: ours next to both forms of stock PEFT's LoRA.

    python -m benchmarks.llama [--only bfloat16,autocast] [--quick]

`--only` chooses among the parts. Each part has a process of its own, in which its variants take shuffled turns:

    bfloat16, float32     a training step with weights in this dtype
    autocast              a training step under bfloat16 autocast, with float32 weights
    compiled              a training step of compiled models, in bfloat16
    evaluation            a forward pass without gradients, in bfloat16
    evaluation32          the same in float32
    chains                the same, of chains at their last of 16 links, which stand next to bfloat16 weights
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import Benchmark, Interval, Progress, Setting, median_interval, ratio, turns
from benchmarks.variants import LIMIT, LORA, NARROW, TWIN, Trainee, group, llama, split
from benchmarks.writing import figure, markdown, model_words, provenance, verdict
from lopsided import LopsidedError
from lopsided.runs.measure import kept_bytes
from lopsided.study.turns import wall_ms
from lopsided.tuner import layers_of

METHODS = ("cla", "rcla", "asym_b", "lora")
LINKS = 16
# At most so many times the limit's step.
BFLOAT16 = {"cla": 1.05, "rcla": 1.07, "asym_b": 1.08, "lora": 1.12}
FLOAT32 = {"cla": 1.04, "rcla": 1.06, "asym_b": 1.07, "lora": 1.10}
# A forward without gradients may take this much longer than its added operations would.
EVALUATION = 1.10


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of work.

    Args:
        dtype: of the weights.
        variants: next to the limit, its twin and PEFT's LoRA.
        targets: by variant; for evaluation they follow from the added operations.
    """

    dtype: torch.dtype = torch.bfloat16
    variants: tuple[str, ...] = (NARROW, *METHODS)
    autocast: bool = False
    compiled: bool = False
    evaluation: bool = False
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def counts_bytes(self) -> bool:
        """Whether the bytes kept for backward are counted: of plain training steps."""
        return not (self.autocast or self.compiled or self.evaluation)


PARTS = {
    "bfloat16": Part(targets=BFLOAT16),
    "float32": Part(dtype=torch.float32, variants=METHODS, targets=FLOAT32),
    "autocast": Part(dtype=torch.float32, variants=METHODS, autocast=True, targets=BFLOAT16),
    "compiled": Part(compiled=True, targets=BFLOAT16),
    "evaluation": Part(evaluation=True),
    "evaluation32": Part(dtype=torch.float32, variants=METHODS, evaluation=True),
    "chains": Part(
        evaluation=True, variants=(NARROW, *(f"{name}@{LINKS - 1}" for name in ("c3la", "cpaca", "rac_b", "cola")))
    ),
}


def measure(setting: Setting, only: Sequence[str] | None) -> dict[str, Any]:
    """Return the parts, each with its times and ratios."""
    for name in only or ():
        if name not in PARTS:
            raise LopsidedError(f"expected parts among {', '.join(PARTS)}, got {name!r}; correct --only")
    parts = {}
    for name in PARTS if only is None else only:
        milliseconds = in_fresh_process(name, setting)
        figures = {variant: figures_of(milliseconds, variant, setting, PARTS[name]) for variant in milliseconds}
        parts[name] = {"figures": figures, "milliseconds": milliseconds, "noise": ratio(milliseconds, TWIN, LIMIT)}
    return {"instructions": instructions(), "groups": {}, "figures": {}, "parts": parts}


def in_fresh_process(name: str, setting: Setting) -> dict[str, list[float]]:
    """Measure a part in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(times, name, setting).result()


def times(name: str, setting: Setting) -> dict[str, list[float]]:
    """Milliseconds of each variant's rounds."""
    torch.set_num_threads(setting.threads)
    part = PARTS[name]
    variants = (LIMIT, TWIN, LORA, *part.variants)
    if part.compiled:
        # The variants share one forward's code, and the compiler gives up after eight versions of one.
        torch._dynamo.config.recompile_limit = 8 * len(variants)
    progress = Progress(f"llama: {name}, models", len(variants))
    work: dict[str, Callable[[], float]] = {}
    for variant in variants:
        work[variant] = partial(wall_ms, look(built(variant, setting, part), part))
        progress.advance(variant)
    return turns(work, setting, f"llama: {name}, rounds")


def built(variant: str, setting: Setting, part: Part) -> Trainee:
    """The variant on the part's model."""
    chained = split(variant)[1] > 0
    return llama(variant, setting, part.dtype, links=LINKS if chained else None)


def look(made: Trainee, part: Part) -> Callable[[], object]:
    """Return what is timed: a training step, or a forward pass without gradients."""
    model = torch.compile(made.model) if part.compiled else made.model

    def forward() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=part.autocast):
            return model(**made.batch).loss

    def step() -> Tensor:
        made.optimizer.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()
        made.optimizer.step()
        return loss.detach()

    if not part.evaluation:
        return step
    made.model.eval()
    return torch.no_grad()(forward)


def figures_of(
    milliseconds: Mapping[str, Sequence[float]], variant: str, setting: Setting, part: Part
) -> dict[str, Any]:
    """A variant's time, its ratios, the share of its added operations, and its target."""
    found: dict[str, Any] = {"ms": median_interval(milliseconds[variant])}
    found["to_limit"] = ratio(milliseconds, variant, LIMIT)
    found["to_peft_lora"] = ratio(milliseconds, variant, LORA)
    if NARROW in milliseconds:
        found["to_peft_16bit"] = ratio(milliseconds, variant, NARROW)
    if part.counts_bytes:
        found["kept"] = kept_for_backward(variant, setting, part)
    if group(variant) is not None:
        found["added"] = added_operations(variant, setting, part)
        found["at_most"] = EVALUATION * (1 + found["added"]) if part.evaluation else part.targets[variant]
    return found


def kept_for_backward(variant: str, setting: Setting, part: Part) -> int:
    """The bytes that autograd keeps from a forward pass until backward."""
    made = built(variant, setting, part)
    return kept_bytes(made.model, made.batch)


def added_operations(variant: str, setting: Setting, part: Part) -> float:
    """The multiplications that an adapter adds, as a share of those of the layers that it adapts.

    A frozen layer takes n·d_in·d_out forward and as many backward. A trained B takes n·r·d_out forward, and twice
    backward; a dense A takes n·r·d_in forward and once backward, or twice where it trains; a selector none.
    """
    made = built(variant, setting, part)
    where = group(variant)
    own = added = 0.0
    for layer in layers_of(made.model).values():
        d_in, d_out, r = layer.in_features, layer.out_features, layer.r["default"] * (1 + split(variant)[1])
        dense_A, trained_A = where not in ("windows", "random columns"), where == "both"
        backward = not part.evaluation
        own += d_in * d_out * (1 + backward)
        added += r * d_out * (1 + 2 * backward) + dense_A * r * d_in * (1 + backward * (1 + trained_A))
    return added / own


def instructions() -> list[str]:
    """The instructions for 16-bit products that this processor has, as Linux names them."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8").split() if info.exists() else []
    return [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]


def table(result: Mapping[str, Any]) -> str:
    """Return one table per part, as markdown."""
    pieces = []
    for name, part in result["parts"].items():
        header = ["variant", "ms", "against the limit", "added operations", "against PEFT LoRA"]
        narrow, counted = NARROW in part["figures"], "kept" in part["figures"][LIMIT]
        rows = []
        for variant, found in part["figures"].items():
            row = [f"`{variant}`", figure(found["ms"], places=0), _aimed(found)]
            row += [f"{found['added']:.1%}" if "added" in found else "", figure(found["to_peft_lora"])]
            row += [figure(found["to_peft_16bit"])] if narrow else []
            row += [f"{found['kept'] / part['figures'][LORA]['kept']:.2f}"] if counted else []
            rows.append(row)
        header += ["with 16-bit factors"] if narrow else []
        header += ["bytes kept, against PEFT LoRA"] if counted else []
        pieces.append(f"**{name}**: {TITLES[name]}.\n\n{markdown(header, rows)}")
        pieces.append(f"The twin's ratio to the limit, which should be 1, is {figure(part['noise'], places=3)}.")
    found = ", ".join(result["instructions"]) or "none"
    runs = f"Llama-shaped: {model_words(result['setting'])}; {result['setting']['rounds']} rounds"
    return "\n\n".join([*pieces, f"Instructions for 16-bit products: {found}. {provenance(result, runs)}"])


TITLES = {
    "bfloat16": "a training step, weights in bfloat16",
    "float32": "a training step, weights in float32",
    "autocast": "a training step under bfloat16 autocast, weights in float32",
    "compiled": "a training step of the compiled model, weights in bfloat16",
    "evaluation": "a forward pass without gradients, weights in bfloat16",
    "evaluation32": "a forward pass without gradients, weights in float32",
    "chains": f"a forward pass without gradients of chains at their last of {LINKS} links, next to bfloat16 weights",
}


def _aimed(found: Mapping[str, Any]) -> str:
    value: Interval = found["to_limit"]
    if "at_most" not in found:
        return figure(value, places=3)
    return f"{figure(value, places=3)}; at most {found['at_most']:.2f}: {verdict(value, found['at_most'])}"


BENCHMARK = Benchmark(
    name="llama",
    measure=measure,
    table=table,
    default=Setting(batch=8, length=128, rounds=10, warmup=2),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
