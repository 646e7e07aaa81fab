"""A loss whose Hessian is known, for the tests of curvature and of sharpness."""

from __future__ import annotations

import torch
from torch import nn

from tests import tiny

LABELS = [{"labels": torch.zeros(1)}]


class Quadratic(nn.Module):
    """L = ½·⟨w − m, H·(w − m)⟩ of a weight read as one vector."""

    def __init__(self, w, H, m=None) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())
        self.register_buffer("H", H)
        self.register_buffer("m", torch.zeros_like(w) if m is None else m)


def loss(model, batch):
    off = (model.w - model.m).reshape(-1)
    return 0.5 * off @ model.H @ off


def ruined(model, batch):
    return model.w.sum() * float("nan")


def spd(n: int, seed: int = 0) -> torch.Tensor:
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed))
    return root @ root.T


def batch_of(model, labels=3):
    return [{**tiny.inputs(model), "labels": torch.arange(3) % labels}]
