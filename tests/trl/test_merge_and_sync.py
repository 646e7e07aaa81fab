"""TRL's GRPO merges the adapter before each generation, sends the weights to vLLM, and unmerges it again.

The stand-in for vLLM's server takes what TRL sends it, and answers with random tokens. With `make_merges_exact` the
base weights have their original bits after every step's sync; with PEFT's own merges they drift.
"""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

import lopsided
from tests.trl.test_trl import WORDS, base, options, tokenizer  # noqa: F401  (a fixture)
from tests.tuner.merging import stock
from tests.tuner.merging.test_exact_merge import assert_rounded_once, in_float64

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
pytestmark = [pytest.mark.more, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]

STEPS = 5


class Server:
    """What `trl.generation.vllm_client.VLLMClient` is to a trainer, without a server."""

    def __init__(self, **settings) -> None:
        self.received: list[dict[str, torch.Tensor]] = []
        self.generator = torch.Generator().manual_seed(0)

    def init_communicator(self, device) -> None:
        """There is nobody to talk to."""

    def get_server_info(self):
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, metadata, params) -> None:
        received = {name: parameter.clone() for name, parameter in params}
        assert [(name, list(p.shape)) for name, p in received.items()] == [(name, shape) for name, _, shape in metadata]
        self.received.append(received)

    def reset_prefix_cache(self) -> None:
        """There is no cache."""

    def generate(self, prompts, n, max_tokens, **sampling):
        rows = len(prompts) * n
        tokens = torch.randint(4, len(WORDS), (rows, max_tokens), generator=self.generator).tolist()
        logprobs = [[[-3.0] for _ in row] for row in tokens]
        return {"prompt_ids": prompts, "completion_ids": tokens, "logprobs": logprobs}


@pytest.fixture
def trained(monkeypatch, tokenizer, tmp_path):  # noqa: F811
    """Train a model with GRPO; returns what the server received, and the base weights after each sync."""
    from trl.generation import vllm_generation

    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "VLLMClient", Server)

    def train(model):
        more = {"max_completion_length": 6, "num_generations": 4, "use_vllm": True, "vllm_mode": "server"}
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **kwargs: [float(len(set(text.split()))) for text in completions],
            args=trl.GRPOConfig(**options(tmp_path, max_steps=STEPS, learning_rate=5e-2, **more)),
            train_dataset=Dataset.from_dict({"prompt": ["the river is", "a stone was", "the lamp is", "a cloud was"]}),
            processing_class=tokenizer,
        )
        after, sync = [], trainer.vllm_generation.sync_weights

        def noted() -> None:
            sync()
            after.append(stock.base_weights(model))

        monkeypatch.setattr(trainer.vllm_generation, "sync_weights", noted)
        trainer.train()
        return trainer.vllm_generation.vllm_client.received, after

    return train


def policy():
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    return get_peft_model(base().to(torch.bfloat16), config)


def test_grpo_syncs_and_the_weights_keep_their_bits(trained):
    model = policy()
    before = stock.base_weights(model)
    lopsided.make_merges_exact(model)
    received, after = trained(model)
    assert len(after) == len(received) == STEPS
    assert all(stock.same_bits(weights, before) for weights in after)
    assert stock.same_bits(stock.base_weights(model), before)
    # The server had W0 + ΔW each time, another one after each step of training.
    assert received[0].keys() <= before.keys()
    adapted = [name for name in before if any(target in name for target in ("q_proj", "v_proj", "down_proj"))]
    assert len(adapted) == 6
    assert all(not torch.equal(received[-1][name], before[name]) for name in adapted)
    assert all(not torch.equal(received[-1][name], received[-2][name]) for name in adapted)
    # Rounded once: what the server would get next is next to PEFT's own merge of the same adapter in float64.
    twin = policy()
    twin.load_state_dict(model.state_dict())
    expected = in_float64(twin)
    model.merge_adapter()
    assert_rounded_once(stock.base_weights(model), expected)


def test_with_peft_s_own_merges_the_weights_drift(trained):
    model = policy()
    before = stock.base_weights(model)
    _, after = trained(model)
    # The first adapter is zero, so the first sync changes nothing.
    assert stock.same_bits(after[0], before)
    counts = [sum(stock.changed(weights, before).values()) for weights in after]
    assert counts[-1] > counts[1] > 0
