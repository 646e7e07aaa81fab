"""Merging, unloading and deleting by name, over adapters that share layers, some layers or none.

The oracle is stock PEFT: every adapter is written as plain LoRA, and the same calls are made there.
"""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import lopsided
from lopsided import LopsidedConfig, advance_chain
from lopsided.tuner import layers_of
from tests import tiny
from tests.diagonal import diagonal

LAYOUTS = {
    "the same layers": (["0", "2"], ["0", "2"]),
    "one of them": (["0", "2"], ["2"]),
    "others": (["0"], ["2"]),
    "overlapping": (["0", "2"], ["2", "4"]),
}
PAIRS = [("rac_b", "cla"), ("c3la", "rac_a"), ("cola", "asym_b"), ("asym_a", "lora"), ("bernoulli", "c3la")]
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


def two(names, layout) -> PeftModel:
    """Adapters a and b, trained, their chains at link 2; a is active."""
    model = lopsided.adapt(network(), names[0], r=2, target_modules=LAYOUTS[layout][0], adapter_name="a")
    model.add_adapter("b", LopsidedConfig(method=names[1], r=2, target_modules=LAYOUTS[layout][1]))
    for adapter, name in zip("ab", names):
        model.set_adapter(adapter)
        for link in range(3 if name in tiny.CHAINS else 1):
            if link:
                advance_chain(model)
            generator = torch.Generator().manual_seed(link)
            with torch.no_grad():
                for layer in layers_of(model, adapter).values():
                    for factor in layer.trained(adapter).values():
                        factor.add_(torch.randn(factor.shape, generator=generator), alpha=0.3)
    model.set_adapter("a")
    return model.eval()


def stock(model: PeftModel) -> PeftModel:
    """The same adapters as plain LoRA on the original base."""
    twin = None
    for adapter in "ab":
        layers = layers_of(model, adapter)
        names = [n.removeprefix("base_model.model.") for n in layers]
        factors = {}
        for n, layer in layers.items():
            pairs = [t.dense() for t in layer.terms(adapter, torch.device("cpu"))]
            A, B = torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], dim=1)
            factors[n] = A.detach(), (B * layer.scaling[adapter]).detach()
        r = len(next(iter(factors.values()))[0])
        config = LoraConfig(r=r, lora_alpha=r, target_modules=names)
        if twin is None:
            twin = get_peft_model(network(), config, adapter_name=adapter)
        else:
            twin.add_adapter(adapter, config)
        for n, (A, B) in factors.items():
            layer = twin.get_submodule(n)
            layer.lora_A[adapter].weight.data.copy_(A)
            layer.lora_B[adapter].weight.data.copy_(B)
    return twin.eval()


def calls() -> list[tuple[str, ...]]:
    """One to three of PEFT's calls in a row; the last one decides."""
    switch = ["set a", "set b"]
    names = ["a", "b", "a b", "b a"]
    ends = [f"merge {n}" for n in names] + [f"unload-merged {n}" for n in names] + ["unload", "delete a", "delete b"]
    more = [("merge b", "unmerge"), ("merge a b", "unmerge"), ("delete b", "merge a"), ("delete a", "merge b")]
    more += [("merge a", "unmerge", "merge b"), ("merge b", "unload-merged b"), ("delete b", "unload-merged a")]
    return [(s, e) for s, e in itertools.product(switch, ends)] + [(s, *m) for s, m in itertools.product(switch, more)]


def stock_active(model: PeftModel) -> None:
    """Make the remaining adapter active, which stock PEFT forgets where its first layer held none of it."""
    model.set_adapter(next(iter(model.peft_config)))


def call(model, word: str):
    what, _, names = word.partition(" ")
    if what == "set":
        model.set_adapter(names)
    elif what == "merge":
        model.merge_adapter(adapter_names=names.split())
    elif what == "unmerge":
        model.unmerge_adapter()
    elif what == "unload-merged":
        return model.merge_and_unload(adapter_names=names.split())
    elif what == "unload":
        return model.unload()
    elif what == "delete":
        model.delete_adapter(names)
    return model


@pytest.mark.parametrize(("names", "layout"), diagonal(PAIRS, LAYOUTS, share=2))
def test_the_calls_give_what_stock_peft_gives(names, layout):
    start = two(names, layout)
    oracle = stock(start)
    torch.testing.assert_close(start(X), oracle(X))
    originals = network().state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for words in calls():
            ours, theirs = copy.deepcopy(start), copy.deepcopy(oracle)
            for word in words:
                ours, theirs = call(ours, word), call(theirs, word)
                if word == "delete a" and "set a" in words:
                    stock_active(theirs)
            torch.testing.assert_close(ours(X), theirs(X), rtol=1e-4, atol=1e-5, msg=lambda m, w=words: f"{w}: {m}")
            if isinstance(ours, nn.Sequential):
                untouched = {"0", "2", "4"} - {t for n in _merged(words) for t in LAYOUTS[layout]["ab".index(n)]}
                for module in untouched:
                    assert torch.equal(ours.get_submodule(module).weight, originals[f"{module}.weight"]), (
                        words,
                        module,
                    )


def _merged(words: tuple[str, ...]) -> str:
    return words[-1].removeprefix("unload-merged ").replace(" ", "") if "unload-merged" in words[-1] else ""
