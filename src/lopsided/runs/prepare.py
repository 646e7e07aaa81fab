"""A loaded model, made ready for one method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from lopsided.errors import LopsidedError
from lopsided.files.atomic import atomic_folder
from lopsided.method import Method
from lopsided.models.heads import head_modules
from lopsided.models.skeleton import without_weights
from lopsided.runs.config import TrainConfig
from lopsided.runs.saved_forms import FORMS
from lopsided.tasks import Task


def prepare(model: nn.Module, method: Method, task: Task, config: TrainConfig, steps: int) -> nn.Module:
    """Put the method on the model: what it trains has gradients, and nothing else does.

    The task's head, every module that the pretrained backbone lacks, is trained by all methods alike.

    Args:
        steps: of the run.

    Raises:
        LopsidedError: if the method trains a head, and the task has none.
    """
    return FORMS[method.side.saved_as].select(model, method, config, _heads(model, method, task), steps)


def problems_of(model: PreTrainedModel, method: Method, task: Task, config: TrainConfig, steps: int) -> Iterator[str]:
    """Yield what keeps `prepare` from working, one line each, without the model's weights.

    Raises:
        LopsidedError: for a problem after which no other can be looked for.
    """
    bare = without_weights(model)
    yield from FORMS[method.side.saved_as].problems(bare, method, config, _heads(bare, method, task), steps)


def save_trained(model: PreTrainedModel | PeftModel, method: Method, path: Path) -> int:
    """Write what the run learned: an adapter, a whole model, or a head.

    Returns:
        Bytes of the weights.
    """
    with atomic_folder(path) as folder:
        FORMS[method.side.saved_as].save(model, method, folder)
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _heads(model: nn.Module, method: Method, task: Task) -> list[str]:
    heads = [] if task.kind == "generation" else head_modules(model)
    if method.side.head_alone and not heads:
        raise LopsidedError(
            f"method {method.name!r} trains the task's head, and {task.kind} has none; choose another method"
        )
    return heads
