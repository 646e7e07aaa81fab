"""W + ΔW as the code of a module sees it that multiplies with its parameter itself.

Notation: W is a matrix of (a, b) or a stack of E of them, (E, a, b), as the code holds it just now, perhaps turned or
indexed. ΔW is a sum of products L·R with L of (…, a, k) and R of (…, k, b), either of which may be a choice of rows or
columns, kept as indices (…, k).

`LowRankWeight` is a tensor to torch's functions. The products that experts and routers are made of are computed as
x·W + (x·L)·R, in which an update far below W's own rounding is not lost and no gradient of W's size arises. Any other
function gets W + ΔW written out, which is the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lopsided.errors import LopsidedError


@dataclass(frozen=True)
class Chosen:
    """A choice of k of the `width` rows or columns, per matrix: indices of (…, k)."""

    indices: Tensor
    width: int

    def __getitem__(self, index: Any) -> Chosen:
        return Chosen(self.indices[index], self.width)


@dataclass(frozen=True)
class Piece:
    """One product L·R of ΔW, the scale in it.

    Shapes:
        left: (…, a, k), or `Chosen` among a rows.
        right: (…, k, b), or `Chosen` among b columns.
    """

    left: Tensor | Chosen
    right: Tensor | Chosen

    def turned(self) -> Piece:
        """Return the piece of the transpose."""
        return Piece(_turned(self.right), _turned(self.left))

    def at(self, index: Any) -> Piece:
        """Return the piece of some matrices of the stack."""
        return Piece(self.left[index], self.right[index])


def _turned(factor: Tensor | Chosen) -> Tensor | Chosen:
    return factor if isinstance(factor, Chosen) else factor.mT


class LowRankWeight(Tensor):
    """W + ΔW: see the module."""

    # Set by `around`.
    base: Tensor
    pieces: tuple[Piece, ...]

    @classmethod
    def around(cls, base: Tensor, pieces: tuple[Piece, ...]) -> LowRankWeight:
        """Return W + ΔW.

        Args:
            base: W.
        """
        weight = torch.empty_like(base, device="meta").as_subclass(cls)
        weight.base, weight.pieces = base, pieces
        return weight

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        handler = HANDLERS.get(name) or PROPERTIES.get(func)
        said = {word: value for word, value in kwargs.items() if value is not None}
        # Other words, as `input=` or `out=`, are for the function itself.
        if handler is not None and said.keys() <= KEYWORDS:
            found = handler(func, *args, **said)
            if found is not NotImplemented:
                return found
        if name in METADATA or func in METADATA_PROPERTIES:
            return func(*tree_map_only(LowRankWeight, lambda w: w.base, args), **kwargs)
        if name == "data_ptr":
            raise LopsidedError(
                "a kernel reads adapted experts past torch's functions; expected one that torch knows; load the model "
                "with experts_implementation='grouped_mm' or 'eager'"
            )
        args, kwargs = tree_map_only(LowRankWeight, lambda w: written_out(w.base, w.pieces), (args, kwargs))
        return func(*args, **kwargs)


def written_out(base: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """Return W + ΔW as a plain tensor of W's dtype, each product added in the wider dtype of the two."""
    out = base
    for piece in pieces:
        out = _add_product(out, piece)
    return out


# -- x·L·R ---------------------------------------------------------------------------------------------------------


def _read(x: Tensor, factor: Tensor | Chosen) -> Tensor:
    """Return x·L: (n, a) or (E, n, a) -> (…, n, k)."""
    if isinstance(factor, Tensor):
        return _product(x, factor)
    if factor.indices.dim() == 1:
        return x.index_select(-1, factor.indices)
    return x.gather(-1, factor.indices.unsqueeze(-2).expand(*x.shape[:-1], -1))


def _add(out: Tensor, hidden: Tensor, factor: Tensor | Chosen) -> Tensor:
    """Return out + h·R: (…, n, k) -> (…, n, b)."""
    if isinstance(factor, Tensor):
        return out + _product(hidden, factor).to(out.dtype)
    indices, hidden = factor.indices, hidden.to(out.dtype)
    if indices.dim() == 1:
        return out.index_add(-1, indices, hidden)
    return out.scatter_add(-1, indices.unsqueeze(-2).expand(hidden.shape), hidden)


def _product(x: Tensor, factor: Tensor) -> Tensor:
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(factor.dtype)
    return torch.matmul(x, factor)


def _add_product(out: Tensor, piece: Piece) -> Tensor:
    """Return out + L·R, in out's dtype."""
    left, right = piece.left, piece.right
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return (out + left @ right).to(out.dtype)
    if isinstance(left, Tensor):
        return _added_columns(out, left, right)
    if isinstance(right, Tensor):
        return _added_columns(out.mT, right.mT, left).mT
    # Both are choices: ones at the k crossings.
    ones = torch.zeros(*left.indices.shape[:-1], left.width, left.indices.shape[-1], device=out.device, dtype=out.dtype)
    return _added_columns(out, ones.scatter(-2, left.indices.unsqueeze(-2), 1.0), right)


