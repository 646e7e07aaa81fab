"""Similarity of column spaces."""

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from lopsided.theory import basis, similarity


def test_similarity_is_the_mean_squared_cosine_of_the_principal_angles():
    draw = np.random.RandomState(0)
    for r, q in [(3, 3), (2, 5)]:
        X, Y = draw.standard_normal((20, r)), draw.standard_normal((20, q))
        assert similarity(basis(X), basis(Y)) == pytest.approx(np.mean(np.cos(subspace_angles(X, Y)) ** 2))


def test_equal_spaces_give_one_and_orthogonal_ones_nothing():
    draw = np.random.RandomState(1)
    X = draw.standard_normal((20, 4))
    assert similarity(basis(X), basis(X @ draw.standard_normal((4, 4)))) == pytest.approx(1.0)
    assert similarity(basis(np.eye(20)[:, :4]), basis(np.eye(20)[:, 4:8])) == 0.0


def test_the_basis_has_the_factors_rank():
    X = np.random.RandomState(2).standard_normal((20, 2))
    Q = basis(np.hstack([X, X]))
    assert Q.shape == (20, 2)
    np.testing.assert_allclose(Q.T @ Q, np.eye(2), atol=1e-12)
