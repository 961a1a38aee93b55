"""Equations as MathML, which browsers draw themselves: the site needs no network to be read."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

_log = logging.getLogger(__name__)
_OTHER_NAMES = {r"\dots": r"\ldots"}


def drawn(node: nodes.Element, *, as_block: bool) -> str:
    """Return an equation as MathML, or with a warning as it was written."""
    text = node.astext()
    for name, known in _OTHER_NAMES.items():
        text = text.replace(name, known)
    try:
        return str(tex2mathml(text, as_block=as_block))
    except MathError as error:
        _log.warning("equation cannot be drawn: %s", error, location=node)
        return f"<code>{node.astext()}</code>"


def inline(writer: Any, node: nodes.math) -> None:
    """Write an equation within a line."""
    writer.body.append(drawn(node, as_block=False))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    """Write an equation of its own."""
    writer.body.append(f'<div class="math">{drawn(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx know the renderer, which ``html_math_renderer`` names."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True}