def _added_columns(out: Tensor, values: Tensor, columns: Any) -> Tensor:
    """Return `out` with values of (…, a, k) added to the chosen columns, in the wider dtype, rounded once."""
    wide = out.to(torch.promote_types(out.dtype, values.dtype))
    indices = columns.indices.unsqueeze(-2).expand(values.shape)
    return wide.scatter_add(-1, indices, values.to(wide.dtype)).to(out.dtype)


# -- functions of torch ----------------------------------------------------------------------------------------------


def _linear(func: Any, x: Any, weight: Any, bias: Tensor | None = None) -> Any:
    if not isinstance(weight, LowRankWeight) or isinstance(x, LowRankWeight) or weight.base.dim() != 2:
        return NotImplemented
    out = func(x, weight.base, bias)
    for piece in weight.pieces:
        turned = piece.turned()
        out = _add(out, _read(x, turned.left), turned.right)
    return out


def _matmul(func: Any, x: Any, other: Any) -> Any:
    if isinstance(x, LowRankWeight) and isinstance(other, Tensor) and not isinstance(other, LowRankWeight):
        # W·x = (xᵀ·Wᵀ)ᵀ.
        found = _matmul(func, other.mT, _transposed(x)) if other.dim() == x.base.dim() >= 2 else NotImplemented
        return found if found is NotImplemented else found.mT
    if not isinstance(other, LowRankWeight) or not isinstance(x, Tensor):
        return NotImplemented
    if other.base.dim() == 3 and (x.dim() != 3 or len(x) != len(other.base)):
        return NotImplemented
    out = func(x, other.base)
    for piece in other.pieces:
        out = _add(out, _read(x, piece.left), piece.right)
    return out


def _grouped(func: Any, x: Any, weight: Any, offs: Any = None) -> Any:
    """x of (S, a), sorted by matrix: rows up to offs[0] with the first one, and so on."""
    if not isinstance(weight, LowRankWeight) or offs is None or weight.base.dim() != 3 or x.dim() != 2:
        return NotImplemented
    out = func(x, weight.base, offs=offs)
    parts, start = [], 0
    for index, end in enumerate(offs.tolist()):
        if end > start:
            part = out[start:end]
            for piece in weight.pieces:
                one = piece.at(index)
                part = _add(part, _read(x[start:end], one.left), one.right)
            parts.append(part)
        start = end
    # Rows past the last group belong to no expert here.
    return torch.cat([*parts, out[start:]])


def _item(func: Any, weight: Any, index: Any) -> Any:
    whole = isinstance(index, int) and not isinstance(index, bool)
    listed = isinstance(index, Tensor) and index.dim() <= 1 and index.dtype in (torch.int64, torch.int32)
    if not isinstance(weight, LowRankWeight) or weight.base.dim() != 3 or not (whole or listed):
        return NotImplemented
    return LowRankWeight.around(weight.base[index], tuple(piece.at(index) for piece in weight.pieces))


def _transposed(weight: LowRankWeight) -> LowRankWeight:
    return LowRankWeight.around(weight.base.mT, tuple(piece.turned() for piece in weight.pieces))


def _transpose(func: Any, weight: Any, dim0: int, dim1: int) -> Any:
    dims = weight.base.dim()
    swaps = {dim0 % dims, dim1 % dims} == {dims - 2, dims - 1}
    return _transposed(weight) if swaps else NotImplemented


def _property(func: Any, weight: Any) -> Any:
    return _transposed(weight) if weight.base.dim() == 2 or func == MATRIX_TRANSPOSE else NotImplemented


def _t(func: Any, weight: Any) -> Any:
    return _transposed(weight)


def _bound(tensor: str) -> Any:
    return vars(torch._C.TensorBase)[tensor].__get__


MATRIX_TRANSPOSE = _bound("mT")
Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {
    "linear": _linear,
    **dict.fromkeys(("matmul", "__matmul__", "bmm", "mm"), _matmul),
    **dict.fromkeys(("grouped_mm", "_grouped_mm", "grouped_mm_fallback"), _grouped),
    "__getitem__": _item,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
    "t": _t,
}
KEYWORDS = frozenset(("weight", "bias", "offs", "dim0", "dim1"))
PROPERTIES: dict[Any, Handler] = {MATRIX_TRANSPOSE: _property, _bound("T"): _property}
# What a parameter says of itself without its numbers.
METADATA = frozenset(
    (
        *("size", "dim", "stride", "numel", "nelement", "element_size", "is_contiguous", "is_floating_point"),
        *("__len__", "get_device"),
    )
)
METADATA_PROPERTIES = frozenset(
    _bound(name)
    for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_cpu", "is_meta", "itemsize", "nbytes")
)
