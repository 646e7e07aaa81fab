"""A method inside a model: the PEFT tuner."""

from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.layer import LIVE_LAYERS, LopsidedLinear
from lopsided.tuner.model import LopsidedModel
from lopsided.tuner.model_queries import active_layers, configs_of, layers_of, single_active, trained_numbers
from lopsided.tuner.peft_seams import install_seams, register_tuner

register_tuner(LopsidedConfig, LopsidedModel)
install_seams()

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
