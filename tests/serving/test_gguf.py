"""Exports go through llama.cpp's own converter, and what comes out is the adapter's update of llama.cpp's weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from lopsided.serving import export_adapter
from tests.serving import llama_cpp
from tests.serving.adapters import stock_lora, trained
from tests.tiny_runs import word_tokenizer

pytestmark = pytest.mark.more
# llama.cpp's names of a Llama's modules.
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert(script: str, *arguments: object) -> None:
    command = [sys.executable, llama_cpp.sources() / script, *arguments, "--outtype", "f32"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def tensors_in(path: Path) -> tuple[dict[str, np.ndarray], GGUFReader]:
    reader = GGUFReader(path)
    return {tensor.name: tensor.data.reshape(tensor.shape[::-1]).copy() for tensor in reader.tensors}, reader


def base(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
        vocab_size=40,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer("$A").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["c3la", "rac_a", "cola", "stock"])
def test_the_converters_tensors_are_the_update_of_its_own_weights(name, tmp_path):
    base(tmp_path / "llama")
    if name == "stock":
        options = {"rank_pattern": {"q_proj": 6}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True}
        saved, _ = stock_lora("llama", tmp_path, target_modules="all-linear", **options)
    else:
        saved, _ = trained(name, "llama", tmp_path)
    exported = export_adapter(saved, tmp_path / "lora", server="gguf", probe=False)
    out = tmp_path / "adapter.gguf"
    convert("convert_lora_to_gguf.py", exported.path, "--base", tmp_path / "llama", "--outfile", out)
    found, reader = tensors_in(out)
    alpha = float(reader.get_field("adapter.lora.alpha").contents())
    assert reader.get_field("general.type").contents() == "adapter"
    assert len(found) == 2 * 2 * len(NAMES)
    written = load_file(exported.path / "adapter_model.safetensors")
    for layer in range(2):
        for module, short in NAMES.items():
            A, B = (found[f"blk.{layer}.{short}.weight.lora_{letter}"] for letter in "ab")
            # llama-adapter.h: a layer's scale is alpha over the rank of its own tensor.
            delta = alpha / B.shape[1] * (B @ A)
            key = f"base_model.model.model.layers.{layer}.{module}"
            ours = (written[f"{key}.lora_B.weight"] @ written[f"{key}.lora_A.weight"]).numpy()
            np.testing.assert_allclose(delta, as_llama_cpp_stores(ours, short), atol=1e-6, err_msg=f"{layer} {module}")
            assert np.abs(ours).max() > 0


def as_llama_cpp_stores(matrix: np.ndarray, short: str) -> np.ndarray:
    """Rows of queries and keys in the order of llama.cpp's rotary embedding: halves of a head, interleaved."""
    heads = {"attn_q": 4, "attn_k": 2}.get(short)
    if heads is None:
        return matrix
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


PERMUTE = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import torch
from conversion.llama import LlamaModel
weights = torch.arange(16.0 * 3).reshape(16, 3), torch.arange(8.0 * 3).reshape(8, 3)
torch.save([LlamaModel.permute(weights[0], 4, 4), LlamaModel.permute(weights[1], 4, 2)], sys.argv[2])
"""


def test_the_order_of_rows_is_the_one_that_llama_cpp_gives_to_weights(tmp_path):
    """The oracle above, held against what llama.cpp makes of a whole model's weights of 4 heads and 2 of keys."""
    out = tmp_path / "permuted.pt"
    command = [sys.executable, "-c", PERMUTE, str(llama_cpp.sources()), str(out)]
    subprocess.run(command, capture_output=True, timeout=300, check=True)
    for short, rows, permuted in zip(("attn_q", "attn_k"), (16, 8), torch.load(out)):
        weight = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        np.testing.assert_array_equal(permuted.numpy(), as_llama_cpp_stores(weight, short))


def test_what_is_refused_for_llama_cpp_would_come_out_wrong(tmp_path):
    """GPT-2's converter transposes square projections silently: the reason for the refusal."""
    saved, _ = trained("lora", "gpt2", tmp_path, target_modules=["attn.c_proj"])
    exported = export_adapter(saved, tmp_path / "lora", probe=False)
    word_tokenizer("$A").save_pretrained(tmp_path / "gpt2")
    out = tmp_path / "adapter.gguf"
    convert("convert_lora_to_gguf.py", exported.path, "--base", tmp_path / "gpt2", "--outfile", out)
    found, _ = tensors_in(out)
    written = load_file(exported.path / "adapter_model.safetensors")
    key = "base_model.model.transformer.h.0.attn.c_proj"
    ours = (written[f"{key}.lora_B.weight"] @ written[f"{key}.lora_A.weight"]).numpy()
    product = found["blk.0.attn_output.weight.lora_b"] @ found["blk.0.attn_output.weight.lora_a"]
    assert np.allclose(product, ours.T, atol=1e-6)
    assert not np.allclose(product, ours, atol=1e-3)
