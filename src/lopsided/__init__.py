"""Single-factor, randomized, chained and sparse low-rank adapters for the Hugging Face stack.

Importing the package also makes its methods known to PEFT.
"""

import lopsided.methods  # noqa: F401  (fills METHODS)
from lopsided import testing
from lopsided.adapt import adapt
from lopsided.chain import ChainCallback, advance_chain
from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.export import to_lora
from lopsided.method import METHODS, Chain, Method, register
from lopsided.optim import param_groups
from lopsided.resume import last_checkpoint
from lopsided.sketch import Selector, Sketch
from lopsided.sketches import Columns, Gaussian, KaimingUniform, Orthonormal, Singular, Window
from lopsided.tuner import LopsidedConfig

__version__ = "0.2.0.dev0"

__all__ = [
    "METHODS",
    "Chain",
    "ChainCallback",
    "Columns",
    "Gaussian",
    "KaimingUniform",
    "LopsidedConfig",
    "LopsidedError",
    "LopsidedWarning",
    "Method",
    "Orthonormal",
    "Selector",
    "Singular",
    "Sketch",
    "Window",
    "adapt",
    "advance_chain",
    "last_checkpoint",
    "param_groups",
    "register",
    "testing",
    "to_lora",
]
