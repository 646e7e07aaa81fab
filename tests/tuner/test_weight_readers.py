"""Code that computes with a layer's weight without calling the layer: made right, or refused by name."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    WavLMConfig,
    WavLMModel,
)

import lopsided
from lopsided import LopsidedError, LopsidedWarning
from lopsided.tuner import layers_of
from lopsided.tuner.past_forward import PastForward
from lopsided.tuner.weight_readers import READERS, reader_of
from tests import tiny

EVERY = ("linear1", "linear2")


def randomized(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model


def encoder(method="asym_b", targets=EVERY, *, layers=0, **options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, **{"batch_first": True, **options})
    base = nn.TransformerEncoder(layer, layers) if layers else layer
    return randomized(lopsided.adapt(base, method, r=2, target_modules=list(targets)))


def inputs():
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


# -- torch's fused path for encoder layers ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", tiny.ADAPTERS)
@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu"}], ids=str)
def test_an_encoder_layer_computes_its_adapters_in_evaluation(method, options):
    model, x = encoder(method, **options), inputs()
    expected = model(x).detach()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
        with model.disable_adapter():
            assert (model(x) - expected).abs().max() > 1e-2
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    model.merge_adapter()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    base = model.unload()
    assert not any(module._forward_pre_hooks for module in base.modules())


@pytest.mark.parametrize("method", ["cla", "rcla", "asym_b", "asym_a", "bernoulli", "lora", "rac_b"])
@pytest.mark.parametrize("targets", [EVERY, ["0.linear1", "0.linear2"], ["1.linear2"]], ids=str)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_with_padding_computes_its_adapters(method, targets):
    """Its own fast path hands nested tensors to the layers, and looks at the first layer alone."""
    model, x = encoder(method, targets, layers=2), inputs()
    padding = torch.tensor([[False] * 5, [False, False, True, True, True]])
    expected = model(x, src_key_padding_mask=padding).detach()
    model.eval()
    with torch.no_grad():
        out = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(out[~padding], expected[~padding], atol=1e-5, rtol=1e-5)


def test_the_decoder_has_no_such_path():
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)
    model = randomized(lopsided.adapt(model, "asym_b", r=2, target_modules=list(EVERY)))
    expected = model(inputs(), inputs()).detach()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(inputs(), inputs()), expected, atol=1e-5, rtol=1e-5)


def test_copies_pickles_and_compiled_encoders_compute_their_adapters():
    model, x = encoder().eval(), inputs()
    with torch.no_grad():
        expected = model(x)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), expected)
        compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-5)


# -- classes that are known to read -----------------------------------------------------------------------------------


def test_attentions_joint_projection_is_refused_by_name():
    class Subclass(nn.MultiheadAttention):
        pass

    for attention in (nn.MultiheadAttention(4, 2), Subclass(4, 2)):
        model = nn.ModuleDict({"attention": attention, "up": nn.Linear(4, 4)})
        with pytest.raises(LopsidedError, match=r"attention\.out_proj is a NonDynamically.*reads its weight") as error:
            lopsided.adapt(model, "cla", r=2, target_modules=["out_proj"])
        assert "\n" not in str(error.value)
        words = r"leaves out attention\.out_proj \(read by \w+\), attention\.in_proj_weight \(\w+\)"
        with pytest.warns(LopsidedWarning, match=words):
            adapted = lopsided.adapt(copy.deepcopy(model), "cla", r=2, target_modules="all-linear")
        assert list(layers_of(adapted)) == ["base_model.model.up"]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.classes[0])
def test_each_known_reader_is_refused_by_name(reader):
    for name in reader.classes:
        for child in reader.children:
            parent = type(name, (nn.Module,), {})()
            setattr(parent, child, nn.Linear(4, 4))
            parent.config = SimpleNamespace(altup_coef_clip=1.0, rescale_every=6)
            parent.pretraining_tp, parent.slow_but_exact = 2, True
            with pytest.raises(LopsidedError, match=rf"^{child} is a Linear, but {name} reads its weight in") as error:
                lopsided.adapt(parent, "cla", r=2, target_modules=[child])
            assert "\n" not in str(error.value)
            # A class made on top of it reads as well, another one with such a child does not.
            below = type("Below", (type(parent),), {})()
            below.__dict__.update(parent.__dict__)
            assert reader_of(below, child) is not None
            assert reader_of(nn.ModuleDict({child: nn.Linear(4, 4)}), child) is None


def test_those_that_read_under_a_condition_are_adapted_without_it():
    attention = type("BloomAttention", (nn.Module,), {})()
    attention.dense, attention.pretraining_tp, attention.slow_but_exact = nn.Linear(4, 4), 1, True
    lopsided.adapt(attention, "cla", r=2, target_modules=["dense"])


def _mamba(kind):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "vocab_size": 40, "num_hidden_layers": 2, "state_size": 4}
    if kind == "mamba2":
        return Mamba2ForCausalLM(Mamba2Config(**sizes, num_heads=4, head_dim=8, n_groups=1, chunk_size=4))
    config, model = {
        "mamba": (MambaConfig, MambaForCausalLM),
        "falcon_mamba": (FalconMambaConfig, FalconMambaForCausalLM),
    }[kind]
    return model(config(**sizes, time_step_rank=3))


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba", "mamba2"])
def test_mamba_is_adapted_where_its_layers_are_called(kind):
    refused = ["out_proj"] if kind == "mamba2" else ["out_proj", "x_proj", "dt_proj"]
    for child in refused:
        with pytest.raises(LopsidedError, match=rf"mixer\.{child} is a Linear, but \w+ reads its weight in"):
            lopsided.adapt(_mamba(kind), "cla", r=2, target_modules=["in_proj", child])
    with pytest.warns(LopsidedWarning, match=r"mixer\.out_proj \(read by \w+Mixer\)"):
        model = randomized(lopsided.adapt(_mamba(kind), "asym_b", r=2, target_modules="all-linear"))
    assert {name.rsplit(".", 1)[-1] for name in layers_of(model)} == {"in_proj"}
    batch = {"input_ids": torch.randint(0, 40, (2, 6), generator=torch.Generator().manual_seed(3))}
    expected = model(**batch).logits.detach()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**batch).logits, expected, atol=1e-4, rtol=1e-4)
        with model.disable_adapter():
            assert (model(**batch).logits - expected).abs().max() > 1e-3


def test_wavlms_attention_is_refused():
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1}
    convolutions = {"conv_dim": (8,), "conv_stride": (2,), "conv_kernel": (4,), "num_conv_pos_embeddings": 4}
    model = WavLMModel(WavLMConfig(**sizes, **convolutions, num_conv_pos_embedding_groups=2))
    with pytest.raises(LopsidedError, match=r"q_proj is a Linear, but WavLMAttention reads its weight"):
        lopsided.adapt(model, "cla", r=2, target_modules=["q_proj"])


# -- everything else, at run time -------------------------------------------------------------------------------------

READS = {
    "linear": lambda x, layer: F.linear(x, layer.weight, layer.bias),
    "@": lambda x, layer: x @ layer.weight.T,
    "@ from the left": lambda x, layer: (layer.weight @ x.T).T,
    "matmul": lambda x, layer: torch.matmul(x, layer.weight.t()),
    "einsum": lambda x, layer: torch.einsum("oi,bi->bo", layer.weight, x),
    "addmm": lambda x, layer: torch.addmm(layer.bias, x, layer.weight.mT),
    "a slice": lambda x, layer: F.linear(x[:, :2], layer.weight[:, :2]),
    "chunks": lambda x, layer: F.linear(x, torch.cat(layer.weight.chunk(2))),
    "scaled": lambda x, layer: F.linear(x, 0.5 * layer.weight),
    "cast": lambda x, layer: F.linear(x.double(), layer.weight.double()),
    "its data": lambda x, layer: F.linear(x, layer.weight.data),
    "detached": lambda x, layer: F.linear(x, layer.weight.detach().clone()),
    "a convolution": lambda x, layer: F.conv1d(x[..., None], layer.weight[..., None]),
    "a row by index": lambda x, layer: F.embedding(torch.tensor([0]), layer.weight),
    "a column by index": lambda x, layer: layer.weight.t()[torch.tensor([0])],
}


class Reads(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.layer, self.read = nn.Linear(4, 4), read

    def forward(self, x):
        return self.read(x, self.layer)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_product_with_the_weight_itself_is_refused(read):
    model, x = lopsided.adapt(Reads(read), "asym_b", r=2, target_modules=["layer"]), torch.randn(3, 4)
    plain = copy.deepcopy(model.unload())
    model = randomized(lopsided.adapt(plain, "asym_b", r=2, target_modules=["layer"]))
    base = read(x, layers_of(model)["base_model.model.layer"].base_layer)
    for mode in (model.train(), model.eval()):
        with pytest.raises(LopsidedError, match=r"^layer: torch's \w+ got this layer's weight itself") as error:
            mode(x)
        assert "\n" not in str(error.value)
    # Without adapters, and merged, the weight is what the layer computes with.
    with model.disable_adapter():
        assert torch.equal(model(x), base)
    model.merge_adapter()
    assert not torch.equal(model(x), base)
    model.unmerge_adapter()
    assert torch.equal(model.unload()(x), base)


def test_looking_at_the_weight_is_what_it_was():
    model = lopsided.adapt(nn.Sequential(nn.Linear(4, 3)), "cla", r=2, target_modules=["0"])
    [layer] = layers_of(model).values()
    seen, weight = layer.weight, layer.base_layer.weight
    assert type(seen) is PastForward
    assert isinstance(seen, nn.Parameter)
    assert (seen.dtype, seen.shape, seen.device, seen.requires_grad) == (torch.float32, (3, 4), weight.device, False)
    assert (seen.data_ptr(), seen.is_meta, seen.numel(), len(seen)) == (weight.data_ptr(), False, 12, 3)
    assert torch.equal(seen, weight)
    assert seen.norm() == weight.norm()
    assert torch.equal(torch.linalg.svdvals(seen), torch.linalg.svdvals(weight))
    assert repr(seen) == repr(weight.data)
    assert type(copy.deepcopy(seen)) is nn.Parameter
    assert torch.equal(pickle.loads(pickle.dumps(seen)), weight)
    # Writing through it reaches the weight.
    seen.data.fill_(2.0)
    seen.requires_grad_(True)
    assert weight.requires_grad
    assert weight.unique().tolist() == [2.0]
    seen.data = torch.zeros(3, 4)
    assert torch.equal(weight.data, torch.zeros(3, 4))


def test_t5_asks_its_layer_for_a_dtype_in_forward():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": 1, "vocab_size": 40}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))
    model = randomized(lopsided.adapt(model, "cla", r=2, target_modules=["wo", "wi"])).eval()
    ids = torch.tensor([[1, 2, 3]])
    assert torch.isfinite(model(input_ids=ids, labels=ids).loss)


# -- transformers, searched again ---------------------------------------------------------------------------------

# Reads that no adapter is lost by: the class is written for an nn.Linear, and only looks, or never gets there.
HARMLESS = {
    (
        "DisentangledSelfAttention",
        "in_proj",
    ): "for query_states alone, passed if z_steps > 1, which is 0",
}
LOOKS = {"dtype", "device", "shape", "is_cuda", "data_ptr", "size", "requires_grad"}


def _is_linear(node):
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("nn.Linear", "torch.nn.Linear", "Conv1D")


def _reads(tree):
    """(class, child, line) wherever a class reads the weight of a child that it makes as an nn.Linear."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for cls in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        made = {
            target.attr
            for node in ast.walk(cls)
            if isinstance(node, ast.Assign) and _is_linear(node.value)
            for target in node.targets
            if isinstance(target, ast.Attribute)
        }
        for function in (node for node in cls.body if isinstance(node, ast.FunctionDef)):
            if function.name in ("__init__", "_init_weights"):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and node.attr == "weight" and isinstance(node.value, ast.Attribute):
                    above = parents[node]
                    looks = isinstance(above, ast.Attribute) and above.attr in LOOKS
                    asks = isinstance(above, ast.Call) and ast.unparse(above.func) == "isinstance"
                    if node.value.attr in made and not looks and not asks:
                        yield cls.name, node.value.attr, node.lineno


@pytest.mark.more
def test_no_class_of_transformers_reads_a_weight_unknown_to_us():
    known = {(name, child) for reader in READERS for name in reader.classes for child in reader.children}
    found = set()
    for path in sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py")):
        text = path.read_text()
        if re.search(r"self\.\w+\.weight", text):
            found |= {(name, child) for name, child, _ in _reads(ast.parse(text))}
    assert found - known - HARMLESS.keys() == set()
    # What is not found so: other packages' classes, and a class that reads its children's children.
    elsewhere = {"MultiheadAttention", "AttentionPool2d", "Mamba", "Mamba2", "RwkvSelfAttention", "RwkvFeedForward"}
    assert {name for name, _ in known} - {name for name, _ in found} == elsewhere
