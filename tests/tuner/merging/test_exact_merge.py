"""`exact_merge`: round(W0 + ΔW) inside, rounded once, and the original bits afterwards, whatever happens inside.

The oracle is stock PEFT's own merge of the same model in float64.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, TrainableTokensConfig, get_peft_model, inject_adapter_in_model
from torch import nn

import lopsided
from lopsided import LopsidedConfig, LopsidedError, advance_chain
from lopsided.tuner import layers_of
from lopsided.tuner.merging.merged_weight import MergedWeight
from lopsided.tuner.weight.delta import Region
from tests import tiny
from tests.tuner.merging import stock

pytestmark = pytest.mark.filterwarnings("error:.*erged")
FIRST = torch.randint(0, 9, (4,), generator=torch.Generator().manual_seed(0))


def inputs(layer: str, dtype: torch.dtype) -> torch.Tensor:
    shapes = {"conv1d": (2, 4, 5), "conv3d": (2, 2, 3, 3, 3), "large linear": (3, 300)}
    if layer == "embedding":
        return FIRST
    shape = (2, 4, 5, 5) if layer.startswith("conv2d") else shapes.get(layer, (3, 6))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def in_float64(model, names=None) -> dict[str, torch.Tensor]:
    """What stock PEFT's merge makes of the weights where nothing is rounded that matters."""
    twin = copy.deepcopy(model).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin.merge_adapter(names)
    return stock.base_weights(twin)


