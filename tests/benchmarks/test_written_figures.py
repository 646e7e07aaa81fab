"""What is made of the benchmarks' figures: ratios, targets, verdicts and the document."""

import dataclasses
import math

import pytest

from benchmarks import files, measuring, memory, render, step_time, targets, variants, writing
from lopsided import LopsidedError

SETTING = measuring.Setting(**measuring.QUICK)


# -- statistics ----------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    rounds = {"mine": [2.0, 30.0, 5.0], "limit": [1.0, 10.0, 5.0]}
    assert measuring.ratio(rounds, "mine", "limit") == {"median": 2.0, "low": 1.0, "high": 3.0}
    with pytest.raises(ValueError, match="longer"):
        measuring.ratio({"mine": [1.0], "limit": [1.0, 2.0]}, "mine", "limit")


@pytest.mark.parametrize("n", [6, 7, 12, 30, 41])
def test_the_interval_is_the_narrowest_that_holds_the_median_with_95_percent(n):
    """[x_k, x_(n+1-k)] misses when fewer than k values, or more than n - k, lie below the true median."""
    found = measuring.median_interval([float(rank) for rank in range(n, 0, -1)])
    k = int(found["low"])
    assert (found["median"], found["high"]) == ((n + 1) / 2, n + 1 - k)

    def coverage(k: int) -> float:
        return 1 - 2 * sum(math.comb(n, below) for below in range(k)) / 2**n

    assert coverage(k) >= 0.95 > coverage(k + 1)


