"""Convolutions with adapters against the layer with W0 + ΔW in its weight."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from peft import PeftModel
from torch import nn

import lopsided
from lopsided import LopsidedError, LopsidedWarning, advance_chain
from lopsided.tuner import layers_of
from tests import tiny

LAYERS = {
    "1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "1d stride, padding": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2), (2, 4, 9)),
    "1d circular": (lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9)),
    "1d depthwise": (lambda: nn.Conv1d(6, 6, 4, padding=3, groups=6, bias=False), (2, 6, 9)),
    "2d": (lambda: nn.Conv2d(3, 5, (3, 2)), (2, 3, 8, 7)),
    "2d dilation, same": (lambda: nn.Conv2d(3, 5, 3, dilation=2, padding="same"), (2, 3, 8, 7)),
    "2d reflect": (lambda: nn.Conv2d(3, 5, 3, padding=(1, 2), padding_mode="reflect"), (2, 3, 8, 7)),
    "2d groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=(2, 1), padding=1), (2, 4, 8, 7)),
    "2d patches": (lambda: nn.Conv2d(3, 8, 4, stride=4), (2, 3, 8, 8)),
    "2d alone": (lambda: nn.Conv2d(3, 5, 3, groups=1), (3, 8, 7)),
    "3d": (lambda: nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1)), (2, 2, 3, 4, 5)),
    "3d groups": (lambda: nn.Conv3d(4, 4, 2, groups=2), (2, 4, 3, 4, 5)),
}
# Stock PEFT's own convolution knows neither dilation nor other paddings.
AS_LORA = [name for name in LAYERS if not any(word in name for word in ("circular", "dilation", "reflect"))]


class Around(nn.Module):
    """A convolution under a name."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x):
        """Convolve."""
        return self.conv(x)


def made(name: str, method: str = "cla", *, dtype: torch.dtype = torch.float32, **options):
    build, shape = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base, x = Around(build()).to(dtype), torch.randn(shape)
    r = min(2, base.conv.weight[0].numel(), len(base.conv.weight))
    model = lopsided.adapt(copy.deepcopy(base), method, r=r, target_modules=["conv"], **options)
    return model, base, x


