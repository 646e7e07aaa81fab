"""Adapters to save and to damage."""

from __future__ import annotations

import lopsided
from lopsided.files.manifest import KEY, hash_of
from tests import tiny

FILE = "adapter_model.safetensors"
MANIFEST = f"base_model.model.{KEY}"


def chained(folder=None, name="c3la", links=3, seed=0, **options):
    """A trained adapter of a tiny BERT at link 1, with its head; saved where a folder is given."""
    model = lopsided.adapt(tiny.bert(), name, r=2, target_modules=["query", "dense"], links=links, seed=seed, **options)
    optimizer = tiny.train_a_little(model)
    if links:
        lopsided.advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    model.eval()
    if folder is not None:
        model.save_pretrained(folder)
    return model


def state(model):
    """Everything that a load changes, as bytes."""
    saved = {key: hash_of(t) for key, t in model.state_dict().items()}
    weights = {key: hash_of(p) for key, p in model.named_parameters(remove_duplicate=False)}
    return saved, weights, model.peft_config["default"].link, hash_of(tiny.logits(model))
