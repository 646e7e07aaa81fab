"""`lopsided bounds`: the table of methods, and runs beside their measured gaps."""

from __future__ import annotations

import json
import math

import pytest

from lopsided import METHODS
from tests.cli.commands import assert_one_line


def test_all_methods_on_a_model(cli, bert):
    outcome = cli("bounds", "--model", bert, "--methods", "all", "--rank", 4, "--n", 3668)
    assert (outcome.status, outcome.err) == (0, "")
    assert all(name in outcome.out for name in METHODS)
    assert "not covered" in outcome.out
    assert "nothing adapted" not in outcome.out


def test_the_bound_is_that_of_the_formula(cli, bert):
    [row] = json.loads(
        cli(
            "bounds",
            "--model",
            bert,
            "--methods",
            "c3la",
            "--rank",
            4,
            "--n",
            100,
            "--links",
            3,
            "--bits",
            16,
            "--json",
        ).out
    )
    assert row["value"] == pytest.approx(math.sqrt(2 * row["trained"] * 16 * math.log(2) * 0.25 / 100))
    assert (row["links"], row["method"], row["single_run"]) == (3, "c3la", False)


def test_a_run_has_its_bound_beside_its_gap(cli, tiny, tmp_path):
    cli("train", *tiny, "--method", "c3la", "--links", 2, "--out", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    [found] = json.loads(cli("bounds", tmp_path / "run", "--json").out)
    assert found["measured"] == record["generalization_error"]["value"]
    bound = found["bound"]
    assert bound["trained"] == 2 * 4 * _outputs(record)
    assert bound["n"] == record["task"]["rows"]["train"]
    assert bound["sigma"]["how"] == "estimate"
    outcome = cli("bounds", tmp_path / "run")
    assert outcome.status == 0
    assert "c3la" in outcome.out


def _outputs(record) -> int:
    """Σ d_out: an adapter of rank 4 trains 4·Σ d_out numbers beside the head."""
    from lopsided.models.skeleton import skeleton
    from lopsided.theory import layer_dims

    return sum(layer.d_out for layer in layer_dims(skeleton(record["config"]["model"])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", 0], "n must be a positive"),
        (["--sigma", -1], "sigma must be a positive"),
        (["--bits", 0], "bits must be a positive"),
        (["--methods", "cal"], "unknown method 'cal'"),
        (["--model", "./nowhere"], "there is none at that path"),
        (["--target-modules", "nothing"], "expected linear layers"),
    ],
)
def test_bad_input_is_one_line(cli, bert, arguments, message):
    given = arguments if "--model" in arguments else ["--model", bert, *arguments]
    assert_one_line(cli("bounds", *given), message)


def test_a_folder_without_a_run_is_one_line(cli, tmp_path):
    assert_one_line(cli("bounds", tmp_path), "expected a finished run")


@pytest.mark.parametrize("method", ["full", "head"])
def test_full_and_head_count_what_the_run_trained(cli, tiny, tmp_path, method):
    assert cli("train", *tiny, "--method", method, "--out", tmp_path / "run").status == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    [found] = json.loads(cli("bounds", tmp_path / "run", "--json").out)
    assert found["bound"]["trained"] == record["trained_parameters"]


def test_a_model_that_generates_has_no_head_and_says_so(cli, llama):
    outcome = cli("bounds", "--model", llama, "--methods", "cla,head")
    assert outcome.status == 0
    assert "– head: LlamaForCausalLM has no task's head" in outcome.out
    listed = json.loads(cli("bounds", "--model", llama, "--methods", "cla,head", "--json").out)
    assert listed[1] == {
        **{"method": "head", "value": None, "trained": None},
        "why": {"value": "LlamaForCausalLM has no task's head"},
    }
    as_classifier = json.loads(cli("bounds", "--model", llama, "--kind", "classification", "--labels", 5, "--json").out)
    [head] = [row for row in as_classifier if row["method"] == "head"]
    assert head["trained"] == 32 * 5
    assert_one_line(cli("bounds", "--model", llama, "--kind", "words"), "unknown kind of task 'words'")
