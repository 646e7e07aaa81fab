"""Any sequence of public calls: the base weights come back bit for bit, and the layers compute the sum they should.

The machine walks at random over what a user may do to an adapted network. Beside it goes a reference of two things: the
base weights, which only a cast may change, and which adapters should count. After every step each layer's W0 is
compared with the reference through integer views, and its output with W0·x + Σ s·B·A·x in float64.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
import warnings
from pathlib import Path

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
from torch import nn
from transformers.pytorch_utils import Conv1D

import lopsided
from lopsided import METHODS, LopsidedConfig, LopsidedError
from lopsided.tuner import layers_of
from lopsided.tuner.weight.undo_records import INTEGERS
from tests import tiny
from tests.diagonal import diagonal

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAMES = ("default", "b", "c")
WEIGHTS = ("first", "second", "out")
LINKS = 4
# -0.0, a denormal, the largest number, Inf, and NaN with a payload: float32's bits, whose halves bfloat16 takes.
ODD = (-0x80000000, 0x00010001, 0x7F7F7F7F, 0x7F800000, 0x7F8A2345)
SETTINGS = ("plain", "autocast", "medium", "one thread", "two threads")
# What is made in inference mode can't be trained with afterwards, so it is only for calls that make nothing.
PASSING = (*SETTINGS, "inference")


class Net(nn.Module):
    """(n, 5) -> (n, 6): a Linear, a Conv1D, and a Linear whose weight an embedding shares."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(5, 7), Conv1D(4, 7), nn.Linear(4, 6, bias=False)
        self.embed = nn.Embedding(6, 4)
        self.out.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x)))))


