"""Section: intruder dimensions, the singular vectors of a tuned weight that none of the pretrained ones resembles.

Notation: W0 is (d_out, d_in) with left singular vectors u_i⁰, W = W0 + ΔW with u_j, each m = min(d_out, d_in) of them
from the largest singular value. u_j is an intruder at ε if max_i |⟨u_j, u_i⁰⟩| < ε.

Source: Shuttleworth et al. 2024, arXiv:2410.21228, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lopsided.diagnose.base_svd import BaseSVD, base_svd
from lopsided.diagnose.leading_vectors import leading
from lopsided.diagnose.section import Headline, Need, Section
from lopsided.diagnose.section_inputs import SectionInputs
from lopsided.diagnose.section_progress import Step
from lopsided.diagnose.tuned_model import Layer, TunedModel, check_computable
from lopsided.errors import LopsidedError
from lopsided.files.strict_json import WHY
from lopsided.formatting import number_text
from lopsided.plotting.figure import (
    Axis,
    DrawnRun,
    Figure,
    FigureEntry,
    RunGroup,
    by_label,
    diagnosed,
    mean_curve,
    part_of,
    series,
    view,
)
from lopsided.plotting.words import chooses_nothing

EPSILONS = tuple(round(0.05 * step, 2) for step in range(1, 21))
# Singular vectors in float32 have length 1 within about this: a vector that stayed is no intruder at ε = 1.
ROUNDING = 1e-5


def intruders(
    tuned: TunedModel,
    *,
    epsilons: Sequence[float] = EPSILONS,
    top: int = 10,
    all_vectors: bool = True,
    cache: Path | None = None,
    done: Step = lambda number, total: None,
) -> dict[str, Any]:
    """Count the intruders of each layer at each ε, among all its singular vectors and among the first `top`.

    Args:
        top: k; a narrower layer has all its vectors counted.
        all_vectors: count among all of them as well, which decomposes every tuned weight.
        cache: where the base's singular vectors are kept; see `base_svd`.
        done: called before each layer with the number of those that are done, and after the last.

    Returns:
        `epsilons`, `top`, and `all` (or None) and `top_k`, each with `mean` (counts per ε, mean over layers), `by_kind`
        (the same over layers of one kind) and `by_layer` (counts). `layers` says how many layers are counted, of how
        many; one that holds NaN or Inf has None, and `why` names it.

    Raises:
        LopsidedError: for an ε outside (0, 1], a `top` below 1, a model without layers, or NaN or Inf in all of them.
    """
    if not epsilons or not all(0 < epsilon <= 1 for epsilon in epsilons):
        raise LopsidedError(f"expected every epsilon in (0, 1], got {list(epsilons)}; correct them")
    if top < 1:
        raise LopsidedError(f"top must be at least 1, got {top}; raise it")
    if not tuned.layers:
        raise LopsidedError(f"{tuned.name} has no tuned linear layer; expected at least one; choose another")
    check_computable(tuned.layers)
    first: dict[str, list[int] | None] = {}
    whole: dict[str, list[int] | None] = {}
    faults = {layer.module: fault for layer in tuned.layers if (fault := layer.fault)}
    for number, layer in enumerate(tuned.layers):
        done(number, len(tuned.layers))
        if layer.module in faults:
            first[layer.module] = whole[layer.module] = None
            continue
        base = base_svd(layer.weight, cache)
        likeness = closest(layer, base, None if all_vectors else top)
        first[layer.module] = count(likeness[:top], epsilons)
        whole[layer.module] = count(likeness, epsilons)
    done(len(tuned.layers), len(tuned.layers))
    kinds = {layer.module: layer.kind for layer in tuned.layers}
    return {
        "epsilons": list(epsilons),
        "top": top,
        "all": summary(whole, kinds) if all_vectors else None,
        "top_k": summary(first, kinds),
        "layers": {"counted": len(first) - len(faults), "of": len(first)},
        **({WHY: {f"by_layer.{module}": fault for module, fault in faults.items()}} if faults else {}),
    }


def count(likeness: np.ndarray, epsilons: Sequence[float]) -> list[int]:
    """Count the vectors that are intruders at each ε, from their max_i |⟨u_j, u_i⁰⟩|.

    Example:
        >>> count(np.array([1.0, 0.3, 0.97]), [0.2, 0.5, 1.0])
        [0, 1, 2]
    """
    return [int(np.sum(likeness < epsilon - ROUNDING)) for epsilon in epsilons]


def summary(counts: Mapping[str, Sequence[int] | None], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return counts by layer, with their means over all layers and over those of each kind.

    A layer without counts is left out of the means. A kind without such a layer has no mean, and is absent.
    """
    known = {module: list(numbers) for module, numbers in counts.items() if numbers is not None}
    by_kind = {
        kind: np.mean([known[module] for module in known if kinds[module] == kind], axis=0).tolist()
        for kind in dict.fromkeys(kinds[module] for module in known)
    }
    mean = np.mean(list(known.values()), axis=0).tolist()
    return {"mean": mean, "by_kind": by_kind, "by_layer": {module: known.get(module) for module in counts}}


