"""`lopsided diagnose`: a run's whole diagnosis, several runs compared, an adapter without its run, and refusals."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from transformers import AutoModelForSequenceClassification

import lopsided
from lopsided.diagnose import SECTIONS, Headline, Need, Section, register_section
from lopsided.diagnose.tables import documentation
from lopsided.plotting.figure import Axis, Figure, FigureEntry, diagnosed, series, view
from lopsided.runs.directory import write_run
from lopsided_settings.diagnose import LandscapeSettings
from tests.cli.commands import assert_one_line
from tests.tiny_runs import whole_record

SMALL = ("--points", 3, "--rows", 16, "--hessian-rows", 8)


@pytest.fixture
def diagnosis_of(cli, tmp_path):
    """Diagnoses a folder and gives what its file holds."""

    def diagnose(folder, *arguments):
        outcome = cli("diagnose", folder, *SMALL, *arguments)
        assert outcome.status == 0, outcome.err
        return json.loads((folder / "diagnosis.json").read_text())

    return diagnose


def test_a_chain_has_every_section(cli, tiny, tmp_path, diagnosis_of):
    run = tmp_path / "run"
    assert cli("train", *tiny, "--method", "c3la", "--links", 2, "--evaluations", 4, "--out", run).status == 0
    record, found = json.loads((run / "run.json").read_text()), diagnosis_of(run)
    assert found["skipped"] == {}
    assert set(found) >= {"generalization", "layers", "intruders", "landscape", "timeline"}
    assert found["generalization"]["G"]["value"] == pytest.approx(record["generalization_error"]["value"])
    assert len(found["layers"]) == len(found["intruders"]["all"]["by_layer"]) == 13
    links = found["timeline"]["links"]
    assert [link["last_step"] for link in links] == [*record["chain"]["boundaries"], 8]
    # All of a layer's energy is told by link, and the links' norms are those of the layers.
    kept = [link for link in links if link["norm"] is not None]
    assert all(sum(layer["energy_by_link"]) == pytest.approx(1) for layer in found["layers"])
    assert all(len(layer["energy_by_link"]) == len(kept) for layer in found["layers"])
    assert sum(link["norm"] ** 2 for link in kept) ** 0.5 == pytest.approx(
        sum(layer["delta"]["frobenius"] ** 2 for layer in found["layers"]) ** 0.5, rel=1e-4
    )
    landscape = found["landscape"]
    assert len(landscape["loss"]) == len(landscape["axis"]) == 3
    assert landscape["loss"][1][1] == pytest.approx(landscape["centre"])
    assert landscape["sharpness"]["largest"] > 0


def test_the_trajectory_is_walked_where_it_leads_to_the_best_checkpoint(cli, tiny, tmp_path, diagnosis_of):
    run = tmp_path / "run"
    assert cli("train", *tiny, "--method", "cla", "--evaluations", 4, "--out", run).status == 0
    best = json.loads((run / "run.json").read_text())["best_step"]
    found = diagnosis_of(run, "--only", "landscape")
    assert "layers" not in found
    steps = [point["step"] for point in found["landscape"]["path"] or []]
    expected = [step for step in (2, 4, 6) if step < best]
    assert steps == ([*expected, best] if len(expected) >= 2 else [])
    if steps:
        assert found["landscape"]["path"][-1] == {"step": best, "a": 0.0, "b": 0.0}
    assert found["landscape"]["directions"] == ("trajectory" if steps else "random")
    assert diagnosis_of(run, "--only", "landscape", "--directions", "random")["landscape"]["directions"] == "random"


def test_a_comparison_is_diagnosed_as_a_whole(cli, tiny, tmp_path):
    out = tmp_path / "study"
    assert cli("compare", *tiny[:-2], "--methods", "asym_b,full,head", "--seeds", "0,1", "--out", out).status == 0
    outcome = cli("diagnose", out, *SMALL, "--only", "generalization,layers,intruders,timeline")
    assert outcome.status == 0, outcome.err
    found = {path.parent.name: json.loads(path.read_text()) for path in out.glob("runs/*/diagnosis.json")}
    assert len(found) == 6
    ids = {name: diagnosis["run"]["id"] for name, diagnosis in found.items()}
    first, second = found["asym_b-seed0"], found["asym_b-seed1"]
    assert set(first["similarity"]["B"]) == {ids["asym_b-seed1"]}
    assert first["similarity"]["B"][ids["asym_b-seed1"]] == second["similarity"]["B"][ids["asym_b-seed0"]]
    assert "similarity" not in found["full-seed0"]
    assert found["full-seed0"]["layers"][0]["delta"]["frobenius"] > 0
    assert "trains a head alone" in found["head-seed0"]["skipped"]["layers"]
    assert "no layers: " in outcome.out
    # Nothing is made again of what is there already; other settings make it anew.
    before = (out / "runs" / "asym_b-seed0" / "diagnosis.json").stat().st_mtime_ns
    options = ("diagnose", out / "runs" / "asym_b-seed0", *SMALL, "--resume")
    assert cli(*options, "--only", "generalization,layers,intruders,timeline").status == 0
    assert (out / "runs" / "asym_b-seed0" / "diagnosis.json").stat().st_mtime_ns == before
    assert cli(*options, "--only", "generalization").status == 0
    assert (out / "runs" / "asym_b-seed0" / "diagnosis.json").stat().st_mtime_ns != before


def test_an_adapter_without_its_run(cli, bert, tmp_path):
    model = lopsided.adapt(AutoModelForSequenceClassification.from_pretrained(bert), "asym_b", r=4, seed=1)
    for name, parameter in model.named_parameters():
        if name.endswith("lopsided_B.default.weight"):
            parameter.data.normal_()
    lopsided.to_lora(model, tmp_path / "lora")
    out, pairs = tmp_path / "out", tmp_path / "pairs.jsonl"
    rows = [{"sentence1": "river stone", "sentence2": "lamp " * (i % 5), "label": i % 3} for i in range(24)]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    asked = ("diagnose", "--adapter", tmp_path / "lora", "--base", bert, "--out", out, "--reference", pairs)
    printed = cli(*asked, "--json")
    assert printed.status == 0, printed.err
    found = json.loads(printed.out)
    assert found == json.loads((out / "diagnosis.json").read_text())
    assert all(layer["delta"]["rank"] == 4 for layer in found["layers"])
    assert "diagnose its run" in found["skipped"]["landscape"]
    assert found["forgetting"]["rows"] == 24
    assert f"{found['forgetting']['base']:.3f}" in "".join(cli(*asked).out.split())


def test_the_grid_is_small_without_full_and_each_option_goes_before_it(cli, tmp_path, monkeypatch):
    configs = []

    def take(runs, config, *, keep_closer, **others):
        around = config.landscape
        configs.append((around.points, around.rows, around.hessian_rows, config.all_vectors, keep_closer))
        return {}

    monkeypatch.setattr("lopsided.diagnose.diagnose_runs", take)
    for options in ((), ("--full",), ("--full", "--rows", 40), ("--points", 7), ("--top-only",), ("--seed", 1)):
        outcome = cli("diagnose", tmp_path, *options)
        assert outcome.status == 0, outcome.err
    assert configs == [
        (7, 32, 16, True, True),
        (25, 256, 64, True, False),
        (25, 40, 64, True, False),
        (7, 32, 16, True, False),
        (7, 32, 16, False, False),
        (7, 32, 16, True, True),
    ]


@pytest.mark.more
def test_a_small_landscape_by_default_and_the_fine_one_where_it_is_asked_for(cli, tiny, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert cli("train", *tiny, "--method", "cla", "--evaluations", 1, "--out", run).status == 0
    # The fine grid is made small here: this is what --full takes where nothing is given.
    fine = {"points": 8, "rows": 33, "hessian_rows": 17}
    for field in dataclasses.fields(LandscapeSettings):
        if field.name in fine:
            monkeypatch.setattr(field, "default", fine[field.name])

    def diagnose(*arguments):
        outcome = cli("diagnose", run, "--only", "generalization,landscape", *arguments)
        assert outcome.status == 0, outcome.err
        around = json.loads((run / "diagnosis.json").read_text())["settings"]["around"]
        return outcome, tuple(around[name] for name in fine)

    small, settings = diagnose()
    assert settings == (7, 32, 16)
    sentence = "a small landscape: 7 x 7 points on 32 rows, the Hessian on 16; --full takes 8 x 8 points on 33 rows"
    assert sentence in small.out
    # One line for the run, and one for each section.
    lines = [line.split(":")[1] for line in small.err.splitlines() if line.startswith("diagnose: ")]
    assert lines == [" run 1 of 1", " generalization", " landscape"]
    assert diagnose("--full", "--points", 3)[1] == (3, 33, 17)
    full, settings = diagnose("--full")
    assert settings == (8, 33, 17)
    assert "small landscape" not in full.out
    # What is finer is kept where no option is about the grid, and replaced where one is.
    kept, settings = diagnose()
    assert settings == (8, 33, 17)
    assert "run has a closer diagnosis (points 8, rows 33, hessian-rows 17), which is kept" in kept.err
    coarser, settings = diagnose("--points", 3)
    assert settings == (3, 32, 16)
    assert "a closer diagnosis (points 8, rows 33, hessian-rows 17) is replaced" in coarser.err


@pytest.fixture
def rain():
    """A section of a test's own: all that has to be written for one."""

    def draw(group):
        drops = {run.label: run.diagnosis["rain"]["drops"] for run in diagnosed(group.runs, "rain")}
        if not drops:
            return None
        bars = [series(label, [count], [label]) for label, count in drops.items()]
        return Figure(
            key=f"{group.key}-rain",
            kind="intervals",
            title="Rain on the rows",
            shows="Each mark counts the drops on the test rows.",
            means=f"Take an umbrella along with {max(drops, key=lambda label: drops[label])}.",
            views=[view("", Axis(title="drops"), Axis(title="method"), bars)],
        )

    section = Section(
        name="rain",
        about="how many drops fell on the test rows",
        needs=frozenset({Need.PREDICTIONS}),
        compute=lambda inputs: {"drops": len(inputs.run.predictions["test"]["loss"])},
        headlines=(Headline(heading="rain", cell=lambda content: f"{content['drops']} drops"),),
        figures=(FigureEntry(draw=draw),),
    )
    yield register_section(section)
    del SECTIONS[section.name]


