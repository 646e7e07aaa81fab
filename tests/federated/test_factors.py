"""What trains of a model goes out and comes back, all of it or nothing."""

from __future__ import annotations

import pytest
import torch

import lopsided
from lopsided import LopsidedError
from lopsided.federated.factors import (
    advance_to,
    head_names,
    link_of,
    load_trained,
    row_axis,
    trained_tensors,
)
from lopsided.tuner import layers_of
from tests import tiny
from tests.federated.rounds import adapted, random_like


@pytest.mark.parametrize("method", [*tiny.CHAINS, "asym_b", "lora"])
def test_what_trains_comes_back_as_it_went_out(method):
    model, other = adapted(method), adapted(method)
    sent = random_like(trained_tensors(model), seed=1)
    load_trained(model, sent)
    returned = trained_tensors(model)
    assert returned.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(returned[name], sent[name]) for name in sent)
    assert not torch.equal(tiny.logits(model), tiny.logits(other))
    load_trained(other, returned)
    assert torch.equal(tiny.logits(model), tiny.logits(other))


def test_tensors_are_float32_copies():
    model = adapted().to(torch.bfloat16)
    tensors = trained_tensors(model)
    for tensor in tensors.values():
        assert tensor.dtype == torch.float32
        tensor.add_(1.0)
    assert all(not torch.equal(t, tensors[name]) for name, t in trained_tensors(model).items())


def test_a_whole_model_and_one_of_stock_peft_send_what_trains():
    whole = tiny.bert()
    assert len(trained_tensors(whole)) == len(list(whole.parameters()))
    assert head_names(whole) == ["classifier.weight", "classifier.bias"]
    assert link_of(whole) == 0
    with pytest.raises(LopsidedError, match="link 1 needs a method with a chain"):
        advance_to(whole, 1)


def test_heads_are_named_apart():
    model = adapted("c3la")
    heads = head_names(model)
    assert [name.rpartition(".")[2] for name in heads] == ["weight", "bias"]
    assert {name for name in trained_tensors(model) if row_axis(name) is None} == set(heads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, name: t.pop(name), r"1 of \d+ tensors missing"),
        (lambda t, name: t.update(other=torch.zeros(1)), r"1 foreign \('other'\)"),
        (lambda t, name: t.update({name: t[name][:, :1]}), "expected floating-point numbers of shape"),
        (lambda t, name: t.update({name: t[name].int()}), "got torch.int32"),
        (lambda t, name: t.update({name: t[name] * torch.nan}), "NaN or Inf"),
    ],
)
def test_what_does_not_fit_changes_nothing(change, message):
    model = adapted()
    before = trained_tensors(model)
    tensors = random_like(before, seed=1)
    # The last one, so that the others would have been written by then.
    change(tensors, list(tensors)[-3])
    with pytest.raises(LopsidedError, match=message):
        load_trained(model, tensors)
    assert all(torch.equal(t, before[name]) for name, t in trained_tensors(model).items())


def test_states_that_can_not_be_averaged_are_refused_by_name():
    model = adapted()
    with pytest.raises(LopsidedError, match="no Lopsided adapter named 'other'"):
        trained_tensors(model, "other")
    model.merge_adapter()
    with pytest.raises(LopsidedError, match="merged"):
        trained_tensors(model)
    frozen = tiny.bert().requires_grad_(False)
    with pytest.raises(LopsidedError, match="nothing of BertForSequenceClassification trains"):
        trained_tensors(frozen)


def test_a_model_goes_to_a_link_and_never_back():
    model, other = adapted("c3la"), adapted("c3la")
    advance_to(model, 2)
    assert link_of(model) == 2
    for _ in range(2):
        lopsided.advance_chain(other)
    sketches = [
        [layer.adapters["default"].sketches[-1].checksum for layer in layers_of(m).values()] for m in (model, other)
    ]
    assert sketches[0] == sketches[1]
    advance_to(model, 2)
    with pytest.raises(LopsidedError, match="stands at link 2, and link 1 is past"):
        advance_to(model, 1)
    with pytest.raises(LopsidedError, match="no chain to advance"):
        advance_to(adapted("asym_b"), 1)
