"""Optimizers of every kind at an advance: the factor's state is that of a new optimizer, or nothing changes."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper
from torch import nn, optim
from torch.distributed.optim import ZeroRedundancyOptimizer
from transformers.optimization import Adafactor

import lopsided
from lopsided import LopsidedError
from lopsided.tuner import layers_of
from tests import tiny
from tests.faults.interruptions import assert_same_tensors
from tests.faults.lookalikes import (
    CommonCount,
    FlatPartition,
    MasterCopies,
    MasterWeights,
    QuantizedState,
    ScheduleFree,
)

FRESH = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "SGD, momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD, Nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD, fused": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: optim.Adam(p, lr=0.1),
    "Adam, foreach": lambda p: optim.Adam(p, lr=0.1, foreach=True),
    "Adam, fused": lambda p: optim.Adam(p, lr=0.1, fused=True, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "NAdam": lambda p: optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: optim.RAdam(p, lr=0.1),
    "Adamax": lambda p: optim.Adamax(p, lr=0.1),
    "Adadelta": lambda p: optim.Adadelta(p, lr=0.1),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.3),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "Rprop": lambda p: optim.Rprop(p, lr=0.1),
    "ASGD": lambda p: optim.ASGD(p, lr=0.1, t0=0),
    "torch's Adafactor": lambda p: optim.Adafactor(p, lr=0.1),
    "Adafactor": lambda p: Adafactor(p, lr=0.1, scale_parameter=False, relative_step=False, beta1=0.9),
    "Muon": lambda p: optim.Muon(p, lr=0.1),
}


def adapted(method: str = "c3la", **options):
    return lopsided.adapt(tiny.bert(), method, r=2, target_modules=["query", "value"], links=4, **options)


def factors_of(model) -> list[nn.Parameter]:
    return [factor for layer in layers_of(model).values() for factor in layer.trained("default").values()]


def step(model, optimizer) -> None:
    tiny.run_steps(model, optimizer, 1)


def bits(optimizer) -> dict[int, dict]:
    def copied(value):
        return value.clone() if isinstance(value, torch.Tensor) else copy.copy(value)

    return {id(p): {key: copied(value) for key, value in state.items()} for p, state in optimizer.state.items()}


def assert_nothing_changed(model, optimizer, message: str, **options) -> None:
    weights, states = copy.deepcopy(model.state_dict()), bits(optimizer)
    gradients = [p.grad.clone() for p in factors_of(model) if p.grad is not None]
    with pytest.raises(LopsidedError, match=message) as caught:
        lopsided.advance_chain(model, optimizer, **options)
    assert "\n" not in str(caught.value)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert all(torch.equal(p.grad, g) for p, g in zip((p for p in factors_of(model) if p.grad is not None), gradients))
    assert_same_tensors(bits(optimizer), states, "state")
    assert model.peft_config["default"].link == next(iter(layers_of(model).values())).adapters["default"].link == 0


# -- right ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRESH)
def test_the_next_link_trains_as_with_a_new_optimizer(name):
    assert_trains_on_as_new(FRESH[name])


def assert_trains_on_as_new(make) -> None:
    model = adapted()
    optimizer = make(factors_of(model))
    for _ in range(3):
        step(model, optimizer)
    tensors = {id(p): {k: v for k, v in s.items() if torch.is_tensor(v)} for p, s in optimizer.state.items()}
    lopsided.advance_chain(model, optimizer)
    for parameter, state in optimizer.state.items():
        assert all(state[key] is value for key, value in tensors[id(parameter)].items()), "reset in place"
    twin = copy.deepcopy(model)
    new = make(factors_of(twin))
    for _ in range(3):
        step(model, optimizer)
        step(twin, new)
    for mine, fresh in zip(factors_of(model), factors_of(twin)):
        assert mine.any()
        torch.testing.assert_close(mine, fresh, rtol=1e-5, atol=1e-7)


def test_the_head_keeps_its_state():
    model = adapted()
    optimizer = optim.NAdam(lopsided.param_groups(model, lr=0.1))
    for _ in range(3):
        step(model, optimizer)
    before = bits(optimizer)
    lopsided.advance_chain(model, optimizer)
    ours = {id(p) for p in factors_of(model)}
    heads = [p for p in optimizer.state if id(p) not in ours]
    assert heads
    after = bits(optimizer)
    assert_same_tensors(*({id(p): states[id(p)] for p in heads} for states in (before, after)), "heads")


@pytest.fixture
def one_process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["c3la", "relora"])
def test_torchs_sharded_optimizer_forgets_too(one_process_group, method):
    # Its own `state` is empty: the optimizer inside it has the moments of this process's share.
    results = []
    for make in (
        lambda p: optim.AdamW(p, lr=0.1),
        lambda p: ZeroRedundancyOptimizer(p, optimizer_class=optim.AdamW, lr=0.1),
    ):
        model = adapted(method)
        optimizer = make(factors_of(model))
        for _ in range(3):
            step(model, optimizer)
        lopsided.advance_chain(model, optimizer)
        for _ in range(2):
            step(model, optimizer)
        results.append([factor.detach().clone() for factor in factors_of(model)])
    assert all(torch.equal(mine, sharded) for mine, sharded in zip(*results))


def test_a_wrapped_optimizer_is_pruned_as_itself():
    results = []
    for wrap in (lambda optimizer: optimizer, Accelerator(cpu=True).prepare):
        model = adapted("relora")
        inner = optim.AdamW(factors_of(model), lr=0.1)
        optimizer = wrap(inner)
        for _ in range(3):
            step(model, optimizer)
        lopsided.advance_chain(model, optimizer)
        results.append(list(bits(inner).values()))
        kept = sum(int(state["exp_avg"].count_nonzero()) for state in inner.state.values())
        assert 0 < kept < 0.1 * sum(state["exp_avg"].numel() for state in inner.state.values())
    assert_same_tensors(*results, "state")


# -- refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def accelerated():
    Accelerator(cpu=True)
    yield lambda optimizer: DeepSpeedOptimizerWrapper(optimizer)
    AcceleratorState._reset_state(True)


HOLDS_NOT = "the optimizer does not hold the adapter's own factor: expected one built on the model's parameters, got"


@pytest.mark.parametrize("kind", [MasterCopies, FlatPartition])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_optimizer_with_master_copies_is_refused(accelerated, kind, wrapped):
    model = adapted()
    step(model, optim.AdamW(factors_of(model), lr=0.1))
    optimizer = kind(factors_of(model), lr=0.1)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert len(optimizer.state) > 0
    if wrapped:
        optimizer = accelerated(optimizer)
    assert_nothing_changed(model, optimizer, rf"{HOLDS_NOT} \w+, which was built before the adapter or keeps master")


def test_an_optimizer_that_holds_only_some_factors_is_refused():
    model = adapted()
    optimizer = optim.AdamW(factors_of(model)[:-1], lr=0.1)
    step(model, optimizer)
    assert_nothing_changed(model, optimizer, HOLDS_NOT)


REFUSED = {
    "master weights": (lambda p: MasterWeights(p, lr=0.1), "MasterWeights can't .*: its state holds master_weight;"),
    "schedule-free": (lambda p: ScheduleFree(p, lr=0.1), "ScheduleFree can't .*: its state holds z;"),
    "common count": (lambda p: CommonCount(p, lr=0.1), "it counts the steps of all parameters together"),
    "quantized": (lambda p: QuantizedState(p, lr=0.1), "exp_avg of its state is a Quantized"),
    "dampening": (
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
        "dampening=0.5 treats its first step apart",
    ),
    "relative step": (lambda p: Adafactor(p, relative_step=True), "relative_step=True takes the learning rate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_state_that_zeros_do_not_start_afresh_is_refused(name):
    make, message = REFUSED[name]
    model = adapted()
    optimizer = make(factors_of(model))
    step(model, optimizer)
    assert_nothing_changed(model, optimizer, message + ".*expected an optimizer such as torch.optim.AdamW; or call")
    # The way out that the line names.
    assert lopsided.advance_chain(model) == 1


def test_lbfgs_is_refused_wherever_its_memory_is():
    model = adapted()
    head = next(p for n, p in model.named_parameters() if p.requires_grad and "modules_to_save" in n)
    optimizer = optim.LBFGS([head, *factors_of(model)], lr=0.01, max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = (model(**tiny.inputs(model)).logits - 1.0).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert set(optimizer.state) == {head}
    assert_nothing_changed(model, optimizer, r"LBFGS can't .*: its state holds H_diag, .*prev_loss")


@pytest.mark.parametrize("beta1", [None, 0.9])
def test_pruning_asks_for_moments(beta1):
    # With beta1 it has a first moment of the factor's shape, and a second one of rows and columns.
    model = adapted("relora")
    optimizer = Adafactor(factors_of(model), lr=0.1, scale_parameter=False, relative_step=False, beta1=beta1)
    step(model, optimizer)
    assert_nothing_changed(model, optimizer, r"its state is not all moments of the factor's shape, to prune \(prune=0")


# -- bitsandbytes --------------------------------------------------------------------------------------------

EIGHT_BITS = {"min_8bit_size": 16}


@pytest.mark.parametrize(
    ("name", "options"),
    [("AdamW", {}), ("AdamW8bit", EIGHT_BITS), ("PagedAdamW8bit", EIGHT_BITS), ("Lion8bit", EIGHT_BITS)],
)
def test_states_of_8_bits_start_afresh(name, options):
    kind = getattr(pytest.importorskip("bitsandbytes").optim, name)
    assert_trains_on_as_new(lambda p: kind(p, lr=0.01, **options))


def test_states_of_8_bits_are_not_pruned():
    kind = pytest.importorskip("bitsandbytes").optim.AdamW8bit
    model = adapted("relora")
    optimizer = kind(factors_of(model), lr=0.1, **EIGHT_BITS)
    step(model, optimizer)
    assert next(iter(optimizer.state.values()))["state1"].dtype == torch.uint8
    assert_nothing_changed(model, optimizer, "its state is not all moments of the factor's shape, to prune")
