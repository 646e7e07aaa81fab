"""Section: what an update is made of: its singular values, its links, and how it lies to the weight that it changes.

Notation: ΔW = Σ_t Δ_t has singular values σ_1 ≥ σ_2 ≥ …; W0 is (d_out, d_in).

    stable rank      ‖ΔW‖_F² / ‖ΔW‖₂² = Σσ² / σ_1²
    effective rank   exp(−Σ p·ln p), p = σ/Σσ: r for r equal singular values, less for unequal ones

Source of the effective rank: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from lopsided.diagnose.base_svd import BaseSVD, base_svd
from lopsided.diagnose.section import Headline, Need, Section
from lopsided.diagnose.section_inputs import SectionInputs
from lopsided.diagnose.section_progress import Step
from lopsided.diagnose.tuned_model import Layer, TunedModel, check_computable
from lopsided.errors import LopsidedError
from lopsided.files.strict_json import WHY
from lopsided.finite import check_finite
from lopsided.formatting import MISSING, number_text
from lopsided.plotting.figure import (
    Axis,
    DrawnRun,
    Figure,
    FigureEntry,
    RunGroup,
    by_label,
    diagnosed,
    mean_curve,
    mean_of_known,
    part_of,
    series,
    view,
)
from lopsided.plotting.words import chooses_nothing

MOST_VALUES = 64


def spectra(
    tuned: TunedModel,
    *,
    top: int = 10,
    cache: Path | None = None,
    done: Step = lambda number, total: None,
) -> list[dict[str, Any]]:
    """Compute one record per layer: ΔW's and W0's norms and ranks, the angles between them, and the links' shares.

    Args:
        top: the dimension of the spaces between which angles are taken.
        cache: where the base's singular vectors are kept; see `base_svd`.
        done: called before each layer with the number of those that are done, and after the last.

    Units:
        Angles in degrees, the smallest first.

    A layer whose weight or update holds NaN or Inf has no figures, and its `why` says so.

    Raises:
        LopsidedError: for a `top` below 1, or NaN or Inf in every layer.
    """
    if top < 1:
        raise LopsidedError(f"top must be at least 1, got {top}; raise it")
    check_computable(tuned.layers)
    records = []
    for number, layer in enumerate(tuned.layers):
        done(number, len(tuned.layers))
        broken = layer.fault
        records.append(
            _without_figures(layer, broken) if broken else layer_record(layer, base_svd(layer.weight, cache), top)
        )
    done(len(tuned.layers), len(tuned.layers))
    return records


def _without_figures(layer: Layer, fault: str) -> dict[str, Any]:
    d_out, d_in = layer.weight.shape
    sizes = dict.fromkeys(("spectral", "frobenius", "stable_rank"))
    return {
        "module": layer.module,
        "kind": layer.kind,
        "d_out": d_out,
        "d_in": d_in,
        "delta": {**sizes, "effective_rank": None, "rank": None, "singular_values": []},
        "weight": sizes,
        "angles": {"top": 0, "left_degrees": [], "right_degrees": []},
        "energy_by_link": [None] * len(layer.links),
        WHY: {"delta": fault},
    }


@torch.no_grad()
def layer_record(layer: Layer, base: BaseSVD, top: int = 10) -> dict[str, Any]:
    """Compute what `spectra` says of one layer.

    `rank` counts the singular values above rounding. Of an update that is zero, the rank is 0 and lists are empty; its
    stable and effective rank and its links' shares are 0/0, and None.
    """
    left, values, right = update_svd(layer)
    d_out, d_in = layer.weight.shape
    return {
        "module": layer.module,
        "kind": layer.kind,
        "d_out": d_out,
        "d_in": d_in,
        "delta": {**sizes(values), "rank": len(values), "singular_values": values[:MOST_VALUES].tolist()},
        "weight": {k: v for k, v in sizes(base.values.numpy()).items() if k != "effective_rank"},
        "angles": {
            "top": min(top, len(values)),
            "left_degrees": angles(left[:, :top], base.left[:, :top].numpy()),
            "right_degrees": angles(right[:, :top], base.right[:, :top].numpy()),
        },
        "energy_by_link": energy_by_link(layer),
    }


def update_svd(layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decompose ΔW = U·diag(σ)·Vᵀ, without the singular values that are rounding: (d_out, r), (r,), (d_in, r), float64

    From L = Q_L·C_L and Rᵀ = Q_R·C_R follows ΔW = Q_L·(C_L·C_Rᵀ)·Q_Rᵀ, so a matrix of Σr x Σr is decomposed, unless
    ΔW is dense.

    Raises:
        LopsidedError: if ΔW has NaN or Inf.
    """
    parts = (layer.delta(),) if layer.is_dense else layer.factors()
    check_finite(f"{layer.module}: the update", *parts, fix="go back to a good checkpoint")
    if layer.is_dense:
        left, values, right = torch.linalg.svd(parts[0], full_matrices=False)
        right = right.T
    else:
        left, values, right = _of_factors(*parts)
    kept = values > values.max() * max(layer.weight.shape) * torch.finfo(torch.float32).eps
    return left[:, kept].numpy(), values[kept].numpy(), right[:, kept].numpy()


