"""What every adapter method must do, on a small network of each kind of layer.

A contract takes the method and the kind of the layers, one of `lopsided.testing.network.NETWORKS`. A broken one is an
`AssertionError`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from lopsided.adapt import adapt
from lopsided.calibrate import calibrate
from lopsided.errors import LopsidedError
from lopsided.export import to_lora
from lopsided.method import Chain, Method
from lopsided.optim import advance_chain
from lopsided.testing.network import RANK, adapted, calibration_rows, network, optimizer_of, take_steps
from lopsided.tuner import layers_of


def starts_as_the_base(method: Method, kind: str = "linear") -> None:
    """Check that a new adapter does not change the function."""
    base, x = network(kind=kind)
    expected = base(x)
    assert torch.equal(adapted(method, base)(x), expected), "a new adapter must not change the function"


def waits_for_its_data(method: Method, kind: str = "linear") -> None:
    """Check that a method that reads data computes nothing uncalibrated, and that equal data give equal sketches."""
    if not method.reads_inputs:
        return
    base, x = network(kind=kind)
    model = adapt(copy.deepcopy(base), method, r=RANK, **base.targets).eval()
    with tempfile.TemporaryDirectory() as folder:
        for use in (lambda: model(x), lambda: model.save_pretrained(folder), model.merge_adapter):
            try:
                use()
            except LopsidedError as error:
                said = str(error)
            else:
                raise AssertionError("an adapter without its data must compute, save and merge nothing")
            assert "lopsided.calibrate" in said, f"the error must name lopsided.calibrate, got: {said}"
    with model.disable_adapter():
        assert torch.equal(model(x), base(x)), "without its adapter the model is the base, calibrated or not"
    first = calibrate(model, [calibration_rows(base)])
    again = adapt(copy.deepcopy(base), method, r=RANK, **base.targets).eval()
    second = calibrate(again, [calibration_rows(base)])
    assert [layer.module for layer in first.layers] == list(layers_of(model)), "every adapted layer gets a sketch"
    assert [layer.share for layer in first.layers] == [layer.share for layer in second.layers]
    for name, layer in layers_of(model).items():
        sketch, equal = layer.adapters["default"].sketches[0], layers_of(again)[name].adapters["default"].sketches[0]
        assert torch.equal(sketch.matrix(), equal.matrix()), f"{name}: equal data must give equal sketches"
    assert torch.equal(model(x), base(x)), "a calibrated adapter must not change the function"


def moves_only_what_it_trains(method: Method, kind: str = "linear") -> None:
    """Check that training moves the trained factors and the head, and neither the base nor the sketch."""
    base, x = network(kind=kind)
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


def trains_without_its_head(method: Method, kind: str = "linear") -> None:
    """Check that the adapter alone, without its head, learns."""
    base, x = network(kind=kind)
    expected = base(x)
    model = adapted(method, base)
    model.base_model.model.head.requires_grad_(False)
    take_steps(model, optimizer_of(model), x, 3)
    assert not torch.allclose(model(x), expected, atol=1e-4), "training must change the function"


def has_right_gradients(method: Method, kind: str = "linear") -> None:
    """Check the gradient of the factors against differences of the loss along a random direction."""
    base, x = network(kind=kind)
    model = adapted(method, base)
    take_steps(model, optimizer_of(model), x, 3)
    factors = [p for p in model.parameters() if p.requires_grad]
    # The generator is seeded so that a failure can be looked at again.
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator, device="cpu").to(p) for p in factors]

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


def advances_as_its_chain_says(method: Method, kind: str = "linear") -> None:
    """Check what an advance changes: the function only if the chain jumps, and weights, sketch, factors and optimizer
    state as its switches say.
    """
    chain = method.chain
    if chain is None:
        return
    base, x = network(kind=kind)
    model = adapted(method, base)
    optimizer, jumps = optimizer_of(model), []
    for link in range(1, 4):
        take_steps(model, optimizer, x, 3)
        before, layers = model(x), layers_of(model)
        weights = {name: layer.base_layer.weight.detach().clone() for name, layer in layers.items()}
        sketches = {name: layer.adapters["default"].sketches[-1].matrix() for name, layer in layers.items()}
        learned = {f: (f.detach().clone(), _copied_state(optimizer, f)) for f in _factors(model)}
        assert advance_chain(model, optimizer) == link
        jumps.append(not torch.allclose(model(x), before, atol=1e-5))
        assert chain.jumps or not jumps[-1], "an advance must keep the function, unless the chain says that it jumps"
        changed = [n for n, layer in layers.items() if not torch.equal(layer.base_layer.weight, weights[n])]
        expected = "change a stored base weight" if chain.merge else "leave base weights as they are"
        assert bool(changed) == chain.merge, f"an advance must {expected}"
        for name, layer in layers.items():
            sketch = layer.adapters["default"].sketches[-1].matrix()
            same = sketch.shape == sketches[name].shape and torch.equal(sketch, sketches[name])
            assert same != chain.redraw, (
                "same sketch again" if same else "another sketch, and the chain does not redraw"
            )
            side = layer.adapters["default"].side
            for letter, factor in layer.trained("default").items():
                _assert_started(factor, learned[factor][0], sketch if side.starts_at_sketch(letter) else None, chain)
                _assert_forgotten(optimizer, factor, learned[factor][1], chain)
    assert any(jumps) == chain.jumps, f"three advances jumped: {jumps}, the chain says {chain.jumps}"
    for layer in layers_of(model).values():
        rank = torch.linalg.matrix_rank(layer.get_delta_weight("default").flatten(1), rtol=1e-4)
        assert rank > RANK or not (chain.merge and chain.redraw), f"three links must exceed one link's rank, got {rank}"
        assert rank <= RANK or chain.merge, f"links that are not merged have one link's rank, got {rank}"


def freezes_its_rate(method: Method, kind: str = "linear") -> None:
    """Check that a chain that freezes its learning rate keeps it whatever a schedule writes, and no other does."""
    if method.chain is None:
        return
    base, x = network(kind=kind)
    model = adapted(method, base)
    optimizer = optimizer_of(model)
    take_steps(model, optimizer, x, 1)
    advance_chain(model, optimizer)
    at_advance = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    scheduled = [group["lr"] for group in optimizer.param_groups]
    take_steps(model, optimizer, x, 1)
    rates = [group["lr"] for group in optimizer.param_groups]
    expected = at_advance if method.chain.freeze_rate else scheduled
    assert rates == expected, f"a step after an advance has the rates {rates}, expected {expected}"


def _factors(model: nn.Module) -> list[Tensor]:
    return [factor for layer in layers_of(model).values() for factor in layer.trained("default").values()]


def _copied_state(optimizer: torch.optim.Optimizer, factor: Tensor) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value).clone() for name, value in optimizer.state.get(factor, {}).items()}


def _assert_started(factor: Tensor, learned: Tensor, sketch: Tensor | None, chain: Chain) -> None:
    if sketch is not None and chain.redraw:
        assert torch.equal(factor, sketch.to(factor.device)), (
            "a factor that starts at the sketch starts a link at the new one"
        )
    elif sketch is None and chain.merge:
        assert not factor.any(), "a link starts at zero"
    else:
        assert torch.equal(factor, learned), "a factor that does not start again keeps what it has learned"


def _assert_forgotten(
    optimizer: torch.optim.Optimizer, factor: Tensor, before: dict[str, Tensor], chain: Chain
) -> None:
    for name, value in optimizer.state.get(factor, {}).items():
        if chain.prune == 0.0:
            assert torch.equal(torch.as_tensor(value), before[name]), f"optimizer state {name} is to be kept"
        elif chain.prune == 1.0:
            assert not torch.as_tensor(value).any(), f"optimizer state {name} survived the advance"
        elif torch.as_tensor(value).shape == factor.shape:
            share = torch.count_nonzero(value) / value.numel()
            assert share <= 1.0 - chain.prune + 1.0 / value.numel(), f"{share:.0%} of {name} survived the advance"


def comes_back_from_a_file(method: Method, kind: str = "linear") -> None:
    """Check that a saved and loaded adapter is the same function, and so is its export as LoRA."""
    base, x = network(kind=kind)
    model = _trained_and_chained(method, copy.deepcopy(base), x)
    expected = model(x)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
        assert torch.equal(loaded(x), expected), "a loaded adapter must be the saved one"
        to_lora(model, Path(folder) / "lora")
        lora = PeftModel.from_pretrained(copy.deepcopy(base), str(Path(folder) / "lora")).eval()
        assert torch.allclose(lora(x), expected, atol=1e-5), "the exported LoRA must be the same function"


def keeps_the_frozen_frozen(method: Method, kind: str = "linear") -> None:
    """Check that no call of PEFT makes a frozen tensor trainable."""
    base, x = network(kind=kind)
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


def undoes_exactly(method: Method, kind: str = "linear") -> None:
    """Check that disabling, unmerging and unloading give the base weights back bit for bit."""
    base, x = network(kind=kind)
    original = copy.deepcopy(base.state_dict())
    model = _trained_and_chained(method, base, x)
    expected = model(x)
    with model.disable_adapter():
        _assert_equal_bits(model, original, base.weights)
    assert torch.equal(model(x), expected), "disabling and enabling must not change the function"
    model.merge_adapter()
    assert torch.allclose(model(x), expected, atol=1e-5), "merging must keep the function"
    model.unmerge_adapter()
    assert torch.equal(model(x), expected), "unmerging must be exact"
    model.unload()
    _assert_equal_bits(base, original, base.weights)


def _trained_and_chained(method: Method, base: nn.Module, x: Tensor) -> PeftModel:
    model = adapted(method, base)
    optimizer = optimizer_of(model)
    take_steps(model, optimizer, x, 3)
    for _ in range(2 if method.chain else 0):
        advance_chain(model, optimizer)
        take_steps(model, optimizer, x, 2)
    return model


def _assert_equal_bits(model: nn.Module, original: dict[str, Tensor], weights: Sequence[str]) -> None:
    now = {name.replace(".base_layer", ""): p for name, p in model.state_dict().items()}
    for weight in weights:
        [name] = [name for name in now if name.endswith(weight)]
        bits, expected = now[name].view(torch.int32), original[weight].view(torch.int32)
        assert torch.equal(bits, expected), f"{weight}: the base weight is not what it was"


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return torch.equal(a.indices, b.indices)  # type: ignore[attr-defined]


METHOD_CONTRACTS: tuple[Callable[[Method, str], None], ...] = (
    starts_as_the_base,
    waits_for_its_data,
    moves_only_what_it_trains,
    trains_without_its_head,
    has_right_gradients,
    advances_as_its_chain_says,
    freezes_its_rate,
    comes_back_from_a_file,
    keeps_the_frozen_frozen,
    undoes_exactly,
)
