"""How alike the factors of several tuned models are, layer by layer.

Notation: B of (d_out, r) is compared by its columns, A of (r, d_in) by its rows, so each by a space of r dimensions
(`theory.similarity`). Random spaces are as similar as r/d, where d is d_out for B and d_in for A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lopsided.diagnose.tuned_model import Subject
from lopsided.errors import LopsidedError
from lopsided.finite import all_finite
from lopsided.theory.subspaces import basis, similarity

LETTERS = ("B", "A")


def similarities(subjects: Sequence[Subject]) -> dict[str, dict[str, Any]]:
    """Every subject's factors beside every other one's.

    A pair gets the mean over the layers that both have, of equal widths and with a factor that is not zero; None if
    there is no such layer, as with full fine-tuning.

    Returns:
        By id: `B` and `A`, each by the other subject's id; `layers`: how many layers each of these is the mean of, and
        under `of`, how many the subject has; and `chance`: the mean of r/d over the subject's own layers, by letter, or
        None.

    Raises:
        LopsidedError: for fewer than two subjects, or the same one twice.
    """
    ids = [subject.id for subject in subjects]
    if len(subjects) < 2:
        raise LopsidedError(f"expected at least two runs to compare, got {len(subjects)}; name another one")
    if len(set(ids)) < len(ids):
        twice = next(subject.name for subject in subjects if ids.count(subject.id) > 1)
        raise LopsidedError(f"{twice} was named twice; expected different runs; leave one of them out")
    factors = {subject.id: subject.factors for subject in subjects}
    bases = {subject.id: {letter: bases_of(subject, letter) for letter in LETTERS} for subject in subjects}
    return {
        mine: {
            **{
                letter: {other: between(*_pair(bases, mine, other, letter)) for other in ids if other != mine}
                for letter in LETTERS
            },
            "layers": {
                letter: {
                    other: len(_shared(bases[mine][letter], bases[other][letter])) for other in ids if other != mine
                }
                for letter in LETTERS
            }
            | {"of": {letter: len(factors[mine].get(letter, {})) for letter in LETTERS}},
            "chance": {letter: chance(bases[mine][letter]) for letter in LETTERS},
        }
        for mine in ids
    }


def bases_of(subject: Subject, letter: str) -> dict[str, np.ndarray]:
    """Orthonormal bases of what is compared of a factor, by module: (d, rank)

    Factors that are zero, or hold NaN or Inf, span nothing that could be compared, and are left out.
    """
    factors = {m: X for m, X in subject.factors.get(letter, {}).items() if all_finite(X)}
    found = {module: basis((X if letter == "B" else X.T).numpy()) for module, X in factors.items()}
    return {module: Q for module, Q in found.items() if Q.shape[1] > 0}


def between(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float | None:
    """The mean similarity over the modules that both have, of equal widths."""
    shared = _shared(first, second)
    if not shared:
        return None
    return float(np.mean([similarity(first[module], second[module]) for module in shared]))


def _pair(
    bases: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], one: str, other: str, letter: str
) -> list[Mapping[str, np.ndarray]]:
    """In one order whichever of the two is asked: rounding must not make a similarity unlike its mirror."""
    return [bases[id][letter] for id in sorted((one, other))]


def _shared(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> list[str]:
    return [module for module in first if module in second and len(first[module]) == len(second[module])]


def chance(bases: Mapping[str, np.ndarray]) -> float | None:
    """r/d, mean over the layers; what a random space of any smaller rank would have."""
    return float(np.mean([Q.shape[1] / Q.shape[0] for Q in bases.values()])) if bases else None
