"""What the first ten singular vectors of a tuned layer cost next to a decomposition of it.

    python -m benchmarks.intruders [--hidden 2048] [--r 16] [--rounds 7] [--out DIR]

W0 is square and normal, so that its leading singular values crowd together, which is the hard case; the update is one
s·B·A of normal factors, scaled so that ‖ΔW‖_F is the given share of ‖W0‖_F: from one that brings no intruder to one
that brings nothing else. Both ways begin with the base's singular vectors in the cache, and read and check them:

    decomposition   torch's singular value decomposition of W0 + ΔW in float32
    search          `lopsided.diagnose.sections.intruders.closest`, as `lopsided diagnose` calls it

The counts at every ε are compared with those of a decomposition in float64.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Benchmark, Setting, median_interval, ratio, turns
from benchmarks.writing import figure, markdown, provenance
from lopsided import LopsidedError
from lopsided.diagnose.base_svd import base_svd
from lopsided.diagnose.leading_vectors import leading
from lopsided.diagnose.sections.intruders import EPSILONS, closest, count
from lopsided.diagnose.tuned_model import Layer, Update
from lopsided.study.turns import wall_ms

SHARES = (0.01, 0.1, 1.0)
TOP = 10
TARGET = 8.0


def measure(setting: Setting, only: Sequence[str] | None) -> dict[str, Any]:
    """Return times and counts of both ways."""
    shares = [share for share in SHARES if only is None or str(share) in only]
    if not shares:
        raise LopsidedError(f"expected shares among {', '.join(map(str, SHARES))}, got {only}; correct --only")
    figures, rounds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for share in shares:
            figures[str(share)], rounds[str(share)] = one(setting, share, Path(folder))
    return {"figures": figures, "rounds": rounds}


def one(setting: Setting, share: float, cache: Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The ratio of both ways' times for an update of that share, and their milliseconds."""
    layer = tuned_layer(setting, share)
    base = base_svd(layer.weight, cache)
    exact = count(closest(layer, base)[:TOP], EPSILONS)
    found: dict[str, list[int]] = {}

    def search() -> None:
        found["search"] = count(closest(layer, base_svd(layer.weight, cache), TOP), EPSILONS)

    def decomposition() -> None:
        found["decomposition"] = count(decomposed(layer, cache), EPSILONS)

    ways = {"search": search, "decomposition": decomposition}
    taken = turns({name: partial(wall_ms, work) for name, work in ways.items()}, setting, f"share {share}")
    return {
        "times_faster": ratio(taken, "decomposition", "search"),
        "milliseconds": {name: median_interval(values) for name, values in taken.items()},
        "counts": {"float64": exact, **found},
        "equal": found["search"] == exact,
        "certified": leading(base, layer.weight, *layer.factors(), TOP) is not None,
    }, taken


def tuned_layer(setting: Setting, share: float) -> Layer:
    """A layer with an update of that share of the weight's norm."""
    draw, d = torch.Generator().manual_seed(setting.seed), setting.hidden
    W0 = 0.02 * torch.randn(d, d, generator=draw)
    B, A = torch.randn(d, setting.r, generator=draw), torch.randn(setting.r, d, generator=draw)
    return Layer("layer", W0, (Update(share * float(W0.norm()) / float((B @ A).norm()) * B, A),))


@torch.no_grad()
def decomposed(layer: Layer, cache: Path) -> np.ndarray:
    """max_i |⟨u_j, u_i⁰⟩| of the first vectors, from torch's decomposition of the tuned weight in float32."""
    base, update = base_svd(layer.weight, cache), layer.links[0]
    assert update.right is not None
    tuned = torch.linalg.svd(layer.weight + update.left @ update.right, full_matrices=False)[0]
    return (base.left.T @ tuned[:, :TOP]).abs().amax(0).numpy()


def table(result: Mapping[str, Any]) -> str:
    """Return the table of times, as markdown."""
    rows = []
    for share, found in result["figures"].items():
        taken, at_half = found["milliseconds"], found["counts"]["float64"][EPSILONS.index(0.5)]
        rows.append(
            [
                f"{100 * float(share):g} %",
                str(at_half),
                figure(taken["search"], 0),
                figure(taken["decomposition"], 0),
                figure(found["times_faster"], 1),
                "yes" if found["equal"] else "no",
            ]
        )
    header = ["‖ΔW‖/‖W0‖", "intruders at ε = 0.5", "search, ms", "decomposition, ms", "times faster", "counts equal"]
    setting = result["setting"]
    runs = f"weight of {setting['hidden']} x {setting['hidden']}, rank {setting['r']}, {setting['rounds']} rounds"
    worst = min(found["times_faster"]["median"] for found in result["figures"].values())
    said = (
        f"The first {TOP} left singular vectors of W0 + ΔW, with W0's in the cache. In its slowest case the search is "
        f"{worst:.1f} times as fast as a decomposition (target: {TARGET:g}, {'met' if worst >= TARGET else 'missed'})."
    )
    return "\n\n".join([said, markdown(header, rows), provenance(result, runs)])


BENCHMARK = Benchmark(name="intruders", measure=measure, table=table, default=Setting(hidden=2048, rounds=7, warmup=1))

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
