"""A method inside a model: the PEFT tuner."""

from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.layer import LIVE_LAYERS, LopsidedLinear, layers_of
from lopsided.tuner.model import LopsidedModel, active_layers, configs_of, single_active, trained_numbers
from lopsided.tuner.peft_seams import guard_peft
from lopsided.tuner.register import register_with_peft

register_with_peft(LopsidedConfig, LopsidedModel)
guard_peft()

__all__ = [
    "LIVE_LAYERS",
    "LopsidedConfig",
    "LopsidedLinear",
    "LopsidedModel",
    "active_layers",
    "configs_of",
    "layers_of",
    "single_active",
    "trained_numbers",
]
