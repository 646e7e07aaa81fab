"""The average of a factor is that of ΔW next to a shared sketch, in any order, and by row for unequal ranks."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lopsided import LopsidedError
from lopsided.federated.averaging import ClientUpdate, average
from lopsided.federated.factors import advance_to, load_trained, row_axis, trained_tensors
from lopsided.federated.first_rows import cut_rows, first_rows_train
from tests import tiny
from tests.federated.rounds import (
    SINGLE_FACTOR_CHAINS,
    R,
    adapted,
    delta_of,
    random_like,
    shapes_of,
    updates_for,
)

NAME = "q.lopsided_B.default.weight"


def mean_of_deltas(models, updates):
    """The average of ΔW itself, each client's from its own model: the slow oracle."""
    total = sum(update.examples for update in updates)
    deltas = [delta_of(model, update.tensors) for model, update in zip(models, updates)]
    return {k: sum(u.examples / total * d[k].double() for u, d in zip(updates, deltas)) for k in deltas[0]}


def largest_difference(a, b) -> float:
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


@pytest.mark.parametrize("link", [0, 3])
@pytest.mark.parametrize("method", SINGLE_FACTOR_CHAINS)
def test_averaging_the_factor_is_averaging_the_change_of_weights(method, link):
    server = adapted(method)
    advance_to(server, link)
    updates = updates_for(server)
    averaged = average(updates, shapes_of(trained_tensors(server)))
    expected = mean_of_deltas([server] * len(updates), updates)
    assert max(float(delta.abs().max()) for delta in expected.values()) > 1e-2
    assert largest_difference(delta_of(server, averaged), expected) < 1e-6


@pytest.mark.parametrize("method", SINGLE_FACTOR_CHAINS)
def test_without_a_shared_sketch_it_is_not(method):
    clients = [adapted(method, seed=seed) for seed in range(3)]
    server = clients[0]
    updates = updates_for(server)
    expected = mean_of_deltas(clients, updates)
    averaged = average(updates, shapes_of(trained_tensors(server)))
    apart = largest_difference(delta_of(server, averaged), expected)
    # A cyclic window is the same for every seed: it is always shared.
    assert apart < 1e-6 if method == "c3la" else apart > 1e-2


def test_nor_is_it_where_both_factors_train():
    server = adapted("cola")
    updates = updates_for(server)
    averaged = average(updates, shapes_of(trained_tensors(server)))
    assert largest_difference(delta_of(server, averaged), mean_of_deltas([server] * 3, updates)) > 1e-2


def test_the_bits_do_not_depend_on_who_answered_first():
    # Numbers that cancel: a sum in the order of arrival would lose the small ones in some orders.
    values = {"a": 1e20, "b": 1.0, "c": -1e20}
    updates = [ClientUpdate(client=k, examples=1, tensors={NAME: torch.full((1, 2), v)}) for k, v in values.items()]
    updates += updates_for_one(seed=4)
    averages = [average(order, {NAME: (1, 2)})[NAME] for order in itertools.permutations(updates)]
    assert all(torch.equal(each, averages[0]) for each in averages)


def updates_for_one(seed):
    sent = random_like({NAME: torch.zeros(1, 2)}, seed)
    return [ClientUpdate(client="d", examples=5, tensors=sent)]


