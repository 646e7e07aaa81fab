"""Formulas as MathML, which browsers draw themselves: no script and no font has to be fetched.

The converter is docutils' own. Sphinx's other ways are MathJax, a script of some megabytes, and pictures, which
need TeX.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

log = logging.getLogger(__name__)
# Environments that stand alone in LaTeX; docutils knows the one that stands inside of a formula.
ALONE = re.compile(r"\\(begin|end)\{(?:align|gather|equation)\*?\}")


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
        MathError: for what docutils cannot convert.
    """
    return str(tex2mathml(ALONE.sub(r"\\\1{aligned}", formula), as_block=block))


def _inline(writer: Any, node: nodes.Element) -> None:
    writer.body.append(_converted(node, block=False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<div class="math-block">{_converted(node, block=True)}</div>')
    raise nodes.SkipNode


def _converted(node: nodes.Element, *, block: bool) -> str:
    formula = node.astext()
    try:
        return mathml(formula, block=block)
    except MathError as error:
        log.warning("the formula %r cannot be converted: %s; write it in simpler LaTeX", formula, error, location=node)
        return ""