def test_a_section_is_one_entry(cli, tiny, rain, tmp_path, diagnosis_of):
    run, page = tmp_path / "run", tmp_path / "page.html"
    assert cli("train", *tiny, "--method", "cla", "--evaluations", 1, "--out", run).status == 0
    assert_one_line(cli("diagnose", run, "--only", "rian"), "timeline, forgetting, rain; did you mean 'rain'?")
    assert diagnosis_of(run, "--only", "rain")["rain"] == {"drops": 40}
    [_, *lines] = cli("diagnose", run, "--only", "generalization,rain", *SMALL).out.splitlines()
    assert re.search(r"base's own score\W+rain\W*$", lines[1])
    assert lines[3].rstrip(" │").endswith("40 drops")
    assert cli("report", run, "--out", page).status == 0
    text = page.read_text()
    for said in ("Rain on the rows", "counts the drops on the test rows.", "Take an umbrella along with cla."):
        assert said in text
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    drawn = {figure["key"]: figure for figure in data["groups"][0]["figures"]}
    assert list(drawn)[-1] == "g0-rain"
    assert drawn["g0-rain"]["views"][0]["series"][0]["x"] == [40]
    assert documentation().splitlines()[-1] == (
        "| `rain` | how many drops fell on the test rows | the predictions of a finished run |  |"
    )


