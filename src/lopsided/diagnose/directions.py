"""Two directions in weight space, in the units of a model's own filters.

Notation: w* are a model's weights of two dimensions or more, the centre; w_e are a snapshot's, Δ_e = w_e − w*; d_1 and
d_2 span a plane through w*. Filter f of w is the part that makes one output: a row of a linear layer's matrix, a
column of a `Conv1D`'s, a token's row of an embedding.

Every filter of a direction is scaled to the norm of the centre's: d_f ← d_f·‖w*_f‖/‖d_f‖, so that t = 0.1 changes each
filter by a tenth of itself, whatever the scale of its layer. A filter that the direction leaves alone stays alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.errors import LopsidedError
from lopsided.finite import all_finite
from lopsided.method.sketch import generator, layer_seed
from lopsided.tuner.weight.delta import undisturbed

Weights = Mapping[str, Tensor]
# Below this share of the first one's energy a second principal direction is rounding.
FLAT = 1e-10


@dataclass(frozen=True, kw_only=True)
class Directions:
    """d_1 and d_2, normalised filter by filter.

    Args:
        kind: "random" or "trajectory".
        first, second: by parameter; a parameter that both leave alone is absent.
        explained: the share of Σ‖Δ_e‖² that each principal direction holds, before the filters were scaled.
        path: coordinates (a, b) of each snapshot, in their order.
        seed: of random directions.
    """

    kind: str
    first: Weights
    second: Weights
    explained: tuple[float, float] | None = None
    path: tuple[tuple[float, float], ...] | None = None
    seed: int | None = None


def plane_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a landscape moves: floating-point, two dimensions or more.

    Biases and the gains of norms, of one dimension, are left out: they are few, and would change everything.

    Raises:
        LopsidedError: if there are none, or an adapter is not merged.

    Source:
        Li et al. 2018, arXiv:1712.09913, section 4; Cadenhead et al. 2026, arXiv:2606.13767.

    Example:
        >>> list(plane_parameters(torch.nn.Linear(3, 2)))
        ['weight']
    """
    matrices = {name: p for name, p in model.named_parameters() if p.dim() >= 2 and p.is_floating_point()}
    unmerged = next((name for name in matrices if ".base_layer." in name), None)
    if unmerged is not None:
        raise LopsidedError(f"expected a plain model, got {unmerged} under an adapter; pass model.merge_and_unload()")
    if not matrices:
        raise LopsidedError(f"expected weights of two dimensions, got none in {type(model).__name__}; pass a model")
    return matrices


