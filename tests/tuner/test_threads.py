"""What one thread sees of a model that another one uses."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import lopsided
from lopsided.tuner import layers_of
from lopsided.tuner.forward import ways

ROUNDS = 30


@pytest.fixture
def wide():
    """A layer whose product takes so long that another thread would meet lent columns, with its W0."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(384, 384))
    W0 = net[0].weight.detach().clone()
    model = lopsided.adapt(net, "cla", r=64, target_modules="all-linear")
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p)
    return model, W0, torch.randn(192, 384)


@contextmanager
def another_thread(work: Callable[[], None]) -> Iterator[None]:
    stop, failed = threading.Event(), []

    def run() -> None:
        try:
            while not stop.is_set():
                work()
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed


def serving(model, x):
    def work():
        with torch.no_grad():
            model(x)

    return work


def training(model, x):
    def work():
        model(x).square().mean().backward()

    return work


def weight_of(model):
    return model.base_model.model[0].base_layer.weight


LOOKS = {
    "a raw read": lambda model: weight_of(model).clone(),
    "a deep copy": lambda model: weight_of(copy.deepcopy(model)),
    "a state": lambda model: model.state_dict()["base_model.model.0.base_layer.weight"].clone(),
    "pickle": lambda model: weight_of(pickle.loads(pickle.dumps(model))),
    "torch.save": lambda model: _saved(model),
}


def _saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return weight_of(torch.load(buffer, weights_only=False))


@pytest.mark.parametrize("look", LOOKS)
def test_an_evaluation_lends_nothing(look, wide):
    model, W0, x = wide
    model.eval()
    with another_thread(serving(model, x)):
        assert all(torch.equal(LOOKS[look](model), W0) for _ in range(ROUNDS))


@pytest.mark.parametrize("look", [look for look in LOOKS if look != "a raw read"])
def test_copies_wait_for_a_training_step(look, wide):
    model, W0, x = wide
    with another_thread(training(model.train(), x)):
        assert all(torch.equal(LOOKS[look](model), W0) for _ in range(ROUNDS))
    assert torch.equal(weight_of(model), W0)


def test_a_forward_without_gradients_waits_for_a_training_step(wide):
    model, _, x = wide
    model.train()
    with torch.no_grad():
        expected = model(x)
    with another_thread(training(model, x)), torch.no_grad():
        for _ in range(ROUNDS):
            torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_in_another_thread_sees_the_base(dtype, wide):
    model, _, x = wide
    model.eval()

    def answer():
        with torch.no_grad(), torch.autocast("cpu", dtype):
            return model(x)

    expected = answer()
    with another_thread(serving(model, x)):
        assert all(torch.equal(answer(), expected) for _ in range(ROUNDS))


def test_training_lends_and_evaluation_does_not(wide, monkeypatch):
    model, _, x = wide
    used = []
    for name in ("patched", "beside"):
        real = getattr(ways, name)
        monkeypatch.setattr(ways, name, lambda *a, real=real, name=name, **k: (used.append(name), real(*a, **k))[1])
    model.train()(x)
    model.eval()(x)
    with torch.no_grad():
        model.train()(x)
    assert used == ["patched", "beside", "beside"]
    assert next(iter(layers_of(model).values())).way("default") == "patched"


def test_a_copy_and_what_it_is_copied_from_share_no_lock(wide):
    model, _, _ = wide
    twin = copy.deepcopy(model)
    (mine,), (theirs,) = layers_of(model).values(), layers_of(twin).values()
    assert mine.base_weight.lock.mutex is not theirs.base_weight.lock.mutex
    assert theirs.base_weight.layer is theirs.base_layer
    assert theirs.lopsided_state["default"].adapter is theirs.adapters["default"]


def test_a_pickled_chain_in_training_undoes_exactly():
    net = nn.Sequential(nn.Linear(16, 8))
    W0 = net[0].weight.detach().clone()
    model = lopsided.adapt(net, "c3la", r=4, links=3, target_modules="all-linear").train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(torch.randn(4, 16)).square().mean().backward()
        optimizer.step()
        lopsided.advance_chain(model, optimizer)
    again = pickle.loads(pickle.dumps(model))
    x = torch.randn(4, 16)
    assert torch.equal(again(x), model(x))
    with again.disable_adapter():
        assert torch.equal(weight_of(again), W0)
