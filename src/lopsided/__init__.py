"""Single-factor, randomized, chained and sparse low-rank adapters for the Hugging Face stack.

Importing the package also makes its methods known to PEFT.
"""

import lopsided.baselines
import lopsided.methods  # noqa: F401  (fills METHODS)
from lopsided import testing
from lopsided.adapt import adapt
from lopsided.calibrate import Calibration, calibrate
from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.export import to_lora
from lopsided.files.checkpoints import last_checkpoint
from lopsided.method import METHODS, Chain, Method, register
from lopsided.method.dense import Gaussian, KaimingUniform, Orthonormal, Singular
from lopsided.method.from_inputs import LargestColumns, Principal
from lopsided.method.input_moments import InputMoments
from lopsided.method.selectors import Columns, Window
from lopsided.method.sketch import Selector, Sketch
from lopsided.optim import ChainCallback, advance_chain, param_groups
from lopsided.tuner import LopsidedConfig
from lopsided.tuner.merging.exact_merge import exact_merge, make_merges_exact

__version__ = "0.2.0"

__all__ = [
    "METHODS",
    "Calibration",
    "Chain",
    "ChainCallback",
    "Columns",
    "Gaussian",
    "InputMoments",
    "KaimingUniform",
    "LargestColumns",
    "LopsidedConfig",
    "LopsidedError",
    "LopsidedWarning",
    "Method",
    "Orthonormal",
    "Principal",
    "Selector",
    "Singular",
    "Sketch",
    "Window",
    "adapt",
    "advance_chain",
    "calibrate",
    "exact_merge",
    "last_checkpoint",
    "make_merges_exact",
    "param_groups",
    "register",
    "testing",
    "to_lora",
]
