"""A study on a local Ray cluster of two workers, one of which is killed."""

from __future__ import annotations

import time

import psutil
import pytest
import torch

from lopsided.study.bench import Bench, run_bench
from lopsided.study.ray_backend import RayBackend
from tests.study.test_bench import TEXT, outcomes

pytest.importorskip("ray")
pytestmark = pytest.mark.more


def workers():
    """The processes of this machine that make a cell just now, below this one."""
    children = psutil.Process().children(recursive=True)
    return [
        child
        for child in children
        if child.name().startswith("ray::_make") or "ray::_make" in " ".join(child.cmdline())
    ]


class OneKilled(RayBackend):
    """Kills the first worker that is seen at work."""

    killed = 0

    def next(self):
        deadline = time.monotonic() + 60
        while not self.killed and time.monotonic() < deadline:
            if found := workers():
                found[0].kill()
                self.killed += 1
            time.sleep(0.01)
        return super().next()


def test_a_study_on_two_workers_is_the_local_one_though_one_is_killed(tmp_path, bert, words):
    path = tmp_path / "study.toml"
    path.write_text(TEXT.format(model=bert, task=words))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_bench(Bench(path=path, out=tmp_path / "local"))
    finally:
        torch.set_num_threads(threads)
    made = []

    def maker(plan, cache):
        made.append(OneKilled(workers=2))
        return made[0]

    plan = run_bench(Bench(path=path, out=tmp_path / "ray"), backend=maker)
    assert plan.counts() == {"finished": 4}
    assert (made[0].slots, made[0].killed) == (2, 1)
    assert max(made[0]._begun.values()) == 2
    assert outcomes(tmp_path / "ray") == outcomes(tmp_path / "local")
