"""A module with adapters on parameters that its own forward multiplies with: experts, routers.

Every matrix of such a parameter is adapted like a layer: it has a `LopsidedLinear` of its own, with its sketches, its
chain, its place in files and its way back to W0. Only the forward is the module's, which sees W + ΔW in the
parameter's place: a `LowRankWeight`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from lopsided.tuner.arrivals import check_loaded, check_unmerged
from lopsided.tuner.forward.compute import Selected, Term
from lopsided.tuner.kinds.parameter import MatrixKind, ParameterMatrix
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.parameters.low_rank_weight import Chosen, LowRankWeight, Piece, written_out
from lopsided.tuner.past_forward import PastForward
from lopsided.tuner.state_modules import ADAPTER_ONLY
from lopsided.tuner.weight.holder import SameWeight

# Modules whose stacks are (E, d_in, d_out), and that do not say so by `is_transposed` as others of transformers do.
TRANSPOSED = ("Llama4TextExperts",)


class AdaptedParameters(nn.Module):
    """A module, and the adapters of some of its parameters.

    Args:
        base_layer: the module.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        # By parameter and matrix: `gate_up_proj_0`. PEFT looks for targets among names' ends, so no parameter's own.
        self.adapted = nn.ModuleDict()
        self.names: dict[str, list[str]] = {}
        self.register_state_dict_post_hook(_put_originals)

    def adapt(self, parameter: str, *, shared: bool) -> list[LopsidedLinear]:
        """Return the layers of a parameter's matrices, which are made where there are none.

        Args:
            shared: whether another module holds the parameter, too.
        """
        if parameter not in self.names:
            weight = getattr(self.base_layer, parameter)
            transposed = weight.dim() == 3 and is_transposed(self.base_layer)
            self.names[parameter] = []
            for index in range(len(weight)) if weight.dim() == 3 else [None]:
                kind = MatrixKind(index=index, transposed=transposed)
                name = f"{parameter}_{index or 0}"
                matrix = ParameterMatrix(self.base_layer, parameter, kind)
                self.adapted[name] = LopsidedLinear(matrix, kind, shared=shared)
                self.names[parameter].append(name)
        return self.layers(parameter)

    def layers(self, parameter: str) -> list[LopsidedLinear]:
        """Return the layers of a parameter's matrices."""
        layers = [self.adapted[name] for name in self.names[parameter]]
        return [layer for layer in layers if isinstance(layer, LopsidedLinear)]

    def all_layers(self) -> Iterator[LopsidedLinear]:
        """Yield the layers of all parameters."""
        for parameter in self.names:
            yield from self.layers(parameter)

    def get_base_layer(self) -> nn.Module:
        """Return the module itself, as PEFT asks a layer for it."""
        return self.base_layer

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the module itself, with its adapters merged or without them, as PEFT asks a layer for it."""
        for layer in self.all_layers() if merge else ():
            layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        return self.base_layer

    # -- forward -------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the module computes, with W + ΔW in the place of its adapted parameters."""
        found = {parameter: self.pieces(parameter) for parameter in self.names if self.adapters_on(parameter)}
        if not found:
            return self.base_layer(*args, **kwargs)
        # Compiled code cannot hold such a tensor.
        seen = written_out if torch.compiler.is_compiling() else LowRankWeight.around
        values = {parameter: seen(getattr(self.base_layer, parameter), pieces) for parameter, pieces in found.items()}
        out = functional_call(self.base_layer, values, args, kwargs)
        if torch.compiler.is_compiling():
            return out
        guard = _Guards([SameWeight(layer.base_weight, layer.adapters) for layer in self.all_layers()])
        tree_map_only(Tensor, lambda part: part.requires_grad and part.register_hook(guard), out)
        return out

    def adapters_on(self, parameter: str) -> list[str]:
        """Return the adapters that are computed next to a parameter."""
        first = self.layers(parameter)[0]
        if first.disable_adapters or first.merged_adapters:
            return []
        return [name for name in first.active_adapters if name in first.adapters]

    def pieces(self, parameter: str) -> tuple[Piece, ...]:
        """Return what these adapters add to a parameter as it is stored."""
        layers, dtype = self.layers(parameter), getattr(self.base_layer, parameter).dtype
        pieces = [piece for name in self.adapters_on(parameter) for piece in _pieces(layers, name, dtype)]
        kind = layers[0].kind
        assert isinstance(kind, MatrixKind)
        if kind.index is None:
            pieces = [piece.at(0) for piece in pieces]
        if kind.transposed:
            pieces = [piece.turned() for piece in pieces]
        return tuple(pieces)

    def __getattr__(self, name: str) -> Any:
        """Return the module's own attribute for whatever else code asks for, and a guard for an adapted parameter."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(super().__getattr__("base_layer"), name)
        names = vars(self).get("names", {})
        if name in names and self.adapters_on(name):
            return PastForward.around(value, next(iter(self.layers(name)[0].adapters.values())).module)
        return value

    # -- moving, saving and loading --------------------------------------------------------------------------------

    def _apply(self, fn: Any, recurse: bool = True) -> AdaptedParameters:
        # The parameters move before the layers do, so what is written over them is taken out of all first.
        for layer in self.all_layers():
            layer.base_weight.restore()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for parameter in self.names:
            if (incoming := state_dict.get(f"{prefix}base_layer.{parameter}")) is not None:
                for layer in self.layers(parameter):
                    for name in layer.adapters:
                        check_unmerged(layer, name)
                    layer.base_weight.expect_load(incoming.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def is_transposed(module: nn.Module) -> bool:
    """Return whether a module's stacks of matrices are (E, d_in, d_out): (E, d_out, d_in) where nothing says so."""
    return bool(vars(module).get("is_transposed", type(module).__name__ in TRANSPOSED))


