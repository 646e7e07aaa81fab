"""Every way of computing, held to the one that writes all factors out."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import lopsided
from lopsided.tuner import layers_of
from lopsided.tuner.forward.beside import beside
from lopsided.tuner.forward.compute import Selected, Term
from lopsided.tuner.forward.patched import Lock, patched
from tests.tiny import ADAPTERS, llama

KINDS = ("B by window", "B by columns", "B by matrix", "A by window", "A by columns", "A by matrix", "both")


def make(kind: str, d_out: int, d_in: int, r: int, seed: int, transposed: bool = False):
    """(term, weight, bias) whose trained factors want gradients."""
    g = torch.Generator().manual_seed(seed)
    trains, _, sketch = kind.partition(" by ")
    width = d_in if trains == "B" else d_out
    r = min(r, width)
    start = int(torch.randint(0, width - r + 1, (1,), generator=g)) if sketch == "window" else None
    indices = torch.randperm(width, generator=g)[:r] if start is None else torch.arange(start, start + r)
    A = torch.randn(r, d_in, generator=g).requires_grad_(trains != "B")
    B = torch.randn(d_out, r, generator=g).requires_grad_(trains != "A")
    if sketch in ("window", "columns"):
        selected = Selected(indices, width, start)
        A, B = (selected, B) if trains == "B" else (A, selected)
    shape = (d_in, d_out) if transposed else (d_out, d_in)
    weight = torch.nn.Parameter(torch.randn(shape, generator=g), requires_grad=False)
    return Term(A, B), weight, torch.randn(d_out, generator=g)


def oracle(x, weight, bias, term: Term, scaling: float):
    A, B = term.dense()
    return F.linear(x, weight + scaling * (B @ A), bias)


def ways(kind: str):
    if "window" in kind or "columns" in kind:
        return {"patched": lambda *a: patched(*a, Lock()), "beside": beside}
    return {"beside": beside}


def trained(term: Term) -> list[torch.Tensor]:
    return [t for t in (term.A, term.B) if isinstance(t, torch.Tensor) and t.requires_grad]


@pytest.mark.parametrize("kind", KINDS)
@given(
    rows=st.sampled_from([(1,), (5,), (2, 3), (2, 0, 3)]),
    d_out=st.integers(1, 7),
    d_in=st.integers(1, 7),
    r=st.integers(1, 4),
    seed=st.integers(0, 99),
    transposed=st.booleans(),
    with_bias=st.booleans(),
    x_learns=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_way_is_the_oracle(kind, rows, d_out, d_in, r, seed, transposed, with_bias, x_learns):
    term, weight, bias = make(kind, d_out, d_in, r, seed, transposed)
    W, b = weight.t() if transposed else weight, bias if with_bias else None
    before = weight.clone()
    x = torch.randn(*rows, d_in, generator=torch.Generator().manual_seed(seed)).requires_grad_(x_learns)
    wanted = [*trained(term), *([x] if x_learns else [])]
    expected = oracle(x, W, b, term, 0.7)
    g = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, wanted, g)
    for name, way in ways(kind).items():
        y = way(x, W, b, term, 0.7)
        assert torch.allclose(y, expected, atol=1e-4), name
        for got, right in zip(torch.autograd.grad(y, wanted, g), gradients, strict=True):
            assert got.shape == right.shape
            assert torch.allclose(got, right, atol=1e-4), name
        assert torch.equal(weight.view(torch.int32), before.view(torch.int32)), name


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_of_every_way(kind):
    for seed in range(5):
        term, weight, bias = make(kind, 5, 4, 2, seed)
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        wanted = [*trained(term), x]

        def hessian_product(way, x=x, weight=weight, bias=bias, term=term, wanted=wanted):
            # Two layers' worth of curvature: the output enters a cube, the input another function.
            loss = (way(torch.sin(x), weight, bias, term, 0.7) ** 3).sum()
            first = torch.autograd.grad(loss, wanted, create_graph=True)
            vector = [torch.cos(torch.arange(f.numel(), dtype=f.dtype)).view_as(f) for f in first]
            return torch.autograd.grad(sum((f * v).sum() for f, v in zip(first, vector)), wanted)

        expected = hessian_product(oracle)
        for name, way in ways(kind).items():
            for got, right in zip(hessian_product(way), expected, strict=True):
                assert torch.allclose(got, right, rtol=1e-3, atol=1e-2), (name, seed)


def test_a_lent_weight_comes_back_when_the_product_fails():
    term, weight, _ = make("B by columns", 5, 4, 2, 0)
    before = weight.clone()
    lock = Lock()
    with pytest.raises(RuntimeError, match="expanded size"):
        patched(torch.randn(3, 4), weight, torch.randn(7, 7), term, 1.0, lock)
    assert torch.equal(weight, before)
    assert not lock.mutex.locked()


def test_lent_weights_keep_bits_that_arithmetic_would_lose():
    term, weight, bias = make("B by window", 5, 4, 2, 1)
    with torch.no_grad():
        weight.copy_(torch.tensor([-0.0, 1e-45, float("nan"), float("inf")]).repeat(5, 1))
        term.B.fill_(1e30)
    before = weight.clone().view(torch.int32)
    patched(torch.randn(3, 4), weight, bias, term, 1.0, Lock())
    assert torch.equal(weight.view(torch.int32), before)


def test_threads_take_turns_in_one_weight():
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64))
    model = lopsided.adapt(layer, "cla", r=8, target_modules="all-linear").eval()
    [adapted] = layers_of(model).values()
    torch.nn.init.normal_(adapted.lopsided_B["default"].weight)
    x = torch.randn(16, 64)
    with torch.no_grad():
        expected, wrong = model(x), []

        def work():
            for _ in range(200):
                if not torch.equal(model(x), expected):
                    wrong.append(1)

        with torch.no_grad():
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert not wrong


def test_layers_choose_their_way():
    def way(method, build=lambda: torch.nn.Linear(8, 8), **options):
        model = lopsided.adapt(torch.nn.Sequential(build()), method, r=2, target_modules="all-linear", **options)
        [layer] = layers_of(model).values()
        return layer.train().way("default")

    assert way("cla") == way("c3la") == "patched"
    # In a wide layer, where the columns drawn are no neighbours.
    assert way("rcla", lambda: torch.nn.Linear(99, 8)) == way("paca", lambda: torch.nn.Linear(99, 8)) == "gather"
    assert way("asym_b") == way("lora") == way("rac_a") == "dense"
    assert way("cla", dropout=0.1) == "gather"
    assert way("cla", lambda: torch.nn.Linear(8, 8).bfloat16()) == "gather"
    hooked = torch.nn.Linear(8, 8)
    hooked.register_forward_hook(lambda *args: None)
    assert way("cla", lambda: hooked) == "gather"
    shared = llama()
    model = lopsided.adapt(shared, "cla", r=2, target_modules=["lm_head"])
    assert next(iter(layers_of(model).values())).way("default") == "gather"
    two = lopsided.adapt(torch.nn.Sequential(torch.nn.Linear(8, 8)), "cla", r=2, target_modules="all-linear")
    two.add_adapter("other", lopsided.LopsidedConfig(method="cla", r=2, target_modules="all-linear"))
    two.base_model.set_adapter(["default", "other"])
    [layer] = layers_of(two).values()
    assert layer.way("default") == "gather"
    assert "patched" not in repr(layer)


def test_a_hook_on_the_base_layer_is_called():
    base, seen = torch.nn.Linear(4, 4), []
    base.register_forward_hook(lambda *args: seen.append(1))
    model = lopsided.adapt(torch.nn.Sequential(base), "cla", r=2, target_modules="all-linear")
    model(torch.randn(2, 4))
    assert seen == [1]


@pytest.mark.parametrize("method", ADAPTERS)
def test_a_copied_or_pickled_model_computes_and_locks_by_itself(method):
    model = lopsided.adapt(torch.nn.Sequential(torch.nn.Linear(6, 6)), method, r=2, target_modules="all-linear")
    x = torch.randn(3, 6)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        [mine], [theirs] = layers_of(model).values(), layers_of(other).values()
        assert mine.base_weight.lock.mutex is not theirs.base_weight.lock.mutex


@pytest.mark.parametrize("method", ["c3la", "rac_b"])
@pytest.mark.parametrize("switch", ["disable", "advance"])
def test_a_backward_through_another_base_weight_is_refused(method, switch):
    model = lopsided.adapt(
        torch.nn.Sequential(torch.nn.Linear(6, 6)), method, r=2, links=3, target_modules="all-linear"
    )
    with torch.no_grad():
        for layer in layers_of(model).values():
            layer.lopsided_B["default"].weight.fill_(0.1)
    lopsided.advance_chain(model)
    x = torch.randn(3, 6, requires_grad=True)
    loss = model(x).sum()
    if switch == "disable":
        with model.disable_adapter(), pytest.raises(lopsided.LopsidedError, match="between a forward pass"):
            loss.backward()
    else:
        lopsided.advance_chain(model)
        with pytest.raises(lopsided.LopsidedError, match="between a forward pass"):
            loss.backward()
    # A reference forward in between changes nothing.
    loss = model(x).sum()
    with model.disable_adapter(), torch.no_grad():
        model(x)
    loss.backward()
    assert x.grad is not None
