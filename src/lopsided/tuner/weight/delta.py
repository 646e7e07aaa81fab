"""ΔW = Σ s·B·A, with the same bits whoever computes it, a tile at a time.

Notation: a part is Σ_t s·B_t·A_t over the links t of one adapter, with A_t of (r, d_in) and B_t of (d_out, r), and
K = Σ r_t. ΔW is the sum of the parts.

What is added to a weight has to be computed once more to be taken out again, perhaps with another number of threads, on
another device or under another matmul precision, all of which change the order of a sum. So no sum here depends on its
order:

    dense factors   are rounded to fixed point: each row of B and each column of A to 24 bits below its own largest
                    entry, 23 if K > 32. A product of two of them is then a multiple of one unit per entry of ΔW, and a
                    sum of 32 (128) such products stays below 2⁵³ units: float64 holds every partial sum exactly.
    selectors       need no product; their columns (or rows) are added in float64, one link at a time.

Groups of so many inner indices, selected links and parts are added in float64, elementwise and in a fixed order.
Source: the splitting of Ozaki, Ogita, Oishi and Rump 2012, doi:10.1007/s11075-011-9478-1, with one piece a factor,
since a float32 factor has 24 bits itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lopsided.tuner.forward.compute import Selected, Term

# (inner indices of a group, bits of a factor): few get the most bits, many need fewer groups. Float64 has 53.
FEW, MANY, DOUBLE = (32, 24), (128, 23), 53
assert all(2 * bits + depth.bit_length() - 1 <= DOUBLE for depth, bits in (FEW, MANY))


@dataclass(frozen=True)
class Part:
    """What one adapter adds: s·Σ B_t·A_t.

    Args:
        terms: one a link, in the order of the links, of float32 or narrower.
        scaling: s.
        copied: bytes of those factors that exist for this part alone, and not for the adapter anyway.
    """

    terms: tuple[Term, ...]
    scaling: float
    copied: int = 0


@dataclass(frozen=True)
class Region:
    """The entries of a (d_out, d_in) matrix that some parts can change: all, some columns, or some rows.

    Args:
        rows, columns: sorted indices on the CPU, at most one of the two; None stands for all.
    """

    height: int
    width: int
    rows: Tensor | None = None
    columns: Tensor | None = None

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Region:
        terms = [term for part in parts for term in part.terms]
        d_out, d_in = _shape(terms[0])
        columns = [term.A.indices for term in terms if isinstance(term.A, Selected)]
        if len(columns) == len(terms):
            chosen = torch.cat(columns).cpu().unique()
            return cls(d_out, len(chosen), columns=chosen) if len(chosen) < d_in else cls(d_out, d_in)
        rows = [term.B.indices for term in terms if isinstance(term.B, Selected)]
        if len(rows) == len(terms):
            chosen = torch.cat(rows).cpu().unique()
            return cls(len(chosen), d_in, rows=chosen) if len(chosen) < d_out else cls(d_out, d_in)
        return cls(d_out, d_in)

    @property
    def nbytes(self) -> int:
        return sum(chosen.nbytes for chosen in (self.rows, self.columns) if chosen is not None)

    def tiles(self, entries: int) -> Iterator[tuple[slice, slice]]:
        """Tiles of at most so many entries, in the region's own coordinates."""
        rows = min(self.height, 128)
        columns = min(self.width, max(entries // rows, 1))
        rows = min(self.height, max(entries // columns, 1))
        for top in range(0, self.height, rows):
            for left in range(0, self.width, columns):
                yield slice(top, min(top + rows, self.height)), slice(left, min(left + columns, self.width))

    def read(self, matrix: Tensor, rows: slice, columns: slice) -> Tensor:
        """One tile of the matrix, contiguous: a copy, or the matrix's own numbers where they lie so."""
        if self.columns is not None:
            return matrix[rows].index_select(1, self.columns[columns].to(matrix.device))
        if self.rows is not None:
            return matrix[:, columns].index_select(0, self.rows[rows].to(matrix.device))
        tile = matrix[rows, columns]
        # A tile of one column counts as contiguous whatever its stride is.
        return tile.contiguous() if tile.stride(1) == 1 else tile.clone(memory_format=torch.contiguous_format)

    def write(self, matrix: Tensor, rows: slice, columns: slice, tile: Tensor) -> None:
        if self.columns is not None:
            matrix[rows].index_copy_(1, self.columns[columns].to(matrix.device), tile)
        elif self.rows is not None:
            matrix[:, columns].index_copy_(0, self.rows[rows].to(matrix.device), tile)
        else:
            matrix[rows, columns].copy_(tile)


class Delta:
    """ΔW of some parts on one device, over their region. Both calls belong into `undisturbed`.

    A factor with NaN or Inf gives NaN or Inf in the entries of ΔW that it reaches.
    """

    def __init__(self, parts: Sequence[Part], device: torch.device) -> None:
        self.region = Region.of(parts)
        self._sums = [_Sum(part, self.region, device) for part in parts]

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """A tile of ΔW, in the coordinates of the region, in float64."""
        total, *others = (one.tile(rows, columns) for one in self._sums)
        for other in others:
            total.add_(other)
        return total


def delta_weight(terms: Sequence[Term], scaling: float, device: torch.device) -> Tensor:
    """ΔW = s·Σ B_t·A_t in float32, rounded once, bit for bit what a write of these terms adds to a weight.

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
    """How many entries are worked on at once: what stays in a core's cache, or what fills an accelerator."""
    return 3 * 2**15 if device.type == "cpu" else 2**20


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """While it is entered, sums are computed as they are written, whatever autocast and flushing of denormals say.

    The latter reaches the calling thread only, so with it on a result would depend on the number of threads. One thread
    computes: tiles are so small that waking a second one can take longer than its half of the work.
    """
    flushing = bool(torch.full((), 5e-324, dtype=torch.float64).mul(1.0) == 0)
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
    """(d_out, d_in)"""
    d_out = term.B.width if isinstance(term.B, Selected) else term.B.shape[0]
    return d_out, term.A.width if isinstance(term.A, Selected) else term.A.shape[1]


class _Sum:
    """One part of ΔW."""

    def __init__(self, part: Part, region: Region, device: torch.device) -> None:
        self._scaling, self._device = part.scaling, device
        dense: list[tuple[Tensor, Tensor]] = []
        # (values, positions in the region, the dimension that they count along)
        self._selected: list[tuple[Tensor, Tensor, int]] = []
        for term in part.terms:
            A, B = (f if isinstance(f, Selected) else f.detach().to(device) for f in (term.A, term.B))
            if isinstance(A, Selected) and isinstance(B, Selected):
                B = B.matrix().T.to(device)
            if isinstance(A, Selected):
                assert isinstance(B, Tensor)
                self._selected.append((B, _positions(A, region.columns), 1))
            elif isinstance(B, Selected):
                self._selected.append((A, _positions(B, region.rows), 0))
            else:
                dense.append((B, A))
        depth, bits = FEW if sum(len(A) for _, A in dense) <= FEW[0] else MANY
        # In fixed point they are twice as large as they are; made anew for each tile they cost a quarter more time.
        kept = sum(B.numel() + A.numel() for B, A in dense) <= 2 * tile_entries(device)
        self._groups = [_Group(pairs, bits, kept) for pairs in _grouped(dense, depth)]

    def tile(self, rows: slice, columns: slice) -> Tensor:
        products = [group.product(rows, columns) for group in self._groups[:1]]
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        total = products[0] if products else torch.zeros(shape, dtype=torch.float64, device=self._device)
        for group in self._groups[1:]:
            total.add_(group.product(rows, columns))
        for values, positions, dim in self._selected:
            here = (rows, columns)[dim]
            inside = ((positions >= here.start) & (positions < here.stop)).nonzero()[:, 0]
            across = values[rows] if dim == 1 else values[:, columns]
            chosen = across.index_select(dim, inside.to(self._device)).double()
            total.index_add_(dim, (positions[inside] - here.start).to(self._device), chosen)
        return total.mul_(self._scaling)


def _positions(selected: Selected, chosen: Tensor | None) -> Tensor:
    """Where the selected indices lie among the region's: on the CPU."""
    indices = selected.indices.cpu()
    return indices if chosen is None else torch.searchsorted(chosen, indices)


def _grouped(pairs: Sequence[tuple[Tensor, Tensor]], depth: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The pairs (B, A) in their order, cut so that each list has at most so many inner indices."""
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


class _Group:
    """So few inner indices that their product is exact.

    Column k of B and row k of A are first brought to one size by powers of two c_k⁻¹ and c_k, which leave B·A as it is.
    Without them, a large row of A beside a large column of B, of two links, would take the small ones' last bits.

    Args:
        pairs: (B, A) of each link.
        bits: of a factor in fixed point.
        kept: whether to make the factors in fixed point once, or for each tile.
    """

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], bits: int, kept: bool) -> None:
        self._pairs, everything = pairs, slice(None)
        sizes_B = torch.cat([_exponent(B, 0) for B, _ in pairs])
        sizes_A = torch.cat([_exponent(A, 1) for _, A in pairs])
        shift = (sizes_B - sizes_A) >> 1
        self._less, self._more = _power_of_two(-shift), _power_of_two(shift)[:, None]
        self._anchors_B = _anchors(self._balanced_B(everything), 1, bits)
        self._anchors_A = _anchors(self._balanced_A(everything), 0, bits)
        self._kept = (self._fixed_B(everything), self._fixed_A(everything)) if kept else None

    def product(self, rows: slice, columns: slice) -> Tensor:
        """B·A in fixed point: exact, whatever the order of the sums in it."""
        if self._kept is not None:
            return self._kept[0][rows] @ self._kept[1][:, columns]
        return self._fixed_B(rows) @ self._fixed_A(columns)

    def _balanced_B(self, rows: slice) -> Tensor:
        return torch.cat([B[rows] for B, _ in self._pairs], dim=1).double().mul_(self._less)

    def _balanced_A(self, columns: slice) -> Tensor:
        return torch.cat([A[:, columns] for _, A in self._pairs]).double().mul_(self._more)

    def _fixed_B(self, rows: slice) -> Tensor:
        anchors = self._anchors_B[rows]
        return self._balanced_B(rows).add_(anchors).sub_(anchors)

    def _fixed_A(self, columns: slice) -> Tensor:
        anchors = self._anchors_A[:, columns]
        return self._balanced_A(columns).add_(anchors).sub_(anchors)


def _exponent(x: Tensor, dim: int) -> Tensor:
    """The e of 2ᵉ⁻¹ <= max|x| < 2ᵉ along a dimension."""
    # NaN and Inf have no exponent of their own, and what they reach is not finite whatever its unit.
    return torch.frexp(x.abs().amax(dim).nan_to_num(nan=1.0, posinf=1.0)).exponent


def _power_of_two(exponent: Tensor) -> Tensor:
    """2ᵉ in float64, from its bits: exp2 and ldexp promise no exact powers."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def _anchors(x: Tensor, dim: int, bits: int) -> Tensor:
    """What rounds x, added and taken away, to so many bits below the power of two above max|x| along a dimension.

    The sum with 1.5·2⁵² units has no bits below the unit, and the difference is exact.
    """
    return _power_of_two(_exponent(x, dim) - bits + DOUBLE - 1).mul_(1.5).unsqueeze(dim)
