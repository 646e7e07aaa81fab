"""What the behaviour tests share: six architectures times all adapter methods, and one dense oracle.

Models are built, adapted and filled once a process, and every test gets a copy, which costs a few milliseconds.
"""

from __future__ import annotations

import copy
import functools
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.func import functional_call

import lopsided
from lopsided import METHODS, LopsidedConfig
from lopsided.tuner import layers_of
from tests import tiny

RANK, LINKS = 2, 4
ROOT = "base_model.model."


@dataclass(frozen=True)
class Architecture:
    """A tiny model, the layers of it that get adapters, and what the list of its blocks is called."""

    build: Callable[[], nn.Module]
    targets: tuple[str, ...]
    blocks: str
    head: str | None = None


# Square and oblong layers, Linear and Conv1D, with and without a bias, in an encoder, a decoder and both.
ARCHITECTURES = {
    "mlp": Architecture(tiny.mlp, ("up", "down"), "layers", head="head"),
    "bert": Architecture(tiny.bert, ("query", "intermediate.dense"), "layer", head="classifier"),
    "gpt2": Architecture(tiny.gpt2, ("c_attn", "mlp.c_proj"), "h"),
    "llama": Architecture(tiny.llama, ("v_proj", "down_proj"), "layers"),
    "vit": Architecture(tiny.vit, ("q_proj", "fc1"), "layers", head="classifier"),
    "bart": Architecture(tiny.bart, ("q_proj", "fc2"), "layers"),
}
GENERATORS = ("gpt2", "llama", "bart")


def everywhere(share: int = 3, archs: Sequence[str] = tuple(ARCHITECTURES)) -> Callable[[Any], Any]:
    """Run a test with every architecture and every method: a share in `make test` and `make more`, all in `make soak`.

    The share is a diagonal that starts elsewhere for each test. With `share=3` a method meets two of the six
    architectures in one test, one of them in `make test` and the other one in `make more`, and all of them over the
    tests; with `share=6`, for slow ones, it meets one, in `make test`.
    """

    def marks(place: int) -> list[pytest.MarkDecorator]:
        if place % share:
            return [pytest.mark.soak]
        return [pytest.mark.more] if place % 6 else []

    def parametrize(test: Any) -> Any:
        start = zlib.crc32(test.__name__.encode())
        cases = [
            pytest.param(arch, method, marks=marks(start + i + j))
            for (i, arch), (j, method) in itertools.product(enumerate(archs), enumerate(tiny.ADAPTERS))
        ]
        return pytest.mark.parametrize(("arch", "method"), cases)(test)

    return parametrize


@functools.cache
def original(arch: str) -> nn.Module:
    """The architecture's model without adapters, to look at only: every test sees this very object."""
    model = ARCHITECTURES[arch].build()
    # An untrained transformer's weights are so small that an adapter hardly shows in its logits.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.2 / parameter.std())
    return model


def base(arch: str) -> nn.Module:
    """A copy of it, to adapt."""
    return copy.deepcopy(original(arch))


def config(arch: str, method: str, *, heads: bool = True, **options: Any) -> LopsidedConfig:
    """For `PeftModel.add_adapter` and `get_peft_model`."""
    options.setdefault("links", LINKS if METHODS[method].chain else None)
    head = ARCHITECTURES[arch].head if heads else None
    options.setdefault("target_modules", list(ARCHITECTURES[arch].targets))
    return LopsidedConfig(method=method, r=RANK, modules_to_save=[head] if head else None, **options)


def adapted(arch: str, method: str, *, heads: bool = True, **options: Any) -> PeftModel:
    """A new adapter at link 0 on a copy of the architecture's model, in evaluation mode."""
    options.setdefault("links", LINKS if METHODS[method].chain else None)
    options.setdefault("target_modules", list(ARCHITECTURES[arch].targets))
    if not heads:
        # Without a task type PEFT trains no head of its own accord.
        options |= {"task_type": None, "modules_to_save": None}
    elif arch == "mlp":
        options["modules_to_save"] = ["head"]
    return lopsided.adapt(base(arch), method, r=RANK, **options).eval()


