"""Models that hold more than one plain layer a name: other adapters, other tuners, shared modules, absent weights."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import lopsided
from lopsided import LopsidedConfig, LopsidedError
from lopsided.tuner import layers_of
from tests import tiny


def adapted(base=None, name="c3la", links=3, **options):
    model = lopsided.adapt(base or tiny.bert(), name, r=2, target_modules=["query"], links=links, **options)
    tiny.train_a_little(model)
    return model.eval()


def test_an_adapter_of_the_same_name_is_never_put_in_anothers_place(tmp_path):
    base = tiny.bert()
    model = adapted(base)
    model.save_pretrained(tmp_path)
    config, expected = model.peft_config["default"], tiny.logits(model)
    for again in (
        lambda: lopsided.adapt(base, "cla", r=2, target_modules=["query"]),
        lambda: PeftModel.from_pretrained(base, str(tmp_path)),
        lambda: get_peft_model(base, LopsidedConfig(method="cla", r=2, target_modules=["query"])),
    ):
        with pytest.raises(LopsidedError, match="has an adapter 'default' already; expected a free name"):
            again()
        assert model.peft_config == {"default": config}
        assert torch.equal(tiny.logits(model), expected)
    with pytest.raises(LopsidedError, match="has adapters already"):
        lopsided.adapt(model, "cla", r=2)
    with pytest.raises(ValueError, match="already exists"):
        model.add_adapter("default", LopsidedConfig(method="cla", r=2, target_modules=["query"]))
    assert torch.equal(tiny.logits(model), expected)


def test_a_refused_second_adapter_leaves_the_first(monkeypatch):
    monkeypatch.setattr(lopsided.files.patterns, "SECONDS", 0.5)
    model = adapted()
    expected, heads = tiny.logits(model), list(dict(model.named_parameters()))
    for config, words in (
        (LopsidedConfig(method="cla", r=99, target_modules=["query"]), "rank must not exceed"),
        (LopsidedConfig(method="cla", r=2, target_modules=["query", "LayerNorm"]), "can't be adapted"),
        (LopsidedConfig(method="cla", r=2, target_modules="((.*)*)*x"), "can't be matched"),
    ):
        with pytest.raises(LopsidedError, match=words):
            model.add_adapter("second", config)
        assert list(model.peft_config) == ["default"]
        assert list(dict(model.named_parameters())) == heads
        assert torch.equal(tiny.logits(model), expected)
    # And the same name can be used for a good one.
    model.add_adapter("second", LopsidedConfig(method="cla", r=2, target_modules=["query"]))
    assert torch.equal(tiny.logits(model), expected)


def test_another_tuner_below_is_refused_and_named():
    base = tiny.bert()
    lora = get_peft_model(base, LoraConfig(r=2, target_modules=["query"]), adapter_name="lora")
    with pytest.raises(LopsidedError, match=r"already has a peft\.tuners\.lora\.layer\.Linear adapter"):
        lopsided.adapt(base, "cla", r=2, target_modules=["query"])
    assert torch.isfinite(tiny.logits(lora)).all()


class Shared(nn.Module):
    """One linear layer under two names, and another whose weight is also a parameter of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = self.first
        self.third = nn.Linear(6, 6)
        self.weight = self.third.weight

    def forward(self, x):
        return self.third(self.second(torch.tanh(self.first(x)))) @ self.weight


def test_shared_modules_and_weights_are_never_written_to(tmp_path):
    torch.manual_seed(0)
    net, x = Shared(), torch.randn(4, 6)
    originals = {name: parameter.clone() for name, parameter in net.named_parameters()}
    plain = net(x)
    model = lopsided.adapt(net, "c3la", r=2, target_modules=["first", "third"], links=3)
    for layer in layers_of(model).values():
        layer.trained("default")["B"].data.normal_()
    expected = model(x)
    assert not torch.allclose(expected, plain)
    lopsided.advance_chain(model)
    torch.testing.assert_close(model(x), expected)
    for layer in layers_of(model).values():
        assert not layer.base_weight.written
    assert torch.equal(net.weight, originals["weight"])
    # The second name still is the plain layer.
    assert torch.equal(net.second.weight, originals["first.weight"])
    with pytest.raises(LopsidedError, match="shares its weight with another module"):
        model.merge_adapter()
    model.save_pretrained(tmp_path)
    again = Shared()
    again.load_state_dict(
        {
            **originals,
            "second.weight": originals["first.weight"],
            "second.bias": originals["first.bias"],
            "third.weight": originals["weight"],
        }
    )
    torch.testing.assert_close(PeftModel.from_pretrained(again, str(tmp_path))(x), expected)


@pytest.mark.parametrize("way", ["cpu", "disk"])
def test_offloaded_weights_are_refused_and_never_computed_with(way, tmp_path):
    """torch multiplies by a tensor without data as if it had one: what is offloaded has to be refused in time."""

    def offload(model):
        cpu_offload(model) if way == "cpu" else disk_offload(model, str(tmp_path / f"disk{id(model)}"))

    adapted().save_pretrained(tmp_path / "adapter")
    base = tiny.bert()
    offload(base)
    with pytest.raises(LopsidedError, match="query is offloaded by accelerate; expected its weight in memory"):
        lopsided.adapt(base, "cla", r=2, target_modules=["query"])
    with pytest.raises(LopsidedError, match="query is offloaded by accelerate"):
        PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    model = PeftModel.from_pretrained(tiny.bert(), str(tmp_path / "adapter"))
    expected = tiny.logits(model)
    lopsided.advance_chain(model)
    offload(model)
    for use in (
        lambda: tiny.logits(model),
        lambda: lopsided.advance_chain(model),
        lambda: lopsided.to_lora(model, tmp_path / "lora"),
        lambda: model.save_pretrained(tmp_path / "saved"),
        lambda: model.disable_adapter().__enter__(),
        lambda: model.load_adapter(str(tmp_path / "adapter"), "default"),
    ):
        with pytest.raises(LopsidedError, match=r"meta device|offloaded") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "lora").exists()
    assert "not loaded" in repr(model)
    # PEFT brings a layer in to merge it, and puts it back.
    model.merge_adapter()
    torch.testing.assert_close(tiny.logits(model), expected)


def test_a_model_that_was_dispatched_by_a_device_map(tmp_path):
    expected = adapted()
    expected.save_pretrained(tmp_path / "adapter")
    base = dispatch_model(
        tiny.bert(),
        device_map={"bert": "disk", "dropout": "cpu", "classifier": "cpu"},
        main_device="cpu",
        offload_dir=str(tmp_path / "disk"),
        force_hooks=True,
    )
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter"), offload_dir=str(tmp_path / "again"))
    torch.testing.assert_close(tiny.logits(model), tiny.logits(expected))
