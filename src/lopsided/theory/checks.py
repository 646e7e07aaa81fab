"""Checks of the numbers that formulas take in."""

from __future__ import annotations

import math

from lopsided.errors import LopsidedError


def check_positive(**numbers: float) -> None:
    """Raise unless every number is positive and finite.

    Example:
        >>> check_positive(n=0)
        Traceback (most recent call last):
        ...
        lopsided.errors.LopsidedError: n must be a positive, finite number, got 0; correct it
    """
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise LopsidedError(f"{name} must be a positive, finite number, got {value}; correct it")


def check_not_negative(**numbers: float) -> None:
    """Raise unless every number is zero or more, and finite."""
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise LopsidedError(f"{name} must be a finite number, zero or more, got {value}; correct it")


def check_probability(**numbers: float) -> None:
    """Raise unless every number lies strictly between 0 and 1."""
    for name, value in numbers.items():
        if not 0 < value < 1:
            raise LopsidedError(f"{name} is a probability between 0 and 1, got {value}; correct it")
