"""Options: the list of them all, and that those of a configuration come from its fields."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from lopsided.errors import LopsidedError
from lopsided.runs import TrainConfig, train
from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.main import VERBS, app
from lopsided_settings import setting, settings_of
from lopsided_settings.checks import at_least
from lopsided_settings.compare import CompareSettings
from lopsided_settings.diagnose import DiagnoseSettings, LandscapeSettings
from lopsided_settings.federate import FederateSettings
from lopsided_settings.plugins import PluginSettings
from lopsided_settings.train import TrainSettings
from tests.cli.commands import assert_one_line

# Every option and argument of every verb: a user's scripts depend on them.
ALL = {
    "methods": "json",
    "models": "json",
    "tasks": "json",
    "compare": "margin tune "
    "model task methods seeds rank alpha links steps epochs batch-size accumulate lr max-length eval-rows "
    "target-modules label metric make-split no-make-split rename-labels ignore-columns trajectory no-trajectory bf16 "
    "no-bf16 resume no-resume out json train-size test-rows data also max-new-tokens beams flip no-flip plugin "
    "group-by-length no-group-by-length",
    "train": "model task method rank alpha links every steps epochs batch-size accumulate lr schedule warmup "
    "weight-decay dropout max-length evaluations eval-rows target-modules label metric make-split no-make-split "
    "test-rows rename-labels ignore-columns train-size trajectory no-trajectory bf16 no-bf16 report-to seed "
    "sketch-seed resume no-resume out json data also max-new-tokens beams flip no-flip plugin max-grad-norm adam-beta2 "
    "group-by-length no-group-by-length",
    "bench": "study out plan json stale retry-failed changed shard results data rehearse plugin backend "
    "address workers",
    "federate": "model task method methods rank alpha batch-size accumulate lr schedule warmup weight-decay dropout "
    "max-length target-modules label metric make-split no-make-split rename-labels ignore-columns test-rows data "
    "train-size also max-new-tokens beams flip no-flip bf16 no-bf16 seed sketch-seed max-grad-norm adam-beta2 clients "
    "eval-rows ranks wire-dtype "
    "partition concentration allow-missing no-allow-missing rounds local-epochs min-clients round-timeout plugin init "
    "weighting clipping-norm noise-multiplier delta secure-aggregation no-secure-aggregation "
    "resume no-resume out json",
    "export": "source for rank base probe no-probe out json",
    "probe": "target of model base remote json",
    "verify": "folder base allow-base-mismatch no-allow-base-mismatch json",
    "bounds": "runs model methods rank n sigma bits links kind labels target-modules json",
    "advise": "model task methods rates rank batches batch-size head-steps damping seeds target-modules max-length "
    "label make-split no-make-split rename-labels ignore-columns train-size seed out json data",
    "costs": "model task methods rank batch-size target-modules max-length bf16 no-bf16 data label make-split "
    "no-make-split rename-labels ignore-columns train-size rounds seed out json",
    "lab": "name list quick full seeds data resume no-resume out page json",
    "diagnose": "runs adapter base only top all-vectors top-only points rows hessian-rows directions extent radius "
    "reference seed full resume no-resume out json",
    "report": "runs out watch port json",
    "doctor": "json",
}
# By verb, what is shown of the options that differ between the two.
DEFAULTS = {
    "train": {"steps": None, "eval_rows": None, "schedule": "linear", "group_by_length": False, "rename_labels": None},
    "federate": {"task": "vader/all", "method": "rac_b", "train_size": 1000, "clients": 4, "partition": "even"},
    "diagnose": {"points": 7, "rows": 32, "hessian_rows": 16, "extent": None, "all_vectors": True},
    "compare": {"steps": 48, "eval_rows": 128, "seeds": "0", "methods": None, "group_by_length": True},
}


def parameters(verb):
    return get_command(app).commands[verb].params


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_every_verb(verb):
    names = [name for parameter in parameters(verb) for name in (*parameter.opts, *parameter.secondary_opts)]
    assert {name.lstrip("-") for name in names} == set(ALL[verb].split())


@pytest.mark.parametrize(
    ("verb", "kinds", "own"),
    [
        ("train", [TrainSettings, PluginSettings], "resume json"),
        ("federate", [TrainSettings, FederateSettings, PluginSettings], "methods init resume json"),
        ("compare", [TrainSettings, CompareSettings, PluginSettings], "resume json"),
        ("diagnose", [LandscapeSettings, DiagnoseSettings], "runs adapter base only full resume out json"),
    ],
)
def test_every_option_comes_from_a_field(verb, kinds, own):
    declared = {name: each for kind in kinds for name, each in settings_of(kind).items() if each.is_option_of(verb)}
    derived = {parameter.name: parameter for parameter in parameters(verb)}
    assert derived.keys() - declared.keys() == set(own.split())
    assert declared.keys() <= derived.keys()
    assert all(derived[name].help == each.help for name, each in declared.items())
    for name, default in DEFAULTS[verb].items():
        assert derived[name].default == default


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_and_argument_has_help_on_the_screen(verb):
    shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "400"}).output
    for parameter in parameters(verb):
        assert parameter.help, f"{verb}: {parameter.name}"
        assert parameter.help in shown


@dataclass(frozen=True, kw_only=True)
class PatientConfig(TrainConfig):
    """A run with one more field, which is all that this test adds."""

    patience: int = setting(3, help="Evaluations without progress.", check=at_least(1), defaults={"wait": 5})


def test_a_new_field_is_an_option_a_check_and_a_part_of_the_record(bert, words, tmp_path):
    @options.options_of(PatientConfig)
    def wait(settings: options.Values, json: options.Json = False) -> None:
        train(PatientConfig(**settings))

    small = typer.Typer()
    small.command("wait")(wait)
    run, out = CliRunner(), tmp_path / "out"
    tiny = ["--model", bert, "--task", words, "--method", "head", "--steps", "1", "--max-length", "16"]
    shown = " ".join(run.invoke(small, ["--help"], env={"COLUMNS": "200"}).output.split())
    # How a whole number is written in help is typer's own, and changes with its version.
    assert re.search(r"--patience (<int>|INTEGER) Evaluations without progress. \[default: 5\]", shown)
    refused = run.invoke(small, ["--patience", "0", "--out", str(out)])
    assert isinstance(refused.exception, LopsidedError)
    assert str(refused.exception) == "patience must be at least 1, got 0"
    assert run.invoke(small, [*tiny, "--patience", "2", "--out", str(out)]).exit_code == 0
    assert json.loads((out / "run.json").read_text())["config"]["patience"] == 2
    assert "patience (int): Evaluations" not in (TrainConfig.__doc__ or "")


def test_values_reach_the_verb_as_its_configuration_takes_them():
    taken = {}

    @options.options_of(TrainSettings, CompareSettings)
    def compare(run: options.Values, comparison: options.Values, json: options.Json = False) -> None:
        taken.update(run=run, comparison=comparison, json=json)

    small = typer.Typer()
    small.command()(compare)
    flags = ["--rename-labels", "a=b,c=d", "--ignore-columns", "x, y", "--seeds", "1,2", "--no-trajectory", "--json"]
    assert CliRunner().invoke(small, flags).exit_code == 0
    assert (taken["run"]["rename_labels"], taken["run"]["ignore_columns"]) == ({"a": "b", "c": "d"}, ["x", "y"])
    assert (taken["run"]["trajectory"], taken["run"]["out"], taken["json"]) == (False, None, True)
    # What a comparison sets without an option, and what it leaves to each run.
    assert taken["run"]["train_rows"] == 200
    assert taken["run"].keys().isdisjoint({"method", "schedule", "seed", "test"})
    assert taken["comparison"] == {"methods": (), "seeds": (1, 2), "margin": 1.0, "tune": None}
    assert isinstance(CliRunner().invoke(small, ["--seeds", ""]).exception, BadInput)
    assert CliRunner().invoke(small, ["--ignore-columns", ""]).exit_code == 0
    assert taken["run"]["ignore_columns"] is None


@pytest.mark.parametrize("verb", ["advise", "bounds"])
def test_names_of_methods_may_have_spaces_and_may_not_be_missing(cli, bert, words, verb):
    assert options.method_names("cla, rcla") == ["cla", "rcla"]
    assert options.method_names("all") is None
    outcome = cli(verb, "--model", bert, "--methods", "cla,")
    assert_one_line(outcome, "--methods must be names separated by commas, got 'cla,'; write --methods a,b")


def test_the_command_is_recorded_as_a_shell_takes_it(cli, bert, words, tmp_path):
    out = tmp_path / "a folder"
    options = ["--model", bert, "--task", words, "--method", "head", "--steps", 1, "--max-length", 16]
    assert cli("train", *options, "--out", out).status == 0
    assert json.loads((out / "run.json").read_text())["command"] == (
        f"lopsided train --model {bert} --task {words} --method head --steps 1 --max-length 16 --out '{out}'"
    )
