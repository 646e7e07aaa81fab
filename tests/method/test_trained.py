"""The sides: what each says of itself, its flat form, and a user's own."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import lopsided
from lopsided import METHODS, Chain, Columns, LopsidedError, Method, Orthonormal, Singular
from lopsided.method import (
    LETTERS,
    SIDES,
    A,
    AdapterSide,
    B,
    Both,
    Coin,
    Head,
    Peft,
    Side,
    Whole,
    factor_shapes,
    from_shared,
    method_from_parts,
    side_named,
)
from lopsided.runs.saved_forms import FORMS
from lopsided.testing import check_method

D_OUT, D_IN, R = 5, 7, 2
# Every side as a part and in the flat form of a saved method.
FLAT = [
    (B(), {"train": "B"}),
    (A(), {"train": "A"}),
    (Both(), {"train": "AB"}),
    (Both(lr_ratio=16.0), {"train": "AB", "lr_ratio": 16.0}),
    (Coin(), {"train": "coin"}),
    (Coin(p=0.3), {"train": "coin", "p": 0.3}),
    (Whole(), {"train": "all"}),
    (Head(), {"train": "head"}),
    (Peft(), {"train": "peft"}),
]
ADAPTER_SIDES = [side for side, _ in FLAT if isinstance(side, AdapterSide)]
WORDS = [word for word in SIDES if SIDES[word].__module__ == "lopsided.method.trained"]


def method_of(train, **parts):
    is_adapter = isinstance(train, AdapterSide) or train in ("B", "A", "AB", "coin")
    return Method(name="mine", train=train, sketch=Orthonormal() if is_adapter else None, source="test", **parts)


@pytest.mark.parametrize(("side", "flat"), FLAT, ids=str)
def test_a_part_and_its_flat_form_are_one_method(side, flat):
    method = method_of(side)
    assert method == method_of(**flat)
    assert hash(method) == hash(method_of(**flat))
    assert method.side == method_of(**flat).side == side
    parts = method.parts()
    assert {key: parts[key] for key in ("train", "lr_ratio", "p")} == {"lr_ratio": 1.0, "p": 0.5, **flat}
    read = method_from_parts(json.loads(json.dumps(parts)))
    assert (read, read.side) == (method, side)
    assert dataclasses.replace(method, lr=0.5).side == side


def test_every_side_is_tried_here():
    assert {side.word for side, _ in FLAT} == set(WORDS)
    assert WORDS == ["B", "A", "AB", "coin", "all", "head", "peft"]


def test_registering_with_a_part_is_registering_with_its_words():
    method = lopsided.register("mine_plus", train=Both(lr_ratio=16.0), sketch=Orthonormal(), source="test")
    try:
        again = lopsided.register("mine_plus", train="AB", lr_ratio=16.0, sketch=Orthonormal(), source="test")
        assert again == method == METHODS["mine_plus"]
    finally:
        del METHODS["mine_plus"]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: method_of(Coin(p=0.3), p=0.4), ["Coin(p=0.3)", "p=0.4", "give one"]),
        (lambda: method_of(Both(lr_ratio=2.0), lr_ratio=3.0), ["lr_ratio=3.0", "give one"]),
        (lambda: method_of(B(), lr_ratio=3.0), ["lr_ratio=3.0", "two trained factors"]),
        (lambda: Coin(p=1.5), ["probability", "1.5"]),
        (lambda: Both(lr_ratio=0.0), ["positive", "0.0"]),
        (lambda: side_named("C"), ["one of B, A, AB, coin, all, head", "'C'"]),
        (lambda: method_of(Whole()).sketched_width(D_OUT, D_IN), ["'all'", "no adapter"]),
    ],
)
def test_bad_sides_are_refused(build, words):
    with pytest.raises(LopsidedError) as error:
        build()
    assert all(word in str(error.value) for word in words)


def test_flat_fields_that_a_side_does_not_have_stay_as_they_were_saved():
    parts = {**method_of(B()).parts(), "p": 0.3}
    assert method_from_parts(parts).parts() == parts


def test_what_a_method_of_peft_trains_is_not_counted_here():
    one = [(D_OUT, D_IN)]
    assert Peft().saved_as in FORMS
    assert Peft().count_in_model(one, R, whole=100, head=3) is None
    with pytest.raises(LopsidedError, match="a run counts its trained parameters"):
        Peft().count(D_OUT, D_IN, R)


@pytest.mark.parametrize("side", [side for side, _ in FLAT if not side.uncounted], ids=str)
def test_every_side_says_what_it_is(side):
    assert side.saved_as in FORMS
    assert side.title
    assert side.group
    sizes = {"r": R, "d_out": D_OUT, "d_in": D_IN, "max": max}
    assert side.count(D_OUT, D_IN, R) == eval(side.formula.replace("·", "*"), sizes)
    one = [(D_OUT, D_IN)]
    assert side_named(side.word).count_in_model(one, R, whole=None, head=None) == (
        None if side.head_alone else side.count(D_OUT, D_IN, R)
    )
    assert side.head_alone == (side.count_in_model(one, R, whole=100, head=3) == 3)


@pytest.mark.parametrize("side", ADAPTER_SIDES, ids=str)
def test_adapters_sides_agree_with_themselves(side):
    assert set(side.letters) <= set(LETTERS)
    assert sum(probability for probability, _ in side.odds()) == 1
    widths = [link_side.width(D_OUT, D_IN) for _, link_side in side.odds()]
    assert side.sketched_width(D_OUT, D_IN) == min(widths)
    assert side.stored_width(D_OUT, D_IN) == max(widths)
    names = {"d_out": D_OUT, "d_in": D_IN, "min": min}
    assert eval(side.width_name, names) == side.sketched_width(D_OUT, D_IN)
    stored = {letter: np.ones(shape) for letter, shape in side.shapes(D_OUT, D_IN, R).items()}
    for link in range(4):
        link_side = side.of_link(7, link)
        assert link_side == side.of_link(7, link)
        assert link_side in [possible for _, possible in side.odds()]
        d = link_side.width(D_OUT, D_IN)
        assert link_side.turned(np.zeros((D_OUT, D_IN))).shape[-1] == d
        factors = side.factors(link_side, stored, D_OUT, D_IN)
        assert all(any(np.shares_memory(view, tensor) for tensor in stored.values()) for view in factors.values())
        left, right = link_side.term(factors, np.ones((R, d)), np.transpose)
        assert (left.shape, right.shape) == ((R, D_IN), (D_OUT, R))


def test_one_tensor_stores_either_factor():
    C = np.arange(R * D_IN).reshape(factor_shapes(D_OUT, D_IN, R)["C"])
    assert np.array_equal(from_shared(B(), C, D_OUT, D_IN)["B"], C[:, :D_OUT].T)
    assert np.array_equal(from_shared(A(), C, D_OUT, D_IN)["A"], C)


# -- a user's own --------------------------------------------------------------------------------------------


@pytest.fixture
def turns():
    @dataclass(frozen=True)
    class Turns(AdapterSide):
        """B trains in even links, A in odd ones."""

        word: ClassVar[str] = "turns"
        title: ClassVar[str] = "B and A by turns"
        group: ClassVar[str] = "turns"
        formula: ClassVar[str] = "r·max(d_out, d_in)"
        letters: ClassVar[str] = "C"
        width_name: ClassVar[str] = "min(d_out, d_in)"

        def sketched_width(self, d_out, d_in):
            return min(d_out, d_in)

        def stored_width(self, d_out, d_in):
            return max(d_out, d_in)

        def of_link(self, seed, link):
            return A() if link % 2 else B()

        def odds(self):
            return ((1.0, B()),)

        def factors(self, side, stored, d_out, d_in):
            return from_shared(side, stored["C"], d_out, d_in)

    yield Turns
    del SIDES["turns"]


@pytest.mark.parametrize("sketch", [Columns(), Singular()], ids=str)
def test_a_users_side_keeps_every_contract(turns, sketch):
    check_method(Method(name="mine", train=turns(), sketch=sketch, chain=Chain(links=4), source="test"))


def test_a_users_side_goes_by_its_word(turns):
    method = Method(name="mine", train="turns", sketch=Columns(), source="test")
    assert method.side == turns()
    assert method_from_parts(method.parts()) == method
    assert method.trained_numbers(D_OUT, D_IN, R) == R * D_IN


def test_a_users_side_is_refused_for_a_taken_word_or_a_field_that_no_file_holds(turns):
    with pytest.raises(LopsidedError, match=r"'coin' is taken by lopsided\.method\.trained\.Coin"):

        class Mine(Side):
            word = "coin"

    @dataclass(frozen=True)
    class Nameless(turns):
        pass

    with pytest.raises(LopsidedError, match="not the side that 'turns' names"):
        Method(name="mine", train=Nameless(), sketch=Columns(), source="test")

    @dataclass(frozen=True)
    class Turns(turns):
        word: ClassVar[str] = "turns"
        share: float = 0.5

    with pytest.raises(LopsidedError, match="has the fields share"):
        Method(name="mine", train=Turns(), sketch=Columns(), source="test")
