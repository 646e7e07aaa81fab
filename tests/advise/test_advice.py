"""Moments against autograd and closed forms, estimates against the true reduction, and the model left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from lopsided import METHODS, LopsidedError, Orthonormal, Singular, register
from lopsided.advise import advise, collect, distinct, fit_head
from lopsided.advise.layer_gains import equal_rank
from lopsided.method.sketch import layer_seed
from lopsided.theory.dims import linear_maps
from tests import tiny


class Linear(nn.Module):
    """One linear layer and the loss of its outputs: squared error, or cross-entropy for whole labels."""

    def __init__(self, d_in: int, d_out: int, smoothing: float = 0.0) -> None:
        super().__init__()
        self.map, self.smoothing = nn.Linear(d_in, d_out, bias=False), smoothing
        nn.init.zeros_(self.map.weight)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> SequenceClassifierOutput:
        logits = self.map(features)
        if labels.is_floating_point():
            return SequenceClassifierOutput(loss=F.mse_loss(logits, labels), logits=logits)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def split(features, labels, sizes):
    return [{"features": x, "labels": y} for x, y in zip(features.split(sizes), labels.split(sizes))]


def regression(n: int = 6000, d_in: int = 6, d_out: int = 3):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, d_in, generator=generator) * torch.tensor([3.0, 2, 1, 1, 0.5, 0.3])
    labels = features @ torch.randn(d_in, d_out, generator=generator) + torch.randn(n, d_out, generator=generator)
    return features, labels


def bert_batches(sizes=(4, 4, 2), length: int = 6):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "input_ids": torch.randint(1, 40, (size, length), generator=generator),
            "attention_mask": torch.ones(size, length, dtype=torch.long),
            "labels": torch.randint(0, 3, (size,), generator=generator),
        }
        for size in sizes
    ]


# -- estimates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["asym_b", "asym_a", "rcla"])
def test_the_estimate_for_a_linear_regression_is_the_true_reduction(method):
    features, labels = regression()
    model = Linear(6, 3)
    # A budget of 6 numbers: B at r=2, A at r=1.
    batches = split(features, labels, 2000)
    advice = advise(model, batches, methods=[method], r=2, target_modules=["map"], damping=0.0, seeds=1)
    [row] = advice.rows
    x, y, sketch = features.double().numpy(), labels.double().numpy(), METHODS[method].sketch
    assert sketch is not None
    if row.side == "B":
        assert (row.rank, row.trained) == (2, 6)
        inner = x @ sketch.sample(2, 6, seed=layer_seed(0, "map"), link=0).T
        fit = inner @ np.linalg.lstsq(inner, y, rcond=None)[0]
    else:
        assert (row.rank, row.trained) == (1, 6)
        U = sketch.sample(1, 3, seed=layer_seed(0, "map"), link=0).T
        fit = x @ np.linalg.lstsq(x, y @ U, rcond=None)[0] @ U.T
    true = np.mean(y**2) - np.mean((y - fit) ** 2)
    assert row.fitted == pytest.approx(true, rel=0.05)
    assert row.reduction == pytest.approx(true, rel=0.05)


def test_the_estimate_for_labels_that_are_noise_is_about_nothing():
    features, _ = regression(400)
    labels = torch.randn(400, 3, generator=torch.Generator().manual_seed(2))
    advice = advise(Linear(6, 3), split(features, labels, 100), methods=["asym_b"], r=2, target_modules=["map"])
    assert abs(advice.rows[0].reduction) < advice.rows[0].fitted


def test_every_distinct_pair_of_parts_is_estimated_and_a_users_method_too():
    names = [method.name for method in distinct()]
    assert names == [
        "lora",
        "lora_fa",
        "asym_b",
        "asym_a",
        "bernoulli",
        "cla",
        "rcla",
        "c3la",
        "rc3la",
        "ipa_b",
        "act_cla",
    ]
    own = register("own_top", train="A", sketch=Singular("top"), source="this test")
    again = register("own_again", train="A", sketch=Singular("top"), source="this test")
    try:
        assert own in distinct()
        assert again not in distinct()
        model = tiny.bert()
        advice = advise(model, bert_batches(), r=4)
    finally:
        del METHODS["own_top"], METHODS["own_again"]
    layers = [name for name, _ in linear_maps(model)]
    assert {(row.module, row.method) for row in advice.rows} == {(m, n) for m in layers for n in [*names, "own_top"]}
    assert all(np.isfinite([row.reduction, row.fitted]).all() and row.fitted >= 0 for row in advice.rows)
    assert all(row.side != "AB" for row in advice.best().values())
    assert list(advice.best()) == layers
    for row in advice.rows:
        d_out, d_in = model.get_submodule(row.module).weight.shape
        method = own if row.method == "own_top" else METHODS[row.method]
        one = method.trained_numbers(d_out, d_in, 1)
        assert abs(row.trained - 4 * d_out) <= one / 2 or row.rank in (1, method.sketched_width(d_out, d_in))


def test_a_singular_sketch_reads_the_layers_weight():
    model = tiny.bert()
    found = {}
    for which in ("top", "last"):
        sketch = Singular(which)
        method = register(f"own_{which}", train="B", sketch=sketch, source="this test")
        del METHODS[method.name]
        found[which] = [row.fitted for row in advise(model, bert_batches(), methods=[method], r=4).rows]
    assert all(top != last for top, last in zip(found["top"], found["last"]))


def test_the_same_call_gives_the_same_advice():
    model, batches = tiny.bert(), bert_batches()
    assert advise(model, batches, r=2) == advise(model, batches, r=2)


def test_a_coin_is_the_mean_of_its_sides():
    features, labels = regression(300, d_out=3)
    b, a, coin = (
        register(name, train=train, sketch=Orthonormal(), p=0.3, source="this test")
        for name, train in (("own_b", "B"), ("own_a", "A"), ("own_coin", "coin"))
    )
    for method in (b, a, coin):
        del METHODS[method.name]
    # A square layer, so that all three have the same rank.
    batches = split(features[:, :3], labels, 100)
    rows = advise(Linear(3, 3), batches, methods=[b, a, coin], r=2, target_modules=["map"]).rows
    assert {row.rank for row in rows} == {2}
    assert rows[2].reduction == pytest.approx(0.3 * rows[0].reduction + 0.7 * rows[1].reduction)


def test_ranks_stay_within_one_and_the_width():
    method = METHODS["asym_a"]
    assert equal_rank(method, d_out=2, d_in=64, r=1) == 1
    assert equal_rank(method, d_out=4, d_in=2, r=8) == 4
    assert equal_rank(METHODS["lora"], d_out=32, d_in=32, r=8) == 4


# -- moments -------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_autograd():
    model, batches = tiny.bert(), bert_batches()
    moments = collect(model, batches, linear_maps(model))
    assert moments.predictions == 10
    for name, found in moments.by_layer.items():
        weight = model.get_submodule(name).weight
        for batch, gradient in zip(batches, found.gradients):
            (expected,) = torch.autograd.grad(model(**batch).loss, weight)
            assert torch.allclose(torch.from_numpy(gradient), expected, atol=1e-6)
        assert found.shares.tolist() == pytest.approx([0.4, 0.4, 0.2])


def test_curvature_of_a_classifier_is_its_fisher_information():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(20000, 4, generator=generator) * 0.1 + torch.tensor([1.0, 0, 0, 0])
    model = Linear(4, 3)
    model.map.weight.data[:, 0] = torch.tensor([1.0, 0.0, -1.0])
    labels = torch.zeros(20000, dtype=torch.long)
    moments = collect(model, split(features, labels, 5000), [("map", model.map)]).by_layer
    p = model(features, labels).logits.softmax(1).detach()
    expected = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    # All labels are of one class: gradients of the data would show another matrix.
    assert np.allclose(moments["map"].gamma, expected.numpy(), atol=0.01)
    assert np.allclose(moments["map"].sigma, (features.T @ features / 20000).numpy(), atol=1e-4)


def test_padding_does_not_count():
    model, batches = tiny.bert(), bert_batches()
    padded = []
    for batch in batches:
        mask = F.pad(batch["attention_mask"], (0, 3))
        padded.append({**batch, "input_ids": F.pad(batch["input_ids"], (0, 3), value=7), "attention_mask": mask})
    layers = linear_maps(model)
    plain, with_padding = (collect(model, given, layers).by_layer for given in (batches, padded))
    for name in plain:
        assert np.allclose(plain[name].sigma, with_padding[name].sigma, atol=1e-5), name
        assert np.allclose(plain[name].gamma, with_padding[name].gamma, atol=1e-6), name


def test_tokens_that_the_loss_does_not_see_do_not_count():
    # After the last layer's attention a classifier reads the first token alone.
    model, batches = tiny.bert(), bert_batches()
    inputs = []
    last = model.bert.encoder.layer[-1].output.dense
    hook = last.register_forward_hook(lambda module, args, output: inputs.append(args[0].detach()[:, 0]))
    [name] = [name for name, module in linear_maps(model) if module is last]
    moments = collect(model, batches, [(name, last)]).by_layer
    hook.remove()
    first = torch.cat(inputs).double().numpy()
    assert np.allclose(moments[name].sigma, first.T @ first / len(first), atol=1e-5)


@pytest.mark.parametrize("build", [tiny.gpt2, tiny.llama])
def test_a_language_models_predictions_are_its_labelled_tokens(build):
    model = build()
    generator = torch.Generator().manual_seed(4)
    batches = []
    for size in (3, 2):
        ids = torch.randint(1, 40, (size, 6), generator=generator)
        batches.append({"input_ids": ids, "labels": torch.where(torch.arange(6) < 2, -100, ids)})
    moments = collect(model, batches, linear_maps(model))
    assert moments.predictions == 5 * 4
    for name, found in moments.by_layer.items():
        weight = model.get_submodule(name).weight
        (expected,) = torch.autograd.grad(model(**batches[0]).loss, weight)
        # GPT-2 keeps its weights transposed.
        expected = expected.T if build is tiny.gpt2 else expected
        assert torch.allclose(torch.from_numpy(found.gradients[0]), expected, atol=1e-6)
    assert len(advise(model, batches, methods=["cla"], r=2).rows) == len(moments.by_layer)


def test_the_model_is_left_as_it_was():
    model = tiny.bert().train()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    before = copy.deepcopy(model)
    advise(model, bert_batches(), methods=["cla"], r=2)
    assert all(module.training for module in model.modules())
    for (name, now), then in zip(model.named_parameters(), before.parameters()):
        assert torch.equal(now, then), name
        assert now.requires_grad == then.requires_grad, name
        assert (now.grad is None) == (name != "classifier.weight"), name
    assert not any(module._forward_hooks for module in model.modules())


def test_only_the_head_is_fitted():
    model, batches = tiny.bert().train(), bert_batches()
    before = copy.deepcopy(model)
    with torch.no_grad():
        loss = float(model.eval()(**batches[0]).loss)
    model.train()
    fit_head(model, batches[:1], 30, lr=0.1)
    assert model.training
    for (name, now), then in zip(model.named_parameters(), before.parameters()):
        assert torch.equal(now, then) == (not name.startswith("classifier.")), name
        assert now.requires_grad
        assert now.grad is None
    with torch.no_grad():
        assert float(model.eval()(**batches[0]).loss) < loss


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, b: advise(m, []), "expected at least 2 batches, got 0"),
        (lambda m, b: advise(m, b[:1]), "expected at least 2 batches, got 1"),
        (lambda m, b: advise(m, [{"input_ids": b[0]["input_ids"]}] * 2), "expected labels in every batch, got input"),
        (lambda m, b: advise(m, b, methods=["c3al"]), "unknown method 'c3al'.*did you mean 'c3la'"),
        (lambda m, b: advise(m, b, methods=["full"]), "method 'full' is no adapter"),
        (lambda m, b: advise(m, b, target_modules=["nothing"]), "found none"),
        (lambda m, b: advise(m, b, r=0), "r must be a positive"),
        (lambda m, b: advise(m, b, seeds=0), "seeds must be a positive"),
        (lambda m, b: fit_head(tiny.llama(), b, 1), "expected a model with a head"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        call(tiny.bert(), bert_batches())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["smoothed", "scaled numbers", "scaled classes"])
def test_another_loss_is_refused(kind):
    features, numbers = regression(40)

    class Scaled(Linear):
        def forward(self, features, labels):
            outputs = super().forward(features, labels)
            return SequenceClassifierOutput(loss=3 * outputs.loss, logits=outputs.logits)

    model = Linear(6, 3, smoothing=0.2) if kind == "smoothed" else Scaled(6, 3)
    labels = numbers if kind == "scaled numbers" else torch.zeros(40, dtype=torch.long)
    with pytest.raises(LopsidedError, match="the loss is not the mean"):
        advise(model, split(features, labels, 10), methods=["cla"], r=1, target_modules=["map"])
