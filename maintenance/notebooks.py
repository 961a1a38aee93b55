"""Write each tutorial of docs/tutorials as a notebook beside its page.

The pages are the source: Python blocks become code cells, ``sh`` blocks become cells that a shell
runs, all else is text. A notebook holds no outputs. Its cells are numbered, so that a change of
the page changes no other line of the notebook.

    python maintenance/notebooks.py
"""

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
HEAD = """\
---
jupyter:
  kernelspec:
    display_name: Python 3
    language: python
    name: python3
---

"""


def pages() -> list[Path]:
    """Return the tutorials, without the page that lists them."""
    return sorted(path for path in FOLDER.glob("*.md") if path.stem != "index")


def link(page: Path) -> str:
    """Return the page's line that leads to its notebook, which the notebook leaves out."""
    return f"[This page as a notebook]({page.stem}.ipynb)\n\n"


def notebook(page: Path) -> str:
    """Return the text of a page's notebook."""
    text = page.read_text(encoding="utf-8").replace(link(page), "")
    made = jupytext.reads(HEAD + text, fmt="md")
    for number, cell in enumerate(made.cells, start=1):
        cell["id"] = f"{page.stem}-{number}"
    made.metadata.pop("jupytext")
    made.metadata["language_info"] = {"name": "python"}
    nbformat.validate(made)
    return str(nbformat.writes(made)) + "\n"


def main() -> None:
    """Write all notebooks."""
    for page in pages():
        page.with_suffix(".ipynb").write_text(notebook(page), encoding="utf-8")


if __name__ == "__main__":
    main()
