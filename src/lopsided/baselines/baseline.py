"""What a baseline is: a method of stock PEFT that competes with ours, as data, and the table `BASELINES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import TrainerCallback

from lopsided.errors import LopsidedError, unknown
from lopsided.method import NAMESPACES, Method

SPACE = "peft"
# By the name after "peft:".
BASELINES: dict[str, Baseline] = {}


@dataclass(frozen=True, kw_only=True)
class BaselineSetting:
    """What a run asks of a method of PEFT.

    Args:
        rank: r.
        alpha: LoRA's scale is alpha/r.
        targets: names of the layers to adapt, or a regular expression, settled as for our own methods. None for an
            entry with `own_targets`, where the run names none.
        steps: optimizer steps of the run.
        seed: of the run, from which everything random follows.
        dropout: on the adapters' inputs.
        model_type: as transformers calls the architecture.
    """

    rank: int
    alpha: float
    targets: list[str] | str | None
    steps: int
    seed: int
    dropout: float
    model_type: str


def write_as_peft_does(model: PeftModel, folder: Path) -> None:
    """Write the adapter's folder as PEFT writes it."""
    model.save_pretrained(str(folder))


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A method of stock PEFT.

    Args:
        config: makes its configuration; the task's head and its type are added to it.
        lr: default learning rate of `lopsided train`.
        why_lr: where that rate comes from.
        trained: how many numbers a layer of (d_out, d_in) trains, as a formula.
        source: the paper it comes from.
        misfit: says why a layer cannot be adapted so, with the fix; None if it can. (setting, d_out, d_in) -> words.
        callback: makes what training needs besides the optimizer. (the checkpoint that the run goes on from, None at
            its beginning) -> a callback.
        finish: changes the model when the adapter has been put on it for training.
        save: writes the adapter to a folder; what it writes, put on the original base, computes what was trained.
        has_dropout: whether the method can drop an adapter's inputs.
        is_lora: whether what is saved is plain LoRA, ΔW = s·B·A on the original base.
        own_targets: whether the method has layers of its own to adapt where the run names none.
        for_trial: changes a configuration that is tried on a model without weights, where something reads them.
    """

    config: Callable[[BaselineSetting], PeftConfig]
    lr: float
    why_lr: str
    trained: str
    source: str
    misfit: Callable[[BaselineSetting, int, int], str | None] = lambda setting, d_out, d_in: None
    callback: Callable[[Path | None], TrainerCallback] | None = None
    finish: Callable[[PeftModel], None] = lambda model: None
    save: Callable[[PeftModel, Path], None] = write_as_peft_does
    has_dropout: bool = False
    is_lora: bool = False
    own_targets: bool = False
    for_trial: Callable[[Any], None] = lambda config: None


def baseline_of(method: Method) -> Baseline:
    """Return the entry of a method whose side is "peft".

    Raises:
        LopsidedError: if there is none of its name.
    """
    name = method.name.removeprefix(f"{SPACE}:")
    if name not in BASELINES:
        raise LopsidedError(unknown("method of PEFT", name, BASELINES))
    return BASELINES[name]


def _method_of(name: str) -> Method:
    """Return the method "peft:name"."""
    if name not in BASELINES:
        raise LopsidedError(unknown("method of PEFT", name, BASELINES))
    entry = BASELINES[name]
    return Method(name=f"{SPACE}:{name}", train=SPACE, lr=entry.lr, source=entry.source)


NAMESPACES[SPACE] = _method_of
