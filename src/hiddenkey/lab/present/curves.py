"""Figures of curves over training steps: panels above each other, a line per configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hiddenkey.lab.evidence.axes import RunConfiguration
from hiddenkey.lab.evidence.curves import Curve, Part
from hiddenkey.lab.present.canvas import INK, Figure, Style
from hiddenkey.lab.present.drawing import add_legend, draw_dots, draw_line, legend_height
from hiddenkey.lab.present.words import number


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        label: at its ordinate; may have two lines.
        name: the metric, or ``loss``.
        part: on which examples.
        beside: another curve in pale dots, such as that of the training examples.
        zero: a line at 0.
        inches: its height.
    """

    label: str
    name: str
    part: Part
    beside: tuple[str, Part] | None = None
    zero: bool = False
    inches: float = 1.45


@dataclass(frozen=True)
class CurveFigure:
    """What a figure of curves shows.

    Attributes:
        configurations: whose curves, each a line.
        panels: from top to bottom.
        curves: where the panels find theirs; others are left out.
        styles: by the configurations' labels.
        dotted: what pale dots are, in the legend; empty if there are none.
    """

    configurations: Sequence[RunConfiguration]
    panels: Sequence[Panel]
    curves: Sequence[Curve]
    styles: Mapping[str, Style]
    dotted: str = ""

    @property
    def height(self) -> float:
        """Inches, with the legend."""
        labels = [
            *(configuration.label for configuration in self.configurations),
            *([self.dotted] if self.dotted else []),
        ]
        return sum(panel.inches for panel in self.panels) + 0.3 + legend_height(labels)

    @property
    def alt(self) -> str:
        """The ends of all curves in words."""
        parts = []
        for configuration in self.configurations:
            ends = [
                f"{panel.label.replace(chr(10), ' ')} {number(curve.points[-1].spread.mean)}"
                for panel in self.panels
                if (curve := self._find(configuration, panel.name, panel.part)) is not None
            ]
            parts.append(f"{configuration.label} ends at {', '.join(ends)}")
        return f"Curves over the steps. {'; '.join(parts)}."

    def draw(self, figure: Figure) -> None:
        """Put the panels on an empty figure."""
        ratios = [panel.inches for panel in self.panels]
        grid = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)
        axes_of = [row[0] for row in grid]
        for axes, panel in zip(axes_of, self.panels, strict=True):
            for configuration in self.configurations:
                style = self.styles[configuration.label]
                if panel.beside and (beside := self._find(configuration, *panel.beside)):
                    draw_dots(axes, *_means(beside), style)
                if curve := self._find(configuration, panel.name, panel.part):
                    reach = [
                        (point.spread.mean, point.spread.deviation or 0) for point in curve.points
                    ]
                    band = [(mean - one, mean + one) for mean, one in reach]
                    draw_line(axes, *_means(curve), style, configuration.label, band)
            if panel.zero:
                axes.axhline(0, color=INK, linewidth=0.8)
            axes.set(ylabel=panel.label)
        if self.dotted:
            axes_of[0].plot([], [], color=INK, linestyle=":", linewidth=1.2, label=self.dotted)
        axes_of[-1].set(xlabel="step")
        figure.align_ylabels(axes_of)
        add_legend(figure, axes_of[0])

    def _find(self, configuration: RunConfiguration, name: str, part: Part) -> Curve | None:
        found = (
            c
            for c in self.curves
            if (c.configuration, c.name, c.part) == (configuration, name, part)
        )
        return next(found, None)


def _means(curve: Curve) -> tuple[list[float], list[float]]:
    """Steps and means."""
    return [point.step for point in curve.points], [point.spread.mean for point in curve.points]
