"""Quantized bases, in a process of their own: PEFT imports every quantizer that it finds, which takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# `make setup` puts them there.
QUANTIZERS = Path(sys.prefix) / "quantized"
HERE = Path(__file__).parent


@pytest.mark.more
@pytest.mark.skipif(not QUANTIZERS.exists(), reason="bitsandbytes and torchao are not installed; run `make setup`")
def test_quantized_bases():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "cases.py")],
        env={**os.environ, "PYTHONPATH": str(QUANTIZERS)},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
