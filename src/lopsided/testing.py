"""What every method and every sketch must do: the library's own tests, published for users' own.

`check_method` puts a method on a small network of a `Linear` and a `Conv1D` and tries each contract of
`METHOD_CONTRACTS`; `check_sketch` does the same for `SKETCH_CONTRACTS`. A broken contract is an `AssertionError`
that says which one.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.adapt import adapt
from lopsided.errors import LopsidedError
from lopsided.export import to_lora
from lopsided.method import Chain, Method
from lopsided.method.sketch import Selector, Sketch, layer_seed
from lopsided.optim import advance_chain, param_groups
from lopsided.tuner import layers_of

RANK = 2


class Net(nn.Module):
    """(n, 7) -> (n, 3): two layers to adapt, neither square, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(7, 9), Conv1D(11, 9), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def network(seed: int = 0) -> tuple[Net, Tensor]:
    """A network in evaluation mode, and an input of 5 rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net().eval(), torch.randn(5, 7)


def adapted(method: Method, base: nn.Module, *, seed: int = 0) -> PeftModel:
    chain = None if method.chain is None else dataclasses.replace(method.chain, links=5, every=None)
    method = dataclasses.replace(method, chain=chain)
    return adapt(base, method, r=RANK, target_modules=["first", "second"], modules_to_save=["head"], seed=seed).eval()


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(param_groups(model, lr=1e-2))


# -- methods -------------------------------------------------------------------------------------------------


def starts_as_the_base(method: Method) -> None:
    base, x = network()
    expected = base(x)
    assert torch.equal(adapted(method, base)(x), expected), "a new adapter must not change the function"


def moves_only_what_it_trains(method: Method) -> None:
    base, x = network()
    model = adapted(method, base)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sketches = {name: copy.deepcopy(layer.frozen) for name, layer in layers_of(model).items()}
    take_steps(model, optimizer_of(model), x, 2)
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == parameter.requires_grad, f"{name}: moved={moved}, trained={parameter.requires_grad}"
    for name, layer in layers_of(model).items():
        assert set(layer.trained("default")) == set(method.adapter_side.letters)
        for adapter, frozen in layer.frozen.items():
            assert _same(frozen.sketch, sketches[name][adapter].sketch), f"{name}: the sketch moved"


def trains_without_its_head(method: Method) -> None:
    base, x = network()
    expected = base(x)
    model = adapted(method, base)
    model.base_model.model.head.requires_grad_(False)
    take_steps(model, optimizer_of(model), x, 3)
    assert not torch.allclose(model(x), expected, atol=1e-4), "training must change the function"


def has_right_gradients(method: Method) -> None:
    base, x = network()
    model = adapted(method, base)
    take_steps(model, optimizer_of(model), x, 3)
    factors = [p for p in model.parameters() if p.requires_grad]
    # The generator is seeded so that a failure can be looked at again.
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator) for p in factors]

    def loss_at(step: float) -> float:
        with torch.no_grad():
            for p, v in zip(factors, directions):
                p.add_(v, alpha=step)
            value = float(model(x).double().square().sum())
            for p, v in zip(factors, directions):
                p.sub_(v, alpha=step)
        return value

    model.zero_grad()
    model(x).square().sum().backward()
    slope = sum(float((p.grad * v).sum()) for p, v in zip(factors, directions) if p.grad is not None)
    # Richardson's extrapolation of central differences: an error of order h⁴ lets h be large for float32.
    h = 2e-2
    coarse, fine = (loss_at(h) - loss_at(-h)) / (2 * h), (loss_at(h / 2) - loss_at(-h / 2)) / h
    measured = (4 * fine - coarse) / 3
    assert abs(slope - measured) <= 2e-3 * max(1.0, abs(measured)), f"gradient {slope}, differences {measured}"


def advances_without_a_jump(method: Method) -> None:
    if method.chain is None:
        return
    base, x = network()
    model = adapted(method, base)
    optimizer = optimizer_of(model)
    for link in range(1, 4):
        take_steps(model, optimizer, x, 3)
        before, layers = model(x), layers_of(model)
        weights = {name: layer.base_layer.weight.detach().clone() for name, layer in layers.items()}
        sketches = {name: layer.adapters["default"].sketches[-1].matrix() for name, layer in layers.items()}
        assert advance_chain(model, optimizer) == link
        assert torch.allclose(model(x), before, atol=1e-5), "an advance must keep the function"
        changed = [n for n, layer in layers.items() if not torch.equal(layer.base_layer.weight, weights[n])]
        assert changed, "an advance must change a stored base weight"
        for name, layer in layers.items():
            drawn = layer.adapters["default"].sketches[-1].matrix()
            side = layer.adapters["default"].side
            assert drawn.shape != sketches[name].shape or not torch.equal(drawn, sketches[name]), "same sketch again"
            for letter, factor in layer.trained("default").items():
                starts_drawn = side.starts_at_sketch(letter)
                assert torch.equal(factor, drawn) if starts_drawn else not factor.any(), "a link starts at zero"
                _assert_forgotten(optimizer, factor, method.chain)
    for layer in layers_of(model).values():
        rank = torch.linalg.matrix_rank(layer.get_delta_weight("default"), rtol=1e-4)
        assert rank > RANK, f"three links must exceed one link's rank, got {rank}"


def _assert_forgotten(optimizer: torch.optim.Optimizer, factor: Tensor, chain: Chain) -> None:
    for name, value in optimizer.state.get(factor, {}).items():
        if chain.prune == 1.0:
            assert not torch.as_tensor(value).any(), f"optimizer state {name} survived the advance"
        elif torch.as_tensor(value).shape == factor.shape:
            kept = torch.count_nonzero(value) / value.numel()
            assert kept <= 1.0 - chain.prune + 1.0 / value.numel(), f"{kept:.0%} of {name} survived the advance"


def comes_back_from_a_file(method: Method) -> None:
    base, x = network()
    model = _trained_and_chained(method, copy.deepcopy(base), x)
    expected = model(x)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
        assert torch.equal(loaded(x), expected), "a loaded adapter must be the saved one"
        to_lora(model, Path(folder) / "lora")
        lora = PeftModel.from_pretrained(copy.deepcopy(base), str(Path(folder) / "lora")).eval()
        assert torch.allclose(lora(x), expected, atol=1e-5), "the exported LoRA must be the same function"


def keeps_the_frozen_frozen(method: Method) -> None:
    base, x = network()
    model = _trained_and_chained(method, copy.deepcopy(base), x)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}

    def check(model: nn.Module, after: str) -> None:
        now = {name for name, p in model.named_parameters() if p.requires_grad}
        assert now == trained, f"{after} changed what is trained: {now ^ trained}"

    model.set_adapter("default")
    check(model, "set_adapter")
    with model.disable_adapter():
        model(x)
    check(model, "disable_adapter")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        check(PeftModel.from_pretrained(copy.deepcopy(base), folder, is_trainable=True), "is_trainable=True")


def undoes_exactly(method: Method) -> None:
    base, x = network()
    original = copy.deepcopy(base.state_dict())
    model = _trained_and_chained(method, base, x)
    expected = model(x)
    with model.disable_adapter():
        _assert_equal_bits(model, original)
    assert torch.equal(model(x), expected), "disabling and enabling must not change the function"
    model.merge_adapter()
    assert torch.allclose(model(x), expected, atol=1e-5), "merging must keep the function"
    model.unmerge_adapter()
    assert torch.equal(model(x), expected), "unmerging must be exact"
    model.unload()
    _assert_equal_bits(base, original)


def _trained_and_chained(method: Method, base: nn.Module, x: Tensor) -> PeftModel:
    model = adapted(method, base)
    optimizer = optimizer_of(model)
    take_steps(model, optimizer, x, 3)
    for _ in range(2 if method.chain else 0):
        advance_chain(model, optimizer)
        take_steps(model, optimizer, x, 2)
    return model


def _assert_equal_bits(model: nn.Module, original: dict[str, Tensor]) -> None:
    now = {name.replace(".base_layer", ""): p for name, p in model.state_dict().items()}
    for layer in ("first", "second"):
        [name] = [name for name in now if name.endswith(f"{layer}.weight")]
        bits, expected = now[name].view(torch.int32), original[f"{layer}.weight"].view(torch.int32)
        assert torch.equal(bits, expected), f"{layer}: the base weight is not what it was"


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return torch.equal(a.indices, b.indices)  # type: ignore[attr-defined]


METHOD_CONTRACTS: tuple[Callable[[Method], None], ...] = (
    starts_as_the_base,
    moves_only_what_it_trains,
    trains_without_its_head,
    has_right_gradients,
    advances_without_a_jump,
    comes_back_from_a_file,
    keeps_the_frozen_frozen,
    undoes_exactly,
)


def check_method(method: Method) -> None:
    """Try every contract of an adapter method.

    Raises:
        AssertionError: naming the contract that is broken.
        LopsidedError: if the method is no adapter.

    Example:
        >>> from lopsided import METHODS
        >>> check_method(METHODS["cla"])
    """
    if not method.is_adapter:
        raise LopsidedError(f"method {method.name!r} trains {method.train!r}; expected an adapter method")
    _try(METHOD_CONTRACTS, method, method.name)


# -- sketches ------------------------------------------------------------------------------------------------


def _draw(sketch: Sketch, r: int = 3, d: int = 8, *, seed: int = 5, link: int = 0) -> np.ndarray:
    weight = np.random.RandomState(0).standard_normal((6, d)).astype(np.float32)
    return sketch.sample(r, d, seed=seed, link=link, weight=weight)


def has_the_right_shape(sketch: Sketch) -> None:
    for r, d in ((1, 1), (1, 8), (3, 8), (8, 8)):
        S = _draw(sketch, r, d)
        assert S.shape == (r, d), f"shape {S.shape} for (r, d) = {(r, d)}"
        assert S.dtype == np.float32, f"dtype {S.dtype}, expected float32"
        assert np.linalg.matrix_rank(S) == r, f"rows are dependent for (r, d) = {(r, d)}"


def is_a_pure_function(sketch: Sketch) -> None:
    for link in range(3):
        first, second = _draw(sketch, link=link), _draw(sketch, link=link)
        assert np.array_equal(first, second), f"two draws of link {link} differ"


def differs_as_it_says(sketch: Sketch) -> None:
    # So wide that even a draw among disjoint windows hardly ever falls on the same one twice.
    seeds = [layer_seed(0, f"layer.{i}") for i in range(12)]
    distinct = {_draw(sketch, 3, 300, seed=seed).tobytes() for seed in seeds}
    fixed_by_design = not sketch.random or sketch.lambda_min(3, 300) == 0.0
    assert fixed_by_design or len(distinct) >= 9, f"only {len(distinct)} of 12 seeds gave a draw of their own"


def refuses_a_rank_above_the_width(sketch: Sketch) -> None:
    for r in (0, 9):
        try:
            _draw(sketch, r, 8)
        except LopsidedError:
            continue
        raise AssertionError(f"r={r} for d=8 was not refused")


def selects_distinct_columns(sketch: Sketch) -> None:
    if isinstance(sketch, Selector):
        for link in range(6):
            indices, S = sketch.indices(3, 8, seed=5, link=link), _draw(sketch, link=link)
            assert np.array_equal(S @ S.T, np.eye(3)), f"rows of link {link} are not one-hot and distinct"
            assert np.array_equal(S.argmax(1), indices), f"sample and indices disagree at link {link}"


SKETCH_CONTRACTS: tuple[Callable[[Sketch], None], ...] = (
    has_the_right_shape,
    is_a_pure_function,
    differs_as_it_says,
    refuses_a_rank_above_the_width,
    selects_distinct_columns,
)


def check_sketch(sketch: Sketch) -> None:
    """Try every contract of a sketch.

    Raises:
        AssertionError: naming the contract that is broken.

    Example:
        >>> from lopsided import Orthonormal
        >>> check_sketch(Orthonormal())
    """
    _try(SKETCH_CONTRACTS, sketch, str(sketch))


def _try(contracts: Sequence[Callable[[Any], None]], subject: Any, name: str) -> None:
    for contract in contracts:
        try:
            contract(subject)
        except AssertionError as error:
            raise AssertionError(f"{name}, {contract.__name__}: {error}") from error
