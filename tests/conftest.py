"""Settings that every test shares; set before any library is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


import functools
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jinja2
import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from lopsided.runs import train
from lopsided.tuner import LopsidedLinear
from tests.made_up_inputs import with_made_up_inputs
from tests.tiny_runs import ANSWERS, DECIDING, VOCABULARY, MakeRun, save_model, tiny_config, write_task

# An example may take as long as a busy machine makes it: no test asserts a time.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="session")
def _threads():
    # Where two processes share the tests, each has a core of its own.
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True, scope="session")
def _fewer_collections():
    """Python's thresholds are for small programs; with these a run of the tests collects a tenth as often."""
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _templates_compiled_once() -> Iterator[None]:
    """PEFT writes a model card at each save, and the hub's library compiles the same template each time: a sixth of the
    processor time of tiny runs. The compiled code depends on the environment and the source alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", functools.cache(jinja2.Environment.compile))
        yield


@pytest.fixture(autouse=True, scope="module")
def _small_heap():
    # What earlier modules and the libraries leave in memory is walked by every full collection, of which a training
    # makes several; in the last third of the tests that took half of the time.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _calibrated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters that read data have a sketch from the start, of made-up inputs, so that tests over all methods meet them
    as they meet the others. Tests of calibration itself are marked `uncalibrated`.
    """
    if request.node.get_closest_marker("uncalibrated") is None:
        monkeypatch.setattr(LopsidedLinear, "add_adapter", with_made_up_inputs(LopsidedLinear.add_adapter))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Matrices of 32 columns are slower on two threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT: 2 layers, 32 wide, with the dropout that BERT has."""
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    return save_model(tmp_path_factory.mktemp("bert"), BertModel, config, "[CLS] $A [SEP]")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return save_model(tmp_path_factory.mktemp("llama"), LlamaForCausalLM, config, "$A")


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = T5Config(
        vocab_size=len(VOCABULARY),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )
    return save_model(tmp_path_factory.mktemp("t5"), T5ForConditionalGeneration, config, "$A [SEP]")


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Classification."""
    return write_task(tmp_path_factory.mktemp("words"), lambda text, w: {"text": text, "label": DECIDING[w]})


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sentence pairs, with labels in words; the second sentence decides."""
    return write_task(
        tmp_path_factory.mktemp("pairs"),
        lambda text, w: {"sentence1": "river stone", "sentence2": text, "label": ("no", "yes")[DECIDING[w]]},
    )


@pytest.fixture(scope="session")
def scores(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Regression."""
    return write_task(tmp_path_factory.mktemp("scores"), lambda text, w: {"text": text, "label": DECIDING[w] - 0.5})


@pytest.fixture(scope="session")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Generation."""
    return write_task(tmp_path_factory.mktemp("phrases"), lambda text, w: {"prompt": text, "completion": ANSWERS[w]})


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Makes a finished run, each different one once a session: its folder and its record."""
    made: dict[str, tuple[Path, dict[str, Any]]] = {}

    def run(**options: Any) -> tuple[Path, dict[str, Any]]:
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            config = tiny_config(tmp_path_factory.mktemp("run") / "out", **options)
            made[key] = config.out, train(config).to_json()
        return made[key]

    return run
