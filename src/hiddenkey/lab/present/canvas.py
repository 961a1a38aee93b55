"""How figures look, and how they become PNG and SVG; matplotlib's state machine is not touched."""

from __future__ import annotations

import dataclasses
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.lab.evidence.axes import Budget

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:
    Axes = Figure = Any

INK: Final = "#1b1d21"
"""Text, axes and the baseline; on the page it becomes the page's own text colour."""

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours for all kinds of colour vision, without their black and yellow."""

BASELINE_MARKERS: Final = ("s", "p", "h", "8")
MARKERS: Final = ("o", "^", "D", "v", "P", "X", "*")
DASHES: Final = ("-", "--", "-.", ":")
LINES: Final = 6
"""Most lines of one panel."""

ROW: Final = 0.42
"""Inches of a row that has its label above it."""

WIDTH: Final = 4.5
"""Width in inches: at 400 pixels the text is still as large as a page's small print."""

_SETTINGS: Final = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "svg.fonttype": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class Plot:
    """A figure that can be drawn.

    Attributes:
        kind: the section of the page it belongs to.
        title: what it shows.
        caption: how to read it.
        alt: its content in words.
        height: in inches.
        draw: puts it on an empty figure.
        budget: the scope it is of.
        task: label of its task; empty if it is of all.
        name: of its files; empty: the kind.
    """

    kind: str
    title: str
    caption: str
    alt: str
    height: float
    draw: Callable[[Figure], None]
    budget: Budget = "steps"
    task: str = ""
    name: str = ""


@dataclass(frozen=True)
class Style:
    """Colour, marker and line of one series."""

    colour: str
    marker: str
    dash: str


@dataclass(frozen=True)
class Palette:
    """Gives a method the same colour in all figures of a report.

    Attributes:
        methods: all of the report, in its order.
        baseline: the baseline's name; it is drawn in the colour of the text.
    """

    methods: tuple[str, ...]
    baseline: str

    def style(self, method: str, variant: int = 0) -> Style:
        """Return a method's style; ``variant`` is the number of its series in a figure, from 0."""
        if method == self.baseline:
            return Style(
                INK,
                BASELINE_MARKERS[variant % len(BASELINE_MARKERS)],
                DASHES[variant % len(DASHES)],
            )
        index = [name for name in self.methods if name != self.baseline].index(method)
        return Style(
            COLOURS[index % len(COLOURS)],
            MARKERS[(index + 2 * variant) % len(MARKERS)],
            DASHES[(index // len(COLOURS) + variant) % len(DASHES)],
        )

    def styles(self, series: Iterable[tuple[str, str]]) -> dict[str, Style]:
        """Return styles by label for (label, method) pairs; several series of a method differ."""
        found: dict[str, Style] = {}
        seen: Counter[str] = Counter()
        for label, method in series:
            found[label] = self.style(method, seen[method])
            seen[method] += 1
        return found


def name_plots(listed: Iterable[Plot]) -> list[Plot]:
    """Return figures under the names of their files, which no two share."""
    plots: dict[str, Plot] = {}
    for plot in listed:
        parts = [plot.name or plot.kind, plot.task, "time-matched" if plot.budget == "time" else ""]
        name = re.sub(r"[^a-z0-9]+", "_", " ".join(parts).lower()).strip("_")[:80]
        unique = next(u for u in chain([name], (f"{name}_{n}" for n in count(2))) if u not in plots)
        plots[unique] = dataclasses.replace(plot, name=unique)
    return list(plots.values())


def place(budget: Budget, task: str) -> str:
    """Return the beginning of a title: the task, and the budget where it is not the usual one."""
    return task if budget == "steps" else f"{task}, time-matched"


def render(plot: Plot) -> tuple[str, bytes]:
    """Return a plot as SVG text, on no background, and as PNG on white."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    svg, png = io.StringIO(), io.BytesIO()
    # the salt makes the ids of a figure the same in every report
    with rc_context({**_SETTINGS, "svg.hashsalt": plot.name}), warnings.catch_warnings():
        # an SVG names its characters, and whoever shows it has a font for them
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = Figure(figsize=(WIDTH, plot.height), layout="constrained")
        FigureCanvasAgg(figure)
        plot.draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(svg, format="svg", facecolor="none", metadata=nothing)
        figure.set_layout_engine(None)  # the layout is found, the second file need not search it
        figure.savefig(png, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def standalone(svg: str) -> str:
    """Return the SVG on white, so that it can be read on any background."""
    return re.sub(
        r"(<svg [^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1
    )


def inline(svg: str, name: str, label: str) -> str:
    """Return the SVG for a page: in its text colour, with ids of its own and a name for readers.

    Args:
        svg: what :func:`render` returned.
        name: prefix of all ids.
        label: the figure in words; must be escaped for an attribute.
    """
    body = svg[svg.index("<svg ") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # nothing refers to groups
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    body = body.replace(INK, "currentColor").replace("xlink:href", "href")
    for index, colour in enumerate(COLOURS):  # a page's style may lighten them on dark ground
        body = body.replace(colour, f"var(--series-{index}, {colour})")
    body = re.sub(r' (d|x|y|transform)="([^"]*)"', _rounded, body)
    view = re.search(r'viewBox="[^"]*"', body)
    head = f'<svg {view[0] if view else ""} role="img" aria-label="{label}" focusable="false">'
    return re.sub(r"\n\s*", "\n", re.sub(r"<svg [^>]*>", lambda _: head, body, count=1))


def _rounded(attribute: re.Match[str]) -> str:
    """Cut coordinates to hundredths of a point."""
    value = re.sub(r"(\.\d\d)\d+", r"\1", attribute[2])
    return f' {attribute[1]}="{value}"'