def original_name(model: nn.Module, key: str) -> str:
    """Return the name that a tensor of a model's state has where no parameter is adapted.

    Args:
        key: "experts.base_layer.down_proj", where `experts` is an `AdaptedParameters`.

    Returns:
        "experts.down_proj". Names inside other wrappers are left as they are.
    """
    names: list[str] = []
    module: nn.Module | None = model
    for name in key.split("."):
        if not (isinstance(module, AdaptedParameters) and name == "base_layer"):
            names.append(name)
        module = None if module is None else module._modules.get(name)
    return ".".join(names)


def _pieces(layers: Sequence[LopsidedLinear], name: str, dtype: torch.dtype) -> list[Piece]:
    """Return s·B·A of all matrices, one piece for the link in training and one for each past link next to W.

    Factors are float32 masters next to 16-bit weights, and computed with in the weights' dtype unless the adapter says
    float32.
    """
    narrow = dtype in (torch.bfloat16, torch.float16) and not layers[0].adapters[name].float32
    dtype = dtype if narrow else torch.float32
    terms: list[list[Term]] = []
    for layer in layers:
        if layer.adapters[name].unread:
            check_loaded(layer, name)
        past = layer.adapters[name].past_terms() if layer.frozen[name].stacked else []
        device = layer.base_weight.device
        terms.append([*(term.to(device) for term in past), layer.current(name)])
    scaling = layers[0].scaling[name]
    return [_piece(link, scaling, dtype) for link in zip_longest(*terms)]


def _piece(terms: Sequence[Term], scaling: float, dtype: torch.dtype) -> Piece:
    """Return the terms of one link as a stack: A of (E, r, d_in) on the right, s·B of (E, d_out, r) on the left."""
    A, B = _stacked([term.A for term in terms]), _stacked([term.B for term in terms])
    if isinstance(B, Tensor):
        B = B * scaling
    elif isinstance(A, Tensor):
        A = A * scaling
    left = B if isinstance(B, Chosen) else B.to(dtype)
    right = A if isinstance(A, Chosen) else A.to(dtype)
    return Piece(left, right)


def _stacked(factors: Sequence[Tensor | Selected]) -> Tensor | Chosen:
    selected = [factor for factor in factors if isinstance(factor, Selected)]
    if len(selected) == len(factors):
        return Chosen(torch.stack([factor.indices for factor in selected]), selected[0].width)
    return torch.stack([factor for factor in factors if isinstance(factor, Tensor)])


class _Guards:
    """One hook of an output for the guards of all matrices."""

    def __init__(self, guards: Sequence[SameWeight]) -> None:
        self.guards = guards

    def __call__(self, gradient: Tensor) -> None:
        for guard in self.guards:
            guard(gradient)


def _put_originals(module: AdaptedParameters, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Put W0 in the place of what the parameters hold: a hook of `state_dict`."""
    for parameter in module.names:
        key = f"{prefix}base_layer.{parameter}"
        written = [layer for layer in module.layers(parameter) if layer.base_weight.written]
        if key in state_dict and written and not ADAPTER_ONLY.get():
            original = state_dict[key].detach().clone()
            for layer in written:
                layer.kind.matrix(original).copy_(layer.base_weight.original())
            state_dict[key] = original
