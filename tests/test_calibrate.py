"""Calibration: sketches from the inputs of layers, by the model's own forward passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import lopsided
from lopsided import METHODS, Chain, LargestColumns, LopsidedConfig, LopsidedError, Method, Principal
from lopsided.calibrate import Calibration, needs_calibration
from lopsided.testing.network import fits, network
from lopsided.tuner import layers_of
from lopsided.tuner.input_sums import Counted
from lopsided.tuner.kinds import kind_of
from tests import tiny

pytestmark = pytest.mark.uncalibrated

READING = [name for name, method in METHODS.items() if method.reads_inputs]
EVA = Method(name="eva", train="AB", sketch=Principal(), source="this test")
BUILDS: dict[str, Callable[[], nn.Module]] = {
    "mlp": tiny.mlp,
    "bert": tiny.bert,
    "gpt2": tiny.gpt2,
    "llama": tiny.llama,
    "vit": tiny.vit,
    "bart": tiny.bart,
}
TARGETS = {
    "mlp": ["up", "down"],
    "bert": ["query", "key", "value", "intermediate.dense"],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "vit": ["q_proj", "fc1"],
    "bart": ["q_proj", "k_proj", "fc2"],
}


def batches(arch: str, count: int = 3, *, seed: int = 0) -> list[dict[str, Tensor]]:
    """Batches of the architecture's own inputs; texts are padded on the right, by up to three tokens."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        if arch == "mlp":
            made.append({"features": torch.randn(6, 10, generator=generator)})
        elif arch == "vit":
            made.append({"pixel_values": torch.randn(4, 3, 8, 8, generator=generator)})
        else:
            tokens = torch.randint(1, 40, (4, 7), generator=generator)
            mask = torch.arange(7)[None] < torch.randint(4, 8, (4, 1), generator=generator)
            made.append({"input_ids": tokens * mask, "attention_mask": mask.long()})
        if arch == "bart":
            # As long as the encoder's, so that no mask can be told by its shape.
            labels = torch.randint(1, 40, (4, 7), generator=generator)
            ends = torch.randint(3, 8, (4, 1), generator=generator)
            made[-1]["labels"] = labels.masked_fill(torch.arange(7)[None] >= ends, -100)
    return made


def inputs_of_layers(model: nn.Module, rows: Sequence[dict[str, Tensor]], *, arch: str) -> dict[str, np.ndarray]:
    """The slow oracle: every input of every linear layer of the plain model, without padding, in float64."""
    found: dict[str, list[Tensor]] = {}
    masks: dict[str, Tensor] = {}

    def listen(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().double()
            mask = masks["attention"] if arch != "bart" or "encoder." in name or "encoder_attn.k" in name else None
            if arch == "bart" and mask is None:
                mask = masks["labels"]
            keeps = mask is not None and mask.shape == x.shape[:-1]
            found.setdefault(name, []).append(x[mask] if keeps else x.flatten(0, -2))

        return hook

    handles = [m.register_forward_pre_hook(listen(n)) for n, m in model.named_modules() if not list(m.children())]
    for batch in rows:
        masks["attention"] = batch.get("attention_mask", torch.zeros(0)).bool()
        masks["labels"] = batch.get("labels", torch.zeros(0)).ne(-100)
        with torch.no_grad():
            model(**batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts).numpy() for name, parts in found.items() if parts[0].is_floating_point()}


def adapted(arch: str, method: str | Method, *, dtype: torch.dtype = torch.float32, **options: Any) -> PeftModel:
    options.setdefault("target_modules", TARGETS[arch])
    return lopsided.adapt(BUILDS[arch]().to(dtype), method, r=3, **options).eval()


