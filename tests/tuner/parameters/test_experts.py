"""Experts and routers with adapters, against the model with W0 + ΔW in its parameters."""

from __future__ import annotations

import copy
import pickle

import peft
import pytest
import torch
from peft import PeftModel
from torch import nn

import lopsided
from lopsided import LopsidedConfig, LopsidedError, advance_chain
from lopsided.tuner import layers_of
from lopsided.tuner.parameters import low_rank_weight
from lopsided.tuner.parameters.adapted_parameters import AdaptedParameters
from tests import tiny
from tests.diagonal import diagonal
from tests.tuner.test_asked import moe

TARGETS = {
    "mixtral": {"target_modules": ["q_proj", "w1", "w2", "w3", "gate"]},
    "qwen2_moe": {"target_modules": ["gate_proj", "up_proj", "down_proj"]},
    "qwen3_moe": {"target_modules": ["gate_proj", "up_proj", "down_proj", "gate"]},
    # Stored the other way round, and with biases.
    "gpt_oss": {"target_modules": ["gate_up_proj", "down_proj", "router"]},
    "llama4_text": {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "jetmoe": {"target_modules": ["input_linear", "output_linear"]},
    "granitemoe": {"target_modules": ["gate_up_proj", "down_proj"]},
}
WAYS = ("eager", "batched_mm", "grouped_mm")


def made(kind: str, method: str = "cla", *, dtype: torch.dtype = torch.float32, way: str | None = None, **options):
    base = moe(kind, "cpu").to(dtype).eval()
    if way is not None:
        base.set_experts_implementation(way)
    return lopsided.adapt(copy.deepcopy(base), method, r=2, **TARGETS[kind], **options).eval(), base


def learned(model, seed: int = 1, scale: float = 0.2) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers_of(model).values():
            for factor in layer.trained("default").values():
                factor.copy_(torch.randn(factor.shape, generator=generator) * scale)


def ids(model) -> torch.Tensor:
    return torch.randint(1, model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(3))


def run(model) -> torch.Tensor:
    return model(input_ids=ids(model)).logits


def oracle(model, base: nn.Module) -> nn.Module:
    """The base with W0 + ΔW in its weights."""
    twin = copy.deepcopy(base)
    with torch.no_grad():
        for name, layer in layers_of(model).items():
            key = name.removeprefix("base_model.model.")
            if ".adapted." in key:
                owner, _, matrix = key.partition(".adapted.")
                parameter = twin.get_parameter(f"{owner}.{matrix.rpartition('_')[0]}")
                layer.kind.matrix(parameter).add_(_delta(layer))
            else:
                twin.get_parameter(f"{key}.weight").add_(_delta(layer))
    return twin


def _delta(layer) -> torch.Tensor:
    A, B = (torch.cat(parts, dim) for parts, dim in _factors(layer))
    return layer.scaling["default"] * B @ A


def _factors(layer):
    terms = [term.dense() for term in layer.terms("default", torch.device("cpu"))]
    return ([A for A, _ in terms], 0), ([B for _, B in terms], 1)


@pytest.mark.parametrize(
    ("kind", "method"),
    diagonal(TARGETS, ["cla", "rcla", "asym_b", "asym_a", "paca", "lora", "bernoulli"], share=2),
)
def test_a_model_computes_with_the_sum(kind, method):
    model, base = made(kind, method)
    assert torch.equal(run(model), run(base)), "a new adapter must not change the function"
    learned(model)
    expected = run(oracle(model, base))
    assert not torch.allclose(expected, run(base), atol=1e-3)
    torch.testing.assert_close(run(model), expected, rtol=1e-3, atol=1e-4)
    model.merge_adapter()
    torch.testing.assert_close(run(model), expected, rtol=1e-3, atol=1e-4)
    unloaded = model.merge_and_unload()
    assert not any(isinstance(module, AdaptedParameters) for module in unloaded.modules())
    torch.testing.assert_close(run(unloaded), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["cla", "rcla", "asym_a", "lora"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_every_way_of_transformers_is_right_and_writes_no_sum_out(kind, way, method, monkeypatch):
    model, base = made(kind, method, way=way)
    learned(model)
    expected, twin = run(model), oracle(model, base)
    torch.testing.assert_close(expected, run(twin), rtol=1e-3, atol=1e-4)

    def never(*args):
        raise AssertionError("W + ΔW was written out")

    monkeypatch.setattr(low_rank_weight, "_add_product", never)
    assert torch.equal(run(model), expected)
    run(model).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", ["cla", "asym_a", "lora"])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_the_sum(way, method):
    model, base = made("mixtral", method, way=way)
    learned(model)
    run(model).square().sum().backward()
    twin = oracle(model, base)
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    run(twin).square().sum().backward()
    compared = 0
    for name, layer in layers_of(model).items():
        owner, found, matrix = name.removeprefix("base_model.model.").partition(".adapted.")
        if not found:
            continue
        grad_W = layer.kind.matrix(twin.get_parameter(f"{owner}.{matrix.rpartition('_')[0]}").grad)
        [term], s = layer.terms("default", torch.device("cpu")), layer.scaling["default"]
        A, B = (factor.detach() for factor in term.dense())
        expected = {"A": s * B.T @ grad_W, "B": s * grad_W @ A.T}
        for letter, factor in layer.trained("default").items():
            torch.testing.assert_close(factor.grad, expected[letter], rtol=1e-2, atol=1e-4)
            compared += 1
    assert compared


def test_code_that_does_something_else_with_the_weight_gets_the_sum_written_out():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = nn.Parameter(torch.randn(3, 4, 5))

        def forward(self, x):
            """Multiply with a softmax of the weights, and look at its size in between."""
            assert self.stack.shape == (3, 4, 5)
            assert self.stack.dtype == torch.float32
            return torch.einsum("nd,eod->no", x, torch.softmax(self.stack, -1)) + self.stack.sum()

    torch.manual_seed(0)
    net = nn.Sequential(Odd())
    x, expected = torch.randn(2, 5), copy.deepcopy(net)
    model = lopsided.adapt(net, "lora", r=2, target_parameters=["0.stack"])
    learned(model)
    with torch.no_grad():
        for index, layer in enumerate(layers_of(model).values()):
            expected[0].stack[index] += _delta(layer)
    torch.testing.assert_close(model(x), expected(x))


class Asked(nn.Module):
    """A stack and a matrix, multiplied with as a user of torch might."""

    def __init__(self, how) -> None:
        super().__init__()
        self.stack, self.matrix, self.how = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(4, 5)), how

    def forward(self, x):
        """Multiply."""
        return self.how(x, self.stack, self.matrix)


USES = {
    "words": lambda x, W, M: nn.functional.linear(input=x, weight=M),
    "a word": lambda x, W, M: nn.functional.linear(x, weight=M),
    "matmul by words": lambda x, W, M: torch.matmul(input=x, other=M.T),
    "mm by words": lambda x, W, M: torch.mm(x, mat2=M.t()),
    "transposed by words": lambda x, W, M: x @ M.transpose(dim0=0, dim1=1),
    "broadcast": lambda x, W, M: x[None] @ W.mT,
    "broadcast to three": lambda x, W, M: torch.matmul(x, W.mT),
    "batched": lambda x, W, M: torch.bmm(x.expand(3, -1, -1), W.mT),
    "from the left": lambda x, W, M: (M @ x.T).T,
    "a stack from the left": lambda x, W, M: W @ x.T,
    "one row": lambda x, W, M: M @ x[0],
    "the last": lambda x, W, M: nn.functional.linear(x, W[-1]),
    "a slice": lambda x, W, M: nn.functional.linear(x, W[0, :2]),
    "parts": lambda x, W, M: nn.functional.linear(x, M.chunk(2)[0]),
    "one by one": lambda x, W, M: sum(nn.functional.linear(x, each) for each in W),
    "added": lambda x, W, M: torch.addmm(torch.ones(4), x, M.t()),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("method", ["cla", "asym_a", "paca", "lora"])
def test_any_use_of_a_parameter_is_one_of_the_sum(method, use):
    torch.manual_seed(0)
    base, x = nn.Sequential(Asked(USES[use])), torch.randn(2, 5)
    model, twin = copy.deepcopy(base), copy.deepcopy(base)
    model = lopsided.adapt(model, method, r=2, target_parameters=["0.stack", "0.matrix"])
    learned(model)
    with torch.no_grad():
        for name, layer in layers_of(model).items():
            parameter, _, index = name.rpartition(".")[2].rpartition("_")
            whole = twin[0].get_parameter(parameter)
            (whole[int(index)] if whole.dim() == 3 else whole).add_(_delta(layer))
    torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["rcla", "c3la"])
def test_a_reference_adapter_copied_by_its_parameters_is_the_policy(method):
    model, _ = made("mixtral", method)
    learned(model)
    policy = run(model)
    model.add_adapter("ref", model.peft_config["default"])
    for name, parameter in [(n, p) for n, p in model.named_parameters() if ".default." in n]:
        model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
    model.set_adapter("ref")
    assert torch.equal(run(model), policy)


@pytest.mark.parametrize("method", ["cla", "lora"])
@pytest.mark.parametrize("way", WAYS)
def test_an_update_far_below_a_16_bit_weight_s_rounding_comes_through(method, way):
    model, _ = made("mixtral", method, dtype=torch.bfloat16, way=way)
    before = run(model).float()
    learned(model, scale=1e-3)
    # The norm of the change, next to that of the same adapter in float32.
    wide = made("mixtral", method, way=way)[0]
    start = run(wide)
    learned(wide, scale=1e-3)
    assert (run(model).float() - before).norm() > 0.1 * (run(wide) - start).norm()
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("kind", "dtype"), diagonal(["mixtral", "gpt_oss"], [torch.float32, torch.bfloat16], share=2))
@pytest.mark.parametrize("method", ["c3la", "rac_a", "cola"])
def test_a_chain_goes_on_comes_back_and_leaves_every_bit(kind, method, dtype, tmp_path):
    model, base = made(kind, method, dtype=dtype, links=4)
    original = copy.deepcopy(base.state_dict())
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    for seed in (1, 2):
        learned(model, seed)
        before = run(model)
        advance_chain(model, optimizer)
        torch.testing.assert_close(run(model), before, rtol=1e-2, atol=1e-3 if dtype == torch.float32 else 3e-2)
    learned(model, 3)
    expected = run(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    assert torch.equal(run(loaded), expected)
    # A whole state has W0, and comes back onto another model at the same link.
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = peft.get_base_model_state_dict(model)
    assert found.keys() == original.keys()
    assert all(torch.equal(value, original[key]) for key, value in found.items())
    loaded.load_state_dict(state)
    assert torch.equal(run(loaded), expected)
    with model.disable_adapter():
        assert torch.equal(run(model), run(base))
    assert torch.equal(run(model), expected)
    unloaded = model.unload()
    assert all(torch.equal(value, original[key]) for key, value in unloaded.state_dict().items())


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_another_base_under_the_links(kind):
    model, base = made(kind, "c3la", links=3)
    learned(model)
    advance_chain(model, torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2)))
    learned(model, 2)
    other = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.full_like(parameter, 0.1))
    peft.set_base_model_state_dict(model, other.state_dict())
    torch.testing.assert_close(run(model), run(oracle(model, other)))
    found = peft.get_base_model_state_dict(model)
    assert all(torch.equal(found[key], value) for key, value in other.state_dict().items())