def assert_rounded_once(merged: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    for name, weight in merged.items():
        # Half a unit in the last place, and what ΔW's own 24 (or 47) bits leave open.
        eps = torch.finfo(weight.dtype).eps
        slack = 1e-13 if weight.dtype == torch.float64 else 2e-7
        allowed = 0.5 * eps * exact[name].abs() * (1 + 1e-3) + slack * exact[name].abs().max()
        assert ((weight.double() - exact[name]).abs() <= allowed).all(), name


@pytest.mark.parametrize(("layer", "option", "dtype"), stock.cases())
def test_merged_is_rounded_once_and_every_bit_comes_back(layer, option, dtype):
    model = stock.lora(layer, option, dtype)
    before, expected = stock.base_weights(model), in_float64(model)
    x = inputs(layer, dtype)
    unmerged = model(x)
    with lopsided.exact_merge(model) as inside:
        assert inside is model
        merged = stock.base_weights(model)
        assert all(module.merged for module in model.modules() if hasattr(module, "lora_A"))
        tolerance = {"rtol": 0.1, "atol": 0.05} if dtype in (torch.bfloat16, torch.float16) else {}
        torch.testing.assert_close(model(x), unmerged, **tolerance)
    assert_rounded_once(merged, expected)
    assert any("layer" in name for name in stock.changed(merged, before))
    assert stock.same_bits(stock.base_weights(model), before)
    assert torch.equal(model(x), unmerged)
    assert not any(module.merged for module in model.modules() if hasattr(module, "lora_A"))


def test_the_oracle_tells_stock_peft_s_roundings_from_one():
    model = two(second="plain")
    expected = in_float64(model, ["default", "second"])
    model.merge_adapter(["default", "second"])
    with pytest.raises(AssertionError, match="layer"):
        assert_rounded_once(stock.base_weights(model), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_factors_may_be_narrow_too(dtype):
    torch.manual_seed(0)
    net = stock.Net(nn.Linear(6, 5)).to(dtype)
    model = stock.stirred(get_peft_model(net, stock.config("linear"), autocast_adapter_dtype=False))
    assert {p.dtype for p in model.parameters()} == {dtype}
    before, expected = stock.base_weights(model), in_float64(model)
    with lopsided.exact_merge(model):
        assert_rounded_once(stock.base_weights(model), expected)
    assert stock.same_bits(stock.base_weights(model), before)


# -- several adapters, several layers, one weight -----------------------------------------------------------------


def two(dtype=torch.bfloat16, second="dora"):
    model = stock.lora("linear", "plain", dtype)
    model.add_adapter("second", stock.config("linear", second, r=3))
    return stock.stirred(model, 1)


@pytest.mark.parametrize("second", ["plain", "dora", "bias"])
@pytest.mark.parametrize("names", [["default"], ["second"], ["default", "second"], ["second", "default"]], ids="+".join)
def test_several_adapters_are_rounded_once(names, second):
    model = two(second=second)
    before, expected = stock.base_weights(model), in_float64(model, names)
    with lopsided.exact_merge(model, names):
        assert model.base_model.model.layer.merged_adapters == names
        assert_rounded_once(stock.base_weights(model), expected)
    assert stock.same_bits(stock.base_weights(model), before)


def test_nested_contexts_come_back_to_what_was_there():
    model = two()
    layer, before = model.base_model.model.layer, stock.base_weights(model)
    with lopsided.exact_merge(model, ["default"]):
        outer = stock.base_weights(model)
        for names in (["second"], ["default"], ["default", "second"], []):
            with lopsided.exact_merge(model, names):
                assert layer.merged_adapters == list(dict.fromkeys(["default", *names]))
            assert layer.merged_adapters == ["default"]
            assert stock.same_bits(stock.base_weights(model), outer)
    assert stock.same_bits(stock.base_weights(model), before)
    assert type(layer).__name__ == "Linear"


@pytest.mark.parametrize("dtype", stock.DTYPES, ids=str)
@pytest.mark.parametrize("targets", [("embed", "head"), ("embed", "between"), ("head",)], ids="+".join)
def test_a_tied_weight_holds_what_all_its_layers_add(targets, dtype):
    model = stock.tied(dtype, targets)
    before, expected = stock.base_weights(model), in_float64(model)
    for _ in range(2):
        with lopsided.exact_merge(model):
            net = model.base_model.model
            assert net.get_submodule("embed").weight is net.get_submodule("head").weight
            assert_rounded_once(stock.base_weights(model), expected)
        assert stock.same_bits(stock.base_weights(model), before)


def test_a_module_that_layers_were_injected_into():
    torch.manual_seed(0)
    config = LoraConfig(r=2, init_lora_weights=False, target_modules=["0", "2"])
    net = inject_adapter_in_model(config, nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).bfloat16())
    before = stock.base_weights(net)
    with lopsided.exact_merge(net):
        assert set(stock.changed(stock.base_weights(net), before)) == {"0.weight", "2.weight"}
    assert stock.same_bits(stock.base_weights(net), before)


def test_tokens_that_are_trained_next_to_lora_are_merged_as_well():
    model = tiny.gpt2().bfloat16()
    options = {"r": 2, "init_lora_weights": False, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    model = stock.stirred(get_peft_model(model, LoraConfig(trainable_token_indices=[1, 5], **options)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(1.0)
    before = stock.base_weights(model)
    with lopsided.exact_merge(model):
        changed = stock.changed(stock.base_weights(model), before)
        assert {"transformer.wte.token_adapter.weight", "transformer.h.0.attn.c_attn.weight"} <= changed.keys()
    assert stock.same_bits(stock.base_weights(model), before)


@pytest.mark.parametrize("name", ["lora", "rac_b", "c3la", "asym_a"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lopsided_adapters(name, dtype):
    links = {"links": 3} if name in tiny.CHAINS else {}
    net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    model = lopsided.adapt(net, name, r=2, target_modules=["0", "2"], **links)
    model.add_adapter("second", LopsidedConfig(method=name, r=2, target_modules=["2"], **links))
    generator = torch.Generator().manual_seed(0)
    for adapter in ("second", "default"):
        model.set_adapter(adapter)
        for _ in range(2 if links else 1):
            with torch.no_grad():
                for layer in layers_of(model, adapter).values():
                    for factor in layer.trained(adapter).values():
                        factor.add_(torch.randn(factor.shape, generator=generator), alpha=0.3)
            if links:
                advance_chain(model)
    before = stock.base_weights(model)
    with lopsided.exact_merge(model, ["default"]):
        outer = stock.base_weights(model)
        with lopsided.exact_merge(model, ["default", "second"]):
            assert "2.weight" in stock.changed(stock.base_weights(model), before)
        assert stock.same_bits(stock.base_weights(model), outer)
    assert stock.same_bits(stock.base_weights(model), before)
    lopsided.make_merges_exact(model)
    assert type(model.base_model.model[0]) is lopsided.tuner.LopsidedLinear


# -- whatever happens inside ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_inside(error):
    model = stock.three_layers()
    before = stock.base_weights(model)

    def fails_inside() -> None:
        with lopsided.exact_merge(model):
            assert stock.changed(stock.base_weights(model), before)
            raise error

    with pytest.raises(error):
        fails_inside()
    assert stock.same_bits(stock.base_weights(model), before)
    assert {type(layer).__module__ for layer in model.base_model.model if hasattr(layer, "lora_A")} == {
        "peft.tuners.lora.layer"
    }


class Interrupt:
    """Raises KeyboardInterrupt at one call of `Region.write`, before or after it writes."""

    def __init__(self, at: int, *, before: bool) -> None:
        self.at, self.before, self.calls = at, before, 0
        self.write = Region.write

    def __call__(self, region, *args):
        self.calls += 1
        if self.calls == self.at and self.before:
            raise KeyboardInterrupt
        self.write(region, *args)
        if self.calls == self.at:
            raise KeyboardInterrupt


def interrupted(monkeypatch, at: int, before: bool) -> Interrupt:
    interrupt = Interrupt(at, before=before)
    monkeypatch.setattr(Region, "write", lambda region, *args: interrupt(region, *args))
    return interrupt


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_ctrl_c_at_any_write(monkeypatch, before):
    """While it is merged, and while it is unmerged: an interrupt per tile that is written, in each direction."""
    model = stock.three_layers(lora_bias=True)
    original = stock.base_weights(model)
    at, interrupts = 0, 0
    while interrupts == at:
        at += 1
        with monkeypatch.context() as patch:
            interrupt = interrupted(patch, at, before)
            try:
                with lopsided.exact_merge(model):
                    pass
            except KeyboardInterrupt:
                interrupts += 1
        assert stock.same_bits(stock.base_weights(model), original), at
        assert not any(layer.merged for layer in model.base_model.model if hasattr(layer, "lora_A"))
    # Seven weights and biases, one of two tiles, there and back.
    assert interrupts == interrupt.calls == 14


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_ctrl_c_in_merge_adapter_and_unmerge_adapter(monkeypatch, before):
    model = stock.three_layers()
    lopsided.make_merges_exact(model)
    original = stock.base_weights(model)
    layers = [layer for layer in model.base_model.model if hasattr(layer, "lora_A")]
    for call in ("merge_adapter", "unmerge_adapter"):
        for at in range(1, 5):
            if call == "unmerge_adapter":
                model.merge_adapter()
            with monkeypatch.context() as patch:
                interrupted(patch, at, before)
                with pytest.raises(KeyboardInterrupt):
                    getattr(model, call)()
            assert stock.same_bits(stock.base_weights(model), original), (call, at)
            assert [layer.merged_adapters for layer in layers] == [[], [], []]


def test_a_weight_that_somebody_changed_is_named_and_all_others_come_back():
    model = stock.three_layers()
    before = stock.base_weights(model)
    merged = {}

    def changes_a_weight() -> None:
        with lopsided.exact_merge(model), torch.no_grad():
            merged.update(stock.base_weights(model))
            model.base_model.model[2].weight[3, 4] += 1

    with pytest.raises(LopsidedError, match=r"^2\.weight: the base weight was changed while"):
        changes_a_weight()
    assert stock.changed(stock.base_weights(model), before).keys() == {"2.weight"}
    # The way back is not lost: with the number as the merge left it, the original can be given back.
    with torch.no_grad():
        model.base_model.model[2].weight.copy_(merged["2.weight"])
    assert [model.base_model.model[i].merged_adapters for i in (0, 2, 4)] == [[], ["default"], []]
    model.base_model.model[2].unmerge()
    assert stock.same_bits(stock.base_weights(model), before)


def test_what_a_context_may_contain():
    """Training, PEFT's own calls, a disabled adapter: the end of the context is the same."""
    model = stock.three_layers()
    before, x = stock.base_weights(model), torch.randn(2, 400).bfloat16()
    plain = model(x)
    with lopsided.exact_merge(model):
        stock.stirred(model, 3)
    assert stock.same_bits(stock.base_weights(model), before)
    assert not torch.equal(model(x), plain)
    with lopsided.exact_merge(model), model.disable_adapter():
        # PEFT unmerges in the forward pass.
        assert torch.equal(model(x), model.base_model.model(x))
        assert stock.same_bits(stock.base_weights(model), before)
    with lopsided.exact_merge(model):
        model.unmerge_adapter()
        stock.stirred(model, 4)
        model.merge_adapter()
    assert stock.same_bits(stock.base_weights(model), before)
    with lopsided.exact_merge(model):
        lopsided.make_merges_exact(model)
    assert stock.same_bits(stock.base_weights(model), before)
    assert type(model.base_model.model[0]).__name__ == "ExactLinear"


def test_moving_and_casting_while_merged_act_on_the_original():
    model = stock.three_layers(torch.float32)
    lopsided.make_merges_exact(model)
    expected = {name: weight.bfloat16() for name, weight in stock.base_weights(model).items()}
    model.merge_adapter()
    model.to(torch.bfloat16)
    assert stock.changed(stock.base_weights(model), expected)
    model.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(model), expected)


def test_the_way_back_takes_a_tenth_of_a_byte_per_weight_while_it_is_merged():
    model = stock.three_layers(r=1)
    layer = model.base_model.model[0]
    share = layer.get_delta_weight("default").norm() / layer.weight.float().norm()
    with torch.no_grad():
        layer.lora_B["default"].weight.mul_(0.03 / share)
    lopsided.make_merges_exact(model)
    weight: MergedWeight = layer.exact_state.weights["weight"]
    assert weight.nbytes == 0
    model.merge_adapter()
    # The factors, and what docs/performance.md says of an update of 3 % of the weights' norm.
    copied = 4 * (400 + 300)
    assert copied < weight.nbytes < copied + 0.12 * 400 * 300
    model.unmerge_adapter()
    assert weight.nbytes == 0


# -- cycles --------------------------------------------------------------------------------------------------------


def cycles(model, count: int, merge, unmerge) -> None:
    for cycle in range(count):
        merge()
        unmerge()
        stock.stirred(model, cycle)


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.more)])
def test_no_cycle_changes_a_bit_of_a_bfloat16_model(count):
    """The factors move between the cycles, as in training. Stock PEFT's merges are the measure of what is at stake."""
    torch.manual_seed(0)
    options = {"r": 4, "init_lora_weights": False, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    start = get_peft_model(tiny.llama().bfloat16(), LoraConfig(**options))
    before = stock.base_weights(start)
    theirs, ours = copy.deepcopy(start), copy.deepcopy(start)
    cycles(theirs, count, theirs.merge_adapter, theirs.unmerge_adapter)
    lost = stock.changed(stock.base_weights(theirs), before)
    assert len(lost) == 6
    assert all(number > 0.2 * before[name].numel() for name, number in lost.items())
    lopsided.make_merges_exact(ours)
    cycles(ours, count, ours.merge_adapter, ours.unmerge_adapter)
    assert stock.same_bits(stock.base_weights(ours), before)


# -- what is refused -----------------------------------------------------------------------------------------------


def attention():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.MultiheadAttention(8, 2)

    return get_peft_model(Attention(), LoraConfig(r=2, target_modules=["layer"]))


def grouped():
    with pytest.warns(UserWarning, match="groups"):
        return get_peft_model(stock.Net(nn.Conv2d(4, 6, 3, groups=2)), stock.config("conv2d"))


def quantized():
    model = stock.lora("linear")
    model.base_model.model.layer.quantization_backend = object()
    return model


def computed():
    model = stock.lora("linear")
    nn.utils.parametrizations.weight_norm(model.base_model.model.layer.base_layer)
    return model


def subclassed():
    model = stock.lora("linear")
    layer = model.base_model.model.layer
    layer.__class__ = type("Mine", (type(layer),), {})
    return model


def merged():
    model = stock.lora("linear")
    model.merge_adapter()
    return model


def rows():
    net = stock.Net(nn.Embedding(9, 6))
    model = get_peft_model(net, TrainableTokensConfig(target_modules=["layer"], token_indices=[1]))
    return model


def float8():
    model = stock.lora("linear")
    layer = model.base_model.model.layer.base_layer
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    return model


REFUSED = {
    "MultiheadAttention": (
        attention,
        r"layer \(.*MultiheadAttention\) can't be merged exactly.*its own forward merges",
    ),
    "grouped": (grouped, r"layer \(.*Conv2d\).*a grouped convolution"),
    "quantized": (quantized, "its base weight is quantized"),
    "computed": (computed, "its weight is computed, by a parametrization"),
    "float8": (float8, "its weight is of torch.float8_e4m3fn; expected float16"),
    "a user's own class": (subclassed, "it is no layer of LoRA whose merge is known"),
    "merged by PEFT": (merged, r"adapters \['default'\] are merged by PEFT's own merge"),
    "aLoRA": (
        lambda: stock.lora("linear", alora_invocation_tokens=[1]),
        "adapter 'default' of .*layer.*ALoraLinearVariant: aLoRA acts on some tokens only",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_before_anything_is_changed(case):
    make, words = REFUSED[case]
    model = make()
    classes = [type(module) for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def enter() -> None:
        with lopsided.exact_merge(model):
            raise AssertionError("refused before the context is entered")

    for call in (enter, lambda: lopsided.make_merges_exact(model)):
        with pytest.raises(LopsidedError, match=words) as error:
            call()
        assert "\n" not in str(error.value)
        assert [type(module) for module in model.modules()] == classes
        assert all(torch.equal(tensor.float(), state[n].float()) for n, tensor in model.state_dict().items())


def test_other_methods_and_bad_names_are_refused():
    from peft import AdaLoraConfig, IA3Config

    for config in (
        IA3Config(target_modules=["layer"], feedforward_modules=[]),
        AdaLoraConfig(target_modules=["layer"], total_step=10),
    ):
        with (
            pytest.raises(LopsidedError, match="can't be merged exactly"),
            lopsided.exact_merge(get_peft_model(stock.Net(nn.Linear(6, 5)), config)),
        ):
            pass
    with pytest.raises(LopsidedError, match="Net holds no adapters"):
        lopsided.make_merges_exact(stock.Net(nn.Linear(6, 5)))
    model = stock.lora("linear")
    for names, words in ((["defualt"], "did you mean 'default'"), ("default", r"pass \['default'\]")):
        with pytest.raises(LopsidedError, match=words), lopsided.exact_merge(model, names):
            pass


def test_a_weight_in_pieces_is_refused_and_nothing_is_merged():
    model = stock.three_layers()
    lopsided.make_merges_exact(model)
    before = stock.base_weights(model)
    base = model.base_model.model[4].base_layer
    whole, base.weight.data = base.weight.data, torch.empty(0, dtype=torch.bfloat16)
    with pytest.raises(LopsidedError, match=r"shape \(0,\) does not fit the factors of adapter 'default'.*gather it"):
        model.merge_adapter()
    base.weight.data = whole
    assert stock.same_bits(stock.base_weights(model), before)


def test_tokens_in_a_weight_that_lora_adapts_are_refused():
    options = {"r": 2, "target_modules": ["head"], "trainable_token_indices": {"embed": [1]}}
    model = get_peft_model(stock.Tied(), LoraConfig(**options))
    with pytest.raises(LopsidedError, match="rows that trainable tokens replace"):
        lopsided.make_merges_exact(model)
