"""Whether this checkout gives the figures that another one gave: every method, every kind of record, and the page.

    git worktree add ../before COMMIT
    python -m benchmarks.same_figures ../before --work FOLDER

The other checkout compares all methods on a small task (two seeds), diagnoses one run per kind of method, prints bounds
and advice, and writes the page. Then this checkout does the same twice: from the start, where times may differ and
nothing else, and on the other's finished runs, where nothing may differ. What differs is printed; the exit status is 1
if anything does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
METHODS = (
    "full,head,lora,lora_plus,cola,relora,lora_fa,asym_b,asym_a,rac_b,rac_a,bernoulli,cla,rcla,c3la,rc3la,paca,cpaca"
)
# One run per kind: all weights, the head alone, two factors, one factor, a coin, a chain of columns.
DIAGNOSED = ("full", "head", "lora", "cla", "bernoulli", "c3la")
# Figures of the clock, of the machine, and of the checkout itself.
CLOCK = {
    *("created", "wall_seconds", "timings", "versions", "machine", "command", "step_ms", "seconds", "generated"),
    *("run_id", "id", "hash"),
}
GOOD, BAD = ("warm", "fine", "lovely", "bright"), ("dull", "weak", "dreary", "flat")


def write_task(folder: Path) -> None:
    """A small task: is this phrase kind? Two words of one tone each, and a word that says nothing."""
    folder.mkdir(parents=True)
    subjects = ("film", "scene", "song", "story", "actor")
    for split, rows in {"train": 160, "validation": 60, "test": 80}.items():
        lines = []
        for row in range(rows):
            label = (row * 7 + len(split)) % 3 % 2
            words = GOOD if label else BAD
            text = f"the {subjects[row % 5]} was {words[row % 4]} and {words[(row // 4) % 4]}, {row} times over"
            lines.append(json.dumps({"text": text, "label": "kind" if label else "unkind"}, allow_nan=False))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def lopsided(checkout: Path, *arguments: str | Path, cwd: Path) -> str:
    """Run a command with a checkout's code, and return what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout / "src"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-c", "from lopsided_cli.main import main; main()", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"same_figures: {' '.join(map(str, arguments))} of {checkout} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def records(checkout: Path, folder: Path, *, resume: bool = False) -> None:
    """All records of one checkout, in `folder`; commands run there, so that paths in records are the same."""
    folder.mkdir(exist_ok=True)
    if not (folder / "task").exists():
        write_task(folder / "task")
    shape = ["--steps", 8, "--batch-size", 8, "--rank", 4, "--max-length", 24, "--seeds", "0,1"]
    lopsided(
        checkout,
        *("compare", "--task", "task", "--methods", METHODS, *map(str, shape), "--out", "compared"),
        *(["--resume"] if resume else []),
        cwd=folder,
    )
    runs = [f"compared/runs/{method}-seed0" for method in DIAGNOSED]
    lopsided(
        checkout,
        *("diagnose", *runs, "--points", "3", "--rows", "16", "--hessian-rows", "8", "--top-only"),
        cwd=folder,
    )
    lopsided(checkout, "report", "compared", "--out", "page.html", cwd=folder)
    for name, command in {
        "bounds.json": ["bounds", "--json"],
        "bounds_of_runs.json": ["bounds", *runs, "--json"],
        "advice.json": ["advise", "--task", "task", "--json", "--out", "advice"],
    }.items():
        if not (folder / name).exists() or name == "bounds_of_runs.json":
            (folder / name).write_text(lopsided(checkout, *command, cwd=folder))
    (folder / "done").write_text("")


def leaves(value: Any, place: str, *, clock: bool) -> Iterator[tuple[str, Any]]:
    """Every figure of a record with its place; without those of the clock unless `clock`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if clock or key not in CLOCK:
                yield from leaves(inner, f"{place}.{key}", clock=clock)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from leaves(inner, f"{place}[{at}]", clock=clock)
    else:
        yield place, value


def shown(page: Path) -> list[str]:
    """The words and numbers of a page, in order, without markup, style and plotly."""
    text = re.sub(r"(?s)<style.*?</style>|<script(?![^>]*application/json).*?</script>", " ", page.read_text())
    return [line for line in (part.strip() for part in re.split(r"<[^>]*>|\n", unescape(text))) if line]


def differences(before: Path, after: Path, *, clock: bool) -> list[str]:
    """Places at which two folders of records differ."""
    names = [
        p.relative_to(before) for p in before.rglob("*.json") if "checkpoint" not in str(p) and "task" not in p.parts
    ]
    lines = []
    for name in sorted(names):
        if not (after / name).exists():
            lines.append(f"{name}: missing")
            continue
        there, here = (dict(leaves(json.loads((root / name).read_text()), "", clock=clock)) for root in (before, after))
        for place in sorted(there.keys() | here.keys()):
            if there.get(place, "absent") != here.get(place, "absent"):
                lines.append(f"{name}{place}: {there.get(place, 'absent')!r} -> {here.get(place, 'absent')!r}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--before-only", action="store_true", help="Make the other checkout's records, and stop.")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(exist_ok=True)
    if not (work / "before" / "done").exists():
        shutil.rmtree(work / "before", ignore_errors=True)
        records(options.checkout.resolve(), work / "before")
    if options.before_only:
        return
    failed = False
    for name, resume in {"again": False, "same-runs": True}.items():
        folder = work / name
        shutil.rmtree(folder, ignore_errors=True)
        if resume:
            shutil.copytree(work / "before", folder)
        records(HERE, folder, resume=resume)
        lines = differences(work / "before", folder, clock=False)
        print(f"{name}: {len(lines)} differences in records")
        print("\n".join(lines[:60]))
        failed |= bool(lines)
    there, here = shown(work / "before" / "page.html"), shown(work / "same-runs" / "page.html")
    lines = [f"- {line[:300]}" for line in there if line not in set(here)] + [
        f"+ {line[:300]}" for line in here if line not in set(there)
    ]
    print(f"page: {len(lines)} lines differ of {len(there)}")
    print("\n".join(lines[:60]))
    raise SystemExit(1 if failed or lines else 0)


if __name__ == "__main__":
    main()
