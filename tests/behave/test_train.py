"""Training: gradients against the oracle's, in every mode in which a model is trained."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from peft import get_peft_model
from torch.utils.checkpoint import checkpoint

import lopsided
from lopsided import METHODS
from lopsided.tuner import layers_of
from tests import tiny
from tests.behave.cases import (
    ARCHITECTURES,
    adapted,
    another,
    assert_base_is_original,
    assert_gradients,
    assert_near,
    base,
    config,
    everywhere,
    fill,
    logits,
    oracle,
    oracle_gradients,
    oracle_weights,
    pair,
    plain_logits,
    trained,
    trained_tensors,
)

TRANSFORMERS = tuple(name for name in ARCHITECTURES if name != "mlp")


def backward(model, **options) -> None:
    model.zero_grad()
    model(**tiny.inputs(model), **options).logits.square().mean().backward()


@everywhere()
def test_gradients_are_those_of_the_dense_matrices(arch, method):
    model = trained(arch, method)
    backward(model)
    assert_gradients(model, oracle_gradients(arch, model))
    # Twice without a reset: gradients add up.
    model(**tiny.inputs(model)).logits.square().mean().backward()
    assert_gradients(model, {name: 2 * g for name, g in oracle_gradients(arch, model).items()})


@everywhere()
def test_several_active_adapters_all_learn(arch, method):
    model = pair(arch, method, heads=False)
    model.base_model.set_adapter(["default", "other"])
    backward(model)
    assert_gradients(model, oracle_gradients(arch, model, ["default", "other"]))


@everywhere()
def test_a_reference_forward_between_forward_and_backward(arch, method):
    """Preference training: the policy's forward, the base model's, the policy's backward."""
    model = trained(arch, method)
    expected = oracle_gradients(arch, model)
    policy = model(**tiny.inputs(model)).logits
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(logits(model), plain_logits(arch))
    policy.square().mean().backward()
    assert_gradients(model, expected)


@everywhere()
def test_another_adapters_forward_between_forward_and_backward(arch, method):
    """The same with a reference that is an adapter of its own."""
    model = pair(arch, method, heads=False)
    expected = oracle_gradients(arch, model)
    policy = model(**tiny.inputs(model)).logits
    model.set_adapter("other")
    assert_near(logits(model), oracle(arch, model, ["other"]))
    model.set_adapter("default")
    policy.square().mean().backward()
    assert_gradients(model, expected)


@pytest.mark.parametrize("method", tiny.ADAPTERS)
@pytest.mark.parametrize("change", ["disable", "merge", "switch"])
def test_a_backward_through_a_weight_that_has_changed_is_right_or_refused(method, change):
    """What the forward multiplied by is not in the base weight any more: a wrong gradient must not pass in silence."""
    model = pair("mlp", method, heads=False)
    features = tiny.inputs(model)["features"].requires_grad_()
    loss = model(features).logits.square().mean()
    expected = input_gradient(model, ["default"])
    if change == "disable":
        model.base_model.disable_adapter_layers()
    elif change == "merge":
        model.merge_adapter()
    else:
        model.set_adapter("other")
    past_is_gone = METHODS[method].chain is not None and change != "merge"
    past_has_come = METHODS[another(method)].chain is not None and change == "switch"
    if past_is_gone or past_has_come or change == "merge":
        with pytest.raises(lopsided.LopsidedError, match="base weight"):
            loss.backward()
    else:
        loss.backward()
        assert_near(features.grad, expected)


def input_gradient(model, names) -> torch.Tensor:
    features = tiny.inputs(model)["features"].double().requires_grad_()
    dense = oracle_weights("mlp", model, names)
    out = torch.func.functional_call(base("mlp").double(), dense, (features,)).logits
    return torch.autograd.grad(out.square().mean(), features)[0]


