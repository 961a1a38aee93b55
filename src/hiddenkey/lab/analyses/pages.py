"""What an analysis leaves in a folder: NAME.json, NAME.md and its pictures as SVG and PNG."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiddenkey.lab.present.canvas import Plot, name_plots
from hiddenkey.lab.present.files import writable, write_file, write_plot
from hiddenkey.lab.present.formats import escape_markdown


@dataclass(frozen=True)
class Section:
    """A part of the Markdown.

    Attributes:
        blocks: Markdown, one paragraph, list or table each.
        plots: pictures that follow it.
    """

    blocks: tuple[str, ...]
    plots: tuple[Plot, ...] = ()


def write_analysis(
    folder: Path, name: str, values: Mapping[str, Any], title: str, sections: Sequence[Section]
) -> Path:
    """Write an analysis and return the path of its Markdown; each file appears whole.

    Args:
        folder: where to; made if it is not there.
        name: of the files.
        values: plain values, all that was found.
        title: heading of the Markdown.
        sections: its parts.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    with writable(folder):
        text = json.dumps(values, allow_nan=False, indent=1, ensure_ascii=False)
        write_file(folder / f"{name}.json", (text + "\n").encode())
        named = iter(name_plots(plot for section in sections for plot in section.plots))
        blocks = [f"# {escape_markdown(title)}"]
        for section in sections:
            blocks += section.blocks
            blocks += [_picture(folder, next(named)) for _ in section.plots]
        path = folder / f"{name}.md"
        write_file(path, ("\n\n".join(block.strip() for block in blocks) + "\n").encode())
    return path


def paragraphs(sentences: Iterable[str]) -> tuple[str, ...]:
    """Return plain sentences as Markdown, a paragraph each."""
    return tuple(escape_markdown(sentence) for sentence in sentences if sentence)


def _picture(folder: Path, plot: Plot) -> str:
    write_plot(plot, folder)
    alt = escape_markdown(plot.alt)
    return f"![{alt}]({plot.name}.svg)\n\n*{escape_markdown(f'{plot.title}. {plot.caption}')}*"
