"""A disk that fails in the middle of a run: what was good stays good, and the run goes on with the same bits."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.faults.interruptions import FAILED, Nursery, assert_same_run
from tests.faults.moments import Moment
from tests.faults.runs import Undisturbed


def assert_goes_on(nursery: Nursery, folder: Path, reference: Undisturbed, moment: Moment, number: int) -> None:
    print(f"{moment}, from then on {errno.errorcode[number]}")
    # An old checkpoint that can't be deleted stops nobody.
    expected = 0 if moment.kind == "delete" else FAILED
    assert nursery.run(folder, moment, number=number, **reference.settings) in (expected, FAILED)
    assert nursery.run(folder, **reference.settings) == 0
    assert_same_run(folder, reference.folder)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param(Moment("tensors", 3), errno.EACCES, marks=pytest.mark.more),
        (Moment("pickle", 8), errno.EROFS),
    ],
)
def test_a_failing_write_costs_nothing_that_was_saved(nursery, tmp_path, undisturbed, moment, number):
    assert_goes_on(nursery, tmp_path / "run", undisturbed("c3la"), moment, number)


@pytest.mark.soak
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("kind", ["tensors", "pickle", "state", "delete", "file"])
def test_every_write_of_a_run_fails_in_its_turn(nursery, tmp_path, undisturbed, kind, number):
    reference = undisturbed("c3la")
    for n in range(1, reference.counts[kind] + 1):
        assert_goes_on(nursery, tmp_path / str(n), reference, Moment(kind, n), number)


def suffered(nursery: Nursery, folder: Path, reference: Undisturbed, what: str, room: int = 0) -> None:
    disk = {"what": what, "room": room}
    assert nursery.run(folder, disk=disk, like=reference.folder, **reference.settings) == 0


@pytest.mark.parametrize("what", ["read-only", "denied"])
def test_a_disk_that_closes_for_real(nursery, tmp_path, undisturbed, namespaces, what):
    suffered(nursery, tmp_path / "run", undisturbed("c3la"), what)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.5])
def test_a_disk_that_is_full_for_real(nursery, tmp_path, undisturbed, namespaces, share):
    reference = undisturbed("c3la")
    suffered(nursery, tmp_path / "run", reference, "full", int(share * size_of(reference.folder)))


@pytest.mark.soak
@pytest.mark.parametrize("percent", range(2, 100, 7))
def test_a_disk_that_is_full_for_real_at_any_point(nursery, tmp_path, undisturbed, namespaces, percent):
    reference = undisturbed("c3la")
    suffered(nursery, tmp_path / "run", reference, "full", percent * size_of(reference.folder) // 100)
