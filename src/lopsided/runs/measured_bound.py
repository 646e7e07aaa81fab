"""The information bound, and the gap that a run measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from lopsided.errors import LopsidedError, nearest
from lopsided.models.load import model_source
from lopsided.runs.run import read_run
from lopsided.runs.scores import row_losses
from lopsided.theory.information import InformationBound, generalization_bound, sigma_estimated

# The class that a task trains, as `models.load.load_model` chooses it.
CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "generation": AutoModelForCausalLM,
}
# What the names of classes end with that generate text.
GENERATES = ("CausalLM", "LMHeadModel", "ForConditionalGeneration")


def skeleton(name: str, kind: str | None = None, *, labels: int = 2) -> nn.Module:
    """Build a model's architecture without its weights, of the class that a task trains, from its configuration alone.

    Not of the bare backbone: RoBERTa's has a pooler that its classifier lacks.

    Args:
        name: as for `lopsided train --model`.
        kind: of the task; None takes generation for a model that was saved to generate text, and classification else.
        labels: of a classification.

    Raises:
        LopsidedError: if it cannot be loaded, or the architecture has no class for such a task.
    """
    if kind is not None and kind not in CLASSES:
        raise LopsidedError(
            f"unknown kind of task {kind!r}; expected one of {', '.join(CLASSES)};{nearest(kind, CLASSES)}"
        )
    if labels < 1:
        raise LopsidedError(f"labels must be at least 1, got {labels}; raise it")
    source = model_source(name)
    try:
        config = AutoConfig.from_pretrained(source.path, **source.arguments)
        generates = config.is_encoder_decoder or (config.architectures or [""])[0].endswith(GENERATES)
        kind = kind or ("generation" if generates else "classification")
        if kind != "generation":
            config.num_labels = 1 if kind == "regression" else labels
        encoder_decoder = kind == "generation" and config.is_encoder_decoder
        with torch.device("meta"):
            model: nn.Module = (AutoModelForSeq2SeqLM if encoder_decoder else CLASSES[kind]).from_config(config)
            return model
    except (OSError, ValueError) as error:
        if isinstance(error, LopsidedError):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LopsidedError(
            f"model '{name}': expected embedded, smollm2, a local folder or a Hugging Face name, of an architecture "
            f"with a class for {kind or 'a task'}; received: {first}; check the name and the network"
        ) from error


@dataclass(frozen=True, kw_only=True)
class RunBound:
    """A finished run's measured gap and its bound, both in nats per sample (squared units for regression).

    Args:
        folder: the run.
        measured, se: |test loss - train loss| at the best checkpoint, and its standard error; None where the run could
            not compute them, and `why` has the reason by "measured" or "se".
        bound: with σ estimated from the run's own test losses, so it is no guarantee: a cross-entropy has no range.
    """

    folder: Path
    seed: int
    measured: float | None
    se: float | None
    bound: InformationBound
    why: dict[str, str] = field(default_factory=dict)


def bound_of_run(folder: Path, bits: float = 32) -> RunBound:
    """Compute the bound of a run of `lopsided train` or `compare`.

    Raises:
        LopsidedError: if there is no finished run with test figures in the folder, or its test losses allow no σ.
    """
    run = read_run(folder)
    if run is None or not run.is_finished or run.generalization_error is None:
        state = "no run" if run is None else f"a run that is {run.status}, or without test figures"
        raise LopsidedError(f"expected a finished run with test figures in {folder}, got {state}; finish it first")
    config, gap = run.config, run.generalization_error
    bound = generalization_bound(
        skeleton(config.model, run.task.kind, labels=max(1, len(run.task.labels))),
        config.resolve_method(),
        config.rank,
        run.task.rows["train"],
        sigma_estimated(row_losses(run.predictions["test"]).tolist()),
        bits,
        None if run.chain is None else run.links,
        target_modules="all-linear" if config.targets is None else config.targets,
    )
    figures = {"measured": ("value", gap.value), "se": ("se", gap.se)}
    why = {name: gap.why.get(part, "not in its record") for name, (part, figure) in figures.items() if figure is None}
    return RunBound(folder=folder, seed=config.seed, measured=gap.value, se=gap.se, bound=bound, why=why)