@everywhere()
def test_inputs_can_ask_for_gradients_without_the_base_learning(arch, method):
    model = trained(arch, method)
    if arch == "mlp":
        features = tiny.inputs(model)["features"].requires_grad_()
        model(features).logits.square().mean().backward()
        assert_near(features.grad, input_gradient(model, ["default"]))
        return
    # BART's encoder holds an embedding of its own, with the shared weights.
    embedding = (model.get_encoder() if arch == "bart" else model).get_input_embeddings()
    seen = []
    handle = embedding.register_forward_hook(lambda module, args, out: seen.append(out))
    model.enable_input_require_grads()
    backward(model)
    assert seen[-1].requires_grad
    assert_gradients(model, oracle_gradients(arch, model))
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trained_tensors(model))
    model.disable_input_require_grads()
    backward(model)
    assert not seen[-1].requires_grad
    handle.remove()


@contextmanager
def checkpointed(model, arch: str, reentrant: bool) -> Iterator[None]:
    """Gradient checkpointing as a user of that kind of model turns it on."""
    if arch != "mlp":
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        yield
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
        return
    blocks = model.base_model.model.layers
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=reentrant)
    yield
    for block in blocks:
        del block.forward


@everywhere()
def test_gradient_checkpointing_gives_equal_gradients(arch, method):
    model = trained(arch, method).train()
    batch = tiny.inputs(model)
    if arch == "mlp":
        batch["features"].requires_grad_()

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        # Dropout draws the same masks: checkpointing goes back to the saved random state.
        torch.manual_seed(0)
        model(**batch).logits.square().mean().backward()
        return {name: p.grad.clone() for name, p in trained_tensors(model).items()}

    expected = gradients()
    calls = []
    for layer in layers_of(model).values():
        layer.register_forward_hook(lambda *_: calls.append(1))
    for reentrant in (True, False):
        with checkpointed(model, arch, reentrant):
            calls.clear()
            assert_near_all(gradients(), expected)
            assert len(calls) > len(layers_of(model)), "nothing was computed a second time"


def assert_near_all(actual, expected) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(actual[name], gradient, atol=1e-6, rtol=1e-4), name


@everywhere(5, TRANSFORMERS)
def test_checkpointing_that_was_on_before_adapting_works(arch, method):
    """PEFT then makes the inputs ask for gradients by itself."""
    model = base(arch)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model = get_peft_model(model, config(arch, method)).train()
    fill(model)
    backward(model)
    factors = [p for layer in layers_of(model).values() for p in layer.trained("default").values()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in factors)
    assert all(p.grad.any() for p in factors)


@everywhere()
def test_training_moves_the_adapter_and_nothing_else(arch, method):
    model = adapted(arch, method)
    before = {name: p.detach().clone() for name, p in trained_tensors(model).items()}
    optimizer = tiny.train_a_little(model, steps=2)
    if METHODS[method].chain:
        lopsided.advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    assert all(not torch.equal(p, before[name]) for name, p in trained_tensors(model).items())
    assert_near(logits(model), oracle(arch, model, ["default"]))
    assert_base_is_original(model, arch)


@everywhere(6)
def test_no_grad_and_inference_mode_change_nothing(arch, method):
    model = trained(arch, method)
    out = model(**tiny.inputs(model)).logits
    assert out.requires_grad
    with torch.no_grad():
        quiet = model(**tiny.inputs(model)).logits
    with torch.inference_mode():
        inferred = model(**tiny.inputs(model)).logits
        with model.disable_adapter():
            assert torch.equal(model(**tiny.inputs(model)).logits, plain_logits(arch))
    assert not quiet.requires_grad
    assert inferred.is_inference()
    for other in (quiet, inferred):
        assert_near(other, out.detach(), share=1e-6)
    # What inference mode touched can be trained and advanced afterwards.
    backward(model)
    assert_gradients(model, oracle_gradients(arch, model))
    if METHODS[method].chain:
        assert lopsided.advance_chain(model) == 3
    fill(model, seed=8)
    assert_near(logits(model), oracle(arch, model, ["default"]))


@everywhere(3, ("bert", "gpt2", "llama"))
def test_embeddings_can_be_passed_in_place_of_ids(arch, method):
    model = trained(arch, method)
    embeddings = model.get_input_embeddings()(tiny.inputs(model)["input_ids"])
    with torch.no_grad():
        out = model(inputs_embeds=embeddings).logits
    assert_near(out, logits(model), share=1e-6)
