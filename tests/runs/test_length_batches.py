"""Batches of rows of about equal length: the same rows, less padding, an order that is random still."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopsided.runs import finished_run, train
from lopsided.runs.length_batches import POOL, LengthBatches
from tests.tiny_runs import Cut, PowerCut, tiny_config


def epoch(lengths, size, seed=0, number=0):
    return list(LengthBatches(lengths, size, seed, lambda: number))


def padded(lengths, order, size):
    return sum(int(lengths[order[i : i + size]].max()) * len(order[i : i + size]) for i in range(0, len(order), size))


@settings(max_examples=100)
@given(st.lists(st.integers(0, 40), max_size=200), st.integers(1, 9), st.integers(0, 2**40), st.integers(0, 3))
def test_an_epoch_has_every_row_once_and_pools_are_cut_at_lengths(lengths, size, seed, number):
    order = epoch(lengths, size, seed, number)
    assert sorted(order) == list(range(len(lengths)))
    for start in range(0, len(order), POOL * size):
        pool = [lengths[row] for row in order[start : start + POOL * size]]
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        assert all(len(batch) == size for batch in batches[:-1])
        # No batch of a pool reaches into the lengths of another one.
        spans = sorted((min(batch), max(batch)) for batch in batches)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


def test_order_is_random_and_padding_halved():
    lengths = np.random.RandomState(0).gamma(4, 7, size=2000).astype(int) + 2
    order = np.array(epoch(lengths, 32))
    plain = np.random.RandomState(1).permutation(len(lengths))
    assert padded(lengths, order, 32) < 0.6 * padded(lengths, plain, 32)
    means = np.array([lengths[order[i : i + 32]].mean() for i in range(0, 1984, 32)])
    # Neither the number of a batch nor the batch before it tells how long its rows are.
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


def test_seed_and_epoch_decide():
    lengths = np.arange(100)
    assert epoch(lengths, 8) == epoch(lengths, 8)
    assert epoch(lengths, 8, number=1) != epoch(lengths, 8) != epoch(lengths, 8, seed=1)


def test_rows_of_one_length_stay_in_a_random_order():
    order = epoch([0] * 64, 4)
    assert sorted(order) == list(range(64)) != order


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_sees_the_rows_that_an_undisturbed_one_sees(run_once, tmp_path, bert, words, accumulate):
    # Checkpoints at 8, 16 and 24 lie in several epochs.
    options = {"model": bert, "task": words, "method": "lora", "group_by_length": True, "accumulate": accumulate}
    undisturbed, record = run_once(**options)
    for step in (3, 19, 29):
        config = tiny_config(tmp_path / str(step), **options)
        with pytest.raises(PowerCut):
            train(config, callbacks=[Cut(step)])
        run = train(config, resume=True)
        assert run.to_json()["metrics"] == record["metrics"]
        assert run.losses("train") == finished_run(undisturbed).losses("train")


def test_it_is_another_run_than_that_with_rows_as_they_come(run_once, bert, words):
    _, grouped = run_once(model=bert, task=words, method="lora", group_by_length=True)
    _, plain = run_once(model=bert, task=words, method="lora")
    assert grouped["metrics"] != plain["metrics"]
