"""Any sequence of PEFT's calls on a stock LoRA model with exact merges: the base weights come back bit for bit.

The machine of tests/tuner/test_machine.py, on stock layers: `make_merges_exact` at the start, then merges, unmerges,
contexts, training, other adapters, copies and casts in any order. The reference is what the weights were.
"""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

import lopsided
from tests.tuner.test_machine import DTYPES, ODD, WEIGHTS, Net, bits

NAMES = ("default", "b", "c")
VARIANTS = ({}, {"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"first": 3}, "alpha_pattern": {"first": 5}})


class StockMachine(RuleBasedStateMachine):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.model = dtype, None

    @initialize(
        seed=st.integers(0, 2**16),
        odd=st.one_of(
            st.just([]), st.lists(st.tuples(st.sampled_from(WEIGHTS), st.integers(0, 23), st.sampled_from(ODD)))
        ),
        variant=st.sampled_from(VARIANTS),
        permanent=st.booleans(),
    )
    def adapt(self, seed, odd, variant, permanent):
        torch.manual_seed(seed)
        net = Net()
        # The magnitudes of DoRA are norms of the weights, of which a NaN makes another NaN.
        for name, entry, pattern in () if variant.get("use_dora") else odd:
            net.get_submodule(name).weight.detach().view(-1).view(torch.int32)[entry] = pattern
        net = net.to(self.dtype).eval()
        self.variant, self.permanent = variant, permanent
        self.W0 = {name: net.get_submodule(name).weight.detach().clone() for name in WEIGHTS}
        self.model = get_peft_model(net, self.config())
        self.change("default", seed)
        if permanent:
            lopsided.make_merges_exact(self.model)

    def config(self) -> LoraConfig:
        return LoraConfig(r=2, target_modules=["first", "second"], fan_in_fan_out=False, **self.variant)

    @property
    def layers(self) -> dict[str, nn.Module]:
        found = {name: module for name, module in self.model.named_modules() if isinstance(module, BaseTunerLayer)}
        return {name.removeprefix("base_model.model."): module for name, module in found.items()}

    @property
    def merged(self) -> bool:
        return any(layer.merged_adapters for layer in self.layers.values())

    def change(self, name: str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for key, factor in self.model.named_parameters():
            if f".{name}." in key and "lora_" in key and "magnitude" not in key:
                factor.data.copy_(torch.randn(factor.shape, generator=generator))

    # -- what a user may do ------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), seed=st.integers(0, 99))
    def train(self, name, seed):
        # Also while they are merged: the weights keep what was merged.
        if name in self.model.peft_config:
            self.change(name, seed)

    @precondition(lambda self: len(self.model.peft_config) < len(NAMES))
    @rule(seed=st.integers(0, 99))
    def add(self, seed):
        name = next(name for name in NAMES if name not in self.model.peft_config)
        # DoRA reads the weights as they are.
        if not (self.merged and self.variant.get("use_dora")):
            self.model.add_adapter(name, self.config())
            self.change(name, seed)

    @precondition(lambda self: len(self.model.peft_config) > 1 and not self.merged)
    @rule()
    def delete(self):
        self.model.delete_adapter(next(iter(self.model.peft_config)))

    @precondition(lambda self: not self.merged)
    @rule(name=st.sampled_from(NAMES))
    def choose(self, name):
        if name in self.model.peft_config:
            self.model.set_adapter(name)

    @precondition(lambda self: self.permanent)
    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, unique=True), safe=st.booleans())
    def merge(self, names, safe):
        names = [name for name in names if name in self.model.peft_config]
        # DoRA merges one adapter after the other, as stock PEFT has it.
        names = names[:1] if self.variant.get("use_dora") else names
        if names and not (self.merged and self.variant.get("use_dora")):
            try:
                self.model.merge_adapter(names, safe_merge=safe)
            except (ValueError, lopsided.LopsidedError):
                assert safe, "only what is not finite is refused"

    @precondition(lambda self: self.permanent)
    @rule()
    def unmerge(self):
        self.model.unmerge_adapter()

    @precondition(lambda self: not (self.merged and self.variant.get("use_dora")))
    @rule(inner=st.booleans(), fails=st.booleans())
    def merge_for_a_while(self, inner, fails):
        before = {name: bits(layer.get_base_layer().weight).clone() for name, layer in self.layers.items()}
        try:
            with lopsided.exact_merge(self.model):
                assert self.merged
                if inner and not self.variant.get("use_dora"):
                    with lopsided.exact_merge(self.model):
                        pass
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails
        for name, layer in self.layers.items():
            assert torch.equal(bits(layer.get_base_layer().weight), before[name]), name

    @rule(pickled=st.booleans())
    def go_on_with_a_copy(self, pickled):
        self.model = pickle.loads(pickle.dumps(self.model)) if pickled else copy.deepcopy(self.model)

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def unmerged_weights_are_the_original_ones(self):
        if self.model is None or self.merged:
            return
        for name, weight in self.W0.items():
            layer = self.layers.get(name)
            found = self.model.get_submodule(f"base_model.model.{name}") if layer is None else layer.get_base_layer()
            assert torch.equal(bits(found.weight), bits(weight)), f"{name}: W0 has changed"

    def teardown(self):
        if self.model is not None and self.permanent:
            base = self.model.unload()
            for name, weight in self.W0.items():
                assert torch.equal(bits(base.get_submodule(name).weight), bits(weight)), f"{name}: unload is not exact"


def walk(dtype: torch.dtype, examples: int, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_state_machine_as_test(
            lambda: StockMachine(dtype),
            settings=settings(
                max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_sequence_of_calls_on_stock_lora_keeps_the_base(dtype):
    walk(dtype, examples=10, steps=14)


@pytest.mark.soak
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_long_sequence_of_calls_on_stock_lora_keeps_the_base(dtype):
    walk(dtype, examples=300, steps=40)
