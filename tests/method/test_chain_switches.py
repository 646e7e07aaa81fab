"""What an advance does, as data: every combination of a chain's switches keeps every contract of a method."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

import lopsided
from lopsided import METHODS, Chain, LopsidedError, Method
from lopsided.method import method_from_parts
from lopsided.testing import METHOD_CONTRACTS, adapted, network
from lopsided.theory import generalization_bound
from lopsided.tuner.method_parts import check_parts


def switched(name: str, **switches) -> Method:
    method = METHODS[name]
    chain = method.chain or Chain(links=5)
    words = "-".join(f"{key}-{value}".lower() for key, value in switches.items())
    return dataclasses.replace(method, name=f"{name}-{words}", chain=dataclasses.replace(chain, **switches))


# Of a dense, a selecting and a trained sketch. The first combination is every registered chain's.
COMBINATIONS = [{"merge": merge, "redraw": redraw} for merge, redraw in itertools.product((True, False), repeat=2)][1:]
SWITCHED = [switched(name, **switches) for name in ("c3la", "cola") for switches in COMBINATIONS]
SWITCHED += [switched("cola", merge=False, redraw=False, prune=0.0, freeze_rate=True), switched("rac_b", prune=0.0)]
MORE = [switched(name, **switches) for name in ("rac_a", "rac_b", "rc3la") for switches in COMBINATIONS]
MORE += [switched("bernoulli", merge=merge, redraw=False, prune=0.5) for merge in (True, False)]


def named(methods, *marks):
    return [pytest.param(method, id=method.name, marks=marks) for method in methods]


@pytest.mark.parametrize("contract", METHOD_CONTRACTS, ids=lambda contract: contract.__name__)
@pytest.mark.parametrize("method", [*named(SWITCHED), *named(MORE, pytest.mark.more)])
def test_every_combination_keeps_every_contract(method, contract):
    contract(method)


@pytest.mark.parametrize("method", named(SWITCHED))
def test_only_a_learned_factor_that_moves_on_to_a_new_sketch_jumps(method):
    assert method.chain.jumps == (method.chain.redraw and not method.chain.merge)


def test_a_chain_that_jumps_says_so_where_users_look():
    method = switched("c3la", merge=False)
    base, _ = network()
    assert "link=0, not merged, jumps," in repr(adapted(method, base))
    assert "jumps" not in repr(adapted(switched("c3la", redraw=False), network()[0]))


def test_parts_leave_out_what_earlier_versions_do_not_know():
    assert METHODS["c3la"].parts()["chain"] == {"links": 4, "every": None, "prune": 1.0, "rewarm": 0}
    parts = switched("c3la", merge=False, freeze_rate=True).parts()
    assert parts["chain"] == {
        **{"links": 4, "every": None, "prune": 1.0, "rewarm": 0},
        **{"merge": False, "freeze_rate": True},
    }


@pytest.mark.parametrize("method", named(SWITCHED))
def test_parts_round_trip_through_a_file(method):
    parts = json.loads(json.dumps(method.parts()))
    check_parts(parts)
    assert method_from_parts(parts) == method


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ({"links": 4, "every": None, "prune": 1.0}, "a chain has .*'rewarm'.*upgrade"),
        ({"links": 4, "every": None, "prune": 1.0, "rewarm": 0, "sing": True}, "'sing'.*upgrade"),
        ({"links": 4, "every": None, "prune": 1.0, "rewarm": 0, "merge": 0}, "merge must be bool, got 0"),
    ],
)
def test_a_file_with_another_chain_is_refused(chain, words):
    with pytest.raises(LopsidedError, match=words):
        check_parts({**METHODS["c3la"].parts(), "chain": chain})


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Chain(links=4, merge="no"), "merge must be True or False, got 'no'"),
        (lambda: switched("bernoulli", merge=False), "one side for all links; got 'coin'"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused(build, words):
    with pytest.raises(LopsidedError, match=words):
        build()


def test_links_that_are_not_merged_count_once_in_the_bound():
    layers = [(10, 20)]
    once = generalization_bound(layers, METHODS["cla"], r=2, n=1000, sigma=0.5)
    kept = generalization_bound(layers, switched("c3la", merge=False), r=2, n=1000, sigma=0.5)
    merged = generalization_bound(layers, METHODS["c3la"], r=2, n=1000, sigma=0.5)
    assert (kept.links, kept.value) == (1, once.value)
    assert merged.value == 2 * once.value


def test_a_config_chooses_the_links_and_keeps_the_switches():
    config = lopsided.LopsidedConfig(method=switched("c3la", merge=False, prune=0.0), every=7)
    assert config.as_method().chain == Chain(every=7, merge=False, prune=0.0)
