"""A study whose process is killed, at moments that nobody chose."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from lopsided.study.bench import Bench, run_bench
from tests.study.test_bench import TEXT, outcomes

pytestmark = pytest.mark.more


def begun(path, out):
    command = [sys.executable, "-m", "lopsided_cli.main", "bench", str(path), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def wait_for_first_run(out, process):
    """Wait until the first cell is under way: what comes before it is imports."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not list((out / "runs").glob("*/run.json")):
        time.sleep(0.02)


def test_killed_at_three_random_moments_a_study_gives_the_results_of_an_undisturbed_one(tmp_path, bert, words):
    path = tmp_path / "study.toml"
    path.write_text(TEXT.format(model=bert, task=words).replace("steps = 4", "steps = 20"))
    undisturbed = begun(path, tmp_path / "undisturbed")
    text, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, text
    draw, out = random.Random(time.time_ns()), tmp_path / "killed"
    for _ in range(3):
        process = begun(path, out)
        wait_for_first_run(out, process)
        time.sleep(draw.uniform(0.0, 1.5))
        process.kill()
        process.communicate(timeout=60)
    lines = (out / "results.jsonl").read_text().splitlines() if (out / "results.jsonl").exists() else []
    process = begun(path, out)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert outcomes(out) == outcomes(tmp_path / "undisturbed")
    after = (out / "results.jsonl").read_text().splitlines()
    # No finished cell was made again: the lines that were whole stand, and every cell has one.
    whole = [line for line in lines if line.endswith("}")]
    assert after[: len(whole)] == whole
    assert len(after) == 4
    assert run_bench(Bench(path=path, out=out)).counts() == {"finished": 4}
