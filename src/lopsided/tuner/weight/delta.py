"""ΔW = Σ s·B·A, with the same bits whoever computes it, one tile at a time.

Notation: a part is Σ_t s·B_t·A_t over the links t of one adapter, with A_t of (r, d_in) and B_t of (d_out, r), and
K = Σ r_t. ΔW is the sum of the parts.

The invariant: what is added to a weight is computed once more when it is taken out again, perhaps with another number
of threads, on another device or under another matmul precision, and must come out with the same bits. So no sum here
depends on its order:

    dense factors   are multiplied without rounding errors, in groups of few inner indices: see `exact_product`
    selectors       need no product; their columns (or rows) are added in float64, one link at a time
    the rest        groups, selected links and parts are added in float64, elementwise and in a fixed order

ΔW of a large layer is never in memory as a whole: callers walk over tiles of the region that the parts can change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lopsided.tuner.forward.compute import Selected, Term
from lopsided.tuner.weight.exact_product import FEW, MANY, ExactProduct


@dataclass(frozen=True)
class Part:
    """What one adapter adds: s·Σ B_t·A_t.

    Args:
        terms: one per link, in the order of the links, of float32 or narrower.
        scaling: s.
        copied: bytes of those tensors that exist for this part alone, and not for the adapter anyway.
        gain: by what the weight is multiplied once this part is in it, as DoRA does; None for nothing.

    Shapes:
        gain: (d_out, 1) or (1, d_in).
    """

    terms: tuple[Term, ...]
    scaling: float
    copied: int = 0
    gain: Tensor | None = None


# -- where ΔW is not zero ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """The entries of a (d_out, d_in) matrix that some parts can change: all, some columns, or some rows.

    Args:
        height, width: how many rows and columns the region has; tiles are slices of these.
        rows, columns: sorted indices on the CPU, at most one of the two; None stands for all.
    """

    height: int
    width: int
    rows: Tensor | None = None
    columns: Tensor | None = None

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Region:
        """Return the region of some parts: narrow only where every term has a selector on the same side."""
        terms = [term for part in parts for term in part.terms]
        d_out, d_in = _shape(terms[0])
        if any(part.gain is not None for part in parts):
            return cls(d_out, d_in)
        columns = [term.A.indices for term in terms if isinstance(term.A, Selected)]
        if len(columns) == len(terms):
            union = torch.cat(columns).cpu().unique()
            return cls(d_out, len(union), columns=union) if len(union) < d_in else cls(d_out, d_in)
        rows = [term.B.indices for term in terms if isinstance(term.B, Selected)]
        if len(rows) == len(terms):
            union = torch.cat(rows).cpu().unique()
            return cls(len(union), d_in, rows=union) if len(union) < d_out else cls(d_out, d_in)
        return cls(d_out, d_in)

    @property
    def nbytes(self) -> int:
        """The bytes that the indices take."""
        return sum(indices.nbytes for indices in (self.rows, self.columns) if indices is not None)

    def tiles(self, entries: int) -> Iterator[tuple[slice, slice]]:
        """Yield tiles of at most so many entries, in the region's own coordinates."""
        rows = min(self.height, 128)
        columns = min(self.width, max(entries // rows, 1))
        rows = min(self.height, max(entries // columns, 1))
        for top in range(0, self.height, rows):
            for left in range(0, self.width, columns):
                yield slice(top, min(top + rows, self.height)), slice(left, min(left + columns, self.width))

    def read(self, matrix: Tensor, rows: slice, columns: slice) -> Tensor:
        """Return one tile of the matrix, contiguous: a copy, or the matrix's own numbers where they lie so."""
        if self.columns is not None:
            return matrix[rows].index_select(1, self.columns[columns].to(matrix.device))
        if self.rows is not None:
            return matrix[:, columns].index_select(0, self.rows[rows].to(matrix.device))
        tile = matrix[rows, columns]
        # A tile of one column counts as contiguous whatever its stride is.
        return tile.contiguous() if tile.stride(1) == 1 else tile.clone(memory_format=torch.contiguous_format)

    def write(self, matrix: Tensor, rows: slice, columns: slice, tile: Tensor) -> None:
        """Put a tile back to where `read` found it."""
        if self.columns is not None:
            matrix[rows].index_copy_(1, self.columns[columns].to(matrix.device), tile)
        elif self.rows is not None:
            matrix[:, columns].index_copy_(0, self.rows[rows].to(matrix.device), tile)
        else:
            matrix[rows, columns].copy_(tile)


# -- ΔW ----------------------------------------------------------------------------------------------------------


class Delta:
    """ΔW of some parts on one device, over their region. Create it and call `tile` inside `undisturbed`.

    A factor with NaN or Inf gives NaN or Inf in the entries of ΔW that it reaches.

    Args:
        region: at least that of the parts, and that by default.
    """

    def __init__(self, parts: Sequence[Part], device: torch.device, region: Region | None = None) -> None:
        self.region = Region.of(parts) if region is None else region
        self._sums = [_PartSum(part, self.region, device) for part in parts]

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Return a tile of ΔW, in the coordinates of the region, in float64."""
        total, *others = (part.tile(rows, columns) for part in self._sums)
        for other in others:
            total.add_(other)
        return total


def delta_weight(terms: Sequence[Term], scaling: float, device: torch.device) -> Tensor:
    """Return ΔW = s·Σ B_t·A_t in float32, rounded once, bit for bit what a write of these terms adds to a weight.

    Shapes:
        -> (d_out, d_in)
    """
    with undisturbed(device):
        delta = Delta([Part(tuple(terms), scaling)], device)
        out = torch.zeros(_shape(terms[0]), dtype=torch.float32, device=device)
        for tile in delta.region.tiles(tile_entries(device)):
            delta.region.write(out, *tile, delta.tile(*tile).float())
    return out


def tile_entries(device: torch.device) -> int:
    """Return how many entries are worked on at once: what stays in a core's cache, or what fills an accelerator."""
    return 3 * 2**15 if device.type == "cpu" else 2**20


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Compute sums as they are written inside the context, whatever autocast and flushing of denormals say.

    The latter reaches the calling thread only, so with it on a result would depend on the number of threads. One thread
    computes: tiles are so small that waking a second one can take longer than its half of the work.
    """
    # torch has no question for it: the smallest denormal number is zero where it is on. It is the processor's setting,
    # whatever torch's default device is.
    flushing = bool(torch.full((), 5e-324, dtype=torch.float64, device="cpu").mul(1.0) == 0)
    threads = torch.get_num_threads()
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_flush_denormal(flushing)
        torch.set_num_threads(threads)


def _shape(term: Term) -> tuple[int, int]:
    """Return (d_out, d_in)."""
    d_out = term.B.width if isinstance(term.B, Selected) else term.B.shape[0]
    return d_out, term.A.width if isinstance(term.A, Selected) else term.A.shape[1]


class _PartSum:
    """One part of ΔW: its dense links in groups, and its selected links one by one."""

    def __init__(self, part: Part, region: Region, device: torch.device) -> None:
        self._scaling, self._device = part.scaling, device
        dense: list[tuple[Tensor, Tensor]] = []
        # (values, positions in the region, the dimension that they count along)
        self._selected: list[tuple[Tensor, Tensor, int]] = []
        for term in part.terms:
            # Kept as narrow as the adapter has them, and widened while ΔW is computed.
            A, B = (f if isinstance(f, Selected) else f.detach().to(device, torch.float32) for f in (term.A, term.B))
            if isinstance(A, Selected) and isinstance(B, Selected):
                B = B.matrix().T.to(device)
            if isinstance(A, Selected):
                assert isinstance(B, Tensor)
                self._selected.append((B, _positions(A, region.columns), 1))
            elif isinstance(B, Selected):
                self._selected.append((A, _positions(B, region.rows), 0))
            else:
                dense.append((B, A))
        precision = FEW if sum(len(A) for _, A in dense) <= FEW.depth else MANY
        # In float64 the factors are twice as large; rounded again for each tile they cost a quarter more time.
        kept = sum(B.numel() + A.numel() for B, A in dense) <= 2 * tile_entries(device)
        self._groups = [ExactProduct(pairs, precision.bits, kept) for pairs in _grouped(dense, precision.depth)]

    def tile(self, rows: slice, columns: slice) -> Tensor:
        # The groups first, in their order, and then the selected links in theirs: the order is part of the result.
        products = [group.tile(rows, columns) for group in self._groups[:1]]
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        total = products[0] if products else torch.zeros(shape, dtype=torch.float64, device=self._device)
        for group in self._groups[1:]:
            total.add_(group.tile(rows, columns))
        for values, positions, dim in self._selected:
            # Of a link's selected columns (or rows), those that lie in this tile.
            span = (rows, columns)[dim]
            inside = ((positions >= span.start) & (positions < span.stop)).nonzero()[:, 0]
            across = values[rows] if dim == 1 else values[:, columns]
            addends = across.index_select(dim, inside.to(self._device)).double()
            # No index comes twice within a link, so this sum has no order.
            total.index_add_(dim, (positions[inside] - span.start).to(self._device), addends)
        return total.mul_(self._scaling)


def _positions(selected: Selected, union: Tensor | None) -> Tensor:
    """Return where the selected indices lie among the region's: on the CPU."""
    indices = selected.indices.cpu()
    return indices if union is None else torch.searchsorted(union, indices)


def _grouped(pairs: Sequence[tuple[Tensor, Tensor]], depth: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield the pairs (B, A) in their order, cut so that each list has at most so many inner indices."""
    group: list[tuple[Tensor, Tensor]] = []
    room = depth
    for B, A in pairs:
        start = 0
        while start < len(A):
            stop = min(start + room, len(A))
            group.append((B[:, start:stop], A[start:stop]))
            room -= stop - start
            start = stop
            if room == 0:
                yield group
                group, room = [], depth
    if group:
        yield group
