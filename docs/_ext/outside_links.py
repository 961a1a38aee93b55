"""Links of a page to files outside of docs, which the site does not have: their text is kept.

Read in a checkout, the same links lead to the files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def keep_text(app: Any, name: str, source: list[str]) -> None:
    """Replace links that leave the folder of the site, in what Sphinx is about to read."""
    root, page = Path(app.srcdir), Path(app.env.doc2path(name))

    def replaced(link: re.Match[str]) -> str:
        target = (page.parent / link[2]).resolve()
        stays = target.is_relative_to(root) and not target.is_dir()
        return link[0] if stays else link[1]

    source[0] = LINK.sub(replaced, source[0])


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx call this extension."""
    app.connect("source-read", keep_text)
    return {"parallel_read_safe": True}
