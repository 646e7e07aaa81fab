"""What exact undo costs in bytes per weight, by the size of the update.

    python -m benchmarks.undo [--hidden 768] [--r 16] [--out DIR]

W0 is normal with a standard deviation of 0.02; the update is one link's s·B·A, scaled so that the norm of ΔW is the
given share of W0's over the entries that ΔW can reach. Bytes count what is kept while a chain's ended link is written
in: corrections, digests, and which columns a selector reaches. A merged adapter keeps a copy of its trained factor as
well. A weight is one of all d_out·d_in, so a selector, which reaches r columns only, costs little whatever its update.
These are counts, not times, and one run is enough.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import Benchmark, Setting
from benchmarks.writing import markdown, provenance
from lopsided.tuner.forward.compute import Selected, Term
from lopsided.tuner.weight.delta import Part, delta_weight
from lopsided.tuner.weight.undo import Undo

SHARES = (0.003, 0.01, 0.03, 0.1, 1.0)
# Beyond the sizes of interest, to find where a copy takes over: in powers of two.
SCAN = tuple(2.0**power for power in range(1, 31))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = ("dense", "columns")


def measure(setting: Setting, only: Sequence[str] | None) -> dict[str, Any]:
    """Return bytes per weight by the size of the update."""
    return {
        "figures": {
            f"{kind}, {dtype}": {
                "bytes_a_weight": {str(share): cost(setting, kind, DTYPES[dtype], share)[0] for share in SHARES},
                "copy_from": takeover(setting, kind, DTYPES[dtype]),
                "copy": DTYPES[dtype].itemsize,
            }
            for kind in KINDS
            for dtype in DTYPES
            if only is None or dtype in only
        }
    }


def cost(setting: Setting, kind: str, dtype: torch.dtype, share: float) -> tuple[float, bool]:
    """Return the bytes per weight that an update of that share costs, and whether a copy of the weights is kept."""
    generator = torch.Generator().manual_seed(setting.seed)
    d_out, d_in = 4 * setting.hidden, setting.hidden
    W0 = (0.02 * torch.randn(d_out, d_in, generator=generator)).to(dtype)
    B = torch.randn(d_out, setting.r, generator=generator)
    if kind == "columns":
        A: Tensor | Selected = Selected(torch.randperm(d_in, generator=generator)[: setting.r], d_in)
    else:
        A = torch.randn(setting.r, d_in, generator=generator)
    change = delta_weight([Term(A, B)], 1.0, torch.device("cpu"))
    reached = W0[:, A.indices] if isinstance(A, Selected) else W0
    scaling = share * float(reached.double().norm() / change.double().norm())
    undo, weight = Undo(), W0.clone()
    undo.write(weight, [Part((Term(A, B),), scaling)], "benchmark")
    bytes_kept, copied = undo.nbytes, not undo._parts
    undo.restore(weight)
    integers = torch.int32 if dtype == torch.float32 else torch.int16
    if not torch.equal(weight.view(integers), W0.view(integers)):
        raise AssertionError(f"undo of {kind} in {dtype} at {share} was not exact")
    return bytes_kept / W0.numel(), copied


def takeover(setting: Setting, kind: str, dtype: torch.dtype) -> float | None:
    """The smallest share, of those tried, from which on a copy is kept; None if none was."""
    for share in (*SHARES, *SCAN):
        if cost(setting, kind, dtype, share)[1]:
            return share
    return None


def table(result: Mapping[str, Any]) -> str:
    """Return the table of bytes, as markdown."""
    rows = []
    for name, found in result["figures"].items():
        costs = [f"{found['bytes_a_weight'][str(share)]:.2g}" for share in SHARES]
        start = "never, up to 2³⁰ times ‖W0‖" if found["copy_from"] is None else f"{found['copy_from']:,.0f} times ‖W0‖"
        rows.append([name, *costs, str(found["copy"]), start])
    header = ["factor, weight", *(f"{100 * share:g} %" for share in SHARES), "a copy", "a copy is kept from"]
    setting = result["setting"]
    runs = f"weight of {4 * setting['hidden']} x {setting['hidden']}, rank {setting['r']}, one update each"
    factor = 4 * setting["r"] / setting["hidden"]
    said = (
        "Bytes a weight, by ‖ΔW‖/‖W0‖, while an ended link is written in. A merged adapter that trains B adds the copy "
        f"of B: {factor:.2g} here."
    )
    return "\n\n".join([said, markdown(header, rows), provenance(result, runs)])


BENCHMARK = Benchmark(name="undo", measure=measure, table=table, default=Setting())

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
