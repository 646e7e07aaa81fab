"""Spectral norms of an adapted model's layers, by power iteration.

Notation: M is a matrix of (d_out, d_in), σ_1 >= σ_2 >= … are its singular values, and ‖M‖₂ = σ_1.

A few products with W0 and with the factors of ΔW give both norms; no matrix is decomposed, and ΔW is never written out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from lopsided.errors import LopsidedError
from lopsided.theory.checks import check_positive
from lopsided.theory.dims import linear_maps
from lopsided.theory.spectral import LayerNorms
from lopsided.tuner import layers_of
from lopsided.tuner.forward.compute import Term

Product = Callable[[Tensor], Tensor]

# The Lipschitz constants of activations by what transformers calls them: suprema of |σ'|.
ACTIVATIONS = {
    "relu": 1.0,
    "tanh": 1.0,
    "sigmoid": 0.25,
    "gelu": 1.1290,
    "gelu_new": 1.1290,
    "gelu_pytorch_tanh": 1.1290,
    "gelu_fast": 1.1290,
    "quick_gelu": 1.0998,
    "silu": 1.0998,
    "swish": 1.0998,
    "linear": 1.0,
}


def spectral_norm(
    forward: Product, back: Product, d_in: int, *, iterations: int = 30, block: int = 4, tolerance: float = 1e-4
) -> float:
    """Return ‖M‖₂ of a matrix that is known by its products, from below.

    Each round multiplies a block of vectors by MᵀM and makes it orthonormal again. The block's growth is at most
    ‖M‖₂², and its distance from that shrinks by (σ_{block+1}/σ_1)² per round.

    Args:
        forward: (k, d_in) -> (k, d_out), rows times Mᵀ.
        back: (k, d_out) -> (k, d_in), rows times M.
        d_in: width of an input.
        iterations: the most rounds.
        block: vectors at once.
        tolerance: the relative change of the estimate up to which a round counts as converged. Two such rounds in a row
            end the iteration: a block that starts nearly orthogonal to the first singular vector can stay at the second
            singular value for one round.

    Units:
        Those of M's entries.

    Source:
        Block power iteration; Golub and Van Loan, Matrix Computations, 8.2.

    Example:
        >>> M = torch.diag(torch.tensor([3.0, 1.0]))
        >>> round(spectral_norm(lambda x: x @ M.T, lambda y: y @ M, 2), 3)
        3.0
    """
    check_positive(d_in=d_in, iterations=iterations, block=block, tolerance=tolerance)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(d_in, min(block, d_in), generator=generator))[0].T
    norm, calm = 0.0, 0
    for _ in range(iterations):
        images = forward(vectors)
        if not bool(torch.isfinite(images).all()):
            raise LopsidedError(
                "expected a matrix of finite numbers, got NaN or Inf in a product with it; go back to a good checkpoint"
            )
        before, norm = norm, float(torch.linalg.matrix_norm(images, 2))
        calm = calm + 1 if abs(norm - before) <= tolerance * norm else 0
        if norm == 0.0 or calm == 2:
            break
        vectors = torch.linalg.qr(back(images).T)[0].T
    return norm


@dataclass(frozen=True, kw_only=True)
class ModelNorms:
    """The norms of a model's linear maps, and the assumptions that list them as a chain.

    Args:
        modules: the maps' names, in the model's order.
        layers: their norms.
        assumed: sentences for a reader; a bound from these norms holds as far as they do.
    """

    modules: tuple[str, ...]
    layers: tuple[LayerNorms, ...]
    assumed: tuple[str, ...]


@torch.no_grad()
def model_norms(model: nn.Module, adapter: str = "default", *, iterations: int = 30) -> ModelNorms:
    """Return ‖W0‖₂ and ‖ΔW‖₂ of every linear map of an adapted model.

    Theorem 1 is about layers one after the other, which a transformer has only in part: its linear maps are listed in
    the model's order, each followed by the model's activation, and `assumed` says what this leaves out.

    Args:
        model: with a Lopsided adapter.
        adapter: its name.
        iterations: of `spectral_norm`.

    Units:
        Those of the weights.

    Source:
        The norms that Theorem 1 of Cadenhead et al. 2026, arXiv:2606.13767, takes in.

    Raises:
        LopsidedError: without that adapter; for an activation whose Lipschitz constant is not known here.
    """
    root = model.get_base_model() if isinstance(model, PeftModel) else model
    adapted = layers_of(root, adapter)
    if not adapted:
        raise LopsidedError(f"expected a model with a Lopsided adapter named {adapter!r}, got none; adapt it first")
    activation, lipschitz = _activation(root)
    modules, layers = [], []
    plain = dict(linear_maps(root))
    for name, _ in root.named_modules():
        if name in adapted:
            layer = adapted[name]
            base = layer.base_weight.original().float()
            update = _update_norm(layer.terms(adapter, torch.device("cpu")), layer.scaling[adapter], iterations)
        elif name in plain:
            base, update = plain[name].weight.detach().float().cpu(), 0.0
        else:
            continue
        modules.append(name)
        layers.append(LayerNorms(base=_norm(base, iterations), update=update, lipschitz=lipschitz))
    return ModelNorms(
        modules=tuple(modules),
        layers=tuple(layers),
        assumed=(
            f"{len(modules)} linear maps, one after the other, each followed by {activation} (Lipschitz {lipschitz:g})",
            "attention, normalisation and residual sums count as 1-Lipschitz, which they are not in general",
            "biases are left out, since both networks share them, and so is a task's head; norms are from below",
        ),
    )


def _activation(model: nn.Module) -> tuple[str, float]:
    """The activation that a model's configuration names, and its Lipschitz constant."""
    settings = model.config.to_dict() if isinstance(model, PreTrainedModel) else {}
    names = [settings[key] for key in ("hidden_act", "hidden_activation", "activation_function") if key in settings]
    if not names:
        return "no activation that its configuration names", 1.0
    if names[0] not in ACTIVATIONS:
        raise LopsidedError(
            f"the Lipschitz constant of the activation {names[0]!r} is not known here; expected one of "
            f"{', '.join(ACTIVATIONS)}; add it to lopsided.theory.norms.ACTIVATIONS"
        )
    return names[0], ACTIVATIONS[names[0]]


def _norm(W: Tensor, iterations: int) -> float:
    return spectral_norm(lambda x: x @ W.T, lambda y: y @ W, W.shape[1], iterations=iterations)


def _update_norm(terms: list[Term], scaling: float, iterations: int) -> float:
    """‖ΔW‖₂ from the products with each link's factors."""
    factors = [term.dense() for term in terms]

    def forward(x: Tensor) -> Tensor:
        return sum((x @ A.T @ B.T for A, B in factors), torch.zeros(())) * scaling

    def back(y: Tensor) -> Tensor:
        return sum((y @ B @ A for A, B in factors), torch.zeros(())) * scaling

    return spectral_norm(forward, back, factors[0][0].shape[1], iterations=iterations)
