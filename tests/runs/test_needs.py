"""What a run is said to need is what it takes."""

from __future__ import annotations

import time

import pytest

from lopsided.runs import ModelCache, finished_run, load_inputs, needs
from lopsided.runs.memory import MemoryFree
from lopsided.runs.needs import bytes_of_weights, lack_of_memory, memory_needed, time_probe
from tests.tiny_runs import tiny_config


@pytest.mark.parametrize("method", ["full", "head", "lora", "c3la"])
def test_memory_is_that_of_the_run(run_once, tmp_path, bert, words, method):
    # All rows of `words` have one length, as the probe's have.
    options = {"model": bert, "task": words, "method": method, "steps": 4}
    run = finished_run(run_once(**options)[0])
    config = tiny_config(tmp_path / "run", **options)
    inputs = load_inputs(config)
    plain = bytes_of_weights(config, inputs.data)
    assert plain == 4 * sum(parameter.numel() for parameter in inputs.model.parameters())
    needed = memory_needed(config, inputs)
    assert needed.step == pytest.approx(run.kept_bytes, rel=0.05)
    # The factors of an adapter come on top, and a copy of the head as it was.
    assert plain <= needed.weights <= plain + 4 * run.trained_parameters * 2 + 2**14
    assert needed.trained == 3 * 4 * run.trained_parameters
    assert needed.total == needed.weights + needed.trained + needed.step
    assert not config.out.exists()


def test_a_run_that_does_not_fit_is_told_before_it_is_loaded(tmp_path, monkeypatch, bert, words):
    config, cache = tiny_config(tmp_path / "run", model=bert, task=words, method="full"), ModelCache()
    data = cache.data(config)
    needed, weights = memory_needed(config, cache.inputs(config)).total, bytes_of_weights(config, data)

    def free(host: int, device: int | None = None) -> None:
        monkeypatch.setattr(needs, "memory_free", lambda: MemoryFree(host=host, device=device))

    free(needed)
    assert lack_of_memory(config, data, cache.inputs) is None
    free(needed - 1)
    assert "for a step of 16 rows; lower batch_size" in lack_of_memory(config, data, cache.inputs)
    # With an accelerator, its memory is the one that counts.
    free(2**40, needed - 1)
    assert lack_of_memory(config, data, cache.inputs).startswith("too little memory for full: 0.0 GiB needed")

    def never(config):
        raise AssertionError("weights that do not fit are not loaded")

    free(weights - 1)
    assert "alone; take a smaller model" in lack_of_memory(config, data, never)


def test_time_is_that_of_the_parts(tmp_path, bert, words):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="c3la", accumulate=2, eval_rows=20)
    inputs = load_inputs(config)
    probe = time_probe(config, inputs)
    assert 0 < probe.row < probe.step
    assert probe.answer == 0
    rows = 4 * 20 + 64 + 20 + 40
    assert probe.seconds(config, inputs.data) == pytest.approx(30 * probe.step + rows * probe.row)
    assert not config.out.exists()


def test_the_time_of_answers_counts_where_a_task_is_judged_by_them(tmp_path, llama, phrases):
    config = tiny_config(
        tmp_path / "run", model=llama, task=phrases, method="lora", metric="exact_match", max_new_tokens=3
    )
    inputs = load_inputs(config)
    probe = time_probe(config, inputs)
    assert probe.answer > 0
    rows = 4 * 32 + 64 + 32 + 40
    expected = 30 * probe.step + rows * probe.row + (32 + 40) * probe.answer
    assert probe.seconds(config, inputs.data) == pytest.approx(expected)


@pytest.mark.more
def test_a_plan_is_near_what_a_run_takes(tmp_path, bert, words):
    from lopsided.runs import train

    config = tiny_config(tmp_path / "run", model=bert, task=words, method="lora", steps=200)
    inputs = load_inputs(config)
    planned = time_probe(config, inputs).seconds(config, inputs.data)
    start = time.perf_counter()
    train(config)
    assert 0.2 < planned / (time.perf_counter() - start) < 5