def bits(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().contiguous().view(INTEGERS[weight.dtype])


@contextlib.contextmanager
def under(setting: str):
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        if setting == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                yield
        elif setting == "inference":
            with torch.inference_mode():
                yield
        else:
            if setting == "medium":
                torch.set_float32_matmul_precision("medium")
            if setting.endswith(("thread", "threads")):
                torch.set_num_threads(1 if setting == "one thread" else 2)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@contextlib.contextmanager
def settling():
    """PEFT says when it unmerges or chooses another adapter, and this library what rounding took."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class Machine(RuleBasedStateMachine):
    def __init__(self, method: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.method, self.dtype = method, dtype
        self.folder = tempfile.TemporaryDirectory()
        self.saved: dict[str, int] = {}
        self.methods: dict[str, str] = {}
        self.enabled, self.merged = True, []
        # Whether a merged factor was written to since it was merged: only a call that merges again shows it.
        self.stale = False

    # -- what there is ---------------------------------------------------------------------------------------

    @initialize(
        seed=st.integers(0, 2**16),
        odd=st.one_of(
            st.just([]), st.lists(st.tuples(st.sampled_from(WEIGHTS), st.integers(0, 23), st.sampled_from(ODD)))
        ),
        tied=st.booleans(),
        merge_links=st.sampled_from((None, True, False)),
        links=st.integers(0, 2),
    )
    def attach_the_first(self, seed, odd, tied, merge_links, links):
        torch.manual_seed(seed)
        net = Net()
        for name, entry, pattern in odd:
            net.get_submodule(name).weight.detach().view(-1).view(torch.int32)[entry] = pattern
        net = net.to(self.dtype).eval()
        self.plain = not any(abs(pattern) > 0x7F000000 and pattern > 0 for *_, pattern in odd)
        self.x = torch.randn(3, 5)
        self.W0 = {name: net.get_submodule(name).weight.detach().clone() for name in WEIGHTS}
        self.model = lopsided.adapt(net, **self.config(self.method, seed, tied, merge_links)).eval()
        self.methods["default"] = self.method
        for _ in range(links if METHODS[self.method].chain else 0):
            self.change_factors("default")
            with settling():
                lopsided.advance_chain(self.model)
        self.change_factors("default")

    def config(self, method: str, seed: int, tied: bool, merge_links: bool | None) -> dict:
        # A weight that something else holds is never written to, and asking for it is refused.
        chain = {"links": LINKS, "merge_links": False if tied and merge_links else merge_links}
        targets = ["first", "second", "out"] if tied else ["first", "second"]
        return {"method": method, "r": 2, "seed": seed, "target_modules": targets} | (
            chain if METHODS[method].chain else {}
        )

    @property
    def layers(self):
        return {name.rpartition(".")[2]: layer for name, layer in layers_of(self.model).items()}

    @property
    def active(self) -> list[str]:
        return self.model.base_model.active_adapters

    def free(self) -> list[str]:
        return [name for name in NAMES if name not in self.methods]

    def factors(self, name: str) -> list[tuple[str, torch.Tensor]]:
        ends = tuple(f"lopsided_{letter}.{name}" for letter in "ABC")
        return [(key, p) for key, p in self.model.named_parameters() if key.endswith(ends)]

    def change_factors(self, name: str) -> None:
        for _, factor in self.factors(name):
            factor.data.normal_(std=0.1)

    # -- attach, train, advance ------------------------------------------------------------------------------

    # PEFT switches the layers on that an adapter is the first one of, also in a model that is switched off.
    @precondition(lambda self: self.free() and self.enabled)
    @rule(data=st.data(), seed=st.integers(0, 9), tied=st.booleans(), merge_links=st.sampled_from((None, True)))
    def attach(self, data, seed, tied, merge_links):
        name, method = data.draw(st.sampled_from(self.free())), data.draw(st.sampled_from(tiny.ADAPTERS))
        with settling():
            self.model.add_adapter(name, LopsidedConfig(**self.config(method, seed, tied, merge_links)))
        self.methods[name] = method
        self.merged, self.stale = [], False
        self.change_factors(name)

    @precondition(lambda self: self.plain and self.enabled and not self.merged and self.active)
    @rule(setting=st.sampled_from(SETTINGS), steps=st.integers(1, 2))
    def train(self, setting, steps):
        with under(setting):
            self.model.set_adapter(self.active[0])
            optimizer = torch.optim.SGD(lopsided.param_groups(self.model, lr=1e-2))
            for _ in range(steps):
                optimizer.zero_grad()
                self.model(self.x.to(self.dtype)).float().square().mean().backward()
                optimizer.step()

    @precondition(lambda self: not self.merged)
    @rule(data=st.data(), setting=st.sampled_from(SETTINGS))
    def advance(self, data, setting):
        name = data.draw(st.sampled_from(sorted(self.methods)))
        adapter = self.layers["first"].adapters[name]
        if adapter.method.chain is None or adapter.link + 1 >= LINKS:
            return
        before = adapter.link
        with under(setting), settling():
            assert lopsided.advance_chain(self.model, adapter_name=name) == before + 1
        self.change_factors(name)

    # -- merge, enable, switch, delete -----------------------------------------------------------------------

    @rule(data=st.data(), safe=st.booleans(), setting=st.sampled_from(PASSING))
    def merge(self, data, safe, setting):
        names = data.draw(st.lists(st.sampled_from(sorted(self.methods)), unique=True, min_size=1))
        wanted = [name for name in names if name not in self.merged]
        if "out" in self.layers and any(name in self.layers["out"].adapters for name in wanted):
            with pytest.raises(LopsidedError, match="shares its weight"):
                self.model.merge_adapter(names, safe_merge=safe)
            return
        with under(setting), settling():
            self.model.merge_adapter(names, safe_merge=safe)
        self.merged += wanted
        self.stale = self.stale and not wanted

    @precondition(lambda self: any(layer.merged for layer in self.layers.values()))
    @rule()
    def unmerge(self):
        with settling():
            self.model.unmerge_adapter()
        self.merged, self.stale = [], False

    @rule(on=st.booleans(), setting=st.sampled_from(PASSING))
    def switch_on_or_off(self, on, setting):
        with under(setting):
            if on:
                self.model.base_model.enable_adapter_layers()
            else:
                self.model.base_model.disable_adapter_layers()
        self.enabled = on

    @rule(setting=st.sampled_from(PASSING))
    def disable_for_a_while(self, setting):
        with under(setting), self.model.disable_adapter():
            for name, weight in self.W0.items():
                assert torch.equal(bits(self.weight(name)), bits(weight)), f"{name}: not W0 while disabled"

    @rule(data=st.data(), setting=st.sampled_from(PASSING))
    def switch(self, data, setting):
        names = data.draw(st.lists(st.sampled_from(sorted(self.methods)), unique=True, min_size=1, max_size=2))
        with under(setting), settling():
            if len(names) == 1:
                self.model.set_adapter(names[0])
            else:
                self.model.base_model.set_adapter(names)
        self.merged, self.stale = [], False

    @precondition(lambda self: len(self.methods) > 1)
    @rule(data=st.data())
    def delete(self, data):
        name = data.draw(st.sampled_from(sorted(self.methods)))
        if self.model.active_adapter == name and name not in self.active:
            # PEFT keeps the name that `PeftModel.set_adapter` was last given, and trips over it once it is gone.
            return
        if name in self.merged:
            with pytest.raises(ValueError, match="while they are merged"):
                self.model.delete_adapter(name)
            return
        with settling():
            was_active = name in self.active
            self.model.delete_adapter(name)
            if was_active:
                # PEFT lets each layer choose the next one among its own adapters; a user says which one is meant.
                self.model.set_adapter(self.active[0])
                self.merged, self.stale = [], False
        del self.methods[name]
        self.saved.pop(name, None)

    # -- save, load, move, cast ------------------------------------------------------------------------------

    @rule(data=st.data())
    def save(self, data):
        name = data.draw(st.sampled_from(sorted(self.methods)))
        self.model.save_pretrained(self.folder.name, selected_adapters=[name])
        self.saved[name] = self.layers["first"].adapters[name].link

    def path(self, name: str) -> str:
        return str(Path(self.folder.name) / name if name != "default" else self.folder.name)

    @precondition(lambda self: self.saved)
    @rule(data=st.data(), setting=st.sampled_from(SETTINGS))
    def load(self, data, setting):
        name = data.draw(st.sampled_from(sorted(self.saved)))
        if self.merged:
            with pytest.raises(LopsidedError, match="are merged"):
                self.model.load_adapter(self.path(name), name)
            return
        with under(setting):
            self.model.load_adapter(self.path(name), name, is_trainable=True)
        assert self.layers["first"].adapters[name].link == self.saved[name]

    @precondition(lambda self: self.saved and self.free() and not self.merged and self.enabled)
    @rule(data=st.data())
    def load_as_a_new_one(self, data):
        name, new = data.draw(st.sampled_from(sorted(self.saved))), data.draw(st.sampled_from(self.free()))
        self.model.load_adapter(self.path(name), new)
        self.methods[new] = self.methods[name]

    @precondition(lambda self: not self.merged)
    @rule()
    def load_the_whole_state(self):
        self.model.load_state_dict(copy.deepcopy(self.model.state_dict()))

    @rule(move=st.sampled_from(("cpu", "half", "bfloat16", "float")), setting=st.sampled_from(SETTINGS))
    def move(self, move, setting):
        with under(setting):
            self.model.to("cpu") if move == "cpu" else getattr(self.model, move)()
        if move != "cpu":
            self.dtype = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32}[move]
            before, self.W0 = self.W0, {name: weight.to(self.dtype) for name, weight in self.W0.items()}
            lossless = all(torch.equal(bits(self.W0[name].to(old.dtype)), bits(old)) for name, old in before.items())
            if not lossless:
                # What was saved on the numbers before is rightly refused on these.
                self.saved.clear()
        self.stale = False

    @rule()
    def go_on_with_a_copy(self):
        self.model = copy.deepcopy(self.model)

    # -- writes to a factor ----------------------------------------------------------------------------------

    @rule(data=st.data(), how=st.sampled_from(("data", "state dict", "average", "new storage")), seed=st.integers(0, 9))
    def write_to_factors(self, data, how, seed):
        name = data.draw(st.sampled_from(sorted(self.methods)))
        generator = torch.Generator().manual_seed(seed)
        for key, factor in self.factors(name):
            other = (torch.randn(factor.shape, generator=generator) * 0.1).to(factor.dtype)
            if how == "data":
                factor.data.copy_(other)
            elif how == "state dict":
                self.model.load_state_dict({key: other}, strict=False)
            elif how == "average":
                with torch.no_grad():
                    factor.lerp_(other, 0.1)
            else:
                factor.data = other
        self.stale = self.stale or name in self.merged

    # -- what must hold --------------------------------------------------------------------------------------

    def weight(self, name: str) -> torch.Tensor:
        module = (
            self.layers[name].base_layer
            if name in self.layers
            else self.model.get_submodule(f"base_model.model.{name}")
        )
        return module.weight

    @invariant()
    def the_original_weights_are_there(self):
        if not self.methods:
            return
        for name, weight in self.W0.items():
            found = self.weight(name)
            assert found.dtype == weight.dtype
            if name in self.layers:
                layer = self.layers[name]
                if self.enabled and layer.base_weight.written:
                    found = layer.base_weight.original()
                    weight = layer.kind.matrix(weight)
            assert torch.equal(bits(found), bits(weight)), f"{name}: W0 has changed"
        shared = self.model.get_submodule("base_model.model.embed").weight
        assert shared is self.weight("out"), "the tied pair came apart"

    @invariant()
    def the_layers_compute_the_sum(self):
        if not self.methods or not self.plain or self.stale:
            return
        generator = torch.Generator().manual_seed(1)
        for name, layer in self.layers.items():
            W0 = self.W0[name].double()
            W0 = layer.kind.matrix(W0)
            x = torch.randn(3, W0.shape[1], generator=generator).to(self.dtype)
            # As PEFT has it, a layer with merged adapters computes those, and another one what is active.
            merged = [adapter for adapter in self.merged if adapter in layer.adapters]
            counted = (merged or self.active) if self.enabled else []
            total, reach = W0.clone(), W0.abs()
            for adapter in counted:
                if adapter not in layer.adapters:
                    continue
                for term in layer.terms(adapter, torch.device("cpu")):
                    A, B = (factor.detach().double() for factor in term.dense())
                    total += layer.scaling[adapter] * B @ A
                    reach += layer.scaling[adapter] * B.abs() @ A.abs()
            bias = layer.base_layer.bias
            expected = x.double() @ total.T + (0 if bias is None else bias.detach().double())
            with torch.no_grad():
                found = layer(x)
            slack = 8 * torch.finfo(self.dtype).eps * (x.double().abs() @ reach.T + 1)
            assert ((found.double() - expected).abs() <= slack).all(), f"{name}: not the sum of {counted}"

    def teardown(self):
        if self.methods:
            base = self.model.unload()
            for name, weight in self.W0.items():
                assert torch.equal(bits(base.get_submodule(name).weight), bits(weight)), f"{name}: unload is not exact"
        self.folder.cleanup()


def walk(method: str, dtype: torch.dtype, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: Machine(method, dtype),
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize(("method", "dtype"), diagonal(tiny.ADAPTERS, DTYPES, share=3))
def test_any_sequence_of_calls_keeps_the_base(method, dtype):
    walk(method, dtype, examples=3, steps=12)


@pytest.mark.soak
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_any_long_sequence_of_calls_keeps_the_base(method, dtype):
    walk(method, dtype, examples=120, steps=40)
