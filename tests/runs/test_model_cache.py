"""A cache gives every run what loading again would have given, and its own copy of it."""

from __future__ import annotations

import pytest
import torch

from lopsided.runs import ModelCache, Prepared, load_inputs, train
from lopsided.runs import memory as memory_module
from lopsided.runs.memory import memory_free
from tests.runs.test_resume import assert_same_run
from tests.tiny_runs import tiny_config


def assert_same_model(mine, theirs) -> None:
    assert type(mine) is type(theirs)
    assert mine.config.to_dict() == theirs.config.to_dict()
    for kind in ("named_parameters", "named_buffers"):
        tensors, others = dict(getattr(mine, kind)()), dict(getattr(theirs, kind)())
        assert tensors.keys() == others.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == others[name].dtype
            assert tensor.requires_grad == others[name].requires_grad
            assert torch.equal(tensor, others[name]), name
    assert mine.training == theirs.training


@pytest.fixture
def loaded(monkeypatch) -> list[int]:
    """The seeds that models are loaded with from now on."""
    from lopsided.runs import model_cache

    seeds, load = [], model_cache.load_model

    def counting(name, task, *, seed):
        seeds.append(seed)
        return load(name, task, seed=seed)

    monkeypatch.setattr(model_cache, "load_model", counting)
    return seeds


@pytest.mark.parametrize("limit", [None, 0])
def test_models_are_the_bits_that_loading_gives_whatever_became_of_the_others(tmp_path, bert, words, loaded, limit):
    cache = ModelCache(model_bytes=limit)
    for seed in (3, 4, 3, 4, 3):
        config = tiny_config(tmp_path, model=bert, task=words, seed=seed)
        model = cache.inputs(config).model
        assert_same_model(model, load_inputs(config).model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0).requires_grad_(False)
    # Held, a model is loaded once per seed; with no room for it, once per run.
    assert loaded == ([3, 4] if limit is None else [3, 4, 3, 4, 3])


def test_tied_weights_stay_tied(tmp_path, t5, phrases):
    config = tiny_config(tmp_path, model=t5, task=phrases)
    cache = ModelCache()
    for _ in range(2):
        model = cache.inputs(config).model
        assert model.get_input_embeddings().weight is model.encoder.embed_tokens.weight
        assert_same_model(model, load_inputs(config).model)


def test_another_model_takes_the_place_of_the_first(tmp_path, bert, llama, words, loaded):
    cache = ModelCache()
    for model in (bert, llama, llama, bert):
        config = tiny_config(tmp_path, model=model, task=words)
        assert_same_model(cache.inputs(config).model, load_inputs(config).model)
    assert len(loaded) == 3


def test_rows_are_shared_by_what_they_depend_on_and_let_go_in_turn(tmp_path, bert, words):
    cache = ModelCache(tasks=2)
    first = cache.data(tiny_config(tmp_path, model=bert, task=words))
    assert cache.data(tiny_config(tmp_path, model=bert, task=words, seed=3, method="head", lr=1.0)) is first
    shorter = cache.data(tiny_config(tmp_path, model=bert, task=words, max_length=8))
    assert shorter is not first
    assert cache.data(tiny_config(tmp_path, model=bert, task=words)) is first
    cache.data(tiny_config(tmp_path, model=bert, task=words, metric="f1_macro"))
    assert cache.data(tiny_config(tmp_path, model=bert, task=words, max_length=8)) is not shorter


def test_a_run_from_a_cache_is_the_run_alone(run_once, tmp_path, bert, words):
    options = {"model": bert, "task": words, "method": "c3la"}
    alone, _ = run_once(**options)
    prepared = Prepared(load=ModelCache().inputs)
    train(tiny_config(tmp_path / "first", **{**options, "seed": 1, "method": "full"}, steps=3), prepared=prepared)
    train(tiny_config(tmp_path / "run", **options), prepared=prepared)
    assert_same_run(tmp_path / "run", alone)


def test_free_memory_heeds_the_limit_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_module, "CONTAINER", tmp_path)
    unlimited = memory_free().host
    assert unlimited > 2**20
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 100\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_free().host > 2**20
    (tmp_path / "memory.max").write_text("1000\n")
    assert (memory_free().host, memory_free().for_training) == (400, memory_free().device or 400)
