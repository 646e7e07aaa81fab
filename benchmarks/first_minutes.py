"""From an empty folder to the demo's table: what a newcomer waits for, part by part.

    python -m benchmarks.first_minutes [--source REPOSITORY] [--only-demo] [--out docs/performance]

Clones the repository into a new folder, runs `make demo-setup` there and then what `make demo` runs, and takes the
time of each part. `--only-demo` takes this checkout's environment in place of a clone. The folder is
deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lopsided.files.atomic import write_json
from lopsided.runs.measure import machine, versions

ROOT = Path(__file__).parents[1]
RESULT = "first_minutes.json"


def timed(command: list[str], folder: Path) -> float:
    """Run a command in a folder, and return its seconds."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True)
    return time.perf_counter() - started


def demo(program: Path, folder: Path) -> dict[str, Any]:
    """Run the comparison, and return its seconds to the first row and to the end, and what it left.

    A row is a line of the output in a pipe: that of a run whose steps are done.
    """
    started, first = time.perf_counter(), None
    command = [str(program), "compare", "--out", "demo"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            first = first or time.perf_counter() - started
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds = time.perf_counter() - started
    out = folder / "demo"
    runs = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("runs/*/run.json"))}
    stepping = sum(run["timings"]["median_ms"] * run["steps"] / 1000 for run in runs.values())
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "first_row_seconds": first,
        "seconds": seconds,
        "share_of_steps": stepping / seconds,
        "folder_mebibytes": size / 2**20,
        "runs": {
            name: {"seconds": run["wall_seconds"], "test": run["metrics"]["test"]["score"]}
            for name, run in runs.items()
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure every part, write the result and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default=str(ROOT), help="What is cloned; this checkout by default.")
    parser.add_argument("--only-demo", action="store_true", help="Measure the demo alone, in this environment.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance")
    options = parser.parse_args(arguments)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder, parts = Path(temporary), dict[str, float]()
        program = Path(sys.executable).with_name("lopsided")
        if not options.only_demo:
            parts["clone_seconds"] = timed(["git", "clone", "--quiet", options.source, "clone"], folder)
            folder = folder / "clone"
            parts["setup_seconds"] = timed(["make", "demo-setup"], folder)
            program = folder / ".venv" / "bin" / "lopsided"
        result = {**parts, "demo": demo(program, folder)}
    result |= {"load": [before, os.getloadavg()[0]], "machine": machine(), "versions": versions()}
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / RESULT, result)
    shown = {name: value for name, value in result.items() if name != "versions"}
    print(json.dumps(shown, indent=2, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
