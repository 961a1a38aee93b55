"""What HTML pages are made with: Jinja's templates, the shared style, and figures as markup."""

from __future__ import annotations

import base64
import hashlib
import html
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.lab.present.canvas import Plot, inline
from hiddenkey.lab.present.entries import Grid

if TYPE_CHECKING:
    from jinja2 import Template

_SHARED: Final = "hiddenkey.lab.present"
"""The package whose templates, style and script all pages build on."""


@dataclass(frozen=True)
class Picture:
    """A plot that has been drawn.

    Attributes:
        plot: the plot.
        drawn: its SVG, as :func:`~hiddenkey.lab.present.canvas.render` returned it.
    """

    plot: Plot
    drawn: str

    @property
    def svg(self) -> str:
        """The SVG as part of a page, named for readers who do not see it."""
        label = html.escape(f"{self.plot.title}. {self.plot.alt}", quote=True)
        return inline(self.drawn, self.plot.name, label)


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        id: its anchor on an HTML page.
        title: its heading there.
        words: paragraphs at its beginning.
        grids: tables that stand open.
        folded: tables that open on a press.
        pictures: its figures.
    """

    id: str = ""
    title: str = ""
    words: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    folded: tuple[Grid, ...] = ()
    pictures: tuple[Picture, ...] = ()


def render_page(
    template: str, package: str = _SHARED, *, style: str = "", script: str = "", **values: Any
) -> str:
    """Return a page as HTML text: style, script and figures inside, and no network.

    Args:
        template: name of a file in the package's folder ``templates``; it extends ``base.html``.
        package: whose folder that is.
        style: rules beyond those that all pages share.
        script: the one script that may run.
        values: what else the template reads.
    """
    return (
        _template(template, package).render(
            style=read_asset("page.css") + style,
            script=script,
            script_hash=_hash(script) if script else "",
            **values,
        )
        + "\n"
    )


def read_asset(name: str, package: str = _SHARED) -> str:
    """Return a style or script that stands beside a package's templates."""
    return (resources.files(package) / "templates" / name).read_text("utf-8")


def _template(name: str, package: str) -> Template:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_SHARED)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
