"""Section: what a run made its base model forget.

What is measured, and how, is in `lopsided.diagnose.own_skill`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from lopsided.diagnose.own_skill import graft, language_change, similarity_change
from lopsided.diagnose.references import read_documents, read_pairs
from lopsided.diagnose.section import Headline, Need, Section
from lopsided.diagnose.section_inputs import SectionInputs
from lopsided.errors import LopsidedError
from lopsided.formatting import number_text
from lopsided.models.load import load_weights
from lopsided.models.registry import ModelSource, model_source
from lopsided.plotting.figure import (
    Axis,
    Figure,
    FigureEntry,
    RunGroup,
    by_label,
    diagnosed,
    mean_interval,
    view,
)
from lopsided.plotting.words import chooses_nothing, without

# What transformers calls the heads that a reference text can be read with.
LANGUAGE = {"CausalLM": AutoModelForCausalLM, "LMHeadModel": AutoModelForCausalLM, "MaskedLM": AutoModelForMaskedLM}


def forgetting(inputs: SectionInputs) -> dict[str, Any]:
    """Compute the change of the base model's own score on a reference.

    The reference is a folder or a file of JSON lines with scored sentence pairs, for a sentence encoder; any other file
    is a text with one document per line, for a model with a language model's head.

    Raises:
        LopsidedError: for a reference that can't be read, or that the base model has no head for.
    """
    reference = inputs.config.reference
    assert reference is not None, "a section that needs a reference is not computed without one"
    if reference.is_dir() or reference.suffix == ".jsonl":
        pairs = read_pairs(reference)
        change = similarity_change(inputs.encoder(), inputs.merged, inputs.tokenizer, pairs, reference=reference.name)
        return change.to_json()
    documents = read_documents(reference)
    before = _language_model(inputs.base_name)
    after = graft(copy.deepcopy(before), inputs.merged)
    seed = inputs.config.seed
    return language_change(before, after, inputs.tokenizer, documents, reference=reference.name, seed=seed).to_json()


def _language_model(base: str) -> Any:
    """The base with the head that it was saved with, which is another than a task's."""
    source = model_source(base)
    return load_weights(_language_class(base, source), source).eval()


def _language_class(base: str, source: ModelSource) -> Any:
    """The class that has the head with which the base was saved."""
    names = AutoConfig.from_pretrained(source.path, **source.arguments).architectures or ["none"]
    for ending, kind in LANGUAGE.items():
        if names[0].endswith(ending):
            return kind
    raise LopsidedError(
        f"expected a base model with a language model's head, got {base} with {names[0]}; pass scored sentence pairs "
        "as the reference"
    )


# -- what the terminal and the page show ---------------------------------------------------------------------


def change_cell(section: Mapping[str, Any]) -> str:
    """Return the base model's own score, before and after."""
    before, after = (number_text(section[name], ".3f") for name in ("base", "tuned"))
    return f"{before} to {after} ({section['metric']})"


def draw_forgetting(group: RunGroup) -> Figure | None:
    """Draw how much worse, or better, each method's model became at something else."""
    runs = diagnosed(group.runs, "forgetting")
    sections = [run.diagnosis["forgetting"] for run in runs]
    kinds = list(dict.fromkeys((section["reference"], section["metric"]) for section in sections))
    if not kinds:
        return None
    views = []
    lacking: dict[str, None] = {}
    worse: dict[str, float] = {}
    for reference, metric in kinds:
        marks = []
        for label, seeds in by_label(runs).items():
            parts = [run.diagnosis["forgetting"] for run in seeds]
            parts = [part for part in parts if (part["reference"], part["metric"]) == (reference, metric)]
            mark = mean_interval(label, [{**part, "value": part["change"]} for part in parts]) if parts else None
            if parts and mark is None:
                lacking[label] = None
            if mark is not None:
                marks.append(mark)
                sign = 1.0 if parts[0]["better"] == "low" else -1.0
                if (reference, metric) == kinds[0]:
                    worse[label] = sign * mark["x"][0]
        name = f"{metric} on {reference}"
        views.append(view(name, Axis(title=f"change of {name}"), Axis(title="method"), marks))
    first = sections[0]
    return Figure(
        key=f"{group.key}-forgetting",
        kind="intervals",
        title="Forgetting",
        shows=without(forgetting_caption(first), list(lacking), "a change that is finite"),
        means=forgetting_meaning(worse, first["reference"]),
        choose="reference",
        views=views,
    )


def forgetting_caption(section: Mapping[str, Any]) -> str:
    """Return what the figure shows, from the first run's section."""
    better = "higher" if section["better"] == "high" else "lower"
    return (
        f"Each mark is what fine-tuning changed on {section['reference']} ({section['metric']}, {better} is better), "
        "against the model as it was before, with a 95 % interval."
    )


def forgetting_meaning(worse: Mapping[str, float], reference: str) -> str:
    """Return what forgetting means for choosing a method, from how much worse each method's model became."""
    if not worse:
        return "No run has a finite change, so this figure does not help to choose."
    least, most = min(worse, key=lambda k: worse[k]), max(worse, key=lambda k: worse[k])
    if least == most:
        return chooses_nothing(least)
    return (
        f"{least} kept the most of what the model could do and {most} the least: among methods that score alike, "
        f"prefer {least} where {reference} still matters."
    )


SECTION = Section(
    name="forgetting",
    about="the base model's own score on a reference text or on scored sentence pairs, before and after training",
    needs=frozenset({Need.LAYERS, Need.REFERENCE}),
    compute=forgetting,
    headlines=(Headline(heading="base's own score", cell=change_cell, place=70),),
    figures=(FigureEntry(draw=draw_forgetting, place=100),),
    place=60,
)
