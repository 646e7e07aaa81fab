"""What a run learns, in each of its forms: an adapter, the whole model, or the task's head.

The side that a method trains names its form (`Side.saved_as`). One entry of `FORMS` says what trains in a plain model,
and how that is saved and loaded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from lopsided.adapt import adapt
from lopsided.files.untrusted import ADAPTER_CONFIG, check_shards, open_tensors, read_json, weights_in
from lopsided.method import Method, SavedForm
from lopsided.runs.config import TrainConfig

HEAD_FILE = "head.safetensors"


@dataclass(frozen=True, kw_only=True)
class Form:
    """How one form of what a run learned is made, written and read.

    Args:
        select: (model, method, configuration, names of the head's modules) -> the model in which what the method trains
            has gradients, and nothing else does.
        save: (model, folder): writes what was trained.
        load: (base, folder, trainable) -> the model as it was saved. `trainable` says whether the parameters that the
            run trained have gradients, and no others.
    """

    select: Callable[[nn.Module, Method, TrainConfig, Sequence[str]], nn.Module]
    save: Callable[[PreTrainedModel | PeftModel, Path], None]
    load: Callable[[nn.Module, Path, bool], nn.Module]


def _adapted(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str]) -> nn.Module:
    return adapt(
        model,
        method,
        r=config.rank,
        alpha=config.alpha,
        target_modules=config.targets,
        dropout=config.dropout,
        modules_to_save=list(heads) or None,
        seed=config.seed,
    )


def _all_trained(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str]) -> nn.Module:
    return model.requires_grad_(True)


def _head_trained(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str]) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(name.startswith(f"{head}.") for head in heads)
    return model


def _save_pretrained(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    model.save_pretrained(str(folder))


def _save_head(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / HEAD_FILE, metadata={"format": "pt"})


def _load_adapter(model: nn.Module, folder: Path, trainable: bool) -> nn.Module:
    read_json(folder / ADAPTER_CONFIG)
    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def _load_model(model: nn.Module, folder: Path, trainable: bool) -> nn.Module:
    check_shards(folder)
    return type(model).from_pretrained(folder)  # type: ignore[attr-defined]


def _load_head(model: nn.Module, folder: Path, trainable: bool) -> nn.Module:
    with open_tensors(weights_in(folder, HEAD_FILE)) as file:
        head = file.get_tensors()
    model.load_state_dict(head, strict=False)
    if trainable:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in head)
    return model


FORMS: Mapping[SavedForm, Form] = {
    "adapter": Form(select=_adapted, save=_save_pretrained, load=_load_adapter),
    "model": Form(select=_all_trained, save=_save_pretrained, load=_load_model),
    "head": Form(select=_head_trained, save=_save_head, load=_load_head),
}