def fill(model: PeftModel, adapter: str = "default", *, seed: int = 0, std: float = 0.1) -> None:
    """Stand in for training: add noise to the adapter's trained factors and to its head."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers_of(model, adapter).values():
            for factor in layer.trained(adapter).values():
                factor.add_(torch.randn(factor.shape, generator=generator).to(factor), alpha=std)
        for wrapper in heads_of(model).values():
            for parameter in wrapper.modules_to_save[adapter].parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=std)


def walk(model: PeftModel, adapter: str = "default", *, seed: int = 0) -> PeftModel:
    """Fill the adapter; a chain is advanced twice on the way, and so has two past links."""
    [method] = {layer.adapters[adapter].method for layer in layers_of(model, adapter).values()}
    fill(model, adapter, seed=seed)
    for link in range(2 if method.chain else 0):
        lopsided.advance_chain(model, adapter_name=adapter)
        fill(model, adapter, seed=seed + 100 * (link + 1))
    return model


@functools.cache
def _trained(arch: str, method: str, heads: bool) -> PeftModel:
    model = walk(adapted(arch, method, heads=heads))
    moved = (logits(model) - plain_logits(arch)).abs().max()
    assert moved > 1e-2, f"the adapter moves the logits by {moved:.1e}: too little for a test to see"
    return model


def trained(arch: str, method: str, *, heads: bool = True) -> PeftModel:
    """One adapter, "default", that changes the function; a chain stands at link 2."""
    return copy.deepcopy(_trained(arch, method, heads))


@functools.cache
def _pair(arch: str, method: str, heads: bool) -> PeftModel:
    model = trained(arch, method, heads=heads)
    model.add_adapter("other", config(arch, another(method), heads=heads, seed=1))
    return walk(model, "other", seed=7).eval()


def pair(arch: str, method: str, *, heads: bool = True) -> PeftModel:
    """Two adapters, "default" (active) and "other", which is of another method."""
    return copy.deepcopy(_pair(arch, method, heads))


def another(method: str) -> str:
    """A method that is paired with this one: each has its own partner, chains among them."""
    return tiny.ADAPTERS[(tiny.ADAPTERS.index(method) + 5) % len(tiny.ADAPTERS)]


def heads_of(model: PeftModel) -> dict[str, ModulesToSaveWrapper]:
    """The wrappers of trained heads, by their names in the base model."""
    found = model.named_modules()
    return {name.removeprefix(ROOT): m for name, m in found if isinstance(m, ModulesToSaveWrapper)}


def trained_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


# -- outputs and the oracle ----------------------------------------------------------------------------------


def logits(model: nn.Module, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(**tiny.inputs(model), **options).logits


@functools.cache
def plain_logits(arch: str) -> Tensor:
    return logits(original(arch))


@functools.cache
def _wide(arch: str) -> nn.Module:
    return base(arch).double()


def oracle_weights(arch: str, model: PeftModel, names: Sequence[str]) -> dict[str, Tensor]:
    """The base model's weights in float64 with W0 + s·Σ B·A of all links of the named adapters written out."""
    plain, weights = _wide(arch), {}
    for name, layer in layers_of(model).items():
        key = name.removeprefix(ROOT)
        weight = plain.get_submodule(key).weight
        for adapter in names:
            for term in layer.terms(adapter, torch.device("cpu")) if adapter in layer.adapters else ():
                A, B = term.dense()
                product = layer.scaling[adapter] * (B.detach().double() @ A.detach().double())
                weight = weight + layer.kind.stored(product, weight.shape)
        weights[f"{key}.weight"] = weight.detach()
    for key, wrapper in heads_of(model).items():
        head = wrapper.modules_to_save[names[0]] if names else wrapper.original_module
        weights |= {f"{key}.{n}": p.detach().double() for n, p in head.named_parameters()}
    return weights


def oracle(arch: str, model: PeftModel, names: Sequence[str]) -> Tensor:
    """Logits of the dense model in float64."""
    return dense_logits(arch, oracle_weights(arch, model, names))


