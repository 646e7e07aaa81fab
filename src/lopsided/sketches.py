"""How the untrained factor is drawn.

Notation: a sketch is a matrix S of shape (r, d), drawn for one link of one layer. Training B takes A = S
with d = d_in; training A takes B = Sᵀ with d = d_out. H = Sᵀ(SSᵀ)⁺S is the orthogonal projection onto the
rows of S, and λ_min(E[H]) is the number on which RAC-LoRA's convergence rates stand (Malinovsky et al. 2024).

A sketch is a pure function: the same (r, d, seed, link) give the same numbers on every machine, because
they are drawn by NumPy's `RandomState`, whose stream is frozen, and factored in float64.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from lopsided.errors import LopsidedError, nearest

SKETCHES: dict[str, type[Sketch]] = {}


def generator(seed: int, link: int, *stream: int) -> np.random.RandomState:
    """The frozen-stream generator of one link: a function of `seed` (64 bits), `link` and a sub-stream."""
    return np.random.RandomState([seed & 0xFFFFFFFF, (seed >> 32) & 0x7FFFFFFF, link, *stream])


def layer_seed(seed: int, module_name: str) -> int:
    """The seed of one layer, from the run's seed and the module's name, by a stable 63-bit hash.

    Wrappers' prefixes are taken off first, so that a compiled or data-parallel model draws what the plain
    one draws.

    Example:
        >>> layer_seed(0, "_orig_mod.encoder.query") == layer_seed(0, "encoder.query")
        True
    """
    wrappers = {"_orig_mod", "module", "_fsdp_wrapped_module"}
    name = ".".join(part for part in module_name.split(".") if part not in wrappers)
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def checksum(S: np.ndarray) -> float:
    """A number that a wrong sketch would not have: the mean square of S·v for one fixed v.

    Shapes:
        S: (r, d) -> scalar. Entry j of v is cos(j + 1), so that order and sign of the columns count.
    """
    v = np.cos(np.arange(1, S.shape[1] + 1, dtype=np.float64))
    weights = 1.0 + np.arange(S.shape[0], dtype=np.float64) / S.shape[0]
    return float(weights @ (S.astype(np.float64) @ v))


@dataclass(frozen=True)
class Sketch(abc.ABC):
    """A distribution over the untrained factor. Subclasses are final and define `draw`.

    A subclass registers itself under its class name, so that a saved configuration finds it again.

    Class attributes:
        random: whether the numbers depend on `seed`.
        stored: whether a saved adapter holds S itself. False only where every reader of the file can draw
            it again; a sketch defined outside the library keeps the default.
    """

    random: ClassVar[bool] = True
    stored: ClassVar[bool] = True
    reads_weight: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        SKETCHES[cls.__name__] = cls

    def sample(self, r: int, d: int, *, seed: int, link: int, weight: np.ndarray | None = None) -> np.ndarray:
        """Draw S for one link.

        Args:
            r: rank, the number of rows.
            d: the sketched width: d_in when B is trained, d_out when A is.
            seed: the layer's seed (see `layer_seed`).
            link: the link's number, from 0.
            weight: the layer's W0, turned so that its last axis is the sketched one. Only sketches that
                look at the weights read it.

        Shapes:
            -> (r, d), float32.

        Raises:
            LopsidedError: if `r` exceeds `d` or is not positive.
        """
        _check_rank(r, d)
        S = np.asarray(self.draw(r, d, seed=seed, link=link, weight=weight))
        if S.shape != (r, d):
            raise LopsidedError(
                f"sketch {type(self).__name__} drew shape {S.shape}, expected (r, d) = {(r, d)}; mend its draw()"
            )
        return np.ascontiguousarray(S, dtype=np.float32)

    @abc.abstractmethod
    def draw(self, r: int, d: int, *, seed: int, link: int, weight: np.ndarray | None) -> np.ndarray:
        """S of shape (r, d) in float64, for arguments that `sample` has checked."""

    def lambda_min(self, r: int, d: int) -> float | None:
        """λ_min(E[H]) over the draw of one link, or None where it is not known in closed form."""
        return None

    def parts(self) -> dict[str, Any]:
        """The sketch as plain data: its class name and its fields."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}


class Selector(Sketch):
    """A sketch whose rows are one-hot: S·x reads r entries of x. Subclasses define `choose`.

    A saved adapter holds the r indices, so it never needs the class that chose them.
    """

    stored: ClassVar[bool] = False

    def indices(self, r: int, d: int, *, seed: int, link: int) -> np.ndarray:
        """The r distinct columns that link `link` selects.

        Shapes:
            -> (r,), int64, each in [0, d).

        Raises:
            LopsidedError: if `r` exceeds `d` or is not positive.
        """
        _check_rank(r, d)
        chosen = np.asarray(self.choose(r, d, seed=seed, link=link), dtype=np.int64)
        if chosen.shape != (r,) or np.unique(chosen).size != r or chosen.min() < 0 or chosen.max() >= d:
            raise LopsidedError(
                f"selector {type(self).__name__} chose {chosen.tolist()}, expected r={r} distinct columns "
                f"below d={d}; mend its choose()"
            )
        return chosen

    @abc.abstractmethod
    def choose(self, r: int, d: int, *, seed: int, link: int) -> np.ndarray:
        """The r columns, for arguments that `indices` has checked."""

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: np.ndarray | None) -> np.ndarray:
        return one_hot(self.indices(r, d, seed=seed, link=link), d)