def transposed_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the weights whose filters are columns: those of `Conv1D`."""
    return frozenset(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D))


def random_directions(centre: Weights, *, seed: int = 0, transposed: frozenset[str] = frozenset()) -> Directions:
    """Draw N(0, 1) in every entry, and normalize; a function of the seed and the parameters' names and shapes.

    Args:
        centre: w*, from `plane_parameters`.
        transposed: from `transposed_names`.

    Source:
        Li et al. 2018, arXiv:1712.09913.

    Example:
        >>> directions = random_directions({"w": torch.tensor([[3.0, 4.0]])})
        >>> round(directions.first["w"].norm().item(), 4)
        5.0
    """
    drawn: list[dict[str, Tensor]] = [{}, {}]
    with undisturbed(torch.device("cpu")):
        for name, weight in centre.items():
            for number, direction in enumerate(drawn):
                numbers = generator(layer_seed(seed, name), number).standard_normal(tuple(weight.shape))
                raw = torch.from_numpy(numbers).to(weight.device, torch.float32)
                direction[name] = normalised(raw, weight, transposed=name in transposed)
    return Directions(kind="random", first=drawn[0], second=drawn[1], seed=seed)


def trajectory_directions(
    centre: Weights, snapshots: Iterable[Weights], *, transposed: frozenset[str] = frozenset()
) -> Directions:
    """Compute the two principal directions of a run's way to its centre, normalized, and the way's coordinates.

    With D = [Δ_1 … Δ_E] and DᵀD = V·Λ·Vᵀ, an (E, E) matrix, the left singular vectors of D are u_k = D·v_k/√λ_k; their
    explained shares are λ_k/Σλ. No mean is subtracted: the centre is w*. The first snapshot lies on the positive side
    of both. Scaling the filters turns u_k into d_k, which need not be orthogonal, and span another plane; the
    coordinates are those of the nearest point of it: argmin_{a,b} ‖Δ_e − a·d_1 − b·d_2‖₂.

    Args:
        centre: w*, from `plane_parameters`.
        snapshots: w_e of the evaluations before the centre, with the same names; two or more. They are read one by one,
            and of each, only what differs from the centre is kept.
        transposed: from `transposed_names`.

    Shapes:
        explained: two shares of 1; path: one pair per snapshot.

    Raises:
        LopsidedError: with fewer than two snapshots, snapshots of other parameters, or snapshots on one line.

    Source:
        Li et al. 2018, arXiv:1712.09913, section 7; Cadenhead et al. 2026, arXiv:2606.13767.
    """
    with undisturbed(torch.device("cpu")):
        deltas, count = _deltas(centre, snapshots)
        if count < 2:
            raise LopsidedError(
                f"a plane through the trajectory needs at least 2 snapshots before the centre, got {count}; raise "
                "--evaluations in training, or take random directions"
            )
        # DᵀD is as small as the number of snapshots, and has D's right singular vectors; D itself would not fit.
        values, vectors = np.linalg.eigh(_gram(deltas, count))
        # From the largest eigenvalue.
        values, vectors = values[::-1], vectors[:, ::-1]
        if not values[1] > FLAT * values[0]:
            raise LopsidedError(
                f"expected snapshots that span a plane, got {count} on one line through the centre; take "
                "random directions"
            )
        plane: list[dict[str, Tensor]] = []
        for k in range(2):
            # u_k's coordinate of the first snapshot is √λ_k·V[0, k]: its sign is the one to make positive.
            mix = vectors[:, k] / np.sqrt(values[k]) * (-1.0 if vectors[0, k] < 0 else 1.0)
            plane.append(
                {
                    name: normalised(_combine(mix, parts), centre[name], transposed=name in transposed)
                    for name, parts in deltas.items()
                }
            )
        # After the filters were scaled: the plane is another one now.
        path = _coordinates(plane, deltas, count)
    shares = values[:2] / values.sum()
    return Directions(
        kind="trajectory",
        first=plane[0],
        second=plane[1],
        explained=(float(shares[0]), float(shares[1])),
        path=tuple((float(a), float(b)) for a, b in path),
    )


def normalised(direction: Tensor, weight: Tensor, *, transposed: bool = False) -> Tensor:
    """Return the direction with every filter scaled to the norm of the weight's filter.

    Shapes:
        direction, weight: (d_out, …), or (d_in, d_out) where transposed.

    Example:
        >>> normalised(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
        tensor([[0., 5.],
                [0., 0.]])
    """
    own, wanted = (_norms(part, transposed) for part in (direction, weight))
    factors = torch.where(own > 0, wanted / own.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return _scaled(direction, factors, transposed)


def within(change: Tensor, weight: Tensor, radius: float, *, transposed: bool = False) -> Tensor:
    """Return the nearest change that moves no filter by more than the radius times its own norm.

    Shapes:
        change, weight: (d_out, …), or (d_in, d_out) where transposed.

    Example:
        >>> within(torch.tensor([[0.0, 2.0], [0.0, 0.1]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]]), 0.2)
        tensor([[0.0000, 1.0000],
                [0.0000, 0.1000]])
    """
    own, most = (_norms(part, transposed) for part in (change, weight))
    factors = (radius * most / own.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1.0)
    return _scaled(change, factors, transposed)


def _norms(part: Tensor, transposed: bool) -> Tensor:
    """Of each filter, in float64: the square of a small float32 would flush."""
    return (part.t() if transposed else part.flatten(1)).detach().double().norm(dim=1)


def _scaled(part: Tensor, factors: Tensor, transposed: bool) -> Tensor:
    shape = (1, -1) if transposed else (-1, *(1 for _ in part.shape[1:]))
    return (part * factors.view(shape)).to(torch.float32)


def _deltas(centre: Weights, snapshots: Iterable[Weights]) -> tuple[dict[str, list[Tensor]], int]:
    """Δ_e of every parameter in which any snapshot differs from the centre, and E."""
    by_snapshot: list[dict[str, Tensor]] = []
    for snapshot in snapshots:
        moved: dict[str, Tensor] = {}
        for name, weight in centre.items():
            if name not in snapshot or snapshot[name].shape != weight.shape:
                raise LopsidedError(
                    f"expected snapshots of the centre's parameters, got one where {name} is missing or of another "
                    "shape; pass snapshots of the same model"
                )
            delta = snapshot[name].detach().float() - weight.detach().float()
            if not all_finite(delta):
                raise LopsidedError(f"expected finite snapshots, got NaN or Inf in {name}; take random directions")
            # An adapter leaves most of a model alone, and what it left alone is not kept.
            if bool(delta.any()):
                moved[name] = delta
        by_snapshot.append(moved)
    names = [name for name in centre if any(name in moved for moved in by_snapshot)]
    zeros = {name: torch.zeros_like(centre[name], dtype=torch.float32, requires_grad=False) for name in names}
    return {name: [moved.get(name, zeros[name]) for moved in by_snapshot] for name in names}, len(by_snapshot)


def _gram(deltas: Mapping[str, list[Tensor]], count: int) -> np.ndarray:
    """⟨Δ_e, Δ_f⟩ summed over all parameters: (E, E), float64."""
    gram = np.zeros((count, count))
    for parts in deltas.values():
        for e in range(count):
            for f in range(e + 1):
                gram[e, f] += _dot(parts[e], parts[f])
    return gram + np.tril(gram, -1).T


def _coordinates(
    directions: Sequence[Mapping[str, Tensor]], deltas: Mapping[str, list[Tensor]], count: int
) -> np.ndarray:
    """Coordinates by least squares onto the plane: (E, 2)."""
    # The normal equations, summed over parameters: ⟨d_i, d_j⟩ and ⟨d_i, Δ_e⟩.
    plane, onto = np.zeros((2, 2)), np.zeros((2, count))
    for name, parts in deltas.items():
        for i in range(2):
            for j in range(2):
                plane[i, j] += _dot(directions[i][name], directions[j][name])
            for e, part in enumerate(parts):
                onto[i, e] += _dot(directions[i][name], part)
    # The filters' scales can make two directions one: then the shortest of the solutions.
    return np.linalg.lstsq(plane, onto, rcond=1e-12)[0].T


def _combine(mix: np.ndarray, parts: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(parts[0])
    for share, part in zip(mix, parts, strict=True):
        total.add_(part, alpha=float(share))
    return total


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1).double(), b.reshape(-1).double()))
