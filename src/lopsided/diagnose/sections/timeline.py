"""Section: what happened in each link of a run: its steps, losses and rates, and what it added to the weights.

Notation: Δ_t the update of link t (`lopsided.diagnose.tuned_model`). A run without a chain has one link.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lopsided.diagnose.section import Need, Section
from lopsided.diagnose.section_inputs import SectionInputs
from lopsided.diagnose.tuned_model import Update
from lopsided.files.strict_json import WHY
from lopsided.finite import is_finite
from lopsided.plotting.figure import Axis, DrawnRun, Figure, FigureEntry, RunGroup, by_label, rounded
from lopsided.runs.run import Run

NOT_MERGED = "the chain does not merge, so that no link has an update of its own"


def timeline(run: Run, links: Sequence[Sequence[Update]]) -> dict[str, Any]:
    """Collect steps, losses, learning rates, norm, rank and covered columns of every link.

    The checkpoint with the lowest validation loss may lie in an early link; the later ones then left nothing in the
    adapter, and their norm, rank and columns are None.

    Args:
        run: finished.
        links: for each layer, the updates of its links, oldest first.

    Units:
        Losses in nats per row (squared units for regression); steps count optimizer steps.

    Returns:
        "steps" and "links"; in each link "columns_covered" is the share of the input columns that this link or an
        earlier one can write to, the mean over layers.
    """
    boundaries = () if run.chain is None else run.chain.boundaries
    merges = run.method.chain is None or run.method.chain.merge
    rows, covered = [], [torch.zeros(_columns(layer[0]).shape, dtype=torch.bool) for layer in links if layer]
    for link, (first, last) in enumerate(pairwise([0, *boundaries, run.steps])):
        updates = [layer[link] for layer in links if link < len(layer)]
        rows.append(
            {"link": link, "first_step": first, "last_step": last}
            | _course(run.history, first, last)
            | _added(updates if merges else [], covered)
        )
    why = {} if merges else {WHY: {"links.norm": NOT_MERGED}}
    return {**why, "steps": run.steps, "links": rows}


def _course(history: Sequence[Mapping[str, float]], first: int, last: int) -> dict[str, Any]:
    """The losses and rates that were logged in the steps after `first`, up to `last`."""
    here = [entry for entry in history if first < entry["step"] <= last]
    trained = [entry for entry in here if "loss" in entry]
    validated = [entry["eval_loss"] for entry in here if "eval_loss" in entry]
    ends = (trained[0], trained[-1]) if trained else ({}, {})
    return {
        "loss_first": ends[0].get("loss"),
        "loss_last": ends[1].get("loss"),
        "learning_rate_first": ends[0].get("learning_rate"),
        "learning_rate_last": ends[1].get("learning_rate"),
        "validation_last": validated[-1] if validated else None,
    }


def _added(updates: Sequence[Update], covered: list[Tensor]) -> dict[str, Any]:
    """‖Δ_t‖_F over all layers, the largest rank, and the share of columns; `covered` gains this link's columns."""
    if not updates:
        return {"norm": None, "rank": None, "columns_covered": None}
    for seen, update in zip(covered, updates, strict=True):
        seen |= _columns(update)
    energy = sum(update.energy() for update in updates)
    broken = {} if is_finite(energy) else {WHY: {"norm": "the update holds NaN or Inf"}}
    return {
        **broken,
        "norm": None if broken else math.sqrt(energy),
        "rank": max(min(update.left.shape) for update in updates),
        "columns_covered": sum(float(seen.float().mean()) for seen in covered) / len(covered),
    }


def _columns(update: Update) -> Tensor:
    """Which of the input columns an update can write to: (d_in,)"""
    reads = update.left if update.right is None else update.right
    return (reads != 0).any(dim=0)


# -- what the page shows -------------------------------------------------------------------------------------

# Of a link, which only a diagnosis knows.
MEASURED = ("loss_first", "loss_last", "learning_rate_first", "learning_rate_last", "norm", "rank", "columns_covered")


def draw_timeline(group: RunGroup) -> Figure | None:
    """Draw when each link began and ended, and what the loss did in it; of the first seed of each method with a chain.

    A run that was not diagnosed has its links' steps alone.
    """
    chained = by_label(run for run in group.runs if run.boundaries)
    if not chained:
        return None
    links = {label: _links(runs[0]) for label, runs in chained.items()}
    return Figure(
        key=f"{group.key}-timeline",
        kind="timeline",
        title="Timeline of the chains",
        shows=timeline_caption(any(link["norm"] is not None for row in links.values() for link in row)),
        means=timeline_meaning(links),
        views=[
            {
                "name": "",
                "x": {"title": Axis(title="step").title},
                "rows": [{"label": label, "links": row} for label, row in links.items()],
            }
        ],
    )


def timeline_caption(measured: bool) -> str:
    """Return what the figure shows; `measured` says whether any link has more than its steps."""
    more = "; point at one for its losses, learning rate and norm" if measured else ""
    return f"Each bar is one link of a chain, from its first step to its last{more}."


def timeline_meaning(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return what the links mean for choosing a method, from each method's links."""
    falls = {}
    for label, links in rows.items():
        ends = [links[-1]["loss_first"], links[-1]["loss_last"], links[0]["loss_first"]]
        if None not in ends and ends[2] != ends[1]:
            falls[label] = (ends[0] - ends[1]) / (ends[2] - ends[1])
    if not falls:
        return "What each link gained is not known here: `lopsided diagnose RUN` measures it."
    most = max(falls, key=lambda label: falls[label])
    share = f"The last link of {most} brought {100 * falls[most]:.0f} % of its whole fall in loss"
    if falls[most] > 1 / (2 * len(rows[most])):
        return f"{share}: the chain was still improving, and more links may help."
    return f"{share}: fewer links would have done nearly as well."


def _links(run: DrawnRun) -> list[dict[str, Any]]:
    section = run.diagnosis.get("timeline")
    if section:
        shown = ("link", "first_step", "last_step", *MEASURED)
        return [{key: rounded(link.get(key)) for key in shown} for link in section["links"]]
    bare: dict[str, Any] = dict.fromkeys(MEASURED)
    return [
        {"link": number, "first_step": first, "last_step": last, **bare}
        for number, (first, last) in enumerate(pairwise([0, *run.boundaries, run.steps]))
    ]


def _compute(inputs: SectionInputs) -> dict[str, Any]:
    return timeline(inputs.run, [layer.links for layer in inputs.tuned.layers])


SECTION = Section(
    name="timeline",
    about="of each link of a chain: its steps, losses and learning rates, and the norm, rank and columns of its Δ",
    needs=frozenset({Need.LAYERS, Need.LOG}),
    compute=_compute,
    figures=(FigureEntry(draw=draw_timeline, place=50),),
    place=50,
)