def learned(model, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers_of(model).values():
            for factor in layer.trained("default").values():
                factor.copy_(torch.randn(factor.shape, generator=generator))


def oracle(model, base: nn.Module) -> nn.Module:
    [layer] = layers_of(model).values()
    twin = copy.deepcopy(base)
    with torch.no_grad():
        twin.conv.weight += layer.get_delta_weight("default")
    return twin


@pytest.mark.parametrize("method", tiny.ADAPTERS)
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_convolution_with_the_sum(name, method):
    model, base, x = made(name, method)
    learned(model)
    expected = oracle(model, base)(x)
    assert not torch.allclose(expected, base(x), atol=1e-2)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    model.merge_adapter()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    assert torch.equal(layers_of(model)["base_model.model.conv"].base_layer.weight, base.conv.weight)


@pytest.mark.parametrize("method", ["cla", "rcla", "asym_a", "lora"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_sum(name, method):
    model, base, x = made(name, method)
    learned(model)
    x.requires_grad_(True)
    [layer] = layers_of(model).values()
    trained = layer.trained("default")
    found = torch.autograd.grad(model(x).square().sum(), [x, *trained.values()])
    twin = oracle(model, base)
    twin.conv.weight.requires_grad_(True)
    grad_x, grad_W = torch.autograd.grad(twin(x).square().sum(), [x, twin.conv.weight])
    torch.testing.assert_close(found[0], grad_x, rtol=1e-3, atol=1e-3)
    # ∂W by the chain rule of W0 + s·B·A.
    [term], scaling, grad_W = layer.terms("default", torch.device("cpu")), layer.scaling["default"], grad_W.flatten(1)
    A, B = (factor.detach() for factor in term.dense())
    expected = {"A": scaling * B.T @ grad_W, "B": scaling * grad_W @ A.T}
    for gradient, letter in zip(found[1:], trained, strict=True):
        torch.testing.assert_close(gradient, expected[letter], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", AS_LORA)
@pytest.mark.parametrize("method", ["c3la", "rac_a", "lora"])
def test_its_export_is_the_same_function_in_stock_peft(name, method, tmp_path):
    model, base, x = made(name, method, **({"links": 3} if method in tiny.CHAINS else {}))
    learned(model)
    if method in tiny.CHAINS:
        optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
        advance_chain(model, optimizer)
        learned(model, seed=2)
    lopsided.to_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    assert type(loaded.base_model.model.conv).__module__ == "peft.tuners.lora.layer"
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(LAYERS.keys() - set(AS_LORA)))
def test_what_stock_peft_would_compute_otherwise_is_not_exported(name, tmp_path):
    model, _, _ = made(name)
    with pytest.raises(LopsidedError, match="can't be a LoRA adapter: stock PEFT leaves out its"):
        lopsided.to_lora(model, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["cla", "c3la", "lora"])
def test_next_to_16_bit_weights(dtype, method):
    model, _, x = made("2d groups", method)
    learned(model)
    expected = model(x)
    narrow, _, _ = made("2d groups", method, dtype=dtype)
    learned(narrow)
    assert all(p.dtype == torch.float32 for p in narrow.parameters() if p.requires_grad)
    out = narrow(x.to(dtype))
    assert out.dtype == dtype
    assert (out.float() - expected).norm() <= 3e-2 * expected.norm()


@pytest.mark.parametrize("method", ["cla", "lora"])
def test_under_autocast(method):
    model, _, x = made("2d", method)
    learned(model)
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() <= 3e-2 * expected.norm()


def test_a_model_in_channels_last_keeps_its_links_next_to_the_weight():
    model, base, x = made("2d", "c3la", links=3)
    learned(model)
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    advance_chain(model, optimizer)
    learned(model, seed=2)
    expected = model(x)
    [layer] = layers_of(model).values()
    assert layer.base_weight.written
    model.to(memory_format=torch.channels_last)
    assert not layer.base_weight.written
    assert torch.equal(layer.base_layer.weight, base.conv.weight)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(LopsidedError, match="can't be written to"):
        model.merge_adapter()


def test_rows_of_a_batch_with_adapters_of_their_own():
    model, base, x = made("2d")
    model.add_adapter("other", peft_config=lopsided.LopsidedConfig(method="lora", r=2, target_modules=["conv"]))
    learned(model)
    mixed = model.base_model.model.conv(x, adapter_names=["default", "__base__"])
    torch.testing.assert_close(mixed[0], model(x)[0])
    torch.testing.assert_close(mixed[1], base(x)[1])


@pytest.mark.parametrize("method", ["cla", "rc3la", "bernoulli"])
def test_it_comes_back_from_a_file_with_its_chain(method, tmp_path):
    model, base, x = made("2d groups", method, **({"links": 3} if method in tiny.CHAINS else {}))
    learned(model)
    if method in tiny.CHAINS:
        advance_chain(model, torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2)))
        learned(model, seed=2)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    assert torch.equal(loaded(x), model(x))


def test_the_way_is_shown():
    for method, way in (("cla", "gather"), ("asym_b", "dense")):
        assert f"r=2, trains B, {way}" in repr(made("2d", method)[0])


class Padded(nn.Conv2d):
    """A convolution that pads by its input, as some models have it."""

    def forward(self, x):
        """Pad and convolve."""
        return super().forward(nn.functional.pad(x, (0, x.shape[-1] % 2)))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            Padded(3, 4, 2),
            "is a Padded with a forward of its own, which may compute something else than torch.nn.Conv1d",
        ),
        (nn.ConvTranspose2d(3, 4, 2), "is a ConvTranspose2d, which can't be adapted"),
        (nn.LazyConv2d(4, 2), "is a LazyConv2d that has no shape yet"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 2)), "has a parametrized weight"),
    ],
)
def test_other_convolutions_are_refused_by_name(layer, words):
    with pytest.raises(LopsidedError, match=f"conv {words}") as error:
        lopsided.adapt(Around(layer), "cla", r=2, target_modules=["conv"])
    assert "\n" not in str(error.value)


def test_all_linear_leaves_convolutions_alone():
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Flatten(), nn.Linear(12, 3))
    assert list(layers_of(lopsided.adapt(model, "cla", r=2, target_modules="all-linear"))) == ["base_model.model.2"]


def test_a_convolution_s_matrix_is_not_called_changed_by_a_stock_config():
    # What PEFT says of the same targets: both adapt the same layers.
    build, _ = LAYERS["2d"]
    stock = peft.get_peft_model(Around(build()), peft.LoraConfig(r=2, target_modules=["conv"]))
    ours = lopsided.adapt(Around(build()), "lora", r=2, target_modules=["conv"])
    assert stock.get_nb_trainable_parameters()[0] == ours.get_nb_trainable_parameters()[0]


def test_hooks_around_a_convolution_forbid_a_merge():
    model, _, _ = made("2d")
    [layer] = layers_of(model).values()
    layer.base_layer.register_forward_hook(lambda module, args, out: out * 2)
    with pytest.raises(LopsidedError, match="can't be written to, got a merge: it has forward hooks"):
        model.merge_adapter()


def test_an_export_warns_of_nothing_where_it_is_right(tmp_path, recwarn):
    lopsided.to_lora(made("2d")[0], tmp_path)
    assert not [w for w in recwarn if issubclass(w.category, LopsidedWarning)]
