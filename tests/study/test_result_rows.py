"""Answers to rows in a line of results, which may come from anywhere."""

import base64
import zlib

import numpy as np
import pytest

from lopsided import LopsidedError
from lopsided.study import results
from lopsided.study.results import packed, unpacked

ROWS = {"test": {"prediction": np.arange(1000) % 3, "loss": np.linspace(0, 1, 1000)}}


def test_what_is_packed_comes_out():
    rows = unpacked(packed(ROWS))["test"]
    assert (rows["prediction"] == ROWS["test"]["prediction"]).all()
    assert np.allclose(rows["loss"], ROWS["test"]["loss"], atol=1e-7)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no base64", "base64"),
        (base64.b64encode(b"not packed").decode(), "decompressing"),
        (base64.b64encode(zlib.compress(b"\x80\x04]." + bytes(20))).decode(), "the magic string is not correct"),
        (base64.b64encode(zlib.compress(bytes(5000))).decode(), "more than 4,000 bytes"),
    ],
)
def test_what_is_none_is_refused_in_a_line(text, reason, monkeypatch):
    monkeypatch.setattr(results, "MOST_BYTES", 4000)
    with pytest.raises(LopsidedError, match="the rows of a result can't be read") as refused:
        unpacked({"test": {"loss": text}})
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_array_that_is_broken_off_is_refused():
    whole = base64.b64decode(packed(ROWS)["test"]["loss"])
    with pytest.raises(LopsidedError, match="broken off"):
        unpacked({"test": {"loss": base64.b64encode(whole[:-20]).decode()}})