def test_an_adapter_without_its_run_has_no_section_of_a_run(cli, bert, rain, tmp_path):
    model = lopsided.adapt(AutoModelForSequenceClassification.from_pretrained(bert), "asym_b", r=4, seed=1)
    lopsided.to_lora(model, tmp_path / "lora")
    printed = cli("diagnose", "--adapter", tmp_path / "lora", "--base", bert, "--only", "rain", "--out", tmp_path / "o")
    assert printed.status == 0, printed.err
    assert "no rain: an adapter does not say how it was trained; diagnose its run" in printed.out


def test_bad_input_is_one_line(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_one_line(cli("diagnose"), "expected run directories, or --adapter")
    assert_one_line(cli("diagnose", tmp_path / "empty"), "without a run.json")
    assert_one_line(cli("diagnose", tmp_path, "--only", "layrs"), "did you mean 'layers'")
    assert_one_line(cli("diagnose", tmp_path, "--points", 1), "points must be at least 2")
    assert_one_line(cli("diagnose", tmp_path, "--directions", "up"), "directions must be one of")
    assert_one_line(cli("diagnose", "--adapter", tmp_path), "--adapter and --base belong together")
    assert_one_line(cli("diagnose", "--adapter", tmp_path / "empty", "--base", "embedded"), "adapter_config.json")
    run = tmp_path / "run"
    run.mkdir()
    write_run(run, whole_record(status="failed", error="x"))
    assert_one_line(cli("diagnose", run), "that did not finish")