def one_hot(indices: np.ndarray, d: int) -> np.ndarray:
    """The selector of `indices` as a matrix: (r,) -> (r, d), one 1 a row."""
    S = np.zeros((len(indices), d), dtype=np.float32)
    S[np.arange(len(indices)), indices] = 1.0
    return S


@dataclass(frozen=True)
class Orthonormal(Sketch):
    """r orthonormal rows, uniform on the Stiefel manifold: S·Sᵀ = I.

    The QR factor of a Gaussian matrix with the signs of R's diagonal made positive. Plain gradient descent
    at step 1/L is stable with it, where an unnormalised Gaussian sketch diverges.

    Source:
        Zhu et al. 2024, arXiv:2402.16842 ("rand"); λ_min = r/d: Malinovsky et al. 2024, arXiv:2410.08305.

    Example:
        >>> S = Orthonormal().sample(2, 5, seed=0, link=0)
        >>> bool(np.allclose(S @ S.T, np.eye(2), atol=1e-6))
        True
    """

    stored: ClassVar[bool] = False

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: np.ndarray | None) -> np.ndarray:
        Q, R = np.linalg.qr(generator(seed, link).standard_normal((d, r)))
        return (Q * np.where(np.diag(R) < 0, -1.0, 1.0)).T

    def lambda_min(self, r: int, d: int) -> float:
        return r / d


@dataclass(frozen=True)
class Gaussian(Sketch):
    """Independent N(0, std²) entries.

    Args:
        std: standard deviation of an entry; None takes 1/√d, so that E[S·Sᵀ] = I. RAC-LoRA's digits
            experiment takes 1.0, with E[S·Sᵀ] = d·I.

    Source:
        Malinovsky et al. 2024, arXiv:2410.08305; Kratsios et al. 2025, arXiv:2506.14530.
    """

    stored: ClassVar[bool] = False
    std: float | None = None

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: np.ndarray | None) -> np.ndarray:
        std = d**-0.5 if self.std is None else self.std
        return generator(seed, link).standard_normal((r, d)) * std

    def lambda_min(self, r: int, d: int) -> float:
        return r / d


@dataclass(frozen=True)
class KaimingUniform(Sketch):
    """Independent entries, uniform on ±√(6 / ((1 + a²)·d)).

    Args:
        a: the negative slope of Kaiming's rule. √5, PEFT's and LoRA's own, gives ±1/√d and
            E[S·Sᵀ] = I/3.

    Source:
        LoRA: Hu et al. 2021, arXiv:2106.09685; "he" in Zhu et al. 2024, arXiv:2402.16842. λ_min = r/d
        because permuting and flipping the signs of columns leaves the distribution as it is.
    """

    stored: ClassVar[bool] = False
    a: float = 5**0.5

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: np.ndarray | None) -> np.ndarray:
        bound = (6.0 / ((1.0 + self.a**2) * d)) ** 0.5
        return generator(seed, link).uniform(-bound, bound, (r, d))

    def lambda_min(self, r: int, d: int) -> float:
        return r / d


@dataclass(frozen=True)
class Singular(Sketch):
    """Singular vectors of W0: right ones when B is trained, left ones when A is.

    Link k takes the k-th block of r vectors, from the largest singular values ("top") or the smallest
    ("last"), and begins again when they are used up. S is stored in the adapter's file, since the base
    that the adapter is loaded on may be rounded or quantized.

    Source:
        Zhu et al. 2024, arXiv:2402.16842 (V for A, U for B; top or last r).
    """

    random: ClassVar[bool] = False
    reads_weight: ClassVar[bool] = True
    which: Literal["top", "last"] = "top"

    def __post_init__(self) -> None:
        _check_choice("Singular.which", self.which, ("top", "last"))

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: np.ndarray | None) -> np.ndarray:
        if weight is None or weight.shape[-1] != d:
            got = None if weight is None else weight.shape
            raise LopsidedError(f"Singular needs the layer's weight of width d={d}, got {got}; pass weight=W0")
        # Full matrices: r may exceed the rank of a layer with few outputs.
        vectors = np.linalg.svd(weight.astype(np.float64), full_matrices=True)[2]
        order = np.arange(d) if self.which == "top" else np.arange(d)[::-1]
        return vectors[np.take(order, np.arange(link * r, (link + 1) * r), mode="wrap")]

    def lambda_min(self, r: int, d: int) -> float:
        return 1.0 if r == d else 0.0


