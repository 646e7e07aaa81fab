"""What a run learns, in each of its forms: an adapter, the whole model, or the task's head.

The side that a method trains names its form (`Side.saved_as`). One entry of `FORMS` says what trains in a plain model,
and how that is saved and loaded again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lopsided.adapt import adapt
from lopsided.files.untrusted import ADAPTER_CONFIG, check_shards, open_tensors, read_json, weights_in
from lopsided.method import FormName, Method
from lopsided.models.heads import is_inside
from lopsided.models.load import load_saved
from lopsided.models.task_classes import HasGoal
from lopsided.runs.config import TrainConfig

HEAD_FILE = "head.safetensors"


@dataclass(frozen=True, kw_only=True)
class SavedForm:
    """How one form of what a run learned is made, written and read.

    Args:
        select: (model, method, configuration, names of the head's modules) -> the model in which what the method trains
            has gradients, and nothing else does.
        save: (model, folder): writes what was trained.
        load: (folder, base, goal, trainable) -> the model as it was saved. `base` loads the model that the run began
            with, and is not called where all weights are in the folder. `trainable` says whether the parameters that
            the run trained have gradients, and no others.
        restore: (model, folder): puts what `save` wrote into the model that trains, and returns True; False leaves it
            to `transformers.Trainer`, which knows whole models and PEFT's adapters.
    """

    select: Callable[[nn.Module, Method, TrainConfig, Sequence[str]], nn.Module]
    save: Callable[[PreTrainedModel | PeftModel, Path], None]
    load: Callable[[Path, Callable[[], nn.Module], HasGoal, bool], nn.Module]
    restore: Callable[[nn.Module, Path], bool] = lambda model, folder: False


def _adapted(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str]) -> nn.Module:
    adapted: nn.Module = adapt(
        model,
        method,
        r=config.rank,
        alpha=config.alpha,
        target_modules=config.targets,
        dropout=config.dropout,
        modules_to_save=list(heads) or None,
        seed=config.seed if config.sketch_seed is None else config.sketch_seed,
    )
    return adapted


def _all_trained(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str]) -> nn.Module:
    return model.requires_grad_(True)


def _head_trained(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str]) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad = is_inside(name, heads)
    return model


def _save_pretrained(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    model.save_pretrained(str(folder))


def _save_head(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / HEAD_FILE, metadata={"format": "pt"})


def _load_adapter(folder: Path, base: Callable[[], nn.Module], goal: HasGoal, trainable: bool) -> nn.Module:
    model = base()
    read_json(folder / ADAPTER_CONFIG)
    adapted: nn.Module = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    return adapted


def _load_whole(folder: Path, base: Callable[[], nn.Module], goal: HasGoal, trainable: bool) -> nn.Module:
    check_shards(folder)
    whole: nn.Module = load_saved(folder, goal)
    return whole


def _load_head(folder: Path, base: Callable[[], nn.Module], goal: HasGoal, trainable: bool) -> nn.Module:
    model = base()
    head = _put_head(model, folder)
    if trainable:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in head)
    return model


def _restore_head(model: nn.Module, folder: Path) -> bool:
    # Checkpoints up to version 0.2 hold the whole model.
    if not (folder / HEAD_FILE).is_file():
        return False
    _put_head(model, folder)
    return True


def _put_head(model: nn.Module, folder: Path) -> Collection[str]:
    """Put a saved head into a model; return the names of its parameters."""
    with open_tensors(weights_in(folder, HEAD_FILE)) as file:
        head: dict[str, Tensor] = file.get_tensors()
    model.load_state_dict(head, strict=False)
    return head.keys()


FORMS: Mapping[FormName, SavedForm] = {
    "adapter": SavedForm(select=_adapted, save=_save_pretrained, load=_load_adapter),
    "model": SavedForm(select=_all_trained, save=_save_pretrained, load=_load_whole),
    "head": SavedForm(select=_head_trained, save=_save_head, load=_load_head, restore=_restore_head),
}
