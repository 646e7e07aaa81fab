"""Whether this checkout gives the figures that another one gave: every method, every kind of record, and the page.

    git worktree add ../before COMMIT
    python -m benchmarks.same_figures ../before --work FOLDER

The other checkout compares all methods on a small task (two seeds), diagnoses one run per kind of method, prints bounds
and advice, and writes the page. Then this checkout does the same twice: from the start, where times may differ and
nothing else, and on the other's finished runs, where nothing may differ. The script prints what differs; its exit
status is 1 if anything does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import unescape
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
METHODS = (
    "full,head,lora,lora_plus,cola,relora,lora_fa,asym_b,asym_a,rac_b,rac_a,bernoulli,cla,rcla,c3la,rc3la,paca,cpaca"
)
SHAPE = ("--steps", "8", "--batch-size", "8", "--rank", "4", "--max-length", "24", "--seeds", "0,1")
# One run per kind: all weights, the head alone, two factors, one factor, a coin, a chain of columns.
DIAGNOSED = [f"compared/runs/{method}-seed0" for method in ("full", "head", "lora", "cla", "bernoulli", "c3la")]
DIAGNOSIS = ("--points", "3", "--rows", "16", "--hessian-rows", "8", "--top-only")
# Figures of the clock, of the machine, and of the checkout itself.
CLOCK = {
    *("created", "wall_seconds", "timings", "versions", "machine", "command", "step_ms", "seconds", "generated"),
    *("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "run_id", "id", "hash"),
    # Of equal methods the faster one is taken; `step_ms` and the marks in its cells are left out with it.
    "sentences",
}
GOOD, BAD = ("warm", "fine", "lovely", "bright"), ("dull", "weak", "dreary", "flat")
SUBJECTS = ("film", "scene", "song", "story", "actor")
MOST_LINES = 60

Json = Mapping[str, "Json"] | Sequence["Json"] | str | float | bool | None


def write_task(folder: Path) -> None:
    """Write a small task: is this phrase kind? Two words of one tone each, and a word that says nothing."""
    folder.mkdir(parents=True)
    for split, rows in {"train": 160, "validation": 60, "test": 80}.items():
        lines = []
        for row in range(rows):
            label = (row * 7 + len(split)) % 3 % 2
            words = GOOD if label else BAD
            text = f"the {SUBJECTS[row % 5]} was {words[row % 4]} and {words[(row // 4) % 4]}, {row} times over"
            lines.append(json.dumps({"text": text, "label": "kind" if label else "unkind"}, allow_nan=False))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def lopsided(checkout: Path, folder: Path, *arguments: str) -> str:
    """Run a command with a checkout's code in a folder, and return what it prints."""
    threads = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", "from lopsided_cli.main import main; main()", *arguments]
    process = subprocess.run(
        command,
        env={**os.environ, **threads, "PYTHONPATH": str(checkout / "src")},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise SystemExit(f"same_figures: {' '.join(arguments)} of {checkout} failed:\n{process.stderr[-2000:]}")
    return process.stdout


def write_records(checkout: Path, folder: Path, *, resume: bool = False) -> None:
    """Write all records of one checkout.

    Commands run in `folder`, so that paths in the records do not depend on where it lies.

    Args:
        resume: whether the folder holds finished runs, whose records are then kept.
    """
    folder.mkdir(exist_ok=True)
    if not (folder / "task").exists():
        write_task(folder / "task")
    again = ["--resume"] if resume else []
    lopsided(checkout, folder, "compare", "--task", "task", "--methods", METHODS, *SHAPE, "--out", "compared", *again)
    lopsided(checkout, folder, "diagnose", *DIAGNOSED, *DIAGNOSIS)
    lopsided(checkout, folder, "report", "compared", "--out", "page.html")
    (folder / "bounds_of_runs.json").write_text(lopsided(checkout, folder, "bounds", *DIAGNOSED, "--json"))
    # These two depend on no run, and are kept where they are.
    if not (folder / "bounds.json").exists():
        (folder / "bounds.json").write_text(lopsided(checkout, folder, "bounds", "--json"))
    if not (folder / "advice.json").exists():
        advice = lopsided(checkout, folder, "advise", "--task", "task", "--json", "--out", "advice")
        (folder / "advice.json").write_text(advice)
    (folder / "done").write_text("")


def leaves(value: Json, place: str = "") -> Iterator[tuple[str, Json]]:
    """Return every figure of a record with its place, without those of the clock."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in CLOCK:
                yield from leaves(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{place}[{number}]")
    else:
        yield place, value


def records_in(folder: Path) -> set[Path]:
    """Return the JSON files of a folder by their places in it, without those of checkpoints and of the task."""
    paths = {path.relative_to(folder) for path in folder.rglob("*.json")}
    return {path for path in paths if "checkpoint" not in str(path) and "task" not in path.parts}


def with_names(folder: Path, record: Path) -> str:
    """Return a record's text, in which runs are known by their names: an id is a hash of a record with times in it."""
    text = (folder / record).read_text()
    for path in folder.rglob("diagnosis.json"):
        run = json.loads(path.read_text())["run"]
        text = text.replace(run["id"], run["name"])
    return text


def differences(before: Path, after: Path) -> list[str]:
    """Return the places at which two folders of records differ."""
    lines = []
    for name in sorted(records_in(before)):
        if not (after / name).exists():
            lines.append(f"{name}: missing")
            continue
        there, here = (dict(leaves(json.loads(with_names(folder, name)))) for folder in (before, after))
        for place in sorted(there.keys() | here.keys()):
            old, new = there.get(place, "absent"), here.get(place, "absent")
            if old != new:
                lines.append(f"{name}{place}: {old!r} -> {new!r}")
    return lines


def words_of(page: Path) -> list[str]:
    """Return the words and numbers of a page, in order, without markup, style and plotly."""
    text = re.sub(r"(?s)<style.*?</style>|<script(?![^>]*application/json).*?</script>", " ", page.read_text())
    return [line for line in (part.strip() for part in re.split(r"<[^>]*>|\n", unescape(text))) if line]


def differences_of_pages(before: Path, after: Path) -> list[str]:
    """Return the lines that one of two pages has and the other lacks."""
    there, here = words_of(before), words_of(after)
    lines = [f"- {line[:300]}" for line in there if line not in set(here)]
    return lines + [f"+ {line[:300]}" for line in here if line not in set(there)]


def show(what: str, lines: Sequence[str]) -> bool:
    """Print the first differences, and return whether there are any."""
    print(f"{what}: {len(lines)} differences")
    print("\n".join(lines[:MOST_LINES]))
    return bool(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare this checkout with another one; returns 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="the other checkout")
    parser.add_argument("--work", type=Path, required=True, help="folder for the records of both")
    parser.add_argument("--before-only", action="store_true", help="make the other checkout's records, and stop")
    options = parser.parse_args(arguments)
    work = options.work.resolve()
    work.mkdir(exist_ok=True)
    before, again, same_runs = work / "before", work / "again", work / "same-runs"
    if not (before / "done").exists():
        shutil.rmtree(before, ignore_errors=True)
        write_records(options.checkout.resolve(), before)
    if options.before_only:
        return 0
    for folder in (again, same_runs):
        shutil.rmtree(folder, ignore_errors=True)
    write_records(HERE, again)
    shutil.copytree(before, same_runs)
    write_records(HERE, same_runs, resume=True)
    differ = [
        show("records from the start", differences(before, again)),
        show("records on the same runs", differences(before, same_runs)),
        show("the page of the same runs", differences_of_pages(before / "page.html", same_runs / "page.html")),
    ]
    return int(any(differ))


if __name__ == "__main__":
    sys.exit(main())
