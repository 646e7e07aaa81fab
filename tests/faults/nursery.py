"""Makes processes that train, and die on request: `python -m tests.faults.nursery`, then one request a line.

The heavy imports happen once, here. Nothing is computed in this process, so that it has no threads, and a child
of it is as good as a process of its own.
"""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jinja2
import torch
import transformers.models.bert.modeling_bert  # noqa: F401  (what a run imports when it needs it)
from huggingface_hub import ModelCard, ModelCardData

from lopsided.runs import TrainConfig, train
from lopsided.tasks import vader  # noqa: F401
from tests.faults.disks import suffer
from tests.faults.interruptions import FAILED, assert_same_run
from tests.faults.moments import Moment, Site
from tests.faults.plain import plain_run


def live(request: dict[str, Any]) -> int:
    """One run, from its start or from its last checkpoint, until its end or the request's moment.

    Returns:
        The exit status: FAILED for a run that ended with the request's error.
    """
    torch.set_num_threads(1)
    folder = Path(request["folder"])
    site = Site(folder, Moment(**request["moment"]) if request["moment"] else None, request["number"])
    site.arm()

    def go(resume: bool) -> None:
        if request["plain"]:
            plain_run(folder, **request["options"])
        else:
            train(TrainConfig(**request["options"], out=folder), resume=resume)

    if request["disk"]:
        suffer(folder=folder, go=go, **request["disk"])
        # The disk is gone with this process.
        assert_same_run(folder, Path(request["like"]))
        return 0
    try:
        go(request["resume"])
    except OSError as error:
        if error.errno != request["number"]:
            raise
        return FAILED
    Path(request["counts"]).write_text(json.dumps(site.counts))
    return 0


def wait(child: int, seconds: float | None) -> int:
    """The child's status; when its time is over, it is killed."""
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = math.inf
        time.sleep(0.002)


def main() -> None:
    # The template of the model card that each save writes, compiled here for all children.
    jinja2.Environment.compile = functools.cache(jinja2.Environment.compile)  # type: ignore[method-assign]
    ModelCard.from_template(ModelCardData())
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            # The answers alone go to standard output.
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            os._exit(live(request))
        print(os.waitstatus_to_exitcode(wait(child, request["seconds"])), flush=True)


if __name__ == "__main__":
    main()
