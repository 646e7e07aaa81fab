"""What a method is made of: which side trains, how the other factor is drawn, and when a new link starts.

method          `Method`, the table `METHODS`, the spaces of `NAMESPACES`, and `register`
side_contract   what a side is: `Side`, `AdapterSide` and `LinkSide`
trained         the sides: `B`, `A`, `Both`, `Coin`, `Whole`, `Head`, `Peft`
sketch          what a sketch is: `Sketch` and `Selector`
dense           sketches that are matrices: `Orthonormal`, `Gaussian`, `UnitRows`, `KaimingUniform`, `Singular`
selectors       sketches that select columns: `Window`, `RandomWindow`, `Columns`
input_moments   `InputMoments`: the second moments of a layer's inputs
from_inputs     sketches that are drawn from these: `Principal`, `LargestColumns`
chain           `Chain`
variants        `varied`: a method that is another one but for some parts, as plain data
profiles        what released code does under a method's name: `in_profile`
"""

from lopsided.method.chain import Chain
from lopsided.method.dense import Gaussian, KaimingUniform, Orthonormal, Singular, UnitRows
from lopsided.method.from_inputs import LargestColumns, Principal
from lopsided.method.input_moments import InputMoments
from lopsided.method.method import METHODS, NAMESPACES, Method, method_from_parts, method_named, register
from lopsided.method.profiles import PROFILES, in_profile
from lopsided.method.selectors import Columns, RandomWindow, Window
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
from lopsided.method.variants import varied

__all__ = [
    "LETTERS",
    "METHODS",
    "NAMESPACES",
    "PROFILES",
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
    "InputMoments",
    "KaimingUniform",
    "LargestColumns",
    "LinkSide",
    "Method",
    "Orthonormal",
    "Peft",
    "Principal",
    "RandomWindow",
    "Selector",
    "Side",
    "Singular",
    "Sketch",
    "UnitRows",
    "Whole",
    "Window",
    "factor_shapes",
    "from_shared",
    "in_profile",
    "method_from_parts",
    "method_named",
    "register",
    "side_named",
    "varied",
]