def sketches(model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """The sketch of each layer, by its name in the base model."""
    found = layers_of(model, adapter).items()
    return {
        name.removeprefix("base_model.model."): layer.adapters[adapter].sketches[0].matrix() for name, layer in found
    }


# -- what is computed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("arch", BUILDS)
def test_sketches_are_those_of_all_inputs_written_out(arch, dtype):
    rows = batches(arch)
    rows = [{k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()} for batch in rows]
    oracle = inputs_of_layers(BUILDS[arch]().to(dtype), rows, arch=arch)
    for method in READING:
        model = adapted(arch, method, dtype=dtype)
        result = lopsided.calibrate(model, rows)
        assert len(result.layers) == len(layers_of(model)) > 0
        by_module = {layer.module.removeprefix("base_model.model."): layer for layer in result.layers}
        for name, S in sketches(model).items():
            x = oracle[name]
            sigma = x.T @ x / len(x)
            assert by_module[name].rows == len(x), name
            Q = S.double().numpy()
            kept = float(np.trace(Q @ sigma @ Q.T) / np.trace(sigma))
            assert by_module[name].share == pytest.approx(kept, rel=1e-3)
            most = np.linalg.eigvalsh(sigma)[-3:] if method == "ipa_b" else np.sort(np.diag(sigma))[-3:]
            assert kept == pytest.approx(float(most.sum() / np.trace(sigma)), rel=1e-4), (method, name)


def test_a_function_that_does_not_change_and_a_model_that_is_as_it_was():
    model = adapted("bert", "ipa_b", dropout=0.5)
    model.base_model.model.bert.encoder.layer[1].train()
    plain = tiny.logits(tiny.bert())
    modes = {name: module.training for name, module in model.named_modules()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    bits = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    with torch.enable_grad():
        lopsided.calibrate(model, batches("bert"))
        assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(torch.equal(p, bits[name]) and p.grad is None for name, p in model.named_parameters())
    assert not any(module._forward_pre_hooks for module in layers_of(model).values())
    assert torch.equal(tiny.logits(model.eval()), plain)


def test_inputs_are_those_of_the_base_whatever_is_active():
    """Another adapter that is trained and active does not change what a new one sees."""
    alone = adapted("bert", "ipa_b")
    lopsided.calibrate(alone, batches("bert"))
    model = lopsided.adapt(tiny.bert(), "c3la", r=3, target_modules=TARGETS["bert"], links=3).eval()
    optimizer = tiny.train_a_little(model)
    lopsided.advance_chain(model, optimizer)
    tiny.run_steps(model, optimizer, 2)
    before = tiny.logits(model)
    model.add_adapter("reads", LopsidedConfig(method="ipa_b", r=3, target_modules=TARGETS["bert"]))
    assert lopsided.calibrate(model, batches("bert")).layers[0].adapter == "reads"
    assert torch.equal(tiny.logits(model), before)
    for name, S in sketches(alone).items():
        assert torch.equal(sketches(model, "reads")[name], S)


# -- passes and sharing ------------------------------------------------------------------------------------------------


def test_layers_that_share_their_input_share_their_moments():
    model = adapted("bert", "ipa_b")
    result = lopsided.calibrate(model, batches("bert"))
    # Two blocks, each with query, key and value, and the layer after the attention.
    assert (len(result.layers), result.moments, result.passes) == (8, 4, 1)
    found = sketches(model)
    query, key = (found[f"bert.encoder.layer.1.attention.self.{name}"] for name in ("query", "key"))
    assert torch.equal(query, key)
    assert "8 layers" in str(result)
    assert "4 distinct inputs" in str(result)


@pytest.mark.parametrize(("limit", "passes"), [(0, 4), (4 * 16 * 16, 4), (2 * 4 * 16 * 16, 2), (2**30, 1)])
def test_moments_that_do_not_fit_are_taken_in_more_passes(limit, passes):
    model, whole = adapted("bert", "ipa_b"), adapted("bert", "ipa_b")
    lopsided.calibrate(whole, batches("bert"))
    assert lopsided.calibrate(model, batches("bert"), limit=limit).passes == passes
    for name, S in sketches(whole).items():
        assert torch.equal(sketches(model)[name], S)


class Sometimes(nn.Module):
    """Two layers that are given one tensor, but for inputs that begin with a negative number, and one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.twice = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = x if x[0, 0] > 0 else 2.0 * x.flip(1)
        return self.twice(self.twice(self.first(x) + self.second(y)))


@pytest.mark.parametrize("method", READING)
def test_layers_that_no_longer_share_their_input_are_told_apart(method):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(9, 6, generator=generator) * torch.linspace(0.5, 2, 6) for _ in range(4)]
    for number, x in enumerate(rows):
        x[0, 0] = -1.0 if number == 2 else 1.0
    torch.manual_seed(0)
    net = Sometimes()
    model = lopsided.adapt(copy.deepcopy(net), method, r=2, target_modules="all-linear")
    result = lopsided.calibrate(model, rows)
    assert result.moments == 3
    assert {layer.module.rsplit(".", 1)[-1]: layer.rows for layer in result.layers} == {
        **{"first": 36, "second": 36},
        "twice": 72,
    }
    given = {"first": torch.cat(rows), "second": torch.cat([x if x[0, 0] > 0 else 2.0 * x.flip(1) for x in rows])}
    for name, x in given.items():
        sigma = (x.double().T @ x.double() / len(x)).numpy()
        Q = sketches(model)[name].double().numpy()
        most = np.linalg.eigvalsh(sigma)[-2:] if method == "ipa_b" else np.sort(np.diag(sigma))[-2:]
        assert np.trace(Q @ sigma @ Q.T) == pytest.approx(most.sum(), rel=1e-5)


def test_a_tensor_that_was_changed_in_place_is_another_input():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            y = self.first(x)
            return y + self.second(x.mul_(torch.linspace(3.0, 0.1, 6)))

    model = lopsided.adapt(InPlace(), "act_cla", r=2, target_modules="all-linear")
    x = torch.ones(5, 6) * torch.linspace(0.5, 2, 6)
    assert lopsided.calibrate(model, [x]).moments == 2
    assert sketches(model)["first"].argmax(1).tolist() == [4, 5]
    assert sketches(model)["second"].argmax(1).tolist() == [1, 2]


def test_padding_counts_in_no_layer_but_where_no_mask_fits():
    counted = Counted(tiny.bert())
    counted.begin({"input_ids": None, "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])})
    [layer] = layers_of(lopsided.adapt(nn.Sequential(nn.Linear(2, 2)), "cla", r=1, target_modules=["0"])).values()
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert counted.rows(layer, x).tolist() == [[0, 1], [2, 3], [6, 7]]
    # The same rows, flattened, as some models have them.
    assert torch.equal(counted.rows(layer, x.reshape(6, 2)), counted.rows(layer, x))
    assert torch.equal(counted.rows(layer, x[:, 0]), x[:, 0])
    counted.begin([x])
    assert len(counted.rows(layer, x)) == 6


LAYERS: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
    "linear": (nn.Linear(5, 4), lambda: torch.randn(3, 2, 5)),
    "Conv1D": (Conv1D(4, 5), lambda: torch.randn(3, 2, 5)),
    "conv1d": (nn.Conv1d(3, 4, 3, stride=2, padding=1), lambda: torch.randn(2, 3, 9)),
    "conv1d same": (nn.Conv1d(3, 4, 4, padding="same", dilation=2), lambda: torch.randn(2, 3, 9)),
    "conv1d valid": (nn.Conv1d(3, 4, 4, padding="valid"), lambda: torch.randn(2, 3, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), groups=2), lambda: torch.randn(2, 4, 7, 6)),
    "conv2d reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), lambda: torch.randn(2, 4, 7, 6)),
    "conv2d alone": (nn.Conv2d(4, 6, 3, dilation=2), lambda: torch.randn(4, 7, 6)),
    "conv3d": (nn.Conv3d(2, 4, (2, 3, 1), padding=1, groups=2), lambda: torch.randn(2, 2, 4, 5, 3)),
    "embedding": (nn.Embedding(7, 4), lambda: torch.randint(0, 7, (3, 5))),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_its_matrix_times_the_inputs_that_its_kind_reads(kind):
    """The slow oracle of every kind: W times the inputs that calibration sums is what the layer computes."""
    torch.manual_seed(0)
    base, x = LAYERS[kind][0], LAYERS[kind][1]()
    own = kind_of(base)
    d_out, d_in = own.widths(base)
    W, inputs = own.matrix(base.weight), own.inputs(base, x)
    inputs = F.one_hot(inputs, d_in).float() if own.one_hot else inputs
    out, bias = base(x), torch.zeros(d_out) if own.one_hot else base.bias
    if kind.startswith("conv"):
        # Places last, and groups of rows of W for the groups of channels.
        axes, groups = len(base.kernel_size), base.groups
        out = out if out.dim() == axes + 2 else out[None]
        expected = out.flatten(2).movedim(1, 2).reshape(-1, groups, d_out // groups)
        patches = inputs.view(-1, groups, d_in)
        found = torch.einsum("ngi,goi->ngo", patches, W.view(groups, d_out // groups, d_in)) + bias.view(groups, -1)
    else:
        expected, found = out.reshape(-1, d_out), inputs @ W.T + bias
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", READING)
@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind.startswith(("conv", "emb"))])
def test_convolutions_and_embeddings_are_calibrated_by_what_they_read(kind, method):
    torch.manual_seed(1)
    base, make = LAYERS[kind]
    rows = [make() for _ in range(3)]
    model = lopsided.adapt(nn.Sequential(copy.deepcopy(base)), method, r=2, target_modules=["0"]).eval()
    before = [base(x) for x in rows]
    result = lopsided.calibrate(model, rows)
    own = kind_of(base)
    x = torch.cat([own.inputs(base, row) for row in rows])
    x = (F.one_hot(x, 7) if own.one_hot else x).double().numpy()
    sigma = x.T @ x / len(x)
    Q = next(iter(sketches(model).values())).double().numpy()
    most = np.linalg.eigvalsh(sigma)[-2:] if method == "ipa_b" else np.sort(np.diag(sigma))[-2:]
    assert np.trace(Q @ sigma @ Q.T) == pytest.approx(most.sum(), rel=1e-4)
    [layer] = result.layers
    assert (layer.rows, layer.share) == (len(x), pytest.approx(most.sum() / np.trace(sigma), rel=1e-4))
    assert all(torch.equal(model(x), out) for x, out in zip(rows, before))


def test_convolutions_of_one_input_share_it_if_they_read_it_alike():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv1d(3, 4, 3), nn.Conv1d(3, 5, 3), nn.Conv1d(3, 4, 3, dilation=2)
            self.d = nn.Conv1d(3, 4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).sum() + self.b(x).sum() + self.c(x).sum() + self.d(x).sum()

    model = lopsided.adapt(Branches(), "ipa_b", r=2, target_modules=["a", "b", "c", "d"])
    assert lopsided.calibrate(model, [torch.randn(2, 3, 12)]).moments == 3
    found = sketches(model)
    assert torch.equal(found["a"], found["b"])
    assert not torch.equal(found["a"], found["c"])


@pytest.mark.parametrize("method", READING)
def test_experts_and_routers_are_refused_by_name(method):
    base, x = network(kind="parameter")
    assert not fits(METHODS[method], "parameter")
    with pytest.raises(LopsidedError, match=f"{method}.*inputs.*a parameter are seen by its module alone") as error:
        lopsided.adapt(base, method, r=2, **base.targets)
    assert "\n" not in str(error.value)
    assert not layers_of(base)
    assert torch.isfinite(base(x)).all()


# -- what happens when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", READING)
def test_nothing_is_computed_trained_merged_saved_or_exported_before(method, tmp_path):
    model = adapted("bert", method)
    assert needs_calibration(model)
    assert "not calibrated" in repr(model)
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-3))
    uses: list[Callable[[], Any]] = [
        lambda: tiny.logits(model),
        lambda: tiny.run_steps(model.train(), optimizer, 1),
        model.merge_adapter,
        model.merge_and_unload,
        lambda: model.save_pretrained(tmp_path / "adapter"),
        lambda: lopsided.to_lora(model, tmp_path / "lora"),
    ]
    for use in uses:
        with pytest.raises(
            LopsidedError, match=r"has seen none; expected lopsided\.calibrate\(model, batches\)"
        ) as error:
            use()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.safetensors"))
    lopsided.calibrate(model, batches("bert"))
    assert not needs_calibration(model)
    assert "not calibrated" not in repr(model)
    tiny.run_steps(model.train(), optimizer, 2)
    assert not torch.equal(tiny.logits(model.eval()), tiny.logits(tiny.bert()))


@pytest.mark.parametrize("method", READING)
def test_an_adapter_loads_without_the_data_and_cannot_without_its_sketch(method, tmp_path):
    model = adapted("bert", method)
    lopsided.calibrate(model, batches("bert"))
    tiny.train_a_little(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.bert(), str(tmp_path)).eval()
    assert torch.equal(tiny.logits(loaded), tiny.logits(model.eval()))
    # The same by a `state_dict`, onto an adapter that has seen nothing, and onto one that has seen something else.
    for rows in (None, batches("bert", seed=5)):
        other = adapted("bert", method, seed=3)
        if rows is not None:
            lopsided.calibrate(other, rows)
        other.load_state_dict(model.state_dict())
        assert torch.equal(tiny.logits(other), tiny.logits(model))
    state = {k: v for k, v in model.state_dict().items() if not k.endswith((".sketch", ".indices"))}
    with pytest.raises(LopsidedError, match=r"sketch|indices"):
        adapted("bert", method).load_state_dict(state, strict=False)


@pytest.mark.parametrize("method", READING)
def test_by_name_an_adapter_is_calibrated_again_until_it_is_trained(method):
    model = adapted("bert", method)
    lopsided.calibrate(model, batches("bert"))
    first = sketches(model)
    assert lopsided.calibrate(model, batches("bert", seed=5)) == Calibration()
    assert all(torch.equal(S, first[name]) for name, S in sketches(model).items())
    assert len(lopsided.calibrate(model, batches("bert", seed=5), adapter_name="default").layers) == 8
    if method == "ipa_b":
        assert not any(torch.equal(S, first[name]) for name, S in sketches(model).items())
    tiny.train_a_little(model)
    with pytest.raises(LopsidedError, match=r"has been trained.*calibrate before training"):
        lopsided.calibrate(model, batches("bert"), adapter_name="default")


def test_other_methods_are_left_as_they_are_and_their_batches_unread():
    def never() -> Any:
        raise AssertionError("read")
        yield

    for method in ("cla", "asym_b", "lora", "bernoulli"):
        model = adapted("mlp", method)
        before = sketches(model)
        assert lopsided.calibrate(model, never()) == Calibration()
        assert all(torch.equal(S, before[name]) for name, S in sketches(model).items())
    assert "no adapter" in str(Calibration())


def test_an_adapter_of_the_same_configuration_shares_the_sketch():
    """As TRL makes its reference."""
    model = adapted("bert", "ipa_b")
    lopsided.calibrate(model, batches("bert"))
    model.add_adapter("ref", model.peft_config["default"])
    assert all(torch.equal(S, sketches(model)[name]) for name, S in sketches(model, "ref").items())
    model.set_adapter("ref")
    assert torch.equal(tiny.logits(model), tiny.logits(tiny.bert()))
    # Calibrated again, the two are no longer one.
    lopsided.calibrate(model, batches("bert", seed=5), adapter_name="ref")
    assert not any(torch.equal(S, sketches(model)[name]) for name, S in sketches(model, "ref").items())
    with pytest.raises(LopsidedError, match="'default' and 'ref' both have the configuration"):
        model.add_adapter("third", copy.deepcopy(model.peft_config["default"]))


def test_a_saved_configuration_makes_a_new_adapter_that_has_to_be_calibrated(tmp_path):
    model = adapted("bert", "ipa_b")
    lopsided.calibrate(model, batches("bert"))
    model.save_pretrained(tmp_path)
    config = LopsidedConfig.from_pretrained(str(tmp_path))
    again = get_peft_model(tiny.bert(), config).eval()
    with pytest.raises(LopsidedError, match="tensors were not loaded"):
        tiny.logits(again)
    lopsided.calibrate(again, batches("bert"))
    assert torch.equal(tiny.logits(again), tiny.logits(tiny.bert()))


# -- other parts next to such a sketch ---------------------------------------------------------------------------------


def test_where_both_factors_train_a_starts_at_the_directions(tmp_path):
    """EVA, without its ranks per layer."""
    model = adapted("bert", EVA)
    lopsided.calibrate(model, batches("bert"))
    for layer in layers_of(model).values():
        assert torch.equal(layer.trained("default")["A"], layer.adapters["default"].sketches[0].matrix())
        assert not layer.trained("default")["B"].any()
    lopsided.calibrate(model, batches("bert", seed=5), adapter_name="default")
    assert torch.equal(tiny.logits(model), tiny.logits(tiny.bert()))
    tiny.train_a_little(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.bert(), str(tmp_path)).eval()
    assert torch.equal(tiny.logits(loaded), tiny.logits(model.eval()))
    with pytest.raises(LopsidedError, match="has been trained"):
        lopsided.calibrate(model, batches("bert"), adapter_name="default")


@pytest.mark.parametrize("sketch", [Principal(), LargestColumns()], ids=str)
def test_a_chain_without_redraws_keeps_its_sketch(sketch, tmp_path):
    method = Method(name="m", train="B", sketch=sketch, chain=Chain(links=3, redraw=False), source="this test")
    model = adapted("bert", method)
    lopsided.calibrate(model, batches("bert"))
    first = sketches(model)
    optimizer = tiny.train_a_little(model)
    before = tiny.logits(model)
    lopsided.advance_chain(model, optimizer)
    torch.testing.assert_close(tiny.logits(model), before, atol=1e-5, rtol=0)
    tiny.run_steps(model, optimizer, 2)
    for name, layer in layers_of(model).items():
        assert torch.equal(
            layer.adapters["default"].sketches[1].matrix(), first[name.removeprefix("base_model.model.")]
        )
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.bert(), str(tmp_path)).eval()
    assert torch.equal(tiny.logits(loaded), tiny.logits(model.eval()))


# -- refusals ----------------------------------------------------------------------------------------------------------


def merged() -> PeftModel:
    model = adapted("bert", "ipa_b")
    lopsided.calibrate(model, batches("bert"))
    model.merge_adapter()
    return model


def unreached() -> PeftModel:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(10, 10), nn.Linear(10, 10)

        def forward(self, features: Tensor) -> Tensor:
            return self.used(features)

    return lopsided.adapt(Half(), "act_cla", r=2, target_modules="all-linear")


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        (tiny.bert, lambda: batches("bert"), ["holds no adapter of lopsided", "adapt it first"]),
        (lambda: adapted("bert", "ipa_b"), list, ["batches of training rows, got none"]),
        (lambda: adapted("mlp", "ipa_b"), lambda: [3], ["a batch is int", "expected a mapping"]),
        (lambda: adapted("mlp", "ipa_b"), lambda: [torch.full((4, 10), torch.nan)], ["layers.0.up", "NaN or Inf"]),
        (lambda: adapted("mlp", "ipa_b"), lambda: [torch.zeros(4, 10)], ["layers.0.up", "all zero"]),
        (lambda: adapted("mlp", "ipa_b"), lambda: [torch.ones(2, 10)], ["r=3", "has seen 2", "more rows"]),
        (unreached, lambda: [torch.ones(2, 10)], ["unused", "no input reached", "exclude the module"]),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_one_line_and_changes_nothing(model, given, words):
    made = model()
    with pytest.raises(LopsidedError) as error:
        lopsided.calibrate(made, given())
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)
    assert all(layer.adapters["default"].pending for layer in layers_of(made).values())
    assert not any(layer._forward_pre_hooks or layer._disable_adapters for layer in layers_of(made).values())


def test_a_merged_adapter_and_an_unknown_one_are_refused():
    with pytest.raises(LopsidedError, match="are merged"):
        lopsided.calibrate(merged(), batches("bert"), adapter_name="default")
    with pytest.raises(LopsidedError, match="no Lopsided adapter named 'other'"):
        lopsided.calibrate(adapted("bert", "ipa_b"), batches("bert"), adapter_name="other")
