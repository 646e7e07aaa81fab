"""Section: how alike the factors of several tuned models are, layer by layer.

Notation: B of (d_out, r) is compared by its columns, A of (r, d_in) by its rows, so each by a space of r dimensions
(`theory.similarity`). Random spaces are as similar as r/d, where d is d_out for B and d_in for A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lopsided.diagnose.section import Need, Section
from lopsided.diagnose.tuned_model import TunedModel
from lopsided.errors import LopsidedError
from lopsided.finite import all_finite
from lopsided.plotting.figure import DrawnRun, Figure, FigureEntry, RunGroup, diagnosed, mean, rounded
from lopsided.plotting.words import joined
from lopsided.theory.subspaces import basis, similarity

LETTERS = ("B", "A")


def similarities(models: Sequence[TunedModel]) -> dict[str, dict[str, Any]]:
    """Compare every model's factors with every other one's.

    A pair gets the mean over the layers that both have, of equal widths and with a factor that is not zero; None if
    there is no such layer, as with full fine-tuning.

    Returns:
        By id: `B` and `A`, each by the other model's id; `layers`: how many layers each of these is the mean of, and
        under `of`, how many the model has; and `chance`: the mean of r/d over the model's own layers, by letter, or
        None.

    Raises:
        LopsidedError: for fewer than two models, or the same one twice.
    """
    ids = [model.id for model in models]
    if len(models) < 2:
        raise LopsidedError(f"expected at least two runs to compare, got {len(models)}; name another one")
    if len(set(ids)) < len(ids):
        twice = next(model.name for model in models if ids.count(model.id) > 1)
        raise LopsidedError(f"{twice} was named twice; expected different runs; leave one of them out")
    factors = {model.id: model.factors for model in models}
    bases = {model.id: {letter: bases_of(model, letter) for letter in LETTERS} for model in models}
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


def bases_of(model: TunedModel, letter: str) -> dict[str, np.ndarray]:
    """Return orthonormal bases of what is compared of a factor, by module: (d, rank)

    Factors that are zero, or hold NaN or Inf, span nothing that could be compared, and are left out.
    """
    factors = {m: X for m, X in model.factors.get(letter, {}).items() if all_finite(X)}
    bases = {module: basis((X if letter == "B" else X.T).numpy()) for module, X in factors.items()}
    return {module: Q for module, Q in bases.items() if Q.shape[1] > 0}


def between(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float | None:
    """Return the mean similarity over the modules that both have, of equal widths."""
    shared = _shared(first, second)
    if not shared:
        return None
    return float(np.mean([similarity(first[module], second[module]) for module in shared]))


def _pair(
    bases: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], one: str, other: str, letter: str
) -> list[Mapping[str, np.ndarray]]:
    """Return two models' bases in the order of their ids, so that rounding leaves the matrix symmetric."""
    return [bases[id][letter] for id in sorted((one, other))]


def _shared(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> list[str]:
    return [module for module in first if module in second and len(first[module]) == len(second[module])]


def chance(bases: Mapping[str, np.ndarray]) -> float | None:
    """Return r/d, the mean over the layers: what a random space of any smaller rank would have."""
    return float(np.mean([Q.shape[1] / Q.shape[0] for Q in bases.values()])) if bases else None


# -- what the page shows -------------------------------------------------------------------------------------


def draw_similarity(group: RunGroup) -> Figure | None:
    """Draw how alike the factors of every two runs are."""
    members = diagnosed(group.runs, "similarity")
    views = []
    means: dict[str, tuple[float, float | None]] = {}
    for factor in LETTERS:
        values = [[_of_pair(a, b, factor) for b in members] for a in members]
        known = [value for row in values for value in row if value is not None]
        if not known:
            continue
        names = [f"{run.label} {run.seed}" for run in members]
        labels = [run.label for run in members]
        views.append({"name": f"factor {factor}", "names": names, "labels": labels, "values": rounded(values)})
        chances = [run.diagnosis["similarity"].get("chance", {}).get(factor) for run in members]
        means[factor] = (sum(known) / len(known), mean(chances))
    if not views:
        return None
    return Figure(
        key=f"{group.key}-similarity",
        kind="matrix",
        title="Similarity of factors between runs",
        shows=similarity_caption(_fewest(members)),
        means=similarity_meaning(means),
        choose="factor",
        views=views,
    )


def similarity_caption(fewest: tuple[int, int] | None = None) -> str:
    """Return what the figure shows, where a pair shares only some of its layers: how many, of how many."""
    of = "" if fewest is None else f" that both have, {fewest[0]} of {fewest[1]} at the fewest"
    return (
        f"How much of the space of one run's factor lies in another's, the mean over layers{of}; 1 is the same space."
    )


def similarity_meaning(means: Mapping[str, tuple[float, float | None]]) -> str:
    """Return what similarities mean for choosing a method, from each factor's mean and what chance would give."""
    parts = []
    for factor, (value, by_chance) in means.items():
        against = "" if by_chance is None else f" where chance gives {by_chance:.2f}"
        parts.append(f"{factor}'s are {value:.2f}{against}")
    value, by_chance = next(iter(means.values()))
    near = by_chance is not None and value < 3 * by_chance
    end = "so runs end in unrelated spaces" if near else "so runs share a part of what they learn"
    return f"On average {joined(parts)}, {end}: similarity tells how runs relate, not which is better."


def _fewest(members: Sequence[DrawnRun]) -> tuple[int, int] | None:
    """The fewest layers that a pair's similarity is the mean of, and how many the run has; None if all have all."""
    partial = []
    for run in members:
        # Absent in files of version 0.1.0.
        layers = run.diagnosis["similarity"].get("layers")
        for factor in LETTERS if layers else ():
            of = layers["of"][factor]
            partial += [(count, of) for count in layers[factor].values() if 0 < count < of]
    return min(partial, default=None)


def _of_pair(a: DrawnRun, b: DrawnRun, factor: str) -> float | None:
    section = a.diagnosis["similarity"].get(factor) or {}
    return None if a is b else section.get(b.id)


def _compare(models: Sequence[TunedModel]) -> dict[str, dict[str, Any]]:
    with_factors = [model for model in models if model.factors]
    return similarities(with_factors) if len(with_factors) > 1 else {}


SECTION = Section(
    name="similarity",
    about="how much of the space of one run's factors lies in those of another, and what chance would give",
    needs=frozenset({Need.LAYERS, Need.OTHER_RUNS}),
    compare=_compare,
    figures=(FigureEntry(draw=draw_similarity, place=90),),
    place=70,
)
