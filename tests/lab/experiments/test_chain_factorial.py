"""The factorial of a chain's switches: which runs belong to it, what an effect is, and where the figures come from."""

from __future__ import annotations

import dataclasses
import itertools
import json
import types
from pathlib import Path

import numpy as np
import pytest

from lopsided import METHODS, LopsidedError
from lopsided.lab import Request
from lopsided.lab.experiments import chain_factorial
from lopsided.lab.experiments.chain_factorial import (
    ACCURACY,
    EXPERIMENT,
    GAP,
    INTRUDERS,
    METHODS_BY_CELL,
    NORM,
    QUESTIONS,
    SHARPNESS,
    cell_of,
    effect,
    figures_of,
    method_of,
    of_study,
    whole_seeds,
)

RESULTS = Path(__file__).parents[3] / "docs" / "studies" / "results" / "chain-factorial.jsonl"
SETTINGS = list(itertools.product((True, False), repeat=3))


def made(**powers: float) -> dict:
    """Figures that each switch multiplies by a power of its own; accuracy takes it as a difference, in points."""

    def figure(setting):
        return float(np.prod([powers.get(s, 1.0) for s, on in zip(("merged", "reset", "frozen"), setting) if on]))

    kinds = (INTRUDERS, NORM, SHARPNESS, GAP)
    return {s: {**dict.fromkeys(kinds, figure(s)), ACCURACY: 0.5 + 0.03 * s[2]} for s in SETTINGS}


def test_the_cells_are_the_three_switches_of_two_twins():
    assert len(METHODS_BY_CELL) == 16
    chain = method_of("cLA", (False, True, True)).chain
    assert (chain.merge, chain.redraw, chain.prune, chain.freeze_rate) == (False, False, 1.0, True)
    assert cell_of(METHODS["cola"]) == ("LoRA", (True, True, False))


def test_a_run_belongs_to_its_cell_whatever_its_name_and_the_length_of_its_links():
    for cell, method in METHODS_BY_CELL.items():
        chain = dataclasses.replace(method.chain, links=None, every=96)
        assert cell_of(dataclasses.replace(method, name="other", chain=chain)) == cell
    assert [cell_of(METHODS[name]) for name in ("lora", "cla", "rac_b", "relora", "head")] == [None] * 5


def test_an_effect_is_the_ratio_that_a_switch_makes_over_the_others():
    seeds = {0: made(merged=3.0, frozen=2.0), 1: made(merged=3.0, frozen=2.0)}
    assert effect(seeds, "frozen", NORM).value == pytest.approx(2.0)
    assert effect(seeds, "frozen", NORM).interval == pytest.approx((2.0, 2.0))
    assert effect(seeds, "merged", SHARPNESS).value == pytest.approx(3.0)
    assert effect(seeds, "reset", INTRUDERS).value == pytest.approx(1.0)
    assert effect(seeds, "frozen", ACCURACY).value == pytest.approx(3.0)


def test_an_interval_is_over_seeds():
    found = effect({0: made(frozen=2.0), 1: made(frozen=4.0), 2: made(frozen=3.0)}, "frozen", GAP)
    assert found.value == pytest.approx(24 ** (1 / 3))
    assert found.interval[0] < 2.0 < 4.0 < found.interval[1]
    assert effect({0: made()}, "frozen", GAP).interval is None


def test_a_seed_that_lacks_a_run_is_left_out():
    seeds = {0: made(frozen=2.0), 1: made(frozen=4.0)}
    del seeds[1][(True, True, True)]
    assert whole_seeds(seeds) == [0]
    assert effect(seeds, "frozen", NORM).value == pytest.approx(2.0)
    del seeds[0]
    assert effect(seeds, "frozen", NORM).why == "no seed has all eight runs"


def test_a_run_without_intruders_has_no_ratio():
    seeds = {seed: made() for seed in (0, 1)}
    seeds[0][SETTINGS[0]] = {**seeds[0][SETTINGS[0]], INTRUDERS: 0.0}
    found = effect(seeds, "frozen", INTRUDERS)
    assert np.isnan(found.value)
    assert found.why == "1 of 2 runs have no finite figure"


def diagnosis(layers, top=2.0):
    return {
        "layers": layers,
        "intruders": {"epsilons": [0.4, 0.5], "all": {"mean": [1.0, 7.0]}},
        "landscape": {"sharpness": {"hessian_top": top}},
        "generalization": {"G": {"value": 0.25}},
    }


def scored(score=0.75):
    test = types.SimpleNamespace(score=types.SimpleNamespace(value=score))
    return types.SimpleNamespace(metrics={"test": test})


def test_figures_are_those_of_a_runs_own_diagnosis_and_of_a_studys():
    each = [{"delta": {"frobenius": 1.0}}, {"delta": {"frobenius": 3.0}}]
    expected = {INTRUDERS: 7.0, NORM: 2.0, SHARPNESS: 2.0, GAP: 0.25, ACCURACY: 0.75}
    assert figures_of(scored(), diagnosis(each)) == expected
    assert figures_of(scored(), diagnosis({"delta": {"frobenius": 2.0}})) == expected
    assert np.isnan(figures_of(scored(), diagnosis(each, top=None))[SHARPNESS])


def test_the_results_of_the_study_are_read():
    figures, settings = of_study(RESULTS)
    assert settings["learning rate"] == 1e-3
    assert set(figures) == {"LoRA", "cLA"}
    assert 0 in whole_seeds(figures["LoRA"])
    assert all(value > 0 for value in figures["LoRA"][0][(False, True, True)].values())


def test_other_files_are_refused(tmp_path):
    with pytest.raises(LopsidedError, match="expected the results of a study"):
        of_study(tmp_path)
    (tmp_path / "results.jsonl").write_text(json.dumps({"status": "failed", "role": "run"}) + "\n")
    with pytest.raises(LopsidedError, match=r"found none; run `lopsided bench"):
        of_study(tmp_path / "results.jsonl")
    (tmp_path / "torn.jsonl").write_text('{"status": "fini')
    with pytest.raises(LopsidedError, match=r"torn\.jsonl, line 1"):
        of_study(tmp_path / "torn.jsonl")


def test_the_quick_form_trains_lora_alone_and_leaves_no_method_behind(monkeypatch):
    trained = []
    monkeypatch.setattr(chain_factorial, "load_rows", lambda config, **most: None)
    monkeypatch.setattr(chain_factorial, "finish_all", lambda plans, note: trained.extend(c for c, _ in plans))
    monkeypatch.setattr(chain_factorial, "finished_run", lambda folder: scored())
    layers = [{"delta": {"frobenius": 2.0}}]
    monkeypatch.setattr(chain_factorial, "diagnose_runs", lambda paths, c, note: {paths[0]: diagnosis(layers)})
    outcome = chain_factorial.run(Request(seeds=2))
    assert len(trained) == 8 * 2
    assert {config.method for config in trained} == {
        m.name for (twin, _), m in METHODS_BY_CELL.items() if twin == "LoRA"
    }
    assert not set(METHODS) & {config.method for config in trained}
    assert len(outcome.measured) == len(EXPERIMENT.expected) == 2 * len(QUESTIONS)
    assert outcome.measured[0].value == pytest.approx(1.0)
    assert outcome.measured[-1].why == "no seed has all eight runs"