def _of_factors(L: Tensor, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    Q_left, C_left = torch.linalg.qr(L)
    Q_right, C_right = torch.linalg.qr(R.T)
    left, values, right = torch.linalg.svd(C_left @ C_right.T, full_matrices=False)
    return Q_left @ left, values, Q_right @ right.T


def sizes(values: np.ndarray) -> dict[str, float | None]:
    """Compute norms and ranks from singular values; the ranks of zero are None.

    Example:
        >>> {name: round(float(size or 0), 3) for name, size in sizes(np.array([3.0, 3.0, 0.0])).items()}
        {'spectral': 3.0, 'frobenius': 4.243, 'stable_rank': 2.0, 'effective_rank': 2.0}
    """
    sigma = np.asarray(values, dtype=np.float64)
    largest = float(sigma.max(initial=0.0))
    if largest == 0.0:
        return {"spectral": 0.0, "frobenius": 0.0, "stable_rank": None, "effective_rank": None}
    shares = sigma[sigma > 0] / sigma.sum()
    return {
        "spectral": largest,
        "frobenius": float(np.linalg.norm(sigma)),
        "stable_rank": float(np.sum((sigma / largest) ** 2)),
        "effective_rank": float(np.exp(-np.sum(shares * np.log(shares)))),
    }


def angles(X: np.ndarray, Y: np.ndarray) -> list[float]:
    """Compute the principal angles between two column spaces, in degrees, the smallest first.

    Example:
        >>> [round(angle, 3) for angle in angles(np.eye(3)[:, :2], np.eye(3)[:, 1:])]
        [0.0, 90.0]
    """
    if X.shape[1] == 0:
        return []
    return [float(angle) for angle in np.degrees(subspace_angles(X, Y))[::-1]]


def energy_by_link(layer: Layer) -> list[float | None]:
    """Compute ‖Δ_t‖_F² / Σ_t ‖Δ_t‖_F², one share per link, oldest first; None where all of them are zero."""
    energies = np.array([link.energy() for link in layer.links])
    total = energies.sum()
    return (energies / total).tolist() if total > 0 else [None] * len(energies)


# -- what the terminal and the page show ---------------------------------------------------------------------


def norm_cell(section: Sequence[Mapping[str, Any]]) -> str:
    """Return ‖ΔW‖ over all layers; without one of them there is none."""
    norms = [layer["delta"]["frobenius"] for layer in section]
    return MISSING if None in norms else number_text(sum(norm**2 for norm in norms) ** 0.5)


def stable_rank_cell(section: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean over the layers that have a stable rank, and how many these are if not all do."""
    known = [rank for layer in section if (rank := layer["delta"]["stable_rank"]) is not None]
    return f"{sum(known) / len(known):.2f}{part_of(len(known), len(section), 'layers')}" if known else MISSING


def draw_spectra(group: RunGroup) -> Figure | None:
    """Draw the singular values of the updates, over the largest one, by kind of layer."""
    members = by_label(diagnosed(group.runs, "layers"))
    if not members:
        return None
    firsts = [runs[0].diagnosis["layers"] for runs in members.values()]
    kinds = list(dict.fromkeys(layer["kind"] for layers in firsts for layer in layers))
    x, y = Axis(title="number of the singular value"), Axis(title="singular value of ΔW, over the largest")
    views = []
    for kind in [None, *kinds]:
        curves = [_mean_spectrum(label, _of_kind(runs, kind)) for label, runs in members.items()]
        views.append(view(kind or "all layers", x, y, [curve for curve in curves if curve is not None]))
    ranks = {}
    for label, runs in members.items():
        value, counted, of = mean_of_known(layer["delta"]["effective_rank"] for layer in _of_kind(runs, None))
        if value is not None:
            ranks[label + part_of(counted, of, "layers")] = value
    return Figure(
        key=f"{group.key}-spectra",
        kind="lines",
        title="Spectra of the updates",
        shows=(
            "The singular values of each update ΔW over its largest, the mean over layers and seeds: a line that falls "
            "late spreads the update over many directions."
        ),
        means=spectra_meaning(ranks),
        choose="layers",
        views=views,
    )


def spectra_meaning(ranks: Mapping[str, float]) -> str:
    """Return what the spectra mean for choosing a method, from each method's mean effective rank."""
    if len(ranks) < 2:
        return chooses_nothing(next(iter(ranks), "no method"))
    least, most = min(ranks, key=lambda k: ranks[k]), max(ranks, key=lambda k: ranks[k])
    return (
        f"{most} used the most directions (effective rank {ranks[most]:.1f}) and {least} the fewest "
        f"({ranks[least]:.1f}): a method far below its rank would have done with a lower one."
    )


def _mean_spectrum(label: str, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    # An update that is zero, or not finite, has no singular values.
    curves = [curve for layer in layers if (curve := _relative(layer["delta"]["singular_values"]))]
    curve = mean_curve(curves)
    if not curve:
        return None
    name = label + part_of(len(curves), len(layers), "layers")
    return series(label, list(range(1, len(curve) + 1)), curve, name=name)


def _of_kind(runs: Sequence[DrawnRun], kind: str | None) -> list[Mapping[str, Any]]:
    return [layer for run in runs for layer in run.diagnosis["layers"] if kind in (None, layer["kind"])]


def _relative(values: Sequence[float | None]) -> list[float | None]:
    largest = values[0] if values else None
    return [None if value is None or not largest else value / largest for value in values]


def _compute(inputs: SectionInputs) -> list[dict[str, Any]]:
    return spectra(inputs.tuned, top=inputs.config.top, done=inputs.progress.step)


SECTION = Section(
    name="layers",
    about="of each layer: singular values, norms and ranks of ΔW and W0, the angles between them, each link's share",
    needs=frozenset({Need.LAYERS}),
    compute=_compute,
    headlines=(
        Headline(heading="‖ΔW‖", cell=norm_cell, place=30),
        Headline(heading="stable rank", cell=stable_rank_cell, place=40),
    ),
    figures=(FigureEntry(draw=draw_spectra, place=80),),
    place=20,
)
