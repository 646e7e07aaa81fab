"""The table: what is in it, and every contract over every adapter method."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lopsided
from lopsided import METHODS, Chain, InputMoments, LargestColumns, LopsidedError, Method, Orthonormal, Principal
from lopsided.method import A, B, method_from_parts, method_named
from lopsided.method.sketch import layer_seed
from lopsided.testing import METHOD_CONTRACTS, NETWORKS, check_method, fits
from tests.diagonal import diagonal
from tests.tiny import ADAPTERS

NAMES = (
    "full head lora lora_plus lora_fa asym_b asym_a cola relora rac_b rac_a bernoulli cla rcla c3la rc3la paca cpaca "
    "ipa_b act_cla"
)
STUDY = "full lora lora_plus cola asym_b rac_b cla rcla c3la rc3la paca"


@pytest.mark.uncalibrated
@pytest.mark.parametrize("contract", METHOD_CONTRACTS, ids=lambda contract: contract.__name__)
@pytest.mark.parametrize(
    ("kind", "name"),
    [case for case in diagonal(NETWORKS, ADAPTERS, share=2) if fits(METHODS[case.values[1]], case.values[0])],
)
def test_contract(name, contract, kind):
    contract(METHODS[name], kind)


def test_the_table_holds_the_designs_methods():
    assert set(METHODS) == set(NAMES.split())
    # `paca` has the parts of `rcla`, and would be the same run.
    assert METHODS["paca"].parts()["sketch"] == METHODS["rcla"].parts()["sketch"]
    assert {name for name, m in METHODS.items() if m.compared} == {*STUDY.split(), "head"} - {"paca"}
    assert all(method.source for method in METHODS.values())


@pytest.mark.parametrize(
    ("train", "expected"),
    [("B", 5 * 3), ("A", 7 * 3), ("AB", (5 + 7) * 3), ("coin", 7 * 3), ("all", 35), ("head", 0)],
)
def test_trained_numbers(train, expected):
    sketch = Orthonormal() if train not in ("all", "head") else None
    method = Method(name="m", train=train, sketch=sketch, source="test")
    assert method.trained_numbers(5, 7, 3) == expected


@pytest.mark.parametrize("name", METHODS)
def test_parts_round_trip_through_json(name):
    assert method_from_parts(json.loads(json.dumps(METHODS[name].parts()))) == METHODS[name]


@pytest.mark.parametrize("name", ADAPTERS)
def test_sketches_differ_by_seed_layer_and_link_and_repeat_for_equal_ones(name):
    method = METHODS[name]
    x = np.random.RandomState(0).standard_normal((200, 64))
    inputs = InputMoments(rows=200, squares=np.mean(x**2, axis=0), products=x.T @ x / 200)

    def draw(seed, layer, link):
        # Room enough that two random draws of 3 columns do not meet by chance.
        return method.sketch.sample(3, 64, seed=layer_seed(seed, layer), link=link, inputs=inputs)

    first = draw(0, "encoder.0.query", 0)
    assert np.array_equal(first, draw(0, "encoder.0.query", 0))
    if method.chain is not None:
        assert not np.array_equal(first, draw(0, "encoder.0.query", 1))
    # A fixed or cyclic window is the same for every seed, as the paper has it, and so is what data decide.
    if not method.reads_inputs and method.sketch.parts().get("order") not in ("fixed", "cyclic"):
        assert not np.array_equal(first, draw(1, "encoder.0.query", 0))
        assert not np.array_equal(first, draw(0, "encoder.1.query", 0))


def test_a_coin_falls_on_both_sides_with_its_probability():
    bernoulli = METHODS["bernoulli"]
    seeds = [layer_seed(0, f"layer.{i}") for i in range(100)]
    sides = [bernoulli.adapter_side.of_link(seed, link) for seed in seeds for link in range(10)]
    assert set(sides) == {B(), A()}
    assert abs(sides.count(B()) / len(sides) - bernoulli.p) < 0.05


def test_links_are_even():
    for steps in range(4, 50):
        marks = (0, *Chain(links=4).boundaries(steps), steps)
        lengths = np.diff(marks)
        assert len(lengths) == 4
        assert lengths.max() - lengths.min() <= 1
    assert Chain(every=5).boundaries(20) == (5, 10, 15)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: method_named("c3lb"), ["unknown method 'c3lb'", "rc3la", "did you mean 'c3la'"]),
        (lambda: Chain(links=9).boundaries(4), ["links=9", "steps=4"]),
        (lambda: Chain(every=9).boundaries(4), ["every=9", "4 steps"]),
        (lambda: Chain(links=2, every=3), ["not both"]),
        (lambda: Chain(links=0), ["at least 1"]),
        (lambda: Method(name="x", train="B", source="s"), ["needs a sketch"]),
        (lambda: Method(name="x", train="all", sketch=Orthonormal(), source="s"), ["no factor"]),
        (lambda: Method(name="x", train="B", sketch=Orthonormal(), lr_ratio=2.0, source="s"), ["lr_ratio=2.0"]),
        (lambda: Method(name="x", train="B", sketch=Orthonormal(), p=3.0, source="s"), ["probability", "3.0"]),
        (lambda: Method(name="x", train="B", sketch=Orthonormal(), lr=-1.0, source="s"), ["positive", "-1.0"]),
        (lambda: Chain(links=2, rewarm=-1), ["0 or more, got -1"]),
        (lambda: lopsided.LopsidedConfig(alpha=float("nan")), ["alpha must be a positive number", "nan"]),
        (lambda: Method(name="x", train="A", sketch=Principal(), source="s"), ["Principal", "inputs", "train B"]),
        (lambda: Method(name="x", train="coin", sketch=LargestColumns(), source="s"), ["LargestColumns", "train B"]),
        (
            lambda: Method(name="x", train="B", sketch=Principal(), chain=Chain(links=2), source="s"),
            ["Principal", "once before training", "redraw=False"],
        ),
        (lambda: Method(name="x", train="C", source="s"), ["train must be one of", "'C'"]),
        (lambda: lopsided.register("cla", train="B", sketch=Orthonormal(), source="s"), ["'cla'", "another name"]),
    ],
)
def test_bad_methods_are_refused_in_one_line(build, words):
    with pytest.raises(LopsidedError) as error:
        build()
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_contracts_can_fail():
    class Broken(lopsided.Sketch):
        def draw(self, r, d, *, seed, link, weight):
            # The same for every link: an advance would not change the sketch.
            return np.eye(r, d)

    broken = Method(name="broken", train="B", sketch=Broken(), chain=Chain(links=5), source="test")
    with pytest.raises(AssertionError, match=r"advances_as_its_chain_says.*same sketch again"):
        check_method(broken)


def test_full_and_head_are_no_adapters():
    with pytest.raises(LopsidedError, match="no adapter"):
        lopsided.LopsidedConfig(method="full")
    with pytest.raises(LopsidedError, match="expected an adapter"):
        check_method(METHODS["head"])
