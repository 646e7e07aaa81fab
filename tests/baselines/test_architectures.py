"""Methods of stock PEFT on other architectures: refused without weights, or saved, loaded and merged exactly."""

from __future__ import annotations

import pytest
import torch

from lopsided import LopsidedError
from lopsided.baselines import BASELINES
from lopsided.baselines.put_on import load, put_on, taken_off
from lopsided.method import method_named
from lopsided.models.skeleton import without_weights
from tests.tiny import bart, gpt2, inputs, llama

# GPT-2's layers are transformers' Conv1D.
REFUSED = {("gpt2", "miss"), ("gpt2", "shira"), ("gpt2", "oft")}


@pytest.mark.more
@pytest.mark.parametrize("build", [gpt2, llama, bart], ids=lambda build: build.__name__)
@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_refused_without_weights_or_works(build, name, tmp_path):
    method = method_named(f"peft:{name}")
    options = {"rank": 2, "alpha": None, "targets": "all-linear", "heads": [], "dropout": 0.0, "steps": 9, "seed": 0}
    if (build.__name__, name) in REFUSED:
        with pytest.raises(LopsidedError, match=f"PEFT refuses to put 'peft:{name}' on GPT2LMHeadModel"):
            put_on(without_weights(build()), method, **options)
        return
    put_on(without_weights(build()), method, **options)
    model = put_on(build(), method, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    batch = inputs(model)
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    expected = model.eval()(**batch).logits
    assert not torch.allclose(expected, build()(**batch).logits, atol=1e-4)
    BASELINES[name].save(model, tmp_path)
    loaded = load(tmp_path, build(), trainable=False)
    torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(taken_off(loaded, merged=True)(**batch).logits, expected, atol=2e-5, rtol=0)
