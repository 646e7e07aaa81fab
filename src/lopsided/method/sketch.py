"""What a sketch is: a pure function that draws the untrained factor, and its registry.

Notation: a sketch is a matrix S of shape (r, d), drawn for one link of one layer. Training B takes A = S
with d = d_in; training A takes B = Sᵀ with d = d_out. H = Sᵀ(SSᵀ)⁺S is the orthogonal projection onto the
rows of S, and λ_min(E[H]) is the number on which RAC-LoRA's convergence rates stand (Malinovsky et al. 2024).

The same (r, d, seed, link) give the same numbers on every machine, because they are drawn by NumPy's
`RandomState`, whose stream is frozen, and factored in float64. A sketch that reads a layer's inputs is drawn once, from
their second moments, and kept with the adapter: see `lopsided.calibrate`.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lopsided.errors import LopsidedError, first_line, suggestion, unknown
from lopsided.method.input_moments import InputMoments, InputsRead

Matrix = npt.NDArray[Any]
SKETCHES: dict[str, type[Sketch]] = {}
# What a sketch of a user's own raises where it was written wrongly.
_MISTAKES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)


def generator(seed: int, link: int, *stream: int) -> np.random.RandomState:
    """Return the frozen-stream generator of one link: a function of `seed` (64 bits), `link` and a sub-stream."""
    return np.random.RandomState([seed & 0xFFFFFFFF, (seed >> 32) & 0x7FFFFFFF, link, *stream])


def layer_seed(seed: int, module_name: str) -> int:
    """Return the seed of one layer, from the run's seed and the module's name, by a stable 63-bit hash.

    Prefixes of wrappers are removed first, so that a compiled or data-parallel model draws the same sketch as the
    plain one.

    Example:
        >>> layer_seed(0, "_orig_mod.encoder.query") == layer_seed(0, "encoder.query")
        True
    """
    wrappers = {"_orig_mod", "module", "_fsdp_wrapped_module"}
    name = ".".join(part for part in module_name.split(".") if part not in wrappers)
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def checksum(S: Matrix) -> float:
    """Compute a number that a wrong sketch would not have: w·S·v for two fixed vectors w and v.

    Shapes:
        S: (r, d) -> scalar. Entry j of v is cos(j + 1) and entry i of w is 1 + i/r, so that the order and the
        sign of rows and columns count.
    """
    v = np.cos(np.arange(1, S.shape[1] + 1, dtype=np.float64))
    weights = 1.0 + np.arange(S.shape[0], dtype=np.float64) / S.shape[0]
    return float(weights @ (S.astype(np.float64) @ v))


@dataclass(frozen=True)
class Sketch(abc.ABC):
    """A distribution over the untrained factor. Subclasses are final and define `draw`, or, with `reads_inputs`, `fit`.

    A subclass registers itself under its class name, so that a saved configuration finds it again.

    Class attributes:
        random: whether the numbers depend on `seed`.
        stored: whether a saved adapter holds S itself. False only where every reader of the file can draw
            it again; a sketch defined outside the library keeps the default.
        reads_weight: whether `draw` reads W0.
        reads_inputs: what of the layer's inputs `fit` reads, which then takes the place of `draw`: "squares", the mean
            of each entry's square; "products", the matrix of second moments, too; or nothing. Such a sketch multiplies
            inputs, so that it fits sides that train B or both factors, and there is one draw for all links.
    """

    random: ClassVar[bool] = True
    stored: ClassVar[bool] = True
    reads_weight: ClassVar[bool] = False
    reads_inputs: ClassVar[InputsRead] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            raise LopsidedError(
                f"sketch {cls.__name__} defines __init__, so its arguments could not be saved; expected fields; "
                "decorate it with @dataclass(frozen=True) and declare them"
            )
        # A class may be defined again, as in a notebook's cell that runs twice, but not by another module.
        taken = SKETCHES.get(cls.__name__)
        if taken is not None and taken.__module__ != cls.__module__:
            raise LopsidedError(
                f"sketch name {cls.__name__} is taken by {taken.__module__}; expected a free one; rename the class"
            )
        SKETCHES[cls.__name__] = cls

    def sample(
        self,
        r: int,
        d: int,
        *,
        seed: int,
        link: int,
        weight: Matrix | None = None,
        inputs: InputMoments | None = None,
    ) -> Matrix:
        """Draw S for one link.

        Args:
            r: rank, the number of rows.
            d: the sketched width: d_in when B is trained, d_out when A is.
            seed: the layer's seed (see `layer_seed`).
            link: the link's number, from 0.
            weight: the layer's W0, turned so that its last axis is the sketched one. Only sketches with
                `reads_weight` read it.
            inputs: the second moments of the layer's inputs. Only sketches with `reads_inputs` read them.

        Shapes:
            -> (r, d), float32.

        Raises:
            LopsidedError: if `r` exceeds `d` or is not positive, or if moments are needed and missing.
        """
        check_rank(r, d)
        seen = self.checked_inputs(d, inputs) if self.reads_inputs else None
        try:
            if seen is not None:
                S = np.asarray(self.fit(r, d, seed=seed, link=link, weight=weight, inputs=seen))
            else:
                S = np.asarray(self.draw(r, d, seed=seed, link=link, weight=weight))
        except LopsidedError:
            raise
        except _MISTAKES as error:
            what = "fit" if seen is not None else "draw"
            raise LopsidedError(
                f"sketch {type(self).__name__}: {what}() failed ({type(error).__name__}: {first_line(error):.160}); "
                f"mend its {what}(), which gets r={r}, d={d}, seed={seed}, link={link} and weight"
            ) from error
        if S.shape != (r, d):
            raise LopsidedError(
                f"sketch {type(self).__name__} drew shape {S.shape}, expected (r, d) = {(r, d)}; mend its draw()"
            )
        return np.ascontiguousarray(S, dtype=np.float32)

    @abc.abstractmethod
    def draw(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None) -> Matrix:
        """Return S of shape (r, d) in float64, for arguments that `sample` has checked."""

    def fit(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None, inputs: InputMoments) -> Matrix:
        """Return S of (r, d) in float64 from the layer's inputs, for arguments that `sample` has checked.

        Raises:
            LopsidedError: if the sketch is drawn without them.
        """
        raise LopsidedError(f"sketch {type(self).__name__} reads no inputs; expected one that does; call draw()")

    def checked_inputs(self, d: int, inputs: InputMoments | None) -> InputMoments:
        """Return the moments of inputs of width d, with everything that the sketch reads.

        Raises:
            LopsidedError: if they are missing, or those of another width.
        """
        if inputs is None:
            raise unseen(self)
        if inputs.squares.shape != (d,) or (inputs.products is not None and inputs.products.shape != (d, d)):
            raise LopsidedError(
                f"sketch {type(self).__name__} was given moments of width {len(inputs.squares)}, expected d={d}; pass "
                "those of the layer's own inputs"
            )
        if self.reads_inputs == "products" and inputs.products is None and not inputs.diagonal:
            raise LopsidedError(
                f"sketch {type(self).__name__} reads the (d, d) matrix of second moments, got the squares alone; pass "
                "products="
            )
        return inputs

    def data_numbers(self, r: int, d: int) -> int:
        """Return how many of its numbers the training rows decide: none, unless it reads a layer's inputs."""
        return r * d if self.reads_inputs else 0

    def lambda_min(self, r: int, d: int) -> float | None:
        """Return λ_min(E[H]) over the draw of one link, or None where it is not known in closed form."""
        return None

    def parts(self) -> dict[str, Any]:
        """Return the sketch as plain data: its class name and its fields."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}


class Selector(Sketch):
    """A sketch whose rows are one-hot: S·x reads r entries of x. Subclasses define `choose`.

    One with `reads_inputs` returns such rows from `fit`, and its `choose` raises `unseen`.

    A saved adapter holds the r indices, so loading it never needs the class that chose them.
    """

    stored: ClassVar[bool] = False

    def indices(
        self,
        r: int,
        d: int,
        *,
        seed: int,
        link: int,
        weight: Matrix | None = None,
        inputs: InputMoments | None = None,
    ) -> Matrix:
        """Return the r distinct columns that one link selects.

        Args:
            weight, inputs: as for `sample`.

        Shapes:
            -> (r,), int64, each in [0, d).

        Raises:
            LopsidedError: as `sample` does.
        """
        check_rank(r, d)
        if self.reads_inputs:
            seen = self.checked_inputs(d, inputs)
            rows = np.asarray(self.fit(r, d, seed=seed, link=link, weight=weight, inputs=seen))
            columns: Matrix = rows.argmax(axis=1)
        else:
            columns = np.asarray(self.choose(r, d, seed=seed, link=link), dtype=np.int64)
        if columns.shape != (r,) or np.unique(columns).size != r or columns.min() < 0 or columns.max() >= d:
            raise LopsidedError(
                f"selector {type(self).__name__} chose {columns.tolist()}, expected r={r} distinct columns "
                f"below d={d}; mend its choose()"
            )
        return columns

    def data_numbers(self, r: int, d: int) -> int:
        """Return r, if it reads a layer's inputs: an index takes no more bits than a number."""
        return r if self.reads_inputs else 0

    @abc.abstractmethod
    def choose(self, r: int, d: int, *, seed: int, link: int) -> Matrix:
        """Return the r columns, for arguments that `indices` has checked."""

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None) -> Matrix:
        """Return the one-hot rows."""
        return one_hot(self.indices(r, d, seed=seed, link=link), d)


