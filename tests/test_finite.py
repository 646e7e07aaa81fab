"""What counts as NaN or Inf, for numbers, tensors of any dtype, and figures per row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lopsided import LopsidedError
from lopsided.finite import all_finite, check_finite, finite_or_none, is_finite, rows_not_finite


def test_numbers():
    assert [is_finite(value) for value in (0.0, -3, math.nan, math.inf, None)] == [True, True, False, False, False]
    assert [finite_or_none(value) for value in (0.5, math.nan, -math.inf, None)] == [0.5, None, None, None]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_one_bad_entry_of_any_dtype_is_seen(dtype):
    good = torch.tensor([[1.0, -2.0], [0.0, 8.0]]).to(dtype)
    bad = torch.tensor([[1.0, -2.0], [torch.nan, 8.0]]).to(dtype)
    assert all_finite(good)
    assert not all_finite(good, bad)
    check_finite("the update", good, fix="stop")
    with pytest.raises(LopsidedError, match=r"^q: the update holds NaN or Inf; expected finite numbers; go back$"):
        check_finite("q: the update", good, bad, fix="go back")


def test_whole_numbers_nothing_and_infinities():
    assert all_finite()
    assert all_finite(torch.tensor([1, 2]), torch.tensor([True]), torch.empty(0))
    assert not all_finite(torch.tensor(-torch.inf))


def test_rows_are_counted_and_infinities_may_be_allowed():
    values = np.array([0.0, np.nan, np.inf, 1.0])
    assert rows_not_finite("loss", values) == "the loss of 2 of 4 rows is not finite"
    assert rows_not_finite("loss", values, allow_infinite=True) == "the loss of 1 of 4 rows is not finite"
    assert rows_not_finite("loss", np.ones(3)) == ""
