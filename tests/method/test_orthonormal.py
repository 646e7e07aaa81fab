"""The quick way to an orthonormal sketch, and the slow one."""

from __future__ import annotations

import numpy as np
import pytest

from lopsided import Orthonormal
from lopsided.method.sketch import generator


@pytest.mark.parametrize(("r", "d"), [(1, 4), (2, 8), (4, 16), (16, 64), (16, 768), (64, 256), (64, 1024)])
def test_the_cholesky_factor_gives_what_the_qr_factor_gives(r, d):
    for seed in range(40 if d < 256 else 4):
        Q, R = np.linalg.qr(generator(seed, 3).standard_normal((d, r)))
        slow = (Q * np.sign(np.diag(R))).T
        fast = Orthonormal().draw(r, d, seed=seed, link=3, weight=None)
        assert np.abs(fast - slow).max() < 1e-13
        assert np.abs(fast @ fast.T - np.eye(r)).max() < 1e-13


@pytest.mark.parametrize(("r", "d"), [(1, 1), (3, 4), (16, 16), (64, 65), (5, 19)])
def test_a_sketch_that_is_nearly_square_is_orthonormal_too(r, d):
    for seed in range(40):
        S = Orthonormal().draw(r, d, seed=seed, link=0, weight=None)
        assert np.abs(S @ S.T - np.eye(r)).max() < 1e-13
