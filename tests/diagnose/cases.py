"""Layers whose singular vectors are known, because they are built from them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lopsided import METHODS, Method
from lopsided.diagnose import DiagnoseConfig
from lopsided.diagnose.section_inputs import AdapterInputs, RunInputs
from lopsided.diagnose.tuned_model import Layer, TunedModel, Update
from lopsided.runs.run import Run, finished_run


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthonormal(d: int, r: int, seed: int) -> Tensor:
    """(d, r), float64"""
    return torch.linalg.qr(torch.randn(d, r, dtype=torch.float64, generator=generator(seed)))[0]


def layer_of(W0: Tensor, *links: tuple[Tensor, Tensor], module: str = "encoder.0.query") -> Layer:
    return Layer(module, W0.float(), tuple(Update(L.float(), R.float()) for L, R in links))


def dense_layer(W0: Tensor, delta: Tensor, module: str = "encoder.0.query") -> Layer:
    return Layer(module, W0.float(), (Update(delta.float()),))


def tuned_model(*layers: Layer, factors=None, id: str = "0" * 12) -> TunedModel:
    return TunedModel(name="case", id=id, layers=layers, factors=factors or {})


def of_run(folder: Path, **settings) -> RunInputs:
    """What sections are computed from, of a finished run."""
    return RunInputs(finished_run(folder), DiagnoseConfig(**settings))


def of_adapter(folder: Path, base: object, *, allow_base_mismatch: bool = False, **settings) -> AdapterInputs:
    """What sections are computed from, of a saved adapter."""
    config = DiagnoseConfig(**settings)
    return AdapterInputs(Path(folder), str(base), config, allow_base_mismatch=allow_base_mismatch)


HISTORY = [
    *({"step": step, "loss": 1 - 0.1 * step, "learning_rate": 0.01 * step} for step in (1, 2, 3, 4, 5, 6)),
    {"step": 4, "eval_loss": 0.5},
]


def logged_run(
    boundaries: list[int] | None, history: list = HISTORY, steps: int = 6, method: Method | None = None
) -> Run:
    """A run that finished, as the timeline reads it; of c3la or cla unless a method is given."""
    chain = None if boundaries is None else {"links": len(boundaries) + 1, "boundaries": boundaries}
    method = method or METHODS["cla" if boundaries is None else "c3la"]
    record = {"steps": steps, "history": history, "chain": chain, "method": method.parts()}
    return Run(folder=Path("run"), status="finished", error=None, settings={}, versions={}, machine={}, record=record)


def random_layer(d_out: int, d_in: int, *ranks: int, share: float, seed: int = 0, spread: float | None = None) -> Layer:
    """A normal W0, or one with singular values that are `spread` apart, and links with that share of its norm."""
    draw = generator(seed)
    m = min(d_out, d_in)
    W0 = torch.randn(d_out, d_in, generator=draw).double()
    if spread is not None:
        values = 1.0 - spread * torch.arange(m, dtype=torch.float64)
        W0 = orthonormal(d_out, m, seed + 1) * values @ orthonormal(d_in, m, seed + 2).T
    links = []
    for r in ranks:
        L, R = torch.randn(d_out, r, generator=draw).double(), torch.randn(r, d_in, generator=draw).double()
        links.append((L * share * W0.norm() / (L @ R).norm(), R))
    return layer_of(W0, *links)