def test_copies_pickles_and_casts():
    model, _ = made("mixtral", "c3la", links=3)
    learned(model)
    advance_chain(model, torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2)))
    learned(model, 2)
    expected = run(model)
    assert torch.equal(run(copy.deepcopy(model)), expected)
    assert torch.equal(run(pickle.loads(pickle.dumps(model))), expected)
    model.to(torch.bfloat16)
    assert not any(layer.base_weight.written for layer in layers_of(model).values())
    model.to(torch.float32)
    assert (run(model) - expected).norm() < 0.05 * expected.norm()


def test_a_second_adapter_and_switching():
    model, base = made("mixtral", "cla")
    learned(model)
    first = run(model)
    model.add_adapter("second", LopsidedConfig(method="lora", r=3, **TARGETS["mixtral"]))
    assert {len(layer.adapters) for layer in layers_of(model).values()} == {2}
    assert torch.equal(run(model), first)
    model.set_adapter("second")
    assert torch.equal(run(model), run(base))
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(run(model), first)


def test_training_with_gradient_checkpointing_moves_the_factors_alone():
    model, _ = made("mixtral", "rcla")
    model.gradient_checkpointing_enable()
    model.train()
    model.enable_input_require_grads()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=ids(model), labels=ids(model)).loss.backward()
        optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_backward_through_a_switched_weight_is_refused():
    model, _ = made("mixtral", "c3la", links=3)
    learned(model)
    advance_chain(model, torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2)))
    loss = run(model).square().sum()
    with model.disable_adapter(), pytest.raises(LopsidedError, match="was switched between a forward pass and its"):
        loss.backward()


