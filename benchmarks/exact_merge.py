"""What merging for a while does to the weights, cycle by cycle: stock PEFT, a copy of the weights, and exact merges.

    python -m benchmarks.exact_merge [--hidden 512] [--r 16] [--rounds 996] [--out DIR]

A cycle is `merge_adapter` and `unmerge_adapter` of a stock LoRA model, as TRL runs it before each generation; between
two cycles the factors move, as in training. W0 is normal with a standard deviation of 0.02, and B is scaled so that the
norm of ΔW is the given share of W0's at the start. The ways take turns within each cycle, and see the same factors.

    changed    weights whose bits are not W0's, as a share of all
    drift      mean |W - W0|, relative to mean |W0|
    worst      max |W - W0|, relative to mean |W0|: the figure of trl#6688, whose adapter does not move
    bytes      kept while merged in addition to the model, per weight: the largest of all cycles
    time       of a cycle: merging and unmerging, not what comes between
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import lopsided
from benchmarks.measuring import Benchmark, Setting, median_interval, turns
from benchmarks.writing import figure, markdown, provenance
from lopsided import LopsidedError
from lopsided.study.turns import wall_ms
from lopsided.tuner.merging.exact_layers import ExactMerges
from lopsided.tuner.weight.undo_records import INTEGERS

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# How far B moves between two cycles, relative to its size.
STEP = 0.02
# (dtype, ‖ΔW‖ / ‖W0‖ at the start, how far B moves)
CASES = (
    ("bfloat16", 0.01, STEP),
    ("bfloat16", 0.1, STEP),
    ("bfloat16", 0.1, 0.0),
    ("float16", 0.1, STEP),
    ("float32", 0.1, STEP),
)


class Cycles:
    """One way to merge and unmerge, over the same model and the same training as the others.

    Args:
        model: changed by the cycles.
        merge, unmerge: what a cycle calls.
        kept: () -> bytes that are kept while merged.
    """

    def __init__(
        self,
        model: PeftModel,
        merge: Callable[[], object],
        unmerge: Callable[[], object],
        kept: Callable[[], int],
    ) -> None:
        self.model, self.merge, self.unmerge, self.kept = model, merge, unmerge, kept
        self.originals = [weight.detach().clone() for weight in base_weights(model)]
        self.generator = torch.Generator().manual_seed(1)
        self.bytes_kept, self.step = 0, STEP
        self.after_one: dict[str, float] = {}

    def run(self) -> float:
        """Run one cycle, and move the factors; returns the cycle's milliseconds."""
        merging = wall_ms(self.merge)
        self.bytes_kept = max(self.bytes_kept, self.kept())
        unmerging = wall_ms(self.unmerge)
        self.after_one = self.after_one or self.state()
        with torch.no_grad():
            for B in factors(self.model):
                noise = torch.randn(B.shape, generator=self.generator)
                B.add_(noise, alpha=self.step * float(B.square().mean().sqrt()))
        return merging + unmerging

    def state(self) -> dict[str, float]:
        """Return what has become of the weights: the share that changed, the drift, and that of the worst one."""
        pairs = list(zip(base_weights(self.model), self.originals))
        count = sum(W0.numel() for _, W0 in pairs)
        changed = sum(int((W.view(INTEGERS[W.dtype]) != W0.view(INTEGERS[W0.dtype])).sum()) for W, W0 in pairs)
        moved = sum(float((W.double() - W0.double()).abs().sum()) for W, W0 in pairs)
        worst = max(float((W.double() - W0.double()).abs().max()) for W, W0 in pairs)
        size = sum(float(W0.double().abs().sum()) for _, W0 in pairs)
        return {"changed": changed / count, "drift": moved / size, "worst": worst * count / size}


def base_weights(model: PeftModel) -> list[Tensor]:
    """Return the weights that adapters are merged into."""
    return [parameter.data for name, parameter in model.named_parameters() if name.endswith("base_layer.weight")]


def factors(model: PeftModel) -> list[Tensor]:
    """Return the B of every layer."""
    return [parameter for name, parameter in model.named_parameters() if "lora_B" in name]


def adapted(setting: Setting, dtype: torch.dtype, share: float) -> PeftModel:
    """Return a stock LoRA model over pairs of feed-forward layers, its ΔW of the given share of W0."""
    torch.manual_seed(setting.seed)
    hidden = setting.hidden
    pairs = [
        nn.ModuleList([nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)]) for _ in range(setting.layers)
    ]
    net = nn.ModuleList(pairs)
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(std=0.02)
    names = [f"{pair}.{side}" for pair in range(setting.layers) for side in (0, 1)]
    config = LoraConfig(r=setting.r, target_modules=names, init_lora_weights=False)
    model = get_peft_model(net.to(dtype), config)
    with torch.no_grad():
        for layer in model.modules():
            if hasattr(layer, "lora_B"):
                change = layer.get_delta_weight("default")
                size = share * float(layer.weight.float().norm() / change.float().norm())
                layer.lora_B["default"].weight.mul_(size)
    return model


