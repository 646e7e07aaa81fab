"""What holds on the processor holds on a CUDA device: contracts, exact undo, files, compiled graphs, quantized bases.

Whatever makes runs through `transformers.Trainer` trains on the device anyway where there is one.
"""

from __future__ import annotations

import copy
import gc
import tempfile

import pytest
import torch
from peft import PeftModel

import lopsided
from lopsided import METHODS
from lopsided.testing import METHOD_CONTRACTS, NETWORKS, adapted, fits, network, networks_on, optimizer_of, take_steps
from lopsided.tuner import layers_of
from tests import tiny
from tests.behave.cases import fill
from tests.tuner.merging import stock

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device here", allow_module_level=True)
PAIRS = [(method, kind) for method in tiny.ADAPTERS for kind in NETWORKS if fits(METHODS[method], kind)]
NARROW = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _exact_products():
    """Products of float32 in float32, as on the processor, not in TensorFloat-32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.uncalibrated
@pytest.mark.parametrize("default", ["cpu", "cuda"])
@pytest.mark.parametrize("contract", METHOD_CONTRACTS, ids=lambda contract: contract.__name__)
@pytest.mark.parametrize(("method", "kind"), PAIRS)
def test_a_contract_holds(method, kind, contract, default):
    with networks_on("cuda"), torch.device(default):
        contract(METHODS[method], kind)


@pytest.mark.parametrize(("method", "kind"), PAIRS)
def test_a_chain_is_the_same_on_both(method, kind):
    """The same sketches to the bit, the same function to rounding, and a file goes from one to the other."""
    nets = {}
    for device in ("cpu", "cuda"):
        with networks_on(device):
            base, x = network(kind=kind)
        fresh = copy.deepcopy(base)
        model = adapted(METHODS[method], base)
        optimizer = optimizer_of(model)
        for _ in range(3 if METHODS[method].chain else 1):
            fill(model)
            if METHODS[method].chain:
                lopsided.advance_chain(model, optimizer)
        fill(model)
        nets[device] = model, fresh, x
    (here, fresh, x), (there, _, x_there) = nets["cpu"], nets["cuda"]
    for name, layer in layers_of(here).items():
        ours, theirs = (one.adapters["default"].sketches for one in (layer, layers_of(there)[name]))
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.matrix().cpu(), other.matrix().cpu())
    assert torch.allclose(here(x), there(x_there).cpu(), atol=1e-5)
    with tempfile.TemporaryDirectory() as folder:
        there.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(fresh, folder).eval()
    assert {p.device.type for p in loaded.parameters()} <= {"cpu", "cuda"}
    assert torch.allclose(loaded.cpu()(x), here(x), atol=1e-5)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_undo_is_exact_in_every_dtype(method, dtype):
    base = tiny.llama().to("cuda", dtype)
    original = {name: p.detach().clone() for name, p in base.named_parameters()}
    model = lopsided.adapt(base, method, r=2, target_modules=["q_proj", "down_proj"], **chained(method))
    optimizer = torch.optim.SGD(lopsided.param_groups(model, lr=0.1))
    fill(model)
    for _ in range(2 if METHODS[method].chain else 0):
        lopsided.advance_chain(model, optimizer)
        fill(model)
    tokens = torch.arange(8, device="cuda")[None]
    expected = model(tokens).logits
    model.merge_adapter()
    model.unmerge_adapter()
    assert torch.equal(model(tokens).logits, expected)
    back = model.unload()
    for name, parameter in back.named_parameters():
        assert torch.equal(parameter, original[name]), name


@pytest.mark.parametrize(("layer", "option", "dtype"), stock.cases())
def test_an_exact_merge_of_stock_adapters_gives_every_bit_back(layer, option, dtype):
    model = stock.lora(layer, option, dtype).cuda()
    exact = stock.base_weights(stock_in_float64(model))
    before = stock.base_weights(model)
    with lopsided.exact_merge(model):
        for name, weight in stock.base_weights(model).items():
            eps = torch.finfo(weight.dtype).eps
            slack = 1e-13 if weight.dtype == torch.float64 else 2e-7
            allowed = 0.5 * eps * exact[name].abs() * (1 + 1e-3) + slack * exact[name].abs().max()
            assert ((weight.double() - exact[name]).abs() <= allowed).all(), name
    for name, weight in stock.base_weights(model).items():
        assert torch.equal(weight, before[name]), name


def stock_in_float64(model):
    twin = copy.deepcopy(model).double()
    twin.merge_adapter()
    return twin


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("method", ["asym_b", "cla", "rc3la", "c3la", "rac_b", "cola", "bernoulli"])
def test_a_compiled_model_follows_its_chain(method, mode):
    """With CUDA graphs, too: what is recorded must not hold the sketch of the link before."""
    torch._dynamo.reset()
    with networks_on("cuda"):
        base, x = network()
    model = adapted(METHODS[method], base)
    compiled, optimizer = torch.compile(model, mode=mode), optimizer_of(model)
    for _ in range(4 if METHODS[method].chain else 1):
        for _ in range(4):
            take_steps(compiled, optimizer, x, 1)
            with torch.no_grad():
                assert torch.allclose(compiled(x), model(x), atol=1e-5)
        if METHODS[method].chain:
            lopsided.advance_chain(model, optimizer)
            with torch.no_grad():
                assert torch.allclose(compiled(x), model(x), atol=1e-5)


@pytest.mark.parametrize("method", ["rac_b", "c3la", "asym_b", "lora"])
def test_skipped_steps_of_a_gradient_scaler_move_nothing(method):
    """An overflow in float16 skips a step; the factors stay where they were, and the link goes on."""
    with networks_on("cuda"):
        base, x = network()
    model = adapted(METHODS[method], base)
    optimizer, scaler = optimizer_of(model), torch.amp.GradScaler("cuda", init_scale=2.0**40, growth_interval=1)
    skipped = 0
    for _ in range(30):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = model(x).square().sum()
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < scale:
            skipped += 1
            assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert 0 < skipped < 30
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit", "Lion8bit", "AdamW32bit"])
def test_a_link_forgets_the_state_of_an_8_bit_optimizer(name):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    base = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.Linear(512, 512)).cuda()
    model = lopsided.adapt(base, "rac_b", r=16, target_modules=["0", "1"], links=3)
    options = {"min_8bit_size": 16} if "8bit" in name else {}
    groups = lopsided.param_groups(model, lr=1e-2)
    optimizer = getattr(bitsandbytes.optim, name)(groups, **options)
    x = torch.randn(4, 512, device="cuda")
    take_steps(model, optimizer, x, 3)
    twin = copy.deepcopy(model)
    lopsided.advance_chain(model, optimizer)
    expected = model(x)
    take_steps(model, optimizer, x, 1)
    fresh = getattr(bitsandbytes.optim, name)(lopsided.param_groups(twin, lr=1e-2), **options)
    lopsided.advance_chain(twin, fresh)
    assert torch.equal(twin(x), expected)
    take_steps(twin, fresh, x, 1)
    assert torch.allclose(model(x), twin(x), atol=1e-4), "a link's first step must not see the last link's state"


def test_an_advance_frees_what_it_took():
    """Memory after sixteen links is that after one."""
    base = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(4))).cuda()
    model = lopsided.adapt(base, "rac_b", r=8, target_modules=["0", "1", "2", "3"], links=20)
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-3))
    x, held = torch.randn(4, 1024, device="cuda"), []
    for _ in range(16):
        take_steps(model, optimizer, x, 2)
        lopsided.advance_chain(model, optimizer)
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[1] + 16 * 2**16, held


def chained(method):
    return {"links": 5} if METHODS[method].chain else {}
