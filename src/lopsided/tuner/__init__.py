"""A method inside a model: the PEFT tuner."""

from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.layer import LIVE_LAYERS, LopsidedLinear
from lopsided.tuner.model import LopsidedModel
from lopsided.tuner.model_queries import configs_of, layers_of, layers_with, single_active, trained_numbers
from lopsided.tuner.peft_seams import install_seams, register_tuner

register_tuner(LopsidedConfig, LopsidedModel)
install_seams()

__all__ = [
    "LIVE_LAYERS",
    "LopsidedConfig",
    "LopsidedLinear",
    "LopsidedModel",
    "configs_of",
    "layers_of",
    "layers_with",
    "single_active",
    "trained_numbers",
]
