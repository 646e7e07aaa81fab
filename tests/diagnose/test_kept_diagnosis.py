"""Which saved diagnosis is kept: one of the same run that looked closer at the same."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lopsided.diagnose import DiagnoseConfig, LandscapeConfig
from lopsided.diagnose.kept_diagnosis import closer_fields, holds_all, saved_settings
from lopsided.runs.saved_diagnosis import DIAGNOSIS, DIAGNOSIS_SCHEMA
from tests.diagnose.cases import logged_run

SMALL = LandscapeConfig(points=7, rows=32, hessian_rows=16)


@pytest.mark.parametrize(
    ("asked", "closer", "all_there"),
    [
        (DiagnoseConfig(landscape=SMALL), "points 25, rows 256, hessian-rows 64", True),
        (DiagnoseConfig(landscape=SMALL, all_vectors=False), "points 25, rows 256, hessian-rows 64, all vectors", True),
        (DiagnoseConfig(only=("layers",), landscape=SMALL), "points 25, rows 256, hessian-rows 64", True),
        (
            DiagnoseConfig(landscape=dataclasses.replace(SMALL, radius=0.1)),
            "points 25, rows 256, hessian-rows 64",
            False,
        ),
        (DiagnoseConfig(landscape=dataclasses.replace(SMALL, rows=512)), "points 25, hessian-rows 64", False),
        (DiagnoseConfig(landscape=SMALL, top=3), "points 25, rows 256, hessian-rows 64", False),
        (DiagnoseConfig(), "", True),
    ],
)
def test_what_is_finer_and_whether_it_holds_all_that_is_asked_for(asked, closer, all_there):
    saved = json.loads(json.dumps(DiagnoseConfig().to_json()))
    assert closer_fields(saved, asked) == closer
    assert holds_all(saved, asked) is all_there


def test_fewer_sections_are_not_all_and_have_no_grid():
    saved = DiagnoseConfig(only=("layers",)).to_json()
    assert closer_fields(saved, DiagnoseConfig(landscape=SMALL)) == ""
    assert not holds_all(saved, DiagnoseConfig(landscape=SMALL))


def test_a_file_that_is_not_of_this_run_has_no_settings(tmp_path):
    run = dataclasses.replace(logged_run(None), folder=tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert saved_settings(run) is None
    for text in ("{", json.dumps({"schema": DIAGNOSIS_SCHEMA, "run": {"id": "another"}, "settings": {"top": 3}})):
        (tmp_path / DIAGNOSIS).write_text(text)
        assert saved_settings(run) is None
    own = {"schema": DIAGNOSIS_SCHEMA, "run": {"id": run.id}, "settings": {"top": 3}}
    (tmp_path / DIAGNOSIS).write_text(json.dumps(own))
    assert saved_settings(run) == {"top": 3}
