"""Embeddings with adapters against the look-up in W0 + ΔW."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from torch import nn

import lopsided
from lopsided import LopsidedError, advance_chain
from lopsided.tuner import layers_of
from tests import tiny
from tests.tuner.kinds.test_convolution import learned


class Words(nn.Module):
    """An embedding under a name, and an output head that may share its weight."""

    def __init__(self, *, tied: bool = False, **options) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 6, **options), nn.Linear(6, 9, bias=False)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, ids):
        """Look up, and score every word."""
        return self.out(torch.tanh(self.embed(ids)))


IDS = torch.tensor([[0, 1, 2, 8], [3, 4, 5, 1], [6, 7, 8, 8]])


def made(method: str = "cla", *, base: nn.Module | None = None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = base or Words()
    return lopsided.adapt(copy.deepcopy(base), method, r=2, target_modules=["embed"], **options), base


def oracle(model, base: nn.Module) -> nn.Module:
    [layer] = layers_of(model).values()
    twin = copy.deepcopy(base)
    with torch.no_grad():
        twin.embed.weight += layer.get_delta_weight("default")
    return twin


@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_it_is_the_look_up_in_the_sum(method):
    model, base = made(method)
    learned(model)
    expected = oracle(model, base)(IDS)
    assert not torch.allclose(expected, base(IDS), atol=1e-2)
    torch.testing.assert_close(model(IDS), expected, rtol=1e-4, atol=1e-4)
    model.merge_adapter()
    torch.testing.assert_close(model(IDS), expected, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    assert torch.equal(layers_of(model)["base_model.model.embed"].base_layer.weight, base.embed.weight)


@pytest.mark.parametrize("method", ["cla", "asym_a", "paca", "lora"])
def test_gradients_are_those_of_the_sum(method):
    model, base = made(method)
    learned(model)
    [layer] = layers_of(model).values()
    trained = layer.trained("default")
    found = torch.autograd.grad(model(IDS).square().sum(), list(trained.values()))
    twin = oracle(model, base)
    grad_W = torch.autograd.grad(twin(IDS).square().sum(), twin.embed.weight)[0].T
    [term], scaling = layer.terms("default", torch.device("cpu")), layer.scaling["default"]
    A, B = (factor.detach() for factor in term.dense())
    expected = {"A": scaling * B.T @ grad_W, "B": scaling * grad_W @ A.T}
    for gradient, letter in zip(found, trained, strict=True):
        torch.testing.assert_close(gradient, expected[letter], rtol=1e-3, atol=1e-3)


def test_padding_has_no_gradient_where_a_trains():
    model, _ = made("lora", base=Words(padding_idx=8))
    learned(model)
    model(IDS).square().sum().backward()
    [layer] = layers_of(model).values()
    gradient = layer.trained("default")["A"].grad
    assert not gradient[:, 8].any()
    assert gradient[:, :8].any()


@pytest.mark.parametrize("method", ["c3la", "asym_a", "lora"])
def test_its_export_is_the_same_function_in_stock_peft(method, tmp_path):
    model, base = made(method, **({"links": 3} if method in tiny.CHAINS else {}))
    learned(model)
    if method in tiny.CHAINS:
        advance_chain(model, torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2)))
        learned(model, seed=2)
    lopsided.to_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    assert type(loaded.base_model.model.embed).__name__ == "Embedding"
    torch.testing.assert_close(loaded(IDS), model(IDS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["cla", "asym_a", "lora"])
def test_next_to_16_bit_weights(dtype, method):
    model, base = made(method)
    learned(model)
    expected = model(IDS)
    narrow, _ = made(method, base=copy.deepcopy(base).to(dtype))
    assert all(p.dtype == torch.float32 for p in narrow.parameters() if p.requires_grad)
    learned(narrow)
    out = narrow(IDS)
    assert out.dtype == dtype
    assert (out.float() - expected).norm() <= 3e-2 * expected.norm()


def test_a_tied_weight_is_never_written_and_the_head_stays_as_it_was():
    model, base = made("c3la", base=Words(tied=True), links=3)
    learned(model)
    advance_chain(model, torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2)))
    learned(model, seed=2)
    [layer] = layers_of(model).values()
    assert torch.equal(layer.base_layer.weight, base.embed.weight)
    assert layer.base_layer.weight is model.base_model.model.out.weight
    hidden = base.embed(IDS) + torch.nn.functional.embedding(IDS, layer.get_delta_weight("default"))
    torch.testing.assert_close(model(IDS), base.out(torch.tanh(hidden)), rtol=1e-4, atol=1e-4)
    with pytest.raises(LopsidedError, match="it shares its weight with another module"):
        model.merge_adapter()


class Scaled(nn.Embedding):
    """An embedding with a scale, as Gemma's."""

    def forward(self, ids):
        """Look up and scale."""
        return super().forward(ids) * 3.0


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Embedding(9, 6, max_norm=1.0), "is an Embedding with max_norm, which rescales its weight"),
        (Scaled(9, 6), "is a Scaled with a forward of its own"),
        (nn.EmbeddingBag(9, 6), "is a EmbeddingBag, which can't be adapted"),
    ],
)
def test_other_embeddings_are_refused_by_name(layer, words):
    base = Words()
    base.embed = layer
    with pytest.raises(LopsidedError, match=f"embed {words}") as error:
        lopsided.adapt(base, "cla", r=2, target_modules=["embed"])
    assert "\n" not in str(error.value)


def test_dropout_acts_on_linear_layers_alone():
    model, _ = made("lora", dropout=0.9)
    learned(model)
    model.train()
    assert torch.equal(model(IDS), model(IDS))


@pytest.mark.parametrize("method", ["cla", "cola"])
def test_a_bert_learns_its_words_too_and_comes_back(method, tmp_path):
    targets = ["word_embeddings", "query"]
    model = lopsided.adapt(tiny.bert(), method, r=2, target_modules=targets, task_type="SEQ_CLS")
    optimizer = tiny.train_a_little(model)
    if method in tiny.CHAINS:
        advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    model.eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.bert(), str(tmp_path)).eval()
    assert torch.equal(tiny.logits(loaded), tiny.logits(model))
    with model.disable_adapter():
        assert not torch.allclose(tiny.logits(model), tiny.logits(loaded), atol=1e-5)