@torch.no_grad()
def closest(layer: Layer, base: BaseSVD, top: int | None = None) -> np.ndarray:
    """Compute max_i |⟨u_j, u_i⁰⟩| of the tuned weight's singular vectors, from the largest singular value.

    The first few are searched for (`leading`); where that can't be certified, and for all, W0 + ΔW is decomposed.

    Args:
        base: of the layer's weight.
        top: how many vectors; None for all.

    Shapes:
        (min(top, m),), between 0 and 1.
    """
    m = len(base.values)
    k = m if top is None else min(top, m)
    # Where singular values are tied, another decomposition of the same weight may turn their vectors.
    if all(link.energy() == 0.0 for link in layer.links):
        return np.ones(k)
    coordinates = None
    if top is not None and not layer.is_dense:
        coordinates = leading(base, layer.weight, *layer.factors(), k)
    if coordinates is None:
        tuned = torch.linalg.svd(layer.weight.double() + layer.delta(), full_matrices=False)[0]
        coordinates = base.left.double().T @ tuned[:, :k]
    return coordinates[:m].abs().amax(0).clamp(max=1.0).numpy()


# -- what the terminal and the page show ---------------------------------------------------------------------


def intruders_cell(section: Mapping[str, Any]) -> str:
    """Return the mean count at the ε nearest to a half, of all vectors where they were looked at."""
    epsilons = section["epsilons"]
    place = min(range(len(epsilons)), key=lambda i: abs(epsilons[i] - 0.5))
    counted = section["all"] or section["top_k"]
    of = "" if section["all"] else f" of the first {section['top']}"
    # Absent in files of version 0.1.0, which counted all layers or none.
    layers = section.get("layers", {"counted": 0, "of": 0})
    part = "" if layers["counted"] == layers["of"] else f", {layers['counted']} of {layers['of']} layers"
    return f"{number_text(counted['mean'][place], '.2f')}{of} (ε = {epsilons[place]:g}{part})"


def draw_intruders(group: RunGroup) -> Figure | None:
    """Draw how many new directions each update brought, over the threshold ε."""
    runs = diagnosed(group.runs, "intruders")
    views = []
    counts: dict[str, float] = {}
    for part, words in (("all", "all directions"), ("top_k", "the top directions")):
        members = by_label(run for run in runs if run.diagnosis["intruders"].get(part))
        if not members:
            continue
        kinds = list(next(iter(members.values()))[0].diagnosis["intruders"][part].get("by_kind", {}))
        for kind in [None, *kinds]:
            curves = [_mean_counts(label, seeds, part, kind) for label, seeds in members.items()]
            name = f"{words}, mean over layers" if kind is None else f"{words}, {kind}"
            axis = Axis(title="intruder dimensions per layer")
            views.append(view(name, Axis(title="ε, the cosine that counts as new"), axis, curves))
            if kind is None and not counts:
                counts = {curve["label"]: middle for curve in curves if (middle := _at_half(curve)) is not None}
    if not views:
        return None
    return Figure(
        key=f"{group.key}-intruders",
        kind="lines",
        title="Intruder dimensions",
        shows=(
            "Singular directions of the tuned weights whose cosine with every original one stays below ε, counted "
            f"per layer: over all directions, and over the {runs[0].diagnosis['intruders']['top']} strongest."
        ),
        means=intruders_meaning(counts),
        choose="layers",
        views=views,
    )


def intruders_meaning(counts: Mapping[str, float]) -> str:
    """Return what intruders mean for choosing a method, from each method's mean count at ε = 0.5."""
    if len(counts) < 2:
        return chooses_nothing(next(iter(counts), "no method"))
    least, most = min(counts, key=lambda k: counts[k]), max(counts, key=lambda k: counts[k])
    return (
        f"At ε = 0.5, {least} brought the fewest new directions ({counts[least]:.1f} per layer) and {most} the most "
        f"({counts[most]:.1f}): in the study that named them (arXiv:2410.21228), models with few intruders forgot "
        "little, so between equal scores and learning rates prefer few."
    )


def _mean_counts(label: str, runs: Sequence[DrawnRun], part: str, kind: str | None) -> dict[str, Any]:
    sections = [run.diagnosis["intruders"] for run in runs]
    curves = [s[part]["mean"] if kind is None else s[part]["by_kind"].get(kind, []) for s in sections]
    known = [curve for curve in curves if curve]
    # Absent in files of version 0.1.0, which counted all layers or none.
    layers = [s["layers"] for s in sections if "layers" in s]
    counted, of = (sum(each[key] for each in layers) for key in ("counted", "of"))
    name = label + part_of(len(known), len(runs), "seeds") + part_of(counted, of, "layers")
    return series(label, sections[0]["epsilons"], mean_curve(known), name=name)


def _at_half(curve: Mapping[str, Any]) -> float | None:
    """The count at the ε nearest 0.5."""
    points = [(abs(x - 0.5), y) for x, y in zip(curve["x"], curve["y"]) if y is not None]
    return float(min(points)[1]) if points else None


def _compute(inputs: SectionInputs) -> dict[str, Any]:
    config = inputs.config
    return intruders(inputs.tuned, top=config.top, all_vectors=config.all_vectors, done=inputs.progress.step)


SECTION = Section(
    name="intruders",
    about="how many singular vectors of the tuned weights resemble none of the pretrained ones, by threshold ε",
    needs=frozenset({Need.LAYERS}),
    compute=_compute,
    headlines=(Headline(heading="intruders", cell=intruders_cell, place=20),),
    figures=(FigureEntry(draw=draw_intruders, place=70),),
    place=30,
)
