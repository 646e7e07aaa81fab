"""`python -m peft_suite [pytest's arguments]`: fetch PEFT's tests, build the models, and run them.

Without arguments the whole suite runs and its counts are compared with `counts.json`; `--counts write` writes them.
Other arguments are pytest's: `-k "merge and c3la"`, `test_seq_classifier.py`, `-n 1`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import fetch, models

FILES = (
    "test_custom_models.py",
    "test_decoder_models.py",
    "test_encoder_decoder_models.py",
    "test_feature_extraction_models.py",
    "test_seq_classifier.py",
)


def main(arguments: list[str]) -> int:
    sources = fetch.sources()
    hub = models.build(fetch.CACHE)
    chosen = [name for name in arguments if name in FILES]
    options = [argument for argument in arguments if argument not in FILES]
    if not arguments:
        options = ["--counts", "compare"]
    if "-n" not in options:
        options += ["-n", "2", "--dist", "worksteal"]
    options += ["-c", str(Path(__file__).parent / "suite.ini"), "--rootdir", str(sources), "-p", "peft_suite.plugin"]
    paths = [str(sources / "tests" / name) for name in chosen or FILES]
    here = str(Path(__file__).parents[1])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # The names of models are paths from here.
    return subprocess.run([sys.executable, "-m", "pytest", *options, *paths], cwd=hub, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