def test_few_values_give_their_range():
    assert measuring.median_interval([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_every_round_measures_everything_once_in_another_order():
    calls = []
    setting = dataclasses.replace(SETTING, rounds=8, warmup=3)
    work = {name: lambda name=name: calls.append(name) or float(len(calls)) for name in "abcd"}
    taken = measuring.turns(work, setting, "made up")
    rounds = [tuple(calls[i : i + 4]) for i in range(0, len(calls), 4)]
    assert len(rounds) == 11
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len(set(rounds)) > 4
    assert [len(values) for values in taken.values()] == [8] * 4
    assert min(min(values) for values in taken.values()) > 12  # the warm-up's are not among them


def test_figures_are_recomputed_from_raw_rounds():
    rounds = {"limit": [10.0, 20.0], "peft_lora": [20.0, 20.0], "c3la": [10.0, 40.0], "c3la@2": [20.0, 40.0]}
    found = step_time.figures(rounds)
    assert found["c3la"]["to_limit"] == {"median": 1.5, "low": 1.0, "high": 2.0}
    assert found["c3la"]["to_peft_lora"]["median"] == 1.25
    assert found["c3la@2"]["to_first_link"] == {"median": 1.5, "low": 1.0, "high": 2.0}
    assert "to_first_link" not in found["c3la"]


def test_a_chains_merge_is_what_it_takes_beyond_its_first_link():
    found = files.loading_figures({"peft_lora": [2.0, 4.0], "rac_b": [4.0, 4.0], "rac_b@3": [10.0, 12.0]})
    assert found["rac_b"]["load_to_peft_lora"] == {"median": 1.5, "low": 1.0, "high": 2.0}
    assert found["rac_b@3"]["merge_ms"] == {"median": 7.0, "low": 6.0, "high": 8.0}


def test_allocations_within_a_span():
    def total(ts, allocated):
        return {"name": "[memory]", "ts": ts, "args": {"Total Allocated": allocated, "Device Type": 0}}

    span = {"name": "first advance", "cat": "user_annotation", "ts": 10.0, "dur": 5.0}
    events = [total(14.0, 130), span, total(9.0, 100), total(1.0, 900), total(11.0, 170), total(16.0, 999)]
    assert memory.allocated_within(events, "first advance") == {"peak": 70, "stays": 30}


# -- targets -------------------------------------------------------------------------------------------------


def interval(median, low=None, high=None):
    return {"median": median, "low": low or median, "high": high or median}


def made_up(**to_limit):
    figures = {name: {"to_limit": value} for name, value in to_limit.items()}
    groups = {"cla": "windows", "c3la": "windows", "rcla": "random columns"}
    return {"figures": figures, "groups": groups, "noise": interval(1.001, 0.99, 1.01)}


def test_the_worst_of_a_group_decides_and_is_named():
    result = made_up(
        cla=interval(1.02), c3la=interval(1.05, 1.04, 1.07), rcla=interval(1.2, 1.15, 1.25), limit=interval(9)
    )
    lines = [line for line in targets.table({"step_time": result}).splitlines() if "against the limit" in line]
    windows, columns, other = lines[:3]
    assert "at most 1.06 | 1.050 [1.040, 1.070] (`c3la`) | met (the interval reaches above it)" in windows
    assert "1.001 [0.990, 1.010]" in windows
    assert "at most 1.09 | 1.200 [1.150, 1.250] (`rcla`) | missed by 0.110 |" in columns
    assert "at most 1.20 | not measured" in other


def test_nothing_grows_means_within_the_noise():
    [target] = [t for t in targets.TARGETS if t.noisy]
    assert targets.bound(target, {"noise": interval(1.0, 0.98, 1.02)}) == 1.02
    assert targets.bound(target, {"noise": interval(0.97, 0.96, 0.98)}) == 1.0
    other = dataclasses.replace(target, noisy=False)
    assert targets.bound(other, {"noise": interval(1.0, 0.98, 1.02)}) == 1.0


def test_verdicts():
    assert writing.verdict(interval(0.5), 0.5) == "met"
    assert writing.verdict(interval(0.51, 0.49, 0.53), 0.5) == "missed by 0.010 (the interval reaches below it)"
    assert writing.verdict(interval(9.0), None) == "reported"


def test_the_bounds_are_those_that_were_set():
    bounds = {(t.figure, t.group): t.at_most for t in targets.TARGETS}
    row = [bounds["to_limit", group] for group in variants.GROUPS]
    assert row == [1.06, 1.09, 1.20, None, None, None]
    assert [bounds["to_peft_lora", g] for g in variants.GROUPS[:4]] == [0.80, 0.82, 0.88, 1.00]
    assert [bounds["kept_to_peft_lora", g] for g in variants.GROUPS[:4]] == [0.66, 0.66, 0.66, None]
    assert [bounds["file_to_peft_lora", g] for g in variants.GROUPS[:4]] == [0.52] * 4
    assert bounds["load_to_peft_lora", None] == 1.6


def provenance() -> dict:
    where = {"processor": "made up", "cores": 2, "threads": 2, "accelerator": None}
    versions = {"torch": "1", "transformers": "2", "peft": "3"}
    setting = dataclasses.asdict(SETTING)
    return {
        "machine": where,
        "versions": versions,
        "setting": setting,
        "date": "2026-01-01",
        "load_average": [0.0, 0.1],
    }


# -- the document --------------------------------------------------------------------------------------------


def test_the_document_takes_the_figures_and_keeps_the_prose():
    rounds = {"limit": [10.0], "peft_lora": [20.0], "cla": [10.5], "rcla": [12.0]}
    result = {
        "figures": step_time.figures(rounds),
        "groups": {"cla": "windows", "rcla": "random columns"},
        "noise": interval(1.0, 0.99, 1.01),
        **provenance(),
    }
    document = measuring.RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    once = render.rendered(document, {"step_time": result})
    [cla] = [line for line in once.splitlines() if line.startswith("| `cla`")]
    assert "1.05; at most 1.06: met |" in cla
    [rcla] = [line for line in once.splitlines() if line.startswith("| `rcla`")]
    assert "1.20; at most 1.09: missed by 0.110 |" in rcla
    assert "1.050 (`cla`) | met | 1.000 [0.990, 1.010] |" in once
    assert "made up, 2 cores" in once
    assert "No adapter can be faster." in once
    assert render.rendered(once, {"step_time": result}) == once
    emptied = render.rendered(once, {})
    assert "`cla` | windows" not in emptied
    assert emptied.count("Not measured.") == len(render.BENCHMARKS) + 1


def test_a_document_without_a_section_is_refused(tmp_path, capsys):
    with pytest.raises(LopsidedError, match="figures: targets"):
        render.rendered("# Speed\n", {})
    document = tmp_path / "performance.md"
    document.write_text("# Speed\n")
    assert render.main(["--results", str(tmp_path), "--document", str(document)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert document.read_text() == "# Speed\n"
