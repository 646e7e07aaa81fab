"""What a method is made of: which side trains, how the other factor is drawn, and when a new link starts.

method          `Method`, the table `METHODS`, the spaces of `NAMESPACES`, and `register`
side_contract   what a side is: `Side`, `AdapterSide` and `LinkSide`
trained         the sides: `B`, `A`, `Both`, `Coin`, `Whole`, `Head`, `Peft`
sketch          what a sketch is: `Sketch` and `Selector`
dense           sketches that are matrices: `Orthonormal`, `Gaussian`, `KaimingUniform`, `Singular`
selectors       sketches that select columns: `Window`, `Columns`
chain           `Chain`
"""

from lopsided.method.chain import Chain
from lopsided.method.dense import Gaussian, KaimingUniform, Orthonormal, Singular
from lopsided.method.method import METHODS, NAMESPACES, Method, method_from_parts, method_named, register
from lopsided.method.selectors import Columns, Window
from lopsided.method.side_contract import (
    LETTERS,
    SIDES,
    AdapterSide,
    FormName,
    LinkSide,
    Side,
    factor_shapes,
    side_named,
)
from lopsided.method.sketch import Selector, Sketch
from lopsided.method.trained import A, B, Both, Coin, Head, Peft, Whole, from_shared

__all__ = [
    "LETTERS",
    "METHODS",
    "NAMESPACES",
    "SIDES",
    "A",
    "AdapterSide",
    "B",
    "Both",
    "Chain",
    "Coin",
    "Columns",
    "FormName",
    "Gaussian",
    "Head",
    "KaimingUniform",
    "LinkSide",
    "Method",
    "Orthonormal",
    "Peft",
    "Selector",
    "Side",
    "Singular",
    "Sketch",
    "Whole",
    "Window",
    "factor_shapes",
    "from_shared",
    "method_from_parts",
    "method_named",
    "register",
    "side_named",
]