@dataclass(frozen=True)
class Window(Selector):
    """Identity on a window of `r` neighbouring columns, wrapping around at `d`.

    Link `k` of a cyclic chain reads window `k`, so `ceil(d / r)` links cover every column.

    Args:
        order: "fixed" stays on window 0; "cyclic" walks left to right; "shuffled" walks a permutation of
            the windows, drawn from `seed`, and a new one after each full sweep.

    Shapes:
        sample(r, d) -> (r, d), one-hot rows: S @ S.T == I exactly.

    Raises:
        LopsidedError: if `r > d`.

    Source:
        cLA, c3LA and random-c3LA: Cadenhead et al. 2026, arXiv:2606.13767.

    Example:
        >>> Window("cyclic").indices(2, 5, seed=0, link=1)
        array([2, 3])
        >>> Window("cyclic").indices(2, 5, seed=0, link=2)
        array([4, 0])
    """

    random: ClassVar[bool] = True
    order: Literal["fixed", "cyclic", "shuffled"] = "fixed"

    def __post_init__(self) -> None:
        _check_choice("Window.order", self.order, ("fixed", "cyclic", "shuffled"))

    def choose(self, r: int, d: int, *, seed: int, link: int) -> np.ndarray:
        count = -(-d // r)
        if self.order == "fixed":
            window = 0
        elif self.order == "cyclic":
            window = link % count
        else:
            window = int(_permutation(count, seed, sweep=link // count)[link % count])
        return np.arange(window * r, (window + 1) * r) % d

    def lambda_min(self, r: int, d: int) -> float:
        """1/⌈d/r⌉ when windows are drawn; 0 for a known window, unless it is the whole width."""
        if self.order == "shuffled" or r == d:
            return 1.0 / -(-d // r)
        return 0.0


@dataclass(frozen=True)
class Columns(Selector):
    """`r` columns drawn without replacement, anew for each link.

    Source:
        random-cLA: Cadenhead et al. 2026, arXiv:2606.13767; PaCA: Woo et al. 2025, arXiv:2503.01905.

    Example:
        >>> Columns().indices(3, 8, seed=1, link=0)
        array([2, 3, 6])
    """

    def choose(self, r: int, d: int, *, seed: int, link: int) -> np.ndarray:
        # Sorted, so that the gather walks memory forwards.
        return np.sort(generator(seed, link).permutation(d)[:r])

    def lambda_min(self, r: int, d: int) -> float:
        return r / d


@dataclass(frozen=True)
class Stored(Sketch):
    """A sketch read from an adapter whose own class is not defined here: it can be used, not drawn again."""

    kind: str = ""
    fields: tuple[tuple[str, Any], ...] = ()

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: np.ndarray | None) -> np.ndarray:
        raise LopsidedError(
            f"sketch {self.kind!r} is not defined in this process, so link {link} can't be drawn; "
            "import the file that defines it, or use the adapter as it is"
        )

    def parts(self) -> dict[str, Any]:
        return {"kind": self.kind, **dict(self.fields)}


def sketch_from_parts(parts: dict[str, Any]) -> Sketch:
    """The sketch that `Sketch.parts` described; `Stored` if its class is not defined here.

    Raises:
        LopsidedError: if the class is known and the fields do not fit it.
    """
    fields = {key: value for key, value in parts.items() if key != "kind"}
    kind = parts["kind"]
    if kind not in SKETCHES:
        return Stored(kind=kind, fields=tuple(sorted(fields.items())))
    known = {field.name for field in dataclasses.fields(SKETCHES[kind])}
    if not set(fields) <= known:
        unknown = sorted(set(fields) - known)
        raise LopsidedError(f"sketch {kind} has fields {sorted(known)}, got {unknown}; upgrade lopsided")
    return SKETCHES[kind](**fields)


def sketch_named(name: str) -> Sketch:
    """A sketch by its class name, with its default fields.

    Raises:
        LopsidedError: if there is none of that name, listing the known ones.
    """
    known = sorted(set(SKETCHES) - {"Selector", "Stored"})
    if name not in known:
        raise LopsidedError(f"unknown sketch {name!r}; expected one of {', '.join(known)};{nearest(name, known)}")
    return SKETCHES[name]()


def _permutation(count: int, seed: int, *, sweep: int) -> np.ndarray:
    """The order of the windows in one sweep; never begins with the window that the last sweep ended on."""
    order = generator(seed, 0, 1).permutation(count)
    for number in range(1, sweep + 1):
        last = order[-1]
        order = generator(seed, number, 1).permutation(count)
        if count > 1 and order[0] == last:
            order = np.roll(order, -1)
    return order


def _check_rank(r: int, d: int) -> None:
    if not 0 < r <= d:
        raise LopsidedError(f"rank must lie between 1 and the sketched width: r={r}, d={d}; lower r")


def _check_choice(what: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise LopsidedError(f"{what} must be one of {', '.join(known)}, got {got!r};{nearest(got, known)}")
