"""The figures' numbers, and their sentences."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lopsided.diagnose.sections.similarity import similarity_meaning
from lopsided.diagnose.sections.timeline import timeline_meaning
from lopsided.plotting.colours import COLOURS, FLOOR_COLOUR, PATHS, SYMBOLS
from lopsided.report.bounds_next_to_gaps import bounds_meaning
from lopsided.report.figure_list import figures, looks, missing
from lopsided.report.gather import gather
from lopsided.report.loss_curves import losses_meaning
from lopsided.report.pareto import pareto_meaning
from tests.report.fabricated import fabricate_run


def made(gathered, task="vader/movie"):
    board = next(board for board in gathered.boards if board.task == task)
    members = [reported for reported in gathered.runs if reported.group == board.key]
    return {figure.key.partition("-")[2]: figure for figure in figures(board, members)}


@pytest.fixture(scope="module")
def movie(gathered):
    return made(gathered)


def test_every_figure_has_data_and_two_sentences(movie):
    wanted = "pareto bounds gaps losses timeline landscapes intruders spectra similarity forgetting"
    assert list(movie) == wanted.split()
    for figure in movie.values():
        assert figure.views
        for sentence in (figure.shows, figure.means):
            assert sentence.endswith(".")
            assert ". " not in sentence.removesuffix(".")
        json.dumps(figure.to_json(), allow_nan=False)


def test_without_a_diagnosis_its_figures_are_not_there_and_the_page_says_how_to_get_them(gathered):
    assert list(made(gathered, "vader/nyt")) == ["pareto", "bounds", "losses"]
    by_task = {
        board.task: [reported for reported in gathered.runs if reported.group == board.key] for board in gathered.boards
    }
    assert any("`lopsided diagnose RUN`" in line for line in missing(by_task["vader/nyt"]))
    everyone = missing(by_task["vader/movie"])
    assert any(line.startswith("Not diagnosed: head-seed0, head-seed1 and head-seed2") for line in everyone)
    assert not any(line.startswith("No bound") for line in everyone)


def test_curves_are_the_history(movie, study):
    record = json.loads((study / "runs" / "c3la-seed1" / "run.json").read_text())
    view = next(view for view in movie["losses"].views if view["name"].startswith("c3la, every seed"))
    drawn = next(one for one in view["series"] if one["name"] == "validation, seed 1")
    history = [(entry["step"], entry["eval_loss"]) for entry in record["history"] if "eval_loss" in entry]
    assert list(zip(drawn["x"], drawn["y"])) == [(step, pytest.approx(loss, rel=1e-3)) for step, loss in history]
    assert drawn["marks"] == [15, 30, 45]
    overview = movie["losses"].views[0]["series"]
    assert [one["label"] for one in overview] == ["c3la", "cla", "head", "lora"]


def test_bounds_stand_beside_the_gaps_of_the_table(movie, gathered):
    drawn = {one["name"]: one for one in movie["bounds"].views[0]["series"]}
    rows = next(board for board in gathered.boards if board.task == "vader/movie").leaderboard.rows
    gap = next(row for row in rows if row.label == "lora").cells["generalization_error"]
    assert drawn["lora, measured"]["x"] == [pytest.approx(gap.mean, rel=1e-3)]
    runs = [reported.bound.value for reported in gathered.runs if reported.run.name.startswith("lora-seed")]
    assert drawn["lora, bound"]["x"] == [pytest.approx(np.mean(runs), rel=1e-3)]


def test_landscape_timeline_and_similarity_are_the_diagnosis(movie, study):
    found = json.loads((study / "runs" / "c3la-seed0" / "diagnosis.json").read_text())
    view = next(view for view in movie["landscapes"].views if view["label"] == "c3la")
    assert view["loss"][0][0] is None
    assert view["loss"][3][5] == pytest.approx(found["landscape"]["loss"][3][5], rel=1e-3)
    assert view["path"]["step"] == [0, 15, 30, 45, 60]
    assert "3 losses were not finite" in movie["landscapes"].shows
    links = movie["timeline"].views[0]["rows"][0]["links"]
    assert [(link["first_step"], link["last_step"]) for link in links] == [(0, 15), (15, 30), (30, 45), (45, 60)]
    matrix = movie["similarity"].views[0]
    values = list(found["similarity"]["B"].values())
    first = [value for value in matrix["values"][matrix["names"].index("c3la 0")] if value is not None]
    assert sorted(first) == pytest.approx(sorted(values))


def test_a_timeline_without_a_diagnosis_comes_from_the_run(tmp_path):
    fabricate_run(tmp_path / "c3la", "c3la", 0)
    drawn = made(gather([tmp_path], bounds=False))
    assert [link["last_step"] for link in drawn["timeline"].views[0]["rows"][0]["links"]] == [15, 30, 45, 60]
    assert "`lopsided diagnose RUN` measures it" in drawn["timeline"].means
    assert "pareto" not in drawn


def test_the_front_says_whom_to_choose_among():
    titles = {"x": "cost", "y": "score"}
    assert pareto_meaning(["a", "b", "e"], **titles).startswith("On score against cost, choose among a, b and e: every")
    assert pareto_meaning(["a"], **titles).startswith("a is best on both score and cost")
    assert pareto_meaning([], **titles) == "No method has both score and cost."


def test_the_page_has_the_front_of_every_two_columns(movie):
    [view] = movie["pareto"].views
    keys = [column["key"] for column in view["columns"]]
    assert [list(view["fronts"]), *(list(by_y) for by_y in view["fronts"].values())] == [keys] * (len(keys) + 1)
    labels = [point["label"] for point in view["points"]]
    competing = [labels[number] for number, beaten_by in view["fronts"][view["x"]][view["y"]] if not beaten_by]
    assert all(label in movie["pareto"].means for label in competing)
    assert {labels[number] for number, _ in view["fronts"]["score"]["step_ms"]} == {"lora", "cla", "c3la"}


def test_sentences_follow_the_data():
    assert "order the methods much as the gaps do" in bounds_meaning(
        {"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 1.0, "b": 2.0, "c": 3.0}
    )
    assert "don't choose by it" in bounds_meaning({"a": 0.3, "b": 0.2, "c": 0.1}, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert "more steps may still help b" in losses_meaning({"a": (0.1, 30, False), "b": (0.2, 60, True)})
    assert "more steps won't help" in losses_meaning({"a": (0.1, 30, False), "b": (0.2, 30, False)})
    links = [{"loss_first": 1.0, "loss_last": 0.5}, {"loss_first": 0.5, "loss_last": 0.49}]
    assert "fewer links would have done" in timeline_meaning({"c3la": links})
    assert "unrelated spaces" in similarity_meaning({"B": (0.05, 0.04)})


def test_one_look_a_method_and_no_two_alike(gathered):
    found = looks(gathered.boards, gathered.runs)
    assert found["head"][0] == FLOOR_COLOUR
    assert len({tuple(look) for look in found.values()}) == len(found)
    assert {symbol for _, symbol in found.values()} <= set(PATHS)
    assert len(COLOURS) * len(SYMBOLS) == 42


@pytest.mark.parametrize("colour", [*COLOURS, FLOOR_COLOUR])
def test_colours_can_be_seen_on_white_and_on_near_black(colour):
    def luminance(text):
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))

    own = luminance(colour) + 0.05
    assert 1.05 / own >= 3
    assert own / (luminance("#14171c") + 0.05) >= 3
