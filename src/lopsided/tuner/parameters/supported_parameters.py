"""Which parameters can be adapted, and why others cannot."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lopsided.errors import LopsidedError
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.kinds import kind_of


def check_parameter(module: nn.Module, parameter: str, key: str, config: LopsidedConfig) -> None:
    """Raise if a module's parameter cannot be adapted.

    Raises:
        LopsidedError: naming it by `key`, with the reason.
    """
    reason = _why_not(module, parameter, config)
    if reason is not None:
        raise LopsidedError(f"target_parameters: {key} {reason}")


def _why_not(module: nn.Module, parameter: str, config: LopsidedConfig) -> str | None:
    kind = type(module).__name__
    if isinstance(module, BaseTunerLayer) or kind_of(module) is not None:
        return f"is in a layer, a {kind}; expected a parameter in no layer; name the module in target_modules"
    if isinstance(module, nn.RNNBase):
        return f"is read by {kind} from a list of its own; expected a parameter that is looked up; leave it out"
    if parametrize.is_parametrized(module, parameter):
        return (
            "is parametrized, that is, computed again at each access; expected a plain parameter; remove the "
            "parametrization, or leave it out"
        )
    weight = getattr(module, parameter)
    if not isinstance(weight, Tensor) or weight.dim() not in (2, 3):
        return f"has {weight.dim()} dimensions; expected a matrix or a stack of matrices; leave it out"
    if kind.endswith("ParallelLinear") or getattr(weight, "tensor_model_parallel", False):
        return f"is one process's part of a matrix, in a {kind}; expected all of it; adapt a model that is not split so"
    if type(weight) is not nn.Parameter:
        return f"is a {type(weight).__name__}, sharded or quantized; expected a plain parameter; adapt it before it is"
    if not weight.is_floating_point():
        return f"is of {weight.dtype}, quantized; expected floating point; load the model with dequantized experts"
    if weight.is_meta and "_hf_hook" in vars(module):
        return "is offloaded by accelerate; expected it in memory; load the base without offloading"
    if config.dropout:
        return (
            f"is multiplied inside of {kind}, where no dropout reaches, got dropout={config.dropout}; expected 0; "
            "leave dropout out, or the parameter"
        )
    return None
