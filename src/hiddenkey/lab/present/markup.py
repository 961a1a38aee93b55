"""What the pages are made with: Jinja's templates, files to put inside, and figures."""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from hiddenkey.lab.present.canvas import Plot, inline

if TYPE_CHECKING:
    from jinja2 import Template

_SHARED: Final = "hiddenkey.lab.report"
"""The package whose templates all pages build on."""


@dataclass(frozen=True)
class Picture:
    """A plot and its SVG."""

    plot: Plot
    svg: str


@dataclass(frozen=True)
class Figure:
    """A picture on the page.

    Attributes:
        name: id on the page, and name of its files.
        title: heading.
        caption: how to read it.
        svg: markup.
    """

    name: str
    title: str
    caption: str
    svg: str

    @classmethod
    def of(cls, picture: Picture) -> Figure:
        """Make a picture part of a page."""
        plot = picture.plot
        label = html.escape(f"{plot.title}. {plot.alt}", quote=True)
        return cls(plot.name, plot.title, plot.caption, inline(picture.svg, plot.name, label))


def load_template(name: str, package: str = _SHARED) -> Template:
    """Return a page's template, which may build on those of the report.

    Args:
        name: of its file.
        package: whose folder ``templates`` holds it.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_SHARED)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def read_asset(name: str, package: str = _SHARED) -> str:
    """Return a style or script that stands beside the templates."""
    return (resources.files(package) / "templates" / name).read_text("utf-8")
