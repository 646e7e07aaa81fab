"""Averages of weights: right within a link, refused over the links of a chain."""

from __future__ import annotations

import copy
import sys
import types

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lopsided
from lopsided import LopsidedError, advance_chain
from lopsided.tuner.chain_averages import AVERAGES, Average
from lopsided.tuner.peft_seams import install_late_seams, seams_of
from tests import tiny

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
Y = X @ torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
SINGLE = [name for name in tiny.ADAPTERS if name not in tiny.CHAINS]


def adapted(name: str, **options):
    torch.manual_seed(0)
    if name in tiny.CHAINS:
        options["links"] = 4
    return lopsided.adapt(nn.Sequential(nn.Linear(16, 4)), name, r=2, target_modules="all-linear", **options)


def optimizer_of(model):
    return torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))


def step(model, optimizer):
    optimizer.zero_grad()
    (model(X) - Y).square().mean().backward()
    optimizer.step()


def average_of(model):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))


@pytest.mark.parametrize("name", tiny.ADAPTERS)
@pytest.mark.parametrize("advances", [0, 1])
def test_an_average_within_a_link_is_the_function_of_the_averaged_factors(name, advances):
    model = adapted(name)
    optimizer = optimizer_of(model)
    step(model, optimizer)
    for _ in range(advances if name in tiny.CHAINS else 0):
        advance_chain(model, optimizer)
    average, expected = average_of(model), None
    for _ in range(4):
        step(model, optimizer)
        average.update_parameters(model)
        now = {n: p.detach().clone() for n, p in model.named_parameters()}
        expected = now if expected is None else {n: torch.lerp(expected[n], p, 0.5) for n, p in now.items()}
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(expected[n])
    torch.testing.assert_close(average(X), model(X))


@pytest.mark.parametrize("name", tiny.CHAINS)
@pytest.mark.parametrize("begun", ["updated before the advance", "only made before the advance"])
def test_an_average_over_links_is_refused(name, begun):
    model = adapted(name)
    optimizer, average = optimizer_of(model), average_of(model)
    step(model, optimizer)
    if begun.startswith("updated"):
        average.update_parameters(model)
    advance_chain(model, optimizer)
    before = copy.deepcopy(dict(average.named_parameters()))
    with pytest.raises(
        LopsidedError, match=r"begun at link 0 .* at link 1 in 0: .*make a new AveragedModel after each"
    ):
        average.update_parameters(model)
    assert all(torch.equal(p, before[n]) for n, p in average.named_parameters())
    # What the error says works, and so does what was averaged before.
    assert torch.isfinite(average(X)).all()
    again = average_of(model)
    again.update_parameters(model)
    copy.deepcopy(again).update_parameters(model)
    torch.testing.assert_close(again(X), model(X))


def test_another_model_s_chain_does_not_disturb_an_average():
    model, other = adapted("rac_b"), adapted("c3la")
    average = average_of(model)
    average.update_parameters(model)
    advance_chain(other)
    average.update_parameters(model)


def test_models_without_adapters_are_averaged_as_ever():
    net = nn.Linear(3, 2)
    average = average_of(net)
    for _ in range(2):
        average.update_parameters(net)
    assert torch.equal(average.module.weight, net.weight)


@pytest.mark.parametrize("name", SINGLE)
def test_an_average_of_states_is_loaded(name):
    model = adapted(name)
    optimizer, states = optimizer_of(model), []
    for _ in range(2):
        step(model, optimizer)
        states.append(copy.deepcopy(model.state_dict()))
    # As they are averaged elsewhere: what is no floating-point number is taken from the first.
    mean = {
        k: torch.stack([s[k] for s in states]).mean(0) if t.is_floating_point() else t for k, t in states[0].items()
    }
    model.load_state_dict(mean)
    factors = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(p, mean[n]) for n, p in factors.items())