def test_reading_an_adapted_parameter_past_the_forward_is_refused():
    model, _ = made("mixtral")
    router = model.base_model.model.model.layers[0].mlp.gate
    assert router.weight.shape == router.base_layer.weight.shape
    with pytest.raises(LopsidedError, match="past the adapter in its forward"):
        torch.nn.functional.linear(torch.randn(1, router.weight.shape[1]), router.weight)
    assert router.top_k == router.base_layer.top_k


def test_rows_with_adapters_of_their_own_are_refused():
    model, _ = made("mixtral")
    with pytest.raises(LopsidedError, match="experts and routers with adapters see tokens without rows"):
        model(input_ids=ids(model), adapter_names=["default", "__base__"])


class Owner(nn.Module):
    """Parameters of every shape."""

    def __init__(self):
        super().__init__()
        self.line, self.four = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 3, 4, 5))
        self.matrix = nn.Parameter(torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_parameters": ["own.line"]}, "own.line has 1 dimensions; expected a matrix or a stack"),
        ({"target_parameters": ["own.four"]}, "own.four has 4 dimensions"),
        ({"target_parameters": ["own.matrx"]}, "'own.matrx' is no parameter's name or end of one"),
        ({"target_parameters": ["own.matrix"], "dropout": 0.1}, "where no dropout reaches, got dropout=0.1"),
        ({"target_parameters": ["gru.weight_ih_l0"]}, "is read by GRU from a list of its own"),
        ({"target_parameters": ["linear.weight"]}, "is in a layer, a Linear; .* name the module in target_modules"),
        ({"target_parameters": ["own.matrix"], "layers_to_transform": [0]}, "layers_to_transform=.* expected one of"),
        ({"target_parameters": ["own.matrix"], "r": 5}, r"r=5, d_in=4 in own.matrix"),
    ],
)
def test_other_parameters_are_refused_by_name_and_nothing_is_changed(options, words):
    model = nn.ModuleDict({"own": Owner(), "gru": nn.GRU(4, 4), "linear": nn.Linear(4, 4)})
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(LopsidedError, match=words) as error:
        lopsided.adapt(model, "cla", **{"r": 2, **options})
    assert "\n" not in str(error.value)
    assert [name for name, _ in model.named_modules()] == names


