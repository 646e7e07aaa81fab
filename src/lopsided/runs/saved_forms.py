"""What a run learns, in each of its forms: an adapter of ours or of PEFT, the whole model, or the task's head.

The side that a method trains names its form (`Side.saved_as`). One entry of `FORMS` says what trains in a plain model,
what of it can't work, and how it is saved and loaded again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from lopsided.adapt import adapt
from lopsided.baselines import baseline_of
from lopsided.baselines.put_on import load, put_on
from lopsided.errors import LopsidedError
from lopsided.files.untrusted import ADAPTER_CONFIG, check_shards, open_tensors, read_json, weights_in
from lopsided.method import FormName, Method
from lopsided.models.heads import is_inside
from lopsided.models.load import load_saved, quiet
from lopsided.models.task_classes import HasGoal
from lopsided.runs.config import TrainConfig
from lopsided.tuner import layers_of

HEAD_FILE = "head.safetensors"

Select = Callable[[nn.Module, Method, TrainConfig, Sequence[str], int], nn.Module]


@dataclass(frozen=True, kw_only=True)
class SavedForm:
    """How one form of what a run learned is made, written and read.

    Args:
        select: (model, method, configuration, names of the head's modules, steps of the run) -> the model in which what
            the method trains has gradients, and nothing else does.
        problems: of the same, with a model without weights, which is changed: what can't work, one line each.
        callbacks: (method, checkpoint that the run goes on from) -> what training needs besides the optimizer.
        save: (model, method, folder): writes what was trained, to be used.
        checkpoint: (model, folder): writes what was trained, to be trained further: whole, where `save` may write less.
        load: (folder, base, goal, trainable) -> the model as it was saved. `base` loads the model that the run began
            with, and is not called where all weights are in the folder. `trainable` says whether the parameters that
            the run trained have gradients, and no others.
        low_rank: (method, folder) -> the folder with the adapter, where what was trained is low-rank.
        restore: (model, folder): puts what `checkpoint` wrote into the model that trains, and returns True; False
            leaves it to `transformers.Trainer`, which knows whole models and PEFT's adapters.
    """

    select: Select
    save: Callable[[PreTrainedModel | PeftModel, Method, Path], None]
    checkpoint: Callable[[PreTrainedModel | PeftModel, Path], None]
    load: Callable[[Path, Callable[[], nn.Module], HasGoal, bool], nn.Module]
    problems: Callable[[nn.Module, Method, TrainConfig, Sequence[str], int], Iterator[str]]
    callbacks: Callable[[Method, Path | None], Sequence[TrainerCallback]] = lambda method, checkpoint: ()
    low_rank: Callable[[Method, Path], Path]
    restore: Callable[[nn.Module, Path], bool] = lambda model, folder: False


# -- what trains -----------------------------------------------------------------------------------------------------


def _adapted(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str], steps: int) -> nn.Module:
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


def _all_trained(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str], steps: int) -> nn.Module:
    return model.requires_grad_(True)


def _head_trained(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str], steps: int) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad = is_inside(name, heads)
    return model


def _with_baseline(
    model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str], steps: int
) -> nn.Module:
    adapted: nn.Module = put_on(
        model,
        method,
        rank=config.rank,
        alpha=config.alpha,
        targets=config.targets,
        heads=heads,
        dropout=config.dropout,
        steps=steps,
        seed=config.seed,
    )
    return adapted


# -- what can't work -------------------------------------------------------------------------------------------------


def _too_wide(model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str], steps: int) -> Iterator[str]:
    # Rank 1 fits every layer and is drawn in no time: what is refused now is refused for another reason.
    narrow = _adapted(model, method, dataclasses.replace(config, rank=1, alpha=None), heads, steps)
    limits = {
        name: method.sketched_width(layer.out_features, layer.in_features) for name, layer in layers_of(narrow).items()
    }
    if not limits or config.rank <= min(limits.values()):
        return
    width = min(limits.values())
    module = next(name for name, limit in limits.items() if limit == width).removeprefix("base_model.model.")
    width_name = method.adapter_side.width_name
    yield (
        f"rank must not exceed the layer's width: r={config.rank}, {width_name}={width} in {module}; lower r or "
        "exclude the module"
    )


def _refused_by(select: Select) -> Callable[..., Iterator[str]]:
    """Return the `problems` of a form that has no check of its own: `select` raises the first problem."""

    def problems(
        model: nn.Module, method: Method, config: TrainConfig, heads: Sequence[str], steps: int
    ) -> Iterator[str]:
        select(model, method, config, heads, steps)
        yield from ()

    return problems


# -- files -----------------------------------------------------------------------------------------------------------


def _write_pretrained(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    model.save_pretrained(str(folder))


def _as_checkpoint(
    checkpoint: Callable[[PreTrainedModel | PeftModel, Path], None],
) -> Callable[[PreTrainedModel | PeftModel, Method, Path], None]:
    """Return the `save` of a form that writes the same as a checkpoint."""
    return lambda model, method, folder: checkpoint(model, folder)


def _save_baseline(model: PreTrainedModel | PeftModel, method: Method, folder: Path) -> None:
    assert isinstance(model, PeftModel)
    baseline_of(method).save(model, folder)


def _write_head(model: PreTrainedModel | PeftModel, folder: Path) -> None:
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


def _restore_whole(model: nn.Module, folder: Path) -> bool:
    """Restore a model whose weights have other names in files than in memory, as those of ViT and DeiT.

    `from_pretrained` translates them. `Trainer` does not: it would leave such a model as it is, with a warning.
    """
    if _names_in(folder) <= set(model.state_dict()):
        return False
    saved = cast(type[PreTrainedModel], type(model))
    with quiet():
        model.load_state_dict(saved.from_pretrained(folder).state_dict())
    return True


def _names_in(folder: Path) -> set[str]:
    """Return the names of the weights in a model's folder."""
    names: set[str] = set()
    for path in check_shards(folder):
        with open_tensors(path) as file:
            names.update(file.keys())
    return names


def _put_head(model: nn.Module, folder: Path) -> Collection[str]:
    """Put a saved head into a model; return the names of its parameters."""
    with open_tensors(weights_in(folder, HEAD_FILE)) as file:
        head: dict[str, Tensor] = file.get_tensors()
    model.load_state_dict(head, strict=False)
    return head.keys()


def _load_baseline(folder: Path, base: Callable[[], nn.Module], goal: HasGoal, trainable: bool) -> nn.Module:
    adapted: nn.Module = load(folder, base(), trainable=trainable)
    return adapted


def _adapter_folder(method: Method, folder: Path) -> Path:
    return folder


def _no_low_rank(method: Method, folder: Path) -> Path:
    raise LopsidedError(
        f"{folder.parent} holds a run of {method.name!r}, which trains {method.side.title} and has no low-rank terms; "
        "expected a run of an adapter; train one, or take the folder as it is"
    )


def _baseline_folder(method: Method, folder: Path) -> Path:
    if not baseline_of(method).is_lora:
        raise LopsidedError(
            f"{method.name!r} is not saved as ΔW = s·B·A, and no LoRA adapter computes the same; expected a run of a "
            f"method that is; take {folder}, which stock PEFT loads as it is"
        )
    return folder


def _baseline_callbacks(method: Method, checkpoint: Path | None) -> Sequence[TrainerCallback]:
    callback = baseline_of(method).callback
    return () if callback is None else (callback(checkpoint),)


FORMS: Mapping[FormName, SavedForm] = {
    "adapter": SavedForm(
        select=_adapted,
        problems=_too_wide,
        save=_as_checkpoint(_write_pretrained),
        checkpoint=_write_pretrained,
        load=_load_adapter,
        low_rank=_adapter_folder,
    ),
    "model": SavedForm(
        select=_all_trained,
        problems=_refused_by(_all_trained),
        save=_as_checkpoint(_write_pretrained),
        checkpoint=_write_pretrained,
        load=_load_whole,
        low_rank=_no_low_rank,
        restore=_restore_whole,
    ),
    "head": SavedForm(
        select=_head_trained,
        problems=_refused_by(_head_trained),
        save=_as_checkpoint(_write_head),
        checkpoint=_write_head,
        load=_load_head,
        low_rank=_no_low_rank,
        restore=_restore_head,
    ),
    "peft": SavedForm(
        select=_with_baseline,
        problems=_refused_by(_with_baseline),
        callbacks=_baseline_callbacks,
        save=_save_baseline,
        checkpoint=_write_pretrained,
        load=_load_baseline,
        low_rank=_baseline_folder,
    ),
}
