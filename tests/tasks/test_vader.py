from __future__ import annotations

import subprocess
import sys

import pytest

from lopsided.errors import LopsidedError
from lopsided.tasks import load_task, vader
from lopsided.tasks.splits import stable_hash

SIZES = {
    "vader/movie": (8395, 1086, 1087),
    "vader/amazon": (2876, 364, 370),
    "vader/nyt": (3962, 499, 485),
    "vader/tweets": (3381, 434, 381),
}


@pytest.fixture(scope="module")
def tasks(archive):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOPSIDED_CACHE", str(archive.parent))
        return {name: load_task(name) for name in SIZES}


def test_splits_are_golden(tasks):
    for name, task in tasks.items():
        assert tuple(len(task.splits[split]) for split in ("train", "validation", "test")) == SIZES[name]
        assert (task.kind, task.labels, task.metric.name) == (
            "classification",
            ("negative", "positive"),
            "accuracy",
        )
    movie = tasks["vader/movie"].splits
    assert [sum(movie[split]["label"]) for split in ("train", "validation", "test")] == [4150, 554, 538]
    joined = "\n".join(f"{label} {text}" for text, label in zip(movie["test"]["text"], movie["test"]["label"]))
    assert stable_hash(joined) == 15470309622494161459


def test_no_text_is_in_two_splits_or_domains(tasks):
    for task in tasks.values():
        train, validation, test = (set(task.splits[s]["text"]) for s in ("train", "validation", "test"))
        assert train.isdisjoint(validation)
        assert test.isdisjoint(train | validation)
        for rows in task.out_of_domain.values():
            assert not set(rows["text"]) & (train | validation | test)


def test_out_of_domain_is_the_other_tests_by_hash(tasks):
    for name, task in tasks.items():
        assert set(task.out_of_domain) == set(tasks) - {name}
        for other, rows in task.out_of_domain.items():
            assert len(rows) == 300
            assert set(rows["text"]) <= set(tasks[other].splits["test"]["text"])
            order = [stable_hash(text, salt="out-of-domain") for text in rows["text"]]
            assert order == sorted(order)
            assert 0.3 < sum(rows["label"]) / 300 < 0.75


def test_texts_are_utf8_and_whole(archive):
    movie = [text for text, _ in vader.read_domain(archive, "movie")]
    assert any("clichés" in text for text in movie)
    assert not any("Ã" in text or "\r" in text or "\t" in text for text in movie)
    assert len(movie) == 10605 - 37  # the rows rated exactly 0


def test_unknown_domain_names_the_nearest():
    with pytest.raises(LopsidedError, match=r"received 'vader/tweet'; did you mean 'tweets'\?"):
        load_task("vader/tweet")
    with pytest.raises(LopsidedError, match="expected vader/movie, vader/amazon, vader/nyt, vader/tweets"):
        load_task("vader")


def test_options_of_other_tasks_are_refused():
    with pytest.raises(LopsidedError, match="has its own labels and splits"):
        load_task("vader/movie", make_split=True)


def fake_pip(monkeypatch, tmp_path, content: bytes | None, stderr: str = ""):
    """Puts a pip in place that writes `content`, or fails with `stderr`."""
    commands = []

    def run(command, **_):
        commands.append(command)
        if content is not None:
            (type(tmp_path)(command[-1]) / vader.ARCHIVE.name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0 if content is not None else 1, "", stderr)

    monkeypatch.setenv("LOPSIDED_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_fetch_is_checked_kept_and_not_repeated(archive, monkeypatch, tmp_path):
    commands = fake_pip(monkeypatch, tmp_path, archive.read_bytes())
    path = vader.fetch()
    assert path == tmp_path / vader.ARCHIVE.name
    assert vader.fetch() == path
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert [entry.name for entry in tmp_path.iterdir()] == [vader.ARCHIVE.name]


def test_a_failing_pip_says_what_to_do(monkeypatch, tmp_path):
    fake_pip(monkeypatch, tmp_path, None, "WARNING: retrying\nERROR: no matching distribution")
    with pytest.raises(LopsidedError, match=r"received: ERROR: no matching distribution; .*copy the source") as caught:
        vader.fetch()
    assert str(tmp_path / vader.ARCHIVE.name) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_another_hash_is_refused_and_not_kept(monkeypatch, tmp_path):
    fake_pip(monkeypatch, tmp_path, b"something else")
    with pytest.raises(LopsidedError, match=f"expected sha256 {vader.ARCHIVE.sha256}; received [0-9a-f]{{64}}; copy"):
        vader.fetch()
    assert not list(tmp_path.iterdir())
    (tmp_path / vader.ARCHIVE.name).write_bytes(b"cut short")
    with pytest.raises(LopsidedError, match=r"received [0-9a-f]{64}; delete .* and run again"):
        vader.fetch()


def test_all_domains_are_one_task_whose_rows_name_theirs(tasks, archive, monkeypatch):
    monkeypatch.setenv("LOPSIDED_CACHE", str(archive.parent))
    task = load_task("vader/all")
    assert not task.out_of_domain
    for split, rows in task.splits.items():
        assert sorted(set(rows["domain"])) == sorted(vader.DOMAINS)
        for domain in vader.DOMAINS:
            own = tasks[f"vader/{domain}"].splits[split]
            mine = [(text, label) for text, label, d in zip(rows["text"], rows["label"], rows["domain"]) if d == domain]
            assert mine == list(zip(own["text"], own["label"]))