def test_the_joint_projection_of_torch_s_attention_is_a_parameter_too():
    torch.manual_seed(0)
    net = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, batch_first=True)}).eval()
    x, twin = torch.randn(2, 3, 8), copy.deepcopy(net)
    model = lopsided.adapt(net, "cla", r=2, target_parameters=["attention.in_proj_weight"]).eval()
    learned(model, scale=1.0)
    [layer] = layers_of(model).values()
    with torch.no_grad():
        twin["attention"].in_proj_weight += _delta(layer)
        attention = model.base_model.model["attention"]
        torch.testing.assert_close(attention(x, x, x)[0], twin["attention"](x, x, x)[0])


def test_stock_lora_trains_as_many_numbers():
    for targets in (["w1", "w2", "w3"], ["gate"]):
        stock = peft.get_peft_model(moe("mixtral", "cpu"), peft.LoraConfig(r=2, target_modules=targets))
        ours = lopsided.adapt(moe("mixtral", "cpu"), "lora", r=2, target_modules=targets)
        assert stock.get_nb_trainable_parameters()[0] == ours.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("name", ["cla", "lora"])
def test_a_saved_configuration_names_its_parameters(name, tmp_path):
    model, _ = made("mixtral", name)
    model.save_pretrained(tmp_path)
    config = LopsidedConfig.from_pretrained(tmp_path)
    assert "model.layers.0.mlp.experts.down_proj" in config.target_parameters
    assert config.rank_and_scale("model.layers.0.mlp.experts.gate_up_proj") == (4, 2.0)


@pytest.mark.parametrize("method", ["c3la", "rac_a", "lora"])
@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_oss", "llama4_text", "jetmoe"])
def test_an_export_is_the_same_function_in_stock_peft(kind, method, tmp_path):
    model, base = made(kind, method, **({"links": 3} if method in tiny.CHAINS else {}))
    learned(model)
    if method in tiny.CHAINS:
        advance_chain(model, torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2)))
        learned(model, 2)
    lopsided.to_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    assert any(type(module).__name__ == "ParamWrapper" for module in loaded.modules())
    torch.testing.assert_close(run(loaded), run(model), rtol=1e-3, atol=1e-4)
