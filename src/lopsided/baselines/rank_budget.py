"""AdaLoRA's rank allocator in a `transformers.Trainer`: runs are resumed, saved and loaded exactly.

Notation: ΔW = s·B·diag(E)·A of rank r0 at the start. PEFT keeps three averages per factor, from which it ranks all
entries of all E, and sets those outside of a falling budget to zero. The entries that it keeps are the *pattern*.

PEFT writes the pattern into the configuration and then saves factors cut to it, which the model in memory, still of
rank r0, cannot load again: not from a checkpoint, and not the best one at the end. Here the pattern stays with the
callback, so that checkpoints hold whole factors; what a run saves at its end is cut to the entries of E that are not
zero, which leaves the function as it is.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from peft import AdaLoraConfig, AdaLoraModel, PeftModel
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from lopsided.files.checkpoints import STATE

# The allocator's attributes that hold averages, by the name of a factor.
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
SEPARATOR = "|"


class RankBudget(TrainerCallback, ExportableState):
    """Lets AdaLoRA update its averages and cut its ranks after every step.

    Its state is part of a checkpoint: the pattern, and the averages as base64 of safetensors, so that no bit is lost.

    Args:
        checkpoint: of the run that goes on; None begins one.

    Source:
        Zhang et al. 2023, arXiv:2303.10512.
    """

    def __init__(self, checkpoint: Path | None = None) -> None:
        self.pattern: dict[str, list[bool]] | None = None
        self._averages: dict[str, Tensor] = {}
        self._allocator: Any = None
        if checkpoint is not None:
            states = json.loads((checkpoint / STATE).read_text())["stateful_callbacks"]
            mine = states[type(self).__name__]["attributes"]
            self.pattern, self._averages = mine["pattern"], load(base64.b64decode(mine["averages"]))

    def state(self) -> dict[str, Any]:
        """Return what `Trainer` writes into a checkpoint."""
        if self._allocator is not None:
            self._averages = {
                f"{kind}{SEPARATOR}{name}": tensor.cpu().contiguous()
                for kind in AVERAGES
                for name, tensor in getattr(self._allocator, kind).items()
            }
        averages = base64.b64encode(save(self._averages)).decode()
        return {"args": {}, "attributes": {"pattern": self.pattern, "averages": averages}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the allocator the averages of the checkpoint."""
        self._allocator = _tuner(kwargs["model"]).rankallocator
        parameters = dict(_tuner(kwargs["model"]).model.named_parameters())
        for key, tensor in self._averages.items():
            kind, _, name = key.partition(SEPARATOR)
            getattr(self._allocator, kind)[name] = tensor.to(parameters[name].device)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Update the averages from the gradients, which are still there, and set what is over the budget to zero."""
        tuner = _tuner(kwargs["model"])
        config = _config(tuner)
        config.rank_pattern = self.pattern
        # Trainer counts the step after this.
        tuner.update_and_allocate(state.global_step + 1)
        self.pattern, config.rank_pattern = config.rank_pattern, None


def ranks(model: nn.Module) -> dict[str, int]:
    """Return how many entries of E are not zero, by module."""
    entries = (name for name, _ in model.named_parameters() if ".lora_E." in name)
    return {name.partition(".lora_E.")[0]: int(model.get_parameter(name).count_nonzero()) for name in entries}


def save_cut(model: PeftModel, folder: Path) -> None:
    """Write the adapter without the rows and columns of zero entries of E."""
    tuner = _tuner(model)
    config = _config(tuner)
    config.rank_pattern = {
        name: (parameter != 0).flatten().tolist()
        for name, parameter in tuner.model.named_parameters()
        if ".lora_E." in name
    }
    model.save_pretrained(str(folder))
    config.rank_pattern = None


def penalize_in_training_alone(model: PeftModel) -> None:
    """Keep AdaLoRA's penalty for factors that are not orthonormal out of the losses of evaluations.

    PEFT adds it to every loss, so that a validation loss would be no loss of the task. A model of another method is
    left as it is.
    """
    if not isinstance(model.base_model, AdaLoraModel):
        return
    config = _config(model.base_model)
    weight = config.orth_reg_weight

    def before(module: nn.Module, inputs: Any) -> None:
        config.orth_reg_weight = weight if module.training else 0.0

    def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
        config.orth_reg_weight = weight

    model.base_model.register_forward_pre_hook(before)
    model.base_model.register_forward_hook(after, always_call=True)


def _tuner(model: PeftModel) -> AdaLoraModel:
    assert isinstance(model.base_model, AdaLoraModel)
    return model.base_model


def _config(tuner: AdaLoraModel) -> AdaLoraConfig:
    config = tuner.peft_config[tuner.trainable_adapter_name]
    assert isinstance(config, AdaLoraConfig)
    return config
