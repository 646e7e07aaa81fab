"""Sketches that are drawn from the second moments of a layer's inputs. `sketch.py` holds the notation.

Notation: Σ = E[x·xᵀ] over the inputs x of a layer, d = d_in. Both sketches keep as much of E‖x‖² as they can in the r
numbers S·x: `Principal` with any orthonormal rows, `LargestColumns` with rows that are unit vectors. What a random S
of orthonormal rows keeps is r/d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from lopsided.errors import LopsidedError
from lopsided.method.input_moments import InputMoments, InputsRead
from lopsided.method.sketch import Matrix, Selector, Sketch, one_hot, unseen

# Wider matrices are not decomposed as a whole: Lanczos iterations take d² numbers each, a decomposition d³.
DENSE_WIDTH = 2048


@dataclass(frozen=True)
class Principal(Sketch):
    """The r leading eigenvectors of Σ, the largest first: orthonormal rows.

    Among all S of (r, d) with S·Sᵀ = I, it loses least of the inputs: E‖x − SᵀS·x‖² is smallest. S is stored in the
    adapter's file, since nothing but the data could give it again. The sign of a row makes its largest entry positive.

    Where both factors train, it is where A starts.

    Raises:
        LopsidedError: for fewer than r inputs, which leave directions open.

    Source:
        IPA: Yin et al. 2025, arXiv:2509.04398, with A frozen; EVA: Paischer et al. 2024, arXiv:2410.07170, with A
        trained. Both papers' code takes incremental principal components, from which a mean is subtracted, and EVA
        gives layers ranks of their own; here Σ is exact and not centred, and all layers have rank r.

    Example:
        >>> seen = InputMoments(rows=9, squares=np.array([1.0, 4.0]), products=np.diag([1.0, 4.0]))
        >>> Principal().sample(1, 2, seed=0, link=0, inputs=seen).tolist()
        [[0.0, 1.0]]
    """

    random: ClassVar[bool] = False
    reads_inputs: ClassVar[InputsRead] = "products"

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None) -> Matrix:
        """Raise: there are no eigenvectors without inputs."""
        raise unseen(self)

    def fit(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None, inputs: InputMoments) -> Matrix:
        """Return the r leading eigenvectors of Σ as rows."""
        if inputs.rows < r:
            raise LopsidedError(
                f"Principal takes r={r} directions of a layer's inputs, and has seen {inputs.rows}; expected at least "
                "r; calibrate with more rows, or lower r"
            )
        if inputs.diagonal:
            # Its eigenvectors are the axes.
            return one_hot(np.argsort(-inputs.squares, kind="stable")[:r], d)
        vectors = _leading(np.asarray(inputs.products, dtype=np.float64), r).T
        largest = np.abs(vectors).argmax(axis=1)
        return vectors * np.where(vectors[np.arange(r), largest] < 0, -1.0, 1.0)[:, None]

    def lambda_min(self, r: int, d: int) -> float:
        """Return 0, since the directions are known, unless they are all of them."""
        return 1.0 if r == d else 0.0


@dataclass(frozen=True)
class LargestColumns(Selector):
    """The r columns whose inputs are largest: those of the largest E[x_j²], in ascending order.

    Columns are scored by the norm of their inputs alone. Wanda scores a weight by |W_ij|·‖x_j‖, what the output loses
    without it. Here nothing is taken away: ΔW is added at the columns, its gradient there is Σ g·x_j whatever W0 holds,
    and the r columns of the largest norms keep the most of E‖x‖² that columns can.

    Source:
        Norms of inputs as a score of columns: Wanda, Sun et al. 2023, arXiv:2306.11695; a selector as A: Cadenhead et
        al. 2026, arXiv:2606.13767.

    Example:
        >>> seen = InputMoments(rows=9, squares=np.array([1.0, 4.0, 0.0, 9.0]))
        >>> LargestColumns().indices(2, 4, seed=0, link=0, inputs=seen)
        array([1, 3])
    """

    random: ClassVar[bool] = False
    reads_inputs: ClassVar[InputsRead] = "squares"

    def choose(self, r: int, d: int, *, seed: int, link: int) -> Matrix:
        """Raise: there are no norms without inputs."""
        raise unseen(self)

    def fit(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None, inputs: InputMoments) -> Matrix:
        """Return the one-hot rows of the r largest mean squares; of equal ones the first."""
        # A stable sort: equal columns, such as dead ones, are taken from left to right on every machine.
        return one_hot(np.sort(np.argsort(-inputs.squares, kind="stable")[:r]), d)

    def lambda_min(self, r: int, d: int) -> float:
        """Return 0, since the columns are known, unless they are all of them."""
        return 1.0 if r == d else 0.0


def _leading(products: Matrix, r: int) -> Matrix:
    """Return the r leading eigenvectors of a symmetric matrix as columns, the largest first: (d, d) -> (d, r)"""
    d = len(products)
    # Lanczos iterations need many more columns than vectors, and a start: with a fixed one, equal matrices give equal
    # vectors.
    if d <= DENSE_WIDTH or 4 * r > d:
        vectors: Matrix = scipy.linalg.eigh(products, subset_by_index=(d - r, d - 1))[1]
    else:
        start = np.random.RandomState(0).standard_normal(d)
        vectors = scipy.sparse.linalg.eigsh(products, k=r, which="LA", v0=start)[1]
    return vectors[:, ::-1]
