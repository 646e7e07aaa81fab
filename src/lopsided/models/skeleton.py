"""Models without weights, on the meta device: names, shapes and types of their modules, at no cost in memory."""

from __future__ import annotations

import copy

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from lopsided.errors import LopsidedError, unknown
from lopsided.models.registry import KnownModel, model_source, no_such_model
from lopsided.models.task_classes import CLASSES

# What the names of classes end with that generate text.
GENERATES = ("CausalLM", "LMHeadModel", "ForConditionalGeneration")


def skeleton(name: str, kind: str | None = None, *, labels: int = 2) -> PreTrainedModel:
    """Build a model's architecture of the class that a task trains, from its configuration alone.

    The bare backbone would not do: RoBERTa's has a pooler that its classifier lacks.

    Args:
        name: as for `model_source`.
        kind: of the task; None takes generation for a model that was saved to generate text, or else classification.
        labels: of a classification.

    Raises:
        LopsidedError: if the configuration cannot be loaded, or the architecture has no class for such a task.
    """
    if kind is not None and kind not in CLASSES:
        raise LopsidedError(unknown("kind of task", kind, CLASSES))
    if labels < 1:
        raise LopsidedError(f"labels must be at least 1, got {labels}; raise it")
    source = model_source(name)
    try:
        config = AutoConfig.from_pretrained(source.path, **source.arguments)
        generates = config.is_encoder_decoder or (config.architectures or [""])[0].endswith(GENERATES)
        kind = kind or ("generation" if generates else "classification")
        entry = CLASSES[kind]
        head = entry.head(tuple(str(label) for label in range(labels)))
        if "num_labels" in head:
            config.num_labels = head["num_labels"]
        # With initialization, which is when transformers ties weights that are shared: they count once.
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return entry.class_for(config).from_config(config)
    # A ValueError, too, but one that already says what to do.
    except LopsidedError:
        raise
    except (OSError, ValueError) as error:
        raise no_such_model(name, error, f", of an architecture with a class for {kind or 'a task'}") from error


def without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Build the same model on the meta device."""
    return build(type(model), model.config)


def build(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """Build a model of a class on the meta device, without initialization: its tied weights are still separate."""
    # A copy, since a model may write to its configuration. Building draws numbers, which are given back.
    with torch.device("meta"), torch.random.fork_rng(devices=[]), no_init_weights():
        return kind(copy.deepcopy(config))


def parameters_of(entry: KnownModel) -> int:
    """Count a known model's parameters from its published sizes, with the class of its first kind of task.

    A new head of two classes counts, as a task's head will; weights that are shared count once.
    """
    family = entry.architecture
    config = family.config(entry.sizes)
    task_class = CLASSES[family.kinds[-1]]
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = task_class.class_for(config, family.modality).from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())
