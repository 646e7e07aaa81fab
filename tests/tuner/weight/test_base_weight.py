"""A saved adapter knows the base that it was trained on."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import lopsided
from lopsided import LopsidedConfig, LopsidedError, LopsidedWarning
from lopsided.files.fingerprint import _positions, check_base, compare, fingerprint
from lopsided.tuner import layers_of
from tests import tiny

CONFIG = "adapter_config.json"


def saved(folder, base=None, name="cla", targets=("query", "dense"), **options):
    model = lopsided.adapt(base or tiny.bert(), name, r=2, target_modules=list(targets), **options)
    optimizer = tiny.train_a_little(model)
    model.eval().save_pretrained(folder)
    return model, optimizer


def lines(folder):
    return json.loads((folder / CONFIG).read_text())["base"]


def other_bert(**options):
    config = BertConfig(
        **{
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "vocab_size": 40,
            "num_labels": 3,
            **options,
        }
    )
    return BertForSequenceClassification(config)


# -- fingerprints ------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_the_same_on_every_machine():
    weight = torch.arange(48, dtype=torch.float32).reshape(6, 8)
    assert fingerprint(weight) == "6x8 F32 7CQJH8VAqi7gQBBBMEEwQQ"
    assert fingerprint(weight.double()) == "6x8 F64 sIhqcTIAaTjgQBBBMEEwQQ"
    # Laid out another way, it is the same weight.
    assert fingerprint(weight.T.contiguous().T) == fingerprint(weight)
    assert fingerprint(nn.Parameter(weight)) == fingerprint(weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_any_other_bit_of_a_sampled_entry_is_seen(dtype):
    weight = (torch.randn(12, 20, generator=torch.Generator().manual_seed(0)) * 10).to(dtype)
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    row, column = (axis[-1] for axis in _positions((12, 20)))
    for bit in range(8 * weight.element_size()):
        changed = weight.clone()
        changed.view(integers)[row, column] ^= torch.tensor(1).bitwise_left_shift(torch.tensor(bit)).to(integers)
        assert compare(fingerprint(weight), fingerprint(changed)) == ("unknown" if dtype == torch.int8 else "other")
    assert compare(fingerprint(weight), fingerprint(weight)) == "same"


def test_zeros_of_another_sign_and_numbers_that_are_none_have_their_own_bits():
    zeros = torch.zeros(4, 4)
    assert compare(fingerprint(zeros), fingerprint(-zeros)) == "other"
    broken = torch.full((4, 4), float("nan"))
    assert compare(fingerprint(broken), fingerprint(broken)) == "same"
    assert compare(fingerprint(broken), fingerprint(broken.half())) == "rounded"


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_cast_is_told_from_another_weight(dtype, scale):
    for seed in range(50):
        weight = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed)) * scale
        cast = weight.to(dtype)
        assert compare(fingerprint(weight), fingerprint(cast)) == "rounded"
        assert compare(fingerprint(cast), fingerprint(weight)) == "rounded"
        assert compare(fingerprint(cast), fingerprint(cast.float())) == "rounded"
        if scale >= 1e-3:
            other = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed + 50)) * scale
            assert compare(fingerprint(weight), fingerprint(other.to(dtype))) == "other"


def test_what_cant_be_read_is_unknown():
    class Quantized(torch.Tensor):
        pass

    lines = [
        fingerprint(torch.empty(4, 6, device="meta")),
        fingerprint(torch.randn(4, 6).as_subclass(Quantized)),
        fingerprint(torch.zeros(4, 6, dtype=torch.float8_e4m3fn)),
    ]
    assert lines == ["4x6 -"] * 3
    assert compare("4x6 -", "4x6 -") == compare("4x6 -", fingerprint(torch.zeros(4, 6))) == "unknown"
    # A quantizer's bytes are not the weight's numbers, and may differ by device.
    packed, other = (
        fingerprint(torch.zeros(12, 1, dtype=torch.uint8)),
        fingerprint(torch.ones(12, 1, dtype=torch.uint8)),
    )
    assert compare(packed, packed) == "same"
    assert compare(packed, other) == compare(packed, fingerprint(torch.zeros(4, 6))) == "unknown"


@pytest.mark.parametrize("line", ["", "4x6", "4x6 F32 abc", "4x6 F99 " + "A" * 22, "4x6 F32 " + "é" * 22, "4x6 F32"])
def test_a_damaged_line_is_refused(line):
    with pytest.raises(LopsidedError, match=r"fingerprint .* can't be read"):
        check_base([line], {"query": fingerprint(torch.zeros(4, 6))})


def test_layers_in_another_order_are_the_same_base():
    a, b = fingerprint(torch.zeros(4, 6)), fingerprint(torch.ones(4, 6))
    check_base([a, b], {"first": b, "second": a})
    with pytest.raises(LopsidedError, match="2 of 2 layers differ, first among them"):
        check_base([a, b], {"first": b, "second": b[:-1] + "A"})


# -- saving ------------------------------------------------------------------------------------------------------


def test_the_configuration_holds_one_line_for_each_targeted_layer_and_none_for_heads(tmp_path):
    base = tiny.bert()
    layers = [base.get_submodule(f"bert.encoder.layer.{i}.attention.self.query") for i in (0, 1)]
    expected = [fingerprint(layer.weight) for layer in layers]
    saved(tmp_path, base, targets=("query",))
    assert lines(tmp_path) == expected
    base = tiny.bert()
    with torch.no_grad():
        base.classifier.weight.add_(1.0)
        base.bert.encoder.layer[0].attention.self.value.weight.add_(1.0)
    PeftModel.from_pretrained(base, str(tmp_path))


def test_the_base_is_noted_as_it_was_before_links_were_merged_into_it(tmp_path):
    model, optimizer = saved(tmp_path / "start", name="c3la", links=4)
    for link in (1, 2):
        lopsided.advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
        model.save_pretrained(tmp_path / str(link))
        assert lines(tmp_path / str(link)) == lines(tmp_path / "start")
    layer = next(iter(layers_of(model).values()))
    assert fingerprint(layer.base_layer.weight) != lines(tmp_path / "start")[0]
    # An adapter that joins while they are merged, and one that is loaded then.
    model.add_adapter("second", LopsidedConfig(method="cla", r=2, target_modules=["query", "dense"]))
    assert model.peft_config["second"].base == lines(tmp_path / "start")
    model.load_adapter(str(tmp_path / "1"), "third")
    model.load_adapter(str(tmp_path / "1"), "default")
    model.merge_adapter()
    model.save_pretrained(tmp_path / "merged")
    assert lines(tmp_path / "merged") == lines(tmp_path / "start")


def test_one_configuration_for_two_models_notes_each_ones_base(tmp_path):
    config = LopsidedConfig(method="cla", r=2, target_modules=["query"])
    first, second = get_peft_model(tiny.bert(), config), get_peft_model(tiny.bert(seed=1), config)
    first.save_pretrained(tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    PeftModel.from_pretrained(tiny.bert(), str(tmp_path / "first"))
    PeftModel.from_pretrained(tiny.bert(seed=1), str(tmp_path / "second"))


def test_shared_and_transposed_weights(tmp_path):
    for build, targets in ((tiny.llama, ["lm_head", "q_proj"]), (tiny.gpt2, ["c_attn", "c_proj"])):
        model = lopsided.adapt(build(), "c3la", r=2, target_modules=targets, links=2)
        optimizer = tiny.train_a_little(model)
        lopsided.advance_chain(model, optimizer)
        model.eval().save_pretrained(tmp_path / build.__name__, save_embedding_layers=False)
        loaded = PeftModel.from_pretrained(build(), str(tmp_path / build.__name__))
        torch.testing.assert_close(tiny.logits(loaded), tiny.logits(model))
        with pytest.raises(LopsidedError, match="the base model is another one"):
            PeftModel.from_pretrained(build(seed=1), str(tmp_path / build.__name__))


# -- loading -----------------------------------------------------------------------------------------------------


def test_another_base_is_refused_before_anything_changes(tmp_path):
    saved(tmp_path)
    base = tiny.bert(seed=1)
    names, trainable = list(dict(base.named_modules())), [p.requires_grad for p in base.parameters()]
    with pytest.raises(
        LopsidedError, match=r"the base model is another one: 9 of 9 layers differ, .*16x16 F32"
    ) as caught:
        PeftModel.from_pretrained(base, str(tmp_path))
    assert "\n" not in str(caught.value)
    assert "allow_base_mismatch=True" in str(caught.value)
    assert list(dict(base.named_modules())) == names
    assert [p.requires_grad for p in base.parameters()] == trainable
    live, _ = saved(tmp_path / "other", tiny.bert(seed=1))
    before = tiny.logits(live)
    for name in ("default", "second"):
        with pytest.raises(LopsidedError, match="the base model is another one"):
            live.load_adapter(str(tmp_path), name)
    assert list(live.peft_config) == ["default"]
    assert torch.equal(tiny.logits(live), before)


def test_one_other_layer_is_enough(tmp_path):
    saved(tmp_path)
    base = tiny.bert()
    weight = base.bert.encoder.layer[1].attention.self.query.weight
    with torch.no_grad():
        weight[tuple(axis[0] for axis in _positions(tuple(weight.shape)))] *= 1.0001
    with pytest.raises(LopsidedError, match=r"1 of 9 layers differ, .*layer\.1\.attention\.self\.query among them"):
        PeftModel.from_pretrained(base, str(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_hidden_layers": 3}, "saved on 9 layers, here it has 13"),
        ({"hidden_size": 32}, "saved on 16x16 F32, here 32x32 F32"),
        ({"intermediate_size": 40}, "4 of 9 layers differ|9 of 9"),
    ],
)
def test_another_structure_is_refused(options, words, tmp_path):
    saved(tmp_path)
    with pytest.raises(LopsidedError, match=words):
        PeftModel.from_pretrained(other_bert(**options), str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_same_base_in_another_dtype_is_the_same_base(dtype, tmp_path):
    saved(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.bert().to(dtype), str(tmp_path))
    with pytest.raises(LopsidedError, match="the base model is another one"):
        PeftModel.from_pretrained(tiny.bert(seed=1).to(dtype), str(tmp_path))
    # What is saved from there names the base that it stood on, which the first one fits again.
    loaded.save_pretrained(tmp_path / "again")
    assert lines(tmp_path / "again") != lines(tmp_path)
    PeftModel.from_pretrained(tiny.bert(), str(tmp_path / "again"))


def test_a_base_that_is_not_in_memory_can_be_noted_later_and_is_said_to_be_uncompared(tmp_path):
    trained, _ = saved(tmp_path / "plain", targets=("query",))
    with torch.device("meta"):
        base = other_bert()
    model = lopsided.adapt(base, "cla", r=2, target_modules=["query"])
    assert model.peft_config["default"].base == ["16x16 -"] * 2
    real = tiny.bert()
    model.to_empty(device="cpu")
    for layer, name in zip(layers_of(model).values(), (0, 1)):
        layer.base_layer.weight.data.copy_(real.bert.encoder.layer[name].attention.self.query.weight)
    for layer in layers_of(model).values():
        layer.lopsided_B["default"].weight.data.zero_()
    model.base_model.model.classifier.modules_to_save["default"].load_state_dict(real.classifier.state_dict())
    model.save_pretrained(tmp_path / "later")
    assert lines(tmp_path / "later") == lines(tmp_path / "plain")
    with torch.device("meta"):
        base = other_bert()
    with pytest.warns(LopsidedWarning, match=r"2 of 2 base weights, .*not in memory.*can't be seen"):
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "plain"), low_cpu_mem_usage=True)
    factors = [layer.trained("default")["B"] for layer in layers_of(loaded).values()]
    expected = [layer.trained("default")["B"] for layer in layers_of(trained).values()]
    assert all(torch.equal(a, b) for a, b in zip(factors, expected))
    with torch.device("meta"):
        base = other_bert()
    with (
        pytest.warns(LopsidedWarning, match="not in memory"),
        pytest.raises(LopsidedError, match="is on the meta device, where a load would be lost"),
    ):
        PeftModel.from_pretrained(base, str(tmp_path / "plain"))


# -- the override ------------------------------------------------------------------------------------------------


def test_the_caller_may_allow_another_base(tmp_path):
    saved(tmp_path)
    by_argument = PeftModel.from_pretrained(tiny.bert(seed=1), str(tmp_path), allow_base_mismatch=True)
    config = LopsidedConfig.from_pretrained(str(tmp_path), allow_base_mismatch=True)
    by_config = PeftModel.from_pretrained(tiny.bert(seed=1), str(tmp_path), config=config)
    assert torch.equal(tiny.logits(by_argument), tiny.logits(by_config))
    live, _ = saved(tmp_path / "live", tiny.bert(seed=1))
    live.load_adapter(str(tmp_path), "default", allow_base_mismatch=True)
    live.load_adapter(str(tmp_path), "second", allow_base_mismatch=True)
    assert torch.equal(tiny.logits(live), tiny.logits(by_argument))
    # It is not a state that stays: the next load is compared again.
    with pytest.raises(LopsidedError, match="the base model is another one"):
        live.load_adapter(str(tmp_path), "default")
    # Saved from there, it belongs to the base that was allowed, and says nothing of the permission.
    by_argument.save_pretrained(tmp_path / "moved")
    PeftModel.from_pretrained(tiny.bert(seed=1), str(tmp_path / "moved"))
    assert "allow_base_mismatch" not in (tmp_path / "moved" / CONFIG).read_text()


@pytest.mark.parametrize("reader", [LopsidedConfig, PeftConfig])
def test_a_file_may_not_allow_it(reader, tmp_path):
    saved(tmp_path)
    fields = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**fields, "allow_base_mismatch": True}))
    with pytest.raises(LopsidedError, match="allow_base_mismatch, which only the caller may"):
        reader.from_pretrained(str(tmp_path))
    with pytest.raises(LopsidedError, match="only the caller may"):
        PeftModel.from_pretrained(tiny.bert(seed=1), str(tmp_path))


def test_a_quantizers_bytes_are_noted_once(tmp_path):
    """A quantizer may arrange its bytes anew at the first forward; the next load finds them as they were at first."""

    def packed(seed=0):
        net = nn.Sequential(nn.Linear(8, 4, bias=False))
        integers = torch.randint(-100, 100, (4, 8), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))
        net[0].weight = nn.Parameter(integers, requires_grad=False)
        return net

    model = lopsided.adapt(packed(), "cla", r=2, target_modules=["0"])
    noted = model.peft_config["default"].base
    assert [line.split(" ")[:2] for line in noted] == [["4x8", "I8"]]
    weight = next(iter(layers_of(model).values())).base_layer.weight
    weight.data.copy_(weight.flip(0))
    model.save_pretrained(tmp_path)
    assert lines(tmp_path) == noted
    PeftModel.from_pretrained(packed(), str(tmp_path))
    with pytest.warns(LopsidedWarning, match="1 of 1 base weights, 0 among them, are quantized"):
        PeftModel.from_pretrained(packed(seed=1), str(tmp_path))


def test_an_adapter_that_is_saved_over_a_cast_base_notes_the_cast_base(tmp_path):
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"]).eval()
    # While it is merged the original can't be looked at, and a cast makes another one of it.
    model.merge_adapter()
    model.to(torch.bfloat16).float()
    model.save_pretrained(tmp_path)
    model.unmerge_adapter()
    model.load_adapter(str(tmp_path), "default")
    with pytest.raises(LopsidedError, match="the base model is another one"):
        PeftModel.from_pretrained(tiny.bert(), str(tmp_path))


@pytest.mark.parametrize("odd", [float("inf"), float("-inf"), float("nan")])
def test_a_cast_keeps_what_has_no_difference(odd):
    W = torch.randn(4, 6)
    W.view(-1)[torch.arange(0, 24, 2)] = odd
    assert compare(fingerprint(W), fingerprint(W.bfloat16())) == "rounded"
    assert compare(fingerprint(W), fingerprint(torch.full((4, 6), 3.0).bfloat16())) == "other"