@given(examples=st.integers(1, 10**6), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_the_average_of_one_client_is_what_it_sent(examples, seed):
    sent = random_like({NAME: torch.zeros(5, 3)}, seed)
    averaged = average([ClientUpdate(client="a", examples=examples, tensors=sent)], {NAME: (5, 3)})
    assert torch.equal(averaged[NAME], sent[NAME])


@given(
    ranks=st.lists(st.integers(1, R), min_size=1, max_size=5),
    letter=st.sampled_from("ABC"),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=40, deadline=None)
def test_each_row_is_averaged_over_those_who_trained_it(ranks, letter, seed):
    name = f"q.lopsided_{letter}.default.weight"
    axis, shape = row_axis(name), (5, R) if letter == "B" else (R, 5)
    whole = [random_like({name: torch.zeros(shape)}, seed + m)[name] for m in range(len(ranks))]
    updates = [
        ClientUpdate(client=f"{m}", examples=m + 1, tensors=cut_rows({name: t}, {name: rank}), ranks={name: rank})
        for m, (t, rank) in enumerate(zip(whole, ranks))
    ]
    start = torch.full(shape, 7.0)
    averaged = average(updates, {name: shape}, start={name: start})[name]
    for row in range(R):
        who = [m for m, rank in enumerate(ranks) if rank > row]
        weight = sum(m + 1 for m in who)
        expected = sum((m + 1) * whole[m].select(axis, row).double() for m in who) / weight if who else 7.0
        assert torch.allclose(averaged.select(axis, row).double(), torch.as_tensor(expected).double(), atol=1e-6)


@pytest.mark.parametrize("method", ["rac_b", "rac_a", "bernoulli", "c3la"])
def test_a_client_of_lower_rank_trains_the_first_rows_alone(method):
    model = adapted(method)
    before = trained_tensors(model)
    with first_rows_train(model, 2) as ranks:
        tiny.train_a_little(model)
    trained = trained_tensors(model)
    assert ranks == {name: 2 for name in before if row_axis(name) is not None}
    for name in ranks:
        axis = row_axis(name)
        assert trained[name].narrow(axis, 0, 2).any()
        # Zero to the bit, under AdamW with its decay.
        assert not trained[name].narrow(axis, 2, R - 2).any()
    heads = [name for name in before if name not in ranks]
    assert all(not torch.equal(trained[name], before[name]) for name in heads)
    update = ClientUpdate(client="a", examples=1, tensors=cut_rows(trained, ranks), ranks=ranks)
    averaged = average([update], shapes_of(before))
    assert all(torch.equal(averaged[name], trained[name]) for name in before)
    # The hooks are gone: every row trains again.
    tiny.train_a_little(model)
    assert all(trained_tensors(model)[name].narrow(row_axis(name), 2, R - 2).any() for name in ranks)


def test_the_average_goes_back_into_a_model():
    server = adapted("rac_a")
    load_trained(server, average(updates_for(server), shapes_of(trained_tensors(server))))


def update(client="a", examples=1, tensors=None, ranks=None):
    return ClientUpdate(client=client, examples=examples, tensors=tensors or {NAME: torch.ones(2, 3)}, ranks=ranks)


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ([], "no update to average"),
        ([update(), update()], "client 'a' has two updates"),
        ([update(examples=0)], "expected examples, got 0"),
        ([update(tensors={"x": torch.ones(2, 3)})], "1 of 1 tensors missing"),
        ([update(tensors={NAME: torch.ones(2, 2)})], r"has shape \[2, 2\], expected \[2, 3\]"),
        ([update(ranks={NAME: 4})], "expected a rank from 1 to 3, got 4"),
        ([update(ranks={NAME: 2})], r"has shape \[2, 3\], expected \[2, 2\]"),
    ],
)
def test_what_can_not_be_averaged_is_refused(updates, message):
    with pytest.raises(LopsidedError, match=message):
        average(updates, {NAME: (2, 3)})


def test_rows_stay_where_a_start_has_every_tensor():
    with pytest.raises(LopsidedError, match="start: 1 of 1 tensors missing"):
        average([update()], {NAME: (2, 3)}, start={})


def test_ranks_are_those_of_factors():
    model = adapted()
    with pytest.raises(LopsidedError, match="at least 1, got 0"), first_rows_train(model, 0):
        pass
    with pytest.raises(LopsidedError, match="trains no factor next to a sketch"), first_rows_train(tiny.bert(), 1):
        pass
    with pytest.raises(LopsidedError, match="no rows of a sketch"):
        cut_rows({"classifier.weight": torch.ones(2, 2)}, {"classifier.weight": 1})
