"""Checks for NaN and Inf: one function for numbers, one for tensors, one for a figure per row, with the same words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from lopsided.errors import LopsidedError

if TYPE_CHECKING:
    # The verbs that only print numbers do not wait for torch.
    from torch import Tensor


def is_finite(value: float | None) -> TypeGuard[float]:
    """Return whether `value` is a number that can be written and plotted.

    Example:
        >>> is_finite(0.5), is_finite(float("inf")), is_finite(None)
        (True, False, False)
    """
    return value is not None and math.isfinite(value)


def finite_or_none(value: float | None) -> float | None:
    """Return the number, or None in place of NaN and infinities, which JSON has no word for."""
    return value if is_finite(value) else None


def all_finite(*tensors: Tensor) -> bool:
    """Return whether no entry of the tensors is NaN or infinite.

    Example:
        >>> import torch
        >>> all_finite(torch.zeros(2), torch.tensor([1, 2])), all_finite(torch.tensor([0.0, torch.nan]))
        (True, False)
    """
    return all(_is_finite(_comparable(tensor)) for tensor in tensors)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return bool(tensor.isfinite().all())
    # NaN is the least and the greatest of whatever it is in. This needs no mask of the tensor's size.
    return all(bool(end.isfinite()) for end in tensor.aminmax())


def check_finite(what: str, *tensors: Tensor, fix: str) -> None:
    """Raise unless the tensors are finite.

    Args:
        what: names the tensors in the error.
        fix: what the user can do.

    Raises:
        LopsidedError: if an entry is NaN or infinite.
    """
    if not all_finite(*tensors):
        raise LopsidedError(f"{what} holds NaN or Inf; expected finite numbers; {fix}")


def rows_not_finite(what: str, values: np.ndarray, *, allow_infinite: bool = False) -> str:
    """Return why a figure per row cannot be used, or "" if it is finite in every row.

    Args:
        what: the figure, for the text.
        values: one per row.
        allow_infinite: whether only NaN counts, as for a loss that may overflow.

    Example:
        >>> rows_not_finite("loss", np.array([0.5, np.nan]))
        'the loss of 1 of 2 rows is not finite'
    """
    bad = int((np.isnan(values) if allow_infinite else ~np.isfinite(values)).sum())
    return f"the {what} of {bad} of {len(values)} rows is not finite" if bad else ""


def _comparable(tensor: Tensor) -> Tensor:
    # torch cannot tell what is finite in 8-bit floats.
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
