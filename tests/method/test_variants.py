"""Methods made of others by plain data, and the profiles of released code, which are such data."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lopsided import METHODS, Chain, Gaussian, KaimingUniform, LopsidedError, Window
from lopsided.method import NAMESPACES, PROFILES, RandomWindow, UnitRows, in_profile, method_named, register, varied
from lopsided.method.profiles import VARIANTS
from lopsided.testing import METHOD_CONTRACTS

ALL = [f"{profile}:{name}" for profile, variants in VARIANTS.items() for name in variants]
# Those whose parts no other test over the contracts has.
UNLIKE = {"released_one:lora", "released_one:rcla", "released_two:rc3la_deberta", "released_two:rcla"}


def test_a_study_file_can_write_a_method():
    text = """
    of = "c3la"
    train = "AB"
    lr_ratio = 256
    chain = {every = 96, merge = false, redraw = false, prune = 0.0, freeze_rate = true}
    sketch = {kind = "Gaussian", std = 0.02}
    """
    table = pytest.importorskip("tomllib").loads(text)
    method = varied(table.pop("of"), name="kept", **table)
    assert method.chain == Chain(every=96, merge=False, redraw=False, prune=0.0, freeze_rate=True)
    assert (method.train, method.lr_ratio, method.sketch, method.compared) == ("AB", 256, Gaussian(std=0.02), False)
    assert "another train, lr_ratio, chain, sketch" in method.source
    try:
        assert register(**{k: getattr(method, k) for k in ("name", "train", "sketch", "chain", "source", "lr_ratio")})
        assert method_named("kept").chain == method.chain
    finally:
        METHODS.pop("kept", None)


def test_what_is_not_changed_is_the_other_methods():
    same = varied("c3la", name="c3la")
    assert {**same.parts(), "compared": True} == METHODS["c3la"].parts()
    assert varied("c3la", name="m", chain={"every": 7}).chain == Chain(every=7)
    assert varied("c3la", name="m", chain={"prune": 0.5}).chain == Chain(links=4, prune=0.5)
    assert varied("cla", name="m", chain={"links": 2}).chain == Chain(links=2)
    assert varied("c3la", name="m", sketch={"order": "fixed"}).sketch == Window("fixed")
    assert varied(METHODS["lora"], name="m", lr=1).lr == 1


def test_study_1s_cells_are_expressible():
    neither = {"every": 96, "merge": False, "redraw": False}
    for base in ("lora", "cla"):
        for prune in (0.0, 1.0):
            for freeze in (True, False):
                chain = varied(base, name="m", chain={**neither, "prune": prune, "freeze_rate": freeze}).chain
                assert chain == Chain(every=96, merge=False, redraw=False, prune=prune, freeze_rate=freeze)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chian": {}}, r"method 'm': unknown part 'chian'.*mean 'chain'"),
        ({"name_of": "x"}, "unknown part"),
        ({"chain": 4}, "method 'm': chain must be a table of its fields, got 4"),
        ({"chain": {"mrege": True}}, r"method 'm', chain: unknown field 'mrege'.*mean 'merge'"),
        ({"chain": {"merge": 0}}, "merge must be bool, got 0"),
        ({"chain": {"every": "4"}}, "every must be int or NoneType, got '4'"),
        ({"chain": {"every": True}}, "every must be int or NoneType, got True"),
        ({"chain": {"links": 4, "every": 3}}, "links or every, not both"),
        ({"chain": {"prune": 2.0}}, "share between 0 and 1"),
        ({"sketch": {"kind": "Gausian"}}, r"unknown sketch 'Gausian'.*mean 'Gaussian'"),
        ({"sketch": {"kind": "Stored"}}, "unknown sketch 'Stored'"),
        ({"sketch": {"kind": 3}}, "kind must be the name"),
        ({"sketch": {"kind": "Gaussian", "sd": 1.0}}, "sketch: unknown field 'sd'"),
        ({"sketch": {"kind": "Gaussian", "std": "big"}}, "std must be float or NoneType, got 'big'"),
        ({"sketch": {"order": "sideways"}}, "order must be"),
        ({"train": 3}, "train must be str"),
        ({"train": "C"}, "train must be one of"),
        ({"lr_ratio": 16.0}, "two trained factors"),
        ({"lr": "fast"}, "lr must be float"),
    ],
    ids=str,
)
def test_bad_tables_are_refused_in_one_line(changes, words):
    with pytest.raises(LopsidedError, match=words) as error:
        varied("c3la", name="m", **changes)
    assert "\n" not in str(error.value)


# -- profiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_variant_is_a_method_by_its_full_name(name):
    method = method_named(name)
    assert method.name == name
    assert "arXiv:2606.13767" in method.source
    assert name not in METHODS
    # A variant that is what its name says anyhow need not be there.
    base = METHODS[VARIANTS[name.split(":")[0]][name.split(":")[1]].get("of", name.split(":")[1])]
    computing = ("train", "sketch", "chain", "lr_ratio")
    assert any(method.parts()[key] != base.parts()[key] for key in computing)


@pytest.mark.parametrize("contract", METHOD_CONTRACTS, ids=lambda contract: contract.__name__)
@pytest.mark.parametrize(
    "name", [name if name in UNLIKE else pytest.param(name, marks=pytest.mark.more) for name in ALL]
)
def test_a_variant_keeps_every_contract(name, contract):
    contract(method_named(name))


def test_project_ones_chains_are_their_twins_with_resets_and_a_constant_rate():
    for name in ("cola", "rac_b", "c3la", "rc3la"):
        chain = method_named(f"released_one:{name}").chain
        assert chain == Chain(links=4, merge=False, redraw=False, prune=1.0, freeze_rate=True)
        assert not chain.jumps
    assert method_named("released_one:lora").sketch == method_named("released_one:cola").sketch == Gaussian(std=0.02)
    assert method_named("released_one:lora_plus").lr_ratio == 256.0


def test_project_ones_random_window_is_the_same_in_every_layer():
    sketch = method_named("released_one:rcla").sketch
    draws = {tuple(sketch.indices(4, 64, seed=seed, link=0)) for seed in range(20)}
    assert len(draws) == 1
    assert np.ptp(draws.pop()) == 3


def test_project_twos_methods():
    c3la = method_named("released_two:c3la")
    assert c3la.chain == Chain(links=4, merge=False, prune=0.0)
    assert c3la.chain.jumps
    rac, cola = method_named("released_two:rac_b"), METHODS["cola"]
    assert (rac.train, rac.sketch, rac.chain) == (cola.train, KaimingUniform(), cola.chain)
    assert method_named("released_two:rcla").sketch == UnitRows(shared_seed=0)
    chains = {name: method_named(f"released_two:{name}").chain for name in ("rc3la", "rc3la_deepseek", "rc3la_deberta")}
    assert [(chain.merge, chain.prune) for chain in chains.values()] == [(True, 0.0), (True, 1.0), (False, 0.0)]
    assert method_named("released_two:rc3la").sketch == RandomWindow()


def test_a_random_window_may_come_back():
    sketch = RandomWindow()
    offsets = [int(sketch.indices(2, 4, seed=0, link=link)[0]) for link in range(40)]
    assert set(offsets) == {0, 1, 2}
    assert any(one == other for one, other in pairwise(offsets))


def test_names_in_profiles():
    assert PROFILES == ("as_written", "released_one", "released_two")
    assert set(PROFILES[1:]) <= set(NAMESPACES)
    assert in_profile("rac_b", "released_two") == "released_two:rac_b"
    # What has no variant is what it is, elsewhere's methods too.
    assert [in_profile(name, "released_one") for name in ("paca", "head", "peft:lora")] == ["paca", "head", "peft:lora"]
    assert all(in_profile(name, "as_written") == name for name in METHODS)
    with pytest.raises(LopsidedError, match=r"unknown profile 'released'.*one of as_written"):
        in_profile("cla", "released")
    with pytest.raises(LopsidedError, match=r"no variant of its own: unknown method 'cla'.*without the prefix"):
        method_named("released_one:cla")
