"""The class of model for each kind of task: the table of transformers' classes and of their heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
)

from lopsided.errors import LopsidedError


class HasGoal(Protocol):
    """What a model's class and head depend on: a `Task`, or a `Goal` where the task's rows are not at hand."""

    @property
    def name(self) -> str:
        """The task's name, for errors."""

    @property
    def kind(self) -> str:
        """A key of `CLASSES`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names in index order; empty unless classification."""

    @property
    def modality(self) -> str:
        """What a row gives the model to read: "text" or "image"."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a model's class and head depend on, without the task's rows; see `HasGoal`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    modality: str = "text"


@dataclass(frozen=True, kw_only=True)
class TaskClass:
    """An entry of `CLASSES`.

    Args:
        by_modality: an `AutoModel` class of transformers for what the rows give the model to read.
        head: the arguments of `from_pretrained` that decide the new head, of the classes' names.
        reads_ahead: whether a model may see later positions; one that writes must not.
        seq2seq: the class for encoder-decoders, where they have another one.
        takes_seq2seq: whether an encoder-decoder can be trained for such a task.
    """

    by_modality: Mapping[str, Any]
    head: Callable[[tuple[str, ...]], dict[str, Any]]
    reads_ahead: bool = True
    seq2seq: Any = None
    takes_seq2seq: bool = True

    def class_for(self, config: PretrainedConfig, modality: str | None = None) -> Any:
        """Return the `AutoModel` class for a model with this configuration.

        Args:
            config: the model's.
            modality: of the rows; None takes the first one that transformers has a class of this model for.
        """
        if self.seq2seq is not None and config.is_encoder_decoder:
            return self.seq2seq
        if modality is not None:
            return self.by_modality.get(modality, self.by_modality["text"])
        classes = list(self.by_modality.values())
        return next((each for each in classes if type(config) in each._model_mapping), classes[0])


def _class_scores(labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        # A folder may hold the head of another task: with another number of classes it is drawn again.
        "ignore_mismatched_sizes": True,
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _one_number(labels: tuple[str, ...]) -> dict[str, Any]:
    return {"num_labels": 1, "problem_type": "regression"}


def _none(labels: tuple[str, ...]) -> dict[str, Any]:
    return {}


# The kinds of task are `lopsided.tasks.kinds.KINDS`; each has one entry here.
CLASSES: dict[str, TaskClass] = {
    "classification": TaskClass(
        by_modality={"text": AutoModelForSequenceClassification, "image": AutoModelForImageClassification},
        head=_class_scores,
    ),
    "regression": TaskClass(by_modality={"text": AutoModelForSequenceClassification}, head=_one_number),
    "generation": TaskClass(
        by_modality={"text": AutoModelForCausalLM}, head=_none, reads_ahead=False, seq2seq=AutoModelForSeq2SeqLM
    ),
    "choice": TaskClass(by_modality={"text": AutoModelForCausalLM}, head=_none, reads_ahead=False, takes_seq2seq=False),
}


def class_and_head(path: str, name: str, config: PretrainedConfig, task: HasGoal) -> tuple[Any, dict[str, Any]]:
    """Return the class to load for a task, and the arguments of `from_pretrained` that decide its head.

    Args:
        path: where the model is.
        name: the model as the user named it, for errors.
        config: the model's.
        task: what is learned.

    Raises:
        LopsidedError: if transformers has no such class for the model, or the task generates text and the model sees
            later positions.
    """
    entry = CLASSES[task.kind]
    model_class = entry.class_for(config, task.modality)
    if type(config) not in model_class._model_mapping:
        raise LopsidedError(
            f"model '{name}' is of type {config.model_type!r}, of which transformers has no "
            f"{model_class.__name__.removeprefix('AutoModelFor')} class; expected a model of {task.modality} that can "
            f"do {task.kind}; choose another model"
        )
    if not entry.reads_ahead:
        _check_writes(entry, path, config, task)
    return model_class, entry.head(task.labels)


def _check_writes(entry: TaskClass, path: str, config: PretrainedConfig, task: HasGoal) -> None:
    """Raise for a model that cannot generate text.

    transformers has a causal class for encoders as well. Unless the configuration says is_decoder, each position
    there sees the next ones, which it has to predict.
    """
    expected = "a causal or an encoder-decoder model" if entry.takes_seq2seq else "a causal model"
    if config.is_encoder_decoder:
        if not entry.takes_seq2seq:
            raise LopsidedError(
                f"task {task.name} is {task.kind}: expected {expected}; received {path} of type {config.model_type}, "
                "an encoder-decoder; use another model"
            )
        return
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.to_dict().get("is_decoder"):
        why, fix = (" (no label in its rows)", ", or add a label") if task.kind == "generation" else ("", "")
        raise LopsidedError(
            f"task {task.name} is {task.kind}{why}: expected {expected}; "
            f"received {path} of type {config.model_type}, which reads a text in both directions; use another "
            f"model{fix}"
        )