def oracle_gradients(arch: str, model: PeftModel, names: Sequence[str] = ("default",)) -> dict[str, Tensor]:
    """d(mean of squared logits) of every trained tensor of the model, by its name, through dense float64 matrices."""
    weights, leaves, factors = oracle_weights(arch, model, names), {}, {}
    for name, layer in layers_of(model).items():
        key = f"{name.removeprefix(ROOT)}.weight"
        for adapter in names:
            *_, current = layer.terms(adapter, torch.device("cpu"))
            A, B = (factor.detach().double().requires_grad_() for factor in current.dense())
            product = layer.scaling[adapter] * (B @ A)
            product = layer.kind.stored(product, layer.base_layer.weight.shape)
            # Its value is in the weight already; only its gradient is wanted.
            weights[key] = weights[key] + product - product.detach()
            factors[name, adapter] = (A, B)
    for key in [k for k in weights if any(k.startswith(f"{head}.") for head in heads_of(model))]:
        weights[key] = weights[key].requires_grad_()
        leaves[_head_parameter(key, names[0])] = weights[key]
    leaves |= {(*where, letter): f for where, pair_ in factors.items() for letter, f in zip("AB", pair_)}
    loss = dense_logits(arch, weights).square().mean()
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
    for name, adapter in factors:
        layer = layers_of(model)[name]
        A, B = found.pop((name, adapter, "A")), found.pop((name, adapter, "B"))
        for letter, parameter in layer.trained(adapter).items():
            gradient = {"A": A, "B": B, "C": A if layer.adapters[adapter].side.word == "A" else B.T}[letter]
            padded = gradient.new_zeros(parameter.shape)
            padded[:, : gradient.shape[1]] = gradient
            found[f"{name}.lopsided_{letter}.{adapter}.weight"] = padded
    return found


def _head_parameter(key: str, adapter: str) -> str:
    module, _, parameter = key.rpartition(".")
    return f"{ROOT}{module}.modules_to_save.{adapter}.{parameter}"


def dense_logits(arch: str, weights: Mapping[str, Tensor]) -> Tensor:
    plain = _wide(arch)
    batch = {k: v.double() if v.is_floating_point() else v for k, v in tiny.inputs(plain).items()}
    return functional_call(plain, dict(weights), (), batch, tie_weights=False).logits


def assert_near(actual: Tensor, expected: Tensor, *, share: float = 1e-4) -> None:
    """Equal but for rounding: within `share` of the largest expected number."""
    limit = share * float(expected.abs().max().clamp(min=1.0))
    torch.testing.assert_close(actual.double(), expected.double(), atol=limit, rtol=0)


def assert_gradients(model: nn.Module, expected: Mapping[str, Tensor]) -> None:
    """Every trained tensor has the expected gradient, within a share of the largest of all."""
    gradients = {name: p.grad for name, p in trained_tensors(model).items()}
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert gradients[name] is not None, f"{name} has no gradient"
        error = float((gradients[name].double() - gradient.double()).abs().max())
        assert error <= 1e-4 * largest, f"{name}: gradients differ by {error:.2e}, the largest is {largest:.2e}"


def assert_same_bits(actual: Tensor, expected: Tensor, what: str) -> None:
    ints = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, expected {expected.dtype}"
    assert torch.equal(actual.contiguous().view(ints), expected.contiguous().view(ints)), f"{what}: other bits"


def assert_base_is(model: nn.Module, plain: nn.Module) -> None:
    """Every weight of the base model has the bits that `plain` has, seen while the adapters are switched off."""
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            _assert_equal_parameters(dict(model.base_model.model.named_parameters()), plain)
    else:
        _assert_equal_parameters(dict(model.named_parameters()), plain)


def assert_base_is_original(model: nn.Module, arch: str) -> None:
    """Every weight of the base model has the bits that it had before it was adapted."""
    assert_base_is(model, original(arch))


def _assert_equal_parameters(now: Mapping[str, Tensor], plain: nn.Module) -> None:
    cleaned = {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): parameter
        for name, parameter in now.items()
    }
    for name, parameter in plain.named_parameters():
        assert_same_bits(cleaned[name], parameter, name)
