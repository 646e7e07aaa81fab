"""The script that compares two checkouts: which figures of two folders of records it calls different."""

from __future__ import annotations

import json

import pytest

from benchmarks import same_figures as script


def write(folder, **records):
    for name, record in records.items():
        path = folder / "compared" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
    return folder


RECORD = {"score": 0.5, "losses": [1.0, 2.0], "timings": {"median_ms": 3.0}, "metrics": {"test": {"rows": 8}}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, None),
        ({"timings": {"median_ms": 9.0}}, None),
        ({"score": 0.6}, "compared/run.json.score: 0.5 -> 0.6"),
        ({"losses": [1.0, 2.5]}, "compared/run.json.losses[1]: 2.0 -> 2.5"),
        ({"metrics": {"test": {}}}, "compared/run.json.metrics.test.rows: 8 -> 'absent'"),
        ({"more": 1}, "compared/run.json.more: 'absent' -> 1"),
    ],
)
def test_a_figure_differs_unless_it_is_one_of_the_clock(tmp_path, change, line):
    before = write(tmp_path / "before", run=RECORD, other=RECORD)
    after = write(tmp_path / "after", run={**RECORD, **change}, other=RECORD)
    assert script.differences(before, after) == ([] if line is None else [line])


def test_a_missing_record_differs_and_the_task_and_checkpoints_are_no_records(tmp_path):
    before, after = write(tmp_path / "before", run=RECORD, gone=RECORD), write(tmp_path / "after", run=RECORD)
    for part in ("task", "checkpoint-8"):
        (before / part).mkdir()
        (before / part / "state.json").write_text("{}")
    assert script.differences(before, after) == ["compared/gone.json: missing"]


def test_pages_are_compared_by_their_words_and_data(tmp_path):
    page = "<style>p {}</style><script>plotly()</script><p>seven <b>runs</b></p>"
    data = '<script type="application/json">{"score": %s}</script>'
    for name, text in (
        ("a", page + data % 1),
        ("b", page.replace("plotly", "other") + data % 1),
        ("c", page + data % 2),
    ):
        (tmp_path / name).write_text(text)
    assert script.words_of(tmp_path / "a") == ["seven", "runs", '{"score": 1}']
    assert script.differences_of_pages(tmp_path / "a", tmp_path / "b") == []
    assert script.differences_of_pages(tmp_path / "a", tmp_path / "c") == ['- {"score": 1}', '+ {"score": 2}']


def test_a_command_that_fails_ends_the_comparison(tmp_path):
    with pytest.raises(SystemExit, match=r"same_figures: nonsense of .* failed"):
        script.lopsided(script.HERE, tmp_path, "nonsense")


def test_the_task_has_two_classes_in_every_split(tmp_path):
    script.write_task(tmp_path / "task")
    for split, count in (("train", 160), ("validation", 60), ("test", 80)):
        rows = [json.loads(line) for line in (tmp_path / "task" / f"{split}.jsonl").read_text().splitlines()]
        assert len(rows) == count
        assert {row["label"] for row in rows} == {"kind", "unkind"}
