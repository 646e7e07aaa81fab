"""Words about figures: numbers in a line of text, and sentences about methods."""

from __future__ import annotations

from collections.abc import Sequence

from lopsided.formatting import MISSING, is_finite, joined


def short_number(value: float | None, form: str = ".3g") -> str:
    """Return a number as text, or a dash for one that is missing or not finite.

    Example:
        >>> short_number(0.51234, ".2f"), short_number(None), short_number(float("nan"))
        ('0.51', '–', '–')
    """
    return f"{value:{form}}" if is_finite(value) else MISSING


def without(sentence: str, labels: Sequence[str], what: str) -> str:
    """Return a sentence about methods that ends with those which a figure leaves out, if there are any.

    Example:
        >>> without("Each mark is a gap.", ["cla"], "a gap"), without("Each mark is a gap.", [], "a gap")
        ('Each mark is a gap; left out, without a gap: cla.', 'Each mark is a gap.')
    """
    return f"{sentence.removesuffix('.')}; left out, without {what}: {joined(labels)}." if labels else sentence


def chooses_nothing(label: str) -> str:
    """Return what a figure means that has a single method in it."""
    return f"Only {label} has these figures, so they choose nothing."
