"""Sketches of a user's own, as they come: mistakes in them are named as theirs."""

import numpy as np
import pytest

import lopsided
from lopsided import LopsidedError, Sketch
from lopsided.testing import check_method, check_sketch


class Narrow(Sketch):
    """Takes a seed of 32 bits."""

    def draw(self, r, d, *, seed, link, weight):
        return np.random.RandomState(seed).standard_normal((r, d))


class Short(Sketch):
    """Misses an argument."""

    def draw(self, r, d, *, seed, link):
        return np.ones((r, d))


class MaybeSingular(Sketch):
    """May be singular at full rank, with some seeds."""

    def draw(self, r, d, *, seed, link, weight):
        return np.random.default_rng([seed, link]).integers(0, 2, (r, d)) * 2.0 - 1.0


class Equal(Sketch):
    """Has one direction."""

    def draw(self, r, d, *, seed, link, weight):
        return np.full((r, d), np.random.default_rng([seed, link]).uniform(0.5, 1.0) / d)


@pytest.mark.parametrize(
    ("sketch", "message"),
    [
        (
            Narrow(),
            r"sketch Narrow: draw\(\) failed \(ValueError: Seed must be between.*mend its draw\(\), which gets r=2",
        ),
        (Short(), r"sketch Short: draw\(\) failed \(TypeError: .*unexpected keyword argument 'weight'\); mend"),
    ],
)
def test_a_mistake_in_draw_is_the_sketchs(sketch, message):
    with pytest.raises(LopsidedError, match=message):
        sketch.sample(2, 4, seed=2**40, link=0)


def test_signs_pass_and_one_direction_does_not():
    check_sketch(MaybeSingular())
    with pytest.raises(AssertionError, match=r"rows are dependent for \(r, d\) = \(3, 8\)"):
        check_sketch(Equal())


def test_a_methods_check_holds_its_sketch_to_the_contracts_of_sketches():
    with pytest.raises(AssertionError, match="has_the_right_shape: rows are dependent"):
        check_method(lopsided.Method(name="own", train="B", sketch=Equal(), source="here"))


def test_a_class_in_the_place_of_a_sketch_is_refused():
    with pytest.raises(
        LopsidedError, match=r"method 'own': expected a sketch, received its class; write MaybeSingular\(\)"
    ):
        lopsided.register("own", train="B", sketch=MaybeSingular, source="here")


def test_an_unknown_method_may_be_one_of_a_plugin():
    with pytest.raises(
        LopsidedError,
        match=r"unknown method 'signz'; expected one of .*must be registered, by import or by --plugin FILE\.py",
    ):
        lopsided.adapt(lopsided.testing.network()[0], "signz")
