"""The harness of `make peft-suite` itself: rows, reasons and counts."""

import ast
import json
from pathlib import Path

import pytest
from peft import IA3Config, LoraConfig

from lopsided import METHODS, LopsidedConfig
from tests.suites.peft_suite import fetch, rows
from tests.suites.peft_suite.counting import COMMITTED, worse
from tests.suites.peft_suite.reasons import REASONS, reason_for

NAMES = "test_name, config_cls, config_kwargs"


def test_a_row_of_lora_becomes_one_per_method():
    options = {"target_modules": ["lin0"], "lora_alpha": 4, "r": 4, "init_lora_weights": False}
    translated = rows.ours(NAMES, [("a row", LoraConfig, options), ("another", IA3Config, {})])
    assert [row[2]["method"] for row in translated] == [subject.method for subject in rows.SUBJECTS]
    assert all(row[1] is LopsidedConfig and row[2]["init_weights"] is False for row in translated)
    assert [row[2]["r"] for row in translated] == [4 // (subject.link + 1) for subject in rows.SUBJECTS]
    assert all(row[2]["lora_alpha"] == row[2]["r"] for row in translated), "LoRA's scale"


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["lin0"], "use_dora": True},
        {"target_modules": ["lin0"], "init_lora_weights": "mica"},
        {"target_modules": ["lin0"], "target_parameters": ["lin1.weight"]},
    ],
)
def test_a_row_with_what_is_loras_alone_falls_out(options):
    assert rows.ours(NAMES, [("a row", LoraConfig, options)]) == []
    assert rows.ours("peft_config", [LoraConfig(**options)]) == []


def test_ranks_are_cut_to_what_the_layers_hold():
    made = [rows.arguments({"target_modules": ["lin1"]}, subject) for subject in rows.SUBJECTS]
    assert {each["method"]: each["r"] for each in made}["asym_a"] == 2
    assert all(each["lora_alpha"] == each["r"] for each in made), "LoRA's scale of 1"
    # Tests that name no model make one with embeddings of 5 dimensions and a layer of (2, 10).
    embedding = rows.ours(NAMES, [("a row", LoraConfig, {"target_modules": ["emb", "lin0"]})])
    assert {row[2]["method"]: row[2]["r"] for row in embedding}["asym_a"] == 2
    # Kernels of (10, 5·3·3).
    convolution = rows.ours(NAMES, [("Conv2d", LoraConfig, {"target_modules": ["conv2d"], "r": 16})])
    assert {row[2]["method"]: row[2]["r"] for row in convolution}["asym_a"] == 10
    parameter = rows.ours(NAMES, [(rows.PARAMETERS_IN, LoraConfig, {"target_parameters": ["lin0.weight"]})])
    assert len(parameter) == len(rows.SUBJECTS)


def test_classes_and_instances_hold_our_methods():
    classes = rows.ours("config_cls", [LoraConfig, IA3Config])
    assert [cls.__name__ for cls in classes] == [subject.name for subject in rows.SUBJECTS]
    assert rows.ours("dtype", ["float16", "float32"]) is None


def test_subjects_cover_sides_sketches_and_chains():
    methods = [METHODS[subject.method] for subject in rows.SUBJECTS]
    # PEFT's tests hand no adapter any data.
    adapters = [method for method in METHODS.values() if method.is_adapter and not method.reads_inputs]
    assert {method.train for method in methods} == {method.train for method in adapters}
    assert {type(method.sketch) for method in methods} == {type(method.sketch) for method in adapters}
    assert any(subject.link for subject in rows.SUBJECTS)


def test_at_most_eight_reasons_each_with_its_assertion_and_count():
    assert len(REASONS) <= 8
    assert all(reason.departs_from and reason.why for reason in REASONS)
    assert list(json.loads(COMMITTED.read_text())["reasons"]) == [reason.name for reason in REASONS]


def test_a_reason_explains_its_failure_and_no_other():
    refusal = "LopsidedError: safe_serialization=False would write a pickle"
    assert reason_for("test_save_pretrained_pickle", refusal) is REASONS[0]
    assert reason_for("test_save_pretrained_pickle", "KeyError: 'default'") is None
    assert reason_for("test_save_pretrained", refusal) is None


def test_counts_may_only_get_better():
    committed = {"passed": {"a.py": 10}, "reasons": {"own words": 3}}
    assert not worse({"passed": {"a.py": 11}, "reasons": {"own words": 2}}, committed)
    assert len(worse({"passed": {}, "reasons": {"own words": 4, "new": 1}}, committed)) == 3


@pytest.mark.more
def test_every_assertion_stands_in_pefts_files():
    """The lines that reasons depart from are in the named functions of the installed PEFT's tests."""
    folder = fetch.sources() / "tests"
    bodies = {file: _functions(folder / file) for file in ("testing_common.py", "test_custom_models.py")}
    for reason in REASONS:
        for place, line in reason.departs_from.items():
            file, function = place.split("::")
            assert line in bodies[file][function], f"{reason.name}: {place} says {line!r} no more"


def _functions(path: Path) -> dict[str, str]:
    text = path.read_text()
    lines = text.splitlines()
    found = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))
    return {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in found}


def test_nothing_else_stands_on_the_suites_import_path():
    names = {path.name for path in Path(__file__).parents[1].iterdir()} - {"__pycache__"}
    assert names == {"__init__.py", "peft_suite"}, "a folder here hides an installed package of its name"
