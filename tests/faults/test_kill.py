"""`kill -9` at any moment: the resumed run ends with the very bits of an undisturbed one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lopsided.runs import read_run
from tests.faults.interruptions import KILLED, Nursery, assert_same_checkpoints, assert_same_run, assert_same_tensors
from tests.faults.moments import KINDS, Moment
from tests.faults.runs import METHODS, Undisturbed

PLAIN = ("c3la", "relora")
SAVING = ("tensors", "pickle", "state", "delete", "file")


def assert_survives(nursery: Nursery, folder: Path, reference: Undisturbed, moments: list[Moment]) -> None:
    """A run that is killed at each moment in turn, and resumed each time, ends as the undisturbed one did."""
    print(f"{reference.settings['method']}, plain={reference.settings['plain']}, killed at {moments}")
    for i, moment in enumerate(moments):
        status = nursery.run(folder, moment, **reference.settings)
        # What is left of a resumed run may be over before its moment comes.
        assert status == KILLED or (i > 0 and status == 0)
        if not reference.settings["plain"]:
            run = read_run(folder)
            assert run is not None
            # A run has finished before it deletes its checkpoints.
            tidying = status == KILLED and moment.kind == "delete" and run.is_finished
            assert run.status == ("finished" if status == 0 or tidying else "cut off")
    assert nursery.run(folder, **reference.settings) == 0
    assert_same(folder, reference)


def assert_same(folder: Path, reference: Undisturbed) -> None:
    if not reference.settings["plain"]:
        assert_same_run(folder, reference.folder)
        return
    final = [load_file(run / "final" / "adapter_model.safetensors") for run in (folder, reference.folder)]
    assert_same_tensors(*final, "final")
    assert_same_checkpoints(folder, reference.folder)


def test_moments_of_every_kind_come_in_a_run(undisturbed):
    counts = undisturbed("c3la").counts
    assert set(counts) == set(KINDS)
    assert (counts["step"], counts["state"]) == (15, 3)
    # Thirteen layers begin three links; three snapshots, three checkpoints and the result are written.
    assert (counts["advance"], counts["tensors"]) == (39, 7)
    assert undisturbed("lora").counts["advance"] == 0


@pytest.mark.parametrize(
    ("seed", "method", "kinds"),
    [
        (0, "lora", ("forward", "step")),
        pytest.param(1, "relora", ("advance",), marks=pytest.mark.more),
        (2, "c3la", SAVING),
        (0, "head", ("step", *SAVING)),
        pytest.param(1, "full", SAVING, marks=pytest.mark.more),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(nursery, tmp_path, undisturbed, seed, method, kinds):
    moment = undisturbed(method).draw(random.Random(seed), kinds)
    assert_survives(nursery, tmp_path / "run", undisturbed(method), [moment])


def test_a_run_that_is_killed_while_it_resumes(nursery, tmp_path, undisturbed):
    # In the rotation that follows the last checkpoint, and then in writing `adapter/`.
    reference = undisturbed("c3la")
    moments = [Moment("delete", 3), Moment("tensors", 1, 0.9)]
    assert_survives(nursery, tmp_path / "run", reference, moments)


@pytest.mark.parametrize("method", ["head", "c3la"])
def test_a_run_that_is_killed_as_it_deletes_its_checkpoints_is_finished(nursery, tmp_path, undisturbed, method):
    # The last folder that a run deletes is that of its checkpoints.
    reference = undisturbed(method)
    folder, last = tmp_path / "run", Moment("delete", reference.counts["delete"])
    assert nursery.run(folder, last, **reference.settings) == KILLED
    assert read_run(folder).is_finished
    assert (folder / "checkpoints").exists()
    assert nursery.run(folder, **reference.settings) == 0
    assert_same(folder, reference)


@pytest.mark.parametrize("kinds", [("advance",), SAVING])
def test_a_killed_plain_trainer_ends_with_the_same_bits(nursery, tmp_path, undisturbed, kinds):
    reference = undisturbed("c3la", plain=True)
    assert_survives(nursery, tmp_path / "run", reference, [reference.draw(random.Random(0), kinds)])


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(200))
def test_killed_at_any_moment_once_or_twice(nursery, tmp_path, undisturbed, seed):
    generator = random.Random(seed)
    kinds = [*((method, False) for method in METHODS), *((method, True) for method in PLAIN)]
    method, plain = kinds[seed % len(kinds)]
    reference = undisturbed(method, plain=plain)
    moments = [reference.draw(generator) for _ in range(generator.randint(1, 2))]
    assert_survives(nursery, tmp_path / "run", reference, moments)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(40))
def test_killed_by_the_clock(nursery, tmp_path, undisturbed, seed):
    # In the middle of anything, C++ and Rust included; the moment is not the same twice.
    generator = random.Random(seed)
    reference = undisturbed(tuple(METHODS)[seed % len(METHODS)])
    seconds = [generator.uniform(0.1, 1.0) * reference.seconds for _ in range(2)]
    print(f"{reference.settings['method']}, killed after {seconds} seconds")
    for limit in seconds:
        assert nursery.run(tmp_path / "run", seconds=limit, **reference.settings) in (0, KILLED)
    assert nursery.run(tmp_path / "run", **reference.settings) == 0
    assert_same(tmp_path / "run", reference)
