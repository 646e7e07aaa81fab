"""torch.compile: no graph break, the same numbers as eager, and few graphs along a whole chain."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import lopsided
from lopsided import METHODS
from lopsided.testing import adapted, network
from lopsided.tuner import layers_of
from tests import tiny
from tests.behave.cases import fill, trained, trained_tensors


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def results(model: nn.Module, call, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The output and every trained tensor's gradient."""
    model.zero_grad()
    out = call(**batch)
    out = out if isinstance(out, torch.Tensor) else out.logits
    out.float().square().mean().backward()
    return {"out": out.detach(), **{name: p.grad.clone() for name, p in trained_tensors(model).items()}}


def assert_all_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], share: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        error = float((actual[name].double() - tensor.double()).abs().max())
        assert error <= share * max(1.0, float(tensor.abs().max())), f"{name} is {error:.1e} off"


class Graphs:
    """A compiler's backend that runs what it is given and counts it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


# One method of each side that trains and of each kind of sketch.
COMPILED = ("lora", "asym_a", "rac_b", "bernoulli", "c3la", "cpaca", "ipa_b")


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name in COMPILED else [pytest.mark.more]) for name in tiny.ADAPTERS]
)
def test_a_network_compiles_whole_and_stays_equal_after_an_advance(method):
    net, x = network()
    model = adapted(METHODS[method], net)
    fill(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    batch = {"x": x.requires_grad_()}
    assert_all_close(results(model, compiled, batch), results(model, model, batch))
    if METHODS[method].chain:
        before = model(x)
        lopsided.advance_chain(model)
        assert torch.allclose(compiled(x), before, atol=1e-5), "an advance must reach the compiled model"
        fill(model, seed=1)
        assert_all_close(results(model, compiled, batch), results(model, model, batch))


@pytest.mark.parametrize(
    "merge_links", [pytest.param(None, id="merged"), pytest.param(False, id="stacked", marks=pytest.mark.soak)]
)
@pytest.mark.parametrize("method", tiny.CHAINS)
def test_a_chain_does_not_compile_anew_for_every_link(method, merge_links):
    """torch.compile gives a function up after eight graphs: with `fullgraph` by an error, without it in silence."""
    net, x = network()
    links = 12
    parts = dataclasses.replace(METHODS[method], chain=dataclasses.replace(METHODS[method].chain, links=links))
    model = lopsided.adapt(net, parts, r=2, target_modules=["first", "second"], merge_links=merge_links)
    fill(model)
    graphs = Graphs()
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-4)
    for link in range(1, links):
        lopsided.advance_chain(model)
        fill(model, seed=link, std=0.02)
        assert torch.allclose(compiled(x), model(x), atol=1e-4)
    # Two layers whose coins fall on two sides each are four cases; a stack that begins to grow is some more.
    assert graphs.count <= 6


@pytest.mark.parametrize("method", ["lora", "asym_a", "c3la"])
def test_steps_and_smaller_batches_take_the_same_graph(method):
    net, x = network()
    model = adapted(METHODS[method], net)
    graphs = Graphs()
    compiled = torch.compile(model, backend=graphs, fullgraph=True, dynamic=True)
    for step in range(4):
        fill(model, seed=step)
        compiled(x[: 5 - step].clone())
    assert graphs.count == 1


def test_disabling_reaches_a_compiled_model():
    net, x = network()
    model = adapted(METHODS["c3la"], net)
    fill(model)
    lopsided.advance_chain(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with_adapter = compiled(x)
    with model.disable_adapter():
        assert torch.allclose(compiled(x), network()[0](x), atol=1e-5)
    assert torch.equal(compiled(x), with_adapter)


CASES = [
    pytest.param("llama", "c3la"),
    *(
        pytest.param(arch, method, marks=pytest.mark.soak)
        for arch in ("bert", "gpt2", "llama", "vit", "bart")
        for method in ("lora", "asym_b", "rac_a", "rc3la", "bernoulli", "cpaca")
    ),
]


@pytest.mark.parametrize(("arch", "method"), CASES)
def test_a_transformer_compiles(arch, method):
    model = trained(arch, method)
    batch = tiny.inputs(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=arch != "bart")
    assert_all_close(results(model, compiled, batch), results(model, model, batch), 1e-4)


@pytest.mark.parametrize(
    "method",
    ["c3la", *(pytest.param(name, marks=pytest.mark.soak) for name in tiny.ADAPTERS if name != "c3la")],
)
def test_a_16_bit_base_compiles(method):
    net, x = network()
    model = adapted(METHODS[method], net.to(torch.bfloat16))
    fill(model)
    if METHODS[method].chain:
        lopsided.advance_chain(model)
        fill(model, seed=1)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    batch = {"x": x.to(torch.bfloat16)}
    assert_all_close(results(model, compiled, batch), results(model, model, batch), 0.02)


def test_a_compiled_module_has_the_seeds_of_the_plain_one():
    """Wrapping changes modules' names; sketches are derived from the names without the wrappers."""
    plain, wrapped = network()[0], network()[0]
    for name in ("first", "second"):
        setattr(wrapped, name, torch.compile(getattr(wrapped, name), backend="eager"))
    adapters = [
        lopsided.adapt(plain, "rac_b", r=2, target_modules=["first", "second"]),
        lopsided.adapt(wrapped, "rac_b", r=2, target_modules=["first._orig_mod", "second._orig_mod"]),
    ]
    seeds = [[layer.adapters["default"].seed for layer in layers_of(model).values()] for model in adapters]
    assert seeds[0] == seeds[1]
