"""Formulas as MathML, which browsers draw themselves: no script and no font has to be fetched.

The converter is docutils' own. Sphinx's other ways are MathJax, a script of some megabytes, and pictures, which need TeX.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import SphinxError


def setup(app: Any) -> dict[str, Any]:
    """Register the renderer with Sphinx, as `mathml`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathml(formula: str, *, block: bool) -> str:
    """Return a formula as MathML.

    Args:
        formula: LaTeX, as far as docutils knows it.
        block: whether it stands in a line of its own.

    Raises:
        SphinxError: for what docutils cannot convert.
    """
    try:
        return str(tex2mathml(formula, as_block=block))
    except MathError as error:
        raise SphinxError(f"the formula {formula!r} cannot be converted: {error}; write it in simpler LaTeX") from error


def _inline(writer: Any, node: nodes.Element) -> None:
    writer.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<div class="math-block">{mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode
