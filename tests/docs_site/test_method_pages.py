"""A page per method: what it has to say, and that its code runs."""

from __future__ import annotations

import re

import pytest

import lopsided
from docs_site import method_costs, method_evidence, method_facts, method_pages
from docs_site.method_example import example
from docs_site.page_parts import row_of
from lopsided import METHODS, LopsidedError
from lopsided.method import PROFILES, in_profile

SECTIONS = (
    *("Parts", "An example that runs", "Learning rate", "Bounds", "Cost", "What was measured"),
    "The same as your own entry",
)
ADAPTERS = [name for name, method in METHODS.items() if method.is_adapter]


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_page_says_what_its_parts_and_the_committed_results_say(name):
    method, page = METHODS[name], method_pages.method_page(METHODS[name])
    headings = re.findall(r"^## (.+)$", page, flags=re.MULTILINE)
    assert set(SECTIONS) <= set(headings)
    assert method.side.title in page
    assert method.trained_formula in page
    assert f"takes **{method.lr:g}** by default" in page
    for number in method_evidence.ARXIV.findall(method.source):
        assert f"https://arxiv.org/abs/{number}" in page
    assert ("λ_min and convergence" in headings) == ("$$" in page) == method.is_adapter
    # A figure that was measured is shown.
    assert ("Layers and guarantees" in headings) == method.is_adapter
    measured = method_costs.cost_table(name)
    assert bool(measured) == method.is_adapter
    assert measured.strip() in page


def test_the_formula_has_the_sketch_where_no_factor_trains():
    assert r"s\, B\, S" in method_facts.formula(METHODS["cla"])
    assert r"s\, S^{\top}\, A" in method_facts.formula(METHODS["asym_a"])
    assert r"s\, B\, A" in method_facts.formula(METHODS["lora"])
    coin = method_facts.formula(METHODS["bernoulli"])
    assert coin.count("with probability 0.5") == 2
    assert "W_{t+1}" in coin
    assert "W_{t+1}" not in method_facts.formula(METHODS["cla"])
    assert method_facts.formula(METHODS["full"]) == ""


def test_numbers_are_those_of_the_library():
    model = method_facts.counted_model()
    assert len(model.layers) == 72
    # RoBERTa-base and a classifier of two labels, as its published size has it.
    assert model.whole == 124_647_170
    assert "592,130" in method_facts.bounds(METHODS["head"]).values()
    assert "0.02083" in method_facts.eigenvalue(METHODS["rac_b"])
    assert "it is 0." in method_facts.eigenvalue(METHODS["c3la"])
    assert "do not hold" in method_facts.eigenvalue(METHODS["asym_b"])


def test_the_lab_and_the_studies_stand_on_the_pages_of_what_they_ran():
    assert "**not reproduced** | runs it" in method_evidence.lab_table(METHODS["ipa_b"])
    assert "[paca-bridge](../lab.md#paca-bridge)" in method_evidence.lab_table(METHODS["paca"])
    assert "[counterexample](../lab.md#counterexample)" in method_evidence.lab_table(METHODS["rac_b"])
    assert "counterexample" not in method_evidence.lab_table(METHODS["ipa_b"])
    assert "[paper-protocol](../studies/paper-protocol.md) | 3 |" in method_evidence.study_table("cla")
    assert method_evidence.study_table("relora") == ""


def test_a_row_of_a_written_table_is_found_and_a_missing_one_is_an_error():
    assert row_of("docs/decisions/0004-learning-rates.md", "cla")["0.003"] == "**0.499**"
    with pytest.raises(LopsidedError, match="no row 'nobody'"):
        row_of("docs/decisions/0004-learning-rates.md", "nobody")


def test_methods_of_the_same_parts_name_each_other():
    assert "[`rcla`](rcla.md)" in method_pages.same_parts(METHODS["paca"])
    assert method_pages.same_parts(METHODS["cla"]) == ""


def test_every_method_baseline_and_variant_is_listed():
    index, baselines, variants = (
        method_pages.index_page(),
        method_pages.baselines_page(),
        method_pages.variants_page(),
    )
    assert all(f"[`{name}`]({name}.md)" in index for name in METHODS)
    assert all(f"| `peft:{name}` |" in baselines for name in lopsided.baselines.BASELINES)
    listed = {in_profile(name, profile) for name in METHODS for profile in PROFILES} - set(METHODS)
    assert len(listed) > 10
    assert all(f"| `{name}` |" in variants for name in listed)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_example_runs_and_learns(name, capsys):
    space = {}
    exec(compile(example(METHODS[name]), f"{name}.md", "exec"), space)
    assert "trainable params" in capsys.readouterr().out
    # ln 2 is the loss of a guess.
    assert space["loss"].item() < 0.75
    links = space["model"].peft_config["default"].link
    assert links == (1 if METHODS[name].chain else 0)


@pytest.mark.more
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ADAPTERS])
def test_the_example_of_what_is_no_adapter_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(example(METHODS[name]), f"{name}.md", "exec"), {})
    assert "Estimate(" in capsys.readouterr().out


@pytest.mark.parametrize("name", METHODS)
def test_the_entry_registers_the_same_method(name):
    try:
        exec(method_facts.entry(METHODS[name]), {"lopsided": lopsided})
        own = METHODS[f"my_{name}"]
    finally:
        METHODS.pop(f"my_{name}", None)
    method = METHODS[name]
    assert (own.side, own.sketch, own.chain, own.lr) == (method.side, method.sketch, method.chain, method.lr)
