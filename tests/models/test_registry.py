from __future__ import annotations

import pytest

from lopsided.errors import LopsidedError
from lopsided.models.families import FAMILIES
from lopsided.models.load import load_model
from lopsided.models.registry import MODELS, known_model, model_source
from lopsided.models.task_classes import Goal

GOAL = Goal(name="some", kind="classification", labels=("no", "yes"))


@pytest.mark.parametrize("name", ["roberta-large", "FacebookAI/roberta-large"])
def test_a_short_name_and_the_hubs_lead_to_the_same_model(name):
    source = model_source(name)
    assert (source.path, source.arguments) == ("FacebookAI/roberta-large", {"revision": "main"})


def test_another_hub_name_stands_for_itself():
    assert model_source("someone/something").arguments == {}


def test_a_folder_goes_before_a_known_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    # Without a model in it, the name by chance is not meant.
    assert model_source("gpt2").path == "openai-community/gpt2"
    FAMILIES["gpt2"].write_twin(tmp_path / "gpt2")
    assert model_source("gpt2").path == "gpt2"


def test_a_twin_is_made_once_and_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("LOPSIDED_CACHE", str(tmp_path))
    model, tokenizer = load_model("twin:roberta-large", GOAL, seed=0)
    assert (model.config.model_type, model.config.hidden_size, len(tokenizer)) == ("roberta", 32, 261)
    folder = model_source("twin:FacebookAI/roberta-base").path
    assert folder == model_source("twin:roberta-large").path
    with pytest.raises(LopsidedError, match=r"unknown model 'twin:robarta-large'.*did you mean 'roberta-large'"):
        model_source("twin:robarta-large")


def test_an_unknown_name_suggests_the_nearest(monkeypatch):
    with pytest.raises(LopsidedError, match="did you mean 'roberta-large'") as caught:
        load_model("robeta-large", GOAL, seed=0)
    assert "\n" not in str(caught.value)


def test_without_a_network_it_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name, entry in MODELS.items():
        if entry.gated:
            with pytest.raises(LopsidedError) as caught:
                load_model(name, GOAL, seed=0)
            assert f"hf download {entry.hub} --local-dir FOLDER, with an account that has" in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_an_entry_holds_together(name):
    entry = MODELS[name]
    assert bool(entry.hub) != bool(entry.package)
    assert entry.family in FAMILIES
    assert known_model(entry.hub or name) is entry
