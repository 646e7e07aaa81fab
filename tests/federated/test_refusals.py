"""Every fault of an answer is refused by name, and the round goes on with the rest."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from lopsided import LopsidedError
from lopsided.federated.averaging import ClientUpdate, average
from lopsided.federated.refusals import NormLimit, norm_limit, refusal, sizes, sort_out

B, HEAD = "q.lopsided_B.default.weight", "classifier.bias"
SHAPES = {B: (4, 2), HEAD: (3,)}


def answer(client="a", scale=0.1, **changes):
    tensors = {B: torch.full((4, 2), scale), HEAD: torch.full((3,), 0.5)}
    return dataclasses.replace(ClientUpdate(client=client, examples=10, tensors=tensors), **changes)


def with_tensor(client="a", name=B, **options):
    update = answer(client)
    return dataclasses.replace(update, tensors={**update.tensors, name: options["value"]})


FAULTS = [
    (with_tensor(value=torch.full((4, 2), torch.nan)), "weight' holds NaN or Inf"),
    (with_tensor(value=torch.full((4, 2), -torch.inf)), "holds NaN or Inf"),
    (with_tensor(value=torch.zeros(2, 4)), r"has shape \[2, 4\], expected \[4, 2\]"),
    (with_tensor(value=torch.zeros(4, 2).long()), "has dtype torch.int64"),
    (with_tensor(name="other", value=torch.zeros(1)), r"1 foreign \('other'\)"),
    (answer(tensors={B: torch.zeros(4, 2)}), r"1 of 2 tensors missing \('classifier.bias'\)"),
    (answer(examples=0), "it has 0 examples"),
    (answer(examples=-3), "it has -3 examples"),
    (answer(examples=True), "it has True examples"),
    (answer(examples=2**40), "expected 1 to"),
    (answer(ranks={B: 3}), "expected a rank from 1 to 2, got 3"),
    (answer(ranks={B: 1}), r"has shape \[4, 2\], expected \[4, 1\]"),
    (answer(ranks={HEAD: 1}), "no rows of a sketch"),
    (answer(ranks={"other": 1}), "a rank for 'other'"),
    (answer(scale=1e30), "its trained factors have a root mean square of 1e\\+30"),
    (with_tensor(name=HEAD, value=torch.full((3,), 1e6)), "its heads and other weights have a root mean square"),
]


@pytest.mark.parametrize(("bad", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_a_fault_is_refused_and_the_round_goes_on(bad, message):
    bad = dataclasses.replace(bad, client="bad")
    good = [answer("a", 0.1), answer("b", 0.2)]
    # First, so that it is not refused for coming late.
    answers = sort_out([bad, *good], SHAPES)
    assert [update.client for update in answers.taken] == ["a", "b"]
    assert set(answers.refused) == {"bad"}
    assert "\n" not in answers.refused["bad"]
    assert re.search(message, answers.refused["bad"])
    averaged = average(answers.taken, SHAPES)
    assert torch.allclose(averaged[B], torch.full((4, 2), 0.15))


def test_a_sound_answer_is_taken_whatever_its_rank_or_dtype():
    cut = answer(tensors={B: torch.full((4, 1), 0.1), HEAD: torch.zeros(3)}, ranks={B: 1})
    rounded = with_tensor(value=torch.full((4, 2), 0.1, dtype=torch.bfloat16))
    for update in (answer(), cut, rounded):
        assert refusal(update, SHAPES, norm_limit=NormLimit()) is None


@pytest.mark.parametrize(
    ("scales", "refused"),
    [
        ([0.1, 0.1, 0.1, 2.1], ["3"]),
        # Twenty times the median's rows, and as many more steps in one direction.
        ([0.1, 0.1, 0.1, 1.9], []),
        ([0.1, 5.0], ["1"]),
        ([1e3], []),
        ([1e5], ["0"]),
        # Nobody moved but one: there is nothing to compare with.
        ([0.0, 0.0, 0.1], []),
        ([0.0, 0.0, 1e5], ["2"]),
        # The multiple of a large median is no licence.
        ([2e3, 2e3, 3e4], ["2"]),
    ],
)
def test_a_size_is_absurd_next_to_the_rounds_median(scales, refused):
    updates = [answer(str(m), scale) for m, scale in enumerate(scales)]
    assert list(sort_out(updates, SHAPES).refused) == refused


def test_the_size_does_not_depend_on_the_rank():
    cut = answer(tensors={B: torch.full((4, 1), 0.1), HEAD: torch.full((3,), 0.5)}, ranks={B: 1})
    assert sizes(cut) == pytest.approx(sizes(answer()))


def test_a_second_answer_is_refused_and_the_first_one_counts():
    first, second = answer("a", 0.1), answer("a", 0.2)
    answers = sort_out([first, second, answer("b", 0.1)], SHAPES)
    assert answers.taken[0] is first
    assert answers.refused == {"a": "answered twice; the first answer counts"}
    assert torch.allclose(average(answers.taken, SHAPES)[B], torch.full((4, 2), 0.1))


def test_a_client_that_restarts_after_a_bad_answer_is_taken():
    bad = with_tensor(value=torch.full((4, 2), torch.nan))
    answers = sort_out([bad, answer("a", 0.1)], SHAPES)
    assert [update.client for update in answers.taken] == ["a"]
    assert "NaN" in answers.refused["a"]


def test_many_answers_of_one_client_do_not_move_the_median():
    flood = [answer("bad", 50.0)] * 5
    answers = sort_out([*flood, answer("a"), answer("b")], SHAPES)
    assert [update.client for update in answers.taken] == ["a", "b"]


def test_second_answers_do_not_move_the_median():
    good, absurd = [answer(name) for name in "abc"], [answer(name, 50.0) for name in "abd"]
    answers = sort_out([*good, *absurd], SHAPES)
    assert list(answers.taken) == good
    assert set(answers.refused) == {"a", "b", "d"}


def test_a_multiple_that_would_refuse_the_median_is_refused():
    with pytest.raises(LopsidedError, match=r"at least 1, got 0\.5"):
        norm_limit([answer()], multiple=0.5)