def unseen(sketch: Sketch) -> LopsidedError:
    """Return the error of a sketch that reads a layer's inputs, and has seen none."""
    return LopsidedError(
        f"sketch {type(sketch).__name__} is drawn from a layer's inputs, and has seen none; expected their second "
        "moments; call lopsided.calibrate(model, batches) once, before the adapter is used"
    )


def one_hot(indices: Matrix, d: int) -> Matrix:
    """Return the selector of `indices` as a matrix, with a single 1 per row: (r,) -> (r, d)."""
    S = np.zeros((len(indices), d), dtype=np.float32)
    S[np.arange(len(indices)), indices] = 1.0
    return S


@dataclass(frozen=True)
class Stored(Sketch):
    """A sketch read from an adapter whose own class is not defined here: it can be used, not drawn again.

    Args:
        kind: the name of its class.
        fields: (name, value) of each of its fields, by name.
    """

    kind: str = ""
    fields: tuple[tuple[str, Any], ...] = ()

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None) -> Matrix:
        """Raise: the class that draws it is unknown."""
        raise LopsidedError(
            f"sketch {self.kind!r} is not defined in this process, so link {link} can't be drawn; "
            "import the file that defines it, or use the adapter as it is"
        )

    def parts(self) -> dict[str, Any]:
        """Return the parts that it was read from."""
        return {"kind": self.kind, **dict(self.fields)}


def sketch_from_parts(parts: dict[str, Any]) -> Sketch:
    """Return the sketch that `Sketch.parts` described; `Stored` if its class is not defined here.

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
    """Return a sketch by its class name, with its default fields.

    Raises:
        LopsidedError: if there is none of that name, listing the known ones.
    """
    known = sorted(set(SKETCHES) - {"Selector", "Stored"})
    if name not in known:
        raise LopsidedError(unknown("sketch", name, known))
    return SKETCHES[name]()


def check_rank(r: int, d: int) -> None:
    """Raise unless the rank lies between 1 and the sketched width."""
    if not 0 < r <= d:
        raise LopsidedError(f"rank must lie between 1 and the sketched width: r={r}, d={d}; lower r")


def check_choice(what: str, got: str, known: tuple[str, ...]) -> None:
    """Raise unless a field has one of the values that it may have."""
    if got not in known:
        raise LopsidedError(f"{what} must be one of {', '.join(known)}, got {got!r}{suggestion(got, known)}")