@pytest.mark.parametrize("name", tiny.CHAINS)
@pytest.mark.parametrize("first", [0, 1])
def test_an_average_of_states_over_links_is_refused(name, first):
    model = adapted(name)
    optimizer, states = optimizer_of(model), []
    for _ in range(3):
        step(model, optimizer)
        states.append(copy.deepcopy(model.state_dict()))
        advance_chain(model, optimizer)
    one, two = states[first : first + 2]
    # Between later links torch itself finds tensors of different lengths.
    with pytest.raises((LopsidedError, RuntimeError), match=r"did not arrive|one fewer|must match"):
        _load_mean(model, one, two)


def _load_mean(model, one, two):
    mean = {k: (one[k] + two[k]) / 2 if two[k].is_floating_point() else two[k] for k in one.keys() & two.keys()}
    model.load_state_dict({**one, **mean})


@pytest.mark.parametrize("name", ["rac_b", "cpaca", "cola"])
def test_states_of_two_seeds_are_no_average(name):
    first, second = adapted(name, seed=0), adapted(name, seed=1)
    one, two = first.state_dict(), second.state_dict()
    mean = {k: (t + two[k]) / 2 if t.is_floating_point() else t for k, t in one.items()}
    with pytest.raises(LopsidedError, match="average states within one link only"):
        first.load_state_dict(mean)


class ParameterEma:
    """As torch_ema and diffusers keep an average: a list of shadows."""

    def __init__(self, parameters):
        self.shadows = [p.detach().clone() for p in parameters]

    def step(self, parameters):
        for shadow, p in zip(self.shadows, parameters, strict=True):
            shadow.lerp_(p.detach(), 0.5)


class HoldingEma(nn.Module):
    """As ema_pytorch keeps one: it holds the model itself."""

    def __init__(self, model):
        super().__init__()
        self.online, self.average = [model], copy.deepcopy(model)

    def update(self):
        for mine, theirs in zip(self.average.parameters(), self.online[0].parameters(), strict=True):
            mine.data.lerp_(theirs.data, 0.5)


@pytest.fixture
def library(monkeypatch):
    """A module of other people's averages that is imported after the adapter was made."""
    module = types.ModuleType("some_ema_library")
    module.ParameterEma = type("ParameterEma", (ParameterEma,), {"step": ParameterEma.step})
    module.HoldingEma = type(
        "HoldingEma", (HoldingEma,), {"update": HoldingEma.update, "__init__": HoldingEma.__init__}
    )
    monkeypatch.setitem(sys.modules, "some_ema_library", module)
    table = (Average("some_ema_library", "ParameterEma", "step"), Average("some_ema_library", "HoldingEma", "update"))
    seams = tuple(seam for average in table for seam in seams_of(average))
    monkeypatch.setattr("lopsided.tuner.peft_seams.SEAMS", seams)
    return module


@pytest.mark.parametrize("looked_at", ["before it is made", "at the advance"])
def test_lists_of_parameters_are_looked_at(looked_at, library):
    model = adapted("rac_b")
    if looked_at.startswith("before"):
        install_late_seams()
    ema, optimizer = library.ParameterEma(model.parameters()), optimizer_of(model)
    step(model, optimizer)
    ema.step(model.parameters())
    advance_chain(model, optimizer)
    with pytest.raises(LopsidedError, match="ParameterEma was begun at link 0"):
        ema.step(model.parameters())
    with pytest.raises(LopsidedError, match="ParameterEma was begun at link 0"):
        ema.step(parameters=model.parameters())
    again = library.ParameterEma(model.parameters())
    again.step(iter(list(model.parameters())))
    assert all(torch.equal(shadow, p) for shadow, p in zip(again.shadows, model.parameters()))


def test_an_average_that_holds_its_model_is_looked_at(library):
    model = adapted("c3la")
    install_late_seams()
    ema = library.HoldingEma(model)
    ema.update()
    advance_chain(model)
    with pytest.raises(LopsidedError, match="HoldingEma was begun at link 0"):
        ema.update()


def test_the_table_names_classes_that_exist_where_their_library_is_installed():
    for average in AVERAGES:
        if average.module in sys.modules:
            assert callable(getattr(getattr(sys.modules[average.module], average.name), average.update))