# -- the ways ------------------------------------------------------------------------------------------------


def stock(model: PeftModel) -> Cycles:
    """PEFT's own merges."""
    return Cycles(model, model.merge_adapter, model.unmerge_adapter, lambda: 0)


def copied(model: PeftModel) -> Cycles:
    """PEFT's own merge, next to a copy of every weight, which is written back."""
    weights = base_weights(model)
    copies: list[Tensor] = []

    def merge() -> None:
        copies[:] = [weight.clone() for weight in weights]
        model.merge_adapter()

    def unmerge() -> None:
        # PEFT's books have to be right afterwards, so its subtraction runs, too.
        model.unmerge_adapter()
        for weight, kept in zip(weights, copies):
            weight.copy_(kept)
        copies.clear()

    return Cycles(model, merge, unmerge, lambda: sum(kept.nbytes for kept in copies))


def exact(model: PeftModel) -> Cycles:
    """`lopsided.make_merges_exact`."""
    lopsided.make_merges_exact(model)
    layers = [layer for layer in model.modules() if isinstance(layer, ExactMerges)]
    weights = {weight for layer in layers for weight in layer.exact_state.weights.values()}
    return Cycles(model, model.merge_adapter, model.unmerge_adapter, lambda: sum(weight.nbytes for weight in weights))


WAYS: Mapping[str, Callable[[PeftModel], Cycles]] = {"stock PEFT": stock, "a copy": copied, "exact": exact}


def measure(setting: Setting, only: Sequence[str] | None) -> dict[str, Any]:
    """Return what each way does to the weights, and what it takes, by dtype and size of the update."""
    figures: dict[str, dict[str, Any]] = {}
    for dtype, share, step in CASES:
        if only is None or dtype in only:
            rests = "" if step else ", at rest"
            figures[f"{dtype}, {100 * share:g} %{rests}"] = compared(setting, DTYPES[dtype], share, step)
    return {"figures": figures}


def compared(setting: Setting, dtype: torch.dtype, share: float, step: float) -> dict[str, Any]:
    """Return the figures of each way on one model."""
    model = adapted(setting, dtype, share)
    ways = {name: way(copy.deepcopy(model)) for name, way in WAYS.items()}
    for cycles in ways.values():
        cycles.step = step
    taken = turns({name: cycles.run for name, cycles in ways.items()}, setting, f"cycles in {dtype}")
    count = sum(weight.numel() for weight in base_weights(model))
    found = {}
    for name, cycles in ways.items():
        after = cycles.state()
        if name != "stock PEFT" and after["changed"]:
            raise LopsidedError(f"{name} changed weights in {dtype}; expected the original bits; this is a bug")
        found[name] = {
            "after_one": cycles.after_one,
            "after_all": after,
            "bytes_a_weight": cycles.bytes_kept / count,
            "ms": median_interval(taken[name]),
        }
    return {"weights": count, "cycles": setting.warmup + setting.rounds, "ways": found}


def table(result: Mapping[str, Any]) -> str:
    """Return the table, as markdown."""
    rows, [cycles] = [], {found["cycles"] for found in result["figures"].values()}
    for case, found in result["figures"].items():
        for name, way in found["ways"].items():
            one, end = way["after_one"], way["after_all"]
            keys = (("changed", "drift"), ("changed", "drift", "worst"))
            shares = [f"{100 * state[key]:.3g} %" for state, of in zip((one, end), keys) for key in of]
            rows.append([f"{case}: {name}", *shares, f"{way['bytes_a_weight']:.2g}", figure(way["ms"], 1)])
    header = ["weights, ‖ΔW‖/‖W0‖: way", "changed by one cycle", "drift", f"changed by {cycles:,}", "drift", "worst"]
    header += ["bytes kept per weight", "ms per cycle"]
    setting = result["setting"]
    shape = f"{2 * setting['layers']} weights of {setting['hidden']} x {4 * setting['hidden']}, rank {setting['r']}"
    said = (
        "Drift is mean |W - W0|, and worst max |W - W0|, relative to mean |W0|. Between two cycles the factors move, "
        "as in training, but where they are at rest. What exact merges keep includes copies of both factors in "
        f"float32: {copies(setting):.2g} bytes per weight here."
    )
    return "\n\n".join([said, markdown(header, rows), provenance(result, f"{shape}, {cycles:,} cycles")])


def copies(setting: Mapping[str, Any]) -> float:
    """Return the bytes per weight of one float32 copy of A and B."""
    d_in, d_out = setting["hidden"], 4 * setting["hidden"]
    return 4 * setting["r"] * (d_in + d_out) / (d_in * d_out)


BENCHMARK = Benchmark(
    name="exact_merge",
    measure=measure,
    table=table,
    default=Setting(layers=1, hidden=512, rounds=996, warmup=4, threads=1),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
