"""Convolutions and experts in real trainings: a chain is interrupted, goes on, is scored, reloaded and exported."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import MixtralConfig, MixtralForCausalLM

import lopsided
from lopsided.models.load import load_model
from lopsided.models.registry import twin_folder
from lopsided.runs import TrainConfig, train
from lopsided.runs.reload import reload
from lopsided.tasks import load_task
from lopsided.tuner import layers_of
from tests.test_real_answers import first_rows, tiny_gpt2
from tests.test_real_data import DATA, run_cut_and_resume

SHORT = {"method": "c3la", "links": 3, "rank": 4, "steps": 12, "batch_size": 8, "evaluations": 3, "train_rows": 16}


def check_run(config: TrainConfig, batch: dict, folder: Path) -> None:
    """The saved adapter comes back as what was trained, and its export is the same function in stock PEFT."""
    model = reload(config.out).eval()
    assert {adapter.link for layer in layers_of(model).values() for adapter in layer.adapters.values()} == {2}
    lopsided.to_lora(model, folder)
    base, _ = load_model(config.model, load_task(config.task, data=config.data), seed=config.seed)
    with torch.no_grad():
        plain = copy.deepcopy(base).eval()(**batch).logits
        expected = model(**batch).logits
        lora = PeftModel.from_pretrained(base, str(folder)).eval()
        torch.testing.assert_close(lora(**batch).logits, expected, atol=2e-4, rtol=1e-3)
        assert not torch.allclose(expected, plain, atol=1e-4)


@pytest.mark.more
@pytest.mark.skipif(not (DATA / "cifar10").is_dir(), reason=f"no pictures in {DATA}; set LOPSIDED_DATA")
def test_a_vision_transformer_with_its_patches_on_cifar10(tmp_path):
    config = TrainConfig(
        out=tmp_path / "run",
        model=str(twin_folder("vit")),
        task="cifar10",
        data=str(DATA),
        target_modules="projection,q_proj,v_proj",
        train_size=96,
        eval_rows=16,
        test=False,
        **SHORT,
    )
    record = run_cut_and_resume(config, cut=10)
    assert record["status"] == "finished"
    assert record["chain"]["boundaries"] == [4, 8]
    model = reload(config.out)
    kinds = {layer.kind.word for layer in layers_of(model).values()}
    assert kinds == {"linear", "convolution"}
    size = model.config.image_size
    check_run(config, {"pixel_values": torch.randn(2, 3, size, size)}, tmp_path / "lora")


@pytest.mark.more
@pytest.mark.skipif(not (DATA / "e2e").is_dir(), reason=f"no E2E rows in {DATA}; set LOPSIDED_DATA")
def test_a_small_mixtral_on_e2e(tmp_path):
    texts = first_rows("e2e", tmp_path / "e2e")
    folder = tmp_path / "model"
    tiny_gpt2(texts, folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    (folder / "config.json").unlink()
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "num_local_experts": 4, "max_position_embeddings": 256}
    made = MixtralConfig(vocab_size=size, bos_token_id=None, eos_token_id=0, **sizes)
    MixtralForCausalLM(made).save_pretrained(folder)
    config = TrainConfig(
        out=tmp_path / "run",
        model=str(folder),
        task=str(tmp_path / "e2e"),
        target_modules="q_proj,v_proj,w1,w2,w3",
        eval_rows=4,
        max_new_tokens=8,
        test=False,
        **SHORT,
    )
    record = run_cut_and_resume(config, cut=10)
    assert record["status"] == "finished"
    assert train(config, resume=True).to_json()["metrics"] == record["metrics"]
    model = reload(config.out)
    assert {layer.kind.word for layer in layers_of(model).values()} == {"linear", "parameter"}
    check_run(config, {"input_ids": torch.arange(5, 25)[None]}, tmp_path / "lora")


@pytest.mark.more
def test_the_blocks_of_a_diffusion_model(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
    ).eval()
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 7]), torch.randn(2, 5, 12)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_in", "proj_in"]
    model = lopsided.adapt(copy.deepcopy(unet), "c3la", r=2, links=3, target_modules=targets)
    assert {layer.kind.word for layer in layers_of(model).values()} == {"linear", "convolution"}
    with torch.no_grad():
        assert torch.equal(model(*inputs).sample, unet(*inputs).sample)
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    for _ in range(2):
        model(*inputs).sample.square().mean().backward()
        optimizer.step()
        lopsided.advance_chain(model, optimizer)
    model(*inputs).sample.square().mean().backward()
    optimizer.step()
    lopsided.to_lora(model, tmp_path)
    with torch.no_grad():
        expected = model(*inputs).sample
        assert not torch.allclose(expected, unet(*inputs).sample, atol=1e-3)
        lora = PeftModel.from_pretrained(copy.deepcopy(unet), str(tmp_path))
        torch.testing.assert_close(lora(*inputs).sample, expected, atol=1e-5, rtol=1e-4)
    original = unet.state_dict()
    assert all(torch.equal(value, original[key]) for key, value in model.unload().state_dict().items())


@pytest.mark.more
def test_sentence_transformers():
    library = pytest.importorskip("sentence_transformers")
    models = pytest.importorskip("sentence_transformers.models")
    words = models.Transformer(str(twin_folder("bert")))
    model = library.SentenceTransformer(modules=[words, models.Pooling(words.get_word_embedding_dimension())])
    texts = ["a first sentence", "another one"]
    before = model.encode(texts, convert_to_tensor=True)
    config = lopsided.LopsidedConfig(method="cla", r=2, target_modules=["query", "value", "word_embeddings"])
    model.add_adapter(config)
    layers = layers_of(model)
    assert {layer.kind.word for layer in layers.values()} == {"linear", "embedding"}
    assert torch.equal(model.encode(texts, convert_to_tensor=True), before)
    with torch.no_grad():
        for layer in layers.values():
            for factor in layer.trained("default").values():
                factor.normal_()
    assert not torch.allclose(model.encode(texts, convert_to_tensor=True), before, atol=1e-3)


class Partitioned(torch.nn.Linear):
    """A layer as DeepSpeed's ZeRO-3 leaves it: its weight is elsewhere, and has an id."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.weight = torch.nn.Parameter(torch.empty(0))
        self.weight.ds_id, self.weight.ds_shape = 7, torch.Size((4, 4))


def test_a_weight_that_deepspeed_has_partitioned_is_refused_by_name():
    with pytest.raises(lopsided.LopsidedError, match="layer is partitioned by DeepSpeed's ZeRO-3; expected") as error:
        lopsided.adapt(torch.nn.ModuleDict({"layer": Partitioned()}), "cla", r=2, target_modules=["layer"])
    assert "\n" not in str(error.value)
