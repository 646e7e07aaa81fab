import doctest
import math

import pytest

from lopsided import formatting
from lopsided.formatting import UNITS, duration, estimate_text
from lopsided.plotting import figure, gaps, words


@pytest.mark.parametrize("module", [figure, formatting, gaps, words])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("mean", "se", "unit", "text"),
    [
        (22713216, None, "count", "22,713,216"),
        (663552.0, 0.0, "count", "663,552"),
        (0.81, 0.012, "percent", "81.0 ± 1.2 %"),
        (1.0, 0.0, "percent", "100.0 ± 0.0 %"),
        (0.8125, 0.0003, "percent", "81.25 ± 0.03 %"),
        (-0.25, None, "score", "-0.250"),
        (0.0123, 0.00042, "loss", "0.0123 ± 0.0004"),
        (0.001, None, "loss", "0.001"),
        (0.0, None, "loss", "0.000"),
        (12.34, 0.1, "perplexity", "12.34 ± 0.10"),
        (104.6, 1.34, "ms", "104.6 ± 1.3"),
        (1023, None, "bytes", "1023 B"),
        (1024, None, "bytes", "1.0 KiB"),
        (2**20 - 1, None, "bytes", "1.0 MiB"),
        (3 * 2**30, 2**29, "bytes", "3.0 ± 0.5 GiB"),
    ],
)
def test_a_figure_in_its_unit(mean, se, unit, text):
    assert str(estimate_text(mean, se, unit)) == text


@pytest.mark.parametrize("unit", list(UNITS))
def test_what_is_not_finite_is_not_available(unit):
    for mean, se in ((None, None), (math.nan, 0.1), (-math.inf, None)):
        assert str(estimate_text(mean, se, unit)) == "–"
        assert str(estimate_text(mean, se, unit, lacks_error=True)) == "–"
    assert "± –" in str(estimate_text(0.5, math.nan, unit))
    assert "± –" in str(estimate_text(0.5, None, unit, lacks_error=True))


def test_an_unknown_unit_names_the_known_ones():
    with pytest.raises(ValueError, match=r"one of count, percent.*received 'furlong'"):
        estimate_text(1.0, None, "furlong")


def test_duration():
    assert [duration(s) for s in (9.94, 59.6, 60, 3599.9)] == ["9.9 s", "1 min 0 s", "1 min 0 s", "1 h 0 min"]
