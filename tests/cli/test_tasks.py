from __future__ import annotations

import json

from lopsided.tasks import TASKS


def test_tasks_are_listed(cli):
    outcome = cli("tasks")
    assert outcome.status == 0
    assert all(name in outcome.out for name in TASKS)


def test_each_part_has_its_source_in_json(cli):
    listed = {entry["name"]: entry for entry in json.loads(cli("tasks", "--json").out)}
    assert set(listed) == set(TASKS)
    entry = listed["openbookqa"]
    assert entry["origin"] == "allenai/openbookqa (main)"
    assert "Question: {question}" in entry["form"]
    assert entry["sources"] == {"hub": "code", "splits": "code", "form": "code", "metric": "code"}
