"""Sentences about methods, as figures and pages need them."""

from __future__ import annotations

from collections.abc import Sequence


def joined(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    Example:
        >>> joined(["lora"]), joined(["lora", "cla"]), joined(["lora", "cla", "paca"])
        ('lora', 'lora and cla', 'lora, cla and paca')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def without(sentence: str, labels: Sequence[str], what: str) -> str:
    """Return a sentence about methods that ends with those which a figure leaves out, if there are any.

    Example:
        >>> without("Each mark is a gap.", ["cla"], "a gap"), without("Each mark is a gap.", [], "a gap")
        ('Each mark is a gap; left out, without a gap: cla.', 'Each mark is a gap.')
    """
    return f"{sentence.removesuffix('.')}; left out, without {what}: {joined(labels)}." if labels else sentence


def chooses_nothing(label: str) -> str:
    """Return what a figure means that has a single method in it."""
    return f"Only {label} has these figures, so they do not help to choose."
