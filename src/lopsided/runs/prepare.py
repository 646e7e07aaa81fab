"""A loaded model, made ready for one method."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from lopsided.adapt import adapt
from lopsided.errors import LopsidedError
from lopsided.files.atomic import atomic_folder
from lopsided.method import Method
from lopsided.models.heads import head_modules
from lopsided.runs.config import TrainConfig
from lopsided.tasks import Task


def prepare(model: nn.Module, method: Method, task: Task, config: TrainConfig) -> nn.Module:
    """Put the method on the model: what it trains has gradients, and nothing else does.

    The task's head, every module that the pretrained backbone lacks, is trained by all methods alike.

    Raises:
        LopsidedError: if the method trains a head, and the task has none.
    """
    heads = [] if task.kind == "generation" else head_modules(model)
    if method.is_adapter:
        adapted: nn.Module = adapt(
            model,
            method,
            r=config.rank,
            alpha=config.alpha,
            target_modules=config.targets,
            dropout=config.dropout,
            modules_to_save=heads or None,
            seed=config.seed,
        )
        return adapted
    if method.train == "head" and not heads:
        raise LopsidedError(
            f"method {method.name!r} trains the task's head, and {task.kind} has none; choose another method"
        )
    for name, parameter in model.named_parameters():
        in_head = any(name.startswith(f"{head}.") for head in heads)
        parameter.requires_grad = method.train == "all" or in_head
    return model


def save_trained(model: PreTrainedModel | PeftModel, method: Method, path: Path) -> int:
    """Write what the run learned: an adapter, a whole model, or a head.

    Returns:
        Bytes of the weights.
    """
    with atomic_folder(path) as folder:
        if method.train == "head":
            trained = {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}
            save_file(trained, folder / "head.safetensors", metadata={"format": "pt"})
        else:
            model.save_pretrained(str(folder))
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
