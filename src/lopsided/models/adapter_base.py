"""The base model of a saved adapter, as the adapter's own files ask for it: class and head, and the adapter on it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, TaskType
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from lopsided.errors import LopsidedError, first_line
from lopsided.files.untrusted import ADAPTER_CONFIG
from lopsided.models.heads import HEADED
from lopsided.models.load import base_class, quiet
from lopsided.models.registry import model_source, no_such_model

# What the names of an adapter's factors contain, of ours and of PEFT's LoRA.
MARKS = (".lopsided_", ".lora_")
LABELLED = (TaskType.SEQ_CLS, TaskType.TOKEN_CLS)


def peft_config(folder: Path) -> PeftConfig:
    """Return the configuration of a saved adapter, of whichever type PEFT knows.

    Raises:
        LopsidedError: for fields of the wrong type, or that contradict each other.
    """
    try:
        return PeftConfig.from_pretrained(str(folder))
    except LopsidedError:
        raise
    # PEFT's answer to such fields.
    except (TypeError, ValueError, KeyError) as error:
        raise LopsidedError(
            f"{folder / ADAPTER_CONFIG} is no configuration that PEFT reads: {first_line(error)}; get the adapter again"
        ) from error


def head_arguments(config: PeftConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that give the base a head of the saved one's size.

    It has as many labels as the narrowest matrix of the saved head has rows.

    Args:
        config: the adapter's.
        shapes: of the tensors in its file, by name.
    """
    heads = [shape[0] for key, shape in shapes.items() if not any(mark in key for mark in MARKS) and len(shape) == 2]
    kind = str((config.auto_mapping or {}).get("base_model_class"))
    if not heads or not (config.task_type in LABELLED or kind.endswith(HEADED)):
        return {}
    return {"num_labels": min(heads), "ignore_mismatched_sizes": True}


def put_adapter(model: PreTrainedModel, folder: Path, config: PeftConfig, base: str) -> PeftModel:
    """Put a saved adapter on a base, which is changed.

    Args:
        base: the base's name, for errors.

    Raises:
        LopsidedError: if the two don't fit.
    """
    try:
        with warnings.catch_warnings():
            # Whoever needs every tensor compares names.
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            return PeftModel.from_pretrained(model, str(folder), config=config)
    except LopsidedError:
        raise
    # No such module; tensors of other shapes; a rank that is no number.
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines()] or [""]
        said = next((line for line in lines if "size mismatch" in line), lines[0])
        raise LopsidedError(
            f"the adapter {folder} does not fit the base {base}: {said:.200}; name the base that it was trained on"
        ) from error


def base_skeleton(config: PeftConfig, name: str, **arguments: Any) -> nn.Module:
    """Build the base that a saved adapter's configuration asks for on the meta device, from its configuration alone.

    Args:
        config: the adapter's; names the class of the base.
        name: as for `model_source`.
        arguments: for `AutoConfig.from_pretrained`.

    Raises:
        LopsidedError: if the adapter names no class, or the base's configuration cannot be loaded.
    """
    source = model_source(name, fetch=not arguments.get("local_files_only"))
    model_class = base_class(config)
    try:
        with quiet():
            settings = AutoConfig.from_pretrained(source.path, **source.arguments, **arguments)
        # Building draws numbers, which are given back.
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            is_one_class = issubclass(model_class, PreTrainedModel)
            built: nn.Module = model_class(settings) if is_one_class else model_class.from_config(settings)
            return built
    # No such name, no network, or an architecture that has no such class.
    except (OSError, ValueError) as error:
        raise no_such_model(name, error) from error
