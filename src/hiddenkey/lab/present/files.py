"""Files of an output folder: each appears whole, and a folder that cannot be written is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hiddenkey.errors import ConfigError
from hiddenkey.lab.present.canvas import Plot, render, standalone


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Make a folder to write to, and say plainly when it or a file in it cannot be written.

    Raises:
        ConfigError: if the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"output must be a folder that can be written, got {str(folder)!r} ({reason}); free"
            " space, change its permissions or name another with --output"
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that nobody reads half of it; its folder is made."""
    path.parent.mkdir(exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(content)
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def write_plot(plot: Plot, folder: Path) -> str:
    """Draw a plot, write it as SVG and PNG under its name, and return the SVG for a page."""
    svg, png = render(plot)
    write_file(folder / f"{plot.name}.svg", standalone(svg).encode())
    write_file(folder / f"{plot.name}.png", png)
    return svg
